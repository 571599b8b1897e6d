"""Corrections of a request body after translation: what providers insist on and clients leave out.

Pure functions on the bytes of a request: the body comes back unchanged (the same object) when nothing had to be
corrected. Implements topic "normalisation" of the provider contract and the forcing of stream flags.
"""

from __future__ import annotations

import hashlib
from typing import Any, cast

import msgspec
from msgspec import Raw, Struct

from . import json
from .errors import DecodeError

STREAM_FLAG_WIRES = frozenset(
    {"openai", "azure", "groq", "deepseek", "xai", "openrouter", "openai_responses", "anthropic", "mistral", "cohere"},
)
USAGE_FLAG_WIRES = frozenset({"openai", "azure", "groq", "deepseek", "xai", "openrouter"})
_LARGE = 4096
"""Bytes from which parsing the members that matter costs less than searching the text for their names."""
_OPENAI_TARGETS = frozenset({"openai", "azure", "deepseek", "xai", "openrouter", "groq"})


def _empty_schema() -> dict[str, Any]:
    return {"type": "object", "properties": {}}


def normalise(wire: str, body: bytes) -> bytes:
    """What every request to an OpenAI-shaped upstream gets; other dialects and unreadable bodies stay as they are."""
    if wire not in _OPENAI_TARGETS:
        return body
    try:
        if len(body) > _LARGE and wire != "groq" and _is_complete(body):
            return body
        if body.find(b"tool") < 0 and not (wire == "groq" and b"function=" in body) and body.find(b"\\u") < 0:
            return body
        request = _needs_correction(wire, body)
    except DecodeError:
        return body
    if request is None:
        return body
    changed = _complete_calls(request) | _complete_schemas(request)
    if wire == "groq":
        changed |= _for_groq(request)
    return json.encode(request) if changed else body


class _GlanceFunction(Struct):
    parameters: Raw = Raw()


class _GlanceTool(Struct):
    function: _GlanceFunction | None = None


class _GlanceCall(Struct):
    type: str | None = None


class _GlanceMessage(Struct):
    tool_calls: list[_GlanceCall] | None = None


class _Glance(Struct):
    """Just enough of a request to see that nothing has to be corrected."""

    messages: list[_GlanceMessage] | None = None
    tools: list[_GlanceTool] | None = None


_decode_glance = msgspec.json.Decoder(_Glance).decode


def _nothing_missing(request: _Glance) -> bool:
    for message in request.messages or ():
        for call in message.tool_calls or ():
            if not call.type:
                return False
    for tool in request.tools or ():
        if tool.function is None:
            continue
        schema = bytes(tool.function.parameters)
        if schema in (b"null", b'""') or not schema[1:-1].strip():
            return False
    return True


def _is_complete(body: bytes) -> bool:
    """Whether a glance shows that nothing is missing. Members of unusual types are left to the tree."""
    try:
        return _nothing_missing(json.decode_with(_decode_glance, body))
    except DecodeError:
        return False


def _needs_correction(wire: str, body: bytes) -> dict[str, Any] | None:
    """The request as a tree, None when a glance shows that it is complete. Raises `DecodeError`."""
    return None if wire != "groq" and _is_complete(body) else json.object_tree(body)


def openai_shaped(wire: str, body: bytes) -> bytes:
    """A chat completion body of a client, adapted to an OpenAI-shaped dialect that is not quite the client's own.

    Members that nobody models stay; messages are brought into the plain shape that every such provider takes.
    """
    request = json.object_tree(body)
    _plain_messages(request)
    if isinstance(request.get("stop"), str):
        request["stop"] = [request["stop"]]
    limit = request.pop("max_completion_tokens", None)
    if limit:
        request["max_tokens"] = limit
    _complete_calls(request)
    _complete_schemas(request)
    if wire == "groq":
        _for_groq(request)
    elif wire == "mistral":
        _for_mistral(request)
    return json.encode(request)


def _plain_messages(request: dict[str, Any]) -> None:
    """Texts as strings, one leading system message; what has media or extra members stays as it is."""
    system: list[str] = []
    rest: list[Any] = []
    for message in _dicts(request.get("messages")):
        content = message.get("content")
        if content is None:
            message["content"] = content = ""
        elif not isinstance(content, str | list):
            message["content"] = content = json.text(content)
        parts = _dicts(content)
        if parts and all(part.keys() <= {"type", "text"} and "text" in part for part in parts):
            message["content"] = content = "\n".join(str(part["text"]) for part in parts if part["text"])
        if message.get("role") in ("system", "developer"):
            if isinstance(content, str) and message.keys() <= {"role", "content"}:
                system += [content] if content else []
                continue
            message["role"] = "system"
        rest.append(message)
    if system:
        rest.insert(0, {"role": "system", "content": "\n".join(system)})
    request["messages"] = rest


def _dicts(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        return []
    return [cast("dict[str, Any]", entry) for entry in cast("list[Any]", value) if isinstance(entry, dict)]


def _complete_calls(request: dict[str, Any]) -> bool:
    changed = False
    for message in _dicts(request.get("messages")):
        for call in _dicts(message.get("tool_calls")):
            if call.get("type") in (None, ""):
                call["type"] = "function"
                changed = True
    return changed


def _complete_schemas(request: dict[str, Any]) -> bool:
    changed = False
    for tool in _dicts(request.get("tools")):
        function = tool.get("function")
        if isinstance(function, dict):
            parameters = cast("dict[str, Any]", function).get("parameters")
            if parameters is None or parameters == "" or parameters == {}:
                function["parameters"] = _empty_schema()
                changed = True
    return changed


def _for_groq(request: dict[str, Any]) -> bool:
    """Types of tools, no parallel calls unless asked for, no assistant turns with Llama's raw call syntax."""
    changed = False
    for tool in _dicts(request.get("tools")):
        if tool.get("type") in (None, ""):
            tool["type"] = "function"
            changed = True
    if request.get("tools") is not None and "parallel_tool_calls" not in request:
        request["parallel_tool_calls"] = False
        changed = True
    messages = request.get("messages")
    if isinstance(messages, list):
        kept = [message for message in cast("list[Any]", messages) if not _raw_call_syntax(message)]
        if len(kept) != len(cast("list[Any]", messages)):
            request["messages"] = kept
            changed = True
    return changed


def _raw_call_syntax(message: Any) -> bool:
    if not isinstance(message, dict):
        return False
    fields = cast("dict[str, Any]", message)
    content = fields.get("content")
    return (
        fields.get("role") == "assistant"
        and isinstance(content, str)
        and "<function=" in content
        and not fields.get("tool_calls")
    )


def mistral_id(call_id: str) -> str:
    """The id as Mistral accepts it: nine letters or digits, else the start of its SHA-256."""
    if len(call_id) == 9 and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def _for_mistral(request: dict[str, Any]) -> None:
    """Nine-character call ids (the same replacement for the same id), and Mistral's own name for the seed."""
    for message in _dicts(request.get("messages")):
        for owner, name in [(message, "tool_call_id")] + [(call, "id") for call in _dicts(message.get("tool_calls"))]:
            call_id = owner.get(name)
            if isinstance(call_id, str) and call_id:
                owner[name] = mistral_id(call_id)
    seed = request.pop("seed", None)
    if seed is not None:
        request["random_seed"] = seed
    request.pop("stream_options", None)


def force_stream(wire: str, body: bytes) -> bytes:
    """The body of a streamed call: `stream` true where the dialect has the flag, usage asked for where it can be.

    Number literals and member order are kept. An unreadable body stays as it is.
    """
    if wire not in STREAM_FLAG_WIRES:
        return body
    try:
        fields = json.members(body)
        changes: dict[str, Any] = {}
        if bytes(fields.get("stream", b"")) != b"true":
            changes["stream"] = True
        if wire in USAGE_FLAG_WIRES:
            raw = fields.get("stream_options")
            if raw is None or bytes(raw) != b'{"include_usage":true}':
                options: Any = None if raw is None else json.tree(raw)
                kept = cast("dict[str, Any]", options) if isinstance(options, dict) else {}
                changes["stream_options"] = kept | {"include_usage": True}
        return json.set_members(body, changes) if changes else json.compact(body)
    except DecodeError:
        return body
