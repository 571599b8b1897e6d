"""Cohere v2 chat: requests, answers and stream events, bytes to canonical model and back.

Implements topic "Cohere v2 chat" of the provider contract. Requests use the shapes of the real v2 API (`tool_choice`
`REQUIRED`/`NONE`, calls under `delta.message.tool_calls`); the older object shapes are still read.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from . import canonical as c
from . import content, json, known
from .openai import encode_call

FINISH_IN = {
    "complete": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_call": "tool_calls",
    "error_toxic": "content_filter",
}
FINISH_OUT = {"stop": "COMPLETE", "length": "MAX_TOKENS", "tool_calls": "TOOL_CALL"}


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None
    description: str | None = None
    parameters: Raw = Raw()


class _Call(Struct):
    id: str | None = None
    type: str | None = None
    function: _Function | None = None


class _Message(Struct):
    role: str | None = None
    content: Raw = Raw()
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    tool_plan: str | None = None


class _NamedChoice(Struct):
    type: str | None = None
    name: str | None = None


class _ResponseFormat(Struct):
    type: str | None = None
    json_schema: Raw = Raw()
    schema: Raw = Raw()


class _Thinking(Struct):
    type: str | None = None
    token_budget: int | None = None


class _Request(Struct):
    model: str | None = None
    messages: list[_Message] | None = None
    temperature: Raw = Raw()
    p: Raw = Raw()
    k: Raw = Raw()
    max_tokens: int | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    tools: list[_Call] | None = None
    tool_choice: Raw = Raw()
    response_format: Raw = Raw()
    seed: Raw = Raw()
    presence_penalty: Raw = Raw()
    frequency_penalty: Raw = Raw()
    strict_tools: Raw = Raw()
    thinking: Raw = Raw()


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_choice = msgspec.json.Decoder(_NamedChoice).decode
_decode_string = msgspec.json.Decoder(str).decode


def decode_request(body: bytes) -> c.Request:
    """A v2 chat request; every system message is kept."""
    wire = json.decode_with(_decode_request, body)
    request = c.Request(
        model=wire.model or "",
        max_tokens=wire.max_tokens or 0,
        temperature=json.number(wire.temperature),
        top_p=json.number(wire.p),
        stream=bool(wire.stream),
        stop=wire.stop_sequences or [],
        untranslated=known.cohere.unknown(body),
    )
    system: list[str] = []
    for message in wire.messages or []:
        text, parts = content.openai_content(message.content, request)
        if message.role in ("system", "developer"):
            system += [text] if text else []
            content.note_system(request, parts)
            continue
        decoded = c.Message(message.role or "", text, parts, tool_call_id=message.tool_call_id or "")
        decoded.tool_calls = [_decode_call(call) for call in message.tool_calls or [] if call.function is not None]
        if message.tool_plan:
            content.note(request, "messages[].tool_plan")
        request.messages.append(decoded)
    request.system = "\n".join(system)
    strict = content.optional(request, "strict_tools", wire.strict_tools, bool)
    for tool in wire.tools or []:
        if tool.function is None:
            content.note(request, f"tools[{tool.type or ''}]")
            continue
        schema = None if json.is_null(tool.function.parameters) else tool.function.parameters
        request.tools.append(c.Tool(tool.function.name or "", tool.function.description or "", schema, strict=strict))
    request.tool_choice = _tool_choice(wire.tool_choice)
    if request.tool_choice is None and not json.is_null(wire.tool_choice):
        content.note(request, "tool_choice")
    _decode_extras(wire, request)
    return request


def _decode_call(call: _Call) -> c.ToolCall:
    function = call.function or _Function()
    return c.ToolCall(call.id or "", function.name or "", function.arguments or "")


def _decode_extras(wire: _Request, request: c.Request) -> None:
    request.top_k = content.optional(request, "k", wire.k, int)
    request.seed = content.optional(request, "seed", wire.seed, int)
    request.presence_penalty = content.optional_number(request, "presence_penalty", wire.presence_penalty)
    request.frequency_penalty = content.optional_number(request, "frequency_penalty", wire.frequency_penalty)
    wanted = content.optional(request, "response_format", wire.response_format, _ResponseFormat)
    if wanted is not None and wanted.type:
        schema = wanted.json_schema or wanted.schema
        if json.is_null(schema):
            request.response_format = c.ResponseFormat(wanted.type)
        else:
            request.response_format = c.ResponseFormat("json_schema", schema)
    thinking = content.optional(request, "thinking", wire.thinking, _Thinking)
    if thinking is not None and thinking.type:
        budget = 0 if thinking.type == "disabled" else thinking.token_budget or -1
        request.reasoning = c.ReasoningRequest(budget_tokens=budget)


def _tool_choice(raw: Raw) -> c.ToolChoice | None:
    literal = bytes(raw)
    if literal[:1] == b'"':
        return c.ToolChoice(json.decode_with(_decode_string, literal).lower())
    if literal[:1] != b"{":
        return None
    choice = json.decode_with(_decode_choice, literal)
    if not choice.type:
        return None
    kind = choice.type.lower()
    return c.ToolChoice("tool" if choice.name and kind == "function" else kind, choice.name or "")


def encode_request(request: c.Request) -> bytes:
    """The v2 chat request."""
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    messages: list[dict[str, Any]] = [{"role": "system", "content": request.system}] if request.system else []
    messages += [_encode_message(message, request) for message in request.messages]
    body["messages"] = messages
    if request.max_tokens > 0:
        body["max_tokens"] = request.max_tokens
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["p"] = request.top_p
    if request.top_k is not None:
        body["k"] = request.top_k
    if request.stream:
        body["stream"] = True
    if request.stop:
        body["stop_sequences"] = request.stop
    if request.tools:
        body["tools"] = [_encode_tool(tool) for tool in request.tools]
    _encode_extras(request, body)
    return json.encode(body)


def _encode_extras(request: c.Request, body: dict[str, Any]) -> None:
    choice = request.tool_choice
    if choice is not None:
        if choice.type in ("required", "any", "tool"):
            body["tool_choice"] = "REQUIRED"
        elif choice.type == "none":
            body["tool_choice"] = "NONE"
        elif choice.type != "auto":
            content.note(request, "tool_choice")
        if choice.type == "tool":
            content.note(request, "tool_choice.name")
    wanted = request.response_format
    if wanted is not None and wanted.type in ("json_object", "json_schema"):
        shape: dict[str, Any] = {"type": "json_object"}
        if wanted.schema is not None:
            shape["json_schema"] = content.compact_schema(wanted.schema)
        body["response_format"] = shape
    if request.seed is not None:
        body["seed"] = request.seed
    if request.presence_penalty is not None:
        body["presence_penalty"] = request.presence_penalty
    if request.frequency_penalty is not None:
        body["frequency_penalty"] = request.frequency_penalty
    budget = content.budget_of(request.reasoning)
    if budget == 0:
        body["thinking"] = {"type": "disabled"}
    elif budget is not None:
        body["thinking"] = {"type": "enabled"} | ({"token_budget": budget} if budget > 0 else {})
    content.note_reasoning(request, budget)
    for name in ("metadata", "user", "parallel_tool_calls"):
        if getattr(request, name) not in (None, ""):
            content.note(request, name)
    content.note_format(request)
    content.note_signatures(request)
    if request.n is not None and request.n > 1:
        content.note(request, "n")


def _encode_message(message: c.Message, request: c.Request) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role}
    if message.role == "tool":
        if message.parts is not None:
            content.note(request, "content parts of a tool message")
        return wire | {"tool_call_id": message.tool_call_id, "content": content.tool_text(message)}
    if message.thinking:
        content.note(request, "thinking")
    if message.tool_calls:
        if message.parts is not None:
            content.note(request, "content parts of a message with calls")
        if message.text:
            wire["content"] = [{"type": "text", "text": message.text}]
        wire["tool_calls"] = [encode_call(_as_function(call)) for call in message.tool_calls]
    elif message.parts is not None:
        wire["content"] = _encode_parts(message.parts, request)
    else:
        wire["content"] = message.text
    return wire


def _as_function(call: c.ToolCall) -> c.ToolCall:
    if call.kind != "custom":
        return call
    return c.ToolCall(call.id, call.name, json.text({"input": call.arguments}))


def _encode_parts(parts: list[c.Part], request: c.Request) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, c.Text):
            result.append({"type": "text", "text": part.text})
        elif isinstance(part, c.Image):
            image: dict[str, Any] = {"url": content.url_of_image(part)}
            if part.detail:
                image["detail"] = part.detail
            result.append({"type": "image_url", "image_url": image})
        else:
            content.note(request, f"content[{type(part).__name__.lower()}]")
    return result


def _encode_tool(tool: c.Tool) -> dict[str, Any]:
    inner: dict[str, Any] = {"name": tool.name}
    if tool.description:
        inner["description"] = tool.description
    inner["parameters"] = content.DEFAULT_SCHEMA if tool.schema is None else content.compact_schema(tool.schema)
    return {"type": "function", "function": inner}
