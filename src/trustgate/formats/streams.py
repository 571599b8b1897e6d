"""The way of a streamed answer from an upstream's bytes to a client's bytes, event by event, without any I/O.

Same dialect: the upstream's lines verbatim, looked into only where they may say something (usage, finish, id, errors,
tool calls). Other dialects: each `data:` payload is decoded, and encoded for the client by a stateful encoder that
keeps the event order of the client's official SDK. However the upstream's bytes are cut, the output is the same.
Implements topic "streaming: framing, end and errors, accounting" of the proxy contract.
"""

from __future__ import annotations

from . import json
from .canonical import Observed, StreamEvent, UpstreamError
from .coalesce import Coalescer
from .codecs import CODECS, StreamDecoder, StreamEncoder
from .errors import DecodeError, LineTooLong
from .translate import same_wire

MAX_LINE = 2 * 1024 * 1024
MAX_TEXT = 8 * 1024 * 1024
FAILURE = UpstreamError("upstream stream terminated unexpectedly", "upstream_error")
_KEEP_RAW = 1024 * 1024
_OPENAI_CLIENTS = frozenset({"openai"})
_OPENAI_WIRE = frozenset({"openai", "azure", "groq", "deepseek", "xai", "openrouter", "mistral"})
_GEMINI = (b"finish", b"usage", b"function", b'"error"')
# What makes a line of each dialect worth decoding when it is relayed verbatim.
_TELLING: dict[str, tuple[bytes, ...]] = {
    "anthropic": (b"message_start", b"message_delta", b"message_stop", b'"error"'),
    "openai_responses": (
        b'"response.created"',
        b'"response.completed"',
        b'"response.incomplete"',
        b'"response.failed"',
        b'"function_call"',
        b'"error"',
    ),
    "google": _GEMINI,
    "vertex": _GEMINI,
    "cohere": (b"message-start", b"message-end", b'"error"'),
}


class StreamRelay:
    """One streamed answer. Feed upstream body bytes in any chunking; send what comes back to the client.

    `observed` holds what accounting needs as far as it was seen, `done` whether the upstream's terminator was seen,
    `error` the first error event, `text` the assistant's text so far (at most 8 MiB; decoded when it is read, empty
    when `collect` is off).
    """

    def __init__(self, client: str, wire: str, *, collect: bool = True) -> None:
        self.observed = Observed()
        self.done = False
        self.error: UpstreamError | None = None
        self._client = client
        self._collect = collect
        self._closed = False  # nothing more goes to the client
        self._rest = b""  # the line that has not ended yet
        self._decoder: StreamDecoder = CODECS[wire].stream_decoder()
        self._texts: list[str] = []
        self._text_size = 0
        self._encoder: StreamEncoder | None = None
        self._raw: list[bytes] = []  # relayed verbatim, not yet read for its text
        self._raw_size = 0
        # A quiet event: what stands before and after its text, and its quotation marks. One that differs in the text
        # alone needs no further look, as a text without quotation marks and line breaks cannot end early.
        self._head, self._tail, self._quotes, self._breaks = b"", b"", -1, 0
        self._last = b""  # the end of what was relayed verbatim
        self._any_chunk = False
        self._openai_client = client in _OPENAI_CLIENTS
        self._openai_wire = wire in _OPENAI_WIRE
        self._finish_ends = wire in ("google", "vertex")  # their streams have no terminator of their own
        self._coalescer = Coalescer()
        self._telling = _TELLING.get(wire, ())
        if not same_wire(client, wire) and not (client == "openai" and wire in ("groq", "openrouter")):
            self._encoder = CODECS[client].stream_encoder()

    def feed(self, data: bytes) -> bytes:
        """Bytes for the client after these bytes of the upstream. Raises `LineTooLong`."""
        if self._closed:
            return b""
        if self._rest:
            data = self._rest + data
        if data.endswith(b"\n"):
            self._rest = b""
        else:
            end = data.rfind(b"\n") + 1
            self._rest = data[end:]
            if len(self._rest) > MAX_LINE:
                raise LineTooLong(MAX_LINE)
            if not end:
                return b""
            data = data[:end]
        if self._encoder is None:
            return self._relayed(data)
        out = self._lines(data)
        self._last = out[-2:] or self._last
        return out

    def _relayed(self, data: bytes) -> bytes:
        """Lines in the client's own dialect; of events that arrived together only the telling ones are decoded."""
        if self._is_quiet(data):
            return self._unread(data)
        *events, rest = data.split(b"\n\n")
        out: list[bytes] = []
        for piece in [event + b"\n\n" for event in events] + ([rest] if rest else []):
            if self._is_quiet(piece):
                out.append(self._unread(piece))
                continue
            lines = self._lines(piece)
            out.append(lines)
            self._last = lines[-2:] or self._last
            if self._closed:
                break
        return b"".join(out)

    def _unread(self, data: bytes) -> bytes:
        if self._collect:
            self._raw.append(data)
            self._raw_size += len(data)
            if self._raw_size > _KEEP_RAW:
                self._read_raw()
        self._last = data
        return data

    def _is_quiet(self, data: bytes) -> bool:
        return (
            data.startswith(self._head)
            and data.endswith(self._tail)
            and data.count(b'"') == self._quotes
            and data.count(b"\n") == self._breaks
        ) or not self._must_look(data)

    def end(self) -> bytes:
        """Bytes for the client after a clean end of the upstream: an unfinished line, and the dialect's own closing."""
        if self._closed:
            return b""
        out = self._lines(self._rest + b"\n") if self._rest else b""
        self._rest = b""
        if self._closed:
            return out
        self._closed = True
        if self._encoder is not None:
            return out + self._encoder.end()
        tail = self._coalescer.flush()
        if self._openai_client and self._any_chunk:
            tail += b"data: [DONE]\n\n"
        if tail:
            self._last = out or self._last
            tail = self._boundary() + tail
        return out + tail

    def fail(self) -> bytes:
        """Bytes that tell the client, in its own dialect, that the upstream broke off; calls not yet sent are lost."""
        if self._closed:
            return b""
        self._closed = True
        if self._encoder is not None:
            return failure(self._client)
        return self._boundary() + failure(self._client)

    def refuse(self, error: UpstreamError) -> bytes:
        """Bytes that end the client's stream, in its own dialect, because the gateway refuses the rest of it."""
        self._closed = True
        return failure(self._client, error)

    @property
    def has_text(self) -> bool:
        """Whether any text has gone by; reads no more than it takes to see some."""
        while self._raw and not self._texts:
            data = self._raw.pop(0)
            self._raw_size -= len(data)
            self._read(data)
        return bool(self._texts)

    def stop_collecting(self) -> None:
        """Nobody will ask for the text of what follows, nor for `text`."""
        self._collect = False
        self._raw, self._raw_size = [], 0

    @property
    def text(self) -> str:
        """The assistant's text that has gone by."""
        self._read_raw()
        return "".join(self._texts)

    def _boundary(self) -> bytes:
        """The blank line that is missing when the last relayed line belongs to an event that was not closed."""
        return b"" if self._last.endswith(b"\n\n") or self._last in (b"", b"\n") else b"\n"

    def _must_look(self, data: bytes) -> bool:
        """Whether lines of the data must be read one by one: something to account for, to merge, or to stop at."""
        find, count = data.find, data.count
        if len(data) > MAX_LINE or find(b"\r") >= 0 or find(b"[DONE]") >= 0:
            return True
        if self._openai_wire:
            if (
                not self._any_chunk
                or find(b'"tool_calls"') >= 0
                or find(b'"error"') >= 0
                or count(b'"finish_reason"') != count(b'"finish_reason":null')
                or count(b'"usage"') != count(b'"usage":null')
            ):
                return True
        else:
            for marker in self._telling:
                if find(marker) >= 0:
                    return True
        self._learn(data)
        return False

    def _learn(self, data: bytes) -> None:
        """Remembers the shape of a quiet event, so that the next one of that shape is known at a glance."""
        key = b'"content":"' if self._openai_wire else b'"text":"'
        start = data.find(key) + len(key)
        end = data.find(b'"', start)
        if start >= len(key) and end > 0 and data.count(b"\n\n") == 1 and data.endswith(b"\n\n"):
            self._head, self._tail = data[:start], data[end:]
            self._quotes, self._breaks = data.count(b'"'), data.count(b"\n")

    def _lines(self, data: bytes) -> bytes:
        out: list[bytes] = []
        for raw in data[:-1].split(b"\n"):
            line = raw[:-1] if raw.endswith(b"\r") else raw
            if len(line) > MAX_LINE:
                raise LineTooLong(MAX_LINE)
            if self._encoder is not None:
                if line.startswith(b"data:"):
                    out.append(self._translated(line[5:].strip(b" "), self._encoder))
            else:
                out.append(self._verbatim(line))
            if self._closed:
                break
        return b"".join(out)

    def _translated(self, payload: bytes, encoder: StreamEncoder) -> bytes:
        if payload == b"[DONE]":
            self.done = True
            self._closed = True
            return encoder.end()
        try:
            event = self._decoder.decode(payload)
        except DecodeError:
            return b""
        if event is None:
            return b""
        self._observe(event)
        if event.text:
            self._keep(event.text)
        out = encoder.encode(event)
        if event.error is not None:
            self._closed = True
        return out

    def _verbatim(self, line: bytes) -> bytes:
        if not line.startswith(b"data:"):
            return line + b"\n"
        payload = line[5:].strip(b" ")
        if payload == b"[DONE]":
            self.done = True
            self._closed = True
            return self._coalescer.flush() + line + b"\n\n"
        try:
            event = self._decoder.decode(payload)
        except DecodeError:
            return line + b"\n"
        if event is not None:
            self._any_chunk = True
            self._observe(event)
            if event.text:
                self._read_raw()
                self._keep(event.text)
            if self._openai_client and (event.tool_calls or (event.finish_reason and self._coalescer.pending)):
                replaced = self._coalescer.absorb(payload)
                if replaced is not None:
                    return replaced
        return line + b"\n"

    def _observe(self, event: StreamEvent) -> None:
        observed = self.observed
        if event.id:
            observed.id = event.id
        if event.model:
            observed.model = event.model
        if event.finish_reason:
            observed.finish_reason = event.finish_reason
        if event.usage is not None:
            if observed.usage is None:
                observed.usage = event.usage
            elif observed.usage is not event.usage:
                observed.usage.merge(event.usage)
        if event.done or (self._finish_ends and event.finish_reason):
            self.done = True
        if event.error is not None and self.error is None:
            self.error = event.error

    def _keep(self, text: str) -> None:
        if self._collect and self._text_size < MAX_TEXT:
            self._texts.append(text)
            self._text_size += len(text)

    def _read_raw(self) -> None:
        """Reads the texts of what was relayed unread."""
        if not self._raw:
            return
        data, self._raw, self._raw_size = b"".join(self._raw), [], 0
        self._read(data)

    def _read(self, data: bytes) -> None:
        for line in data.split(b"\n"):
            if line.startswith(b"data:"):
                try:
                    event = self._decoder.decode(line[5:].strip(b" "))
                except DecodeError:
                    continue
                if event is not None and event.text:
                    self._keep(event.text)


def failure(client: str, error: UpstreamError = FAILURE) -> bytes:
    """The event that ends a client's stream before its time, as when the upstream broke off.

    Every dialect gets an `error` member with the same message and type; Anthropic and Responses clients get it in
    the event their SDK raises on.
    """
    codec = CODECS.get(client)
    if codec is None or client in _OPENAI_CLIENTS:
        return b"data: " + json.encode({"error": {"message": error.message, "type": error.type}}) + b"\n\n"
    return codec.stream_encoder().encode(StreamEvent(error=error))
