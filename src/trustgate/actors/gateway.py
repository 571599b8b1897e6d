"""The gateway actor: one task and one mailbox own all writes of a gateway in this process.

What lives here: decide, append with the expected versions, and on a conflict catch up and decide again. What must not:
the rules (`domain`), waiting for data planes (`control`). Other processes write the same streams: their writes show up
as version conflicts. State is the follower's projection (snapshot and tail): an actor is cheap to make and to drop.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog
import trio

from trustgate.actors.follower import Follower
from trustgate.actors.mailbox import Mailbox, Question
from trustgate.domain import events as ev
from trustgate.domain.commands import Command
from trustgate.domain.decide import decide
from trustgate.domain.decision import Context, Decision
from trustgate.domain.directory import DirectoryState
from trustgate.domain.entities import GatewayState
from trustgate.domain.errors import DomainError
from trustgate.store import (
    DIRECTORY,
    Appended,
    EventStore,
    Plane,
    Recorded,
    StoreUnavailable,
    StreamWrite,
    VersionConflict,
    gateway_stream,
)

log = structlog.get_logger("trustgate.actors")

ATTEMPTS = 50
"""Conflicts with other processes before a command is given up as unavailable."""

MAILBOX = 256
IDLE_S = 60.0


class Committed(msgspec.Struct, frozen=True):
    """A command's effect: the gateway before and after, and the position of its last event (or, for a command that
    changed nothing, of the log)."""

    before: GatewayState
    after: GatewayState
    position: int
    planes: tuple[Plane, ...] | None = None
    """The data planes that lived just after the commit; None when they are not known."""


class Desk(msgspec.Struct):
    """What the gateway actors of one process share."""

    store: EventStore
    follower: Follower
    context: Context
    directory_lock: trio.Lock
    """Commands that change the directory go one after the other, rather than into each other's conflicts."""
    committed: Callable[[str], None]
    """Told the stream after each append."""


class GatewayActor:
    """Answers the commands of one gateway, one at a time."""

    def __init__(self, gateway_id: str, desk: Desk) -> None:
        self.gateway_id = gateway_id
        self.mailbox: Mailbox[Question[Command, Committed]] = Mailbox(MAILBOX)
        self._desk = desk

    async def run(self, idle: Callable[[], bool]) -> None:
        """Work until `idle()` agrees to an end after `IDLE_S` without a message. What goes wrong goes to the asker."""
        question: Question[Command, Committed] | None = None
        try:
            while True:
                question = None
                with trio.move_on_after(IDLE_S):
                    question = await self.mailbox.get()
                if question is not None:
                    try:
                        question.answer(await self._carry_out(question.body))
                    except Exception as error:
                        question.fail(error)
                elif idle():
                    return
        except trio.Cancelled:
            for left in (*([question] if question is not None else []), *self.mailbox.close()):
                left.fail(StoreUnavailable("the control plane is shutting down"))
            raise

    async def _carry_out(self, command: Command) -> Committed:
        fresh = False
        async with _Turn(self._desk.directory_lock) as turn:
            for _ in range(ATTEMPTS):
                before = self._desk.follower.projection.state(self.gateway_id)
                directory = self._desk.follower.projection.directory
                try:
                    decision = decide(before, directory, command, self._desk.context)
                except DomainError:
                    # A refusal must rest on the newest state; an acceptance is checked by the append itself.
                    if fresh:
                        raise
                    decision = None
                if decision is None or not (decision.gateway or decision.directory):
                    if decision is not None and fresh:
                        return Committed(before, before, self._desk.follower.position)
                    await self._desk.follower.refresh()
                    fresh = True
                    continue
                if decision.directory and not turn.taken:
                    await turn.take()
                    if self._desk.follower.projection.directory is not directory:
                        continue
                try:
                    return await self._commit(before, directory, decision)
                except VersionConflict as conflict:
                    log.debug("decided against an older state, deciding again", stream=conflict.stream)
                await self._desk.follower.refresh()
                fresh = True
        raise StoreUnavailable(f"gateway {self.gateway_id} is changed by too many writers at once")

    async def _commit(self, before: GatewayState, directory: DirectoryState, decision: Decision) -> Committed:
        streams = [
            (gateway_stream(self.gateway_id), before.version, decision.gateway),
            (DIRECTORY, directory.version, decision.directory),
        ]
        writes = [
            StreamWrite(stream, version, [ev.encode(event) for event in events])
            for stream, version, events in streams
            if events
        ]
        # Neither of the two is cut short by a cancellation once it has begun.
        appended = await self._desk.store.append(writes, decision.secrets, decision.forgotten)
        facts = [event for _, _, events in streams for event in events]
        await self._apply(appended, writes, facts, decision)
        for write in writes:
            self._desk.committed(write.stream)
        return Committed(before, decision.state, appended.position, appended.planes)

    async def _apply(
        self, appended: Appended, writes: list[StreamWrite], facts: list[ev.Event], decision: Decision
    ) -> None:
        places = [
            (write.stream, write.expected_version + number, data)
            for write in writes
            for number, data in enumerate(write.events, 1)
        ]
        recorded = [
            Recorded(position, stream, version, data)
            for position, (stream, version, data) in zip(appended.positions, places, strict=True)
        ]
        try:
            await self._desk.follower.apply_own(appended, list(zip(recorded, facts, strict=True)), decision.secrets)
        except Exception as error:
            # The command is durable: the follower gets there on its own.
            log.warning("committed, but not yet applied here", error=str(error), position=appended.position)


class _Turn:
    """Takes the directory's lock at most once, and gives it back at the end."""

    def __init__(self, lock: trio.Lock) -> None:
        self._lock = lock
        self.taken = False

    async def take(self) -> None:
        await self._lock.acquire()
        self.taken = True

    async def __aenter__(self) -> _Turn:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.taken:
            self._lock.release()
