"""One client connection: read a request, run the ASGI application in this very task, write the answer, repeat.

There is one task and one cancel scope per connection and none per request. Whatever ends a connection early (the
client left, a deadline passed, the drain is over) cancels that scope, so the running application sees an ordinary
cancellation. Pipelined requests stay in the buffer and the kernel until the one before is answered.
"""

import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

import trio

from trustgate.wire import request_head, response_head
from trustgate.wire.chunked import ChunkedDecoder
from trustgate.wire.request_head import Refused, RequestHead
from trustgate.wire.response_head import HeaderBlock
from trustgate.wire.sockets import Channel

if TYPE_CHECKING:
    from trustgate.wire.server import Server

log = logging.getLogger("trustgate.wire")

Field = tuple[bytes, bytes]
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
ASGIApp = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

_READ_BYTES: Final = 65536
_READ_BODY_BYTES: Final = 262144
_LINGER_S: Final = 2.0
_BURST: Final = 32
"""Requests served without ever waiting for the socket before other tasks get a turn."""
_NEVER: Final = float("inf")
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_INTERNAL_ERROR: Final = b'{"error":"Internal server error"}'
_JSON: Final = [(b"content-type", b"application/json")]
_END: Final = b"\r\n"
_CLOSE_END: Final = b"Connection: close\r\n\r\n"
_CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"

# What the connection is doing; the sweeper and the drain act on it.
IDLE, READING, RUNNING, WRITING, CLOSING = range(5)


class _Closed(Exception):
    """The client ended the connection; there is nobody to answer."""


class Connection:
    """Mutable state: `phase` and `deadline` are written by this task only; `expire`, `hang_up` and `stop` are called
    by the server's tasks and do no more than cancel the scope."""

    def __init__(self, server: "Server", app: ASGIApp, channel: Channel, client: tuple[str, int]) -> None:
        self.client = client
        self.phase = READING  # a fresh connection owes its first request within the read timeout
        self.deadline = monotonic() + server.config.read_timeout_s
        self.keep_alive = True
        self._server = server
        self._config = server.config
        self._app = app
        self._channel = channel
        self._scope = trio.CancelScope()
        self._timed_out = False
        self._gone = False
        self._data: bytes = b""  # received, not yet consumed
        self._address = _local_address(channel.sock)
        # The request being answered.
        self._body = b""
        self._method = b""
        self._body_taken = False
        self._answered = True  # the response is complete
        self._started = False  # its head has been written
        self._chunked = False
        self._left = -1  # bytes the application still owes of its declared Content-Length; -1: none declared
        self._status = 0
        self._head_fields: Iterable[Field] = ()
        self._head_block: HeaderBlock | None = None

    # -- what other tasks may call -------------------------------------------------------------------------------

    def hang_up(self) -> None:
        """The peer closed. A request being worked on is cancelled; anything else finds out by reading."""
        if self.phase in (RUNNING, WRITING) and not self._answered:
            self._server.disconnects += 1
            self._scope.cancel()
        self._gone = True

    def expire(self) -> None:
        self._timed_out = True
        self._scope.cancel()

    def stop(self, *, now: bool) -> None:
        """Stop after the request being answered, or at once."""
        self.keep_alive = False
        if now or self.phase == IDLE or (self.phase == READING and not self._data):
            self._scope.cancel()

    def is_busy(self) -> bool:
        return self.phase in (RUNNING, WRITING)

    # -- the life of a connection --------------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            with self._scope:
                try:
                    await self._serve()
                except Refused as refusal:
                    await self._refuse(refusal)
                except (_Closed, OSError, trio.ClosedResourceError):
                    pass  # the client is gone; there is nobody to tell
                except Exception:
                    log.exception("a connection failed")  # one connection must never take the server down
            if self._scope.cancelled_caught and self._timed_out and self.phase == READING and self._data:
                self._say(response_head.plain_text(408, "Request Timeout"))
        finally:
            self._server.forget(self)
            self._channel.close()

    async def _serve(self) -> None:
        burst = 0
        while True:
            head = await self._read_head()
            self._body = await self._read_body(head)
            if self._gone:
                return
            self.phase = RUNNING
            self.deadline = _NEVER
            await self._answer(head)
            self._body = b""
            if not self.keep_alive or self._gone:
                await self._linger()
                return
            self.phase = READING if self._data else IDLE
            self.deadline = monotonic() + (self._config.read_timeout_s if self._data else self._config.idle_timeout_s)
            burst += 1
            if burst == _BURST:
                burst = 0
                await trio.lowlevel.checkpoint()

    async def _receive_more(self, size: int = _READ_BYTES) -> bytes:
        data = await self._channel.receive(size)
        if not data:
            raise _Closed
        if self.phase == IDLE:
            self.phase = READING
            self.deadline = monotonic() + self._config.read_timeout_s
        return data

    async def _read_head(self) -> RequestHead:
        data = self._data
        searched = 0
        while True:
            if data[:2] == b"\r\n":  # RFC 9112 §2.2: an empty line before the request line is ignored
                data = data[2:]
            end = data.find(b"\r\n\r\n", searched)
            if 0 <= end <= self._config.max_head_bytes:
                head = request_head.parse(data, end)
                self._data = data[end + 4 :]
                return head
            if end >= 0 or len(data) > self._config.max_head_bytes:
                raise Refused(431, "Request Header Fields Too Large")
            if data and data != b"\r":
                request_head.check_incomplete(data, searched)
            searched = max(0, len(data) - 3)
            self._data = data
            data = data + await self._receive_more() if data else await self._receive_more()

    async def _read_body(self, head: RequestHead) -> bytes:
        length = head.length
        if length == 0:
            return b""
        limit = self._config.max_body_bytes
        if length is not None and length > limit:
            raise Refused(413, "Request Entity Too Large")
        data = self._data
        if length is not None and len(data) >= length:
            self._data = data[length:]
            return data if len(data) == length else data[:length]
        if head.expects_continue and not data:
            await self._write(_CONTINUE)
            self.phase = READING
            self.deadline = monotonic() + self._config.read_timeout_s
        self._data = data or b" "  # something was received: a timeout is answered with 408
        if length is None:
            return await self._read_chunked(data, limit)
        parts = [data]
        missing = length - len(data)
        while missing > 0:
            # Never past this message: what follows stays in the kernel.
            part = await self._receive_more(min(missing, _READ_BODY_BYTES))
            parts.append(part)
            missing -= len(part)
        self._data = b""
        return b"".join(parts)

    async def _read_chunked(self, data: bytes, limit: int) -> bytes:
        decoder = ChunkedDecoder(limit)
        decoder.feed(data)
        while not decoder.done:
            decoder.feed(await self._receive_more())
        self._data = decoder.rest
        return decoder.body()

    # -- one request ---------------------------------------------------------------------------------------------

    async def _answer(self, head: RequestHead) -> None:
        self._server.requests += 1
        self._method = head.method
        self._body_taken = False
        self._answered = False
        self._started = False
        self._status = 0
        self._head_block = None
        if not head.keep_alive:
            self.keep_alive = False
        path, _, query = head.target.partition(b"?")
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.0" if head.http_10 else "1.1",
            "method": head.method.decode("ascii"),
            "scheme": "http",
            "path": (unquote_to_bytes(path) if 37 in path else path).decode("utf-8", "replace"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": head.headers,
            "client": self.client,
            "server": self._address,
            "extensions": {"trustgate": {"body": self._body, "respond": self.respond, "start": self.start}},
        }
        self._chunked = not head.http_10
        try:
            await self._app(scope, self._receive, self._send)
        except Exception:
            log.exception("the application failed")
            await self._fail()
        else:
            if not self._answered:
                log.error("the application returned without a complete response")
                await self._fail()

    async def _fail(self) -> None:
        if self._answered:
            return
        self.keep_alive = False
        if self._started:
            self._abort()
        else:
            await self.respond(500, _JSON, _INTERNAL_ERROR)

    async def respond(
        self, status: int, headers: Iterable[Field], body: bytes, block: HeaderBlock | None = None
    ) -> None:
        """Answer completely with one write. `headers` are lower-case pairs without Content-Length; `block` holds more
        of them, prepared once."""
        if self._answered or self._started:
            raise RuntimeError("the response has already been started")
        lines = response_head.status_line(status) + response_head.header_lines(headers)
        if block is not None:
            lines += block.lines
        end = _END if self.keep_alive else _CLOSE_END
        if status == 204 or status == 304 or status < 200:
            data = lines + end
        elif self._method == b"HEAD":
            data = b"%bContent-Length: %d\r\n%b" % (lines, len(body), end)
        elif len(body) < _READ_BYTES:
            data = b"%bContent-Length: %d\r\n%b%b" % (lines, len(body), end, body)
        else:
            self._started = True
            await self._write(b"%bContent-Length: %d\r\n%b" % (lines, len(body), end), body)
            self._answered = True
            return
        self._started = True
        await self._write(data)
        self._answered = True

    def start(self, status: int, headers: Sequence[Field], block: HeaderBlock | None = None) -> None:
        """What the message `http.response.start` does, with lower-case pairs and a block of more, prepared once."""
        if self._status or self._started:
            raise RuntimeError("http.response.start was sent twice")
        self._status = status
        self._head_fields, self._head_block = headers, block
        if any(name == b"connection" and b"close" in value.lower() for name, value in headers):
            self.keep_alive = False

    async def _receive(self) -> Message:
        if not self._body_taken:
            self._body_taken = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        if not self._answered:
            await trio.sleep_forever()  # a client that leaves cancels the application instead
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.body":
            body: bytes = message.get("body", b"")
            if message.get("more_body", False):
                await self._send_part(body)
            elif self._started:
                await self._send_last(body)
            elif not self._status:
                raise RuntimeError("http.response.body before http.response.start")
            elif self._method == b"HEAD" and not body:
                await self._send_head(chunked=False)
                self._answered = True
            else:
                await self.respond(self._status, self._head_fields, body, self._head_block)
        elif kind == "http.response.start":
            headers = message.get("headers", ())
            self.start(message["status"], [(bytes(name).lower(), bytes(value)) for name, value in headers])
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    def _stream_head(self) -> bytes:
        """The head of a response whose body comes in parts; decides how the body is framed."""
        declared = [value for name, value in self._head_fields if name == b"content-length"]
        bodyless = self._status in (204, 304) or self._status < 200
        self._left = int(declared[0]) if declared else -1
        if declared or bodyless:
            self._chunked = False
        elif not self._chunked:  # HTTP/1.0: the body ends with the connection
            self.keep_alive = False
        lines = response_head.status_line(self._status) + response_head.header_lines(self._head_fields)
        if self._head_block is not None:
            lines += self._head_block.lines
        if declared and not bodyless:
            lines += b"Content-Length: %d\r\n" % self._left
        elif self._chunked:
            lines += _CHUNKED
        self._started = True
        return lines + (_END if self.keep_alive else _CLOSE_END)

    async def _send_head(self, *, chunked: bool) -> None:
        self._chunked = self._chunked and chunked
        await self._write(self._stream_head())

    def _frame(self, body: bytes) -> bytes:
        if not body or self._method == b"HEAD" or self._status in (204, 304):
            return b""
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(body), body)
        if self._left >= 0:
            if len(body) > self._left:
                raise RuntimeError("the body is longer than its Content-Length")
            self._left -= len(body)
        return body

    async def _send_part(self, body: bytes) -> None:
        if self._started:
            if self._answered:
                raise RuntimeError("the response is already complete")
            if body:
                await self._write(self._frame(body))
            return
        if not self._status:
            raise RuntimeError("http.response.body before http.response.start")
        head = self._stream_head()
        await self._write(head + self._frame(body))

    async def _send_last(self, body: bytes) -> None:
        if self._answered:
            raise RuntimeError("the response is already complete")
        data = self._frame(body)
        if self._method != b"HEAD":
            if self._chunked:
                data += _LAST_CHUNK
            elif self._left > 0:
                raise RuntimeError("the body is shorter than its Content-Length")
        if data:
            await self._write(data)
        self._answered = True

    # -- bytes ---------------------------------------------------------------------------------------------------

    async def _write(self, data: bytes, body: bytes = b"") -> None:
        """All of both, each step of progress within the write timeout. A client that is gone cancels the application.

        A large `body` is not copied to follow `data`; both leave in one system call.
        """
        try:
            sent = self._channel.send_both_now(data, body) if body else self._channel.send_now(data)
            if sent == len(data) + len(body):
                return
            phase = self.phase
            self.phase = WRITING
            for part in (data, body):
                view = memoryview(part)[sent:]
                sent = max(0, sent - len(part))
                while view:
                    self.deadline = monotonic() + self._config.write_timeout_s
                    view = view[await self._channel.send_some(view) :]
            self.phase = phase
            self.deadline = _NEVER
        except (OSError, trio.ClosedResourceError):
            self._server.disconnects += 1
            self._scope.cancel()
            await trio.lowlevel.checkpoint()

    def _say(self, data: bytes) -> None:
        """Best effort: a last word to a client that may be gone."""
        try:
            self._channel.send_now(data)
        except OSError:
            log.debug("a client was gone before its last answer")
        self._channel.shut_down()

    def _abort(self) -> None:
        """A response that broke off must not look complete: no last chunk, and a reset where the end of the
        connection would be the end of the body."""
        self.phase = CLOSING
        self._answered = True
        if not self._chunked and self._left < 0:
            self._channel.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _refuse(self, refusal: Refused) -> None:
        self._server.refusals += 1
        self._say(response_head.plain_text(refusal.status, refusal.text))
        await self._drain_input()

    async def _linger(self) -> None:
        if self.phase != CLOSING:
            self._channel.shut_down()
            await self._drain_input()

    async def _drain_input(self) -> None:
        """Read and drop what the client still sends: closing with unread input would reset the connection and could
        take the answer away from a client that is still writing."""
        self.phase = CLOSING
        self.deadline = monotonic() + _LINGER_S
        while await self._channel.receive(_READ_BODY_BYTES):
            pass


def _local_address(sock: socket.socket) -> tuple[str, int]:
    name: Any = sock.getsockname()
    return ("", 0) if sock.family == socket.AF_UNIX else (name[0], name[1])
