"""The past: any state a gateway ever had, and the audit trail of its events.

What lives here: folding to a version, the index of events (a fold of the log like any other, kept in the store and
rebuilt from it), entries with the object before and after. What must not: how entries are shown (`admin`), SQL.
Decoding and folding of long runs happen in threads, so that traffic in the same process goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import structlog
import trio

from trustgate.actors import projection as pj
from trustgate.actors.supervisor import supervise
from trustgate.domain import audit
from trustgate.domain import events as ev
from trustgate.domain.entities import Gateway, GatewayState
from trustgate.domain.evolve import fold
from trustgate.store import (
    AuditFilter,
    AuditRow,
    DamagedLog,
    EventStore,
    Recorded,
    Snapshot,
    StoreUnavailable,
    gateway_of,
    gateway_stream,
)
from trustgate.store.chain import link

log = structlog.get_logger("trustgate.archive")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INDEX_BATCH = 2000
FOLD_BATCH = 1000
INDEX_EVERY_S = 30.0
INDEX_PAUSE_S = 0.5
"""A burst of writes is indexed at once; who asks for the trail meanwhile does not wait for it."""

CATCH_UP_TIMEOUT_S = 5.0
MILESTONE_EVERY = 1000
"""Events after which the state on the way is kept, or four times its objects if that is more."""

DEPTH = 2
"""How far back an object's events are looked up at first: usually one whole event and some links."""


class IndexBehind(StoreUnavailable):
    """The audit index is being built and does not reach the end of the log yet."""

    def __init__(self, indexed: int, head: int) -> None:
        super().__init__(f"the audit index is being built: it is at position {indexed} of {head}")


class Entry(msgspec.Struct, frozen=True):
    """One event of the audit trail, with the object it changed before and after."""

    recorded: Recorded
    event: ev.Event
    gateway_id: str
    tenant: str
    subject: audit.Subject
    before: audit.Entity | None
    after: audit.Entity | None

    @property
    def digest(self) -> str:
        """The event's hash in the chain; empty for one from before it."""
        one = self.recorded
        return link(one.previous, one.stream, one.version, one.previous, one.data) if one.previous else ""


def microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


class Archive:
    """Questions about the past of `store`. Made for one event loop; `run` keeps the index close to the log."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._lock = trio.Lock()
        self._position = 0
        self._owners: dict[str, str] = {}

    async def run(self) -> None:
        """Extend the index whenever the log has grown, until cancelled."""

        async def follow() -> None:
            while True:
                await self.catch_up(None)
                await self._store.wait(self._position, INDEX_EVERY_S)
                await trio.sleep(INDEX_PAUSE_S)

        await supervise("audit index", follow)

    # The index

    async def catch_up(self, timeout_s: float | None = CATCH_UP_TIMEOUT_S) -> None:
        """Bring the index up to the log's present end. Raises `IndexBehind` when that takes longer than `timeout_s`."""
        with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
            async with self._lock:
                if self._position > await self._store.head():
                    self._position = 0  # the store was set back by a restored backup
                self._position = max(self._position, await self._store.audit.indexed())
                while True:
                    batch = await self._store.read_all(self._position, INDEX_BATCH)
                    if not batch:
                        return
                    rows = await self._rows(batch)
                    if rows:
                        await self._store.audit.put_rows(rows)
                    self._position = batch[-1].position
                    if len(batch) < INDEX_BATCH:
                        return
        raise IndexBehind(self._position, self._store.known_head)

    async def _rows(self, batch: Sequence[Recorded]) -> list[AuditRow]:
        decoded = await trio.to_thread.run_sync(pj.decoded, [one for one in batch if gateway_of(one.stream)])
        rows: list[AuditRow] = []
        for recorded, event in decoded:
            gateway_id, about = gateway_of(recorded.stream) or "", audit.subject(event.data)
            if about is None:
                continue
            if isinstance(event.data, ev.GatewayCreated | ev.GatewayUpdated):
                self._owners[gateway_id] = event.data.gateway.tenant_id
            elif gateway_id not in self._owners:
                self._owners[gateway_id] = await self._store.audit.owner(gateway_id) or ""
            rows.append(index_row(recorded, event, about, self._owners[gateway_id]))
        return rows

    async def owner(self, gateway_id: str) -> str | None:
        """The tenant of a gateway, also of a deleted one; None for a gateway that never was."""
        await self.catch_up()
        return await self._store.audit.owner(gateway_id)

    # States

    async def newest(self, gateway_id: str) -> int:
        """The version of a gateway's last event, also of a deleted one; 0 when it never was."""
        await self.catch_up()
        rows = await self._store.audit.rows(AuditFilter(gateway_id=gateway_id), limit=1)
        return rows[0].version if rows else 0

    async def created_at(self, gateway_id: str) -> datetime | None:
        """The time of a gateway's first event."""
        first = await self._store.read(gateway_stream(gateway_id), 0, 1)
        return pj.decoded(first)[0][1].meta.time if first else None

    async def version_at(self, gateway_id: str, moment: datetime) -> int:
        """The version that the latest change stamped at or before `moment` led to; 0 before the first."""
        await self.catch_up()
        return await self._store.audit.version_at(gateway_id, microseconds(moment))

    async def state_at(self, gateway_id: str, version: int) -> GatewayState:
        """The state of a gateway after its first `version` events, which must exist."""
        stream = gateway_stream(gateway_id)
        near = await self._store.audit.milestone(stream, version, pj.SNAPSHOT_SCHEMA)
        state = pj.gateway_from(near)
        kept = state.version
        snapshots = await self._store.snapshots([stream])
        if snapshots and state.version < snapshots[0].version <= version:
            newer = pj.gateway_from(snapshots[0])
            state = newer if newer.version > state.version else state
        while state.version < version:
            batch = await self._store.read(stream, state.version, min(FOLD_BATCH, version - state.version))
            if not batch or batch[0].version != state.version + 1:
                raise DamagedLog(stream, state.version + 1)
            state = await trio.to_thread.run_sync(folded, state, batch)
            if state.version - kept >= max(MILESTONE_EVERY, 4 * pj.size(state)):
                kept = state.version
                await self._store.audit.put_milestone(milestone_of(stream, state))
        return state

    async def gateways_at(self, moment: datetime, tenant: str | None) -> list[Gateway]:
        """The gateways (of a tenant) as they were at `moment`."""
        await self.catch_up()
        rows = await self._store.audit.gateways_at(microseconds(moment), tenant)
        found = await self._store.audit.events([row.position for row in rows if row.event != "GatewayDeleted"])
        gateways: list[Gateway] = []
        for _, event in pj.decoded(found.values()):
            if isinstance(event.data, ev.GatewayCreated | ev.GatewayUpdated):
                gateways.append(event.data.gateway)
        return gateways

    async def events(self, gateway_id: str, after_version: int, limit: int | None) -> list[tuple[Recorded, ev.Event]]:
        """Events of a gateway in order, after a version."""
        return pj.decoded(await self._store.read(gateway_stream(gateway_id), after_version, limit))

    async def held(self, refs: frozenset[str]) -> frozenset[str]:
        """Those of these references whose secret the vault still holds."""
        return frozenset(await self._store.audit.held(sorted(refs)))

    def fingerprint(self, text: str) -> str:
        """16 hex characters that are equal for equal secrets, under a key of this installation."""
        return self._store.fingerprint(text)

    # The audit trail

    async def entries(
        self, wanted: AuditFilter, cursor: int | None = None, limit: int = 100, newest_first: bool = True
    ) -> list[Entry]:
        """What happened, of what is wanted, beyond the position `cursor`."""
        await self.catch_up()
        rows = await self._store.audit.rows(wanted, cursor, limit, newest_first)
        pasts = await self._pasts([row for row in rows if not row.event.endswith("Created")])
        positions = {row.position for row in rows} | {row.position for past in pasts.values() for row in past}
        found = await self._store.audit.events(sorted(positions))
        events = {position: ev.decode(one.data, position) for position, one in found.items()}
        for row in rows:
            if row.position not in events:
                raise DamagedLog(gateway_stream(row.gateway_id), row.version)
        return [entry(row, pasts.get(row.position, []), found, events) for row in rows]

    async def _pasts(self, rows: Sequence[AuditRow]) -> dict[int, list[AuditRow]]:
        """For each row by position, the events that made its object what it was just before, oldest first."""
        pasts: dict[int, list[AuditRow]] = {}
        depth, open_ = DEPTH, list(rows)
        while open_:
            places = [(row.gateway_id, row.object_id, row.position) for row in open_]
            again: list[AuditRow] = []
            for row, past in zip(open_, await self._store.audit.before(places, depth), strict=True):
                settling = next((i for i, one in enumerate(past) if audit.settles(one.event)), None)
                if settling is None and len(past) == depth:
                    again.append(row)
                else:
                    end = len(past) if settling is None else settling + 1
                    pasts[row.position] = past[:end][::-1]
            depth, open_ = depth * 16, again
        return pasts


def folded(state: GatewayState, batch: Sequence[Recorded]) -> GatewayState:
    return fold((event for _, event in pj.decoded(batch)), state)


def milestone_of(stream: str, state: GatewayState) -> Snapshot:
    return pj.snapshot_of(stream, state)


def index_row(recorded: Recorded, event: ev.Event, about: audit.Subject, tenant: str) -> AuditRow:
    return AuditRow(
        position=recorded.position,
        gateway_id=gateway_of(recorded.stream) or "",
        version=recorded.version,
        tenant=tenant,
        at=microseconds(event.meta.time),
        actor=event.meta.actor,
        event=type(event.data).__name__,
        object_id=about.id,
        related_id=about.related_id,
    )


def entry(row: AuditRow, past: Sequence[AuditRow], found: dict[int, Recorded], events: dict[int, ev.Event]) -> Entry:
    event = events[row.position]
    about = audit.subject(event.data)
    assert about is not None, "only events of gateways are indexed"
    steps = [events[one.position] for one in past]
    before = audit.entity_after(steps, about.kind, about.id) if steps else None
    after = audit.entity_after([event] if audit.settles(row.event) else [*steps, event], about.kind, about.id)
    return Entry(found[row.position], event, row.gateway_id, row.tenant, about, before, after)
