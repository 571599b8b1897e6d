"""OpenAI Responses: answers, buffered and as a stream of events, to the canonical model and back.

The stream encoder sends the whole official sequence: created, in progress, items and parts added, deltas, the done
events, and one terminal event that repeats the full output, with sequence numbers and item ids throughout.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from msgspec import Raw, Struct

from . import canonical as c
from . import content, json
from .openai_stream import merge_delta


class _InputDetails(Struct):
    cached_tokens: int | None = None


class _OutputDetails(Struct):
    reasoning_tokens: int | None = None


class _Usage(Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _Part(Struct):
    type: str | None = None
    text: str | None = None
    refusal: str | None = None


class _Item(Struct):
    type: str | None = None
    id: str | None = None
    role: str | None = None
    content: list[_Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    summary: list[_Part] | None = None


class _Incomplete(Struct):
    reason: str | None = None


class _Response(Struct):
    id: str | None = None
    model: str | None = None
    status: str | None = None
    created_at: int | float | None = None
    output: list[Raw] | None = None
    usage: _Usage | None = None
    error: Raw = Raw()
    incomplete_details: _Incomplete | None = None


_decode_response = msgspec.json.Decoder(_Response).decode
_decode_item = msgspec.json.Decoder(_Item).decode


def decode_usage(wire: _Usage | None) -> c.Usage | None:
    """Canonical counts; None when the answer has none."""
    if wire is None:
        return None
    read, written = wire.input_tokens_details, wire.output_tokens_details
    return c.usage_or_none(
        c.Usage(
            input_tokens=wire.input_tokens or 0,
            output_tokens=wire.output_tokens or 0,
            total_tokens=wire.total_tokens or 0,
            cached_input_tokens=(read.cached_tokens or 0) if read is not None else 0,
            reasoning_output_tokens=(written.reasoning_tokens or 0) if written is not None else 0,
        )
    )


def encode_usage(usage: c.Usage) -> dict[str, Any]:
    """The totals with both detail objects, which the official client requires."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_output_tokens},
        "total_tokens": usage.total_tokens,
    }


def _finish(status: str, details: _Incomplete | None, calls: bool) -> str:
    if status == "incomplete":
        return "content_filter" if details is not None and details.reason == "content_filter" else "length"
    return "tool_calls" if calls else "stop"


def decode_response(body: bytes) -> c.Response:
    """A Responses answer. Output items that nobody models are left out, one by one."""
    wire = json.decode_with(_decode_response, body)
    response = c.Response(id=wire.id or "", model=wire.model or "", created=int(wire.created_at or 0))
    response.usage = decode_usage(wire.usage)
    texts: list[str] = []
    for raw in wire.output or []:
        try:
            item = _decode_item(raw)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            continue
        if item.type == "message":
            for part in item.content or []:
                if part.text:
                    texts.append(part.text)
                if part.refusal:
                    response.refusal = part.refusal
        elif item.type in ("function_call", "custom_tool_call"):
            custom = item.type == "custom_tool_call"
            arguments = (item.input if custom else item.arguments) or ""
            call_id = item.call_id or item.id or ""
            response.tool_calls.append(c.ToolCall(call_id, item.name or "", arguments, "custom" if custom else ""))
        elif item.type == "reasoning":
            response.thinking += [c.Thinking(part.text) for part in item.summary or [] if part.text]
    response.text = "\n".join(texts) or response.refusal
    if not json.is_null(wire.error) or wire.status == "failed":
        response.error = content.error_of(wire.error) or c.UpstreamError("upstream error")
    response.finish_reason = _finish(wire.status or "", wire.incomplete_details, bool(response.tool_calls))
    return response


def response_object(response: c.Response, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    """The `response` object with the members that the official client requires."""
    wire: dict[str, Any] = {
        "id": response.id,
        "object": "response",
        "created_at": response.created or int(time.time()),
        "model": response.model,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "output": output,
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
    }
    if status == "incomplete":
        reason = "content_filter" if response.finish_reason == "content_filter" else "max_output_tokens"
        wire["incomplete_details"] = {"reason": reason}
    if response.error is not None:
        wire["error"] = {"code": response.error.code or "server_error", "message": response.error.message}
    if response.usage is not None:
        wire["usage"] = encode_usage(response.usage)
    return wire


def message_item(item_id: str, text: str, status: str = "completed") -> dict[str, Any]:
    """A `message` item with one text part."""
    part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": item_id, "role": "assistant", "status": status, "content": [part]}


def call_item(item_id: str, call: c.ToolCall, status: str = "completed") -> dict[str, Any]:
    """A `function_call` (or `custom_tool_call`) item."""
    if call.kind == "custom":
        return {
            "type": "custom_tool_call",
            "id": item_id,
            "call_id": call.id,
            "name": call.name,
            "input": call.arguments,
        }
    return {
        "type": "function_call",
        "id": item_id,
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }


def reasoning_item(item_id: str, text: str) -> dict[str, Any]:
    """A `reasoning` item whose summary is the readable reasoning."""
    return {"type": "reasoning", "id": item_id, "summary": [{"type": "summary_text", "text": text}]}


def encode_response(response: c.Response) -> bytes:
    """The response object with its output items."""
    if response.error is not None:
        return json.encode({"error": error_object(response.error)})
    output: list[dict[str, Any]] = []
    if response.thinking_text:
        output.append(reasoning_item("rs_" + response.id, response.thinking_text))
    if response.text:
        output.append(message_item("msg_" + response.id, response.text))
    output += [call_item("fc_" + call.id.removeprefix("fc_"), call) for call in response.tool_calls]
    status = "incomplete" if response.finish_reason == "length" else "completed"
    return json.encode(response_object(response, status, output))


def error_object(error: c.UpstreamError) -> dict[str, Any]:
    """The `error` member of OpenAI error bodies."""
    return {"message": error.message, "type": error.type or "upstream_error", "code": error.code or None}


class _EventItem(Struct):
    type: str | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None


class _Event(Struct):
    type: str | None = None
    delta: Raw = Raw()
    output_index: int | None = None
    item: _EventItem | None = None
    response: _Response | None = None
    error: Raw = Raw()
    message: str | None = None
    code: str | None = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_string = msgspec.json.Decoder(str).decode


class Decoder:
    """Reads the events by their `type`. State: whether a call was seen, which the terminal event does not say."""

    def __init__(self) -> None:
        self._calls = False

    def decode(self, payload: bytes) -> c.StreamEvent | None:
        """The canonical event of one `data:` payload; None when it adds nothing. Raises `DecodeError`."""
        wire = json.decode_with(_decode_event, payload)
        kind = wire.type
        if kind in ("response.output_text.delta", "response.refusal.delta"):
            return c.StreamEvent(text=_delta(wire))
        if kind in ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta"):
            return c.StreamEvent(tool_calls=[c.ToolDelta(wire.output_index or 0, arguments=_delta(wire))])
        if kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            return c.StreamEvent(reasoning=_delta(wire))
        if kind == "response.output_item.added":
            return self._added(wire)
        if kind in ("response.created", "response.in_progress"):
            head = wire.response or _Response()
            return c.StreamEvent(head.id or "", head.model or "", "assistant")
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            return self._terminal(wire, kind)
        if kind == "error" or (kind is None and not json.is_null(wire.error)):
            error = content.error_of(wire.error) or c.UpstreamError(
                wire.message or "upstream error", "", wire.code or ""
            )
            return c.StreamEvent(error=error)
        return None

    def _added(self, wire: _Event) -> c.StreamEvent | None:
        item = wire.item
        if item is None:
            return None
        if item.type == "message":
            return c.StreamEvent(role="assistant")
        if item.type not in ("function_call", "custom_tool_call"):
            return None
        self._calls = True
        kind = "custom" if item.type == "custom_tool_call" else ""
        call_id = item.call_id or item.id or ""
        return c.StreamEvent(
            tool_calls=[c.ToolDelta(wire.output_index or 0, call_id, item.name or "", item.arguments or "", kind)]
        )

    def _terminal(self, wire: _Event, kind: str) -> c.StreamEvent:
        head = wire.response or _Response()
        event = c.StreamEvent(head.id or "", head.model or "", usage=decode_usage(head.usage))
        if kind == "response.failed":
            event.error = content.error_of(head.error) or c.UpstreamError("upstream error")
            return event
        status = "incomplete" if kind == "response.incomplete" else head.status or "completed"
        event.finish_reason = _finish(status, head.incomplete_details, self._calls)
        event.done = True
        return event


def _delta(wire: _Event) -> str:
    literal = bytes(wire.delta)
    return json.decode_with(_decode_string, literal) if literal[:1] == b'"' else ""


_ARGUMENTS = {"": "response.function_call_arguments", "custom": "response.custom_tool_call_input"}


class Encoder:
    """Writes the event sequence for a client of this dialect. State: the items so far and the open one."""

    def __init__(self) -> None:
        self._response = c.Response(created=int(time.time()))
        self._started = False
        self._closed = False
        self._sequence = 0
        self._output: list[dict[str, Any]] = []
        self._open = ""  # kind of the item being written: "text", "reasoning" or "call"
        self._item_id = ""
        self._pieces: list[str] = []
        self._head = b""
        self._call = c.ToolCall("", "", "")  # the open call as far as it was written
        self._call_index = -1  # and its upstream index
        self._waiting: dict[int, c.ToolCall] = {}  # calls that cannot be written yet
        self._held: list[tuple[str, str]] = []  # texts that came inside a call's arguments
        self._written: set[int] = set()  # upstream indexes that have an item

    def encode(self, event: c.StreamEvent) -> bytes:
        """Bytes that the event adds to the client's stream."""
        if self._closed:
            return b""
        response = self._response
        response.id = response.id or event.id
        response.model = response.model or event.model
        if event.usage is not None:
            if response.usage is None:
                response.usage = event.usage
            else:
                response.usage.merge(event.usage)
        if event.finish_reason and not response.finish_reason:
            response.finish_reason = event.finish_reason
        out = b""
        if not self._started and (event.role or event.text or event.reasoning or event.tool_calls or event.error):
            out = self._start()
        if event.error is not None:
            return out + self._failed(event.error)
        if event.reasoning:
            out += self._text("reasoning", event.reasoning)
        if event.text or event.refusal:
            out += self._text("text", event.text or event.refusal)
        for delta in event.tool_calls or ():
            out += self._tool(delta)
        return out + self.end() if event.done else out

    def end(self) -> bytes:
        """The done events of the open item, the calls, and the terminal event; nothing when that was done."""
        if self._closed:
            return b""
        self._closed = True
        out = b"" if self._started else self._start()
        out += self._finish_item()
        for index, call in sorted(self._waiting.items()):
            if call.name:
                fragment = c.ToolDelta(index, call.id, call.name, call.arguments, call.kind)
                out += self._write_call(fragment) + self._finish_item()
        held, self._held = self._held, []
        for kind, text in held:
            out += self._text(kind, text)
        out += self._finish_item()
        incomplete = self._response.finish_reason == "length"
        status = "incomplete" if incomplete else "completed"
        body = response_object(self._response, status, self._output)
        return out + self._event("response." + status, {"response": body})

    def _event(self, kind: str, members: dict[str, Any]) -> bytes:
        body = {"type": kind, "sequence_number": self._sequence} | members
        self._sequence += 1
        return b"event: " + kind.encode() + b"\ndata: " + json.encode(body) + b"\n\n"

    def _start(self) -> bytes:
        self._started = True
        usage, self._response.usage = self._response.usage, None
        head = response_object(self._response, "in_progress", [])
        self._response.usage = usage
        return self._event("response.created", {"response": head}) + self._event(
            "response.in_progress", {"response": head}
        )

    def _failed(self, error: c.UpstreamError) -> bytes:
        self._closed = True
        self._response.error = error
        body = response_object(self._response, "failed", self._output)
        members = {"response": body, "error": error_object(error)}
        return self._event("response.failed", members)

    def _text(self, kind: str, text: str) -> bytes:
        """A text that comes while a call's arguments are incomplete waits for the end, as items cannot be reopened."""
        if self._held or (self._open == "call" and not self._call_is_complete):
            self._held.append((kind, text))
            return b""
        out = b""
        if self._open != kind:
            out = self._finish_item() + self._open_item(kind)
        self._pieces.append(text)
        number = self._sequence
        self._sequence += 1
        return out + self._head + json.encode(text) + b',"sequence_number":%d}\n\n' % number

    def _open_item(self, kind: str) -> bytes:
        index = len(self._output)
        self._open, self._pieces = kind, []
        if kind == "text":
            self._item_id = f"msg_{self._response.id}_{index}"
            item = message_item(self._item_id, "", "in_progress")
            part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            added, delta, slot = "response.content_part.added", "response.output_text.delta", "content_index"
        else:
            self._item_id = f"rs_{self._response.id}_{index}"
            item = reasoning_item(self._item_id, "")
            part = {"type": "summary_text", "text": ""}
            added, slot = "response.reasoning_summary_part.added", "summary_index"
            delta = "response.reasoning_summary_text.delta"
        item["content" if kind == "text" else "summary"] = []
        place: dict[str, Any] = {"item_id": self._item_id, "output_index": index, slot: 0}
        self._head = (
            b"event: "
            + delta.encode()
            + b"\ndata: "
            + json.encode({"type": delta} | place)[:-1]
            + (b',"logprobs":[],"delta":' if kind == "text" else b',"delta":')
        )
        return self._event("response.output_item.added", {"output_index": index, "item": item}) + self._event(
            added, place | {"part": part}
        )

    def _finish_item(self) -> bytes:
        kind, self._open = self._open, ""
        if kind == "call":
            return self._finish_call()
        if not kind:
            return b""
        index, text = len(self._output), "".join(self._pieces)
        if kind == "text":
            place: dict[str, Any] = {"item_id": self._item_id, "output_index": index, "content_index": 0}
            item = message_item(self._item_id, text)
            out = self._event("response.output_text.done", place | {"text": text, "logprobs": []})
            out += self._event("response.content_part.done", place | {"part": item["content"][0]})
        else:
            place = {"item_id": self._item_id, "output_index": index, "summary_index": 0}
            item = reasoning_item(self._item_id, text)
            out = self._event("response.reasoning_summary_text.done", place | {"text": text})
            out += self._event("response.reasoning_summary_part.done", place | {"part": item["summary"][0]})
        self._output.append(item)
        return out + self._event("response.output_item.done", {"output_index": index, "item": item})

    def _tool(self, delta: c.ToolDelta) -> bytes:
        """Calls are written one after the other: a second call waits until the first one's arguments are complete."""
        if self._open == "call" and self._call_index != delta.index:
            if delta.index in self._waiting or not delta.name or not self._call_is_complete:
                merge_delta(self._waiting, delta)
                return b""
        elif delta.index in self._waiting or (self._open != "call" and delta.index in self._written):
            merge_delta(self._waiting, delta)
            return b""
        return self._write_call(delta)

    @property
    def _call_is_complete(self) -> bool:
        return self._call.kind != "custom" and json.is_object(self._call.arguments)

    def _write_call(self, delta: c.ToolDelta) -> bytes:
        out = b""
        if self._open != "call" or self._call_index != delta.index:
            out = self._finish_item()
            self._open, self._call_index = "call", delta.index
            self._written.add(delta.index)
            self._call = c.ToolCall(delta.id, delta.name, "", delta.kind)
            index = len(self._output)
            self._item_id = "fc_" + (delta.id.removeprefix("fc_") or str(index))
            item = call_item(self._item_id, self._call, "in_progress")
            out += self._event("response.output_item.added", {"output_index": index, "item": item})
        if delta.arguments:
            self._call.arguments += delta.arguments
            place = {"item_id": self._item_id, "output_index": len(self._output)}
            out += self._event(_ARGUMENTS[self._call.kind] + ".delta", place | {"delta": delta.arguments})
        return out

    def _finish_call(self) -> bytes:
        index, call, out = len(self._output), self._call, b""
        place: dict[str, Any] = {"item_id": self._item_id, "output_index": index}
        if not call.arguments and not call.kind:
            call.arguments = "{}"
            out = self._event(_ARGUMENTS[""] + ".delta", place | {"delta": "{}"})
        item = call_item(self._item_id, call)
        done = {"input": call.arguments} if call.kind else {"arguments": call.arguments, "name": call.name}
        out += self._event(_ARGUMENTS[call.kind] + ".done", place | done)
        self._output.append(item)
        return out + self._event("response.output_item.done", {"output_index": index, "item": item})
