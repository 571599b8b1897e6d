"""The limits of our own server for an application that another one serves (Hypercorn, for TLS): head, body, time.

What lives here: refusing, and handing over bodies whole. What must not: what applications do with them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from trustgate.wire.asgi import TEXT, Receive, Scope, Send, head_bytes
from trustgate.wire.server import ServerConfig

Application = Callable[[Scope, Receive, Send], Awaitable[None]]
PATIENCE_S = 5.0
PATIENCE_BODIES = 2
"""How long, and how many times the largest body, a refused client may go on writing: many read nothing before they have
written everything, and over HTTP/2 what comes after the answer breaks the connection."""


class _Left(Exception):
    """The client went away before its request was whole."""


class _Refused(Exception):
    """`more`: the client may still be writing."""

    def __init__(self, status: int, text: bytes, *, more: bool = False) -> None:
        super().__init__(status)
        self.status, self.text, self.more = status, text, more


TOO_LARGE = 413, b"Request Entity Too Large"
HEAD_TOO_LARGE = 431, b"Request Header Fields Too Large"
TOO_SLOW = 408, b"Request Timeout"


def bounded(app: Application, config: ServerConfig) -> Application:
    """`app`, which gets no request that is larger or slower than `config` allows, and none in part."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        try:
            body = await _whole(scope, receive, config)
        except _Left:
            return
        except _Refused as refused:
            if refused.more:
                await _discard(receive, config)
            length = (b"content-length", b"%d" % len(refused.text))
            fields = [TEXT, length] + ([(b"connection", b"close")] if scope["http_version"][:1] == "1" else [])
            await send({"type": "http.response.start", "status": refused.status, "headers": fields})
            await send({"type": "http.response.body", "body": refused.text})
            return
        given = False

        async def next_message() -> dict[str, Any]:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await app(scope, next_message, send)

    return serve


async def _discard(receive: Receive, config: ServerConfig) -> None:
    """Let a refused client end what it is writing, within bounds, so that it reads the refusal."""
    left = config.max_body_bytes * PATIENCE_BODIES
    with trio.move_on_after(PATIENCE_S):
        while left > 0:
            message = await receive()
            if message["type"] != "http.request" or not message.get("more_body"):
                return
            left -= len(message.get("body", b""))


async def _whole(scope: Scope, receive: Receive, config: ServerConfig) -> bytes:
    """The body of a request within the limits. Raises _Left, _Refused."""
    announced = dict(scope["headers"]).get(b"content-length", b"")
    if head_bytes(scope) > config.max_head_bytes:
        raise _Refused(*HEAD_TOO_LARGE, more=True)
    if announced.isdigit() and int(announced) > config.max_body_bytes:
        raise _Refused(*TOO_LARGE, more=True)
    parts: list[bytes] = []
    left = config.max_body_bytes
    with trio.move_on_after(config.read_timeout_s):
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise _Left
            part = message.get("body", b"")
            left -= len(part)
            if left < 0:
                raise _Refused(*TOO_LARGE, more=bool(message.get("more_body")))
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)
    raise _Refused(*TOO_SLOW)
