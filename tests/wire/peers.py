"""Raw peers for the wire's tests: a client that writes any bytes, and upstreams that misbehave on cue."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from trustgate.wire.client import Deadlines, Origin, Pool, PoolConfig
from trustgate.wire.server import Server, ServerConfig

QUICK = Deadlines(connect_s=5, first_byte_s=5, between_s=5, total_s=10)


PATIENCE_S = 30.0
"""No test takes so long; a machine that is busy with others may."""


class RawClient:
    """A TCP client that shows exactly what came back."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def until(self, mark: bytes) -> bytes:
        """Everything up to and including `mark`."""
        with trio.fail_after(PATIENCE_S):
            while mark not in self.buffer:
                data = await self.stream.receive_some(65536)
                assert data, f"closed after {self.buffer!r}"
                self.buffer += data
        taken, _, self.buffer = self.buffer.partition(mark)
        return taken + mark

    async def exactly(self, count: int) -> bytes:
        parts, size = [self.buffer], len(self.buffer)
        with trio.fail_after(PATIENCE_S):
            while size < count:
                data = await self.stream.receive_some(1 << 20)
                assert data, f"closed after {size} bytes"
                parts.append(data)
                size += len(data)
        self.buffer = b"".join(parts)
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    async def to_the_end(self) -> bytes:
        with trio.fail_after(PATIENCE_S):
            try:
                while data := await self.stream.receive_some(65536):
                    self.buffer += data
            except trio.BrokenResourceError:
                self.buffer += b"<reset>"
        return self.buffer

    async def answer(self) -> tuple[bytes, bytes]:
        """One response with a Content-Length: head and body."""
        head = await self.until(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        return head, await self.exactly(length)


class Running:
    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.port = port

    async def connect(self) -> RawClient:
        return RawClient(await trio.open_tcp_stream("127.0.0.1", self.port))

    async def exchange(self, data: bytes) -> bytes:
        """Send `data` on a fresh connection and read until the server closes."""
        client = await self.connect()
        async with client.stream:
            await client.send(data)
            return await client.to_the_end()


@asynccontextmanager
async def serving(app: Any, **config: Any) -> AsyncIterator[Running]:
    async with trio.open_nursery() as nursery:
        server = Server(app, ServerConfig(**config))
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        await nursery.start(server.serve, listeners)
        yield Running(server, port)
        nursery.cancel_scope.cancel()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the method, the raw target and the body, through the fast extension."""
    fast = scope["extensions"]["trustgate"]
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    text = scope["method"].encode() + b" " + target + b" " + fast["body"]
    await fast["respond"](200, [(b"content-type", b"text/plain"), (b"x-ag-trace-id", b"t1")], text)


Script = Callable[["Upstream", RawClient], Awaitable[None]]


class Upstream:
    """A scripted TCP server: each connection runs `script` and is then closed."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = 0
        self.open = 0
        self.changed = trio.Condition()

    @property
    def origin(self) -> Origin:
        return Origin("http", "127.0.0.1", self.port)

    async def until_open(self, count: int, within_s: float) -> None:
        """Wait until exactly `count` connections are open."""
        with trio.fail_after(within_s):
            async with self.changed:
                while self.open != count:
                    await self.changed.wait()


@asynccontextmanager
async def upstream(script: Script) -> AsyncIterator[Upstream]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    peer = Upstream(listeners[0].socket.getsockname()[1])

    async def handle(stream: trio.SocketStream) -> None:
        async with peer.changed:
            peer.connections += 1
            peer.open += 1
            peer.changed.notify_all()
        try:
            async with stream:
                await script(peer, RawClient(stream))
        except (AssertionError, trio.BrokenResourceError):
            pass  # our client hung up on the script: scripts that care check it themselves
        finally:
            with trio.CancelScope(shield=True):
                async with peer.changed:
                    peer.open -= 1
                    peer.changed.notify_all()

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, handle, listeners)
        yield peer
        nursery.cancel_scope.cancel()


def answering(*answers: bytes, then_close: bool = True) -> Script:
    """A script that reads one request per answer and sends the answer; afterwards it closes or waits for the client."""

    async def script(peer: Upstream, client: RawClient) -> None:
        for answer in answers:
            await read_request(client)
            await client.send(answer)
        if not then_close:
            await client.stream.receive_some(1)

    return script


async def read_request(client: RawClient) -> tuple[bytes, bytes]:
    head = await client.until(b"\r\n\r\n")
    lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return head, await client.exactly(lengths[0]) if lengths else b""


@asynccontextmanager
async def pool(**config: Any) -> AsyncIterator[Pool]:
    async with Pool(PoolConfig(environment={}, **config)) as made:
        yield made
