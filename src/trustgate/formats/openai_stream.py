"""OpenAI Chat Completions as a stream of chunks: `data:` payloads to canonical events and back.

The encoder merges tool-call fragments into one chunk before the finish (clients of this dialect never see partial
arguments), sends exactly one finish, then the usage chunk, and always ends with `[DONE]`.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from msgspec import Raw, Struct

from . import canonical as c
from . import content, json
from .openai import UsageIn, decode_usage, encode_answered_call, encode_usage, error_body, signature_of, thinking_of


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None
    input: str | None = None


class _ToolDelta(Struct):
    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: _Function | None = None
    custom: _Function | None = None
    extra_content: Raw = Raw()


class _Delta(Struct):
    role: str | None = None
    content: Raw = Raw()
    reasoning_content: str | None = None
    reasoning: Raw = Raw()
    refusal: str | None = None
    tool_calls: list[_ToolDelta] | None = None


class _Choice(Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: UsageIn | None = None
    error: Raw = Raw()
    type: str | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_string = msgspec.json.Decoder(str).decode


class Decoder:
    """Reads the first choice of each chunk. Groq's `x_groq.usage` duplicates the usage chunk and is not read."""

    def decode(self, payload: bytes) -> c.StreamEvent | None:
        """The canonical event of one `data:` payload; None when it adds nothing. Raises `DecodeError`."""
        wire = json.decode_with(_decode_chunk, payload)
        event = c.StreamEvent(wire.id or "", wire.model or "")
        if wire.usage is not None:
            event.usage = decode_usage(wire.usage)
        if wire.error:
            event.error = content.error_of(wire.error)
        choices = wire.choices
        if not choices or choices[0].index != 0:
            return event
        choice = choices[0]
        delta = choice.delta
        event.finish_reason = choice.finish_reason or ""
        if delta is None:
            return event
        event.role = delta.role or ""
        literal = bytes(delta.content)
        if literal[:1] == b'"':
            event.text = json.decode_with(_decode_string, literal)
        elif literal[:1] == b"[":
            event.text, event.reasoning = _texts(literal), thinking_of(delta.content)
        if delta.reasoning_content:
            event.reasoning = delta.reasoning_content
        elif bytes(delta.reasoning)[:1] == b'"':
            event.reasoning = json.decode_with(_decode_string, bytes(delta.reasoning))
        if delta.refusal:
            event.refusal = delta.refusal
        if delta.tool_calls:
            event.tool_calls = [_tool_delta(position, call) for position, call in enumerate(delta.tool_calls)]
        return event


class _TextPart(Struct):
    text: str | None = None


_decode_parts = msgspec.json.Decoder(list[_TextPart]).decode


def _texts(literal: bytes) -> str:
    return "".join(part.text or "" for part in json.decode_with(_decode_parts, literal))


def _tool_delta(position: int, wire: _ToolDelta) -> c.ToolDelta:
    custom = wire.custom is not None or wire.type == "custom"
    inner = wire.custom or wire.function or _Function()
    return c.ToolDelta(
        index=position if wire.index is None else wire.index,
        id=wire.id or "",
        name=inner.name or "",
        arguments=(inner.input if custom else inner.arguments) or "",
        kind="custom" if custom else "",
        signature=signature_of(wire.extra_content),
    )


class Encoder:
    """Writes chunks for a client of this dialect, whichever dialect the upstream speaks."""

    def __init__(self) -> None:
        self._created = int(time.time())
        self._head = b""  # the envelope up to the delta, rebuilt when id or model become known
        self._id = ""
        self._model = ""
        self._role_sent = False
        self._calls: dict[int, c.ToolCall] = {}
        self._finish = ""
        self._usage: c.Usage | None = None
        self._closed = False

    def encode(self, event: c.StreamEvent) -> bytes:
        """Bytes that the event adds to the client's stream."""
        if self._closed:
            return b""
        if (event.id and event.id != self._id) or (event.model and event.model != self._model) or not self._head:
            self._envelope(event)
        out = b""
        if event.error is not None:
            self._closed = True
            return b"data: " + error_body(event.error) + b"\n\ndata: [DONE]\n\n"
        if event.text:
            out = self._chunk(b'"content":' + json.encode(event.text))
        if event.reasoning:
            out = self._chunk(b'"reasoning_content":' + json.encode(event.reasoning)) + out
        if event.refusal:
            out += self._chunk(b'"refusal":' + json.encode(event.refusal))
        if event.role and not self._role_sent and not out:
            out = self._chunk(b'"content":""')
        if event.tool_calls:
            for delta in event.tool_calls:
                merge_delta(self._calls, delta)
        if event.usage is not None:
            if self._usage is None:
                self._usage = event.usage
            else:
                self._usage.merge(event.usage)
        if event.finish_reason and not self._finish:
            self._finish = event.finish_reason
        if event.done:
            out += self.end()
        return out

    def end(self) -> bytes:
        """The pending tool calls, the finish, the usage chunk and the terminator; nothing when already sent."""
        if self._closed:
            return b""
        self._closed = True
        if not self._head:
            self._envelope(c.StreamEvent())
        out = self._flush_calls()
        finish = self._finish
        if out and finish in ("", "stop"):
            finish = "tool_calls"
        if finish:
            out += self._head + b'},"logprobs":null,"finish_reason":' + json.encode(finish) + b"}]}\n\n"
        if self._usage is not None:
            last: dict[str, Any] = {"id": self._id, "object": "chat.completion.chunk", "created": self._created}
            last |= {"model": self._model, "choices": [], "usage": encode_usage(self._usage)}
            out += b"data: " + json.encode(last) + b"\n\n"
        return out + b"data: [DONE]\n\n"

    def _envelope(self, event: c.StreamEvent) -> None:
        self._id = event.id or self._id
        self._model = event.model or self._model
        head = {"id": self._id, "object": "chat.completion.chunk", "created": self._created, "model": self._model}
        self._head = b"data: " + json.encode(head)[:-1] + b',"choices":[{"index":0,"delta":{'

    def _chunk(self, delta: bytes) -> bytes:
        if not self._role_sent:
            self._role_sent = True
            delta = b'"role":"assistant",' + delta
        return self._head + delta + b'},"logprobs":null,"finish_reason":null}]}\n\n'

    def _flush_calls(self) -> bytes:
        if not self._calls:
            return b""
        entries = renumbered(self._calls)
        self._calls = {}
        return self._chunk(b'"tool_calls":' + json.encode(entries))


def merge_delta(calls: dict[int, c.ToolCall], delta: c.ToolDelta) -> None:
    """Adds a fragment to the call of its index: last non-empty id and name win, arguments are concatenated."""
    call = calls.get(delta.index)
    if call is None:
        calls[delta.index] = c.ToolCall(delta.id, delta.name, delta.arguments, delta.kind, delta.signature)
        return
    call.id = delta.id or call.id
    call.name = delta.name or call.name
    call.arguments += delta.arguments
    call.kind = delta.kind or call.kind
    call.signature = delta.signature or call.signature


def renumbered(calls: dict[int, c.ToolCall]) -> list[dict[str, Any]]:
    """`tool_calls` entries in the order of their upstream index, numbered from 0."""
    ordered = (calls[index] for index in sorted(calls))
    return [{"index": position} | encode_answered_call(call) for position, call in enumerate(ordered)]
