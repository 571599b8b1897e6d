"""A guard service on loopback: records what it is asked and answers from a script, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from trustgate.policies.http import pool_http
from trustgate.policies.plugin import Http
from trustgate.wire.client import Pool, PoolConfig


class Asked:
    """A request as it arrived; header names in lower case."""

    def __init__(self, head: bytes, body: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = first.split(" ")
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.raw = body

    @property
    def body(self) -> Any:
        return msgspec.json.decode(self.raw)


class Reply:
    """What to answer; `hang` never answers, `drop` closes the connection."""

    def __init__(
        self,
        body: Any = None,
        status: int = 200,
        headers: dict[str, str] | None = None,
        *,
        hang: bool = False,
        drop: bool = False,
    ) -> None:
        self.body = body if isinstance(body, bytes) else msgspec.json.encode(body if body is not None else {})
        self.status = status
        self.headers = headers or {}
        self.hang = hang
        self.drop = drop


class Guard:
    """The running service: its base URL, what it was asked, and the `Http` that reaches it."""

    def __init__(self, url: str, http: Http) -> None:
        self.url = url
        self.http = http
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], Reply] = lambda asked: Reply()


@asynccontextmanager
async def guard_service() -> AsyncIterator[Guard]:
    async with Pool(PoolConfig(use_proxies=False)) as pool, trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        guard = Guard(f"http://127.0.0.1:{port}", pool_http(pool))
        nursery.start_soon(trio.serve_listeners, lambda stream: _serve(stream, guard), listeners)
        try:
            yield guard
        finally:
            nursery.cancel_scope.cancel()


async def _serve(stream: trio.SocketStream, guard: Guard) -> None:
    buffer = b""
    try:
        while True:
            while b"\r\n\r\n" not in buffer:
                data = await stream.receive_some()
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            asked = Asked(head, b"")
            length = int(asked.headers.get("content-length", "0"))
            while len(buffer) < length:
                buffer += await stream.receive_some()
            asked.raw, buffer = buffer[:length], buffer[length:]
            guard.asked.append(asked)
            reply = guard.answer(asked)
            if reply.hang:
                await trio.sleep_forever()
            if reply.drop:
                return
            lines = [f"HTTP/1.1 {reply.status} X", f"Content-Length: {len(reply.body)}"]
            lines += [f"{name}: {value}" for name, value in reply.headers.items()]
            await stream.send_all("\r\n".join(lines).encode() + b"\r\n\r\n" + reply.body)
    except trio.BrokenResourceError:
        pass
    finally:
        await stream.aclose()
