"""How one request's ASGI conversation with the server is held.

What lives here: sending an answer to its end, and taking in what the client still sends. What must not: the Admin API.
"""

from __future__ import annotations

from typing import Any, cast

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, HTTPScope, WebsocketScope
from quart.wrappers import Request
from quart_trio.asgi import TrioASGIHTTPConnection

SEND_TIMEOUT_S = 60.0
LINGER_S = 2.0
"""How long a client that is answered early may go on sending before the connection is closed."""


class Connection(TrioASGIHTTPConnection):
    """One request and its answer.

    The server reports the end of the request from inside our last send, which in the class below this one cancels that
    very send before the server has closed or recycled the connection: so sending is shielded. And a connection that is
    closed while its client still sends would take the answer with it: so the last send waits for the request's end.
    """

    body_ended: trio.Event

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        self.body_ended = trio.Event()
        await super().__call__(receive, send)

    async def handle_messages(self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable) -> None:
        """Takes in the body until the request is over; then nobody waits for its answer any more."""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            if message["type"] == "http.request":
                request.body.append(message.get("body", b""))
                if not message.get("more_body", False):
                    request.body.set_complete()
                    self.body_ended.set()
        self.body_ended.set()
        nursery.cancel_scope.cancel()

    async def handle_request(self, nursery: trio.Nursery, request: Request, send: ASGISendCallable) -> None:
        async def send_last_late(event: ASGISendEvent) -> None:
            if event["type"] == "http.response.body" and not event.get("more_body", False):
                with trio.move_on_after(LINGER_S):
                    await self.body_ended.wait()
            await send(event)

        response = await self.app.handle_request(request)
        with trio.move_on_after(SEND_TIMEOUT_S, shield=True):
            await self._send_response(send_last_late, response)
        nursery.cancel_scope.cancel()


def as_request(
    scope: WebsocketScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> tuple[HTTPScope, ASGIReceiveCallable, ASGISendCallable]:
    """A WebSocket handshake as the GET request it is: a server may ignore the wish to upgrade (RFC 9110 §7.8)."""
    scheme = "https" if scope["scheme"] == "wss" else "http"
    request = cast("HTTPScope", {**scope, "type": "http", "method": "GET", "scheme": scheme})

    async def receive_as_http() -> Any:
        message = await receive()
        if message["type"] == "websocket.connect":
            return {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.disconnect"}

    async def send_as_http(message: Any) -> None:
        renamed: Any = {**message, "type": f"websocket.{message['type']}"}
        await send(renamed)

    return request, receive_as_http, send_as_http
