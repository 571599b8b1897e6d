"""The tools of a request, for policies: list them, drop some, add some, in the client's own JSON.

What a policy does not change stays as the client wrote it. Implements topic "graft" of the policy contract.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from . import json
from .canonical import Request, Tool
from .codecs import CODECS

_CHOICES = ("tool_choice", "parallel_tool_calls", "toolConfig", "tool_config")


def tools_of(format: str, body: bytes) -> list[Tool]:
    """The tools on offer that have a name. Raises `DecodeError`."""
    return CODECS[format].decode_request(body).tools


def tool_names(format: str, body: bytes) -> list[str]:
    """Their names, in order. Raises `DecodeError`."""
    return [tool.name for tool in tools_of(format, body)]


def keep_tools(format: str, body: bytes, keep: Callable[[str], bool]) -> bytes:
    """The request with only the tools whose names are kept; entries without a name (server tools) stay.

    The same bytes when all are kept. Raises `DecodeError`.
    """
    names = tool_names(format, body)
    if all(keep(name) for name in names):
        return body
    raw = json.members(body).get("tools")
    entries: list[Any] = [] if raw is None else json.tree(raw)
    kept = [entry for entry in (_kept(each, keep) for each in entries) if entry is not None]
    return json.set_members(body, {"tools": kept})


def _kept(entry: Any, keep: Callable[[str], bool]) -> Any:
    if not isinstance(entry, dict):
        return entry
    fields = cast("dict[str, Any]", entry)
    for key in ("functionDeclarations", "function_declarations"):
        declared = fields.get(key)
        if isinstance(declared, list):
            fields[key] = [tool for tool in cast("list[Any]", declared) if keep(_name(tool))]
            if not fields[key]:
                del fields[key]
            return fields or None
    name = _name(fields)
    return fields if not name or keep(name) else None


def _name(entry: Any) -> str:
    if not isinstance(entry, dict):
        return ""
    fields = cast("dict[str, Any]", entry)
    for inner in (fields.get("function"), fields.get("custom"), fields):
        name = cast("dict[str, Any]", inner).get("name") if isinstance(inner, dict) else None
        if isinstance(name, str):
            return name
    return ""


def strip_tools(body: bytes, leave_empty: bool = False) -> bytes:
    """The request without tools and the members that only make sense with them; optionally with `tools: []`."""
    stripped = json.remove_members(body, _CHOICES if leave_empty else ("tools", *_CHOICES))
    return json.set_members(stripped, {"tools": []}) if leave_empty else stripped


def graft(format: str, body: bytes, edit: Callable[[Request], None]) -> bytes:
    """The client's JSON with the members that `edit` changes in the canonical model, in the client's format.

    The request is encoded before and after the edit; top-level members that differ are replaced, removed or added,
    all others stay as they were. Raises `DecodeError`.
    """
    codec = CODECS[format]
    before = json.members(codec.encode_request(codec.decode_request(body)))
    request = codec.decode_request(body)
    edit(request)
    after = json.members(codec.encode_request(request))
    fields = json.members(body)
    changes: dict[str, object] = {}
    for name, value in after.items():
        if name not in before or bytes(before[name]) != bytes(value):
            changes[name] = value
    gone = [name for name in before if name not in after and name in fields]
    if not changes and not gone:
        return body
    edited: dict[str, object] = {name: raw for name, raw in fields.items() if name not in gone}
    return json.compact(json.encode(edited | changes))


def put_tools(format: str, body: bytes, tools: list[Tool]) -> bytes:
    """The request with these tools added, or put in place of those of the same name; other entries stay.

    A tool without a schema gets the empty object schema. Raises `DecodeError`.
    """
    if format in ("google", "vertex"):
        return graft(format, body, lambda request: _merge(request.tools, tools))
    present = tool_names(format, body)
    raw = json.members(body).get("tools")
    entries: list[Any] = [] if raw is None or json.is_null(raw) else json.tree(raw)
    encoded: list[Any] = json.tree(json.members(CODECS[format].encode_request(Request(tools=tools)))["tools"])
    for tool, entry in zip(tools, encoded, strict=True):
        _default_schema(entry)
        if tool.name in present:
            entries = [entry if _name(old) == tool.name else old for old in entries]
        else:
            entries.append(entry)
            present.append(tool.name)
    return json.set_members(body, {"tools": entries})


def _default_schema(entry: dict[str, Any]) -> None:
    target = entry.get("function", entry)
    if "input_schema" not in target and "parameters" not in target and entry.get("type") != "custom":
        target["parameters"] = {"type": "object", "properties": {}}


def _merge(existing: list[Tool], tools: list[Tool]) -> None:
    for tool in tools:
        places = [position for position, old in enumerate(existing) if old.name == tool.name]
        for position in places:
            existing[position] = tool
        if not places:
            existing.append(tool)
