"""Policy `tool_allowlist`: which tools a request may offer (spec 04 §14.7). Hidden from the catalog."""

from __future__ import annotations

from typing import Annotated

import msgspec

from trustgate.policies.durations import quote
from trustgate.policies.globs import PatternError, tool_pattern
from trustgate.policies.model import JSON_HEADERS, Effect, Mark, PolicyRequest, Run, stop
from trustgate.policies.plugin import REQUEST_BODY, Binding, Environment, Plugin
from trustgate.policies.settings import SettingsError, options, setting
from trustgate.policies.tools import Tool, offered_tools, with_tools, without_tools_field

ON_EMPTY = ("reject", "pass_through_empty", "strip_tools_field")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    allow_tools: Annotated[
        tuple[str, ...],
        setting("Allow Tools", "Patterns of tools to keep; none means all.", item=setting("Tool", key="tool")),
    ] = ()
    deny_tools: Annotated[
        tuple[str, ...],
        setting("Deny Tools", "Patterns of tools to remove; wins over allow.", item=setting("Tool", key="tool")),
    ] = ()
    on_empty_after_filter: Annotated[
        str,
        setting("On Empty After Filter", "When no tool is left.", shown="reject", options=options(*ON_EMPTY)),
    ] = ""
    scope: Annotated[
        str, setting("Scope", "Note for operators; has no effect.", options=options("consumer", "global"))
    ] = ""


def check(settings: Settings, environment: Environment | None = None) -> None:
    prefix = "tool_allowlist: "
    patterns = (*settings.allow_tools, *settings.deny_tools)
    if not patterns:
        raise SettingsError(prefix + "at least one of allow_tools or deny_tools must be provided")
    for pattern in patterns:
        if not pattern.strip():
            raise SettingsError(prefix + "tool patterns must not be blank")
        try:
            tool_pattern(pattern)
        except PatternError as error:
            raise SettingsError(f"{prefix}invalid tool pattern {quote(pattern)}: {error}") from None
    if settings.on_empty_after_filter and settings.on_empty_after_filter not in ON_EMPTY:
        raise SettingsError(f"{prefix}on_empty_after_filter must be one of {', '.join(ON_EMPTY)}")
    if settings.scope not in ("", "consumer", "global"):
        raise SettingsError(prefix + "scope must be one of consumer, global")


class ToolAllowlist:
    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        check(settings)
        self._allow = tuple(tool_pattern(pattern) for pattern in settings.allow_tools)
        self._deny = tuple(tool_pattern(pattern) for pattern in settings.deny_tools)
        self._on_empty = settings.on_empty_after_filter or "reject"
        self._blocking = binding.blocking
        self._label = binding.label

    def _keeps(self, name: str) -> bool:
        if self._allow and not any(matches(name) for matches in self._allow):
            return False
        return not any(matches(name) for matches in self._deny)

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        tools = offered_tools(request)
        if not tools:
            return None
        kept = [tool for tool in tools if self._keeps(tool.name)]
        action, effect = "skipped", None
        if not self._blocking:
            mark.decision = "observe"
        elif len(kept) < len(tools):
            action, effect = self._filter(request, tools, kept)
        mark.extras = {
            "provider": request.provider,
            "tools_requested": [tool.name for tool in tools],
            "tools_allowed": [tool.name for tool in kept],
            "tools_removed": [tool.name for tool in tools if not self._keeps(tool.name)],
            "action": action,
            **({} if kept or effect is None else {"on_empty": self._on_empty}),
            "decision": self._label,
        }
        return effect

    def _filter(self, request: PolicyRequest, tools: list[Tool], kept: list[Tool]) -> tuple[str, Effect]:
        """The action's name, and what it does."""
        if kept:
            return "stripped", Effect(body=with_tools(request, kept))
        if self._on_empty == "reject":
            error = {"type": "no_tools_allowed", "requested": [tool.name for tool in tools], "allowed_after_filter": []}
            return "rejected", stop(403, msgspec.json.encode({"error": error}), list(JSON_HEADERS))
        if self._on_empty == "strip_tools_field":
            return "stripped", Effect(body=without_tools_field(request))
        return "pass_through", Effect(body=without_tools_field(request, empty=True))


PLUGIN = Plugin(
    slug="tool_allowlist",
    name="Tool Allowlist",
    description="Tools a request may offer, by pattern.",
    group="Tool Governance",
    mandatory=("pre_request",),
    supported=("pre_request",),
    capabilities=frozenset((REQUEST_BODY,)),
    hidden=True,
    settings=Settings,
    check=check,
    build=ToolAllowlist,
)
