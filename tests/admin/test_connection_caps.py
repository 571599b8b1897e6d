"""Limits on connections of the listeners that Hypercorn serves: the admin plane, and data planes over TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.wire.certificates import Authority
from trustgate.admin.server import ServeSettings, serve

ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def serving(settings: ServeSettings) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: serve(app, [listener], settings, task_status=task_status))
        yield port
        nursery.cancel_scope.cancel()


async def answered(stream: trio.abc.Stream) -> bool:
    """Whether the connection is served, rather than closed."""
    with trio.fail_after(20):
        try:
            await stream.send_all(ASK)
            return (await stream.receive_some(65536)).startswith(b"HTTP/1.1 204")
        except (trio.BrokenResourceError, OSError):
            return False


@pytest.mark.parametrize("limits", [{"max_connections": 2}, {"max_connections_per_ip": 2}])
async def test_connections_over_the_limit_are_closed_until_others_leave(limits: dict[str, int]) -> None:
    async with serving(ServeSettings(drain_timeout_s=1, **limits)) as port:
        first, second = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
        assert await answered(first) and await answered(second)
        third = await trio.open_tcp_stream("127.0.0.1", port)
        assert not await answered(third)
        assert await answered(second)
        await first.aclose()
        with trio.fail_after(20):  # it takes the server a moment to notice
            served = False
            while not served:
                await trio.sleep(0.05)
                served = await answered(await trio.open_tcp_stream("127.0.0.1", port))


async def test_connections_over_the_limit_are_closed_before_their_handshake(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.server_context("localhost")
    both = str(tmp_path / "localhost.pem")
    settings = ServeSettings(drain_timeout_s=1, max_connections=1, certfile=both, keyfile=both)
    context = ssl.create_default_context(cafile=str(authority.file))
    async with serving(settings) as port:
        first = await trio.open_ssl_over_tcp_stream("localhost", port, ssl_context=context, https_compatible=True)
        assert await answered(first)
        second = await trio.open_ssl_over_tcp_stream("localhost", port, ssl_context=context, https_compatible=True)
        assert not await answered(second)
        assert await answered(first)
