"""The store fails, or holds what cannot be read: what stops, what goes on, and how it comes back."""

from __future__ import annotations

import pathlib

import msgspec
import pytest
import trio
import trio.testing
from tests.actors import world
from tests.actors.test_control import Plane, process
from tests.actors.world import KEY, AnyCatalog, Target
from tests.store.relay import relay

from trustgate.actors import ControlPlane, Follower
from trustgate.actors.projection import SNAPSHOT_SCHEMA
from trustgate.domain import events as ev
from trustgate.store import (
    PostgresConfig,
    Snapshot,
    StoreUnavailable,
    StreamWrite,
    gateway_stream,
    open_store,
)

SNAPSHOT = Snapshot("", 1, SNAPSHOT_SCHEMA, b"damaged")
NEWER = b'{"v":99,"meta":{},"command":"Later","data":{"type":"FromTheFuture"}}'


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (b"not json", ev.CorruptEvent, "position 2"),
        (NEWER, ev.UnknownEvent, "newer version"),
    ],
)
async def test_an_unreadable_event_stops_the_start_and_says_where(
    target: Target, data: bytes, error: type[Exception], says: str
) -> None:
    async with open_store(target, KEY) as store:
        good = ev.encode(some_event())
        await store.append([StreamWrite(gateway_stream("a"), 0, [good])])
        await store.append([StreamWrite(gateway_stream("a"), 1, [data])])
        for run in (Follower(store).run, Follower(store, lambda *_: None).run, ControlPlane(store, AnyCatalog()).run):
            with pytest.raises(ExceptionGroup) as raised:
                async with trio.open_nursery() as nursery:
                    await nursery.start(run)
                    nursery.cancel_scope.cancel()
            found = leaf(raised.value)
            assert isinstance(found, error)
            assert says in str(found)
            assert "position 2" in str(found)


def leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def some_event() -> ev.Event:
    return ev.Event(meta=world.meta(), command="Test", data=ev.GatewayDeleted("a"))


async def test_an_unreadable_event_does_not_stop_a_running_plane(target: Target) -> None:
    gateway_id = world.new_id()
    async with process(target, barrier_timeout_s=0.1) as here:
        await here.control.execute(world.create_gateway(gateway_id, "one"))
        before = dict(here.plane.states)
        await here.store.append([StreamWrite(gateway_stream("newer"), 0, [NEWER])])
        assert not await here.plane.follower.catch_up()
        assert here.plane.states == before
        assert await here.control.state(gateway_id) == before[gateway_id]


async def test_a_damaged_snapshot_is_not_used(target: Target) -> None:
    gateway_id = world.new_id()
    async with process(target) as here:
        await here.control.execute(world.create_gateway(gateway_id, "one"))
        await here.control.execute(world.create_consumer(gateway_id, "c"))
        states = dict(await here.control.states())
        for stream in (gateway_stream(gateway_id), "directory"):
            await here.store.put_snapshot(msgspec.structs.replace(SNAPSHOT, stream=stream))
    async with process(target) as here:
        assert here.plane.states == states
        assert "c" in (await here.control.directory()).consumer_slugs


async def test_while_the_store_is_away_reads_go_on_and_writes_are_unavailable(postgres_database: str) -> None:
    direct = PostgresConfig.of_dsn(postgres_database)
    gateway_id = world.new_id()
    async with relay(direct.port) as link, process(direct, proxy=False) as elsewhere:
        config = msgspec.structs.replace(direct, port=link.port, connect_timeout_s=1.0)
        async with process(config) as here:
            await here.control.execute(world.create_gateway(gateway_id, "one"))
            link.cut()
            with trio.fail_after(10), pytest.raises(StoreUnavailable):
                await here.control.execute(world.create_consumer(gateway_id, "c1"))
            with trio.fail_after(5):
                state = await here.control.state(gateway_id)
            assert state is not None and state == here.plane.states[gateway_id]
            assert not here.plane.follower.connected
            # Meanwhile somebody else writes; its barrier does not wait for ever.
            elsewhere.control._barrier_timeout_s = 0.05
            executed = await elsewhere.control.execute(world.create_consumer(gateway_id, "c2"))
            link.mend()
            with trio.fail_after(10):
                while here.plane.states[gateway_id] != executed.after:
                    await here.plane.follower.catch_up()
            with trio.fail_after(10):
                while True:
                    try:
                        after = (await here.control.execute(world.create_consumer(gateway_id, "c3"))).after
                        break
                    except StoreUnavailable:
                        pass
            assert {consumer.name for consumer in after.consumers.values()} == {"c2", "c3"}


async def test_a_full_mailbox_refuses_instead_of_waiting(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trustgate.actors.gateway.MAILBOX", 2)
    gateway_id = world.new_id()
    refused = 0

    async with process(tmp_path / "trustgate.db") as here:
        await here.control.execute(world.create_gateway(gateway_id, "one"))

        async def ask(number: int) -> None:
            nonlocal refused
            try:
                await here.control.execute(world.create_consumer(gateway_id, f"c{number}"))
            except StoreUnavailable:
                refused += 1

        here.control._actors.clear()
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(ask, number)
        state = await here.control.state(gateway_id)
        assert state is not None
        assert refused > 0
        assert len(state.consumers) == 10 - refused


async def test_idle_actors_are_dropped_and_come_back(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trustgate.actors.gateway.IDLE_S", 0.02)
    gateway_id = world.new_id()
    async with process(tmp_path / "trustgate.db") as here:
        await here.control.execute(world.create_gateway(gateway_id, "one"))
        assert list(here.control.statistics()) == [gateway_id]
        assert await world.eventually(lambda: not here.control.statistics())
        assert (await here.control.execute(world.create_consumer(gateway_id, "c"))).applied


async def test_commands_under_way_at_shutdown_are_answered(tmp_path: pathlib.Path) -> None:
    async with open_store(tmp_path / "trustgate.db", KEY) as store, trio.open_nursery() as outer:
        plane = Plane(store)
        await outer.start(plane.follower.run)
        answers: list[str] = []
        async with trio.open_nursery() as askers, trio.open_nursery() as nursery:
            control = ControlPlane(store, AnyCatalog(), plane.follower)
            await nursery.start(control.run)
            gateway_id = world.new_id()
            await control.execute(world.create_gateway(gateway_id, "one"))

            async def ask(number: int) -> None:
                try:
                    await control.execute(world.create_consumer(gateway_id, f"c{number}"))
                    answers.append("done")
                except StoreUnavailable:
                    answers.append("unavailable")

            for number in range(5):
                askers.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked(0.001)
            nursery.cancel_scope.cancel()
        assert len(answers) == 5
        with pytest.raises(StoreUnavailable, match="not running"):
            await control.execute(world.create_consumer(gateway_id, "later"))
        state = plane.states[gateway_id]
        assert answers.count("done") <= len(state.consumers) <= 5
        outer.cancel_scope.cancel()
