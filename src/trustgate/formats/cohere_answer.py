"""Cohere v2 chat: answers, buffered and as a stream of events, to the canonical model and back."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from . import canonical as c
from . import content, json
from .cohere import FINISH_IN, FINISH_OUT
from .openai import encode_call
from .openai_stream import merge_delta


class _Tokens(Struct):
    input_tokens: int | float | None = None
    output_tokens: int | float | None = None


class _Usage(Struct):
    tokens: _Tokens | None = None
    billed_units: _Tokens | None = None
    cached_tokens: int | float | None = None


class _Block(Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(Struct):
    role: str | None = None
    content: list[_Block] | None = None
    tool_calls: list[_Call] | None = None
    tool_plan: str | None = None


class _Response(Struct):
    id: str | None = None
    finish_reason: str | None = None
    message: Raw = Raw()
    usage: _Usage | None = None
    error: Raw = Raw()


_decode_response = msgspec.json.Decoder(_Response).decode
_decode_message = msgspec.json.Decoder(_Message).decode
_decode_string = msgspec.json.Decoder(str).decode


def decode_usage(wire: _Usage | None) -> c.Usage | None:
    """Canonical counts: the tokens processed, else the tokens billed. None when the answer has none."""
    tokens = None if wire is None else wire.tokens or wire.billed_units
    if tokens is None:
        return None
    cached = int(wire.cached_tokens or 0) if wire is not None else 0
    usage = c.Usage(int(tokens.input_tokens or 0), int(tokens.output_tokens or 0), cached_input_tokens=cached)
    return c.usage_or_none(usage)


def encode_usage(usage: c.Usage) -> dict[str, Any]:
    """`usage` of answers and of `message-end`."""
    return {"tokens": {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}}


def _reason(word: str | None) -> str:
    lower = (word or "").lower()
    return FINISH_IN.get(lower, lower)


def decode_response(body: bytes) -> c.Response:
    """A v2 chat answer. A `message` that is a text is the API's way of telling an error."""
    wire = json.decode_with(_decode_response, body)
    response = c.Response(id=wire.id or "", finish_reason=_reason(wire.finish_reason), usage=decode_usage(wire.usage))
    literal = bytes(wire.message)
    if literal[:1] == b'"':
        response.error = c.UpstreamError(json.decode_with(_decode_string, literal))
        return response
    if not literal or literal == b"null":
        response.error = content.error_of(wire.error)
        return response
    message = json.decode_with(_decode_message, literal)
    for block in message.content or []:
        response.text += block.text or ""
        if block.thinking:
            response.thinking.append(c.Thinking(block.thinking))
    if message.tool_plan:
        response.thinking.append(c.Thinking(message.tool_plan))
    for call in message.tool_calls or []:
        function = call.function or _Function()
        response.tool_calls.append(c.ToolCall(call.id or "", function.name or "", function.arguments or ""))
    return response


def encode_response(response: c.Response) -> bytes:
    """The answer object; a reason without a counterpart is `COMPLETE`."""
    if response.error is not None:
        return json.encode({"id": response.id, "message": response.error.message, "error": _error(response.error)})
    blocks: list[dict[str, Any]] = []
    if response.thinking_text:
        blocks.append({"type": "thinking", "thinking": response.thinking_text})
    if response.text:
        blocks.append({"type": "text", "text": response.text})
    message: dict[str, Any] = {"role": "assistant"}
    if blocks or not response.tool_calls:
        message["content"] = blocks
    if response.tool_calls:
        message["tool_calls"] = [encode_call(call) for call in response.tool_calls]
    body: dict[str, Any] = {
        "id": response.id,
        "finish_reason": FINISH_OUT.get(response.finish_reason, "COMPLETE"),
        "message": message,
    }
    if response.usage is not None:
        body["usage"] = encode_usage(response.usage)
    return json.encode(body)


def _error(error: c.UpstreamError) -> dict[str, Any]:
    return {"message": error.message, "type": error.type or "upstream_error"}


class _EventBlock(Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None


class _EventMessage(Struct):
    role: str | None = None
    content: Raw = Raw()
    tool_calls: Raw = Raw()
    tool_plan: str | None = None


class _EventDelta(Struct):
    message: _EventMessage | None = None
    finish_reason: str | None = None
    usage: _Usage | None = None
    error: str | None = None
    id: str | None = None
    function: _Function | None = None


class _Event(Struct):
    type: str | None = None
    id: str | None = None
    index: int | None = None
    delta: _EventDelta | None = None
    error: Raw = Raw()
    message: str | None = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_block = msgspec.json.Decoder(_EventBlock).decode
_decode_call = msgspec.json.Decoder(_Call).decode


class Decoder:
    """Reads the events by their `type`."""

    def decode(self, payload: bytes) -> c.StreamEvent | None:
        """The canonical event of one `data:` payload; None when it adds nothing. Raises `DecodeError`."""
        wire = json.decode_with(_decode_event, payload)
        kind, delta = wire.type, wire.delta or _EventDelta()
        message = delta.message or _EventMessage()
        if kind in ("content-delta", "content-start"):
            if bytes(message.content)[:1] != b"{":
                return None
            block = json.decode_with(_decode_block, bytes(message.content))
            return c.StreamEvent(text=block.text or "", reasoning=block.thinking or "")
        if kind == "tool-plan-delta":
            return c.StreamEvent(reasoning=message.tool_plan or "")
        if kind in ("tool-call-start", "tool-call-delta"):
            call = _Call(delta.id, delta.function)
            if bytes(message.tool_calls)[:1] == b"{":
                call = json.decode_with(_decode_call, bytes(message.tool_calls))
            function = call.function or _Function()
            fragment = c.ToolDelta(wire.index or 0, call.id or "", function.name or "", function.arguments or "")
            return c.StreamEvent(tool_calls=[fragment])
        if kind == "message-start":
            return c.StreamEvent(id=wire.id or "", role="assistant")
        if kind == "message-end":
            event = c.StreamEvent(
                finish_reason=_reason(delta.finish_reason), usage=decode_usage(delta.usage), done=True
            )
            if event.finish_reason == "error":
                event.error = c.UpstreamError(delta.error or "upstream error")
            return event
        if kind is None and not json.is_null(wire.error):
            return c.StreamEvent(error=content.error_of(wire.error))
        if kind is None and wire.message:
            return c.StreamEvent(error=c.UpstreamError(wire.message))
        return None


def _event(kind: str, members: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + json.encode({"type": kind} | members) + b"\n\n"


class Encoder:
    """Writes the event sequence for a client of this dialect: starts, deltas and ends, one `message-end`."""

    def __init__(self) -> None:
        self._id = ""
        self._started = False
        self._closed = False
        self._index = -1
        self._open = ""  # kind of the open content: "text" or "thinking"
        self._head = b""
        self._calls: dict[int, c.ToolCall] = {}
        self._finish = ""
        self._usage: c.Usage | None = None

    def encode(self, event: c.StreamEvent) -> bytes:
        """Bytes that the event adds to the client's stream."""
        if self._closed:
            return b""
        self._id = self._id or event.id
        if event.usage is not None:
            if self._usage is None:
                self._usage = event.usage
            else:
                self._usage.merge(event.usage)
        if event.error is not None:
            self._closed = True
            start = b"" if self._started else self._start()
            ending = {"finish_reason": "ERROR", "error": event.error.message}
            return start + _event("message-end", {"error": _error(event.error), "delta": ending})
        out = b""
        text = event.text or event.refusal
        if not self._started and (event.role or text or event.reasoning or event.tool_calls):
            out = self._start()
        if event.reasoning:
            out += self._delta("thinking", event.reasoning)
        if text:
            out += self._delta("text", text)
        for delta in event.tool_calls or ():
            merge_delta(self._calls, delta)
        if event.finish_reason and not self._finish:
            self._finish = event.finish_reason
        return out + self.end() if event.done else out

    def end(self) -> bytes:
        """The end of the open content, the calls, and `message-end`; nothing when that was done."""
        if self._closed:
            return b""
        self._closed = True
        out = b"" if self._started else self._start()
        out += self._finish_content()
        for _, call in sorted(self._calls.items()):
            out += self._call(call)
        finish = FINISH_OUT.get(self._finish, "COMPLETE")
        if self._calls and finish == "COMPLETE":
            finish = "TOOL_CALL"
        ending: dict[str, Any] = {"finish_reason": finish}
        if self._usage is not None:
            ending["usage"] = encode_usage(self._usage)
        return out + _event("message-end", {"id": self._id, "delta": ending})

    def _start(self) -> bytes:
        self._started = True
        message: dict[str, Any] = {
            "role": "assistant",
            "content": [],
            "tool_plan": "",
            "tool_calls": [],
            "citations": [],
        }
        return _event("message-start", {"id": self._id, "delta": {"message": message}})

    def _delta(self, kind: str, text: str) -> bytes:
        out = b""
        if self._open != kind:
            out = self._finish_content()
            self._index += 1
            self._open = kind
            block = {"type": kind, kind: ""}
            out += _event("content-start", {"index": self._index, "delta": {"message": {"content": block}}})
            self._head = (
                b'event: content-delta\ndata: {"type":"content-delta","index":%d,"delta":{"message":{"content":{"%s":'
                % (self._index, kind.encode())
            )
        return out + self._head + json.encode(text) + b"}}}}\n\n"

    def _finish_content(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return _event("content-end", {"index": self._index})

    def _call(self, call: c.ToolCall) -> bytes:
        self._index += 1
        opened = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        filled = {"function": {"arguments": call.arguments}}
        place = {"index": self._index}
        return (
            _event("tool-call-start", place | {"delta": {"message": {"tool_calls": opened}}})
            + _event("tool-call-delta", place | {"delta": {"message": {"tool_calls": filled}}})
            + _event("tool-call-end", place)
        )
