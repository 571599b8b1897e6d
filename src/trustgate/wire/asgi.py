"""What the ASGI applications of both data planes share: reading a body, the lifespan, and headers of every answer.

Works under our own server (whose requests arrive with their whole body) and under Hypercorn.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from trustgate.wire.response_head import HeaderBlock

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
HeaderList = list[tuple[bytes, bytes]]

JSON: Final = (b"content-type", b"application/json")
TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
SECURITY: Final[HeaderList] = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-site"),
]
SECURITY_BLOCK: Final = HeaderBlock.of(SECURITY)
HSTS: Final = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")


class EntityTooLarge(Exception):
    """The request's body is longer than the plane allows."""


def head_bytes(scope: Scope) -> int:
    """The size of a request's target and header lines."""
    target = len(scope.get("raw_path") or scope["path"]) + len(scope.get("query_string", b""))
    return target + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


async def read_body(scope: Scope, receive: Receive, max_bytes: int | None = None) -> bytes:
    """The whole body; our own server has it already, and has bounded it. Raises EntityTooLarge."""
    extensions: dict[str, Any] = scope.get("extensions") or {}
    if "trustgate" in extensions:
        return extensions["trustgate"]["body"]
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        part = message.get("body", b"")
        size += len(part)
        if max_bytes is not None and size > max_bytes:
            raise EntityTooLarge
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """ASGI lifespan; everything that lives longer than a request is opened by the process, not here."""
    if scope["type"] != "lifespan":
        return
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return
