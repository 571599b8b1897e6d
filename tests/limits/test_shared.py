"""Small shared values: the same answers in process, in Redis and from the supervisor of workers."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import coredis
import pytest
import trio
import trio.lowlevel

from trustgate.limits import LimitsUnavailable, MemoryLimits, Peek, Window
from trustgate.limits.bus import Bus, LocalBus
from trustgate.limits.ops import Charge
from trustgate.limits.redis_bus import RedisBus
from trustgate.limits.remote import remote_shared, serve_shared
from trustgate.limits.shared import POSITION, LocalState, RedisState, SharedState


@asynccontextmanager
async def local(where: str) -> AsyncIterator[SharedState]:
    yield LocalState(trio.current_time)


@asynccontextmanager
async def redis(where: str) -> AsyncIterator[SharedState]:
    async with coredis.Redis.from_url(where) as client:
        yield RedisState(client)


@asynccontextmanager
async def remote(where: str) -> AsyncIterator[SharedState]:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_shared, where, MemoryLimits(), LocalState(trio.current_time))
        async with remote_shared(where) as (_, state, _):
            yield state
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["local", "redis", "remote"])
def backend(request: pytest.FixtureRequest, tmp_path: Path):
    match request.param:
        case "local":
            return lambda: local("")
        case "redis":
            url = request.getfixturevalue("redis_url")
            return lambda: redis(url)
        case _:
            return lambda: remote(str(tmp_path / "shared.sock"))


async def test_a_value_is_kept_replaced_and_deleted(backend) -> None:
    key = f"test:{uuid.uuid4()}"
    async with backend() as state:
        assert await state.get(key) is None
        await state.put(key, b"\x00one", 60)
        assert await state.get(key) == b"\x00one"
        await state.put(key, b"two", None)
        assert await state.get(key) == b"two"
        await state.delete(key)
        assert await state.get(key) is None
        await state.delete(key)


async def test_values_of_redis_are_listed_and_exchanged_for_what_they_were(redis_url: str) -> None:
    prefix = f"te*st[{uuid.uuid4()}]?:"
    async with redis(redis_url) as state:
        assert isinstance(state, RedisState)
        await state.put(prefix + "b", b"\x00b", 0.5)
        await state.put(prefix + "a", b"a", None)
        await state.put(prefix.replace("*", "x"), b"another", 60)
        assert await state.below(prefix) == [(prefix + "a", b"a"), (prefix + "b", b"\x00b")]
        assert not await state.replace(prefix + "b", b"other", b"new")
        assert not await state.replace(prefix + "c", b"", b"new")
        assert await state.replace(prefix + "b", b"\x00b", b"new")
        assert await state.get(prefix + "b") == b"new"
        await trio.sleep(1)  # Its time to live is the old one.
        assert await state.below(prefix) == [(prefix + "a", b"a")]
        await state.delete(prefix + "a")


async def test_a_value_is_put_where_there_is_none(backend) -> None:
    key = f"test:{uuid.uuid4()}"
    async with backend() as state:
        assert await state.put_if_absent(key, b"one", 0.05)
        assert not await state.put_if_absent(key, b"two", None)
        assert await state.get(key) == b"one"
        await trio.sleep(0.2)
        assert await state.put_if_absent(key, b"three", None)
        assert await state.get(key) == b"three"


async def test_a_value_expires(backend) -> None:
    key = f"test:{uuid.uuid4()}"
    async with backend() as state:
        await state.put(key, b"short", 0.05)
        assert await state.get(key) == b"short"
        await trio.sleep(0.2)
        assert await state.get(key) is None


async def test_a_log_keeps_its_last_entries_in_order(backend) -> None:
    key = f"test:{uuid.uuid4()}"
    async with backend() as state:
        assert await state.entries(key) == []
        first = await state.append(key, b"\x00one", 3, 60)
        positions = [await state.append(key, value, 3, 60) for value in (b"two", b"three", b"four")]
        assert all(POSITION.fullmatch(position) for position in (first, *positions))
        assert await state.entries(key) == list(zip(positions, (b"two", b"three", b"four"), strict=True))
        assert await state.entries(key, first) == await state.entries(key)
        assert [value for _, value in await state.entries(key, positions[1])] == [b"four"]
        assert await state.entries(key, positions[2]) == []
        await state.delete(key)
        assert await state.entries(key) == []


async def test_a_log_expires_after_its_last_entry(backend) -> None:
    key = f"test:{uuid.uuid4()}"
    async with backend() as state:
        await state.append(key, b"one", 3, 0.05)
        await trio.sleep(0.2)
        assert await state.entries(key) == []


async def test_local_logs_are_bounded_by_their_bytes() -> None:
    state = LocalState(trio.current_time, max_log_bytes=100)
    await state.append("old", b"x" * 60, 10, 60)
    await state.append("new", b"y" * 60, 10, 60)
    assert await state.entries("old") == []
    assert len(await state.entries("new")) == 1


@asynccontextmanager
async def buses(kind: str, request: pytest.FixtureRequest, where: str) -> AsyncIterator[tuple[Bus, Bus]]:
    """Two processes' ends of one bus."""
    if kind == "local":
        bus = LocalBus()
        yield bus, bus
    elif kind == "redis":
        async with coredis.Redis.from_url(request.getfixturevalue("redis_url")) as client:
            channel = f"test:{uuid.uuid4()}"
            yield RedisBus(client, channel), RedisBus(client, channel)
    else:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_shared, where, MemoryLimits(), LocalState(trio.current_time))
            async with remote_shared(where) as (*_, first), remote_shared(where) as (*_, second):
                yield first, second
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["local", "redis", "remote"])
async def test_a_message_reaches_every_process_that_listens(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with buses(kind, request, str(tmp_path / "bus.sock")) as (first, second), trio.open_nursery() as nursery:
        outgoing, incoming = trio.open_memory_channel[tuple[str, bytes]](10)
        await nursery.start(first.listen, lambda message: outgoing.send_nowait(("first", message)))
        await nursery.start(second.listen, lambda message: outgoing.send_nowait(("second", message)))
        await first.publish(b"\x00news")
        with trio.fail_after(10):
            heard = {await incoming.receive(), await incoming.receive()}
        assert heard == {("first", b"\x00news"), ("second", b"\x00news")}
        nursery.cancel_scope.cancel()


async def test_of_several_takers_exactly_one_gets_the_value(backend) -> None:
    key = f"test:{uuid.uuid4()}"
    taken: list[bytes | None] = []
    async with backend() as state:
        await state.put(key, b"once", 60)

        async def take() -> None:
            taken.append(await state.take(key))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(take)
    assert sorted(taken, key=str) == [None] * 9 + [b"once"] or sorted(taken, key=str) == [b"once"] + [None] * 9


async def test_a_full_local_state_drops_what_expires_first() -> None:
    state = LocalState(trio.current_time, max_entries=2)
    for name, ttl_s in (("a", 30.0), ("b", 10.0), ("c", 20.0)):
        await state.put(name, b"x", ttl_s)
    assert [await state.get(name) for name in "abc"] == [b"x", None, b"x"]


async def test_workers_see_each_others_counts_and_a_dead_owner_is_an_error(tmp_path: Path) -> None:
    path = str(tmp_path / "shared.sock")
    charge = (Charge((Window("k", 60_000),)),)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_shared, path, MemoryLimits(), LocalState(trio.current_time))
        async with remote_shared(path) as (first, *_), remote_shared(path) as (second, *_):
            await first.run(charge)
            await second.run(charge)
            (peeked,) = await first.run((Peek(("k",)),))
            assert peeked.values == (2,)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True), trio.fail_after(10):
                await trio.lowlevel.checkpoint()
    async with remote_shared(path) as (orphan, *_):
        with pytest.raises(LimitsUnavailable):
            await orphan.run(charge)
