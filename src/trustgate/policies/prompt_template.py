"""TEMP"""

from __future__ import annotations

from trustgate.policies.plugin import REQUEST_BODY, Binding, Plugin
from trustgate.policies.prompt_template_settings import Settings, check


class PromptTemplate:
    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        pass


PLUGIN = Plugin(
    slug="prompt_template",
    name="Prompt Template",
    description="Adds system prompts built from request context and expands named templates that clients refer to.",
    group="Prompt Management",
    mandatory=("pre_request",),
    supported=("pre_request",),
    capabilities=frozenset((REQUEST_BODY,)),
    settings=Settings,
    check=check,
    build=PromptTemplate,
)
