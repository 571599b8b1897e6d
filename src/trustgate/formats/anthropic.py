"""Anthropic Messages: requests and answers, bytes to canonical model and back (stream events: `anthropic_stream.py`).

Implements topic "Anthropic Messages codec" of the provider contract; Bedrock's Claude models use it too.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from . import canonical as c
from . import content, json, known

DEFAULT_MAX_TOKENS = 8192


class _Source(Struct):
    type: str | None = None
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None


class _Block(Struct):
    type: str | None = None
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = Raw()
    tool_use_id: str | None = None
    content: Raw = Raw()
    is_error: bool | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    source: Raw = Raw()
    title: str | None = None


class _Message(Struct):
    role: str | None = None
    content: Raw = Raw()


class _CustomTool(Struct):
    name: str | None = None
    description: str | None = None
    input_schema: Raw = Raw()


class _Tool(Struct):
    type: str | None = None
    name: str | None = None
    description: str | None = None
    input_schema: Raw = Raw()
    custom: _CustomTool | None = None
    strict: bool | None = None


class _ToolChoice(Struct):
    type: str | None = None
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _ThinkingRequest(Struct):
    type: str | None = None
    budget_tokens: int | None = None


class _Request(Struct):
    model: str | None = None
    messages: list[_Message] | None = None
    system: Raw = Raw()
    max_tokens: int | None = None
    temperature: Raw = Raw()
    top_p: Raw = Raw()
    top_k: int | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    metadata: dict[str, Raw] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: Raw = Raw()
    output_format: Raw = Raw()
    output_config: Raw = Raw()


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_blocks = msgspec.json.Decoder(list[_Block]).decode
_decode_string = msgspec.json.Decoder(str).decode


class _OutputFormat(Struct):
    type: str | None = None
    schema: Raw = Raw()


class _OutputConfig(Struct):
    effort: str | None = None
    format: _OutputFormat | None = None


def decode_request(body: bytes) -> c.Request:
    """A Messages request. A user turn is split into tool results first, then its text and media."""
    wire = json.decode_with(_decode_request, body)
    request = c.Request(
        model=wire.model or "",
        system=_blocks_text(wire.system),
        max_tokens=wire.max_tokens or 0,
        temperature=json.number(wire.temperature),
        top_p=json.number(wire.top_p),
        top_k=wire.top_k,
        stream=bool(wire.stream),
        stop=wire.stop_sequences or [],
        untranslated=known.anthropic.unknown(body),
    )
    if wire.metadata:
        request.metadata = Raw(json.compact(json.encode(wire.metadata)))
    for message in wire.messages or []:
        _decode_message(message, request)
    request.tools = [_decode_tool(tool, request) for tool in wire.tools or []]
    _decode_choice(wire, request)
    _decode_output(wire, request)
    return request


def _decode_choice(wire: _Request, request: c.Request) -> None:
    choice = wire.tool_choice
    if choice is not None and choice.type:
        kind = "required" if choice.type == "any" else choice.type
        request.tool_choice = c.ToolChoice(type=kind, name=choice.name or "")
        if choice.disable_parallel_tool_use is not None:
            request.parallel_tool_calls = not choice.disable_parallel_tool_use
    thinking = content.optional(request, "thinking", wire.thinking, _ThinkingRequest)
    if thinking is not None and thinking.type:
        if thinking.type == "disabled":
            request.reasoning = c.ReasoningRequest(budget_tokens=0)
        else:
            request.reasoning = c.ReasoningRequest(budget_tokens=thinking.budget_tokens or -1)


def _decode_output(wire: _Request, request: c.Request) -> None:
    wanted = content.optional(request, "output_format", wire.output_format, _OutputFormat)
    config = content.optional(request, "output_config", wire.output_config, _OutputConfig)
    if config is not None:
        wanted = config.format or wanted
        if config.effort:
            request.reasoning = request.reasoning or c.ReasoningRequest()
            request.reasoning.effort = config.effort
    if wanted is not None and wanted.type == "json_schema" and not json.is_null(wanted.schema):
        request.response_format = c.ResponseFormat("json_schema", wanted.schema, strict=True)


def _blocks_text(raw: Raw) -> str:
    literal = bytes(raw)
    if not literal or literal == b"null":
        return ""
    if literal[:1] == b"[":
        blocks = json.decode_with(_decode_blocks, literal)
        texts = [block.text.strip() for block in blocks if block.text]
        return "\n".join(text for text in texts if text)
    return json.decode_with(_decode_string, literal)


def _decode_message(wire: _Message, request: c.Request) -> None:
    role = wire.role or ""
    literal = bytes(wire.content)
    if literal[:1] != b"[":
        text, rich_parts = content.openai_content(wire.content, request)
        request.messages.append(c.Message(role, text, rich_parts))
        return
    blocks = json.decode_with(_decode_blocks, literal)
    if role == "assistant":
        request.messages.append(_assistant(blocks, request))
        return
    texts: list[str] = []
    parts: list[c.Part] = []
    rich = False
    for block in blocks:
        if block.type == "tool_result":
            request.messages.append(_tool_result(block, request))
            continue
        part = _part(block, request)
        if part is None:
            content.note(request, f"content[{block.type or ''}]")
        elif not isinstance(part, c.Text):
            rich = True
            parts.append(part)
        elif part.text:
            texts.append(part.text)
            parts.append(part)
    if texts or rich:
        request.messages.append(c.Message(role, "\n".join(texts), parts if rich else None))


def _part(block: _Block, request: c.Request) -> c.Part | None:
    if block.type == "text":
        return c.Text(block.text or "")
    if block.type not in ("image", "document") or bytes(block.source)[:1] != b"{":
        return None
    source = content.optional(None, "", block.source, _Source) or _Source()
    if block.type == "image":
        if source.type not in ("base64", "url"):
            return None
        return c.Image(source.media_type or "", source.data or "", source.url or "")
    if source.type == "text":
        if block.title:
            content.note(request, "content[document].title")
        return c.Text(source.data or "")
    if source.type not in ("base64", "url", "file"):
        return None
    return c.File(
        source.media_type or "application/pdf",
        source.data or "",
        source.url or "",
        source.file_id or "",
        block.title or "",
    )


def _assistant(blocks: list[_Block], request: c.Request) -> c.Message:
    message = c.Message("assistant")
    texts: list[str] = []
    for block in blocks:
        if block.type == "text":
            if block.text:
                texts.append(block.text)
        elif block.type == "tool_use":
            arguments = "{}" if json.is_null(block.input) else json.raw_text(block.input)
            message.tool_calls.append(c.ToolCall(block.id or "", block.name or "", arguments))
        elif block.type == "thinking":
            message.thinking.append(c.Thinking(block.thinking or "", block.signature or ""))
        elif block.type == "redacted_thinking":
            message.thinking.append(c.Thinking(redacted=block.data or ""))
        else:
            content.note(request, f"content[{block.type or ''}]")
    message.text = "\n".join(texts)
    return message


def _tool_result(block: _Block, request: c.Request) -> c.Message:
    message = c.Message("tool", tool_call_id=block.tool_use_id or "", is_error=bool(block.is_error))
    literal = bytes(block.content)
    if literal[:1] == b"[":
        parts: list[c.Part] = []
        for inner in json.decode_with(_decode_blocks, literal):
            part = _part(inner, request)
            if part is None:
                content.note(request, f"tool_result[{inner.type or ''}]")
            else:
                parts.append(part)
        message.text = "\n".join(p.text.strip() for p in parts if isinstance(p, c.Text) and p.text.strip())
        if any(not isinstance(part, c.Text) for part in parts):
            message.parts = parts
    else:
        message.text = _blocks_text(block.content)
    return message


def _decode_tool(wire: _Tool, request: c.Request) -> c.Tool:
    inner = wire.custom if wire.custom is not None else wire
    if wire.type not in (None, "custom", "function"):
        content.note(request, f"tools[{wire.type}]")
    schema = None if json.is_null(inner.input_schema) else inner.input_schema
    return c.Tool(inner.name or "", inner.description or "", schema, strict=wire.strict)


def encode_request(request: c.Request) -> bytes:
    """The Messages request; `max_tokens` is mandatory there and defaults to 8192."""
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    if request.system.strip():
        body["system"] = request.system
    body["messages"] = _encode_messages(request)
    body["max_tokens"] = request.max_tokens if request.max_tokens > 0 else DEFAULT_MAX_TOKENS
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.top_k is not None:
        body["top_k"] = request.top_k
    if request.stream:
        body["stream"] = True
    if request.stop:
        body["stop_sequences"] = request.stop
    if request.metadata is not None and "user_id" in json.members(bytes(request.metadata)):
        body["metadata"] = request.metadata
    else:
        if request.user:
            body["metadata"] = {"user_id": request.user}
        if request.metadata is not None:
            content.note(request, "metadata")
    if request.tools:
        body["tools"] = [_encode_tool(position, tool) for position, tool in enumerate(request.tools)]
    _encode_choice(request, body)
    _encode_reasoning(request, body)
    wanted = request.response_format
    if wanted is not None and wanted.schema is not None:
        body["output_config"] = {
            "format": {"type": "json_schema", "schema": content.compact_schema(wanted.schema)},
        }
    elif wanted is not None and wanted.type != "text":
        content.note(request, "response_format")
    for name in ("seed", "presence_penalty", "frequency_penalty"):
        if getattr(request, name) is not None:
            content.note(request, name)
    if request.n is not None and request.n > 1:
        content.note(request, "n")
    if wanted is not None and wanted.description:
        content.note(request, "response_format.description")
    content.note_custom(request)
    content.note_signatures(request)
    return json.encode(body)


def _encode_choice(request: c.Request, body: dict[str, Any]) -> None:
    choice = request.tool_choice
    wire: dict[str, Any] = {}
    if choice is not None and choice.type:
        wire["type"] = "any" if choice.type == "required" else choice.type
        if choice.name:
            wire["name"] = choice.name
    if request.parallel_tool_calls is False and request.tools:
        wire.setdefault("type", "auto")
        if wire["type"] != "none":
            wire["disable_parallel_tool_use"] = True
    if wire:
        body["tool_choice"] = wire


def _encode_reasoning(request: c.Request, body: dict[str, Any]) -> None:
    """Thinking needs 1024 tokens at least and fewer than max_tokens; it excludes sampling settings and forced tools."""
    budget = content.budget_of(request.reasoning)
    if budget is None and request.reasoning is not None and request.reasoning.effort:
        content.note(request, "reasoning_effort")
    if not budget:
        return
    choice = request.tool_choice
    forced = choice is not None and choice.type not in ("auto", "none")
    sampled = not body.keys().isdisjoint(("temperature", "top_p", "top_k"))
    budget = min(max(budget, 1024), body["max_tokens"] * 3 // 4)
    if forced or sampled or budget < 1024:
        content.note(request, "reasoning")
        return
    body["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _encode_messages(request: c.Request) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    results: list[dict[str, Any]] | None = None  # the open user turn of tool results
    for message in request.messages:
        if message.role == "tool":
            block: dict[str, Any] = {"type": "tool_result", "tool_use_id": message.tool_call_id}
            block["content"] = message.text if message.parts is None else _encode_parts(message.parts, request)
            if message.is_error:
                block["is_error"] = True
            if results is None:
                results = []
                result.append({"role": "user", "content": results})
            results.append(block)
            continue
        results = None
        result.append({"role": message.role, "content": _encode_content(message, request)})
    return result


def _encode_content(message: c.Message, request: c.Request) -> Any:
    signed = [block for block in message.thinking if block.signature or block.redacted]
    if len(signed) < len(message.thinking):
        content.note(request, "thinking")
    if not message.tool_calls and not signed:
        return message.text if message.parts is None else _encode_parts(message.parts, request)
    blocks: list[dict[str, Any]] = [encode_thinking(block) for block in signed]
    if message.parts is not None:
        blocks += _encode_parts(message.parts, request)
    elif message.text:
        blocks.append({"type": "text", "text": message.text})
    blocks += [encode_call(call) for call in message.tool_calls]
    return blocks


def encode_thinking(block: c.Thinking) -> dict[str, Any]:
    """A thinking block, or the redacted one that only its provider can read."""
    if block.redacted:
        return {"type": "redacted_thinking", "data": block.redacted}
    return {"type": "thinking", "thinking": block.text, "signature": block.signature}


def encode_call(call: c.ToolCall) -> dict[str, Any]:
    """A `tool_use` block; free text of custom tools travels as `{"input": text}`."""
    if call.kind == "custom":
        arguments = Raw(json.encode({"input": call.arguments}))
    else:
        arguments = json.object_or_empty(call.arguments)
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def _encode_parts(parts: list[c.Part], request: c.Request) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, c.Text):
            result.append({"type": "text", "text": part.text})
        elif isinstance(part, c.Image):
            content.note_detail(request, part)
            result.append({"type": "image", "source": _source(part.media_type, part.data, part.url, "")})
        elif isinstance(part, c.File):
            source = _document(part)
            if source is None:
                content.note(request, f"content[{part.media_type}]")
                continue
            block: dict[str, Any] = {"type": "document", "source": source}
            if part.name:
                block["title"] = part.name
            result.append(block)
        else:
            content.note(request, "content[input_audio]")
    return result


def _document(part: c.File) -> dict[str, Any] | None:
    """The source of a document: a PDF as it is, a text in clear; None for types that are no documents there."""
    if not part.data or part.media_type == "application/pdf":
        return _source(part.media_type, part.data, part.url, part.file_id)
    text = content.plain_text(part.data) if part.media_type.startswith("text/") else None
    return None if text is None else {"type": "text", "media_type": "text/plain", "data": text}


def _source(media_type: str, data: str, url: str, file_id: str) -> dict[str, Any]:
    if data:
        return {"type": "base64", "media_type": media_type, "data": data}
    return {"type": "file", "file_id": file_id} if file_id else {"type": "url", "url": url}


def _encode_tool(position: int, tool: c.Tool) -> dict[str, Any]:
    wire: dict[str, Any] = {"name": tool.name if tool.name.strip() else f"tool_{position}"}
    if tool.description:
        wire["description"] = tool.description
    wire["input_schema"] = content.DEFAULT_SCHEMA if tool.schema is None else content.compact_schema(tool.schema)
    if tool.strict is not None:
        wire["strict"] = tool.strict
    return wire
