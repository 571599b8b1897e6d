"""TEMP"""

from __future__ import annotations

from trustgate.policies.plugin import REQUEST_BODY, RESPONSE_BODY, Binding, Plugin
from trustgate.policies.trustguard_settings import Settings, check


class TrustGuard:
    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        pass


PLUGIN = Plugin(
    slug="trustguard",
    name="TrustGuard",
    description="Prompt, answer and tool-traffic evaluation by the TrustGuard service: block, report or mask.",
    group="Guardrails",
    mandatory=("pre_request", "pre_response", "post_response"),
    supported=("pre_request", "pre_response", "post_response"),
    protocols=("LLM", "MCP"),
    capabilities=frozenset((REQUEST_BODY, RESPONSE_BODY)),
    settings=Settings,
    check=check,
    build=TrustGuard,
)
