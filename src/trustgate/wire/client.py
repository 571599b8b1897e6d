"""The upstream connection pool: constant-time checkout per origin, bounds, deadlines, retry of stale connections.

Mutable state is in `Pool` (its origins) and `_OriginPool`; only methods of these two change it. One exchange on one
connection is `upstream.py`. Redirects are never followed. Implements the timeouts of the contract for upstream calls.
"""

import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from time import monotonic
from types import TracebackType
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec
import trio

from trustgate.wire import sockets
from trustgate.wire.decompress import Decoder, decoder_for
from trustgate.wire.dial import Dialer, Proxies, tls_context
from trustgate.wire.errors import BodyTooLarge, PeerClosed, QueueFull, TimedOut
from trustgate.wire.upstream import NEVER, PreparedHeaders, Upstream, request_head

Field = tuple[bytes, bytes]

_SWEEP_S: Final = 0.05
_STALE_WINDOW_S: Final = 1.0
"""A reused connection that dies unanswered within this time of the request was most likely closed while idle."""
_SURPLUS_S: Final = 1.0
"""Idle connections beyond the limit live this long, so that steady concurrency above the limit does not redial."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Origin(msgspec.Struct, frozen=True):
    scheme: str
    host: str
    port: int

    @staticmethod
    def parse(url: str) -> "tuple[Origin, str]":
        """The origin and the request target (path and query) of an absolute URL. Raises ValueError."""
        parts = urlsplit(url)
        scheme = parts.scheme.lower()
        if scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError("not an absolute http or https URL")
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        if parts.query:
            target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
        return Origin(scheme, parts.hostname.lower(), parts.port or _DEFAULT_PORTS[scheme]), target

    @property
    def authority(self) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.port != _DEFAULT_PORTS[self.scheme]:
            host = f"{host}:{self.port}"
        return host.encode("idna") if not host.isascii() else host.encode("ascii")


class Deadlines(msgspec.Struct, frozen=True):
    """Seconds. `first_byte_s` runs from the start of sending to the response head; `between_s` bounds each wait for
    body bytes; `total_s` runs from the call to the end of the body. Checked every 50 ms."""

    connect_s: float = 10.0
    first_byte_s: float = 60.0
    between_s: float | None = None
    total_s: float | None = None


class PoolConfig(msgspec.Struct, frozen=True):
    max_idle_per_origin: int = 20
    idle_timeout_s: float = 60.0
    max_connections_per_origin: int = 1024
    max_queue_per_origin: int = 4096
    dns_ttl_s: float = 10.0
    ca_file: str = ""
    """PEM file with additional trusted authorities."""
    verify_tls: bool = True
    environment: Mapping[str, str] | None = None
    """Where HTTP_PROXY, HTTPS_PROXY and NO_PROXY are looked up; None: the process environment."""
    use_proxies: bool = True
    admits: Callable[[str], bool] | None = None
    """Judges the addresses that are connected to; None admits all."""


class OriginStatistics(msgspec.Struct, frozen=True):
    busy: int
    idle: int
    waiting: int


class PoolStatistics(msgspec.Struct, frozen=True):
    busy: int
    idle: int
    waiting: int
    dialled: int
    reused: int
    retried: int
    timed_out: int
    queue_full: int
    origins: Mapping[Origin, OriginStatistics]


class _OriginPool:
    """Connections of one origin. `idle` is a stack: the most recently used is taken, the oldest expires."""

    __slots__ = ("busy", "host", "idle", "origin", "waiting")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.host = origin.authority
        self.idle: deque[Upstream] = deque()
        self.busy = 0
        self.waiting: deque[trio.Event] = deque()


class Response:
    """The head has arrived, the body is still on the connection. Use as an async context manager, or read to the end.

    A response that was read to its end has given its connection back; closing it earlier closes the socket.
    """

    __slots__ = ("_between_s", "_connection", "_decoder", "_origin", "_pool", "headers", "status")

    def __init__(self, pool: "Pool", origin: _OriginPool, connection: Upstream, between_s: float | None) -> None:
        self.status = connection.status
        self.headers = connection.headers
        self._pool = pool
        self._origin = origin
        self._connection: Upstream | None = connection
        self._between_s = between_s
        encoding = self.header(b"content-encoding")
        try:
            self._decoder: Decoder | None = None if encoding is None else decoder_for(encoding)
        except BaseException:
            self.close()
            raise

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by lower-case name."""
        for known, value in self.headers:
            if known == name:
                return value
        return None

    @property
    def encoded(self) -> bool:
        """The body has a Content-Encoding that `chunks` and `read` undo."""
        return self._decoder is not None

    @property
    def waiting(self) -> bool:
        """Bytes of the body are here, so that `next_chunk` will not wait."""
        return self._connection is not None and bool(self._connection.parts)

    @property
    def arrived(self) -> bool:
        """The body has come to its end, so that `close` keeps the connection."""
        return self._connection is None or self._connection.complete

    async def read(self, max_bytes: int) -> bytes:
        """The whole decoded body. Raises BodyTooLarge beyond `max_bytes`, or what broke the exchange."""
        connection = self._connection
        if connection is None:
            return b""
        if self._decoder is None and connection.complete:  # the usual answer came in one piece
            parts = connection.parts
            self._finish()
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            if len(body) > max_bytes:
                raise BodyTooLarge("response body too large")
            return body
        pieces: list[bytes] = []
        size = 0
        async for piece in self.chunks():
            size += len(piece)
            if size > max_bytes:
                self.close()
                raise BodyTooLarge("response body too large")
            pieces.append(piece)
        return b"".join(pieces)

    async def next_chunk(self) -> bytes:
        """The body bytes that have arrived (joined), waiting for some if there are none; b"" is the end.

        The cheap form of `chunks`: what arrived together comes together, so it can leave in one write.
        Content-Encoding is not undone here (use `chunks` when `decoded` matters).
        """
        connection = self._connection
        if connection is None:
            return b""
        parts = connection.parts
        while not parts:
            if connection.complete:
                self._finish()
                return b""
            if self._between_s is not None:
                connection.phase = "between"
                connection.deadline = min(monotonic() + self._between_s, connection.total_deadline)
            try:
                await connection.read_some()
            except BaseException:
                self.close()
                raise
            # From here on a slow reader of ours is waiting, not the upstream.
            connection.deadline = connection.total_deadline
            parts = connection.parts
        connection.parts = []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Decoded body pieces in order. Ends normally only when the body is complete."""
        decoder = self._decoder
        while data := await self.next_chunk():
            if decoder is None:
                yield data
                continue
            try:
                for piece in decoder.feed(data):
                    yield piece
            except BaseException:
                self.close()
                raise
        if decoder is not None:
            decoder.finish()

    def _finish(self) -> None:
        connection = self._connection
        if connection is not None:
            self._connection = None
            self._pool.release(self._origin, connection)

    def close(self) -> None:
        """Give the connection back if the body is complete, close its socket otherwise. Never blocks."""
        connection = self._connection
        if connection is not None:
            self._connection = None
            if not connection.complete:
                connection.close()
            self._pool.release(self._origin, connection)

    async def aclose(self) -> None:
        self.close()

    async def __aenter__(self) -> "Response":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Pool:
    """Use as an async context manager; leaving it closes every connection."""

    def __init__(self, config: PoolConfig | None = None) -> None:
        self.config = config or PoolConfig()
        context = tls_context(self.config.ca_file, verify=self.config.verify_tls)
        environment = os.environ if self.config.environment is None else self.config.environment
        proxies = Proxies.from_environment(environment) if self.config.use_proxies else Proxies()
        self._limit = self.config.max_connections_per_origin
        self._dialer = Dialer(tls=context, proxies=proxies, dns_ttl_s=self.config.dns_ttl_s, admits=self.config.admits)
        self._origins: dict[Origin, _OriginPool] = {}
        self._active: set[Upstream] = set()
        self._poller = sockets.Poller()
        self._nursery_manager = trio.open_nursery()
        self._nursery: trio.Nursery | None = None
        self._dialled = self._reused = self._retried = self._timed_out = self._queue_full = 0

    async def __aenter__(self) -> "Pool":
        self._nursery = await self._nursery_manager.__aenter__()
        self._nursery.start_soon(self._poller.run)
        self._nursery.start_soon(self._sweep)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._nursery is not None
        for pool in self._origins.values():
            while pool.idle:
                pool.idle.pop().close()
        for connection in tuple(self._active):
            connection.close()
        self._nursery.cancel_scope.cancel()
        # The body's own error goes on as it is, not wrapped in a group: the nursery has only our two helpers.
        await self._nursery_manager.__aexit__(None, None, None)

    def statistics(self) -> PoolStatistics:
        origins = {
            origin: OriginStatistics(busy=pool.busy, idle=len(pool.idle), waiting=len(pool.waiting))
            for origin, pool in self._origins.items()
        }
        return PoolStatistics(
            busy=sum(pool.busy for pool in origins.values()),
            idle=sum(pool.idle for pool in origins.values()),
            waiting=sum(pool.waiting for pool in origins.values()),
            dialled=self._dialled,
            reused=self._reused,
            retried=self._retried,
            timed_out=self._timed_out,
            queue_full=self._queue_full,
            origins=origins,
        )

    async def request(
        self,
        method: str,
        origin: Origin,
        target: str,
        headers: Sequence[Field],
        body: bytes,
        deadlines: Deadlines,
        prepared: PreparedHeaders | None = None,
    ) -> Response:
        """Send a request and return once the final response head has arrived.

        Host and Content-Length are added; `prepared` holds further headers, encoded once for many requests.
        Raises a `WireError`, or ValueError for a header or target that would break the framing. Cancellation closes
        the socket at once. A reused connection that the peer turns out to have closed, unanswered, is replaced once by
        a fresh one.
        """
        pool = self._origins.get(origin)
        if pool is None:
            pool = self._origins[origin] = _OriginPool(origin)
        head = request_head(method, target, pool.host, headers, len(body), prepared)
        start = monotonic()
        total_deadline = NEVER if deadlines.total_s is None else start + deadlines.total_s
        fresh = False
        while True:
            connection = None if fresh or pool.busy >= self._limit else self._take_idle(pool)
            if connection is None:
                connection = await self._checkout(pool, deadlines, total_deadline, fresh=fresh)
                sent_at = monotonic()
            else:
                pool.busy += 1
                sent_at = start
            connection.total_deadline = total_deadline
            connection.deadline = min(sent_at + deadlines.first_byte_s, total_deadline)
            try:
                await connection.exchange(head, body, bodyless=method == "HEAD")
            except PeerClosed as closed:
                self.release(pool, connection)
                stale = connection.uses > 1 and connection.unanswered and not closed.delivered
                if fresh or not stale or monotonic() - sent_at > _STALE_WINDOW_S:
                    raise
                self._retried += 1
                fresh = True
                continue
            except BaseException:
                self.release(pool, connection)
                raise
            connection.phase = "total"
            connection.deadline = total_deadline
            return Response(self, pool, connection, deadlines.between_s)

    def _take_idle(self, pool: _OriginPool) -> Upstream | None:
        while pool.idle:
            connection = pool.idle.pop()
            if connection.channel.quiet:
                self._reused += 1
                self._active.add(connection)
                return connection
            connection.close()  # closed by the peer a moment ago, or it spoke out of turn
        return None

    async def _checkout(
        self, pool: _OriginPool, deadlines: Deadlines, total_deadline: float, *, fresh: bool
    ) -> Upstream:
        if pool.busy >= self._limit:
            await self._wait_for_turn(pool, deadlines, total_deadline)
        else:
            pool.busy += 1
        connection = None if fresh else self._take_idle(pool)
        if connection is not None:
            return connection
        try:
            limit = min(deadlines.connect_s, total_deadline - monotonic())
            try:
                with trio.fail_after(max(0.0, limit)):
                    origin = pool.origin
                    sock = await self._dialer.dial(origin.scheme, origin.host, origin.port)
            except trio.TooSlowError:
                self._timed_out += 1
                raise TimedOut("connect" if limit == deadlines.connect_s else "total") from None
        except BaseException:
            self._leave(pool)
            raise
        self._dialled += 1
        channel = sockets.Channel(sock, self._poller)
        connection = Upstream(channel, monotonic())
        channel.on_hang_up(lambda: self._hung_up(pool, connection))
        self._active.add(connection)
        return connection

    async def _wait_for_turn(self, pool: _OriginPool, deadlines: Deadlines, total_deadline: float) -> None:
        """Wait in line for a slot, which the leaving request hands over (`busy` stays as it is)."""
        if len(pool.waiting) >= self.config.max_queue_per_origin:
            self._queue_full += 1
            raise QueueFull("too many requests wait for this origin")
        turn = trio.Event()
        pool.waiting.append(turn)
        limit = min(deadlines.connect_s, total_deadline - monotonic())
        try:
            with trio.fail_after(max(0.0, limit)):
                await turn.wait()
        except BaseException as error:
            if turn.is_set():
                self._leave(pool)
            else:
                pool.waiting.remove(turn)
            if isinstance(error, trio.TooSlowError):
                self._timed_out += 1
                raise TimedOut("queue") from None
            raise

    def _leave(self, pool: _OriginPool) -> None:
        if pool.waiting:
            pool.waiting.popleft().set()
        else:
            pool.busy -= 1

    def release(self, pool: _OriginPool, connection: Upstream) -> None:
        """Take a connection back after its exchange: to the idle stack when it can serve again."""
        self._active.discard(connection)
        if connection.reusable:
            connection.deadline = NEVER
            connection.parts = []
            connection.idle_since = monotonic()
            pool.idle.append(connection)
        else:
            connection.close()
        self._leave(pool)

    def _hung_up(self, pool: _OriginPool, connection: Upstream) -> None:
        if connection not in self._active:
            try:
                pool.idle.remove(connection)
            except ValueError:
                return
            connection.close()

    async def _sweep(self) -> None:
        """All deadlines of all exchanges, and the expiry of idle connections and empty origins."""
        while True:
            await trio.sleep(_SWEEP_S)
            now = monotonic()
            for connection in tuple(self._active):
                if connection.deadline <= now and not connection.channel.closed:
                    self._timed_out += 1
                    total = connection.deadline >= connection.total_deadline
                    connection.expire("total" if total else connection.phase)
            oldest = now - self.config.idle_timeout_s
            surplus = now - _SURPLUS_S
            for origin, pool in tuple(self._origins.items()):
                while pool.idle and (
                    pool.idle[0].idle_since <= oldest
                    or (len(pool.idle) > self.config.max_idle_per_origin and pool.idle[0].idle_since <= surplus)
                ):
                    pool.idle.popleft().close()
                if not pool.idle and not pool.busy:
                    del self._origins[origin]
