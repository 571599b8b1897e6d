"""The smallest relay on this server and this client: what the wire alone costs, and the floor for the gateway.

Run: `python ops/bench/relay.py PORT UPSTREAM_URL [--plain]`;
`--plain` uses ASGI messages instead of the fast extension.
"""

import sys
from typing import Any

import trio

from trustgate.wire.client import Deadlines, Origin, Pool
from trustgate.wire.server import Server

DEADLINES = Deadlines(between_s=60.0)
FORWARDED = (b"content-type", b"authorization")


def relay(pool: Pool, origin: Origin, target: str, *, plain: bool) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        fast = scope["extensions"]["trustgate"]
        body = (await receive())["body"] if plain else fast["body"]
        headers = [field for field in scope["headers"] if field[0] in FORWARDED]
        async with await pool.request("POST", origin, target, headers, body, DEADLINES) as response:
            kind = response.header(b"content-type") or b""
            answer = [(b"content-type", kind)]
            if not kind.startswith(b"text/event-stream"):
                text = await response.read(64 * 1024 * 1024)
                if plain:
                    await send({"type": "http.response.start", "status": response.status, "headers": answer})
                    await send({"type": "http.response.body", "body": text})
                else:
                    await fast["respond"](response.status, answer, text)
                return
            await send({"type": "http.response.start", "status": response.status, "headers": answer})
            while data := await response.next_chunk():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body"})

    return app


async def main() -> None:
    port, url = int(sys.argv[1]), sys.argv[2]
    origin, target = Origin.parse(url)
    async with Pool() as pool:
        app = relay(pool, origin, target, plain="--plain" in sys.argv)
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        print(listeners[0].socket.getsockname()[1], flush=True)
        await Server(app).serve(listeners)


if __name__ == "__main__":
    trio.run(main)
