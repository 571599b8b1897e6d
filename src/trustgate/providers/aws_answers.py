"""Answers of Bedrock: error bodies, token counts in headers, binary event streams (spec 03 §8.3, §11).

What lives here: bytes that came from AWS turned into what the other rooms read. Frames are parsed by botocore, which is
loaded on first use. What must not: signing.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from trustgate.providers.errors import MALFORMED, StreamBroken

if TYPE_CHECKING:
    from trustgate.formats.streams import StreamRelay

METRICS = "amazon-bedrock-invocationMetrics"
_COUNTS = (
    (b"x-amzn-bedrock-input-token-count", "inputTokenCount"),
    (b"x-amzn-bedrock-output-token-count", "outputTokenCount"),
)
CONVERSE_EVENTS = frozenset(
    {"messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata"}
)
MAX_FRAME = 24 << 20
"""Bytes of one message at most; the protocol's own limit is 24 MiB."""


class _Error(msgspec.Struct):
    message: str = ""
    message_upper: str = msgspec.field(default="", name="Message")
    type_: str = msgspec.field(default="", name="__type")
    code: str = ""


def error_code(kind: str) -> str:
    """The bare code of an AWS error type such as `com.amazonaws#ThrottlingException:http://...`."""
    return kind.split(":", 1)[0].rpartition("#")[2].strip()


def error_body(status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """`{"error": code, "message": text}` from an AWS error, `{"message": text}` when it does not have that shape."""
    kind = next((value.decode("latin-1") for name, value in headers if name == b"x-amzn-errortype"), "")
    try:
        error = msgspec.json.decode(body, type=_Error)
    except MALFORMED:
        error = _Error(message=body.decode("utf-8", "replace")[:1024])
    code = error_code(kind or error.type_ or error.code)
    message = error.message or error.message_upper
    answer = {"error": code, "message": message} if code else {"message": message or f"upstream status {status}"}
    return msgspec.json.encode(answer)


def with_token_counts(body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """`body` with the token counts of the headers spliced in, unless it brings its own."""
    counts: dict[str, int] = {}
    for name, value in headers:
        for header, member in _COUNTS:
            if name == header and value.strip().isdigit():
                counts[member] = int(value)
    if not counts:
        return body
    try:
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except MALFORMED:
        return body
    if METRICS in members:
        return body
    return msgspec.json.encode({**members, METRICS: counts})


class FrameRelay:
    """Unwraps `chunk` events, and events of ConverseStream by their names, into the SSE lines the relay inside reads.

    `feed` and `end` raise `StreamBroken` for an exception frame, for bytes that are no frames and for a stream that
    ends inside one; what came before goes out first.
    """

    def __init__(self, inner: StreamRelay) -> None:
        from botocore.eventstream import EventStreamBuffer

        self._inner = inner
        self._buffer: Any = EventStreamBuffer()
        self._pending = 0  # bytes since the last complete message
        self._broken: StreamBroken | None = None

    def __getattr__(self, name: str) -> Any:
        """Everything else is the inner relay's."""
        return getattr(self._inner, name)

    def feed(self, data: bytes) -> bytes:
        if self._broken is not None:
            raise self._broken
        lines = self._lines(data)
        if lines:
            return self._inner.feed(b"".join(lines))
        if self._broken is not None:
            raise self._broken
        return b""

    def end(self) -> bytes:
        if self._broken is not None:
            raise self._broken
        if self._pending:
            raise StreamBroken("the event stream ended inside a message")
        return self._inner.end()

    def _lines(self, data: bytes) -> list[bytes]:
        """The SSE lines of all messages that are complete; the first trouble is kept in `_broken`."""
        from botocore.eventstream import ParserError

        self._buffer.add_data(data)
        self._pending += len(data)
        lines: list[bytes] = []
        try:
            for message in self._buffer:
                self._pending -= message.prelude.total_length
                lines.append(self._line(message))
        except ParserError:
            self._broken = StreamBroken("the event stream cannot be read")
        except StreamBroken as broken:
            self._broken = broken
        if self._pending > MAX_FRAME:
            self._broken = StreamBroken("a message of the event stream is too long")
        return lines

    @staticmethod
    def _line(message: Any) -> bytes:
        headers = message.headers
        if headers.get(":message-type") in ("exception", "error"):
            raise StreamBroken(str(headers.get(":exception-type") or headers.get(":error-code") or "exception"))
        kind = headers.get(":event-type")
        if kind in CONVERSE_EVENTS:
            # A payload is compact JSON of one line; ConverseStream tells its kind in the frame's header alone.
            return b'data: {"%b":%b}\n\n' % (kind.encode(), b" ".join(message.payload.splitlines()))
        if kind != "chunk":
            return b""
        try:
            chunk = base64.b64decode(msgspec.json.decode(message.payload, type=dict[str, Any])["bytes"], validate=True)
        except (*MALFORMED, KeyError, TypeError):
            raise StreamBroken("a chunk of the event stream cannot be read") from None
        return b"data: " + b" ".join(chunk.splitlines()) + b"\n\n"
