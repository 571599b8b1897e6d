"""The follower: from the log to the states that a process works with.

What lives here: loading at start (snapshots and their tails), following the log, catching up on demand, and the lease
by which a data plane tells writers how far it is. What must not: deciding, compiling views (the callback's business).

States change only under one lock, and a change is adopted with all its callbacks without a checkpoint in between, so no
reader and no cancellation sees half of it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence

import structlog
import trio

from trustgate.actors import projection as pj
from trustgate.actors.secretcache import SecretCache
from trustgate.actors.supervisor import Backoff, supervise
from trustgate.domain import events as ev
from trustgate.domain.entities import GatewayState
from trustgate.store import DIRECTORY, Appended, EventStore, Recorded, StoreError, StoreUnavailable, gateway_of

log = structlog.get_logger("trustgate.follower")

HEARTBEAT_S = 1.5
LEASE_S = 5.0
"""A data plane that was silent for so long does not hold up writers any more."""

CATCH_UP_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 5.0
"""After so long without an answer to a read, the store counts as unavailable."""

BATCH = 1000
LOAD_CHUNK = 200

OnState = Callable[[str, GatewayState | None, int], None]


class Follower:
    """Folds the log of `store`; calls `on_state(gateway_id, state, position)` for every gateway that changed.

    `state` is None for a gateway that was deleted. With `on_state` the follower is a data plane: it holds the secrets
    of all states for `reveal`, and writers wait for it (see `control`). Without, it only folds.
    """

    def __init__(self, store: EventStore, on_state: OnState | None = None, *, plane_id: str | None = None) -> None:
        self.plane_id = (plane_id or uuid.uuid4().hex) if on_state is not None else None
        self.projection = pj.Projection()
        self.connected = False
        """Whether the last look at the store succeeded."""
        self.snapshot_versions: dict[str, int] = {}
        """Of each stream, the version of the newest snapshot this process knows."""
        self._store = store
        self._on_state = on_state
        self._secrets = SecretCache(trio.current_time)
        self._lock = trio.Lock()
        self._asked = 0
        self._served = 0
        self._loaded = False
        self._untold = False
        self._behind = 0
        self._contact = 0.0

    @property
    def position(self) -> int:
        """Position of the last event that is applied."""
        return self.projection.position

    @property
    def lag(self) -> int:
        """How many positions the log was ahead at the last look; 0 when everything known is applied."""
        return self._behind

    @property
    def silent_s(self) -> float:
        """Seconds since the store last answered."""
        return trio.current_time() - self._contact

    def reveal(self, ref: str) -> str:
        """A secret of the current configuration in clear, from memory. Empty for one that was erased meanwhile: its
        successor's event is on its way."""
        return self._secrets.get(ref) or ""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load, report started, follow until cancelled. When `started` is reported, every write that was answered
        before is applied, and every later one waits for this plane.

        Raises what stops a start: `StoreUnavailable`, `UnknownEvent`, `CorruptEvent`, `LogGap`, `WrongSecretKey`. Later
        troubles are logged and retried with growing pauses, while the states stay as they are.
        """
        await self._load()
        if self.plane_id is not None:
            await self._store.put_plane(self.plane_id, self.position, LEASE_S)
        try:
            await self._read_on(always=True)
            task_status.started()
            await supervise("follower", self._follow)
        finally:
            if self.plane_id is not None:
                with trio.move_on_after(2) as scope:
                    scope.shield = True
                    try:
                        await self._store.remove_plane(self.plane_id)
                    except StoreError:
                        log.info("the lease of this data plane is left to expire", plane_id=self.plane_id)

    async def catch_up(self, timeout_s: float = CATCH_UP_TIMEOUT_S) -> bool:
        """Apply everything that was committed before this call; whether that succeeded.

        Calls at the same time share one read. False: the store did not answer in `timeout_s`, or the log is unreadable.
        While that is known to be so, at once: the follower itself keeps trying.
        """
        if not self.connected:
            await trio.lowlevel.checkpoint()
            return False
        with trio.move_on_after(timeout_s):
            try:
                await self.refresh()
            except (StoreError, ev.UnknownEvent, ev.CorruptEvent, pj.LogGap) as error:
                self.connected = False
                log.warning("cannot catch up with the log", error=str(error), position=self.position)
                return False
            return True
        return False

    async def refresh(self) -> None:
        """As `catch_up`, without a bound; raises what went wrong."""
        self._asked += 1
        ticket = self._asked
        async with self._lock:
            if self._served >= ticket:
                return
            covered = self._asked
            await self._read_on_locked()
            self._served = covered

    async def apply_own(
        self, appended: Appended, events: Sequence[tuple[Recorded, ev.Event]], secrets: Mapping[str, str]
    ) -> None:
        """Apply what this process itself has just appended, without reading it back.

        Falls back to reading when somebody else's events lie in between. Raises what `refresh` raises then.
        """
        with trio.CancelScope(shield=True):
            async with self._lock:
                if appended.position <= self.position:
                    return
                self._secrets.add(secrets if self._on_state is not None else {})
                if appended.previous <= self.position:
                    await self._apply(events)
                else:
                    await self._read_on_locked()

    # Loading

    async def _load(self) -> None:
        # The position is taken first: what is appended during the load is read again, and skipped where it is known.
        position = await self._store.head()
        heads = await self._store.heads()
        for start in range(0, len(heads), LOAD_CHUNK):
            chunk = heads[start : start + LOAD_CHUNK]
            names = [head.stream for head in chunk if head.snapshot_version]
            snapshots = {one.stream: one for one in await self._store.snapshots(names)}
            for head in chunk:
                snapshot = snapshots.get(head.stream)
                if head.stream == DIRECTORY:
                    self.projection.directory = pj.directory_from(snapshot)
                    known = self.projection.directory.version
                elif gateway_id := gateway_of(head.stream):
                    state = pj.gateway_from(snapshot)
                    self.projection.load(gateway_id, state)
                    known = state.version
                else:
                    continue
                self.snapshot_versions[head.stream] = known
                if known < head.version:
                    tail = await self._store.read(head.stream, known)
                    change = self.projection.change(pj.decoded(tail))
                    self.projection.adopt(pj.Change(0, change.states, change.directory))
        self.projection.position = position
        if self._on_state is not None:
            await self._publish(self.projection.states(), self.projection)
        self._loaded = True
        self._heard()

    # Following

    async def _follow(self) -> None:
        backoff = Backoff(0.1, 2.0)
        beat_at = trio.current_time()
        while True:
            try:
                due = trio.current_time() >= beat_at + HEARTBEAT_S
                if due or self._store.known_head > self.position:
                    await self._read_on(always=due)
                if self.plane_id is not None and (due or self._untold):
                    self._untold = False
                    await self._store.put_plane(self.plane_id, self.position, LEASE_S)
                if due:
                    beat_at = trio.current_time()
            except (StoreUnavailable, ev.UnknownEvent, ev.CorruptEvent, pj.LogGap) as error:
                self.connected = False
                self._untold = True
                pause_s = backoff.next()
                log.error("the configuration stays as it is", error=str(error), position=self.position)
                await trio.sleep(pause_s)
                continue
            backoff.reset()
            if self._store.known_head > self.position:
                # Either it has just grown again, or it was set back by a restored backup: do not spin on that.
                await trio.sleep(0.002)
            await self._store.wait(self.position, max(0.0, beat_at + HEARTBEAT_S - trio.current_time()))

    async def _read_on(self, *, always: bool) -> None:
        async with self._lock:
            if not always and self._store.known_head <= self.position:
                return  # Applied by whoever had the lock before.
            covered = self._asked
            await self._read_on_locked()
            self._served = max(self._served, covered)

    async def _read_on_locked(self) -> None:
        while True:
            events = await self._read_some()
            if events:
                self._behind = events[-1].position - self.position
                await self._apply(pj.decoded(events))
                self._untold = True
            self._behind = 0
            if len(events) < BATCH:
                break
        self._heard()

    async def _read_some(self) -> list[Recorded]:
        with trio.move_on_after(READ_TIMEOUT_S):
            return await self._store.read_all(self.position, BATCH)
        raise StoreUnavailable(f"the event store did not answer within {READ_TIMEOUT_S} s")

    def _heard(self) -> None:
        self.connected = True
        self._contact = trio.current_time()

    async def _apply(self, events: Sequence[tuple[Recorded, ev.Event]]) -> None:
        change = self.projection.change(events)
        if self._on_state is None:
            self.projection.adopt(change)
        else:
            await self._publish(change.states, self.projection, change)

    async def _publish(
        self, states: Mapping[str, GatewayState], projection: pj.Projection, change: pj.Change | None = None
    ) -> None:
        assert self._on_state is not None
        named = {gateway_id: self._secrets.named(gateway_id, state) for gateway_id, state in states.items()}
        missing = self._secrets.missing(ref for one in named.values() for ref in one.refs)
        if missing:
            self._secrets.add(await self._store.reveal(missing))
            if gone := self._secrets.missing(missing):
                # Erased by a later event, which is then still to come; else the vault is damaged.
                log.warning("secrets of the configuration are not in the vault", refs=gone[:10], count=len(gone))
        # No checkpoint from here on.
        if change is not None:
            projection.adopt(change)
        for gateway_id, state in states.items():
            self._secrets.keep(gateway_id, named[gateway_id])
            try:
                self._on_state(gateway_id, state if state.gateway is not None else None, projection.position)
            except Exception:
                log.exception("a gateway's configuration could not be put to use", gateway_id=gateway_id)
