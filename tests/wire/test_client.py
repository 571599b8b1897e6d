"""The upstream pool against scripted servers: reuse, bodies, deadlines, queueing, cancellation, and every fault."""

import gc
import gzip
import zlib
from typing import Any

import brotli
import pytest
import trio
import trio.testing

from tests.wire.peers import QUICK, RawClient, Upstream, answering, pool, read_request, upstream
from trustgate.wire.client import Deadlines, Origin, Pool
from trustgate.wire.errors import (
    BodyTooLarge,
    ConnectFailed,
    DecodingFailed,
    PeerClosed,
    ProtocolError,
    QueueFull,
    TimedOut,
    WireError,
)
from trustgate.wire.upstream import PreparedHeaders
from trustgate.wire.upstream import Upstream as Connection

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def get(
    pool: Pool, peer: Upstream, deadlines: Deadlines = QUICK, method: str = "POST", body: bytes = b""
) -> bytes:
    async with await pool.request(method, peer.origin, "/", [], body, deadlines) as response:
        return await response.read(1_000_000)


async def test_a_request_has_host_length_and_the_given_headers_only() -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def script(peer: Upstream, client: RawClient) -> None:
        seen.append(await read_request(client))
        await client.send(OK)

    async with upstream(script) as peer, pool() as p:
        origin, target = Origin.parse(f"http://127.0.0.1:{peer.port}/v1/chat?x=1")
        async with await p.request("POST", origin, target, [(b"authorization", b"Bearer k")], b"{}", QUICK) as response:
            assert response.status == 200
            assert response.header(b"content-length") == b"2"
            assert await response.read(10) == b"ok"
    head = b"POST /v1/chat?x=1 HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nauthorization: Bearer k\r\ncontent-length: 2\r\n\r\n"
    assert seen == [(head % peer.port, b"{}")]


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("https://API.openai.com/v1", Origin("https", "api.openai.com", 443), "/v1"),
        ("http://h:81", Origin("http", "h", 81), "/"),
        ("http://[::1]:81/a%2Fb?c=d%20e", Origin("http", "::1", 81), "/a%2Fb?c=d%20e"),
        ("http://h/a b?c d", Origin("http", "h", 80), "/a%20b?c%20d"),
    ],
)
def test_origins_are_parsed_from_urls(url: str, origin: Origin, target: str) -> None:
    assert Origin.parse(url) == (origin, target)


@pytest.mark.parametrize("url", ["ftp://h/", "h/path", "http://", ""])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Origin.parse(url)


@pytest.mark.parametrize(
    ("name", "value"), [(b"x", b"a\r\nb: c"), (b"x", b"a\nb"), (b"x", b"a\rb"), (b"x", b"\0"), (b"x: y\r\nz", b"a")]
)
async def test_headers_cannot_break_out_of_their_line(name: bytes, value: bytes) -> None:
    async with pool() as p:
        with pytest.raises(ValueError):
            await p.request("POST", Origin("http", "127.0.0.1", 9), "/", [(name, value)], b"", QUICK)


async def test_a_target_cannot_break_out_of_its_line() -> None:
    async with pool() as p:
        with pytest.raises(ValueError):
            await p.request("POST", Origin("http", "127.0.0.1", 9), "/ HTTP/1.1\r\nx: y", [], b"", QUICK)


async def test_prepared_headers_are_sent_and_cannot_break_out_of_their_line() -> None:
    seen: list[bytes] = []

    async def script(peer: Upstream, client: RawClient) -> None:
        seen.append((await read_request(client))[0])
        await client.send(OK)

    prepared = PreparedHeaders.of([(b"authorization", b"Bearer k"), (b"content-length", b"7")])
    async with upstream(script) as peer, pool() as p:
        response = await p.request("POST", peer.origin, "/", [(b"a", b"b")], b"{}", QUICK, prepared)
        assert await response.read(10) == b"ok"
    assert seen[0].endswith(b"\r\na: b\r\nauthorization: Bearer k\r\ncontent-length: 2\r\n\r\n")
    with pytest.raises(ValueError):
        PreparedHeaders.of([(b"x", b"a\r\nb: c")])


BODIES: dict[str, tuple[bytes, bytes]] = {
    "declared": (OK, b"ok"),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "chunked": (CHUNKED + b"2\r\nab\r\n1;e=f\r\nc\r\n0\r\nT: v\r\n\r\n", b"abc"),
    "after interim answers": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
}


@pytest.mark.parametrize("case", BODIES)
@pytest.mark.parametrize("step", [1, 1000])
async def test_bodies_are_read_whole_in_any_splitting_and_the_connection_is_reused(case: str, step: int) -> None:
    answer, body = BODIES[case]

    async def script(peer: Upstream, client: RawClient) -> None:
        for _ in range(2):
            await read_request(client)
            for at in range(0, len(answer), step):
                await client.send(answer[at : at + step])
                await trio.lowlevel.checkpoint()

    async with upstream(script) as peer, pool() as p:
        assert await get(p, peer) == body
        assert await get(p, peer) == body
        assert peer.connections == 1
        assert p.statistics().reused == 1


async def test_a_body_without_length_ends_with_the_connection() -> None:
    async with upstream(answering(b"HTTP/1.1 200 OK\r\n\r\nabc")) as peer, pool() as p:
        assert await get(p, peer) == b"abc"


async def test_a_head_answer_has_no_body_whatever_it_declares() -> None:
    async with (
        upstream(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", then_close=False)) as peer,
        pool() as p,
    ):
        assert await get(p, peer, method="HEAD") == b""


async def test_a_large_request_and_answer_go_through() -> None:
    body = bytes(range(256)) * 20_000

    async def script(peer: Upstream, client: RawClient) -> None:
        _, got = await read_request(client)
        await client.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(got) + got)

    async with upstream(script) as peer, pool() as p:
        response = await p.request("POST", peer.origin, "/", [], body, QUICK)
        assert await response.read(10_000_000) == body


async def test_redirects_are_not_followed() -> None:
    moved = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with upstream(answering(moved)) as peer, pool() as p:
        response = await p.request("POST", peer.origin, "/", [], b"", QUICK)
        assert (response.status, await response.read(10)) == (307, b"")
        assert peer.connections == 1


# name -> (what the upstream sends before it closes, the error, whether the head had been answered)
BROKEN: dict[str, tuple[bytes, type[WireError], bool]] = {
    "closes without an answer": (b"", PeerClosed, False),
    "closes within the head": (b"HTTP/1.1 200 OK\r\nContent-", PeerClosed, False),
    "body shorter than declared": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", PeerClosed, True),
    "chunk cut short": (CHUNKED + b"5\r\nab", PeerClosed, True),
    "no last chunk": (CHUNKED + b"2\r\nab\r\n", PeerClosed, True),
    "chunk size is not hexadecimal": (CHUNKED + b"xyz\r\nab\r\n", ProtocolError, True),
    "chunk size overflows": (CHUNKED + b"fffffffffffffffff\r\nab\r\n", ProtocolError, True),
    "chunk longer than its size": (CHUNKED + b"1\r\nabc\r\n0\r\n\r\n", ProtocolError, True),
    "endless chunk extension": (CHUNKED + b"1;" + b"x" * 300_000, ProtocolError, True),
    "endless trailers": (CHUNKED + b"0\r\n" + b"X: y\r\n" * 50_000, ProtocolError, True),
    "garbage": (b"SSH-2.0-OpenSSH_9.2\r\n", ProtocolError, False),
    "HTTP/2": (b"HTTP/2 200\r\n\r\n", ProtocolError, False),
    "status is not a number": (b"HTTP/1.1 abc OK\r\n\r\n", ProtocolError, False),
    "length is not a number": (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", ProtocolError, False),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", ProtocolError, False),
    "length and chunked": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        ProtocolError,
        False,
    ),
    "endless head": (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000, ProtocolError, False),
    "a flood of interim answers": (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, ProtocolError, False),
    "switching protocols unasked": (
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        ProtocolError,
        False,
    ),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_answer_is_an_error_of_its_kind_and_the_connection_is_closed(case: str) -> None:
    sent, kind, answered = BROKEN[case]
    async with upstream(answering(sent)) as peer, pool() as p:
        with pytest.raises(kind) as caught:
            await get(p, peer)
        if isinstance(caught.value, PeerClosed):
            assert caught.value.answered is answered
        await peer.until_open(0, within_s=1)
        assert p.statistics().busy == p.statistics().idle == 0


@pytest.mark.parametrize(
    "before", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na"], ids=["before headers", "after headers"]
)
async def test_a_reset_is_peer_closed(before: bytes) -> None:
    async def script(peer: Upstream, client: RawClient) -> None:
        await client.until(b"\r\n\r\n")
        await client.send(before)
        await trio.sleep(0.02)
        client.stream.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SOL_SOCKET, SO_LINGER on with 0 s: close resets

    async with upstream(script) as peer, pool() as p:
        with pytest.raises(PeerClosed) as caught:
            await get(p, peer)
        assert caught.value.answered is bool(before)


async def test_bytes_after_an_answer_do_not_spoil_it_but_end_the_connection() -> None:
    answer = OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    async with upstream(answering(answer, then_close=False)) as peer, pool() as p:
        assert await get(p, peer) == b"ok"
        assert p.statistics().idle == 0


async def test_an_answer_nobody_asked_for_on_an_idle_connection_is_never_read_as_one() -> None:
    speak = trio.Event()
    spoken = trio.Event()

    async def script(peer: Upstream, client: RawClient) -> None:
        first = peer.connections == 1
        await read_request(client)
        await client.send(OK)
        if first:
            await speak.wait()
            await client.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
            spoken.set()
            await client.stream.receive_some(1)

    async with upstream(script) as peer, pool() as p:
        assert await get(p, peer) == b"ok"
        speak.set()
        await spoken.wait()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert await get(p, peer) == b"ok"
        assert peer.connections == 2


async def test_an_idle_connection_that_the_peer_closes_leaves_the_pool_at_once() -> None:
    async with upstream(answering(OK)) as peer, pool() as p:
        assert await get(p, peer) == b"ok"
        await peer.until_open(0, within_s=1)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert p.statistics().idle == 0
        assert await get(p, peer) == b"ok"
        assert p.statistics().retried == 0


async def test_a_reused_connection_whose_request_was_read_is_not_retried() -> None:
    async def script(peer: Upstream, client: RawClient) -> None:
        await read_request(client)
        await client.send(OK)
        await client.until(b"\r\n\r\n")  # reads the second request and closes: it may have acted on it

    async with upstream(script) as peer, pool() as p:
        assert await get(p, peer) == b"ok"
        with pytest.raises(PeerClosed):
            await get(p, peer)
        assert peer.connections == 1


async def test_a_reused_connection_that_breaks_while_sending_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # How long 16 MB take is the machine's business, not the test's.
    monkeypatch.setattr("trustgate.wire.client._STALE_WINDOW_S", 60.0)

    async def script(peer: Upstream, client: RawClient) -> None:
        await read_request(client)
        await client.send(OK)
        if peer.connections == 1:
            await client.stream.receive_some(10)  # of a request too large to be on its way as a whole
            client.stream.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER on with 0 s: close resets

    async with upstream(script) as peer, pool() as p:
        assert await get(p, peer) == b"ok"
        large = b"x" * (16 * 1024 * 1024)
        async with await p.request("POST", peer.origin, "/", [], large, Deadlines(total_s=10)) as response:
            assert await response.read(100) == b"ok"
        assert p.statistics().retried == 1
        assert peer.connections == 2


@pytest.mark.parametrize("partial", [b"H", b"HTTP/1.1 200 OK\r\n"])
async def test_a_reused_connection_that_dies_after_its_first_byte_is_not_retried(partial: bytes) -> None:
    async def script(peer: Upstream, client: RawClient) -> None:
        await read_request(client)
        await client.send(OK)
        await client.until(b"\r\n\r\n")
        await client.send(partial)

    async with upstream(script) as peer, pool() as p:
        assert await get(p, peer) == b"ok"
        with pytest.raises(PeerClosed):
            await get(p, peer)
        assert peer.connections == 1


async def test_a_fresh_connection_that_dies_is_not_retried() -> None:
    async with upstream(answering(b"")) as peer, pool() as p:
        with pytest.raises(PeerClosed):
            await get(p, peer)
        assert peer.connections == 1


async def test_an_early_answer_to_an_upload_is_read() -> None:
    async def script(peer: Upstream, client: RawClient) -> None:
        await client.until(b"\r\n\r\n")
        await client.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        await client.stream.send_eof()
        while await client.stream.receive_some(1 << 20):
            pass

    async with upstream(script) as peer, pool() as p:
        response = await p.request("POST", peer.origin, "/", [], bytes(20_000_000), QUICK)
        assert (response.status, await response.read(10)) == (413, b"no")


async def test_a_refused_connection_says_so() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    async with pool() as p:
        with pytest.raises(ConnectFailed) as caught:
            await p.request("POST", Origin("http", "127.0.0.1", port), "/", [], b"", QUICK)
        assert caught.value.reason == "refused"
        assert p.statistics().busy == 0


async def test_an_unknown_host_is_a_dns_failure() -> None:
    async with pool() as p:
        with pytest.raises(ConnectFailed) as caught:
            await p.request("POST", Origin("http", "no.such.host.invalid", 80), "/", [], b"", QUICK)
        assert caught.value.reason == "dns"


async def silent(peer: Upstream, client: RawClient) -> None:
    await client.until(b"\r\n\r\n")
    await client.stream.receive_some(1)


async def drip(peer: Upstream, client: RawClient) -> None:
    await client.until(b"\r\n\r\n")
    await client.send(CHUNKED)
    while True:
        await client.send(b"1\r\nx\r\n")
        await trio.sleep(0.02)


async def head_then_silence(peer: Upstream, client: RawClient) -> None:
    await client.until(b"\r\n\r\n")
    await client.send(CHUNKED + b"1\r\nx\r\n")
    await client.stream.receive_some(1)


async def drip_head(peer: Upstream, client: RawClient) -> None:
    await client.until(b"\r\n\r\n")
    await client.send(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        await client.send(b"y")
        await trio.sleep(0.02)


@pytest.mark.parametrize(
    ("script", "deadlines", "phase"),
    [
        (silent, Deadlines(first_byte_s=0.15), "first_byte"),
        (drip_head, Deadlines(first_byte_s=0.15), "first_byte"),
        (silent, Deadlines(first_byte_s=5, total_s=0.15), "total"),
        (head_then_silence, Deadlines(first_byte_s=5, between_s=0.15), "between"),
        (head_then_silence, Deadlines(first_byte_s=5, total_s=0.15), "total"),
        (drip, Deadlines(first_byte_s=5, between_s=5, total_s=0.3), "total"),
    ],
)
async def test_each_deadline_is_kept_and_named(script: Any, deadlines: Deadlines, phase: str) -> None:
    async with upstream(script) as peer, pool() as p:
        with trio.fail_after(2), pytest.raises(TimedOut) as caught:
            await get(p, peer, deadlines)
        assert caught.value.phase == phase
        await peer.until_open(0, within_s=1)
        assert p.statistics().timed_out == 1


async def test_an_upload_that_nobody_reads_times_out() -> None:
    async def script(peer: Upstream, client: RawClient) -> None:
        await trio.sleep_forever()

    async with upstream(script) as peer, pool() as p:
        with trio.fail_after(2), pytest.raises(TimedOut):
            await p.request("POST", peer.origin, "/", [], bytes(50_000_000), Deadlines(first_byte_s=0.2))


async def test_the_between_deadline_runs_only_while_the_upstream_is_waited_for() -> None:
    async with upstream(answering(CHUNKED + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")) as peer, pool() as p:
        deadlines = Deadlines(first_byte_s=5, between_s=0.1)
        async with await p.request("POST", peer.origin, "/", [], b"", deadlines) as response:
            got = b""
            async for chunk in response.chunks():
                got += chunk
                await trio.sleep(0.3)
            assert got == b"ab"


@pytest.mark.parametrize("script", [silent, head_then_silence], ids=["before the head", "within the body"])
async def test_cancelling_a_request_closes_its_socket_at_once(script: Any) -> None:
    async with upstream(script) as peer, pool() as p:
        with trio.move_on_after(0.1):
            await get(p, peer)
        await peer.until_open(0, within_s=0.1)
        assert p.statistics().busy == 0


async def test_leaving_a_response_unread_closes_its_socket_at_once() -> None:
    async with upstream(head_then_silence) as peer, pool() as p:
        async with await p.request("POST", peer.origin, "/", [], b"", QUICK):
            await peer.until_open(1, within_s=1)
        await peer.until_open(0, within_s=0.1)


async def test_a_body_over_the_callers_limit_is_refused_and_closed() -> None:
    async with upstream(drip) as peer, pool() as p:
        async with await p.request("POST", peer.origin, "/", [], b"", QUICK) as response:
            with pytest.raises(BodyTooLarge):
                await response.read(5)
        await peer.until_open(0, within_s=1)


async def test_requests_over_the_limit_of_an_origin_wait_in_line() -> None:
    running = most = 0

    async def script(peer: Upstream, client: RawClient) -> None:
        nonlocal running, most
        while True:
            await read_request(client)
            running += 1
            most = max(most, running)
            await trio.sleep(0.01)
            running -= 1
            await client.send(OK)

    async with upstream(script) as peer, pool(max_connections_per_origin=3) as p:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(get, p, peer)
        assert most == 3
        assert peer.connections == 3
        assert p.statistics().waiting == p.statistics().busy == 0


async def test_a_full_queue_and_a_long_wait_are_errors_and_leave_nothing_behind() -> None:
    async with upstream(silent) as peer, pool(max_connections_per_origin=1, max_queue_per_origin=1) as p:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(get, p, peer)
            await peer.until_open(1, within_s=1)

            async def wait_in_vain() -> None:
                with pytest.raises(TimedOut) as caught:
                    await get(p, peer, Deadlines(connect_s=0.2))
                assert caught.value.phase == "queue"

            async with trio.open_nursery() as waiting:
                waiting.start_soon(wait_in_vain)
                await trio.testing.wait_all_tasks_blocked(0.01)
                with pytest.raises(QueueFull):
                    await get(p, peer)
            assert p.statistics().waiting == 0
            nursery.cancel_scope.cancel()
        assert p.statistics().busy == 0


async def test_idle_connections_expire() -> None:
    async with upstream(answering(OK, then_close=False)) as peer, pool(idle_timeout_s=0.1) as p:
        await get(p, peer)
        assert p.statistics().idle == 1
        await peer.until_open(0, within_s=2)
        await trio.sleep(0.1)
        assert p.statistics().origins == {}


async def test_after_a_burst_only_the_allowed_number_of_idle_connections_stays() -> None:
    barrier = trio.Event()

    async def script(peer: Upstream, client: RawClient) -> None:
        await read_request(client)
        await barrier.wait()
        await client.send(OK)
        await client.stream.receive_some(1)

    async with upstream(script) as peer, pool(max_idle_per_origin=2) as p:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(get, p, peer)
            await peer.until_open(6, within_s=2)
            barrier.set()
        await peer.until_open(2, within_s=3)


async def test_an_error_leaves_the_pool_as_it_is() -> None:
    with pytest.raises(LookupError):
        async with pool():
            raise LookupError


async def test_leaving_the_pool_closes_everything() -> None:
    async with upstream(answering(OK, then_close=False)) as peer:
        async with pool() as p:
            await get(p, peer)
        await peer.until_open(0, within_s=0.5)


DATA = b"the quick brown fox " * 1000
RAW = zlib.compressobj(wbits=-15)
ENCODED = {
    b"gzip": gzip.compress(DATA),
    b"x-gzip": gzip.compress(DATA[:5000]) + gzip.compress(DATA[5000:]),
    b"deflate": zlib.compress(DATA),
    b"Deflate": RAW.compress(DATA) + RAW.flush(),
    b"br": brotli.compress(DATA),
    b"gzip, br": brotli.compress(gzip.compress(DATA)),
    b"identity": DATA,
}


def encoded(encoding: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (encoding, len(body)) + body


@pytest.mark.parametrize("encoding", ENCODED)
async def test_encoded_bodies_are_decoded(encoding: bytes) -> None:
    async with upstream(answering(encoded(encoding, ENCODED[encoding]))) as peer, pool() as p:
        assert await get(p, peer) == DATA


async def test_an_unknown_encoding_is_left_alone() -> None:
    async with upstream(answering(encoded(b"zstd", b"raw"))) as peer, pool() as p:
        assert await get(p, peer) == b"raw"


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br"])
@pytest.mark.parametrize("how", ["garbage", "cut short"])
async def test_a_body_that_does_not_decode_is_an_error(encoding: bytes, how: str) -> None:
    body = b"\x1f\x8b\x08garbage" if how == "garbage" else ENCODED[encoding][:-10]
    async with upstream(answering(encoded(encoding, body))) as peer, pool() as p:
        with pytest.raises(DecodingFailed):
            await get(p, peer)


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br"])
async def test_a_decompression_bomb_is_stopped_at_the_limit(encoding: bytes) -> None:
    data = bytes(20_000_000)
    bomb = {
        b"gzip": lambda: gzip.compress(data, 1),
        b"deflate": lambda: zlib.compress(data, 1),
        b"br": lambda: brotli.compress(data, quality=1),
    }[encoding]()
    async with upstream(answering(encoded(encoding, bomb))) as peer, pool() as p:
        with pytest.raises(BodyTooLarge):
            await get(p, peer)


async def test_a_connection_that_was_closed_is_gone_without_the_collector() -> None:
    async def script(peer: Upstream, client: RawClient) -> None:
        await read_request(client)
        await client.send(OK.replace(b"200 OK", b"200 OK\r\nConnection: close"))

    gc.collect()
    gc.disable()
    try:
        async with upstream(script) as peer, pool() as p:
            for _ in range(10):
                assert await get(p, peer) == b"ok"
            await trio.testing.wait_all_tasks_blocked()
            left = [one for one in gc.get_objects() if isinstance(one, Connection)]
            assert len(left) <= 1, left
    finally:
        gc.enable()


async def test_an_answer_in_the_moment_of_the_timeout_is_a_timeout() -> None:
    class Late:
        """A channel that hands over what has come just after the sweeper was by."""

        def send_now(self, data: bytes) -> int:
            return len(data)

        async def receive(self, _: int) -> bytes:
            connection.expire("first_byte")
            return OK

        def close(self) -> None:
            pass

    late: Any = Late()
    connection = Connection(late, 0)
    with pytest.raises(TimedOut):
        await connection.exchange(b"GET / HTTP/1.1\r\n\r\n", b"", bodyless=False)
