"""Bedrock Converse: one request and answer shape for every model family that AWS serves.

Unlike InvokeModel it carries tools, images, documents and reasoning to all of them. The model is part of the URL. AWS
checks roles: turns alternate, and all results of one turn's tool calls stand in one user turn. Source: the Bedrock
Runtime API reference, operations Converse and ConverseStream.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from . import canonical as c
from . import content, json

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
_IMAGES = frozenset({"png", "jpeg", "gif", "webp"})
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -()[]")
_UNCARRIED = ("seed", "presence_penalty", "frequency_penalty", "response_format", "parallel_tool_calls")

Json = dict[str, Any]


def encode_request(request: c.Request) -> bytes:
    """The body of Converse and ConverseStream; what has no place there is noted."""
    body: Json = {}
    if request.system.strip():
        body["system"] = [{"text": request.system}]
    body["messages"] = _messages(request)
    config = _inference(request)
    if config:
        body["inferenceConfig"] = config
    tools = _tools(request)
    if tools:
        body["toolConfig"] = tools
    extra = _model_fields(request)
    if extra:
        body["additionalModelRequestFields"] = extra
    for name in _UNCARRIED:
        value = getattr(request, name)
        if value is not None and not (isinstance(value, c.ResponseFormat) and value.type == "text"):
            content.note(request, name)
    if request.n is not None and request.n > 1:
        content.note(request, "n")
    for name in ("metadata", "user"):
        if getattr(request, name):
            content.note(request, name)
    content.note_format(request)
    content.note_signatures(request)
    return json.encode(body)


def _inference(request: c.Request) -> Json:
    config: Json = {}
    if request.max_tokens > 0:
        config["maxTokens"] = request.max_tokens
    if request.temperature is not None:
        config["temperature"] = request.temperature
    if request.top_p is not None:
        config["topP"] = request.top_p
    if request.stop:
        config["stopSequences"] = request.stop
    return config


def _model_fields(request: c.Request) -> Json:
    """Settings that only a family knows, under that family's own names."""
    claude = "claude" in request.model.lower() or "anthropic" in request.model.lower()
    extra: Json = {}
    if request.top_k is not None:
        if claude:
            extra["top_k"] = request.top_k
        elif "amazon.nova" in request.model.lower():
            extra["inferenceConfig"] = {"topK": request.top_k}
        else:
            content.note(request, "top_k")
    budget = content.budget_of(request.reasoning)
    if budget and claude and budget >= 1024 and (not request.max_tokens or budget < request.max_tokens):
        extra["thinking"] = {"type": "enabled", "budget_tokens": budget}
    elif request.reasoning is not None and budget != 0:
        content.note(request, "reasoning")
    return extra


def _tools(request: c.Request) -> Json:
    choice = request.tool_choice
    if not request.tools:
        if choice is not None and choice.type not in ("", "auto", "none"):
            content.note(request, "tool_choice")
        return {}
    if choice is not None and choice.type == "none" and not any(message.tool_calls for message in request.messages):
        return {}  # Converse has no choice of none; a conversation without calls needs no tools either
    config: Json = {"tools": [_tool(position, tool) for position, tool in enumerate(request.tools)]}
    if choice is None or choice.type in ("", "auto"):
        return config
    if choice.type in ("required", "any"):
        config["toolChoice"] = {"any": {}}
    elif choice.type == "tool" and choice.name:
        config["toolChoice"] = {"tool": {"name": choice.name}}
    else:
        content.note(request, "tool_choice")
    return config


def _tool(position: int, tool: c.Tool) -> Json:
    schema = content.DEFAULT_SCHEMA if tool.schema is None else content.compact_schema(tool.schema)
    spec: Json = {"name": tool.name if tool.name.strip() else f"tool_{position}"}
    if tool.description:
        spec["description"] = tool.description
    return {"toolSpec": spec | {"inputSchema": {"json": schema}}}


def _messages(request: c.Request) -> list[Json]:
    """Alternating turns: neighbours of one role become one turn, empty ones fall away."""
    turns: list[Json] = []
    documents = 0
    for message in request.messages:
        role = "assistant" if message.role == "assistant" else "user"
        blocks, documents = _blocks(message, request, documents)
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: c.Message, request: c.Request, documents: int) -> tuple[list[Json], int]:
    blocks: list[Json] = []
    for thought in message.thinking:
        if thought.redacted:
            blocks.append({"reasoningContent": {"redactedContent": thought.redacted}})
        elif thought.signature:
            readable = {"text": thought.text, "signature": thought.signature}
            blocks.append({"reasoningContent": {"reasoningText": readable}})
        else:
            content.note(request, "thinking")
    parts = message.parts if message.parts is not None else [c.Text(message.text)]
    held: list[Json] = []
    for part in parts:
        block, documents = _part(part, request, documents)
        if block is not None:
            held.append(block)
    if message.role == "tool":
        result: Json = {"toolUseId": message.tool_call_id, "content": held or [{"text": ""}]}
        if message.is_error:
            result["status"] = "error"
        return [{"toolResult": result}], documents
    blocks += held
    blocks += [_call(call) for call in message.tool_calls]
    return blocks, documents


def _call(call: c.ToolCall) -> Json:
    if call.kind == "custom":
        arguments = Raw(json.encode({"input": call.arguments}))
    else:
        arguments = json.object_or_empty(call.arguments)
    return {"toolUse": {"toolUseId": call.id, "name": call.name, "input": arguments}}


def _part(part: c.Part, request: c.Request, documents: int) -> tuple[Json | None, int]:
    """A content block; the names of documents have to be distinct and of few characters."""
    if isinstance(part, c.Text):
        return ({"text": part.text} if part.text else None), documents
    if isinstance(part, c.Image) and part.data:
        content.note_detail(request, part)
        kind = part.media_type.removeprefix("image/").replace("jpg", "jpeg") or "png"
        if kind in _IMAGES:
            return {"image": {"format": kind, "source": {"bytes": part.data}}}, documents
    if isinstance(part, c.File) and part.data and part.media_type in _DOCUMENTS:
        name = "".join(char if char in _NAME_CHARACTERS else "-" for char in part.name).strip() or "document"
        name = f"{name} {documents + 1}" if documents else name
        held = {"format": _DOCUMENTS[part.media_type], "name": name, "source": {"bytes": part.data}}
        return {"document": held}, documents + 1
    content.note(request, "content parts")
    return None, documents


# Answers


class _ReasoningText(Struct):
    text: str | None = None
    signature: str | None = None


class _Reasoning(Struct):
    reasoningText: _ReasoningText | None = None
    text: str | None = None
    signature: str | None = None
    redactedContent: str | None = None


class _ToolUse(Struct):
    toolUseId: str | None = None
    name: str | None = None
    input: Raw = Raw()


class _Block(Struct):
    text: str | None = None
    toolUse: _ToolUse | None = None
    reasoningContent: _Reasoning | None = None


class _Message(Struct):
    role: str | None = None
    content: list[_Block] | None = None


class _Output(Struct):
    message: _Message | None = None


class _Usage(Struct):
    inputTokens: int | None = None
    outputTokens: int | None = None
    totalTokens: int | None = None
    cacheReadInputTokens: int | None = None
    cacheWriteInputTokens: int | None = None


class _Response(Struct):
    output: _Output | None = None
    stopReason: str | None = None
    usage: _Usage | None = None


class _Start(Struct):
    toolUse: _ToolUse | None = None


class _BlockEvent(Struct):
    contentBlockIndex: int | None = None
    start: _Start | None = None
    delta: _Block | None = None


class _Stop(Struct):
    stopReason: str | None = None


class _Metadata(Struct):
    usage: _Usage | None = None


class _Event(Struct):
    messageStart: _Message | None = None
    contentBlockStart: _BlockEvent | None = None
    contentBlockDelta: _BlockEvent | None = None
    contentBlockStop: _BlockEvent | None = None
    messageStop: _Stop | None = None
    metadata: _Metadata | None = None


_decode_response = msgspec.json.Decoder(_Response).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_string = msgspec.json.Decoder(str).decode


def _usage(wire: _Usage | None) -> c.Usage | None:
    if wire is None:
        return None
    return c.usage_or_none(
        c.Usage(
            input_tokens=wire.inputTokens or 0,
            output_tokens=wire.outputTokens or 0,
            total_tokens=wire.totalTokens or 0,
            cache_read_input_tokens=wire.cacheReadInputTokens or 0,
            cache_creation_input_tokens=wire.cacheWriteInputTokens or 0,
        )
    )


def decode_response(body: bytes) -> c.Response:
    """A Converse answer. It has neither id nor model. Raises `DecodeError`."""
    wire = json.decode_with(_decode_response, body)
    response = c.Response(usage=_usage(wire.usage))
    message = wire.output.message if wire.output is not None else None
    if message is None:
        raise json.DecodeError("a Converse answer without output.message")
    for block in message.content or []:
        if block.text:
            response.text += block.text
        elif block.toolUse is not None:
            call = block.toolUse
            arguments = "{}" if json.is_null(call.input) else json.raw_text(json.compact(call.input))
            response.tool_calls.append(c.ToolCall(call.toolUseId or "", call.name or "", arguments))
        elif block.reasoningContent is not None:
            response.thinking.append(_thinking(block.reasoningContent))
    reason = wire.stopReason or ""
    response.finish_reason = _FINISH.get(reason, reason)
    return response


def _thinking(wire: _Reasoning) -> c.Thinking:
    text = wire.reasoningText or _ReasoningText()
    return c.Thinking(text.text or "", text.signature or "", wire.redactedContent or "")


class Decoder:
    """Reads the events of ConverseStream, each as `{event type: its payload}`.

    State: numbers of the tool calls, and the open one as long as it has no arguments; one that ends without has `{}`.
    """

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}
        self._empty: int | None = None

    def decode(self, payload: bytes) -> c.StreamEvent | None:
        """What the event adds; None for nothing. Raises `DecodeError`."""
        wire = json.decode_with(_decode_event, payload)
        if wire.contentBlockDelta is not None:
            return self._delta(wire.contentBlockDelta)
        if wire.contentBlockStart is not None:
            return self._start(wire.contentBlockStart)
        if wire.contentBlockStop is not None:
            number, self._empty = self._empty, None
            return None if number is None else c.StreamEvent(tool_calls=[c.ToolDelta(number, arguments="{}")])
        if wire.messageStart is not None:
            return c.StreamEvent(role=wire.messageStart.role or "assistant")
        if wire.messageStop is not None:
            reason = wire.messageStop.stopReason or ""
            return c.StreamEvent(finish_reason=_FINISH.get(reason, reason))
        if wire.metadata is not None:
            return c.StreamEvent(usage=_usage(wire.metadata.usage))
        return None

    def _start(self, wire: _BlockEvent) -> c.StreamEvent | None:
        call = wire.start.toolUse if wire.start is not None else None
        if call is None:
            return None
        number = self._calls.setdefault(wire.contentBlockIndex or 0, len(self._calls))
        self._empty = number
        return c.StreamEvent(tool_calls=[c.ToolDelta(number, call.toolUseId or "", call.name or "")])

    def _delta(self, wire: _BlockEvent) -> c.StreamEvent | None:
        delta = wire.delta
        if delta is None:
            return None
        if delta.text is not None:
            return c.StreamEvent(text=delta.text)
        if delta.reasoningContent is not None:
            thought = delta.reasoningContent
            return c.StreamEvent(
                reasoning=thought.text or "", signature=thought.signature or "", redacted=thought.redactedContent or ""
            )
        if delta.toolUse is not None:
            number = self._calls.get(wire.contentBlockIndex or 0, 0)
            literal = delta.toolUse.input
            fragment = "" if json.is_null(literal) else json.decode_with(_decode_string, bytes(literal))
            if fragment:
                self._empty = None
            return c.StreamEvent(tool_calls=[c.ToolDelta(number, arguments=fragment)])
        return None
