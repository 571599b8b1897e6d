"""One request whose answer may become a stream: what the upstream sends in front of its answer goes to the client.

What lives here: the task that runs the request, what it hears from the upstream, the events that wait for the client.
What must not: HTTP (`streaming` writes the events). A call of a session outlives its connection for a while once its
stream has begun, so that the client can come back for the rest; any other call is cancelled with its connection.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
import trio
from msgspec import Raw

from trustgate.mcp import events, jsonrpc
from trustgate.mcp.errors import HttpFailure
from trustgate.mcp.events import Journal
from trustgate.mcp.exchange import Exchange, Reply
from trustgate.mcp.hub import Hub, News, Question
from trustgate.mcp.jsonrpc import Message
from trustgate.mcp.sessions import ClientSession

STREAMED = frozenset({"tools/call", "prompts/get", "resources/read", "completion/complete"})
"""Methods during which an upstream may have something to tell."""
RESUME_S = 60.0
"""So long a call waits for a client that left, or that follows it elsewhere, to come back."""
ANSWERED_BY_CLIENTS = {"sampling": "sampling/createMessage", "elicitation": "elicitation/create"}
NO_METHODS: frozenset[str] = frozenset()
GONE = jsonrpc.error_object(jsonrpc.INTERNAL_ERROR, "the client is gone")
WITHHELD = ("message",)

log = structlog.get_logger(__name__)

Dispatch = Callable[[], Awaitable[Reply]]


class _Meta(msgspec.Struct):
    progressToken: Raw = Raw()


class _Params(msgspec.Struct):
    meta: _Meta = msgspec.field(default_factory=_Meta, name="_meta")


class _Level(msgspec.Struct):
    level: Any = None


TOKEN = re.compile(rb'".*"|-?[0-9]+', re.DOTALL)


def progress_token(message: Message) -> bytes:
    """The token that a client gave for progress notifications, a JSON string or integer; else empty."""
    token = bytes(jsonrpc.params_of(message, _Params).meta.progressToken)
    return token if TOKEN.fullmatch(token) else b""


class Call:
    """Mutable: the events not yet written, the reply, and how long the call waits for a client that left.

    Made by the connection's task, which starts `run` in the background and reads `events`. Is the upstream's Listener.
    """

    def __init__(self, exchange: Exchange, message: Message, hub: Hub) -> None:
        assert exchange.runtime is not None
        self.exchange = exchange
        self.session: ClientSession | None = exchange.session
        self.reply: Reply | None = None
        self.failure: HttpFailure | None = None
        self.begun = False
        """Whether anything went into the stream: the answer is then an event stream."""
        self.ended = False
        self.events: deque[bytes] = deque()
        self.news = trio.Event()
        self._hub = hub
        self._request_id = bytes(message.id)
        self._token = progress_token(message)
        self._inspected = exchange.runtime.chain.has_pre_response
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._left = False
        self._turn = trio.Lock()
        session = self.session
        self._journal = Journal(hub.state, session.id, hub.next_id()) if session is not None else None

    # -- the task that runs it ---------------------------------------------------------------------------------------

    async def run(self, dispatch: Dispatch, finished: Callable[[Exchange], None]) -> None:
        """Run the request to its end. Never raises but Cancelled; `finished` is called when its client left before."""
        try:
            with self._scope:
                if self._journal is None or self.session is None:
                    await self._run(dispatch)
                else:
                    with self._hub.running(self.session.id, self._request_id, self._journal.key, self):
                        await self._run(dispatch)
        finally:
            self.ended = True
            self._ended.set()
            self._wake()
            if self._left and self.session is not None:
                self._hub.left_ended(self.session.id)
                self.exchange.reply = self.reply
                finished(self.exchange)

    async def _run(self, dispatch: Dispatch) -> None:
        try:
            self.reply = await dispatch()
        except HttpFailure as failure:
            self.failure = failure
        except Exception:
            log.exception("request failed unexpectedly", trace_id=self.exchange.trace_id)
            self.failure = HttpFailure(500, "Internal server error")
        if self.failure is not None and self.begun:
            refusal = jsonrpc.error_object(jsonrpc.INTERNAL_ERROR, self.failure.text)
            self.reply = Reply(status=200, body=jsonrpc.error(self._request_id, refusal))
        if self.begun and self.reply is not None:
            await self._emit(self.reply.body, last=True)

    def cancel(self) -> None:
        """Nobody wants the answer: the upstream is told, and there is none."""
        self._scope.cancel()

    def leave(self) -> None:
        """The client's connection is gone."""
        if self.ended or self._left:
            return
        if self.begun and self.session is not None and self._hub.leave_running(self.session.id):
            self._left = self.exchange.detached = True
            self.events.clear()
            self.followed()
        else:
            self._scope.cancel()

    def followed(self) -> None:
        if self._left:
            self._scope.deadline = trio.current_time() + RESUME_S

    # -- events ------------------------------------------------------------------------------------------------------

    async def _emit(self, data: bytes, *, last: bool = False) -> None:
        async with self._turn:
            if not self.begun:
                self.begun = True
                await self._begin()
            id = await self._journal.add(data, last=last) if self._journal is not None else ""
            if not self._left:
                self.events.append(events.encode(data, id))
        self._wake()
        if self._left and self._journal is not None:
            self._hub.wake(self._journal.key)
            await self._hub.tell(News(self._journal.key))

    async def _begin(self) -> None:
        """The first entry of a log names the request: an instance that takes over can then say that it is lost."""
        if self._journal is None or self.session is None:
            return
        id = await self._journal.add(b'{"id":%b}' % self._request_id)
        if id and self.session.primes:
            self.events.append(events.prime(id))

    def _wake(self) -> None:
        self.news.set()
        self.news = trio.Event()

    # -- what the upstream says --------------------------------------------------------------------------------------

    @property
    def wants_progress(self) -> bool:
        return bool(self._token)

    @property
    def answers(self) -> frozenset[str]:
        if self.session is None or self._inspected:
            return NO_METHODS
        offers = self.session.record.offers
        return frozenset(m for name, m in ANSWERED_BY_CLIENTS.items() if b'"%b"' % name.encode() in offers)

    async def notified(self, message: Message) -> None:
        """Progress under the client's own token, and log messages of the level that its session asked for.

        Where a policy inspects answers, only the numbers of progress go ahead of the answer.
        """
        if message.method == "notifications/progress" and self._token:
            members = members_of(message.params)
            members["progressToken"] = Raw(self._token)
            if self._inspected:
                members = {name: value for name, value in members.items() if name not in WITHHELD}
            await self._emit(notification("notifications/progress", msgspec.json.encode(members)))
        elif message.method == "notifications/message" and self._hears(message):
            await self._emit(notification("notifications/message", bytes(message.params)))

    def _hears(self, message: Message) -> bool:
        if self.session is None or self._inspected:
            return False
        return self.session.hears(jsonrpc.params_of(message, _Level).level)

    async def asked(self, message: Message) -> bytes:
        """Pass a question on to the client and wait for its answer, as long as the call runs."""
        assert self.session is not None, "sessions only answer"
        with self._hub.asking(self.session.id) as (id, question):
            params = b',"params":' + bytes(message.params) if message.params else b""
            method = msgspec.json.encode(message.method)
            await self._emit(b'{"jsonrpc":"2.0","id":"%b","method":%b%b}' % (id.encode(), method, params))
            await self._answer_to(question)
            if not question.response:
                return jsonrpc.error(message.id, GONE)
            response = jsonrpc.read(question.response)
            if response.result:
                return jsonrpc.result(message.id, response.result)
            return jsonrpc.error(message.id, bytes(response.error) or GONE)

    async def _answer_to(self, question: Question) -> None:
        """Wait until the question is answered, or the call has ended."""
        async with trio.open_nursery() as nursery:

            async def until_ended() -> None:
                await self._ended.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_ended)
            await question.answered.wait()
            nursery.cancel_scope.cancel()


def members_of(params: Raw) -> dict[str, Raw]:
    try:
        return msgspec.json.decode(params, type=dict[str, Raw])
    except jsonrpc.NOT_JSON:
        return {}


def notification(method: str, params: bytes) -> bytes:
    body = b',"params":' + params if params else b""
    return b'{"jsonrpc":"2.0","method":"%b"%b}' % (method.encode(), body)
