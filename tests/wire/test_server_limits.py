"""Limits, timeouts, disconnects and the drain of the listener, with the texts of the contract."""

import random
from typing import Any

import pytest
import trio

from tests.wire.peers import RawClient, echo, serving


async def test_a_head_over_the_limit_is_431_and_one_just_below_is_served() -> None:
    async with serving(echo) as at:
        client = await at.connect()
        await client.send(b"GET /a HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 32_000 + b"\r\n\r\n")
        assert (await client.answer())[0].startswith(b"HTTP/1.1 200 ")
        answer = await at.exchange(b"GET /a HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 40_000 + b"\r\n\r\n")
    assert answer == (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: 31\r\nConnection: close\r\n\r\nRequest Header Fields Too Large"
    )


TOO_LARGE = (
    b"HTTP/1.1 413 Request Entity Too Large\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: 24\r\nConnection: close\r\n\r\nRequest Entity Too Large"
)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"64\r\n"
        + b"x" * 100
        + b"\r\n"
        + b"1\r\nx\r\n" * 901,
    ],
    ids=["declared", "declared with expect", "one chunk", "many chunks"],
)
async def test_a_body_over_the_limit_is_413(request_bytes: bytes) -> None:
    async with serving(echo, max_body_bytes=1000) as at:
        assert await at.exchange(request_bytes) == TOO_LARGE


async def test_a_client_that_keeps_writing_still_gets_its_413() -> None:
    async with serving(echo, max_body_bytes=1000) as at:
        answer = await at.exchange(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 5_000_000)
    assert answer == TOO_LARGE


async def test_a_body_of_exactly_the_limit_is_served() -> None:
    async with serving(echo, max_body_bytes=1000) as at:
        client = await at.connect()
        await client.send(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
        assert len((await client.answer())[1]) == 1008


POST = b"POST / HTTP/1.1\r\nHost: h\r\n"


@pytest.mark.parametrize(
    "start",
    [
        b"G",
        b"GET / HTTP/1.1\r\nHost",
        POST + b"Content-Length: 5\r\n\r\n",
        POST + b"Content-Length: 5\r\n\r\nab",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n",
    ],
    ids=["method", "head", "no body", "part of the body", "chunk"],
)
async def test_half_a_request_then_silence_is_408(start: bytes) -> None:
    async with serving(echo, read_timeout_s=0.2) as at:
        answer = await at.exchange(start)
    assert answer == (
        b"HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: 15\r\nConnection: close\r\n\r\nRequest Timeout"
    )


async def test_a_connection_that_sends_nothing_is_just_closed() -> None:
    async with serving(echo, read_timeout_s=0.2) as at:
        assert await at.exchange(b"") == b""


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with serving(echo, idle_timeout_s=0.2) as at:
        client = await at.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await client.answer()
        assert await client.to_the_end() == b""


@pytest.mark.parametrize(
    "head",
    [b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n"],
    ids=["head", "body"],
)
async def test_a_slow_loris_is_cut_off_although_it_keeps_sending(head: bytes) -> None:
    async with serving(echo, read_timeout_s=0.3) as at:
        client = await at.connect()
        await client.send(head)

        async def drip() -> None:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await client.send(b"x")
                    await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            assert b"408 Request Timeout" in await client.to_the_end()


async def test_the_write_timeout_counts_progress_and_not_the_life_of_a_stream() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(8):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await trio.sleep(0.05)
        await send({"type": "http.response.body"})

    async with serving(app, write_timeout_s=0.2, read_timeout_s=0.2, idle_timeout_s=0.2) as at:
        client = await at.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.until(b"0\r\n\r\n")).count(b"1\r\nx\r\n") == 8


async def test_a_client_that_never_reads_is_cut_off_and_its_request_cancelled() -> None:
    cancelled = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await scope["extensions"]["trustgate"]["respond"](200, [], bytes(50_000_000))
        except trio.Cancelled:
            cancelled.set()
            raise

    async with serving(app, write_timeout_s=0.2) as at:
        client = await at.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        with trio.fail_after(3):
            await cancelled.wait()


async def test_back_pressure_stops_a_stream_whose_client_reads_slowly() -> None:
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while sent < 100_000_000:
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
            sent += 100_000
        await send({"type": "http.response.body"})

    async with serving(app) as at:
        client = await at.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await client.until(b"\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert sent < 50_000_000


async def test_connections_over_the_total_cap_get_503() -> None:
    async with serving(echo, max_connections=1) as at:
        client = await at.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await client.answer()
        answer = await at.exchange(b"")
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert answer.endswith(b"\r\n\r\nThe connection cannot be served because Server.Concurrency limit exceeded")
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await client.answer()


async def test_connections_over_the_cap_per_address_get_429_until_one_leaves() -> None:
    async with serving(echo, max_connections_per_ip=1) as at:
        client = await at.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await client.answer()
        answer = await at.exchange(b"")
        assert answer.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
        assert answer.endswith(b"\r\n\r\nThe number of connections from your ip exceeds MaxConnsPerIP")
        await client.stream.aclose()
        await until(lambda: at.server.statistics().connections == 0)
        assert b"200 OK" in await at.exchange(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")


async def until(condition: Any, within_s: float = 2) -> None:
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - polls counters that have no event
            await trio.sleep(0.002)


class Parked:
    """An application that starts, optionally streams, and waits to be cancelled."""

    def __init__(self, *, stream: bool) -> None:
        self.stream = stream
        self.started = trio.Event()
        self.cancelled_at: float | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.stream:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        self.started.set()
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled_at = trio.current_time()


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize("pipelined", [b"", b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"], ids=["alone", "pipelined"])
async def test_a_client_that_leaves_cancels_its_request_at_once(stream: bool, pipelined: bytes) -> None:
    app = Parked(stream=stream)
    async with serving(app) as at:
        client = await at.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" + pipelined)
        await app.started.wait()
        left_at = trio.current_time()
        await client.stream.aclose()
        await until(lambda: at.server.statistics().connections == 0)
        assert app.cancelled_at is not None
        assert app.cancelled_at - left_at < 0.1
        assert at.server.statistics().disconnects == 1


async def test_a_client_that_leaves_after_its_answer_does_not_cancel_what_follows() -> None:
    finished = trio.Event()
    answered = trio.Event()
    go_on = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await scope["extensions"]["trustgate"]["respond"](200, [], b"x")
        answered.set()
        await go_on.wait()
        finished.set()

    async with serving(app) as at:
        client = await at.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await client.answer()
        await client.stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.02)
        go_on.set()
        with trio.fail_after(2):
            await finished.wait()
        await until(lambda: at.server.statistics().connections == 0)
        assert at.server.statistics().disconnects == 0


async def test_clients_that_leave_at_any_point_leave_nothing_behind() -> None:
    chance = random.Random(7)
    request = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\n" + b"x" * 20

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(chance.random() * 0.004)
        await echo(scope, receive, send)

    async def visit(client: RawClient) -> None:
        await client.send(request[: chance.randrange(len(request) + 20)])
        with trio.move_on_after(chance.random() * 0.006):
            await client.stream.receive_some(100)
        await client.stream.aclose()

    async with serving(app) as at:
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(visit, await at.connect())
        await until(lambda: at.server.statistics().connections == 0)
        assert at.server.statistics().accepted == 1000
        assert at.server._per_ip == {}


async def test_a_drain_closes_idle_connections_finishes_running_ones_and_accepts_no_more() -> None:
    go_on = trio.Event()
    started = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            started.set()
            await go_on.wait()
        await echo(scope, receive, send)

    async with serving(app) as at:
        idle, busy, fresh = await at.connect(), await at.connect(), await at.connect()
        await idle.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await idle.answer()
        await busy.send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
        await started.wait()
        at.server.drain()
        assert await idle.to_the_end() == b""
        assert await fresh.to_the_end() == b""
        with pytest.raises(OSError):
            await at.connect()
        go_on.set()
        answer = await busy.to_the_end()
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b"GET /slow ")
        await busy.stream.aclose()
        await until(lambda: at.server.statistics().connections == 0)


async def test_a_drain_is_bounded() -> None:
    app = Parked(stream=True)
    async with serving(app, drain_timeout_s=0.1) as at:
        client = await at.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await app.started.wait()
        at.server.drain()
        assert not (await client.to_the_end()).endswith(b"0\r\n\r\n")
        await until(lambda: at.server.statistics().connections == 0)
