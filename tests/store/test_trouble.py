"""A database that is locked, full, or gone is reported as unavailable, and used again when it is back."""

from __future__ import annotations

import pathlib
import socket
import sqlite3
import threading

import msgspec
import pytest
import trio
from tests.store.relay import relay

from trustgate.store import PostgresConfig, StoreUnavailable, StreamWrite, eventstore, open_store
from trustgate.store import sqlite as sqlite_module

KEY = "k" * 40


def write(version: int, size: int = 1) -> list[StreamWrite]:
    return [StreamWrite("gateway:a", version, [b"x" * size])]


async def test_a_locked_file_is_unavailable_until_the_lock_is_gone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "LOCK_TIMEOUT_S", 0.1)
    async with open_store(tmp_path / "trustgate.db", KEY) as store:
        await store.append(write(0))
        other = sqlite3.connect(tmp_path / "trustgate.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.append(write(1))
        assert len(await store.read_all(0)) == 1  # Reads go on.
        other.execute("ROLLBACK")
        other.close()
        await store.append(write(1))


async def test_a_full_disk_is_unavailable_and_loses_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [60]
    begin = sqlite_module.FileDatastore.transaction

    def limited(self: sqlite_module.FileDatastore, *, commit: bool):
        connection = begin(self, commit=commit)
        cursor = connection.__enter__()
        cursor.execute(f"PRAGMA max_page_count = {pages[0]}")
        return Entered(connection, cursor)

    monkeypatch.setattr(sqlite_module.FileDatastore, "transaction", limited)
    async with open_store(tmp_path / "trustgate.db", KEY) as store:
        await store.append(write(0))
        with pytest.raises(StoreUnavailable, match="full"):
            await store.append(write(1, 1_000_000))
        assert [event.version for event in await store.read_all(0)] == [1]
        pages[0] = 10_000
        await store.append(write(1, 1_000_000))


class Entered:
    """A context manager that was entered already."""

    def __init__(self, manager: object, value: object) -> None:
        self._manager, self._value = manager, value

    def __enter__(self) -> object:
        return self._value

    def __exit__(self, *details: object) -> object:
        return self._manager.__exit__(*details)  # type: ignore[attr-defined]


SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000) SELECT count(*) FROM n"


async def test_an_abandoned_read_ends_before_its_connection_is_closed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    close = sqlite_module.SQLiteBackend.close

    def closing(self: sqlite_module.SQLiteBackend) -> None:
        told.append("closed")
        close(self)

    def slowly(self: sqlite_module.SQLiteBackend) -> int:
        try:
            return len(self._read(SLOW))
        finally:
            told.append("read")

    monkeypatch.setattr(sqlite_module.SQLiteBackend, "close", closing)
    monkeypatch.setattr(sqlite_module.SQLiteBackend, "head", slowly)
    async with open_store(tmp_path / "trustgate.db", KEY) as store:
        with trio.move_on_after(0.05) as abandoned:
            await store.head()
        assert abandoned.cancelled_caught
    assert told == ["read", "closed"]


async def test_a_read_that_does_not_end_keeps_the_store_open_but_not_the_process_waiting(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(eventstore, "CLOSE_S", 0.1)
    monkeypatch.setattr(sqlite_module.SQLiteBackend, "head", lambda self: release.wait(20) and 0)
    with trio.fail_after(5):
        async with open_store(tmp_path / "trustgate.db", KEY) as store:
            with trio.move_on_after(0.05):
                await store.head()
    release.set()


async def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreUnavailable):
        async with open_store(tmp_path / "file" / "trustgate.db", KEY):
            pass


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: pathlib.Path) -> None:
    (tmp_path / "trustgate.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        async with open_store(tmp_path / "trustgate.db", KEY):
            pass


async def test_a_server_that_is_not_there_stops_the_start_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        config = PostgresConfig(host="127.0.0.1", port=unused.getsockname()[1])
        with trio.fail_after(10), pytest.raises(StoreUnavailable):
            async with open_store(config, KEY):
                pass


async def test_a_server_that_comes_back_is_used_again(postgres_database: str) -> None:
    direct = PostgresConfig.of_dsn(postgres_database)
    async with relay(direct.port) as link:
        config = msgspec.structs.replace(direct, port=link.port, connect_timeout_s=1.0)
        async with open_store(config, KEY) as store, open_store(direct, KEY) as elsewhere:
            await store.append(write(0))
            link.cut()
            with trio.fail_after(10), pytest.raises(StoreUnavailable):
                await store.append(write(1))
            with trio.fail_after(10), pytest.raises(StoreUnavailable):
                await store.head()
            link.mend()
            with trio.fail_after(10):
                while True:
                    try:
                        await store.append(write(1))
                        break
                    except StoreUnavailable:
                        pass
            # It hears of others again, too.
            with trio.fail_after(10):
                version, heard = 2, False
                while not heard:
                    appended = await elsewhere.append(write(version))
                    version += 1
                    heard = await store.wait(appended.position - 1, 0.2)
            assert [event.version for event in await store.read_all(0)] == list(range(1, version + 1))
