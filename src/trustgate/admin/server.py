"""Serving of the admin plane by Hypercorn's Trio worker, over HTTP/1.1, HTTP/2 and TLS (spec 06 §5).

What lives here: the server's settings and its start. What must not: the application.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState, LifespanState
from hypercorn.utils import wrap_app

from trustgate.wire.sockets import listening
from trustgate.wire.tls import CertifiedObject

SERVER_LOG = logging.getLogger("trustgate.admin.server")
SERVER_LOG.setLevel(logging.WARNING)  # the server announces itself at INFO

HEAD_SLACK_BYTES = 96 * 1024
"""A head up to this far above the limit reaches the application, which refuses it with a text; beyond, 431 is bare."""


Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Listener = trio.SocketListener | trio.SSLListener[trio.SocketStream]


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the listener; times in seconds. With `certfile` and `keyfile` the listener speaks TLS."""

    idle_timeout_s: float = 120.0
    max_head_bytes: int = 32768
    drain_timeout_s: float = 50.0
    backlog: int = 1024
    max_connections: int = 16384
    max_connections_per_ip: int | None = None
    certfile: str | None = None
    keyfile: str | None = None
    client_ca: str | None = None
    """PEM file of the authorities one of which must have issued a client's certificate."""


class _Config(Config):
    """Certificates that clients show are known to the application (`wire.tls.peer_certificate`)."""

    def create_ssl_context(self) -> ssl.SSLContext | None:
        context = super().create_ssl_context()
        if context is not None:
            context.sslobject_class = CertifiedObject
        return context


class _Connection(TCPServer):
    """Closes when the client does: Hypercorn's own waits for the idle timeout, with the socket open."""

    _left = False

    async def protocol_send(self, event: Event) -> None:
        if not (self._left and isinstance(event, Updated)):
            await super().protocol_send(event)

    async def _read_data(self) -> None:
        await super()._read_data()
        self._left = True
        await self.idle_task.stop()


class _Capped:
    """Serves connections within the limits; others are closed unanswered, for there is no answer before a handshake.

    Mutable: the count of open connections by client address.
    """

    def __init__(self, connect: Callable[[Any], Awaitable[None]], settings: ServeSettings) -> None:
        self._connect = connect
        self._settings = settings
        self._open: Counter[str] = Counter()

    async def __call__(self, stream: Stream) -> None:
        try:
            peer = (stream.transport_stream if isinstance(stream, trio.SSLStream) else stream).socket.getpeername()[0]
        except OSError:  # it is gone already
            await trio.aclose_forcefully(stream)
            return
        cap = self._settings.max_connections_per_ip
        full = self._open.total() >= self._settings.max_connections
        if full or (cap is not None and self._open[peer] >= cap):
            SERVER_LOG.warning("connection refused: %s", "too many connections" if full else f"too many from {peer}")
            await trio.aclose_forcefully(stream)
            return
        self._open[peer] += 1
        try:
            await self._connect(stream)
        finally:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]


async def serve(
    app: ASGIFramework,
    listeners: list[socket.socket],
    settings: ServeSettings,
    *,
    shutdown: Callable[[], Awaitable[None]] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves `app` on bound sockets until `shutdown` returns, then lets running requests finish for a while.

    Cancelling it stops at once. The sockets are closed in either case.
    """
    config = _Config()
    config.include_date_header = False
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = SERVER_LOG
    config.keep_alive_timeout = settings.idle_timeout_s
    config.keep_alive_max_requests = 1_000_000_000
    config.h11_max_incomplete_size = settings.max_head_bytes + HEAD_SLACK_BYTES
    config.h2_max_header_list_size = settings.max_head_bytes + HEAD_SLACK_BYTES
    config.graceful_timeout = settings.drain_timeout_s
    config.certfile, config.keyfile = settings.certfile, settings.keyfile
    if settings.client_ca is not None:
        config.ca_certs, config.verify_mode = settings.client_ca, ssl.VerifyMode.CERT_REQUIRED
    server = wrap_app(app, config.wsgi_max_body_size, "asgi")
    state: LifespanState = {}
    lifespan, context = Lifespan(server, config, state), WorkerContext(None)
    async with trio.open_nursery() as lifespan_nursery:
        await lifespan_nursery.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        async with trio.open_nursery() as connections:
            connect = _Capped(partial(_Connection, server, config, context, ConnectionState(state.copy())), settings)
            accepting = await connections.start(_accept, connect, _listeners(listeners, settings, config), connections)
            task_status.started()
            try:
                await (shutdown or trio.sleep_forever)()
            finally:
                accepting.cancel()
                await context.terminated.set()
                connections.cancel_scope.deadline = trio.current_time() + settings.drain_timeout_s
        await lifespan.wait_for_shutdown()
        lifespan_nursery.cancel_scope.cancel()


async def _accept(
    connect: Callable[[Stream], Awaitable[None]],
    listeners: Sequence[Listener],
    connections: trio.Nursery,
    task_status: trio.TaskStatus[trio.CancelScope],
) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await trio.serve_listeners(connect, list(listeners), handler_nursery=connections)


def _listeners(sockets: list[socket.socket], settings: ServeSettings, config: Config) -> Sequence[Listener]:
    tls = config.create_ssl_context()
    plain = listening(sockets, settings.backlog)
    return plain if tls is None else [trio.SSLListener(one, tls, https_compatible=True) for one in plain]
