"""The event store as Trio sees it: the log, snapshots, the vault, small operational tables, and news of appends.

What lives here: `EventStore`, which runs a synchronous backend in threads, seals and opens secrets, and watches for
appends of this and other processes. What must not: SQL (`tables`, `sqlite`, `postgres`), meaning of events (`actors`).
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
import structlog
import trio

from trustgate.store import vault
from trustgate.store.auditlog import AuditLog
from trustgate.store.connection import PostgresConfig
from trustgate.store.errors import StoreUnavailable, translated
from trustgate.store.model import (
    Appended,
    Backend,
    Head,
    Plane,
    Recorded,
    Snapshot,
    StreamWrite,
    SyncConnection,
)
from trustgate.store.sqlite import SQLiteBackend
from trustgate.store.tables import EVENTS

if TYPE_CHECKING:
    from trustgate.store.postgres import PostgresBackend

THREADS = 8
"""Database calls in flight at once; further ones wait."""

POLL_BUSY_S = 0.002
POLL_IDLE_S = 0.02
BUSY_FOR_S = 2.0
CLOSE_S = 15.0
"""How long reads that nobody waits for any more may keep the database from being closed; its own limits are shorter."""

RECONNECT_S = (0.1, 2.0)
"""First and longest pause between attempts to listen again."""

log = structlog.get_logger("trustgate.store")
T = TypeVar("T")


class News:
    """A counter of changes that tasks can wait on: read `count`, look at the data, then wait, and nothing is missed."""

    def __init__(self) -> None:
        self.count = 0
        self._next = trio.Event()

    def tell(self) -> None:
        self.count += 1
        self._next.set()
        self._next = trio.Event()

    async def wait(self, seen: int, timeout_s: float) -> bool:
        """Return True once `count` differs from `seen`, False after `timeout_s`. A checkpoint; cancellable."""
        with trio.move_on_after(timeout_s):
            while self.count == seen:
                await self._next.wait()
            await trio.lowlevel.checkpoint()
            return True
        return False


class EventStore:
    """Made by `open_store`. All methods may raise `StoreUnavailable`.

    On cancellation a read is abandoned; a write that has begun is not: the caller is cancelled when it has ended.
    """

    def __init__(self, backend: Backend, keyring: vault.Keyring) -> None:
        self.known_head = 0
        """Position of the last event this process has heard of, its own or another's."""
        self._grew = News()
        self.planes_moved = News()
        """Tells when a data plane may have come, gone or moved on."""
        self._backend = backend
        self._keyring = keyring
        self._limiter = trio.CapacityLimiter(THREADS)
        self._fingerprint_key = b""
        self.audit = AuditLog(backend, self._ask, self._run)

    async def _run(self, call: Callable[..., T], *args: Any, abandon: bool = False) -> T:
        def translating() -> T:
            with translated(self._backend):
                return call(*args)

        return await trio.to_thread.run_sync(translating, limiter=self._limiter, abandon_on_cancel=abandon)

    async def _ask(self, call: Callable[..., T], *args: Any) -> T:
        return await self._run(call, *args, abandon=True)

    async def open(self) -> None:
        """Connect, create missing tables, read the fingerprint key.

        Raises `StoreUnavailable`, or `WrongSecretKey` when the store belongs to another SERVER_SECRET_KEY.
        """
        await self._run(self._backend.open)
        self._fingerprint_key = bytes.fromhex(await self.settled_secret(vault.FINGERPRINT_REF, os.urandom(32).hex()))

    async def aclose(self) -> None:
        """Close the database once the reads that were abandoned have ended: a connection that is closed under a running
        statement takes the process with it. Whatever lasts too long keeps its connections to the end of the process.
        """
        with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_S) as waiting:
            for _ in range(THREADS):
                await self._limiter.acquire_on_behalf_of(object())
        if waiting.cancelled_caught:
            log.warning("event store: left open, a read has not ended", waited_s=CLOSE_S)
            return
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._backend.close)

    async def ping(self) -> None:
        """Return when the database answers; for readiness probes."""
        await self._ask(self._backend.ping)

    # The log

    async def append(
        self, writes: Sequence[StreamWrite], secrets: Mapping[str, str] | None = None, forget: Iterable[str] = ()
    ) -> Appended:
        """Append to all streams, store `secrets` (reference to clear text) and drop those of `forget`, or do nothing.

        Raises `VersionConflict` when one stream is not at its expected version. Returns when the commit is durable.
        """
        if not writes or not all(write.events for write in writes):
            raise ValueError("an append needs events")

        def append() -> Appended:
            sealed = [self._keyring.seal(ref, value) for ref, value in (secrets or {}).items()]
            appended = self._backend.append(writes, sealed, tuple(forget))
            try:
                with translated(self._backend):
                    return msgspec.structs.replace(appended, planes=tuple(self._backend.planes()))
            except StoreUnavailable:
                return appended  # It is durable all the same; who waits for the planes will ask again.

        appended = await self._run(append)
        self._heard_of(appended.position)
        return appended

    async def read(self, stream: str, after_version: int = 0, limit: int | None = None) -> list[Recorded]:
        """Events of one stream in order, those with a version greater than `after_version`."""
        return await self._ask(self._backend.read, stream, after_version, limit)

    async def read_all(self, after_position: int, limit: int = 1000) -> list[Recorded]:
        """Events of all streams in the order of their commits, after a position. No event appears below one that was
        seen; positions may have gaps."""
        return await self._ask(self._backend.read_all, after_position, limit)

    async def head(self) -> int:
        """Position of the last event; 0 for an empty log."""
        head = await self._ask(self._backend.head)
        self._heard_of(head)
        return head

    async def wait(self, after_position: int, timeout_s: float) -> bool:
        """Wait until the log is known to hold an event after `after_position`; False after `timeout_s`."""
        with trio.move_on_after(timeout_s):
            while self.known_head <= after_position:
                await self._grew.wait(self._grew.count, timeout_s)
            await trio.lowlevel.checkpoint()
            return True
        return False

    def _heard_of(self, position: int) -> None:
        if position > self.known_head:
            self.known_head = position
            self._grew.tell()

    # Stream heads and snapshots

    async def heads(self) -> list[Head]:
        return await self._ask(self._backend.heads)

    async def snapshots(self, streams: Sequence[str]) -> list[Snapshot]:
        """The snapshots of those streams that have one."""
        return await self._ask(self._backend.snapshots, streams)

    async def put_snapshot(self, snapshot: Snapshot) -> None:
        await self._run(self._backend.put_snapshot, snapshot)

    # The vault

    async def reveal(self, refs: Sequence[str]) -> dict[str, str]:
        """Secrets in clear by reference; forgotten ones are absent. Raises `WrongSecretKey`."""
        if not refs:
            return {}

        def reveal() -> dict[str, str]:
            return {sealed.ref: self._keyring.open(sealed) for sealed in self._backend.secrets(refs)}

        return await self._ask(reveal)

    async def put_secret(self, ref: str, value: str) -> None:
        """Store a secret on its own, outside an append."""
        await self._run(lambda: self._backend.put_secret(self._keyring.seal(ref, value)))

    async def settled_secret(self, ref: str, proposed: str) -> str:
        """The secret `ref` of the installation: what was proposed first, by whichever process, is kept for good."""

        def settle() -> str:
            self._backend.put_secret_if_absent(self._keyring.seal(ref, proposed))
            return self._keyring.open(self._backend.secrets([ref])[0])

        return await self._run(settle)

    async def forget(self, refs: Sequence[str]) -> None:
        """Erase the ciphertext of secrets for good; unknown references are ignored."""
        await self._run(self._backend.forget, refs)

    def fingerprint(self, value: str) -> str:
        """16 hex characters that are equal for equal secrets, under a key of this installation."""
        return vault.fingerprint(self._fingerprint_key, value)

    async def reencrypt(self, batch: int = 200) -> int:
        """Seal everything under the current key again; how many were. Traffic and admin writes go on meanwhile."""
        key_id = self._keyring.current.id

        def some() -> tuple[int, int]:
            found = self._backend.secrets_not_under(key_id, batch)
            fresh = [(self._keyring.seal(old.ref, self._keyring.open(old)), old.key_id) for old in found]
            return len(found), sum(self._backend.replace_secret(new, old_key_id) for new, old_key_id in fresh)

        total = 0
        while True:
            found, done = await self._run(some)
            total += done
            if found < batch:
                return total

    # Data planes

    async def put_plane(self, plane_id: str, position: int, lease_s: float) -> None:
        """Say that a data plane lives for `lease_s` more and has applied the log up to `position`."""
        await self._run(self._backend.put_plane, plane_id, position, lease_s)
        self.planes_moved.tell()

    async def remove_plane(self, plane_id: str) -> None:
        await self._run(self._backend.remove_plane, plane_id)
        self.planes_moved.tell()

    async def planes(self) -> list[Plane]:
        """Data planes of all processes whose lease runs."""
        return await self._ask(self._backend.planes)

    # Key/value and connections of the configuration feed

    async def put_value(self, key: str, value: bytes, ttl_s: float | None = None) -> None:
        await self._run(self._backend.put_value, key, value, ttl_s)

    async def put_value_if_absent(self, key: str, value: bytes, ttl_s: float | None = None) -> bool:
        """Set a value unless there is one; whether it was set."""
        return await self._run(self._backend.put_value_if_absent, key, value, ttl_s)

    async def value(self, key: str) -> bytes | None:
        return await self._ask(self._backend.value, key)

    async def take_value(self, key: str) -> bytes | None:
        """Get and delete in one step: of several callers, in any process, exactly one receives the value."""
        return await self._run(self._backend.take_value, key)

    async def values_below(self, prefix: str) -> list[tuple[str, bytes]]:
        """Keys and values of all keys that begin with `prefix`."""
        return await self._ask(self._backend.values_below, prefix)

    async def replace_value(self, key: str, old: bytes, new: bytes) -> bool:
        """Put `new` in the place of `old`, whose time to live stays; False where something else is by now."""
        return await self._run(self._backend.replace_value, key, old, new)

    async def delete_value(self, key: str) -> None:
        await self._run(self._backend.delete_value, key)

    async def put_sync_connection(self, scope: str, instance_id: str, state: str, applied_version: str) -> None:
        await self._run(self._backend.put_sync_connection, scope, instance_id, state, applied_version)

    async def sync_connections(self, scope: str | None = None) -> list[SyncConnection]:
        """Connections ordered by scope and instance; those of one scope, or all."""
        return await self._ask(self._backend.sync_connections, scope)

    # News of other processes

    async def watch(self) -> None:
        """Hear of appends and moved planes of other processes. Runs until cancelled."""
        if isinstance(self._backend, SQLiteBackend):
            await self._poll(self._backend)
        else:
            await self._listen(cast("PostgresBackend", self._backend))

    async def _poll(self, backend: SQLiteBackend) -> None:
        # The pragma reads shared memory, the head is the end of a tree with cached pages: microseconds, and no waiting
        # for writers. A thread hand-off would cost ten times as much.
        version, head, busy_until = None, -1, 0.0
        while True:
            try:
                connection = await self._run(backend.watcher)
            except StoreUnavailable as error:
                log.warning("event store: cannot watch for changes", error=str(error))
                await trio.sleep(RECONNECT_S[1])
                continue
            try:
                while True:
                    with translated(self._backend):
                        found = connection.execute("PRAGMA data_version").fetchone()[0]
                    now = trio.current_time()
                    if found != version:
                        version, before = found, head
                        with translated(self._backend):
                            head = backend.head_on(connection)
                        if head != before:  # a lease that was renewed is no reason to look more often
                            busy_until = now + BUSY_FOR_S
                        self._heard_of(head)
                        self.planes_moved.tell()
                    await trio.sleep(POLL_BUSY_S if now < busy_until else POLL_IDLE_S)
            except StoreUnavailable as error:
                log.warning("event store: watching for changes failed", error=str(error))
                await trio.sleep(RECONNECT_S[1])
            finally:
                connection.close()

    async def _listen(self, backend: PostgresBackend) -> None:
        pause_s = RECONNECT_S[0]
        while True:
            try:
                connection = await self._run(backend.listener)
            except StoreUnavailable as error:
                log.warning("event store: cannot listen for changes", error=str(error))
                await trio.sleep(pause_s)
                pause_s = min(pause_s * 2, RECONNECT_S[1])
                continue
            pause_s = RECONNECT_S[0]
            try:
                # What happened while nobody listened.
                await self.head()
                self.planes_moved.tell()
                with translated(self._backend):
                    await self._hear(connection)
            except StoreUnavailable as error:
                log.warning("event store: the listening connection was lost", error=str(error))
            finally:
                connection.close()

    async def _hear(self, connection: Any) -> None:
        libpq = connection.pgconn
        while True:
            await trio.lowlevel.wait_readable(connection.fileno())
            libpq.consume_input()
            moved = False
            while (notify := libpq.notifies()) is not None:
                if notify.relname.decode() == EVENTS:
                    self._heard_of(int(notify.extra))
                else:
                    moved = True
            if moved:
                self.planes_moved.tell()


@asynccontextmanager
async def open_store(
    target: pathlib.Path | PostgresConfig, secret_key: str, previous_keys: Sequence[str] = ()
) -> AsyncIterator[EventStore]:
    """An open event store that hears of other processes: a SQLite file, or a PostgreSQL database.

    Raises what `EventStore.open` raises.
    """
    backend: Backend
    if isinstance(target, pathlib.Path):
        backend = SQLiteBackend(target)
    else:
        from trustgate.store.postgres import PostgresBackend

        backend = PostgresBackend(target)
    store = EventStore(backend, vault.Keyring(secret_key, previous_keys))
    await store.open()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.watch)
            yield store
            nursery.cancel_scope.cancel()
    finally:
        await store.aclose()
