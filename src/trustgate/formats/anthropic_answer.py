"""Anthropic Messages: answers, buffered and as a stream of events, to the canonical model and back.

The stream encoder keeps the order the official clients insist on: one `message_start`, blocks that are started,
filled and stopped under their own index, one `message_delta` that waits for the usage, `message_stop`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from . import canonical as c
from . import content, json
from .anthropic import encode_call, encode_thinking
from .openai_stream import merge_delta

FINISH_IN = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
FINISH_OUT = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class _Usage(Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    service_tier: str | None = None


class BedrockMetrics(Struct, rename={"input": "inputTokenCount", "output": "outputTokenCount"}):
    """The `amazon-bedrock-invocationMetrics` member that Bedrock adds to the model's own JSON."""

    input: int | None = None
    output: int | None = None


class _Block(Struct):
    type: str | None = None
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = Raw()
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class _Response(Struct, rename={"metrics": "amazon-bedrock-invocationMetrics"}):
    id: str | None = None
    model: str | None = None
    role: str | None = None
    content: list[_Block] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None
    type: str | None = None
    error: Raw = Raw()
    metrics: BedrockMetrics | None = None


_decode_response = msgspec.json.Decoder(_Response).decode


def decode_usage(wire: _Usage | None, metrics: BedrockMetrics | None = None) -> c.Usage | None:
    """Canonical counts; zero counts are filled in from Bedrock's metrics where those are given."""
    usage = c.Usage()
    if wire is not None:
        usage.input_tokens = wire.input_tokens or 0
        usage.output_tokens = wire.output_tokens or 0
        usage.cache_creation_input_tokens = wire.cache_creation_input_tokens or 0
        usage.cache_read_input_tokens = wire.cache_read_input_tokens or 0
        usage.service_tier = wire.service_tier or ""
    if metrics is not None:
        usage.input_tokens = usage.input_tokens or metrics.input or 0
        usage.output_tokens = usage.output_tokens or metrics.output or 0
    return c.usage_or_none(usage)


def encode_usage(usage: c.Usage | None) -> dict[str, Any]:
    """`usage` with the cache counts that are known."""
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    wire: dict[str, Any] = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    if usage.cache_creation_input_tokens:
        wire["cache_creation_input_tokens"] = usage.cache_creation_input_tokens
    if usage.cached:
        wire["cache_read_input_tokens"] = usage.cached
    if usage.service_tier in ("standard", "priority", "batch"):
        wire["service_tier"] = usage.service_tier
    return wire


def decode_response(body: bytes) -> c.Response:
    """A Messages answer. Text blocks are concatenated; thinking keeps its signatures."""
    wire = json.decode_with(_decode_response, body)
    response = c.Response(
        id=wire.id or "",
        model=wire.model or "",
        finish_reason=FINISH_IN.get(wire.stop_reason or "", wire.stop_reason or ""),
        usage=decode_usage(wire.usage, wire.metrics),
    )
    if wire.type == "error" or (wire.content is None and not json.is_null(wire.error)):
        response.error = content.error_of(wire.error) or c.UpstreamError("upstream error")
        return response
    texts: list[str] = []
    for block in wire.content or []:
        if block.type == "text":
            texts.append(block.text or "")
        elif block.type == "thinking":
            response.thinking.append(c.Thinking(block.thinking or "", block.signature or ""))
        elif block.type == "redacted_thinking":
            response.thinking.append(c.Thinking(redacted=block.data or ""))
        elif block.type == "tool_use":
            arguments = "{}" if json.is_null(block.input) else json.raw_text(block.input)
            response.tool_calls.append(c.ToolCall(block.id or "", block.name or "", arguments))
    response.text = "".join(texts)
    return response


def encode_response(response: c.Response) -> bytes:
    """The message object; a reason without a counterpart is `end_turn`."""
    if response.error is not None:
        return error_body(response.error)
    blocks: list[dict[str, Any]] = [encode_thinking(block) for block in response.thinking]
    if response.text:
        blocks.append({"type": "text", "text": response.text})
    blocks += [encode_call(call) for call in response.tool_calls]
    return json.encode(
        {
            "id": response.id,
            "type": "message",
            "role": "assistant",
            "model": response.model,
            "content": blocks,
            "stop_reason": FINISH_OUT.get(response.finish_reason, "end_turn"),
            "stop_sequence": None,
            "usage": encode_usage(response.usage),
        },
    )


def error_body(error: c.UpstreamError) -> bytes:
    """`{"type":"error","error":{type,message}}`."""
    return json.encode({"type": "error", "error": {"type": error.type or "api_error", "message": error.message}})


class _StreamDelta(Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Event(Struct, rename={"metrics": "amazon-bedrock-invocationMetrics"}):
    type: str | None = None
    index: int | None = None
    delta: _StreamDelta | None = None
    content_block: _Block | None = None
    message: _Response | None = None
    usage: _Usage | None = None
    error: Raw = Raw()
    metrics: BedrockMetrics | None = None


_decode_event = msgspec.json.Decoder(_Event).decode


class Decoder:
    """Reads the events by their `type`; block indexes are the indexes of tool calls.

    State: the open tool block as long as it has no arguments; a call that ends without any has `{}`, as in a buffered
    answer.
    """

    def __init__(self) -> None:
        self._empty: int | None = None

    def decode(self, payload: bytes) -> c.StreamEvent | None:
        """The canonical event of one `data:` payload; None when it adds nothing. Raises `DecodeError`."""
        wire = json.decode_with(_decode_event, payload)
        kind, delta = wire.type, wire.delta
        if kind == "content_block_delta":
            if delta is None:
                return None
            if delta.type == "text_delta":
                return c.StreamEvent(text=delta.text or "")
            if delta.type == "input_json_delta":
                if delta.partial_json:
                    self._empty = None
                return c.StreamEvent(tool_calls=[c.ToolDelta(wire.index or 0, arguments=delta.partial_json or "")])
            if delta.type == "thinking_delta":
                return c.StreamEvent(reasoning=delta.thinking or "")
            if delta.type == "signature_delta":
                return c.StreamEvent(signature=delta.signature or "")
            return None
        if kind == "content_block_start":
            event = _block_start(wire)
            called = event is not None and event.tool_calls and not event.tool_calls[0].arguments
            self._empty = (wire.index or 0) if called else None
            return event
        if kind == "content_block_stop":
            index, self._empty = self._empty, None
            return None if index is None else c.StreamEvent(tool_calls=[c.ToolDelta(index, arguments="{}")])
        if kind == "message_start":
            head = wire.message or _Response()
            return c.StreamEvent(head.id or "", head.model or "", "assistant", usage=decode_usage(head.usage))
        if kind == "message_delta":
            reason = (delta.stop_reason if delta is not None else None) or ""
            usage = decode_usage(wire.usage)
            return c.StreamEvent(finish_reason=FINISH_IN.get(reason, reason), usage=usage)
        if kind == "message_stop":
            return c.StreamEvent(usage=decode_usage(None, wire.metrics), done=True)
        if kind == "error" or not json.is_null(wire.error):
            return c.StreamEvent(error=content.error_of(wire.error) or c.UpstreamError("upstream error"))
        return None


def _block_start(wire: _Event) -> c.StreamEvent | None:
    block = wire.content_block
    if block is None:
        return None
    if block.type == "tool_use":
        initial = "" if json.is_null(block.input) else json.raw_text(block.input)
        arguments = "" if initial.strip() in ("", "{}") else initial
        return c.StreamEvent(tool_calls=[c.ToolDelta(wire.index or 0, block.id or "", block.name or "", arguments)])
    if block.type == "text" and block.text:
        return c.StreamEvent(text=block.text)
    if block.type == "thinking" and block.thinking:
        return c.StreamEvent(reasoning=block.thinking)
    if block.type == "redacted_thinking":
        return c.StreamEvent(redacted=block.data or "")
    return None


class Encoder:
    """Writes the event sequence for a client of this dialect. State: the open block and what the end must say."""

    def __init__(self) -> None:
        self._started = False
        self._closed = False
        self._id = ""
        self._model = ""
        self._index = -1  # index of the last block that was started
        self._open = ""  # kind of the open block: "text", "thinking", "tool"
        self._signed = False  # whether the open thinking has its signature, so that more thinking is another block
        self._tool_index: int | None = None  # upstream index of the open tool block
        self._arguments = ""  # what was written of its arguments
        self._head = b""  # a delta of the open block up to its text
        self._finish = ""
        self._usage: c.Usage | None = None
        self._waiting: dict[int, c.ToolCall] = {}  # calls that cannot be written yet
        self._held: list[tuple[str, bytes, str]] = []  # texts that came inside a call's arguments
        self._written: set[int] = set()  # upstream indexes that have a block

    def encode(self, event: c.StreamEvent) -> bytes:
        """Bytes that the event adds to the client's stream."""
        if self._closed:
            return b""
        if event.usage is not None:
            if self._usage is None:
                self._usage = event.usage
            else:
                self._usage.merge(event.usage)
        if event.error is not None:
            self._closed = True
            return b"event: error\ndata: " + error_body(event.error) + b"\n\n"
        out = b""
        if not self._started:
            self._id = self._id or event.id
            self._model = self._model or event.model
            thought = event.reasoning or event.signature or event.redacted
            if not (event.role or event.text or thought or event.tool_calls or event.finish_reason):
                return self.end() if event.done else b""
            out = self._start()
        if event.reasoning:
            if self._signed:
                out += self._stop()
            out += self._delta("thinking", b'"thinking_delta","thinking":', event.reasoning)
        if event.signature:
            out += self._delta("thinking", b'"signature_delta","signature":', event.signature)
            self._signed = self._open == "thinking"
        if event.redacted:
            out += self._stop() + self._begin("redacted", {"type": "redacted_thinking", "data": event.redacted})
        if event.text:
            out += self._delta("text", b'"text_delta","text":', event.text)
        if event.refusal:
            out += self._delta("text", b'"text_delta","text":', event.refusal)
        for delta in event.tool_calls or ():
            out += self._tool(delta)
        if event.finish_reason and not self._finish:
            self._finish = event.finish_reason
        return out + self.end() if event.done else out

    def end(self) -> bytes:
        """Closes the open block and the message; nothing when that was done."""
        if self._closed:
            return b""
        self._closed = True
        out = b"" if self._started else self._start()
        out += self._stop()
        for index, call in sorted(self._waiting.items()):
            if call.name:
                out += self._write_tool(c.ToolDelta(index, call.id, call.name, call.arguments)) + self._stop()
        held, self._held = self._held, []
        for name, prefix, text in held:
            out += self._delta(name, prefix, text)
        out += self._stop()
        finish = FINISH_OUT.get(self._finish, "end_turn")
        if self._written and finish == "end_turn":
            finish = "tool_use"
        closing = {
            "type": "message_delta",
            "delta": {"stop_reason": finish, "stop_sequence": None},
            "usage": encode_usage(self._usage),
        }
        return (
            out
            + b"event: message_delta\ndata: "
            + json.encode(closing)
            + b'\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
        )

    def _start(self) -> bytes:
        self._started = True
        message: dict[str, Any] = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self._model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": encode_usage(self._usage),
        }
        return b"event: message_start\ndata: " + json.encode({"type": "message_start", "message": message}) + b"\n\n"

    def _begin(self, name: str, block: dict[str, Any]) -> bytes:
        self._index += 1
        self._open = name
        self._head = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":' % self._index
        )
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return b"event: content_block_start\ndata: " + json.encode(start) + b"\n\n"

    def _stop(self) -> bytes:
        if not self._open:
            return b""
        self._open, self._signed = "", False
        self._tool_index = None
        self._arguments = ""
        return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self._index

    def _delta(self, name: str, prefix: bytes, text: str) -> bytes:
        """A text that comes while a call's arguments are incomplete waits for the end, as blocks cannot be reopened."""
        if self._held or (self._open == "tool" and not json.is_object(self._arguments)):
            self._held.append((name, prefix, text))
            return b""
        out = b""
        if self._open != name:
            block: dict[str, Any] = (
                {"type": "text", "text": ""} if name == "text" else {"type": name, name: "", "signature": ""}
            )
            out = self._stop() + self._begin(name, block)
        return out + self._head + prefix + json.encode(text) + b"}}\n\n"

    def _tool(self, delta: c.ToolDelta) -> bytes:
        """Calls are written one after the other: a second call waits until the first one's arguments are complete."""
        if self._tool_index not in (None, delta.index):
            if delta.index not in self._waiting and delta.name and json.is_object(self._arguments):
                return self._stop() + self._write_tool(delta)
            merge_delta(self._waiting, delta)
            return b""
        if delta.index in self._waiting or (self._tool_index is None and delta.index in self._written):
            merge_delta(self._waiting, delta)
            return b""
        return self._write_tool(delta)

    def _write_tool(self, delta: c.ToolDelta) -> bytes:
        out = b""
        if self._tool_index != delta.index or not self._open:
            block: dict[str, Any] = {"type": "tool_use", "id": delta.id, "name": delta.name, "input": {}}
            out = self._stop() + self._begin("tool", block)
            self._tool_index = delta.index
            self._written.add(delta.index)
        if delta.arguments:
            self._arguments += delta.arguments
            out += self._head + b'"input_json_delta","partial_json":' + json.encode(delta.arguments) + b"}}\n\n"
        return out
