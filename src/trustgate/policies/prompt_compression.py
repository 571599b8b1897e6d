"""TEMP"""

from __future__ import annotations

from trustgate.policies.plugin import REQUEST_BODY, Binding, Plugin
from trustgate.policies.prompt_compression_settings import PREFIX, Settings, check


class PromptCompression:
    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        pass


PLUGIN = Plugin(
    slug="prompt_compression",
    name="Prompt Compression",
    description="Loss-free shrinking of prompt text (JSON, terminal escapes, white space).",
    group="Prompt Management",
    supported=("pre_request",),
    capabilities=frozenset((REQUEST_BODY,)),
    settings=Settings,
    check=check,
    build=PromptCompression,
    error_prefix=PREFIX,
)
