"""A TCP relay that can be cut: how tests take a database server away from its clients and give it back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Relay:
    """Listens on `port` and forwards to `upstream_port`, both on 127.0.0.1."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._open = True
        self._connections: set[trio.CancelScope] = set()
        self.port = 0

    def cut(self) -> None:
        """Drop all connections, and new ones at once."""
        self._open = False
        for scope in self._connections:
            scope.cancel()

    def mend(self) -> None:
        self._open = True

    async def _serve(self, client: trio.SocketStream) -> None:
        if not self._open:
            await client.aclose()
            return
        with trio.CancelScope() as scope:
            self._connections.add(scope)
            try:
                server = await trio.open_tcp_stream("127.0.0.1", self._upstream_port)
                async with client, server, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, client, server, scope)
                    nursery.start_soon(self._pump, server, client, scope)
            finally:
                self._connections.discard(scope)

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            while data := await source.receive_some():
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def relay(upstream_port: int) -> AsyncIterator[Relay]:
    made = Relay(upstream_port)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        made.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, made._serve, listeners)
        yield made
        nursery.cancel_scope.cancel()
