"""The control plane: the writing side, used by the Admin API.

What lives here: commands to their gateway's actor, the wait for the data planes, reads that see every earlier write of
any process, snapshots. What must not: rules (`domain`), rendering (`admin`).
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import msgspec
import structlog
import trio

from trustgate.actors import projection as pj
from trustgate.actors.barrier import all_applied
from trustgate.actors.follower import Follower
from trustgate.actors.gateway import Committed, Desk, GatewayActor
from trustgate.actors.mailbox import MailboxClosed, MailboxFull, MailboxStatistics, Question
from trustgate.actors.supervisor import supervise
from trustgate.domain import events as ev
from trustgate.domain.commands import Command, gateway_of
from trustgate.domain.decide import decide
from trustgate.domain.decision import Catalog, Context
from trustgate.domain.directory import DirectoryState
from trustgate.domain.entities import GatewayState
from trustgate.domain.evolve import fold
from trustgate.store import DIRECTORY, EventStore, StoreError, StoreUnavailable, gateway_stream
from trustgate.store import gateway_of as gateway_of_stream

log = structlog.get_logger("trustgate.control")

BARRIER_TIMEOUT_S = 0.1
"""Default of CONFIG_BARRIER_TIMEOUT."""

READ_TIMEOUT_S = 2.0
"""How long a read waits for news from the store before it answers from memory."""


class Executed(msgspec.Struct, frozen=True):
    """A command that is durable. `applied`: every live data plane has it."""

    before: GatewayState
    after: GatewayState
    position: int
    applied: bool


class Entry(msgspec.Struct, frozen=True):
    """One event of a gateway's history: its version in the gateway's stream, its position in the whole log."""

    version: int
    position: int
    event: ev.Event


class ControlPlane:
    """Decides commands and answers questions about the current configuration. Made for one event loop.

    Give it the process's follower when the process is a data plane too: then there is one set of states, and that plane
    applies a write before the write is answered, without a detour through the database. Otherwise it folds by itself.
    """

    def __init__(
        self,
        store: EventStore,
        catalog: Catalog,
        follower: Follower | None = None,
        *,
        limits_enabled: bool = True,
        require_secret_on_new_origin: bool = False,
        barrier_timeout_s: float = BARRIER_TIMEOUT_S,
        after_commit: Callable[[Command, Executed], Awaitable[None]] | None = None,
    ) -> None:
        """`after_commit` is awaited before a changing command is answered (publications to other programs); its
        failures are logged."""
        self._store = store
        self._own_follower = follower is None
        self.follower = follower or Follower(store)
        self._barrier_timeout_s = barrier_timeout_s
        self.keeps_present_secrets = not require_secret_on_new_origin
        """Whether a present secret stands in for one that a revert cannot bring back."""
        self._after_commit = after_commit
        self._actors: dict[str, GatewayActor] = {}
        self._nursery: trio.Nursery | None = None
        self._snapshots_send, self._snapshots = trio.open_memory_channel[str](math.inf)
        self._snapshots_due: set[str] = set()
        context = Context(
            catalog=catalog,
            fingerprint=store.fingerprint,
            limits_enabled=limits_enabled,
            owner=self.follower.projection.owner,
            require_secret_on_new_origin=require_secret_on_new_origin,
        )
        self._desk = Desk(store, self.follower, context, trio.Lock(), self._committed)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started when commands may come. Raises what stops a start (see `Follower.run`)."""
        async with trio.open_nursery() as nursery:
            if self._own_follower:
                await nursery.start(self.follower.run)
            self._nursery = nursery
            for stream in self.follower.snapshot_versions:
                self._committed(stream)
            nursery.start_soon(supervise, "snapshots", self._keep_snapshots)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ControlPlane]:
        """`run` for the time of a block."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.run)
            yield self
            nursery.cancel_scope.cancel()

    async def execute(self, command: Command) -> Executed:
        """Carry out a command. Returns when its events are durable and every live data plane has applied them, or after
        the barrier's timeout at the latest.

        Raises `DomainError` for a refusal and `StoreUnavailable` when it could not be stored (or, when the connection
        broke during the commit, when that is not known). A caller that is cancelled does not stop a command that was
        accepted.
        """
        if self._nursery is None:
            raise StoreUnavailable("the control plane is not running")
        gateway_id = gateway_of(command)
        actor = self._actors.get(gateway_id) or self._hire(gateway_id, self._nursery)
        question: Question[Command, Committed] = Question(command)
        try:
            actor.mailbox.put(question)
        except MailboxFull:
            raise StoreUnavailable(f"too many commands are waiting for gateway {gateway_id}") from None
        except MailboxClosed:
            raise StoreUnavailable("the control plane is shutting down") from None
        committed = await question.wait()
        if committed.after is committed.before:
            return Executed(committed.before, committed.after, committed.position, applied=True)
        applied = await self._applied(committed)
        executed = Executed(committed.before, committed.after, committed.position, applied)
        if self._after_commit is not None:
            try:
                await self._after_commit(command, executed)
            except Exception as error:
                log.warning("a change was stored, but not announced", error=str(error), command=type(command).__name__)
        return executed

    async def preview(self, command: Command) -> Executed:
        """What a command would lead to now; nothing is stored. Raises `DomainError` for a refusal."""
        await self._refresh()
        projection = self.follower.projection
        before = projection.state(gateway_of(command))
        decision = decide(before, projection.directory, command, self._desk.context)
        return Executed(before, decision.state, self.follower.position, applied=True)

    async def state(self, gateway_id: str) -> GatewayState | None:
        """The current state of a gateway, with every write that any process has answered; None if there is no such
        gateway. While the store is unavailable, the last known state."""
        await self._refresh()
        state = self.follower.projection.state(gateway_id)
        return state if state.gateway is not None else None

    async def directory(self) -> DirectoryState:
        await self._refresh()
        return self.follower.projection.directory

    async def states(self) -> Mapping[str, GatewayState]:
        """The states of all gateways by id."""
        await self._refresh()
        return self.follower.projection.states()

    async def owner(self, kind: str, id_: str) -> str | None:
        """The gateway that an object (`registry`, `consumer`, `auth`, `policy`, `role`) belongs to."""
        await self._refresh()
        return self.follower.projection.owner(kind, id_)

    async def history(self, gateway_id: str, after_version: int = 0, limit: int | None = None) -> list[Entry]:
        """The events of a gateway in order, also of a deleted one. Unlike other reads, it needs the store."""
        recorded = await self._store.read(gateway_stream(gateway_id), after_version, limit)
        return [Entry(one.version, one.position, event) for one, event in pj.decoded(recorded)]

    async def state_at(self, gateway_id: str, version: int) -> GatewayState:
        """The state of a gateway after its first `version` events. Secrets replaced since are gone for good."""
        recorded = await self._store.read(gateway_stream(gateway_id), 0, version)
        return fold(event for _, event in pj.decoded(recorded))

    @property
    def context(self) -> Context:
        """What commands are decided with, for deciding without carrying out."""
        return self._desk.context

    async def reveal(self, ref: str) -> str:
        """A secret in clear. Raises KeyError when it was erased."""
        return self.follower.reveal(ref) or (await self._store.reveal([ref]))[ref]

    def statistics(self) -> dict[str, MailboxStatistics]:
        """The mailboxes of the gateways that were written lately, by gateway id."""
        return {gateway_id: actor.mailbox.statistics() for gateway_id, actor in self._actors.items()}

    async def _refresh(self) -> None:
        # A store known to be down is left to the follower, which keeps trying; readers do not wait for it.
        if self.follower.connected:
            await self.follower.catch_up(READ_TIMEOUT_S)

    async def _applied(self, committed: Committed) -> bool:
        own, position = self.follower.plane_id, committed.position
        if own is not None and self.follower.position < position:
            await self.follower.catch_up(self._barrier_timeout_s)
        others = await all_applied(self._store, position, committed.planes, self._barrier_timeout_s, own)
        return others and (own is None or self.follower.position >= position)

    def _hire(self, gateway_id: str, nursery: trio.Nursery) -> GatewayActor:
        actor = GatewayActor(gateway_id, self._desk)
        self._actors[gateway_id] = actor

        def dismiss() -> bool:
            # No checkpoint between the look and the removal: a question cannot slip into a dismissed actor's mailbox.
            if not actor.mailbox.empty:
                return False
            del self._actors[gateway_id]
            return True

        async def work() -> None:
            await actor.run(dismiss)

        nursery.start_soon(supervise, gateway_stream(gateway_id), work)
        return actor

    def _committed(self, stream: str) -> None:
        state = self._stream_state(stream)
        due = pj.snapshot_due(state, self.follower.snapshot_versions.get(stream, 0))
        if due and stream not in self._snapshots_due:
            self._snapshots_due.add(stream)
            self._snapshots_send.send_nowait(stream)

    def _stream_state(self, stream: str) -> GatewayState | DirectoryState:
        if stream == DIRECTORY:
            return self.follower.projection.directory
        return self.follower.projection.state(gateway_of_stream(stream) or "")

    async def _keep_snapshots(self) -> None:
        """Write due snapshots one after another, beside the commands."""
        async for stream in self._snapshots:
            self._snapshots_due.discard(stream)
            snapshot = pj.snapshot_of(stream, self._stream_state(stream))
            try:
                await self._store.put_snapshot(snapshot)
            except StoreError as error:
                log.warning("a snapshot could not be written", stream=stream, error=str(error))
            else:
                self.follower.snapshot_versions[stream] = snapshot.version
