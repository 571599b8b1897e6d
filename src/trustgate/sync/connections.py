"""The table of connected data planes (spec 06 §17.3): what is written into it, and how it is read.

What lives here: rows by scope and instance, best-effort writes in the background, a heartbeat by which rows of a
control plane that crashed are told from live ones. What must not: transport.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import structlog
import trio

from trustgate.store import EventStore, StoreError, SyncConnection

WRITE_S = 5.0
HEARTBEAT_S = 30.0
STALE_S = 100.0
"""A connection that was not renewed for so long is gone, whatever its row says."""

CONNECTED, DISCONNECTED = "connected", "disconnected"

log = structlog.get_logger("trustgate.sync")

Key = tuple[str, str]


class _Live(msgspec.Struct):
    """`streams`: a plane that reconnects may have its old stream open still."""

    streams: int = 0
    version: str = ""


class Connections:
    """The connections to this control plane. All but `told` belongs to the Trio thread."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._trio = trio.lowlevel.current_trio_token()
        self._live: dict[Key, _Live] = {}
        self._due: dict[Key, None] = {}
        self._some = trio.Event()

    def __len__(self) -> int:
        return sum(1 for live in self._live.values() if live.streams)

    def told(self, scope: str, instance: str, state: str, version: str) -> None:
        """From any thread; never waits."""
        try:
            self._trio.run_sync_soon(self._note, scope, instance, state, version)
        except trio.RunFinishedError:
            log.debug("a connection was not noted: the process ends", instance_id=instance)

    def _note(self, scope: str, instance: str, state: str, version: str) -> None:
        key = (scope, instance)
        live = self._live.setdefault(key, _Live())
        live.streams += {"connected": 1, "disconnected": -1}.get(state, 0)
        if state != "disconnected":
            live.version = version
        self._mark(key)

    def _mark(self, key: Key) -> None:
        self._due[key] = None
        self._some.set()

    async def run(self) -> None:
        """Write what is noted until cancelled; what is noted then is still written."""
        try:
            while True:
                with trio.move_on_after(HEARTBEAT_S) as quiet:
                    await self._some.wait()
                if quiet.cancelled_caught:
                    self._due = dict.fromkeys(self._live)
                await self._write()
        finally:
            with trio.move_on_after(WRITE_S, shield=True):
                await self._write()

    async def _write(self) -> None:
        due, self._due, self._some = self._due, {}, trio.Event()
        for key in due:
            live = self._live.get(key)
            if live is None:
                continue
            if live.streams <= 0:
                del self._live[key]
            state = CONNECTED if live.streams > 0 else DISCONNECTED
            with trio.move_on_after(WRITE_S):
                try:
                    await self._store.put_sync_connection(*key, state, live.version)
                except StoreError as error:
                    log.warning("a data plane's connection could not be noted", instance_id=key[1], error=str(error))


def shown(row: SyncConnection, now: Callable[[], float] = time.time) -> SyncConnection:
    """The row as it is to be believed."""
    if row.state == CONNECTED and now() - row.last_seen > STALE_S:
        return msgspec.structs.replace(row, state=DISCONNECTED)
    return row
