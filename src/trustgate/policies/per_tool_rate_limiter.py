"""TEMP"""

from __future__ import annotations

from trustgate.policies.per_tool_rate_limiter_settings import Settings, check, refuse
from trustgate.policies.plugin import REQUEST_BODY, RESPONSE_BODY, Binding, Plugin


class ToolQuota:
    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        pass


PLUGIN = Plugin(
    slug="per_tool_rate_limiter",
    name="Per-Tool Rate Limiter",
    description="Fixed-window call quotas per tool name, for executed tool calls in chat traffic and for MCP tool calls.",
    group="Traffic Control",
    mandatory=("pre_request", "pre_response"),
    supported=("pre_request", "pre_response"),
    modes=("enforce",),
    protocols=("LLM", "MCP"),
    capabilities=frozenset((REQUEST_BODY, RESPONSE_BODY)),
    settings=Settings,
    check=check,
    build=ToolQuota,
    refuse=refuse,
)
