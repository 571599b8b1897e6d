"""TLS, proxies and addresses of upstream connections."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.wire.certificates import Authority
from tests.wire.peers import QUICK, RawClient, Upstream, pool, read_request, upstream
from trustgate.wire import dial
from trustgate.wire.client import Deadlines, Origin, Pool, PoolConfig
from trustgate.wire.dial import Proxies
from trustgate.wire.errors import ConnectFailed, PeerClosed, TimedOut, TlsFailed

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def tls_script(context: ssl.SSLContext, *, answer: bytes = OK, times: int = 2, clean: bool = True) -> Any:
    async def script(peer: Upstream, client: RawClient) -> None:
        stream = trio.SSLStream(client.stream, context, server_side=True, https_compatible=True)
        inner = RawClient(stream)  # type: ignore[arg-type]
        for _ in range(times):
            await read_request(inner)
            await inner.send(answer)
        if clean:
            await stream.aclose()

    return script


async def get(p: Pool, origin: Origin, deadlines: Deadlines = QUICK) -> bytes:
    async with await p.request("POST", origin, "/", [], b"", deadlines) as response:
        return await response.read(10_000_000)


@asynccontextmanager
async def tls_upstream(context: ssl.SSLContext, **script: Any) -> AsyncIterator[Origin]:
    async with upstream(tls_script(context, **script)) as peer:
        yield Origin("https", "127.0.0.1", peer.port)


async def test_tls_with_a_custom_authority_is_verified_and_reused(authority: Authority) -> None:
    async with tls_upstream(authority.server_context("127.0.0.1")) as origin, pool(ca_file=str(authority.file)) as p:
        assert await get(p, origin) == b"ok"
        assert await get(p, origin) == b"ok"
        assert p.statistics().reused == 1


async def test_a_large_body_arrives_over_tls(authority: Authority) -> None:
    body = bytes(range(256)) * 20_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with (
        tls_upstream(authority.server_context("127.0.0.1"), answer=answer) as origin,
        pool(ca_file=str(authority.file)) as p,
    ):
        assert await get(p, origin) == body


async def test_an_unknown_authority_is_refused(authority: Authority) -> None:
    async with tls_upstream(authority.server_context("127.0.0.1")) as origin, pool() as p:
        with pytest.raises(TlsFailed, match="certificate verification failed"):
            await get(p, origin)
        assert p.statistics().busy == 0


async def test_a_certificate_for_another_name_is_refused(authority: Authority) -> None:
    async with tls_upstream(authority.server_context("other.test")) as origin, pool(ca_file=str(authority.file)) as p:
        with pytest.raises(TlsFailed, match="certificate verification failed"):
            await get(p, origin)


async def test_verification_can_be_switched_off(authority: Authority) -> None:
    async with tls_upstream(authority.server_context("other.test")) as origin, pool(verify_tls=False) as p:
        assert await get(p, origin) == b"ok"


async def test_the_server_name_is_sent(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str | None] = []
    context = authority.server_context("api.test")
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    async with tls_upstream(context) as origin, pool(ca_file=str(authority.file)) as p:

        async def resolve(self: Any, host: str, port: int) -> list[dial.Address]:
            return [(2, ("127.0.0.1", port))]

        monkeypatch.setattr(dial.Dialer, "resolve", resolve)
        assert await get(p, Origin("https", "api.test", origin.port)) == b"ok"
    assert names == ["api.test"]


async def test_a_body_that_ends_without_the_closing_alert_is_truncated(authority: Authority) -> None:
    answer = b"HTTP/1.1 200 OK\r\n\r\nmaybe not al"
    async with (
        tls_upstream(authority.server_context("127.0.0.1"), answer=answer, times=1, clean=False) as origin,
        pool(ca_file=str(authority.file)) as p,
    ):
        with pytest.raises((TlsFailed, PeerClosed)):
            await get(p, origin)


async def test_a_plain_server_behind_an_https_url_fails_as_tls(authority: Authority) -> None:
    async def script(peer: Upstream, client: RawClient) -> None:
        await client.stream.receive_some(1000)
        await client.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with upstream(script) as peer, pool() as p:
        with pytest.raises(TlsFailed):
            await get(p, Origin("https", "127.0.0.1", peer.port))


async def test_a_handshake_that_hangs_is_a_connect_timeout() -> None:
    async def script(peer: Upstream, client: RawClient) -> None:
        await client.stream.receive_some(1000)
        await client.stream.receive_some(1000)

    async with upstream(script) as peer, pool() as p:
        with pytest.raises(TimedOut) as caught:
            await get(p, Origin("https", "127.0.0.1", peer.port), Deadlines(connect_s=0.2))
        assert caught.value.phase == "connect"
        await peer.until_open(0, within_s=1)


@pytest.mark.parametrize(
    ("scheme", "host", "expected"),
    [
        ("https", "api.openai.com", "http://secure:1"),
        ("http", "api.openai.com", "http://plain:1"),
        ("https", "localhost", ""),
        ("https", "127.0.0.9", ""),
        ("https", "internal", ""),
        ("https", "a.internal", ""),
        ("https", "notinternal", "http://secure:1"),
        ("https", "sub.example.org", ""),
        ("https", "example.org", "http://secure:1"),
        ("https", "10.1.2.3", ""),
        ("https", "11.1.2.3", "http://secure:1"),
        ("https", "ported", ""),
    ],
)
def test_proxies_are_chosen_as_usual(scheme: str, host: str, expected: str) -> None:
    proxies = Proxies.from_environment(
        {
            "HTTP_PROXY": "http://plain:1",
            "https_proxy": "http://secure:1",
            "NO_PROXY": "internal, .example.org,10.0.0.0/8,ported:443,",
        }
    )
    assert proxies.choose(scheme, host, 443) == expected


async def test_requests_go_through_a_connect_proxy(authority: Authority) -> None:
    asked: list[bytes] = []

    async def proxy(peer: Upstream, client: RawClient) -> None:
        head = await client.until(b"\r\n\r\n")
        asked.append(head)
        await client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await tls_script(authority.server_context("api.test"))(peer, client)

    async with upstream(proxy) as peer:
        environment = {"HTTPS_PROXY": f"http://user:p%40ss@127.0.0.1:{peer.port}"}
        async with Pool(PoolConfig(ca_file=str(authority.file), environment=environment)) as p:
            assert await get(p, Origin("https", "api.test", 443)) == b"ok"
    assert asked == [
        b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n\r\n"
    ]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", b"", b"junk\r\n\r\n"])
async def test_a_proxy_that_refuses_is_a_connect_failure(answer: bytes) -> None:
    async def proxy(peer: Upstream, client: RawClient) -> None:
        await client.until(b"\r\n\r\n")
        await client.send(answer)

    async with (
        upstream(proxy) as peer,
        Pool(PoolConfig(environment={"HTTPS_PROXY": f"http://127.0.0.1:{peer.port}"})) as p,
    ):
        with pytest.raises(ConnectFailed) as caught:
            await get(p, Origin("https", "api.test", 443))
        assert caught.value.reason == "proxy"


async def test_a_dead_address_does_not_delay_a_living_one(monkeypatch: pytest.MonkeyPatch) -> None:
    hung = trio.Event()
    real = dial._connect_to

    async def connect(address: dial.Address) -> Any:
        if address[1][0] == "192.0.2.1":
            hung.set()
            await trio.sleep_forever()
        return await real(address)

    async def script(peer: Upstream, client: RawClient) -> None:
        await read_request(client)
        await client.send(OK)

    async with upstream(script) as peer, pool() as p:

        async def resolve(self: Any, host: str, port: int) -> list[dial.Address]:
            return [(2, ("192.0.2.1", port)), (2, ("127.0.0.1", port))]

        monkeypatch.setattr(dial, "_connect_to", connect)
        monkeypatch.setattr(dial.Dialer, "resolve", resolve)
        with trio.fail_after(2):
            assert await get(p, Origin("http", "two.test", peer.port)) == b"ok"
        assert hung.is_set()


async def test_names_are_looked_up_once_within_their_time_to_live(monkeypatch: pytest.MonkeyPatch) -> None:
    lookups = 0
    real = trio.socket.getaddrinfo

    async def getaddrinfo(host: Any, port: int, **options: Any) -> Any:
        nonlocal lookups
        if host != "named.test":
            return await real(host, port, **options)
        lookups += 1
        await trio.testing.wait_all_tasks_blocked()
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    async def script(peer: Upstream, client: RawClient) -> None:
        await read_request(client)
        await client.send(OK)

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    async with upstream(script) as peer, pool() as p:
        origin = Origin("http", "named.test", peer.port)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(get, p, origin)
        assert await get(p, origin) == b"ok"
        assert lookups == 1
