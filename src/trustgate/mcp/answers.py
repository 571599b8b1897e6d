"""What upstream MCP servers answer (spec 05 §7.2): out of bytes, responses; out of failures, what may be told of them.

What lives here: reading answers, streams of events and pages, sans-IO. What must not: sending anything (`upstream`).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from trustgate.mcp import jsonrpc
from trustgate.mcp.jsonrpc import Message
from trustgate.wire.errors import BodyTooLarge, ConnectFailed, PeerClosed, TimedOut, TlsFailed
from trustgate.wire.sse import EventParser, LineTooLong

MAX_ANSWER_BYTES = 8 * 1024 * 1024
RESUME_DELAY_S, RESUME_FACTOR, RESUME_MAX_S = 1.0, 1.5, 30.0
REASONS = {
    "dns": "no such host",
    "refused": "connection refused",
    "unreachable": "network unreachable",
    "reset": "connection reset",
    "proxy": "the proxy refused",
    "os": "connection failed",
}


class Unavailable(Exception):
    """The server could not be reached or does not speak MCP; the text names no internal address.

    `executed` is False when the server certainly did not act on the request.
    """

    def __init__(self, text: str, *, executed: bool = True) -> None:
        super().__init__(text)
        self.executed = executed


class Rejected(Unavailable):
    """An HTTP status in place of an answer."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the server answered status {status}", executed=status >= 500)
        self.status = status


class SessionLost(Unavailable):
    """The server answered 404 to the session id it gave: it did not act on the request."""

    def __init__(self) -> None:
        super().__init__("session not found", executed=False)


class RpcError(Exception):
    """The server answered with a JSON-RPC error; `raw` is its error object as it came."""

    def __init__(self, code: int, message: str, raw: bytes = b"") -> None:
        super().__init__(message)
        self.code, self.message, self.raw = code, message, raw


class _Error(msgspec.Struct):
    code: Any = None
    message: Any = None


class _Page(msgspec.Struct):
    nextCursor: Any = None


class AnswerStream:
    """Messages out of the bytes of one logical stream, over its resumptions; `wanted` 0 waits for no answer."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self._wanted = b"%d" % wanted
        self._parser = EventParser()
        self._size = 0
        self._retry_ms: int | None = None
        self.answer: Message | None = None

    @property
    def last_id(self) -> str:
        return self._parser.last_id

    def delay_s(self, attempt: int) -> float:
        asked = self._retry_ms / 1000 if self._retry_ms is not None else RESUME_DELAY_S * RESUME_FACTOR**attempt
        return min(asked, RESUME_MAX_S)

    def feed(self, chunk: bytes) -> list[Message]:
        """The messages completed by `chunk` up to the answer, which is not among them. Raises Unavailable."""
        self._size += len(chunk) if self.wanted else 0
        if self._size > MAX_ANSWER_BYTES:
            raise Unavailable("the answer is too large")
        try:
            events = self._parser.feed(chunk)
        except LineTooLong as error:
            raise Unavailable("the answer is too large") from error
        found: list[Message] = []
        for event in events:
            if event.retry is not None:
                self._retry_ms = event.retry
            if not event.data:
                continue
            try:
                message = jsonrpc.read(event.data.encode())
            except jsonrpc.NOT_JSON as error:
                raise Unavailable("the stream is not JSON-RPC") from error
            if message.method is None and self.wanted and bytes(message.id) == self._wanted:
                self.answer = message
                break
            found.append(message)
        return found


def read_response(body: bytes, wanted: int) -> Message:
    """A JSON-RPC response with that id. Raises Unavailable for anything else."""
    try:
        message = jsonrpc.read(body)
    except jsonrpc.NOT_JSON as error:
        raise Unavailable("the answer is not JSON-RPC") from error
    if message.method is not None or bytes(message.id) != b"%d" % wanted:
        raise Unavailable("the answer is not the response to the request")
    return message


def rpc_error(raw: bytes) -> RpcError:
    try:
        found = msgspec.json.decode(raw, type=_Error)
    except jsonrpc.NOT_JSON:
        raise Unavailable("the answer's error is no object") from None
    code = found.code if isinstance(found.code, int) and not isinstance(found.code, bool) else jsonrpc.INTERNAL_ERROR
    return RpcError(code, str(found.message or ""), raw)


def read_page(result: bytes, member: str) -> tuple[list[bytes], Any]:
    """The objects of a page and its cursor. Raises Unavailable for a result that is no page."""
    try:
        members = msgspec.json.decode(result, type=dict[str, Raw])
        raw = bytes(members.get(member, Raw(b"null")))
        items = [] if raw == b"null" else msgspec.json.decode(raw, type=list[Raw])
        cursor = msgspec.json.decode(result, type=_Page).nextCursor
    except jsonrpc.NOT_JSON as error:
        raise Unavailable(f"the answer has no list of {member}") from error
    return [bytes(item) for item in items], cursor if isinstance(cursor, str) else None


def reason(error: Exception) -> str:
    """What a client may be told of a failed exchange: never an address."""
    if isinstance(error, ConnectFailed):
        return REASONS[error.reason]
    if isinstance(error, TimedOut):
        return f"timed out ({error.phase})"
    if isinstance(error, TlsFailed):
        return "TLS failed"
    if isinstance(error, BodyTooLarge):
        return "the answer is too large"
    if isinstance(error, PeerClosed):
        return "connection closed"
    return "protocol error"
