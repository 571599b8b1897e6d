"""Sockets and servers of a process: binding, serving, draining."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import trio

from trustgate.app.readiness import Readiness
from trustgate.settings import ConfigurationError, Settings
from trustgate.wire.bounded import bounded
from trustgate.wire.server import Server, ServerConfig
from trustgate.wire.sockets import listening

BACKLOG = 1024

log = structlog.get_logger("trustgate.app")

Serve = Callable[..., Awaitable[None]]
"""`async serve(task_status=...)`: started once it accepts connections, returns when drained."""


def bind(port: int, *, shared: bool = False, variable: str = "") -> list[socket.socket]:
    """Sockets of a port on all interfaces, one for IPv4 and, where the machine has it, one for IPv6.

    Two sockets, so that an IPv4 client is never reported as an IPv6-mapped address. They are not yet listening.
    `shared` lets several worker processes bind the same port. Port 0 picks one port for both. Raises
    ConfigurationError, naming the `variable` of the port, when it cannot be used.
    """
    sockets: list[socket.socket] = []
    try:
        sockets.append(bound(socket.AF_INET, "0.0.0.0", port, shared))
        try:
            sockets.append(bound(socket.AF_INET6, "::", sockets[0].getsockname()[1], shared))
        except OSError as failure:
            if failure.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
    except OSError as failure:
        for sock in sockets:
            sock.close()
        told = f"port {port} ({variable})" if variable else f"port {port}"
        raise ConfigurationError(f"server failed: {told} cannot be used: {failure.strerror}") from failure
    return sockets


def bind_to(host: str, port: int) -> list[socket.socket]:
    """A socket on one address, or those of every interface for `*` or nothing. Raises OSError, ConfigurationError."""
    if host in ("", "*"):
        return bind(port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return [bound(family, host, port, False)]


def bound(family: socket.AddressFamily, host: str, port: int, shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


async def leave(stop: trio.Event, settings: Settings, readiness: Readiness) -> None:
    """Wait for the signal, tell `/readyz`, and give load balancers the drain delay to notice."""
    await stop.wait()
    readiness.draining = True
    if settings.server.drain_delay_s:
        await trio.sleep(settings.server.drain_delay_s)


def server_config(settings: Settings) -> ServerConfig:
    server = settings.server
    return ServerConfig(
        read_timeout_s=server.read_timeout_s,
        write_timeout_s=server.write_timeout_s,
        idle_timeout_s=server.idle_timeout_s,
        max_body_bytes=server.max_body_bytes,
        max_head_bytes=server.max_header_bytes,
        max_connections=server.max_connections,
        max_connections_per_ip=server.max_connections_per_ip or None,
        drain_timeout_s=server.shutdown_timeout_s,
    )


def wire_server(
    app: Any,
    sockets: list[socket.socket],
    settings: Settings,
    stop: trio.Event,
    readiness: Readiness,
    name: str,
    watch: Callable[[Server, str], None] = lambda server, name: None,
) -> Serve:
    """A data plane on our own server, or on Hypercorn where TLS and HTTP/2 are wanted. `watch` is told of our own."""
    if settings.server.tls_cert:
        return hypercorn_server(bounded(app, server_config(settings)), sockets, settings, stop, readiness, name)

    async def serve(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        server = Server(app, server_config(settings))
        watch(server, name)
        found = listening(sockets, BACKLOG)
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: server.serve(found, task_status=task_status))
            log.info("HTTP server starting", server=name, addr=address(sockets))
            task_status.started()
            await leave(stop, settings, readiness)
            server.drain()

    return serve


def hypercorn_server(
    app: Any, sockets: list[socket.socket], settings: Settings, stop: trio.Event, readiness: Readiness, name: str
) -> Serve:
    from trustgate.admin.server import ServeSettings  # loads Hypercorn
    from trustgate.admin.server import serve as serve_admin

    serve_settings = ServeSettings(
        idle_timeout_s=settings.server.idle_timeout_s,
        max_head_bytes=settings.server.max_header_bytes,
        drain_timeout_s=settings.server.shutdown_timeout_s,
        backlog=BACKLOG,
        max_connections=settings.server.max_connections,
        max_connections_per_ip=settings.server.max_connections_per_ip or None,
        certfile=settings.server.tls_cert or None,
        keyfile=settings.server.tls_key or None,
        client_ca=settings.server.tls_client_ca or None,
    )

    async def serve(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async def shutdown() -> None:
            await leave(stop, settings, readiness)

        async with trio.open_nursery() as nursery:
            await nursery.start(
                lambda task_status: serve_admin(
                    app, sockets, serve_settings, shutdown=shutdown, task_status=task_status
                )
            )
            log.info("HTTP server starting", server=name, addr=address(sockets))
            task_status.started()

    return serve


def admin_server(
    app: Any, sockets: list[socket.socket], settings: Settings, stop: trio.Event, readiness: Readiness
) -> Serve:
    return hypercorn_server(app, sockets, settings, stop, readiness, "admin")


def address(sockets: list[socket.socket]) -> str:
    return ":" + str(sockets[0].getsockname()[1])
