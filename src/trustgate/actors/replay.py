"""Build everything that is derived from the log once more, from its first event, and compare with what is there.

What lives here: the replay of whole logs, in threads, and its report. What must not: progress bars (`commands`).
Compared, byte for byte in the encoding of snapshots: each stream's snapshot, the states kept on the way (milestones),
the state that a plane loads now (snapshot and tail), the view compiled from it, and the index of the audit trail.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterable, Sequence

import msgspec
import trio

from trustgate.actors import projection as pj
from trustgate.actors.archive import Archive, index_row
from trustgate.domain import audit
from trustgate.domain import events as ev
from trustgate.domain.directory import DirectoryState, fold_directory
from trustgate.domain.entities import GatewayState
from trustgate.domain.evolve import EMPTY, evolve
from trustgate.store import (
    DIRECTORY,
    AuditFilter,
    AuditRow,
    EventStore,
    Recorded,
    Snapshot,
    gateway_of,
    gateway_stream,
)

BATCH = 5000
CHUNK = 200

Told = Callable[[str, int, int], None]
Compile = Callable[[GatewayState], bytes]
"""From a state to its compiled view as bytes."""

State = GatewayState | DirectoryState


class Mismatch(msgspec.Struct, frozen=True):
    """Something derived that is not what the log says: a `snapshot`, `milestone`, `live` state, compiled `view` or row
    of the `index`."""

    what: str
    stream: str
    version: int


class Replayed(msgspec.Struct, kw_only=True):
    """Digests are SHA-256 of encoded states, by stream; `digest` is over all of them. `unchecked` snapshots were
    written by other code: they are not used, and renewed with the next change."""

    events: int
    position: int
    digests: dict[str, str]
    views: int = 0
    snapshots: int = 0
    milestones: int = 0
    index_rows: int = 0
    unchecked: int = 0
    mismatches: list[Mismatch] = []

    @property
    def digest(self) -> str:
        return combined(self.digests)


def combined(digests: dict[str, str]) -> str:
    lines = "".join(f"{stream} {digest}\n" for stream, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def digest_of(stream: str, state: State) -> str:
    return hashlib.sha256(pj.snapshot_of(stream, state).state).hexdigest()


class Fold:
    """All streams, folded event by event from nothing."""

    def __init__(self, marks: Iterable[Snapshot], milestones: Container[tuple[str, int]] = ()) -> None:
        self.states: dict[str, GatewayState] = {}
        self.directory = DirectoryState()
        self.owners: dict[str, str] = {}
        self.rows: list[AuditRow] = []
        """What the index should hold of the last batch."""
        self.passed: list[tuple[str, int, bytes]] = []
        """The states at milestones in the last batch."""
        self.wrong: list[Mismatch] = []
        self.checked = 0
        self._milestones = milestones
        self._marks = {(mark.stream, mark.version): mark for mark in marks}

    def add(self, batch: Sequence[Recorded]) -> None:
        """Raises `LogGap`, `CorruptEvent`, `UnknownEvent`."""
        listed: list[ev.Event] = []
        self.rows, self.passed = [], []
        for recorded in batch:
            event = ev.decode(recorded.data, recorded.position)
            gateway_id = gateway_of(recorded.stream)
            if gateway_id is not None:
                state = self.states.get(recorded.stream, EMPTY)
                require_next(recorded, state.version)
                state = self.states[recorded.stream] = evolve(state, event)
                self._index(gateway_id, recorded, event)
                self._compare(recorded.stream, state)
            elif recorded.stream == DIRECTORY:
                require_next(recorded, self.directory.version + len(listed))
                listed.append(event)
                if (DIRECTORY, recorded.version) in self._marks:
                    self.directory, listed = fold_directory(listed, self.directory), []
                    self._compare(DIRECTORY, self.directory)
        self.directory = fold_directory(listed, self.directory)

    def _index(self, gateway_id: str, recorded: Recorded, event: ev.Event) -> None:
        about = audit.subject(event.data)
        if about is not None:
            if isinstance(event.data, ev.GatewayCreated | ev.GatewayUpdated):
                self.owners[gateway_id] = event.data.gateway.tenant_id
            self.rows.append(index_row(recorded, event, about, self.owners.get(gateway_id, "")))

    def _compare(self, stream: str, state: State) -> None:
        if (stream, state.version) in self._milestones:
            self.passed.append((stream, state.version, pj.snapshot_of(stream, state).state))
        mark = self._marks.pop((stream, state.version), None)
        if mark is not None:
            self.checked += 1
            if pj.snapshot_of(stream, state).state != mark.state:
                self.wrong.append(Mismatch("snapshot", stream, state.version))

    def beyond(self) -> list[Mismatch]:
        """Snapshots of versions that the log does not have."""
        return [Mismatch("snapshot", stream, version) for stream, version in self._marks]

    def all(self) -> dict[str, State]:
        found: dict[str, State] = dict(self.states)
        if self.directory.version:
            found[DIRECTORY] = self.directory
        return found


def require_next(recorded: Recorded, version: int) -> None:
    if not pj.expected(recorded, version):
        raise pj.LogGap(f"event {recorded.version} of {recorded.stream} is there twice: the log is damaged")


class Digests(msgspec.Struct, frozen=True):
    """Of one stream: of its state, and of its view (empty when none is compiled)."""

    state: str
    view: str = ""


def digests_of(stream: str, state: State, compile_view: Compile | None) -> Digests:
    view = b"" if compile_view is None or isinstance(state, DirectoryState) else compile_view(state)
    return Digests(digest_of(stream, state), hashlib.sha256(view).hexdigest() if view else "")


async def replay(
    store: EventStore, told: Told = lambda what, done, total: None, compile_view: Compile | None = None
) -> Replayed:
    """Replay the whole log and compare. `told(stage, done, total)` hears of progress, in positions of the log.

    The store may be written meanwhile: it is compared up to where the log ended at the start.
    """
    heads = {head.stream: head for head in await store.heads()}
    head = await store.head()
    snapshots = await _snapshots(store, list(heads))
    usable = [one for one in snapshots if one.schema == pj.SNAPSHOT_SCHEMA]
    fold = Fold(usable, frozenset(await store.audit.milestones(pj.SNAPSHOT_SCHEMA)))
    position = events = 0
    indexed = await store.audit.indexed()
    result = Replayed(events=0, position=head, digests={}, unchecked=len(snapshots) - len(usable))
    while position < head:
        batch = [one for one in await store.read_all(position, BATCH) if one.position <= head]
        if not batch:
            break
        await trio.to_thread.run_sync(fold.add, batch)
        await _check_milestones(store, fold.passed, result)
        await _check_index(store, position, batch[-1].position, indexed, fold.rows, result)
        position, events = batch[-1].position, events + len(batch)
        told("replaying", position, head)
    result.events = events
    states = fold.all()
    expected = {stream: digests_of(stream, state, compile_view) for stream, state in states.items()}
    result.digests = {stream: one.state for stream, one in expected.items()}
    result.views = sum(bool(one.view) for one in expected.values())
    result.snapshots = fold.checked
    versions = {stream: state.version for stream, state in states.items()}
    result.mismatches += fold.wrong
    # A snapshot of what was written since the start is not missing from the log.
    result.mismatches += [one for one in fold.beyond() if one.version <= heads[one.stream].version]
    live = await load(store, versions, usable, told, compile_view)
    for stream, version in versions.items():
        if live[stream].state != expected[stream].state:
            result.mismatches.append(Mismatch("live", stream, version))
        elif live[stream].view != expected[stream].view:
            result.mismatches.append(Mismatch("view", stream, version))
    return result


async def _snapshots(store: EventStore, streams: Sequence[str]) -> list[Snapshot]:
    found: list[Snapshot] = []
    for start in range(0, len(streams), CHUNK):
        found += await store.snapshots(streams[start : start + CHUNK])
    return found


async def _check_milestones(store: EventStore, passed: Sequence[tuple[str, int, bytes]], result: Replayed) -> None:
    for stream, version, state in passed:
        kept = await store.audit.milestone(stream, version, pj.SNAPSHOT_SCHEMA)
        result.milestones += 1
        if kept is None or kept.version != version or kept.state != state:
            result.mismatches.append(Mismatch("milestone", stream, version))


async def _check_index(
    store: EventStore, after: int, upto: int, indexed: int, rows: Sequence[AuditRow], result: Replayed
) -> None:
    expected = {row.position: row for row in rows if row.position <= indexed}
    found = await store.audit.rows(AuditFilter(), after, BATCH, newest_first=False)
    there = {row.position: row for row in found if row.position <= min(upto, indexed)}
    result.index_rows += len(expected)
    for position in sorted(expected.keys() | there.keys()):
        if expected.get(position) != there.get(position):
            row = expected.get(position) or there[position]
            result.mismatches.append(Mismatch("index", gateway_stream(row.gateway_id), row.version))


async def repair(store: EventStore, found: Replayed) -> None:
    """Throw away what `replay` found to be wrong, and derive it from the log again. Planes that run keep what they have
    loaded: restart them."""
    for stream in sorted({one.stream for one in found.mismatches if one.what in ("snapshot", "milestone", "live")}):
        await store.audit.drop_states(stream)
    if any(one.what == "index" for one in found.mismatches):
        await store.audit.clear()
        await Archive(store).catch_up(None)


async def load_all(store: EventStore, told: Told = lambda what, done, total: None) -> dict[str, str]:
    """The digests of all present states, from snapshots and the events after them."""
    versions = {head.stream: head.version for head in await store.heads()}
    snapshots = [one for one in await _snapshots(store, list(versions)) if one.schema == pj.SNAPSHOT_SCHEMA]
    return {stream: one.state for stream, one in (await load(store, versions, snapshots, told)).items()}


async def load(
    store: EventStore,
    versions: dict[str, int],
    snapshots: Sequence[Snapshot],
    told: Told = lambda what, done, total: None,
    compile_view: Compile | None = None,
) -> dict[str, Digests]:
    """The digests of the states at `versions` as a plane gets them: from snapshots and the events after them."""
    marks = {one.stream: one for one in snapshots}
    digests: dict[str, Digests] = {}
    for number, (stream, version) in enumerate(versions.items(), 1):
        mark = marks.get(stream)
        mark = mark if mark is not None and mark.version <= version else None
        state: State = pj.directory_from(mark) if stream == DIRECTORY else pj.gateway_from(mark)
        tail = await store.read(stream, state.version, version - state.version) if state.version < version else []
        digests[stream] = await trio.to_thread.run_sync(_digests_after, stream, state, tail, compile_view)
        told("loading", number, len(versions))
    return digests


def _digests_after(stream: str, state: State, tail: Sequence[Recorded], compile_view: Compile | None) -> Digests:
    events = [event for _, event in pj.decoded(tail)]
    if isinstance(state, DirectoryState):
        return digests_of(stream, fold_directory(events, state), None)
    for event in events:
        state = evolve(state, event)
    return digests_of(stream, state, compile_view)
