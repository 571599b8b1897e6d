"""The contract of the event store, on both databases."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator

import pytest
import trio

from trustgate.store import (
    DIRECTORY,
    EventStore,
    NewerStore,
    PostgresConfig,
    Snapshot,
    StreamWrite,
    VersionConflict,
    WrongSecretKey,
    open_store,
)

KEY = "k" * 40
Target = pathlib.Path | PostgresConfig


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Target:
    if request.param == "sqlite":
        return tmp_path / "data" / "trustgate.db"
    return PostgresConfig.of_dsn(request.getfixturevalue("postgres_database"))


@pytest.fixture
async def store(target: Target) -> AsyncIterator[EventStore]:
    async with open_store(target, KEY) as store:
        yield store


def write(stream: str, expected: int, *events: str) -> StreamWrite:
    return StreamWrite(stream, expected, [event.encode() for event in events])


async def texts(store: EventStore, stream: str) -> list[str]:
    return [event.data.decode() for event in await store.read(stream)]


async def test_an_append_goes_to_all_its_streams_in_order(store: EventStore) -> None:
    appended = await store.append([write("gateway:a", 0, "1", "2"), write(DIRECTORY, 0, "3")])
    everything = await store.read_all(0)
    assert [(e.stream, e.version, e.data) for e in everything] == [
        ("gateway:a", 1, b"1"),
        ("gateway:a", 2, b"2"),
        (DIRECTORY, 1, b"3"),
    ]
    assert appended.positions == tuple(e.position for e in everything)
    assert appended.previous == 0
    assert await store.head() == appended.position == everything[-1].position
    assert await store.read_all(appended.positions[0], 1) == [everything[1]]
    assert [e.version for e in await store.read("gateway:a", 1)] == [2]
    second = await store.append([write("gateway:a", 2, "4")])
    assert second.previous == appended.position < second.position


async def test_appends_of_any_size_come_to_an_end(store: EventStore) -> None:
    many = [StreamWrite(f"gateway:{number}", 0, [b"x" * 200] * 3) for number in range(400)]
    assert len((await store.append(many)).positions) == 1200
    large = StreamWrite("gateway:large", 0, [b"y" * 20_000] * 300)
    with trio.fail_after(60):
        assert len((await store.append([large], {f"s{n}": "s" for n in range(100)})).positions) == 300
        await store.append([StreamWrite("gateway:large", 300, [b"z"]), *(_next(write) for write in many)])
    assert (await store.read("gateway:large", 299))[1].data == b"z"


def _next(write: StreamWrite) -> StreamWrite:
    return StreamWrite(write.stream, len(write.events), write.events)


@pytest.mark.parametrize("expected", [0, 1, 3])
async def test_a_wrong_expected_version_is_refused_and_changes_nothing(store: EventStore, expected: int) -> None:
    await store.append([write("gateway:a", 0, "1", "2")])
    with pytest.raises(VersionConflict) as raised:
        await store.append([write(DIRECTORY, 0, "d"), write("gateway:a", expected, "x")], {"ref": "secret"})
    assert (raised.value.stream, raised.value.expected_version) == ("gateway:a", expected)
    assert await texts(store, "gateway:a") == ["1", "2"]
    assert await texts(store, DIRECTORY) == []
    assert await store.reveal(["ref"]) == {}


async def test_an_append_without_events_is_a_mistake(store: EventStore) -> None:
    with pytest.raises(ValueError, match="needs events"):
        await store.append([write("gateway:a", 0)])


async def test_of_racing_appends_exactly_one_wins_each_version(store: EventStore) -> None:
    wins = [0] * 6

    async def racer(number: int) -> None:
        for version in range(15):
            try:
                await store.append([write("gateway:a", version, f"{number}")])
                wins[number] += 1
            except VersionConflict:
                pass

    async with trio.open_nursery() as nursery:
        for number in range(len(wins)):
            nursery.start_soon(racer, number)
    events = await store.read("gateway:a")
    assert [e.version for e in events] == list(range(1, len(events) + 1))
    assert len(events) == sum(wins)


async def test_a_reader_that_follows_the_log_misses_nothing_while_many_write(target: Target) -> None:
    writers, each = 5, 20
    seen: list[tuple[str, int]] = []
    async with open_store(target, KEY) as here, open_store(target, KEY) as there:

        async def follow() -> None:
            position = 0
            while len(seen) < writers * each:
                for event in await there.read_all(position, 7):
                    position = event.position
                    seen.append((event.stream, event.version))
                if len(seen) < writers * each:
                    await there.wait(position, 0.5)

        async def writer(number: int) -> None:
            for version in range(each):
                await here.append([write(f"gateway:{number}", version, "e")])

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                for number in range(writers):
                    nursery.start_soon(writer, number)
    assert sorted(seen) == sorted((f"gateway:{n}", v) for n in range(writers) for v in range(1, each + 1))


async def test_another_process_hears_of_an_append(target: Target) -> None:
    async with open_store(target, KEY) as here, open_store(target, KEY) as there:
        assert not await there.wait(0, 0.05)
        appended = await here.append([write("gateway:a", 0, "1")])
        assert await there.wait(0, 5)
        assert there.known_head == here.known_head == appended.position


async def test_secrets_come_back_and_are_encrypted_at_rest(store: EventStore, target: Target) -> None:
    await store.append([write("gateway:a", 0, "1")], {"a/key@1": "s3cr3t-välue", "b": ""})
    assert await store.reveal(["a/key@1", "b", "unknown"]) == {"a/key@1": "s3cr3t-välue", "b": ""}
    if isinstance(target, pathlib.Path):
        for file in target.parent.iterdir():
            assert b"s3cr3t" not in file.read_bytes()
            assert file.stat().st_mode & 0o077 == 0


async def test_an_append_can_forget_secrets(store: EventStore) -> None:
    await store.append([write("gateway:a", 0, "1")], {"old": "1", "kept": "2"})
    await store.append([write("gateway:a", 1, "2")], {"new": "3"}, ["old", "unknown"])
    assert await store.reveal(["old", "kept", "new"]) == {"kept": "2", "new": "3"}
    await store.forget(["kept"])
    assert await store.reveal(["kept"]) == {}


async def test_keys_rotate_while_secrets_stay_readable(target: Target) -> None:
    async with open_store(target, KEY) as store:
        await store.append([write("gateway:a", 0, "1")], {f"ref{n}": f"value{n}" for n in range(25)})
        before = store.fingerprint("value1")
    new = "n" * 40
    with pytest.raises(WrongSecretKey, match="SERVER_SECRET_KEY_PREVIOUS"):
        async with open_store(target, new):
            pass
    async with open_store(target, new, [KEY]) as store:
        assert await store.reveal(["ref7"]) == {"ref7": "value7"}
        assert await store.reencrypt(batch=10) == 26  # The fingerprint key is one of them.
        assert await store.reencrypt() == 0
    async with open_store(target, new) as store:
        assert await store.reveal(["ref24"]) == {"ref24": "value24"}
        assert store.fingerprint("value1") == before
        assert store.fingerprint("value2") != before


async def test_snapshots_keep_the_newest_and_heads_know_them(store: EventStore) -> None:
    await store.append([write("gateway:a", 0, "1", "2", "3"), write("gateway:b", 0, "1")])
    await store.put_snapshot(Snapshot("gateway:a", 2, 1, b"two"))
    await store.put_snapshot(Snapshot("gateway:a", 1, 1, b"one"))
    assert await store.snapshots(["gateway:a", "gateway:b"]) == [Snapshot("gateway:a", 2, 1, b"two")]
    heads = [(head.stream, head.version, head.snapshot_version) for head in await store.heads()]
    assert heads == [("gateway:a", 3, 2), ("gateway:b", 1, 0)]


async def test_planes_live_as_long_as_their_lease(store: EventStore) -> None:
    await store.put_plane("p1", 5, 60)
    await store.put_plane("p2", 7, -1)
    assert [(plane.plane_id, plane.position) for plane in await store.planes()] == [("p1", 5)]
    await store.put_plane("p1", 9, 60)
    assert [plane.position for plane in await store.planes()] == [9]
    await store.remove_plane("p1")
    assert await store.planes() == []


async def test_another_process_hears_of_a_plane_that_moved(target: Target) -> None:
    async with open_store(target, KEY) as here, open_store(target, KEY) as there:
        seen = there.planes_moved.count
        await here.put_plane("p", 1, 60)
        assert await there.planes_moved.wait(seen, 5)


async def test_a_value_is_exchanged_only_for_what_it_was(store: EventStore) -> None:
    await store.put_value("key", b"\x00one", 0.5)
    assert not await store.replace_value("key", b"other", b"two")
    assert not await store.replace_value("none", b"", b"two")
    assert await store.value("key") == b"\x00one" and await store.value("none") is None
    assert await store.replace_value("key", b"\x00one", b"two")
    assert await store.value("key") == b"two"
    await trio.sleep(1)  # Its time to live is the old one.
    assert await store.value("key") is None


async def test_values_expire(store: EventStore) -> None:
    await store.put_value("a", b"1")
    await store.put_value("b", b"2", 60)
    await store.put_value("c", b"3", -1)
    assert [await store.value(key) for key in "abcd"] == [b"1", b"2", None, None]
    assert not await store.put_value_if_absent("a", b"9")
    assert await store.put_value_if_absent("c", b"9", 60)
    assert await store.put_value_if_absent("d", b"9")
    await store.delete_value("a")
    assert [await store.value(key) for key in "abcd"] == [None, b"2", b"9", b"9"]


async def test_connections_of_the_feed_keep_when_they_were_first_seen(store: EventStore) -> None:
    await store.put_sync_connection("g1", "dp-1", "connected", "v1")
    await store.put_sync_connection("", "dp-0", "connected", "")
    await store.put_sync_connection("g1", "dp-1", "disconnected", "v2")
    everything = await store.sync_connections()
    assert [(one.scope, one.instance_id, one.state, one.applied_version) for one in everything] == [
        ("", "dp-0", "connected", ""),
        ("g1", "dp-1", "disconnected", "v2"),
    ]
    assert everything[1].first_seen <= everything[1].last_seen
    assert [one.instance_id for one in await store.sync_connections("g1")] == ["dp-1"]


async def test_what_was_written_is_there_after_a_restart(target: Target) -> None:
    async with open_store(target, KEY) as store:
        await store.append([write("gateway:a", 0, "1")], {"ref": "value"})
    async with open_store(target, KEY) as store:
        assert await texts(store, "gateway:a") == ["1"]
        assert await store.reveal(["ref"]) == {"ref": "value"}
        assert (await store.append([write("gateway:a", 1, "2")])).previous == 1


async def test_several_processes_may_start_on_an_empty_store_together(target: Target) -> None:
    opened = 0

    async def start() -> None:
        nonlocal opened
        async with open_store(target, KEY) as store:
            await store.ping()
            opened += 1

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(start)
    assert opened == 4


async def test_a_snapshot_of_another_schema_replaces_one_that_cannot_be_used(store: EventStore) -> None:
    await store.put_snapshot(Snapshot("gateway:a", 9, 1, b"other"))
    await store.put_snapshot(Snapshot("gateway:a", 3, 2, b"usable"))
    assert await store.snapshots(["gateway:a"]) == [Snapshot("gateway:a", 3, 2, b"usable")]


async def test_a_store_that_newer_code_changed_is_not_opened(target: Target) -> None:
    async with open_store(target, KEY) as store:
        await store._run(store._backend._write, "INSERT INTO trustgate_py_migrations VALUES ('0099_later', 0)")  # type: ignore[attr-defined]
    with pytest.raises(NewerStore, match="0099_later"):
        async with open_store(target, KEY):
            pass
