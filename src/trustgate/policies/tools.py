"""The tools a request offers: reading, replacing and removing them in the client's dialect (spec 04 §13, graft).

Entries that are kept are forwarded as the client wrote them, so members nobody models survive. Built-in tools without
a function (web search and the like) are not on offer here and stay.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.formats import json as fj
from trustgate.formats.errors import DecodeError
from trustgate.policies.dialects import ANTHROPIC, CHAT_FORMATS, COHERE, GOOGLE, OPENAI, RESPONSES, format_of
from trustgate.policies.model import PolicyRequest

EMPTY_SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}


class Tool(msgspec.Struct, frozen=True, eq=False):
    """A function tool; `entry` is the client's own JSON of it, None for one the gateway made."""

    name: str
    description: str = ""
    parameters: Any = None
    entry: Any = None


class _Body(msgspec.Struct):
    tools: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Body).decode


def offered_tools(request: PolicyRequest) -> list[Tool] | None:
    """The function tools in their order; None when the body is not a chat request of a known dialect."""
    format_ = format_of(request)
    if format_ not in CHAT_FORMATS or not request.provider:
        return None
    try:
        tools = fj.decode_with(_decode, request.body).tools
        entries = _entries(fj.tree(tools)) if tools else []
    except DecodeError:
        return None
    return [tool for entry in entries for tool in _read(format_, entry)]


def with_tools(request: PolicyRequest, tools: list[Tool]) -> bytes:
    """The body with its function tools replaced by `tools`; the choice of a tool is removed when none is left."""
    format_ = format_of(request)
    tree = fj.object_tree(request.body)
    if not tools:
        return without_tools_field(request)
    kept = [entry for entry in _entries(tree.get("tools")) if not _read(format_, entry)]
    if format_ == GOOGLE:
        declarations = [_write(format_, tool) for tool in tools]
        return fj.set_members(request.body, {"tools": [*kept, {"functionDeclarations": declarations}]})
    return fj.set_members(request.body, {"tools": [_write(format_, tool) for tool in tools] + kept})


def without_tools_field(request: PolicyRequest, *, empty: bool = False) -> bytes:
    """The body without tools and whatever chooses among them; `empty` leaves an empty `tools`."""
    format_ = format_of(request)
    body = fj.remove_members(request.body, ("tool_choice", "parallel_tool_calls", "toolConfig", "tool_config"))
    kept = [entry for entry in _entries(fj.object_tree(body).get("tools")) if not _read(format_, entry)]
    if kept or empty:
        return fj.set_members(body, {"tools": kept})
    return fj.remove_members(body, ("tools",))


def _entries(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _read(format_: str, entry: dict[str, Any]) -> list[Tool]:
    if format_ == GOOGLE:
        found = entry.get("functionDeclarations", entry.get("function_declarations"))
        return [_tool(declaration, declaration, "parameters") for declaration in _entries(found)]
    if format_ in (OPENAI, COHERE):
        function = entry.get("function")
        return [_tool(function, entry, "parameters")] if isinstance(function, dict) else []
    if format_ == ANTHROPIC:
        custom = entry.get("type") in (None, "custom") and isinstance(entry.get("name"), str)
        return [_tool(entry, entry, "input_schema")] if custom else []
    return [_tool(entry, entry, "parameters")] if entry.get("type") == "function" else []


def _tool(function: dict[str, Any], entry: Any, schema: str) -> Tool:
    name, description = function.get("name"), function.get("description")
    return Tool(
        name if isinstance(name, str) else "",
        description if isinstance(description, str) else "",
        function.get(schema),
        entry,
    )


def _write(format_: str, tool: Tool) -> Any:
    if tool.entry is not None:
        return tool.entry
    schema = tool.parameters or EMPTY_SCHEMA
    named: dict[str, Any] = {"name": tool.name}
    if tool.description:
        named["description"] = tool.description
    if format_ == ANTHROPIC:
        return named | {"input_schema": schema}
    if format_ == GOOGLE:
        return named | {"parameters": schema}
    if format_ == RESPONSES:
        return {"type": "function"} | named | {"parameters": schema}
    return {"type": "function", "function": named | {"parameters": schema}}
