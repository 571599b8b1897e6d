"""Gemini generateContent: answers, buffered and as a stream, to the canonical model and back.

A stream is a sequence of whole answers; function calls are never cut, so the encoder collects their fragments and
sends them complete with the finish and the usage in the last event.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from . import canonical as c
from . import content, json
from .gemini import Content, Part, encode_call
from .openai_stream import merge_delta

_FILTERED = (
    *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE"),
    *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
)
FINISH_IN = {"STOP": "stop", "MAX_TOKENS": "length"} | dict.fromkeys(_FILTERED, "content_filter")
FINISH_OUT = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP"}


class _Usage(Struct):
    promptTokenCount: int | None = None
    candidatesTokenCount: int | None = None
    totalTokenCount: int | None = None
    cachedContentTokenCount: int | None = None
    thoughtsTokenCount: int | None = None
    toolUsePromptTokenCount: int | None = None


class _Candidate(Struct):
    content: Content | None = None
    finishReason: str | None = None
    index: int | None = None


class _Feedback(Struct):
    blockReason: str | None = None


class _Response(Struct):
    candidates: list[_Candidate] | None = None
    usageMetadata: _Usage | None = None
    responseId: str | None = None
    modelVersion: str | None = None
    promptFeedback: _Feedback | None = None
    error: Raw = Raw()


_decode_response = msgspec.json.Decoder(_Response).decode


def decode_usage(wire: _Usage | None) -> c.Usage | None:
    """Canonical counts; thoughts are a detail and not added to the output. None when the answer has none."""
    if wire is None:
        return None
    return c.usage_or_none(
        c.Usage(
            input_tokens=wire.promptTokenCount or 0,
            output_tokens=wire.candidatesTokenCount or 0,
            total_tokens=wire.totalTokenCount or 0,
            cached_input_tokens=wire.cachedContentTokenCount or 0,
            reasoning_output_tokens=wire.thoughtsTokenCount or 0,
            tool_use_input_tokens=wire.toolUsePromptTokenCount or 0,
        )
    )


def encode_usage(usage: c.Usage) -> dict[str, Any]:
    """`usageMetadata` with the details that are known."""
    wire: dict[str, Any] = {
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": usage.output_tokens,
        "totalTokenCount": usage.total_tokens,
    }
    if usage.cached:
        wire["cachedContentTokenCount"] = usage.cached
    if usage.reasoning_output_tokens:
        wire["thoughtsTokenCount"] = usage.reasoning_output_tokens
    if usage.tool_use_input_tokens:
        wire["toolUsePromptTokenCount"] = usage.tool_use_input_tokens
    return wire


def _call(part: Part, number: int, response_id: str) -> c.ToolCall | None:
    call = part.functionCall or part.function_call
    if call is None:
        return None
    name = call.name or ""
    call_id = call.id or (f"call_{number}_{response_id}" if response_id else f"call_{name}_{number}")
    arguments = "{}" if json.is_null(call.args) else json.raw_text(json.compact(call.args))
    return c.ToolCall(call_id, name, arguments, signature=part.thoughtSignature or part.thought_signature or "")


def decode_response(body: bytes) -> c.Response:
    """The first candidate. An answer of nothing but thoughts gives them as its text too."""
    wire = json.decode_with(_decode_response, body)
    response = c.Response(id=wire.responseId or "", model=wire.modelVersion or "")
    response.usage = decode_usage(wire.usageMetadata)
    if not wire.candidates:
        response.error = content.error_of(wire.error)
        if wire.promptFeedback is not None and wire.promptFeedback.blockReason:
            response.finish_reason = "content_filter"
        return response
    candidate = wire.candidates[0]
    for part in (candidate.content or Content()).parts or []:
        call = _call(part, len(response.tool_calls), response.id)
        if call is not None:
            response.tool_calls.append(call)
        elif part.text:
            if part.thought:
                response.thinking.append(c.Thinking(part.text))
            else:
                response.text += part.text
    if not response.text and not response.tool_calls:
        response.text = response.thinking_text
    reason = candidate.finishReason or ""
    response.finish_reason = "tool_calls" if response.tool_calls else FINISH_IN.get(reason, reason)
    return response


def encode_response(response: c.Response) -> bytes:
    """The answer with one candidate; a reason without a counterpart is `STOP`."""
    if response.error is not None:
        return error_body(response.error)
    parts: list[dict[str, Any]] = []
    thinking = response.thinking_text
    if thinking:
        parts.append({"text": thinking, "thought": True})
    if response.text:
        parts.append({"text": response.text})
    parts += [encode_call(call) for call in response.tool_calls]
    body: dict[str, Any] = {}
    if response.id:
        body["responseId"] = response.id
    if response.model:
        body["modelVersion"] = response.model
    finish = FINISH_OUT.get(response.finish_reason, "STOP")
    body["candidates"] = [{"content": {"role": "model", "parts": parts}, "finishReason": finish, "index": 0}]
    if response.usage is not None:
        body["usageMetadata"] = encode_usage(response.usage)
    return json.encode(body)


def error_body(error: c.UpstreamError) -> bytes:
    """`{"error":{code,message,status,type}}`; the code is an HTTP status there."""
    code = int(error.code) if error.code.isdigit() else 500
    status = error.type if error.type.isupper() else "INTERNAL"
    inner = {"code": code, "message": error.message, "status": status, "type": error.type or "upstream_error"}
    return json.encode({"error": inner})


class Decoder:
    """Reads each event as a partial answer. State: how many calls were seen, for their numbers and the finish."""

    def __init__(self) -> None:
        self._calls = 0

    def decode(self, payload: bytes) -> c.StreamEvent | None:
        """The canonical event of one `data:` payload. Raises `DecodeError`."""
        wire = json.decode_with(_decode_response, payload)
        event = c.StreamEvent(wire.responseId or "", wire.modelVersion or "", usage=decode_usage(wire.usageMetadata))
        if wire.promptFeedback is not None and wire.promptFeedback.blockReason:
            event.finish_reason = "content_filter"
        if not wire.candidates:
            event.error = content.error_of(wire.error)
            return event
        candidate = wire.candidates[0]
        event.role = "assistant"
        for part in (candidate.content or Content()).parts or []:
            call = _call(part, self._calls, event.id)
            if call is not None:
                event.tool_calls = event.tool_calls or []
                event.tool_calls.append(
                    c.ToolDelta(self._calls, call.id, call.name, call.arguments, "", call.signature)
                )
                self._calls += 1
            elif part.text:
                if part.thought:
                    event.reasoning += part.text
                else:
                    event.text += part.text
        reason = candidate.finishReason or ""
        if reason:
            event.finish_reason = FINISH_IN.get(reason, reason)
            if self._calls and event.finish_reason == "stop":
                event.finish_reason = "tool_calls"
        return event


class Encoder:
    """Writes partial answers for a client of this dialect; calls, finish and usage come with the last one."""

    def __init__(self) -> None:
        self._id = ""
        self._model = ""
        self._tail = b"}\n\n"  # id and model, as every event repeats them
        self._calls: dict[int, c.ToolCall] = {}
        self._finish = ""
        self._usage: c.Usage | None = None
        self._started = False
        self._closed = False

    def encode(self, event: c.StreamEvent) -> bytes:
        """Bytes that the event adds to the client's stream."""
        if self._closed:
            return b""
        if (event.id and event.id != self._id) or (event.model and event.model != self._model):
            self._name(event)
        if event.usage is not None:
            if self._usage is None:
                self._usage = event.usage
            else:
                self._usage.merge(event.usage)
        if event.error is not None:
            self._closed = True
            return b"data: " + error_body(event.error) + b"\n\n"
        out = b""
        if event.reasoning:
            out = self._part(b'{"text":' + json.encode(event.reasoning) + b',"thought":true}')
        text = event.text or event.refusal
        if text:
            out += self._part(b'{"text":' + json.encode(text) + b"}")
        for delta in event.tool_calls or ():
            merge_delta(self._calls, delta)
        if event.finish_reason and not self._finish:
            self._finish = event.finish_reason
        return out + self.end() if event.done else out

    def end(self) -> bytes:
        """The last event with calls, finish and usage; nothing when it was sent."""
        if self._closed:
            return b""
        self._closed = True
        parts = [encode_call(self._calls[index]) for index in sorted(self._calls)] or [{"text": ""}]
        reason = FINISH_OUT.get(self._finish) or ("STOP" if not self._finish.isupper() else self._finish)
        body: dict[str, Any] = {
            "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": reason, "index": 0}],
        }
        if self._usage is not None:
            body["usageMetadata"] = encode_usage(self._usage)
        return b"data: " + json.encode(body)[:-1] + self._tail

    def _name(self, event: c.StreamEvent) -> None:
        self._id = event.id or self._id
        self._model = event.model or self._model
        members = {name: value for name, value in (("modelVersion", self._model), ("responseId", self._id)) if value}
        self._tail = b"," + json.encode(members)[1:] + b"\n\n"

    def _part(self, part: bytes) -> bytes:
        return b'data: {"candidates":[{"content":{"role":"model","parts":[' + part + b']},"index":0}]' + self._tail
