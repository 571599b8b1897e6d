"""One upstream connection: write a request, read one response at a time (parsed by httptools).

The pool owns connections (`client.py`); making them is `dial.py`. A connection belongs to exactly one request between
checkout and release. Deadlines are plain attributes that the pool's sweeper compares with the clock.
"""

import re
import ssl
from collections.abc import Sequence
from typing import Any, Final

import httptools
import msgspec
import trio

from trustgate.wire.errors import PeerClosed, Phase, ProtocolError, TimedOut, TlsFailed
from trustgate.wire.sockets import Channel

Field = tuple[bytes, bytes]

NEVER: Final = float("inf")
MAX_OVERHEAD_BYTES: Final = 128 * 1024
"""Bytes of a response head, or between two pieces of a body."""
MAX_INTERIM: Final = 16
"""1xx answers accepted before the final one."""
_READ_BYTES: Final = 65536
_MAX_KNOWN_NAMES: Final = 4096
_OURS: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection"})
TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_name_lines: dict[bytes, bytes] = {}
_known_starts: dict[tuple[str, str, bytes], bytes] = {}


class Upstream:
    """Mutable state: everything is written by the request that holds the connection, except `timed_out`, which the
    sweeper sets just before it closes the socket."""

    def __init__(self, channel: Channel, now: float) -> None:
        self.channel = channel
        self.idle_since = now
        self.deadline = NEVER
        self.total_deadline = NEVER
        self.phase: Phase = "send"
        self.timed_out: Phase | None = None
        self.uses = 0
        # The response being parsed.
        self.status = 0
        self.headers: list[Field] = []
        self.has_head = False
        self.complete = False
        self.keep_alive = False
        self.parts: list[bytes] = []
        self._bodyless = False
        self._interim = 0
        self._overhead = 0
        self._received = False
        self._parser: Any = httptools.HttpResponseParser(self)

    # -- httptools callbacks -------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.complete:
            raise ProtocolError("bytes after the end of the response")
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # trailers are dropped
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status: int = self._parser.get_status_code()
        if status < 200:
            self._interim += 1
            if self._interim > MAX_INTERIM or status == 101:
                raise ProtocolError("unexpected interim response")
            return
        self.status = status
        self.has_head = True
        self.keep_alive = self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)

    def on_message_complete(self) -> None:
        if self.has_head:
            self.complete = True

    # -- one exchange --------------------------------------------------------------------------------------------

    @property
    def reusable(self) -> bool:
        return (
            self.complete
            and self.keep_alive
            and not self.channel.closed
            and not self.channel.hung_up
            and not self._bodyless
        )

    @property
    def unanswered(self) -> bool:
        """Not a single byte of the response has arrived."""
        return not self._received

    async def exchange(self, head: bytes, body: bytes, *, bodyless: bool) -> None:
        """Send the request and read until the response head is there. Closes the connection on any failure."""
        self.uses += 1
        self.status = 0
        self.headers = []
        self.has_head = self.complete = self.keep_alive = self._received = False
        self.parts = []
        self._bodyless = bodyless
        self._interim = self._overhead = 0
        self.phase = "first_byte"
        channel = self.channel
        broken: Exception | None = None
        try:
            # One segment for the usual small request; a large body is not copied.
            joined = len(body) < _READ_BYTES
            data = head + body if joined else head
            sent = channel.send_now(data)
            if sent < len(data):
                await self._send(memoryview(data)[sent:])
            if not joined:
                await self._send(memoryview(body))
        except (OSError, trio.ClosedResourceError) as error:
            # The peer may have answered early and stopped reading (413): look for its answer.
            broken = error
        except BaseException:
            self.close()
            raise
        try:
            while not self.has_head:
                try:
                    data = await channel.receive(_READ_BYTES)
                except (OSError, trio.ClosedResourceError) as error:
                    raise self._failure(broken or error, delivered=broken is None) from error
                if not data:
                    raise self._failure(broken, delivered=broken is None)
                self._received = True
                self._feed(data)
                self._count_overhead(data, self.has_head)
        except BaseException:
            self.close()
            raise
        if broken is not None:
            self.keep_alive = False
        if bodyless:
            self.complete = True

    async def _send(self, data: memoryview) -> None:
        while data:
            data = data[await self.channel.send_some(data) :]

    def _count_overhead(self, data: bytes, progress: bool) -> None:
        """Bound what may arrive without any progress: heads, interim answers, chunk extensions, trailers."""
        if progress:
            self._overhead = 0
            return
        self._overhead += len(data)
        if self._overhead > MAX_OVERHEAD_BYTES:
            raise ProtocolError("too many bytes without progress")

    def _feed(self, data: bytes) -> None:
        if self._parser is None:  # the sweeper closed the connection in the moment in which this arrived
            raise self._failure(None)
        try:
            self._parser.feed_data(data)
            return
        except httptools.HttpParserCallbackError as error:
            if self.complete:
                self.keep_alive = False  # something follows the response: it stands, the connection does not
                return
            if isinstance(error.__context__, ProtocolError):
                raise error.__context__ from error
            raise ProtocolError("invalid response") from error
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.complete:
                self.keep_alive = False
                return
            raise ProtocolError("invalid response") from error

    def _failure(self, error: Exception | None, *, delivered: bool = True) -> Exception:
        if self.timed_out is not None:
            return TimedOut(self.timed_out)
        if isinstance(error, ssl.SSLError):
            return TlsFailed(error.reason or "TLS failed")
        reset = isinstance(error, (ConnectionResetError, BrokenPipeError))
        text = "connection reset by peer" if reset else "connection closed by peer"
        return PeerClosed(text, answered=self.has_head, delivered=delivered)

    async def read_some(self) -> None:
        """Read more of the body into `parts` (possibly nothing); sets `complete` at its end."""
        try:
            data = await self.channel.receive(_READ_BYTES)
        except (OSError, trio.ClosedResourceError) as error:
            self.close()
            raise self._failure(error) from error
        except BaseException:
            self.close()
            raise
        if data:
            try:
                self._feed(data)
                self._count_overhead(data, bool(self.parts) or self.complete)
            except BaseException:
                self.close()
                raise
            return
        self.close()
        if not self._ends_with_connection():
            raise self._failure(None)
        self.complete = True

    def _ends_with_connection(self) -> bool:
        names = [name for name, _ in self.headers]
        if b"transfer-encoding" in names:
            encodings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
            return not encodings[-1].endswith(b"chunked")
        return b"content-length" not in names

    def expire(self, phase: Phase) -> None:
        """Called by the sweeper: wakes the holder with `TimedOut`."""
        self.timed_out = phase
        self.close()

    def close(self) -> None:
        self.channel.close()
        # The parser holds this object's callbacks. Without this cycle the memory is free at once; the collector, which
        # comes by every few minutes, would have thousands to find where connections are short.
        self._parser = None


def _name_line(name: bytes) -> bytes:
    known = _name_lines.get(name)
    if known is None:
        if not TOKEN.fullmatch(name):
            raise ValueError("invalid request header name")
        known = b"\r\n" + name + b": "
        if len(_name_lines) < _MAX_KNOWN_NAMES:
            _name_lines[name] = known
    return known


class PreparedHeaders(msgspec.Struct, frozen=True):
    """Headers that many requests to one origin share, checked and encoded once: `PreparedHeaders.of(fields)`."""

    lines: bytes
    count: int

    @staticmethod
    def of(headers: Sequence[Field]) -> "PreparedHeaders":
        """Raises ValueError for anything that would break the framing; Host must be given per request."""
        parts = [part for name, value in headers if name not in _OURS for part in (_name_line(name), value)]
        lines, count = b"".join(parts), len(parts) // 2
        if (
            lines.count(b"\r\n") != count
            or lines.count(b"\n") != count
            or lines.count(b"\r") != count
            or b"\0" in lines
        ):
            raise ValueError("invalid request header value")
        return PreparedHeaders(lines, count)


def _start(method: str, target: str, host: bytes) -> bytes:
    """Request line and Host; those without a query, which may carry a credential, are remembered."""
    start = f"{method} {target} HTTP/1.1\r\nhost: ".encode("ascii") + host
    if start.count(b"\r\n") != 1 or start.count(b"\n") != 1 or start.count(b"\r") != 1 or 0 in start:
        raise ValueError("invalid request target")
    if "?" not in target and len(target) < 256 and len(_known_starts) < _MAX_KNOWN_NAMES:
        _known_starts[method, target, host] = start
    return start


def request_head(
    method: str,
    target: str,
    host: bytes,
    headers: Sequence[Field],
    length: int,
    prepared: PreparedHeaders | None = None,
) -> bytes:
    """The bytes of a request head. Content-Length is ours; so is Host unless `headers` has one.

    Raises ValueError for anything that would break the framing.
    """
    if prepared is not None and not headers and length:  # every part was checked when it was made
        start = _known_starts.get((method, target, host)) or _start(method, target, host)
        return b"%b%b\r\ncontent-length: %d\r\n\r\n" % (start, prepared.lines, length)
    lines = [b""]
    for name, value in headers:
        if name in _OURS:
            if name == b"host":
                host = value
            continue
        lines.append(_name_line(name))
        lines.append(value)
    lines[0] = f"{method} {target} HTTP/1.1\r\nhost: ".encode("ascii") + host
    count = len(lines) // 2 + 3
    if prepared is not None:
        lines.append(prepared.lines)
        count += prepared.count
    if length or method not in ("GET", "HEAD"):
        lines.append(b"\r\ncontent-length: %d\r\n\r\n" % length)
        count += 1
    else:
        lines.append(b"\r\n\r\n")
    head = b"".join(lines)
    # One check of the whole instead of one per value: a stray line end or NUL changes these counts.
    if head.count(b"\r\n") != count or head.count(b"\n") != count or head.count(b"\r") != count or 0 in head:
        raise ValueError("invalid request header value")
    return head
