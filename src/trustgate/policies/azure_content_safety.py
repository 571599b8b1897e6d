"""TEMP"""

from __future__ import annotations

from trustgate.policies.azure_content_safety_settings import Settings, check
from trustgate.policies.plugin import Binding, Plugin


class AzureContentSafety:
    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        pass


PLUGIN = Plugin(
    slug="azure_content_safety",
    name="Azure Content Safety",
    description="Prompt screening by the Azure AI text analysis API, by severity per harm category.",
    group="Guardrails",
    mandatory=("pre_request",),
    supported=("pre_request",),
    settings=Settings,
    check=check,
    build=AzureContentSafety,
    inspects=True,
    secrets=(("api_key",),),
)
