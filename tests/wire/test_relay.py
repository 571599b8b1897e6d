"""Server and client together, as the proxy uses them: what a client that leaves does to the upstream; other servers."""

import os
import random
from typing import Any

import hypercorn.trio
import pytest
import trio
from hypercorn.config import Config

from tests.wire.peers import QUICK, RawClient, Upstream, pool, read_request, serving, upstream
from trustgate.wire.client import Origin, Pool
from trustgate.wire.errors import WireError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DISCONNECTS = int(os.environ.get("WIRE_TEST_DISCONNECTS", "1000"))
REQUEST = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"


def relay(p: Pool, origin: Origin) -> Any:
    """Plain ASGI only, so that any ASGI server can run it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"  # refusing the lifespan protocol is how an application says it has none
        body = (await receive())["body"]
        try:
            async with await p.request("POST", origin, "/", [], body, QUICK) as response:
                await send({"type": "http.response.start", "status": response.status, "headers": []})
                while data := await response.next_chunk():
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                await send({"type": "http.response.body"})
        except WireError:
            await send({"type": "http.response.start", "status": 502, "headers": []})
            await send({"type": "http.response.body"})

    return app


async def silent(peer: Upstream, client: RawClient) -> None:
    await read_request(client)
    await client.stream.receive_some(1)


async def silent_stream(peer: Upstream, client: RawClient) -> None:
    await read_request(client)
    await client.send(STREAM_HEAD + b"9\r\ndata: 1\n\n\r\n")
    await client.stream.receive_some(1)


async def endless_stream(peer: Upstream, client: RawClient) -> None:
    await read_request(client)
    await client.send(STREAM_HEAD)
    while True:
        await client.send(b"9\r\ndata: 1\n\n\r\n")


@pytest.mark.parametrize("script", [silent, silent_stream, endless_stream])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_closes_the_upstream_within_100_ms(script: Any, how: str) -> None:
    async with upstream(script) as peer, pool() as p, serving(relay(p, peer.origin)) as at:
        client = await at.connect()
        await client.send(REQUEST)
        await peer.until_open(1, within_s=2)
        if script is not silent:
            await client.until(b"data: 1\n\n")
        if how == "reset":
            client.stream.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER on with 0 s
        await client.stream.aclose()
        await peer.until_open(0, within_s=0.1)
        assert p.statistics().busy == 0


async def test_after_random_disconnects_no_request_and_no_socket_is_left() -> None:
    chance = random.Random(11)

    async def script(peer: Upstream, client: RawClient) -> None:
        while True:
            await read_request(client)
            await trio.sleep(chance.random() * 0.005)
            if chance.random() < 0.5:
                await client.send(OK)
                continue
            await client.send(STREAM_HEAD)
            for _ in range(3):
                await client.send(b"9\r\ndata: 1\n\n\r\n")
                await trio.sleep(0.001)
            await client.send(b"0\r\n\r\n")

    async def visit(client: RawClient) -> None:
        async with client.stream:
            await client.send(REQUEST[: chance.randrange(1, len(REQUEST) + 60)])
            with trio.move_on_after(chance.random() * 0.01):
                await client.to_the_end()

    async with upstream(script) as peer, pool() as p, serving(relay(p, peer.origin)) as at:
        for _ in range(DISCONNECTS // 50):
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(visit, await at.connect())
        with trio.fail_after(2):
            while at.server.statistics().connections or p.statistics().busy:  # noqa: ASYNC110
                await trio.sleep(0.005)
        assert at.server.statistics().accepted == DISCONNECTS
        await peer.until_open(p.statistics().idle, within_s=1)
        client = await at.connect()
        await client.send(REQUEST)
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_hypercorn_serves_the_same_application() -> None:
    async def script(peer: Upstream, client: RawClient) -> None:
        await read_request(client)
        await client.send(OK)

    async with upstream(script) as peer, pool() as p:
        config = Config()
        config.bind = ["127.0.0.1:0"]
        stop = trio.Event()
        async with trio.open_nursery() as nursery:

            async def run(task_status: Any) -> None:
                app = relay(p, peer.origin)
                await hypercorn.trio.serve(
                    app, config, shutdown_trigger=stop.wait, task_status=task_status, mode="asgi"
                )

            binds = await nursery.start(run)
            port = int(binds[0].rpartition(":")[2])
            client = RawClient(await trio.open_tcp_stream("127.0.0.1", port))
            await client.send(REQUEST)
            assert b"ok" in await client.until(b"0\r\n\r\n")
            await client.stream.aclose()
            stop.set()
