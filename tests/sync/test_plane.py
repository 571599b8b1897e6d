"""A data plane against a control plane of the test's own: what it asks, checks, keeps and survives."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
import trio

from tests.sync import protos
from trustgate.domain.entities import GatewayState
from trustgate.providers.catalog import Models
from trustgate.sync import client as client_module
from trustgate.sync.client import Backoff, ClientConfig
from trustgate.sync.lkg import LastKnownGood
from trustgate.sync.plane import DataPlane

KEY = b"0123456789abcdef0123456789abcdef"
TOKEN = "t" * 32
STAMPS = {"created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z"}


def snapshot(*slugs: str, **more: Any) -> bytes:
    """A snapshot with one gateway for each slug, its id the same."""
    rows = [{"id": slug, "slug": slug, "status": "active", "entitlements": {}, "later": [1]} | STAMPS for slug in slugs]
    gateways = [protos.make("Gateway", json=json.dumps(row | more).encode()) for row in rows]
    return protos.make("Snapshot", gateways=gateways).SerializeToString()


def version_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Fake:
    """A control plane. `answers` may replace what GetSnapshot does; `calls` is what was asked."""

    def __init__(self) -> None:
        self.data: bytes | None = None
        self.spoil: Callable[[list[Any]], list[Any]] = lambda chunks: chunks
        self.refuse: tuple[grpc.StatusCode, str] | None = None
        self.calls: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.streams: list[queue.SimpleQueue[str | None]] = []
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        handlers = {
            "Sync": grpc.stream_stream_rpc_method_handler(self._sync),
            "GetSnapshot": grpc.unary_stream_rpc_method_handler(self._get),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("snapshotpb.ConfigSync", handlers),)
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def close(self) -> None:
        self.cut()
        self._server.stop(0).wait()

    def publish(self, data: bytes, *, notice: bool = True) -> str:
        self.data = data
        for stream in self.streams if notice else ():
            stream.put(version_of(data))
        return version_of(data)

    def cut(self) -> None:
        """End all streams."""
        for stream in self.streams:
            stream.put(None)
        self.streams = []

    def _check(self, context: grpc.ServicerContext) -> None:
        metadata: Any = context.invocation_metadata()
        if dict(metadata).get("authorization") != f"Bearer {TOKEN}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "missing or invalid config-sync token")
        if self.refuse is not None:
            context.abort(*self.refuse)

    def _get(self, data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        request = protos.read("GetSnapshotRequest", data)
        self.calls.put(("get", (request.applied_version, request.instance_id)))
        self._check(context)
        if self.data is None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "no snapshot available yet")
        assert self.data is not None
        version = version_of(self.data)
        if request.applied_version == version:
            header = protos.make("SnapshotHeader", version=version, not_modified=True)
            yield protos.make("SnapshotChunk", header=header).SerializeToString()
            return
        header = protos.make("SnapshotHeader", version=version, total_bytes=len(self.data))
        half = len(self.data) // 2
        chunks = [header, self.data[:half], self.data[half:]]
        for chunk in self.spoil(chunks):
            message = {"data": chunk} if isinstance(chunk, bytes) else {"header": chunk}
            yield protos.make("SnapshotChunk", **message).SerializeToString()

    def _sync(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._check(context)
        out: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        if not context.add_callback(lambda: out.put(None)):
            return  # the client is gone already, and nobody would end the wait below

        def hear() -> None:
            with contextlib.suppress(grpc.RpcError, Exception):
                for data in messages:
                    message = protos.read("ClientMessage", data)
                    kind = message.WhichOneof("msg")
                    if kind == "hello":
                        self.streams.append(out)
                        if self.data is not None and message.hello.last_applied_version != version_of(self.data):
                            out.put(version_of(self.data))
                        self.calls.put(("hello", (message.hello.instance_id, message.hello.last_applied_version)))
                    else:
                        self.calls.put((kind, message.ack.applied_version))

        threading.Thread(target=hear, daemon=True).start()
        while (version := out.get()) is not None:
            notice = protos.make("VersionNotice", version=version)
            yield protos.make("ServerMessage", notice=notice).SerializeToString()
        if context.is_active():
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")


class World:
    """A data plane, what it was told to serve, and the control plane."""

    def __init__(self, folder: pathlib.Path, port: int, **more: Any) -> None:
        self.states: dict[str, GatewayState] = {}
        self.changes: list[str] = []
        self.models: Models = {}
        self.lkg = LastKnownGood(str(folder / "s.lkg"), KEY)
        staleness = more.pop("max_staleness_s", None)
        self.plane = DataPlane(self.lkg, self._on_state, self._on_models, staleness)
        quick = {"min_backoff_s": 0.05, "max_backoff_s": 0.2, "insecure": True}
        usual = {"endpoint": f"127.0.0.1:{port}", "token": TOKEN, "instance_id": "dp-1"}
        self.config = ClientConfig(**(usual | quick | more))

    def _on_state(self, gateway_id: str, state: GatewayState | None, position: int) -> None:
        self.changes.append(gateway_id if state is not None else f"-{gateway_id}")
        if state is None:
            del self.states[gateway_id]
        else:
            self.states[gateway_id] = state

    def _on_models(self, models: Models) -> None:
        self.models = models

    @property
    def version(self) -> str:
        return self.plane.status.version


@pytest.fixture
def fake() -> Iterator[Fake]:
    running = Fake()
    yield running
    running.close()


@contextlib.asynccontextmanager
async def following(world: World) -> AsyncIterator[World]:
    await world.plane.restore()
    async with world.plane.following(world.config):
        yield world


async def until(condition: Callable[[], Any]) -> None:
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - other threads change it
            await trio.sleep(0.01)


async def heard(fake: Fake) -> tuple[str, Any]:
    return await trio.to_thread.run_sync(lambda: fake.calls.get(timeout=30))


async def test_it_pulls_says_hello_applies_notices_and_acknowledges(fake: Fake, tmp_path: pathlib.Path) -> None:
    first = fake.publish(snapshot("a"))
    async with following(World(tmp_path, fake.port)) as world:
        assert await heard(fake) == ("get", ("", "dp-1"))
        assert await heard(fake) == ("hello", ("dp-1", first))
        await until(world.plane.ready)
        second = fake.publish(snapshot("a", "b"))
        assert await heard(fake) == ("get", (first, "dp-1"))
        assert await heard(fake) == ("ack", second)
        assert world.version == second
        assert sorted(world.states) == ["a", "b"]
        assert world.changes == ["a", "b"]


async def test_a_gateway_that_is_gone_is_gone_and_others_are_not_touched(fake: Fake, tmp_path: pathlib.Path) -> None:
    fake.publish(snapshot("a", "b"))
    async with following(World(tmp_path, fake.port)) as world:
        await until(lambda: fake.streams and world.plane.status.streaming)
        version = fake.publish(snapshot("b"))
        await until(lambda: world.version == version)
        assert world.changes == ["a", "b", "-a"]


async def test_a_control_plane_without_a_snapshot_is_waited_for(fake: Fake, tmp_path: pathlib.Path) -> None:
    async with following(World(tmp_path, fake.port)) as world:
        assert (await heard(fake))[0] == "get"
        assert await heard(fake) == ("hello", ("dp-1", ""))
        assert not world.plane.ready()
        assert world.plane.shown() == {"version": None, "age": None}
        version = fake.publish(snapshot("a"))
        await until(world.plane.ready)
        assert world.version == version


async def test_a_stream_that_breaks_is_opened_again_after_a_pull(fake: Fake, tmp_path: pathlib.Path) -> None:
    first = fake.publish(snapshot("a"))
    async with following(World(tmp_path, fake.port)) as world:
        await until(lambda: fake.streams and world.plane.status.streaming)
        second = fake.publish(snapshot("b"), notice=False)
        fake.cut()
        await until(lambda: world.version == second)
        seen = []
        while ("hello", ("dp-1", second)) not in seen:
            seen.append(await heard(fake))
        assert seen.index(("get", (first, "dp-1"))) < seen.index(("hello", ("dp-1", second)))


async def test_a_change_without_a_notice_is_found_by_polling(fake: Fake, tmp_path: pathlib.Path) -> None:
    fake.publish(snapshot("a"))
    async with following(World(tmp_path, fake.port, poll_interval_s=0.1)) as world:
        await until(lambda: fake.streams and world.plane.status.streaming)
        version = fake.publish(snapshot("b"), notice=False)
        await until(lambda: world.version == version)


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL]
)
async def test_a_refused_plane_goes_on_trying(fake: Fake, tmp_path: pathlib.Path, code: grpc.StatusCode) -> None:
    fake.publish(snapshot("a"))
    fake.refuse = code, "no"
    async with following(World(tmp_path, fake.port)) as world:
        for _ in range(3):
            assert (await heard(fake))[0] == "get"
        assert not world.plane.ready()
        fake.refuse = None
        await until(world.plane.ready)


def other(header: Any, **members: Any) -> Any:
    return protos.make(
        "SnapshotHeader", version=header.version, total_bytes=members.get("total_bytes", header.total_bytes)
    )


SPOILT: list[tuple[str, Callable[[list[Any]], list[Any]]]] = [
    ("changed bytes", lambda chunks: [chunks[0], chunks[1], b"\0" * len(chunks[2])]),
    ("too short", lambda chunks: chunks[:2]),
    ("too long", lambda chunks: [*chunks, b"x"]),
    ("wrong length", lambda chunks: [other(chunks[0], total_bytes=chunks[0].total_bytes + 1), *chunks[1:]]),
    ("no header", lambda chunks: chunks[1:]),
    ("a second header", lambda chunks: [chunks[0], *chunks]),
    ("nothing", lambda chunks: []),
    ("too much", lambda chunks: [other(chunks[0], total_bytes=300 << 20), *chunks[1:]]),
]


@pytest.mark.parametrize("spoil", [spoil for _, spoil in SPOILT], ids=[name for name, _ in SPOILT])
async def test_a_snapshot_that_is_not_what_its_header_says_is_refused_and_asked_for_again(
    fake: Fake, tmp_path: pathlib.Path, spoil: Callable[[list[Any]], list[Any]]
) -> None:
    fake.publish(snapshot("a"))
    fake.spoil = spoil
    async with following(World(tmp_path, fake.port)) as world:
        for _ in range(2):
            assert (await heard(fake))[0] == "get"
        assert world.states == {}
        assert not world.lkg.path.exists()
        fake.spoil = lambda chunks: chunks
        await until(world.plane.ready)


async def test_a_snapshot_that_cannot_be_read_leaves_the_one_before_in_place(
    fake: Fake, tmp_path: pathlib.Path
) -> None:
    first = fake.publish(snapshot("a"))
    async with following(World(tmp_path, fake.port)) as world:
        await until(lambda: fake.streams and world.plane.status.streaming)
        fake.publish(snapshot("b", slug=7))
        await until(lambda: not world.plane.status.streaming)
        assert (world.version, list(world.states)) == (first, ["a"])
        version = fake.publish(snapshot("c"))
        await until(lambda: world.version == version)
        assert list(world.states) == ["c"]
        await until(lambda: fake.streams and world.plane.status.streaming)


# The file


async def test_what_was_applied_serves_again_without_a_control_plane(fake: Fake, tmp_path: pathlib.Path) -> None:
    version = fake.publish(snapshot("a"))
    async with following(World(tmp_path, fake.port)) as world:
        await until(world.lkg.path.exists)
        await until(lambda: fake.streams and world.plane.status.streaming)
    kept = world.lkg.read()
    assert kept is not None
    assert kept.data == snapshot("a")
    fake.close()
    again = World(tmp_path, fake.port)
    await again.plane.restore()
    assert again.plane.ready()
    assert (again.version, list(again.states)) == (version, ["a"])


async def test_what_is_on_disk_is_said_in_the_first_pull(fake: Fake, tmp_path: pathlib.Path) -> None:
    world = World(tmp_path, fake.port)
    world.lkg.write(snapshot("a"))
    version = fake.publish(snapshot("a"))
    async with following(world):
        assert await heard(fake) == ("get", (version, "dp-1"))
        assert await heard(fake) == ("hello", ("dp-1", version))
        assert world.changes == ["a"]


@pytest.mark.parametrize("content", [b"", b"x" * 100])
async def test_a_damaged_file_is_not_used(tmp_path: pathlib.Path, content: bytes) -> None:
    world = World(tmp_path, 1)
    world.lkg.path.write_bytes(content)
    await world.plane.restore()
    assert not world.plane.ready()


async def test_a_file_whose_snapshot_cannot_be_read_is_not_used(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path, 1)
    world.lkg.write(snapshot("a", slug=7))
    await world.plane.restore()
    assert not world.plane.ready()


async def test_an_old_file_still_serves(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path, 1)
    world.lkg.write(snapshot("a"))
    old = time.time() - 3 * 86400
    os.utime(world.lkg.path, (old, old))
    await world.plane.restore()
    assert world.plane.ready()
    assert world.plane.shown()["age"] == pytest.approx(3 * 86400, abs=60)


async def test_a_folder_that_cannot_be_written_stops_nothing(fake: Fake, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    version = fake.publish(snapshot("a"))
    async with following(World(tmp_path / "file", fake.port)) as world:
        await until(lambda: fake.streams and world.plane.status.streaming)
        assert world.version == version


# Age


async def test_a_plane_that_hears_nothing_grows_stale(fake: Fake, tmp_path: pathlib.Path) -> None:
    fake.publish(snapshot("a"))
    async with following(World(tmp_path, fake.port, max_staleness_s=0.5, max_backoff_s=5.0)) as world:
        await until(lambda: fake.streams and world.plane.status.streaming)
        await trio.sleep(0.7)
        assert world.plane.ready()  # the open stream would tell of news
        assert world.plane.shown()["age"] == 0
        fake.refuse = grpc.StatusCode.UNAVAILABLE, "gone"
        fake.cut()
        await until(lambda: not world.plane.ready())
        assert world.version == version_of(snapshot("a"))
        fake.refuse = None
        await until(world.plane.ready)


async def test_it_ends_at_once_while_it_waits(tmp_path: pathlib.Path, fake: Fake) -> None:
    with trio.fail_after(10):
        async with following(World(tmp_path, 1)):
            await trio.sleep(0.1)
    fake.publish(snapshot("a"))
    with trio.fail_after(10):
        async with following(World(tmp_path, fake.port)) as world:
            await until(lambda: fake.streams and world.plane.status.streaming)


def test_pauses_double_up_to_the_longest_with_jitter() -> None:
    backoff = Backoff(1.0, 30.0)
    for expected in (1, 2, 4, 8, 16, 30, 30):
        assert expected * (1 - client_module.JITTER) <= backoff.next() <= expected * (1 + client_module.JITTER)
    backoff.reset()
    assert backoff.next() <= 1 + client_module.JITTER
    assert len({Backoff(1.0, 30.0).next() for _ in range(20)}) > 10
