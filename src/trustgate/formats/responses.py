"""OpenAI Responses: requests, bytes to canonical model and back (answers and events: `responses_answer.py`).

Implements topic "OpenAI Responses codec" of the provider contract. One bad input item never costs the others.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from . import canonical as c
from . import content, json, known
from .errors import DecodeError


class _Item(Struct):
    type: str | None = None
    role: str | None = None
    content: Raw = Raw()
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: Raw = Raw()
    text: str | None = None


class _Tool(Struct):
    type: str | None = None
    name: str | None = None
    description: str | None = None
    parameters: Raw = Raw()
    format: Raw = Raw()
    strict: bool | None = None


class _Format(Struct):
    type: str | None = None
    name: str | None = None
    description: str | None = None
    schema: Raw = Raw()
    strict: bool | None = None


class _Text(Struct):
    format: _Format | None = None
    verbosity: str | None = None


class _Reasoning(Struct):
    effort: str | None = None
    summary: str | None = None


class _NamedChoice(Struct):
    type: str | None = None
    name: str | None = None


class _Request(Struct):
    model: str | None = None
    input: Raw = Raw()
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: Raw = Raw()
    top_p: Raw = Raw()
    stream: bool | None = None
    text: _Text | None = None
    tools: list[_Tool] | None = None
    tool_choice: Raw = Raw()
    parallel_tool_calls: Raw = Raw()
    reasoning: Raw = Raw()
    user: Raw = Raw()
    metadata: Raw = Raw()


_TEXTS = ("type", "role", "id", "call_id", "name", "arguments", "input", "text")
_decode_request = msgspec.json.Decoder(_Request).decode
_decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_item = msgspec.json.Decoder(_Item).decode
_decode_string = msgspec.json.Decoder(str).decode
_decode_choice = msgspec.json.Decoder(_NamedChoice).decode


def decode_request(body: bytes) -> c.Request:
    """A Responses request; items that nobody models are noted and left out."""
    wire = json.decode_with(_decode_request, body)
    request = c.Request(
        model=wire.model or "",
        system=wire.instructions or "",
        max_tokens=wire.max_output_tokens or 0,
        temperature=json.number(wire.temperature),
        top_p=json.number(wire.top_p),
        stream=bool(wire.stream),
        metadata=None if json.is_null(wire.metadata) else wire.metadata,
        untranslated=known.responses.unknown(body),
    )
    _decode_input(wire.input, request)
    _decode_text(wire.text, request)
    _decode_options(wire, request)
    for tool in wire.tools or []:
        if tool.type not in (None, "function", "custom") or not tool.name:
            content.note(request, f"tools[{tool.type or ''}]")
            continue
        schema = None if json.is_null(tool.parameters) else tool.parameters
        kind = "custom" if tool.type == "custom" else ""
        own = tool.format if kind and not json.is_null(tool.format) else None
        request.tools.append(c.Tool(tool.name, tool.description or "", schema, kind, own, tool.strict))
    request.tool_choice = _tool_choice(wire.tool_choice, request)
    return request


def _decode_options(wire: _Request, request: c.Request) -> None:
    request.parallel_tool_calls = content.optional(request, "parallel_tool_calls", wire.parallel_tool_calls, bool)
    request.user = content.optional(request, "user", wire.user, str) or ""
    reasoning = content.optional(request, "reasoning", wire.reasoning, _Reasoning)
    if reasoning is not None and reasoning.effort:
        request.reasoning = c.ReasoningRequest(effort=reasoning.effort)
    if reasoning is not None and reasoning.summary:
        content.note(request, "reasoning.summary")


def _decode_text(text: _Text | None, request: c.Request) -> None:
    if text is None:
        return
    if text.verbosity:
        content.note(request, "text.verbosity")
    wanted = text.format
    if wanted is not None and wanted.type:
        schema = None if json.is_null(wanted.schema) else wanted.schema
        request.response_format = c.ResponseFormat(
            wanted.type, schema, wanted.name or "", wanted.description or "", wanted.strict
        )


def _tool_choice(raw: Raw, request: c.Request) -> c.ToolChoice | None:
    literal = bytes(raw)
    if literal[:1] == b'"':
        return c.ToolChoice(json.decode_with(_decode_string, literal))
    if literal[:1] == b"{":
        choice = json.decode_with(_decode_choice, literal)
        if choice.name:
            return c.ToolChoice("tool", choice.name)
    if not json.is_null(raw):
        content.note(request, "tool_choice")
    return None


def _decode_input(raw: Raw, request: c.Request) -> None:
    literal = bytes(raw)
    if literal[:1] == b'"':
        request.messages.append(c.Message("user", json.decode_with(_decode_string, literal)))
        return
    if json.is_null(raw):
        return
    for item in json.decode_with(_decode_items, literal):
        try:
            _decode_entry(_typed(item, request), request)
        except (msgspec.DecodeError, UnicodeError, RecursionError, DecodeError):
            content.note(request, "input[]")


def _typed(raw: Raw, request: c.Request) -> _Item:
    """An input item; members of odd types are noted and left out, but arguments may be an object.

    Raises `DecodeError` when the member that ties a call to its result is one of them.
    """
    try:
        return _decode_item(raw)
    except msgspec.ValidationError:
        members = json.members(bytes(raw))
    item = _Item(content=members.get("content", Raw()), output=members.get("output", Raw()))
    arguments = bytes(members.get("arguments", Raw()))
    if arguments[:1] == b"{":
        members["arguments"] = Raw(json.encode(json.raw_text(arguments)))
    odd: list[str] = []
    for name in _TEXTS:
        raw = members.get(name, Raw())
        value = content.optional(None, "", raw, str)
        setattr(item, name, value)
        if value is None and not json.is_null(raw):
            odd.append(name)
    if "call_id" in odd or "type" in odd:
        raise DecodeError("a member of the item has another type")
    for name in odd:
        content.note(request, f"input[].{name}")
    return item


def _decode_entry(item: _Item, request: c.Request) -> None:
    if item.type in ("function_call", "custom_tool_call"):
        custom = item.type == "custom_tool_call"
        arguments = (item.input if custom else item.arguments) or ""
        call = c.ToolCall(item.call_id or item.id or "", item.name or "", arguments, "custom" if custom else "")
        _assistant(request).tool_calls.append(call)
    elif item.type in ("function_call_output", "custom_tool_call_output"):
        text, parts = content.openai_content(item.output, request)
        request.messages.append(c.Message("tool", text, parts, tool_call_id=item.call_id or ""))
    elif item.role in ("system", "developer"):
        text, parts = content.openai_content(item.content, request)
        content.note_system(request, parts)
        request.system = "\n".join(part for part in (request.system, text) if part)
    elif item.role:
        text, parts = content.openai_content(item.content, request)
        request.messages.append(c.Message(item.role, text, parts))
    elif item.type == "input_text":
        request.messages.append(c.Message("user", item.text or ""))
    else:
        content.note(request, f"input[{item.type or ''}]")


def _assistant(request: c.Request) -> c.Message:
    """The assistant turn that consecutive call items belong to."""
    if not request.messages or request.messages[-1].role != "assistant":
        request.messages.append(c.Message("assistant"))
    return request.messages[-1]


def encode_request(request: c.Request) -> bytes:
    """The Responses request. A single user text is a plain string, everything else an array of items."""
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    body["input"] = _encode_input(request)
    if request.system:
        body["instructions"] = request.system
    if request.max_tokens > 0:
        body["max_output_tokens"] = request.max_tokens
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.stream:
        body["stream"] = True
    if request.response_format is not None:
        body["text"] = {"format": _encode_format(request.response_format)}
    if request.tools:
        body["tools"] = [_encode_tool(tool) for tool in request.tools]
    choice = request.tool_choice
    if choice is not None and choice.type:
        if choice.type == "tool":
            kind = "custom" if content.is_custom(choice.name, request.tools) else "function"
            body["tool_choice"] = {"type": kind, "name": choice.name}
        else:
            body["tool_choice"] = "required" if choice.type == "any" else choice.type
    if request.parallel_tool_calls is not None and request.tools:
        body["parallel_tool_calls"] = request.parallel_tool_calls
    effort = content.effort_of(request.reasoning)
    if effort:
        body["reasoning"] = {"effort": effort}
    content.note_reasoning(request, effort)
    if request.user:
        body["user"] = request.user
    _note_lost(request)
    return json.encode(body)


def _note_lost(request: c.Request) -> None:
    for name in ("stop", "top_k", "seed", "presence_penalty", "frequency_penalty", "metadata"):
        if getattr(request, name) not in (None, []):
            content.note(request, name)
    if request.n is not None and request.n > 1:
        content.note(request, "n")
    content.note_signatures(request)


def _encode_input(request: c.Request) -> Any:
    messages = request.messages
    if len(messages) == 1 and messages[0].role == "user" and not messages[0].tool_calls and messages[0].parts is None:
        return messages[0].text
    unused = _name_calls(messages)
    items: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "tool":
            call_id = message.tool_call_id
            if not call_id and unused:
                call_id = unused.pop(0)
            elif call_id in unused:
                unused.remove(call_id)
            output: Any = content.tool_text(message)
            if message.parts is not None:
                output = _encode_parts(message.parts, request, "user")
            items.append({"type": "function_call_output", "call_id": call_id, "output": output})
            continue
        if message.thinking:
            content.note(request, "thinking")
        if message.parts is not None:
            items.append({"role": message.role, "content": _encode_parts(message.parts, request, message.role)})
        elif message.text or not message.tool_calls:
            items.append({"role": message.role, "content": message.text})
        items += [_encode_call(call) for call in message.tool_calls]
    return items


def _name_calls(messages: list[c.Message]) -> list[str]:
    """Gives calls without an id one, and returns all call ids in order."""
    ids: list[str] = []
    for message in messages:
        for call in message.tool_calls:
            if not call.id:
                call.id = f"call_{call.name}_{len(ids)}"
            ids.append(call.id)
    return ids


def _encode_call(call: c.ToolCall) -> dict[str, Any]:
    item_id = call.id if call.id.startswith("fc_") else "fc_" + call.id
    return {
        "type": "function_call",
        "id": item_id,
        "call_id": call.id,
        "name": call.name or call.id,
        "arguments": call.arguments or "{}",
        "status": "completed",
    }


def _encode_parts(parts: list[c.Part], request: c.Request, role: str) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, c.Text):
            result.append({"type": "output_text" if role == "assistant" else "input_text", "text": part.text})
        elif isinstance(part, c.Image):
            result.append(
                {"type": "input_image", "image_url": content.url_of_image(part), "detail": part.detail or "auto"}
            )
        elif isinstance(part, c.File):
            result.append(_encode_file(part))
        else:
            content.note(request, "content[input_audio]")
    return result


def _encode_file(part: c.File) -> dict[str, Any]:
    if part.file_id:
        return {"type": "input_file", "file_id": part.file_id}
    if part.url:
        return {"type": "input_file", "file_url": part.url}
    return {"type": "input_file", "filename": part.name or "document", "file_data": content.url_of_file(part)}


def _encode_tool(tool: c.Tool) -> dict[str, Any]:
    wire: dict[str, Any] = {"type": "custom" if tool.kind == "custom" else "function", "name": tool.name}
    if tool.description:
        wire["description"] = tool.description
    if tool.kind == "custom":
        if tool.format is not None:
            wire["format"] = tool.format
        return wire
    if tool.schema is not None:
        wire["parameters"] = content.compact_schema(tool.schema)
    if tool.strict is not None:
        wire["strict"] = tool.strict
    return wire


def _encode_format(wanted: c.ResponseFormat) -> dict[str, Any]:
    wire: dict[str, Any] = {"type": wanted.type}
    if wanted.type == "json_schema" and wanted.schema is not None:
        wire["name"] = wanted.name or "response"
        if wanted.description:
            wire["description"] = wanted.description
        wire["schema"] = content.compact_schema(wanted.schema)
        if wanted.strict is not None:
            wire["strict"] = wanted.strict
    return wire
