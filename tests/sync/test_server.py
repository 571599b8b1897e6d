"""The feed's server as a gRPC client sees it: who is let in, the order of messages, chunks, notices, TLS, the end."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
import jwt
import pytest
import trio

from tests.sync import protos
from tests.sync.test_compiled import GONE, MODELS, A, B, gateway, ids
from tests.wire.certificates import Authority
from trustgate.providers.catalog import Model
from trustgate.sync import server as server_module
from trustgate.sync.address import Address
from trustgate.sync.compiled import Compiler, Publication
from trustgate.sync.server import CannotListen, Certificate, Feed, ServerConfig, serving
from trustgate.sync.tokens import Tokens

T = TypeVar("T")
TOKEN, SECRET = "t" * 32, "j" * 32
TOKENS = Tokens(mode="composite", shared=TOKEN, secret=SECRET, issuer="cp", audience="dp")
EVERYTHING = (("authorization", f"Bearer {TOKEN}"),)


def scoped(gateway_id: str) -> tuple[tuple[str, str], ...]:
    claims = {"iss": "cp", "aud": "dp", "exp": int(time.time()) + 60, "instance_id": gateway_id}
    return (("authorization", "Bearer " + jwt.encode(claims, SECRET, "HS256")),)


Said = tuple[str, str, str, str]


class Running:
    def __init__(self, feed: Feed, said: queue.SimpleQueue[Said]) -> None:
        self.feed, self.said = feed, said
        self._compiler = Compiler()

    def publish(self, *views: Any, models: Any = MODELS, gone: tuple[str, ...] = ()) -> Publication:
        publication = self._compiler.compile(views, models, gone)
        self.feed.publish(publication)
        return publication


@contextlib.asynccontextmanager
async def running(tokens: Tokens = TOKENS, **more: Any) -> AsyncIterator[Running]:
    said: queue.SimpleQueue[Said] = queue.SimpleQueue()
    config = ServerConfig(address=Address("127.0.0.1", 0), tokens=tokens, **more)
    async with serving(config, lambda *what: said.put(what)) as feed:
        yield Running(feed, said)


async def call(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


@contextlib.contextmanager
def channel(port: int) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as found:
        yield found


def get(port: int, metadata: Any = EVERYTHING, applied: str = "") -> list[Any]:
    """The chunks of a GetSnapshot call."""
    request = protos.make("GetSnapshotRequest", applied_version=applied, instance_id="test")
    with channel(port) as found:
        stub = found.unary_stream(
            "/snapshotpb.ConfigSync/GetSnapshot",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=lambda data: protos.read("SnapshotChunk", data),
        )
        return list(stub(request, metadata=metadata, timeout=20))


class Stream:
    """A Sync call whose messages are sent one by one."""

    def __init__(self, port: int, metadata: Any = EVERYTHING) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._out: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.call = self._channel.stream_stream(
            "/snapshotpb.ConfigSync/Sync",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=lambda data: protos.read("ServerMessage", data),
        )(iter(self._out.get, None), metadata=metadata, timeout=60)

    def hello(self, version: str = "", instance: str = "dp-1") -> Stream:
        hello = protos.make("Hello", instance_id=instance, last_applied_version=version)
        self._out.put(protos.make("ClientMessage", hello=hello))
        return self

    def ack(self, version: str) -> Stream:
        self._out.put(protos.make("ClientMessage", ack=protos.make("Ack", applied_version=version)))
        return self

    def empty(self) -> Stream:
        self._out.put(protos.make("ClientMessage"))
        return self

    def notice(self) -> str:
        return next(self.call).notice.version

    def end(self) -> None:
        self._out.put(None)

    def outcome(self) -> tuple[grpc.StatusCode, str]:
        """How the call ends."""
        with contextlib.suppress(grpc.RpcError):
            for _ in self.call:
                pass
        return self.call.code(), self.call.details()

    def close(self) -> None:
        self.end()
        self._channel.close()


@contextlib.contextmanager
def stream(port: int, metadata: Any = EVERYTHING) -> Iterator[Stream]:
    found = Stream(port, metadata)
    try:
        yield found
    finally:
        found.close()


def refusal(work: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        work()
    error: Any = caught.value
    return error.code(), error.details()


REFUSED = (grpc.StatusCode.UNAUTHENTICATED, "missing or invalid config-sync token")
UNKNOWN = (grpc.StatusCode.UNAVAILABLE, "no snapshot available yet")


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),), (("authorization", TOKEN),)])
async def test_both_calls_refuse_a_caller_without_a_valid_token(metadata: Any) -> None:
    async with running() as server:
        server.publish(gateway(A))
        assert await call(lambda: refusal(lambda: get(server.feed.port, metadata))) == REFUSED
        with stream(server.feed.port, metadata) as sync:
            assert await call(sync.hello().outcome) == REFUSED
        assert server.said.empty()


async def test_without_configured_tokens_every_call_is_refused() -> None:
    async with running(Tokens()) as server:
        server.publish(gateway(A))
        expected = (grpc.StatusCode.UNAUTHENTICATED, "config-sync auth is not configured")
        assert await call(lambda: refusal(lambda: get(server.feed.port))) == expected
        with stream(server.feed.port) as sync:
            assert await call(sync.hello().outcome) == expected


async def test_before_the_first_snapshot_and_for_unknown_scopes_there_is_none() -> None:
    async with running() as server:
        assert await call(lambda: refusal(lambda: get(server.feed.port))) == UNKNOWN
        server.publish(gateway(A))
        assert await call(lambda: refusal(lambda: get(server.feed.port, scoped(B)))) == UNKNOWN


async def test_a_snapshot_is_a_header_and_its_bytes() -> None:
    async with running() as server:
        publication = server.publish(gateway(A, "c1"), gateway(B))
        header, *chunks = await call(lambda: get(server.feed.port))
        data = b"".join(chunk.data for chunk in chunks)
        assert header.header.version == publication.everything.version == hashlib.sha256(data).hexdigest()
        assert (header.header.not_modified, header.header.total_bytes) == (False, len(data))
        assert ids(protos.read("Snapshot", data).gateways) == [A, B]


async def test_a_known_version_is_one_header() -> None:
    async with running() as server:
        version = server.publish(gateway(A)).everything.version
        chunks = await call(lambda: get(server.feed.port, applied=version))
        assert len(chunks) == 1
        assert (chunks[0].header.version, chunks[0].header.not_modified) == (version, True)
        assert chunks[0].header.total_bytes == 0


async def test_large_snapshots_come_in_chunks_of_a_mebibyte() -> None:
    async with running() as server:
        server.publish(models={"openai": {str(n): Model(slug=str(n), display_name="x" * 1000) for n in range(2500)}})
        chunks = (await call(lambda: get(server.feed.port)))[1:]
        assert len(chunks) > 2
        assert {len(chunk.data) for chunk in chunks[:-1]} == {1 << 20}


async def test_a_snapshot_beyond_the_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_SNAPSHOT_BYTES", 100)
    async with running() as server:
        server.publish(gateway(A))
        code, _ = await call(lambda: refusal(lambda: get(server.feed.port)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_signed_token_gets_its_gateway_only() -> None:
    async with running() as server:
        server.publish(gateway(A, "a1"), gateway(B, "b1"), gone=(GONE,))
        _, *chunks = await call(lambda: get(server.feed.port, scoped(A)))
        found = protos.read("Snapshot", b"".join(chunk.data for chunk in chunks))
        assert (ids(found.gateways), ids(found.consumers), len(found.catalog_models)) == ([A], ["a1"], 1)
        _, *chunks = await call(lambda: get(server.feed.port, scoped(GONE)))
        assert len(protos.read("Snapshot", b"".join(chunk.data for chunk in chunks)).gateways) == 0


FIRST: list[tuple[str, Callable[[Stream], Any]]] = [
    ("an ack", lambda sync: sync.ack("v")),
    ("neither", lambda sync: sync.empty()),
    ("nothing", lambda sync: sync.end()),
]


@pytest.mark.parametrize("send", [send for _, send in FIRST], ids=[name for name, _ in FIRST])
async def test_the_first_message_must_be_hello(send: Callable[[Stream], Any]) -> None:
    async with running() as server:
        with stream(server.feed.port) as sync:
            send(sync)
            expected = (grpc.StatusCode.INVALID_ARGUMENT, "first Sync message must be Hello")
            assert await call(sync.outcome) == expected


async def test_a_plane_with_another_version_is_told_at_once_and_then_of_each_new_one() -> None:
    async with running() as server:
        first = server.publish(gateway(A)).everything.version
        with stream(server.feed.port) as sync:
            assert await call(sync.hello("old").notice) == first
            second = server.publish(gateway(A, version=2)).everything.version
            assert await call(sync.notice) == second


async def test_a_plane_with_the_version_is_told_of_the_next_only() -> None:
    async with running() as server:
        first = server.publish(gateway(A)).everything.version
        with stream(server.feed.port) as sync:
            sync.hello(first)
            assert (await call(server.said.get))[2] == "connected"
            second = server.publish(gateway(A, version=2)).everything.version
            assert await call(sync.notice) == second


async def test_a_scope_is_told_of_its_own_changes_only_and_of_its_end() -> None:
    async with running() as server:
        first = server.publish(gateway(A), gateway(B))
        with stream(server.feed.port, scoped(A)) as sync:
            sync.hello(first.of(A).version)  # type: ignore[union-attr]
            assert (await call(server.said.get))[:2] == (A, "dp-1")
            server.publish(gateway(A), gateway(B, version=2))
            ended = server.publish(gateway(B, version=2), gone=(A,))
            assert await call(sync.notice) == ended.of(A).version  # type: ignore[union-attr]


async def test_a_scope_that_comes_into_being_is_told() -> None:
    async with running() as server:
        with stream(server.feed.port, scoped(A)) as sync:
            sync.hello()
            await call(server.said.get)
            server.publish(gateway(B))
            found = server.publish(gateway(B), gateway(A))
            assert await call(sync.notice) == found.of(A).version  # type: ignore[union-attr]


async def test_connections_acknowledgements_and_ends_are_told() -> None:
    async with running() as server:
        version = server.publish(gateway(A)).everything.version
        with stream(server.feed.port) as sync:
            assert await call(sync.hello("old", "dp-7").notice) == version
            sync.ack(version)
            assert await call(server.said.get) == ("", "dp-7", "connected", "old")
            assert await call(server.said.get) == ("", "dp-7", "ack", version)
            sync.end()
            assert await call(sync.outcome) == (grpc.StatusCode.OK, "")
            assert await call(server.said.get) == ("", "dp-7", "disconnected", "")


async def test_a_plane_that_vanishes_is_told() -> None:
    async with running() as server:
        with stream(server.feed.port) as sync:
            sync.hello()
            await call(server.said.get)
        assert (await call(server.said.get))[2] == "disconnected"


async def test_closing_ends_every_stream_with_unavailable_at_once() -> None:
    async with running() as server:
        with stream(server.feed.port) as sync, stream(server.feed.port) as silent:
            sync.hello()
            await call(server.said.get)
            server.feed.close()
            assert (await call(sync.outcome))[0] is grpc.StatusCode.UNAVAILABLE
            assert (await call(silent.outcome))[0] is grpc.StatusCode.UNAVAILABLE


async def test_the_server_ends_while_streams_are_open() -> None:
    with trio.fail_after(30):
        async with running() as server:
            sync = Stream(server.feed.port).hello()
            await call(server.said.get)
        assert (await call(sync.outcome))[0] is grpc.StatusCode.UNAVAILABLE
        sync.close()


async def test_many_planes_are_told_of_one_change() -> None:
    async with running() as server:
        server.publish(gateway(A))
        with contextlib.ExitStack() as stack:
            planes = [stack.enter_context(stream(server.feed.port)).hello() for _ in range(30)]
            await call(lambda: [plane.notice() for plane in planes])
            version = server.publish(gateway(A, version=2)).everything.version
            assert await call(lambda: {plane.notice() for plane in planes}) == {version}


async def test_an_address_that_is_taken_cannot_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = ServerConfig(address=Address("127.0.0.1", taken.getsockname()[1]), tokens=TOKENS)
        with pytest.raises(CannotListen):
            async with serving(config, lambda *what: None):
                pass
    async with running() as server:
        config = ServerConfig(address=Address("127.0.0.1", server.feed.port), tokens=TOKENS)
        with pytest.raises(CannotListen):
            async with serving(config, lambda *what: None):
                pass


ADDRESSES = [
    (":8083", ["[::]:8083", "0.0.0.0:8083"]),
    ("127.0.0.1:1", ["127.0.0.1:1"]),
    ("[::1]:2", ["[::1]:2"]),
    ("host:3", ["host:3"]),
]


@pytest.mark.parametrize("text, targets", ADDRESSES)
def test_addresses(text: str, targets: list[str]) -> None:
    assert Address.parse(text).targets() == targets


@pytest.mark.parametrize("text", ["", "8083", "host", "host:", "host:x", ":65536"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        Address.parse(text)


# TLS


def pair(authority: Authority, folder: Path, host: str) -> tuple[Path, Path]:
    authority.server_context(host)
    both = (folder / f"{host}.pem").read_bytes()
    split = both.index(b"-----BEGIN CERTIFICATE")
    key, cert = folder / f"{host}.key", folder / f"{host}.crt"
    key.write_bytes(both[:split])
    cert.write_bytes(both[split:])
    return cert, key


def get_secure(port: int, authority: Authority, name: str) -> str:
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
    options = [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as found:
        stub = found.unary_stream("/snapshotpb.ConfigSync/GetSnapshot")
        return protos.read("SnapshotChunk", next(stub(b"", metadata=EVERYTHING, timeout=20))).header.version


async def test_a_listener_with_a_certificate_speaks_tls_only_and_renews_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    cert, key = pair(authority, tmp_path, "first.test")
    monkeypatch.setattr(server_module, "REREAD_S", 0.0)
    async with running(tls_cert=str(cert), tls_key=str(key)) as server:
        version = server.publish(gateway(A)).everything.version
        port = server.feed.port
        assert await call(lambda: get_secure(port, authority, "first.test")) == version
        assert (await call(lambda: refusal(lambda: get(port))))[0] is grpc.StatusCode.UNAVAILABLE
        cert.write_bytes(b"rubbish")
        assert await call(lambda: get_secure(port, authority, "first.test")) == version
        new_cert, new_key = pair(authority, tmp_path, "second.test")
        key.write_bytes(new_key.read_bytes())
        cert.write_bytes(new_cert.read_bytes())
        assert await call(lambda: get_secure(port, authority, "second.test")) == version
        code, _ = await call(lambda: refusal(lambda: get_secure(port, authority, "first.test")))
        assert code is grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_is_read_again_once_a_minute_at_most(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = pair(authority, tmp_path, "one.test")
    now = [100.0]
    certificate = Certificate(str(cert), str(key), lambda: now[0])
    other_cert, other_key = pair(authority, tmp_path, "two.test")
    cert.write_bytes(other_cert.read_bytes())
    now[0] += 59.9
    assert certificate.renewed() is None
    now[0] += 0.2
    assert certificate.renewed() is None  # the key does not belong to it
    key.write_bytes(other_key.read_bytes())
    now[0] += 59.0
    assert certificate.renewed() is None
    now[0] += 1.5
    assert certificate.renewed() is not None
    now[0] += 61
    assert certificate.renewed() is None  # nothing new


async def test_a_certificate_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, _ = pair(authority, tmp_path, "one.test")
    _, key = pair(authority, tmp_path, "two.test")
    with pytest.raises(ValueError, match="does not belong"):
        async with running(tls_cert=str(cert), tls_key=str(key)):
            pass


async def test_pings_that_are_too_frequent_end_the_connection() -> None:
    async with running(keepalive_time_s=40.0) as server:
        version = server.publish(gateway(A)).everything.version

        def ping() -> tuple[grpc.StatusCode, str]:
            options = [("grpc.keepalive_time_ms", 1000), ("grpc.http2.max_pings_without_data", 0),
                       ("grpc.keepalive_permit_without_calls", 1)]  # fmt: skip
            done = threading.Event()

            def messages() -> Iterator[bytes]:
                hello = protos.make("Hello", last_applied_version=version)
                yield protos.make("ClientMessage", hello=hello).SerializeToString()
                done.wait(60)

            with grpc.insecure_channel(f"127.0.0.1:{server.feed.port}", options) as found:
                sync: Any = found.stream_stream("/snapshotpb.ConfigSync/Sync")(
                    messages(), metadata=EVERYTHING, timeout=50
                )
                with contextlib.suppress(grpc.RpcError):
                    next(sync)
                done.set()
                return sync.code(), sync.details()

        code, details = await call(ping)
        assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED), details
        assert "ping" in details.lower()
