"""Event streams over HTTP: the answer of a call as a stream, the stream of a session, and going on after a break.

What lives here: writing events until there are no more, and following a stream's log that another process may write.
A followed stream whose writer is dead ends with an error for its request, so that no client waits for ever.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache, partial

import msgspec
import structlog
import trio
from msgspec import Raw

from trustgate.mcp import events, gate, jsonrpc
from trustgate.mcp.attendance import Attendance
from trustgate.mcp.call import Call, notification
from trustgate.mcp.errors import HttpFailure
from trustgate.mcp.events import EVENT_ID, LAST, MAIN, Journal
from trustgate.mcp.exchange import Exchange, Reply
from trustgate.mcp.hub import Followed, Hub
from trustgate.mcp.services import McpServices
from trustgate.mcp.sessions import ClientSession
from trustgate.wire.asgi import HeaderList, Send

POLL_S = 2.0
"""How often a follower looks at what this process knows, and at the stream of a call."""
LOOK_S = 15.0
"""How often it looks at a session's own stream, in case news were lost: there is one for every client that is idle."""
KEEPALIVE_S = 15.0
COMMENT = b": \n\n"
STREAM_HEADERS: HeaderList = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
LOST = jsonrpc.error_object(jsonrpc.INTERNAL_ERROR, "the instance that served this request was lost")
LIST_CHANGES = ("tools", "resources", "prompts")

log = structlog.get_logger(__name__)

Write = Callable[[bytes], Awaitable[None]]


@lru_cache(maxsize=256)
def accepts(accept: bytes) -> tuple[bool, bool]:
    """Whether a client takes JSON, and whether it takes an event stream. Without a word it takes JSON."""
    value = accept.lower()
    stream = b"text/event-stream" in value
    return not stream or any(kind in value for kind in (b"application/json", b"application/*", b"*/*")), stream


class Streamed:
    """An answer that is written as it comes about."""

    def __init__(self, write_to: Callable[[Write], Awaitable[None]], call: Call | None = None) -> None:
        self._write_to = write_to
        self._call = call

    @property
    def reply(self) -> Reply:
        """What was answered so far: of a call, the response that its stream ends with."""
        whole = self._call.reply if self._call is not None else None
        return Reply(status=200, body=whole.body if whole is not None else b"", headers=STREAM_HEADERS)

    async def write(self, send: Send, headers: HeaderList) -> None:
        """The head at once, then the events. When cancelled, the client has left."""
        await send({"type": "http.response.start", "status": 200, "headers": [*STREAM_HEADERS, *headers]})

        async def write(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        await self._write_to(write)
        await send({"type": "http.response.body", "body": b""})


async def answer(call: Call, *, always: bool) -> Reply | Streamed:
    """The reply of a call as soon as it is over, or its stream once there is something to stream; `always`: at once.

    Raises HttpFailure. When cancelled, the call is told that its client left.
    """
    try:
        while not call.ended and not call.begun and not always:
            await call.news.wait()
    except trio.Cancelled:
        call.leave()
        raise
    if call.begun or (always and not call.ended):
        return Streamed(partial(pump, call), call)
    if call.failure is not None:
        raise call.failure
    # A call that was cancelled by its own client has no response; nobody waits for it.
    return call.reply or Reply(status=202, body=b"Accepted")


async def pump(call: Call, write: Write) -> None:
    """Write what a call emits until it has ended."""
    try:
        while True:
            while call.events:
                await write(call.events.popleft())
            if call.ended:
                break
            news = call.news
            with trio.move_on_after(KEEPALIVE_S) as waiting:
                await news.wait()
            if waiting.cancelled_caught:
                await write(COMMENT)
        if not call.begun and call.reply is not None:
            await write(events.encode(call.reply.body))
    except trio.Cancelled:
        call.leave()
        raise


def stream_of(last_event_id: str) -> tuple[str, str]:
    """The stream that an event id is of, and its position; the session's own from now on without one.

    Raises HttpFailure for an id that was not made here.
    """
    if not last_event_id:
        return MAIN, ""
    found = EVENT_ID.fullmatch(last_event_id)
    if found is None:
        raise HttpFailure(400, "mcp: unknown Last-Event-ID")
    return found[1], found[2]


class Follower:
    """A client's GET: the log of a stream from a position on. A session's own stream has its upstreams heard."""

    def __init__(
        self,
        session: ClientSession,
        stream: str,
        position: str,
        services: McpServices,
        exchange: Exchange,
    ) -> None:
        self._session = session
        self._stream = stream
        self._key = events.key_of(session.id, stream)
        self._after = position
        self._services = services
        self._hub: Hub = services.hub
        self._attendance: Attendance | None = None
        self._exchange = exchange
        self._seen = surface_now(exchange, services)
        self._reader = ""

    async def write_to(self, write: Write) -> None:
        """Until the end of the stream; what fails ends it as well, for the client may come back."""
        try:
            if self._stream == MAIN:
                self._reader = await self._hub.take(self._session.id)
                self._attendance = self._services.attendances.read(self._exchange, resumed=bool(self._after))
            await self._follow(write)
        except Exception as error:
            log.warning("a stream broke off", stream=self._stream, error=str(error))
        finally:
            if self._attendance is not None:
                self._services.attendances.left(self._attendance)
            self._hub.leave(self._session.id, self._reader)
            self._hub.forget(self._key)

    async def _follow(self, write: Write) -> None:
        """Until the stream, the session, the client's permission or this process ends."""
        if not self._after:
            self._after = await self._begin(write)
        every_s = min(LOOK_S, self._services.sessions.renewed_every_s) if self._stream == MAIN else 0.0
        quiet_since = trio.current_time()
        look_at = 0.0
        while True:
            news = self._hub.expect(self._key)
            if trio.current_time() >= look_at:
                found = await self._hub.state.entries(self._key, self._after)
                for position, entry in found:
                    self._after = position
                    if not is_head(entry):
                        await write(events.encode(entry[1:], f"{self._stream}.{position}"))
                    if entry[:1] == LAST:
                        return
                if found:
                    quiet_since = trio.current_time()
                    continue
                if not await self._services.sessions.lives(self._session):
                    return
                look_at = trio.current_time() + every_s
            if not await self._goes_on():
                return
            if trio.current_time() - quiet_since > KEEPALIVE_S:
                quiet_since = trio.current_time()
                await write(COMMENT)
            with trio.move_on_after(POLL_S):
                await news.wait()
                look_at = 0.0

    async def _begin(self, write: Write) -> str:
        """Where the session's own stream is now; clients that know such events are told."""
        journal = Journal(self._hub.state, self._session.id, MAIN)
        id = await journal.add(b"{}")
        if self._session.primes and id:
            await write(events.prime(id))
        else:
            await write(COMMENT)
        return id.partition(".")[2] or "0"

    async def _goes_on(self) -> bool:
        """Whether to wait for more. What is found out on the way is put into the log."""
        if self._services.readiness.draining:
            return False
        version = surface_now(self._exchange, self._services)
        if version is None:
            return False
        if self._stream == MAIN:
            if not self._hub.reads(self._session.id, self._reader):
                return False
            if version != self._seen:
                self._seen = version
                if self._attendance is not None:
                    self._services.attendances.changed(self._attendance, self._exchange)
                journal = Journal(self._hub.state, self._session.id, MAIN)
                for kind in LIST_CHANGES:
                    await journal.add(notification(f"notifications/{kind}/list_changed", b""))
                self._hub.wake(self._key)
            return True
        await self._hub.tell(Followed(self._key))
        owner = self._stream.partition("-")[0]
        running = self._hub.runs(self._key) if owner == self._hub.instance else await self._hub.lives(owner)
        if running:
            return True
        return await self._close_lost()

    async def _close_lost(self) -> bool:
        """The stream's writer is gone: unless it came to the end before, its request is answered with an error."""
        kept = await self._hub.state.entries(self._key)
        if not kept:
            return False
        if kept[-1][1][:1] != LAST:
            head = msgspec.json.decode(kept[0][1][1:], type=_Head) if is_head(kept[0][1]) else _Head()
            if not head.id:
                return False
            log.warning("a request was lost with the instance that served it", stream=self._stream)
            await Journal(self._hub.state, self._session.id, self._stream).add(jsonrpc.error(head.id, LOST), last=True)
        return True


class _Head(msgspec.Struct):
    id: Raw = Raw()


def is_head(entry: bytes) -> bool:
    """Entries that say where a stream begins and of which request it is; they are no messages."""
    return entry.startswith(b'+{"id":') or entry == b"+{}"


def surface_now(exchange: Exchange, services: McpServices) -> str | None:
    """The version of what the caller may use as the configuration is now; None when it may use nothing any more."""
    caller = exchange.caller
    assert caller is not None
    view = services.directory.by_id(caller.view.id)
    if view is None:
        return None
    auth = view.state.auths.get(caller.auth_id)
    if auth is not None and not auth.enabled:
        return None
    if view is not caller.view:
        exchange.caller = msgspec.structs.replace(caller, view=view)
        try:
            gate.admit(exchange, services)
        except HttpFailure:
            return None
    assert exchange.runtime is not None
    return exchange.runtime.surface.version
