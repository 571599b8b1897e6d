"""TEMP"""

from __future__ import annotations

from trustgate.policies.openai_moderation_settings import Settings, check
from trustgate.policies.plugin import Binding, Plugin


class OpenAIModeration:
    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        pass


PLUGIN = Plugin(
    slug="openai_moderation",
    name="OpenAI Moderation",
    description="Prompt and answer screening by the OpenAI moderation endpoint.",
    group="Guardrails",
    mandatory=("pre_request",),
    supported=("pre_request", "pre_response"),
    settings=Settings,
    check=check,
    build=OpenAIModeration,
    inspects=True,
    secrets=(("api_key",),),
)
