"""The ASGI 3 server: listeners, connection caps, the deadline sweeper, the disconnect watcher and the drain.

One HTTP/1.1 connection is `connection.py`. Beside plain ASGI each scope carries `scope["extensions"]["trustgate"]`:
`body` (the whole request body), `respond(status, headers, body, block=None)` (the whole answer in one write) and
`start(status, headers, block=None)` (what the message `http.response.start` does); `block` is a `HeaderBlock` of
headers that many answers share.
Limits, timeouts and refusal texts are those of the contract for the proxy listener.
"""

import errno
import logging
import socket
from collections.abc import Sequence
from time import monotonic
from typing import Any

import msgspec
import trio

from trustgate.wire import response_head, sockets
from trustgate.wire.connection import ASGIApp, Connection

log = logging.getLogger("trustgate.wire")

_PER_IP_TEXT = "The number of connections from your ip exceeds MaxConnsPerIP"
_TOTAL_TEXT = "The connection cannot be served because Server.Concurrency limit exceeded"
_ACCEPT_PAUSE_S = 0.1
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class ServerConfig(msgspec.Struct, frozen=True):
    """Durations in seconds, sizes in bytes."""

    read_timeout_s: float = 60.0
    """For one whole request, head and body, from its first byte (of a new connection: from accept)."""
    write_timeout_s: float = 60.0
    """For each step of progress of a write; never for a stream's whole life."""
    idle_timeout_s: float = 120.0
    max_body_bytes: int = 8 * 1024 * 1024
    max_head_bytes: int = 32 * 1024
    max_connections: int = 16384
    max_connections_per_ip: int | None = None
    drain_timeout_s: float = 50.0


class ServerStatistics(msgspec.Struct, frozen=True):
    connections: int
    busy: int
    accepted: int
    requests: int
    refusals: int
    disconnects: int
    over_limit: int


class Server:
    """Serves one application. Create it, then run `serve` in a nursery; `drain` stops it gracefully."""

    def __init__(self, app: ASGIApp, config: ServerConfig | None = None) -> None:
        self.config = config or ServerConfig()
        self.accepted = 0
        self.requests = 0
        self.refusals = 0
        self.disconnects = 0
        self.over_limit = 0
        self._app = app
        self._connections: set[Connection] = set()
        self._per_ip: dict[str, int] = {}
        self._poller = sockets.Poller()
        self._draining = trio.Event()
        self._all_gone = trio.Event()
        self._accepting = trio.CancelScope()

    def statistics(self) -> ServerStatistics:
        return ServerStatistics(
            connections=len(self._connections),
            busy=sum(1 for connection in self._connections if connection.is_busy()),
            accepted=self.accepted,
            requests=self.requests,
            refusals=self.refusals,
            disconnects=self.disconnects,
            over_limit=self.over_limit,
        )

    def drain(self) -> None:
        """Stop accepting, close idle connections, let running requests finish (at most `drain_timeout_s`); `serve`
        then returns. Safe to call more than once, from any task of the same run."""
        self._draining.set()

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus["Server"] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until drained. Owns the listeners and closes them. Cancelling it drops everything at once."""
        async with trio.open_nursery() as helpers:
            helpers.start_soon(self._poller.run)
            helpers.start_soon(self._sweep)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._await_drain)
                with self._accepting:
                    async with trio.open_nursery() as accepting:
                        for listener in listeners:
                            accepting.start_soon(self._accept, listener, nursery)
                        task_status.started(self)
            helpers.cancel_scope.cancel()

    async def _await_drain(self) -> None:
        await self._draining.wait()
        self._accepting.cancel()
        for connection in tuple(self._connections):
            connection.stop(now=False)
        if self._connections:
            with trio.move_on_after(self.config.drain_timeout_s):
                await self._all_gone.wait()
        for connection in tuple(self._connections):
            connection.stop(now=True)

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        async with listener:
            while True:
                try:
                    accepted, address = await listener.socket.accept()
                except OSError as error:
                    # Out of descriptors, or the peer was gone before accept: neither may stop the server.
                    log.warning("accept failed: %s", error.strerror)
                    if error.errno in _EXHAUSTED:
                        await trio.sleep(_ACCEPT_PAUSE_S)
                    continue
                self._admit(socket.socket(fileno=accepted.detach()), address, nursery)

    def _admit(self, sock: socket.socket, address: tuple[Any, ...] | str | bytes, nursery: trio.Nursery) -> None:
        sock.setblocking(False)
        client = _peer(address)
        if len(self._connections) >= self.config.max_connections:
            self._turn_away(sock, 503, _TOTAL_TEXT)
            return
        cap = self.config.max_connections_per_ip
        count = self._per_ip.get(client[0], 0)
        if cap is not None and count >= cap:
            self._turn_away(sock, 429, _PER_IP_TEXT)
            return
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.accepted += 1
        self._per_ip[client[0]] = count + 1
        channel = sockets.Channel(sock, self._poller)
        connection = Connection(self, self._app, channel, client)
        self._connections.add(connection)
        channel.on_hang_up(connection.hang_up)
        nursery.start_soon(connection.run)

    def _turn_away(self, sock: socket.socket, status: int, text: str) -> None:
        self.over_limit += 1
        try:
            sock.recv(65536)  # unread input would turn the close into a reset and lose the answer
        except OSError:
            log.debug("nothing to read from a connection over the limit")
        try:
            sock.send(response_head.plain_text(status, text))
        except OSError:
            log.debug("a connection over the limit was gone before its answer")
        sock.close()

    def forget(self, connection: Connection) -> None:
        """Called by a connection right before it closes its socket."""
        self._connections.discard(connection)
        ip = connection.client[0]
        left = self._per_ip[ip] - 1
        if left:
            self._per_ip[ip] = left
        else:
            del self._per_ip[ip]
        if not self._connections and self._draining.is_set():
            self._all_gone.set()

    async def _sweep(self) -> None:
        """One task for all deadlines: a connection pays an attribute write where a cancel scope would cost 1-2 us."""
        config = self.config
        shortest = min(config.read_timeout_s, config.write_timeout_s, config.idle_timeout_s)
        interval = min(1.0, max(0.02, shortest / 10))
        while True:
            await trio.sleep(interval)
            now = monotonic()
            for connection in tuple(self._connections):
                if connection.deadline < now:
                    connection.expire()


def _peer(address: tuple[Any, ...] | str | bytes) -> tuple[str, int]:
    # IPv4: (host, port), IPv6: (host, port, flow, scope), Unix: a path.
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) else ("", 0)


async def serve(
    app: ASGIApp,
    listeners: Sequence[trio.SocketListener],
    config: ServerConfig | None = None,
    *,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """`Server(app, config).serve(listeners)`; the server is what `nursery.start` returns."""
    await Server(app, config).serve(listeners, task_status=task_status)
