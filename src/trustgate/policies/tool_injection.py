"""Policy `tool_injection`: tools that the gateway adds to every request (spec 04 §14.8)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from trustgate.policies.durations import quote
from trustgate.policies.model import Effect, Mark, PolicyRequest, Run, reject
from trustgate.policies.plugin import REQUEST_BODY, Binding, Environment, Plugin
from trustgate.policies.settings import SettingsError, options, setting
from trustgate.policies.tools import Tool, offered_tools, with_tools


class Function(msgspec.Struct, frozen=True, kw_only=True):
    name: Annotated[str, setting("Name", "Tool name.", required=True)] = ""
    description: Annotated[str, setting("Description", "Text for the model.")] = ""
    parameters: Annotated[dict[str, Any] | None, setting("Parameters", "JSON Schema of the arguments.")] = None


class InjectedTool(msgspec.Struct, frozen=True, kw_only=True):
    type: Annotated[str, setting("Type", "Kind of tool.", shown="function", options=options("function"))] = ""
    function: Annotated[Function, setting("Function", "Definition.")] = Function()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    inject_tools: Annotated[
        tuple[InjectedTool, ...],
        setting("Inject Tools", "Tools to add.", required=True, item=setting("Tool Entry", key="inject")),
    ] = ()
    on_conflict: Annotated[
        str,
        setting(
            "On Conflict",
            "When a tool of that name is already there.",
            shown="gateway_wins",
            options=options("gateway_wins", "client_wins", "reject"),
        ),
    ] = ""
    scope: Annotated[
        str, setting("Scope", "Note for operators; has no effect.", options=options("consumer", "global"))
    ] = ""


def check(settings: Settings, environment: Environment | None = None) -> None:
    prefix = "tool_injection: "
    if not settings.inject_tools:
        raise SettingsError(prefix + "inject_tools must contain at least one tool")
    for index, tool in enumerate(settings.inject_tools):
        if tool.type not in ("", "function"):
            raise SettingsError(f'{prefix}inject_tools[{index}]: type must be "function"')
        if not tool.function.name.strip():
            raise SettingsError(f"{prefix}inject_tools[{index}]: function.name must not be empty")
    if settings.on_conflict not in ("", "gateway_wins", "client_wins", "reject"):
        raise SettingsError(prefix + "on_conflict must be one of gateway_wins, client_wins, reject")
    if settings.scope not in ("", "consumer", "global"):
        raise SettingsError(prefix + "scope must be one of consumer, global")


class ToolInjection:
    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        check(settings)
        self._tools = tuple(
            Tool(name=tool.function.name, description=tool.function.description, parameters=tool.function.parameters)
            for tool in settings.inject_tools
        )
        self._on_conflict = settings.on_conflict or "gateway_wins"

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        offered = offered_tools(request)
        if offered is None:
            return None
        tools: list[Tool] = list(offered)
        injected: list[dict[str, str]] = []
        for tool in self._tools:
            at = next((index for index, other in enumerate(tools) if other.name == tool.name), -1)
            if at < 0:
                tools.append(tool)
                outcome = "appended"
            elif self._on_conflict == "reject":
                mark.extras = {"stage": mark.stage, "rejected": True, "rejected_name": tool.name}
                message = f"tool name {quote(tool.name)} is reserved by the gateway"
                return reject(400, message, body={"error": {"name": tool.name, "type": "tool_name_reserved"}})
            elif self._on_conflict == "client_wins":
                outcome = "dropped"
            else:
                tools[at] = tool
                outcome = "replaced"
            injected.append({"name": tool.name, "outcome": outcome})
        mark.extras = {"stage": mark.stage, "injected": injected}
        if all(entry["outcome"] == "dropped" for entry in injected):
            return None
        return Effect(body=with_tools(request, tools))


PLUGIN = Plugin(
    slug="tool_injection",
    name="Tool Injection",
    description="Adds gateway-defined function tools to every request.",
    group="Tool Governance",
    mandatory=("pre_request",),
    supported=("pre_request",),
    modes=("enforce",),
    capabilities=frozenset((REQUEST_BODY,)),
    settings=Settings,
    check=check,
    build=ToolInjection,
)
