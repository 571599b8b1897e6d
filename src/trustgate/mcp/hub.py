"""What runs in this process for sessions, and how other processes reach it.

What lives here: the calls that run here, the questions that upstreams wait to have answered, who waits for a stream to
go on; and the messages on the bus about them. What must not: HTTP, storage of sessions.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import msgspec
import structlog
import trio

from trustgate.limits.bus import Bus
from trustgate.limits.shared import SharedState
from trustgate.mcp.events import MAIN, key_of

HEARTBEAT_S = 5.0
DEAD_AFTER_S = 16.0
BUS_S = 2.0
MAX_LEFT, MAX_LEFT_OF_SESSION = 1000, 16
"""Calls that run on without their client."""
INSTANCE = "trustgate:mcp:instance:"

log = structlog.get_logger(__name__)


class News(msgspec.Struct, frozen=True, tag=True):
    """A stream has got further, or its session has ended."""

    key: str


class Followed(msgspec.Struct, frozen=True, tag=True):
    """Somebody resumed the stream of a call whose own client is gone."""

    key: str


class Taken(msgspec.Struct, frozen=True, tag=True):
    """The session's own stream has a new reader; the one before goes."""

    session_id: str
    reader: str


class Attended(msgspec.Struct, frozen=True, tag=True):
    """The process that the session's own stream is read from hears its upstreams, and updates of those resources."""

    session_id: str
    by: str
    uris: list[str]


class Subscribed(msgspec.Struct, frozen=True, tag=True):
    """The session, as it is kept, has changed what it wants to hear; `by`: the process that was asked to."""

    session_id: str
    by: str


class Outdated(msgspec.Struct, frozen=True, tag=True):
    """The lists of an upstream have changed."""

    registry_id: str


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """The client of a session no longer wants the answer to a request; without an id: to any."""

    session_id: str
    request_id: bytes


class Answered(msgspec.Struct, frozen=True, tag=True):
    """The client's response to a question; the whole message."""

    session_id: str
    question: str
    response: bytes


Telling = News | Followed | Taken | Attended | Subscribed | Outdated | Cancel | Answered
_decode = msgspec.msgpack.Decoder(Telling).decode


class Running(Protocol):
    """A call of a session that runs here."""

    def cancel(self) -> None: ...

    def followed(self) -> None: ...


class Watching(Protocol):
    """Who attends a session here."""

    def ended(self) -> None:
        """The session is over."""
        ...

    def attended(self, uris: list[str]) -> None:
        """Another process does now, and hears updates of those resources."""
        ...

    def subscribed(self, by: str) -> None:
        """The session has changed what it wants to hear."""
        ...


class Question:
    """A request of an upstream's own that a client was asked to answer. Mutable: the response."""

    __slots__ = ("answered", "response", "session_id")

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.answered = trio.Event()
        self.response = b""


class Hub:
    """Mutable: calls by session and request id and by stream, how many of them were left, questions by id, waiters by
    stream, who reads the own stream of a session, who attends it."""

    def __init__(self, state: SharedState, bus: Bus) -> None:
        self.state = state
        self.instance = secrets.token_hex(4)
        self._bus = bus
        self._calls: dict[tuple[str, bytes], Running] = {}
        self._streams: dict[str, Running] = {}
        self._left: Counter[str] = Counter()
        self._questions: dict[str, Question] = {}
        self._waiters: dict[str, trio.Event] = {}
        self._readers: dict[str, str] = {}
        self._watching: dict[str, Watching] = {}
        self._outdated: list[Callable[[str], None]] = []
        self._last = 0

    def __len__(self) -> int:
        return len(self._calls)

    async def run(self) -> None:
        """Listen and tell that this process lives, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._bus.listen, self._hear)
            while True:
                try:
                    with trio.move_on_after(BUS_S):
                        await self.state.put(INSTANCE + self.instance, b"1", DEAD_AFTER_S)
                except Exception as error:
                    log.warning("shared state failed", error=str(error))
                await trio.sleep(HEARTBEAT_S)

    async def lives(self, instance: str) -> bool:
        return instance == self.instance or await self.state.get(INSTANCE + instance) is not None

    def next_id(self) -> str:
        """A name that no other process makes: this one's and a number."""
        self._last += 1
        return f"{self.instance}-{self._last:x}"

    # -- calls -------------------------------------------------------------------------------------------------------

    @contextmanager
    def running(self, session_id: str, request_id: bytes, key: str, call: Running) -> Iterator[None]:
        name = (session_id, request_id)
        self._calls[name] = self._streams[key] = call
        try:
            yield
        finally:
            if self._calls.get(name) is call:
                del self._calls[name]
            del self._streams[key]

    def leave_running(self, session_id: str) -> bool:
        """Whether a call of that session may run on without its client; then `left_ended` follows."""
        if self._left.total() >= MAX_LEFT or self._left[session_id] >= MAX_LEFT_OF_SESSION:
            return False
        self._left[session_id] += 1
        return True

    def left_ended(self, session_id: str) -> None:
        self._left[session_id] -= 1
        if not self._left[session_id]:
            del self._left[session_id]

    def runs(self, key: str) -> bool:
        return key in self._streams

    async def cancel(self, session_id: str, request_id: bytes) -> None:
        """Cancel a call wherever it runs."""
        call = self._calls.get((session_id, request_id))
        if call is not None:
            call.cancel()
        else:
            await self.tell(Cancel(session_id, request_id))

    # -- questions ---------------------------------------------------------------------------------------------------

    @contextmanager
    def asking(self, session_id: str) -> Iterator[tuple[str, Question]]:
        """A question with a new id, until it is answered or given up."""
        id = self.next_id()
        question = self._questions[id] = Question(session_id)
        try:
            yield id, question
        finally:
            del self._questions[id]

    async def answered(self, session_id: str, id: str, response: bytes) -> None:
        """A client's response to the question of that id, which may have been asked by another process."""
        if id.startswith(self.instance):
            self._take(Answered(session_id, id, response))
        else:
            await self.tell(Answered(session_id, id, response))

    def _take(self, answer: Answered) -> None:
        question = self._questions.get(answer.question)
        if question is not None and question.session_id == answer.session_id:
            question.response = answer.response
            question.answered.set()

    # -- streams -----------------------------------------------------------------------------------------------------

    def expect(self, key: str) -> trio.Event:
        """Set when that stream gets further as far as this process hears of it."""
        return self._waiters.setdefault(key, trio.Event())

    async def take(self, session_id: str) -> str:
        """Become the only reader of a session's own stream; the reader's name."""
        reader = self._readers[session_id] = self.next_id()
        await self.tell(Taken(session_id, reader))
        return reader

    def reads(self, session_id: str, reader: str) -> bool:
        return self._readers.get(session_id) == reader

    def leave(self, session_id: str, reader: str) -> None:
        if self.reads(session_id, reader):
            del self._readers[session_id]

    def watch(self, session_id: str, watching: Watching) -> None:
        self._watching[session_id] = watching

    def unwatch(self, session_id: str) -> None:
        self._watching.pop(session_id, None)

    def on_outdated(self, forget: Callable[[str], None]) -> None:
        """Call that with the id of every registry whose lists have changed."""
        self._outdated.append(forget)

    def forget(self, key: str) -> None:
        """Nobody here waits for that stream, as far as the caller knows."""
        self._waiters.pop(key, None)

    def wake(self, key: str) -> None:
        waiter = self._waiters.pop(key, None)
        if waiter is not None:
            waiter.set()

    # -- the bus -----------------------------------------------------------------------------------------------------

    async def tell(self, telling: Telling) -> None:
        """Every process, this one too. What cannot be told is logged: who waits looks for itself as well."""
        try:
            with trio.fail_after(BUS_S):
                await self._bus.publish(msgspec.msgpack.encode(telling))
        except Exception as error:
            log.warning("other processes were not told", kind=type(telling).__name__, error=str(error))

    def _hear(self, message: bytes) -> None:
        try:
            telling = _decode(message)
        except msgspec.DecodeError:
            return  # of a version that knows more, or somebody else's
        match telling:
            case News(key):
                self.wake(key)
            case Taken(session_id, reader):
                if session_id in self._readers and self._readers[session_id] != reader:
                    self._readers[session_id] = reader
                    self.wake(key_of(session_id, MAIN))
            case Attended(session_id, by, uris):
                if by != self.instance and (watching := self._watching.get(session_id)) is not None:
                    watching.attended(uris)
            case Subscribed(session_id, by):
                if (watching := self._watching.get(session_id)) is not None:
                    watching.subscribed(by)
            case Outdated(registry_id):
                for forget in self._outdated:
                    forget(registry_id)
            case Followed(key):
                if (call := self._streams.get(key)) is not None:
                    call.followed()
            case Cancel(session_id, request_id):
                for (session, request), call in list(self._calls.items()):
                    if session == session_id and request_id in (b"", request):
                        call.cancel()
                if not request_id and (watching := self._watching.get(session_id)) is not None:
                    watching.ended()
            case Answered():
                self._take(telling)
