"""Serving of the admin plane by Hypercorn's Trio worker, over HTTP/1.1, HTTP/2 and TLS (spec 06 §5).

What lives here: the server's settings and its start. What must not: the application.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Awaitable, Callable

import msgspec
import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import worker_serve
from hypercorn.typing import ASGIFramework
from hypercorn.utils import wrap_app

from trustgate.wire.tls import CertifiedObject

SERVER_LOG = logging.getLogger("trustgate.admin.server")
SERVER_LOG.setLevel(logging.WARNING)  # the server announces itself at INFO

HEAD_SLACK_BYTES = 96 * 1024
"""A head up to this far above the limit reaches the application, which refuses it with a text; beyond, 431 is bare."""


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the listener; times in seconds. With `certfile` and `keyfile` the listener speaks TLS."""

    idle_timeout_s: float = 120.0
    max_head_bytes: int = 32768
    drain_timeout_s: float = 50.0
    backlog: int = 1024
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


async def serve(
    app: ASGIFramework,
    listeners: list[socket.socket],
    settings: ServeSettings,
    *,
    shutdown: Callable[[], Awaitable[None]] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
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
    secure = settings.certfile is not None
    for listener in listeners:
        listener.setblocking(False)
        listener.listen(settings.backlog)
    sockets = Sockets(listeners if secure else [], [] if secure else listeners, [])
    await worker_serve(
        wrap_app(app, config.wsgi_max_body_size, "asgi"),
        config,
        sockets=sockets,
        shutdown_trigger=shutdown,
        task_status=task_status,
    )
