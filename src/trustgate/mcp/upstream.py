"""A client of remote MCP servers over streamable HTTP (spec 05 §7.2): one session, many requests at a time.

What lives here: JSON-RPC over `wire`'s pool, answers as JSON or as an event stream, same-origin redirects, resumption
of broken streams. What must not: whose credentials are used, which session serves whom (`links`), what results mean.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol
from urllib.parse import urljoin

import msgspec
import structlog
import trio

from trustgate.domain.entities import MCPTarget
from trustgate.mcp import jsonrpc
from trustgate.mcp.answers import (
    MAX_ANSWER_BYTES,
    RESUME_MAX_S,
    AnswerStream,
    Rejected,
    RpcError,
    SessionLost,
    Unavailable,
    read_page,
    read_response,
    reason,
    rpc_error,
)
from trustgate.mcp.jsonrpc import Message
from trustgate.wire.client import Deadlines, Origin, Pool, Response
from trustgate.wire.errors import ConnectFailed, PeerClosed, WireError
from trustgate.wire.upstream import PreparedHeaders

ACCEPTED_VERSIONS = frozenset({"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"})
MAX_PAGES = 10_000
MAX_LIST_BYTES = 64 * 1024 * 1024
"""Of all pages of a list."""
MAX_REDIRECTS = 5
MAX_ANSWERING = 64
"""Requests of a server's own in one session that are being answered; beyond that they are not."""
MAX_RESUMPTIONS = 5
DRAIN_S = 1.0
DEADLINES = Deadlines(connect_s=30.0, first_byte_s=30.0)
SHORT = Deadlines(connect_s=5.0, first_byte_s=5.0, between_s=5.0, total_s=10.0)
"""For messages whose answers nobody waits for."""
LISTENING = Deadlines(connect_s=30.0, first_byte_s=300.0, between_s=600.0)
"""For a stream on which there may be nothing for long; one that is silent for longer is asked for again."""

INITIALIZE = (
    b'{"protocolVersion":"2025-11-25","capabilities":{"roots":{"listChanged":true}%b},'
    b'"clientInfo":{"name":"trustgate","version":"1.0"}}'
)
"""With room for the capabilities of a client that answers this session's requests."""
ACCEPT = [(b"accept", b"application/json, text/event-stream"), (b"content-type", b"application/json")]
Json = dict[str, Any]


class Profile(msgspec.Struct, frozen=True):
    """How a session is opened. `offers`: capabilities of its clients, members of a JSON object; `log_level`: of the
    messages they want, empty for the server's own choice; `caller`: whose it is, empty for one that all may use."""

    offers: bytes = b""
    log_level: str = ""
    caller: tuple[str, ...] = ()


PLAIN = Profile()
Field = tuple[bytes, bytes]


class Listener(Protocol):
    """Somebody who waits for an answer and hears what the server sends in front of it."""

    @property
    def wants_progress(self) -> bool:
        """Whether the request is to carry a progress token."""
        ...

    @property
    def answers(self) -> frozenset[str]:
        """Methods of the server's own requests that `asked` answers."""
        ...

    async def notified(self, message: Message) -> None:
        """A notification; those of progress are of the request that is waited for."""
        ...

    async def asked(self, message: Message) -> bytes:
        """The whole response to a request of the server's own."""
        ...


Begun = Callable[[bool], Awaitable[None]]
"""Told that a stream has begun, and whether something may have been missed before."""

log = structlog.get_logger(__name__)


class _Initialized(msgspec.Struct):
    protocolVersion: Any = None
    capabilities: Any = None


class _Progress(msgspec.Struct):
    progressToken: Any = None


class Session:
    """One session with a server. `open` first; then requests may overlap. `headers` are sent with every message.

    Mutable: the id counter, what `open` negotiates, whether somebody listens, and how many of the server's own requests
    are being answered.
    """

    __slots__ = (
        "_answering",
        "_background",
        "_fields",
        "_last_id",
        "_listening",
        "_origin",
        "_pool",
        "_prepared",
        "_profile",
        "_target",
        "capabilities",
        "id",
    )

    def __init__(
        self,
        pool: Pool,
        url: str,
        headers: Sequence[Field],
        background: trio.Nursery | None = None,
        profile: Profile = PLAIN,
    ) -> None:
        """Raises ValueError for a URL or header that cannot be sent."""
        self._pool = pool
        self._origin, self._target = Origin.parse(url)
        self._fields = merged([*ACCEPT, *headers])
        self._prepared = PreparedHeaders.of(self._fields)
        self._background = background
        self._last_id = 0
        self._answering = 0
        self._profile = profile
        self._listening: trio.CancelScope | None = None
        self.id = b""
        self.capabilities: Json | None = None

    async def open(self) -> None:
        """Initialize. Raises Unavailable, RpcError."""
        offers = self._profile.offers
        answer, session_id = await self._exchange("initialize", INITIALIZE % (b"," + offers if offers else b""))
        try:
            found = msgspec.json.decode(answer, type=_Initialized)
        except jsonrpc.NOT_JSON as error:
            raise Unavailable("the answer to initialize is no object") from error
        if found.protocolVersion not in ACCEPTED_VERSIONS:
            raise Unavailable(f"unsupported protocol version {str(found.protocolVersion)[:40]!r}")
        self.capabilities = found.capabilities if isinstance(found.capabilities, dict) else None
        self.id = session_id
        negotiated = [(b"mcp-protocol-version", found.protocolVersion.encode())]
        if session_id:
            negotiated.append((b"mcp-session-id", session_id))
        self._prepared = PreparedHeaders.of(merged([*ACCEPT, *negotiated, *self._fields[len(ACCEPT) :]]))
        await self.notify("notifications/initialized")
        if self._profile.log_level and self.capabilities is not None and "logging" in self.capabilities:
            await self.request("logging/setLevel", msgspec.json.encode({"level": self._profile.log_level}))

    async def close(self) -> None:
        """End the session on the server where it gave one a name. Never raises for a server that does not care."""
        if not self.id:
            return
        try:
            async with await self._send("DELETE", b"", SHORT) as response:
                await response.read(MAX_ANSWER_BYTES)
        except WireError as error:
            log.debug("an upstream session was not closed", error=type(error).__name__)

    @property
    def listened(self) -> bool:
        """Whether somebody hears what the server sends outside of requests."""
        return self._listening is not None

    def give_up(self) -> None:
        """Nobody is to use this session any more."""
        if self._listening is not None:
            self._listening.cancel()

    async def listen(self, listener: Listener, begun: Begun) -> None:
        """Hear what the server sends outside of requests, over breaks of its stream; one listener at a time.

        Returns when the server offers no such stream. Raises Unavailable when it is gone, or the session given up.
        """
        with trio.CancelScope() as self._listening:
            try:
                await self._listen(listener, begun)
                return
            finally:
                self._listening = None
        raise Unavailable("the session was given up")

    async def _listen(self, listener: Listener, begun: Begun) -> None:
        stream = AnswerStream(0)
        missed = False
        attempt = failures = 0
        while True:
            started = trio.current_time()
            try:
                more = [(b"last-event-id", stream.last_id.encode())] if stream.last_id else []
                response = await self._send("GET", b"", LISTENING, more)
                if response.status == 405 or (response.status == 200 and not is_stream(response)):
                    response.close()
                    return
                await self._refused(response)
                await begun(missed)
                failures = 0
                await self._read_stream(response, stream, listener)
            except ValueError as error:
                raise Unavailable("the request cannot be sent", executed=False) from error
            except WireError as error:
                failures += 1
                if failures > MAX_RESUMPTIONS:
                    raise Unavailable(reason(error)) from error
            missed = not stream.last_id
            attempt = 0 if trio.current_time() - started > RESUME_MAX_S else attempt + 1
            await trio.sleep(stream.delay_s(attempt))

    async def request(self, method: str, params: bytes, listener: Listener | None = None) -> bytes:
        """The result of a request, as JSON text. Raises Unavailable, RpcError.

        When cancelled, the server is told so.
        """
        answer, _ = await self._exchange(method, params, listener)
        return answer

    async def list_all(self, method: str, member: str) -> list[bytes]:
        """The objects of every page of a list method, each as it came. Raises as `request`."""
        found: list[bytes] = []
        cursors: set[str] = set()
        params, size = b"{}", 0
        while True:
            result = await self.request(method, params)
            items, cursor = read_page(result, member)
            found += items
            size += len(result)
            if not cursor or cursor in cursors:  # one that comes again leads in a circle
                return found
            cursors.add(cursor)
            if size > MAX_LIST_BYTES or len(cursors) >= MAX_PAGES:
                raise Unavailable("the list is too long")
            params = msgspec.json.encode({"cursor": cursor})

    async def notify(self, method: str, params: bytes = b"") -> None:
        """Send a notification. Raises Unavailable when it could not be delivered."""
        body = b'{"jsonrpc":"2.0","method":%b%b}' % (
            msgspec.json.encode(method),
            b',"params":' + params if params else b"",
        )
        try:
            async with await self._send("POST", body, DEADLINES) as response:
                await response.read(MAX_ANSWER_BYTES)
        except (WireError, ValueError) as error:
            raise Unavailable(reason(error)) from error

    async def _exchange(self, method: str, params: bytes, listener: Listener | None = None) -> tuple[bytes, bytes]:
        """The result of a request, and the session id its answer carried."""
        self._last_id = wanted = self._last_id + 1
        if listener is not None and listener.wants_progress:
            params = b'%b,"_meta":{"progressToken":%d}}' % (params[:-1], wanted)
        body = b'{"jsonrpc":"2.0","id":%d,"method":"%b","params":%b}' % (wanted, method.encode(), params)
        try:
            response = await self._send("POST", body, DEADLINES)
            session_id = response.header(b"mcp-session-id") or b""
            if response.status != 200:
                await self._refused(response)
            if is_stream(response):
                message = await self._from_stream(response, wanted, listener)
            else:
                async with response:
                    message = read_response(await response.read(MAX_ANSWER_BYTES), wanted)
        except WireError as error:
            unsent = isinstance(error, ConnectFailed) or (isinstance(error, PeerClosed) and not error.delivered)
            raise Unavailable(reason(error), executed=not unsent) from error
        except ValueError as error:
            raise Unavailable("the request cannot be sent", executed=False) from error
        except trio.Cancelled:
            if self._background is not None and method != "initialize":
                self._background.start_soon(self._cancel, wanted)
            raise
        if message.error and bytes(message.error) != b"null":
            raise rpc_error(bytes(message.error))
        if not message.result:
            raise Unavailable("the answer has no result")
        return bytes(message.result), session_id

    async def _cancel(self, wanted: int) -> None:
        """Tell the server that nobody waits for that answer any more."""
        body = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d}}' % wanted
        try:
            async with await self._send("POST", body, SHORT) as response:
                await response.read(MAX_ANSWER_BYTES)
        except (WireError, ValueError, Unavailable) as error:
            log.debug("an upstream was not told of a cancellation", error=type(error).__name__)

    async def _refused(self, response: Response) -> None:
        """Raise what a status other than 200 means; other 2xx may still carry an answer."""
        status = response.status
        if 200 <= status < 300:
            return
        if status < 400:
            response.close()
            raise Unavailable("the server redirects to another place", executed=False)
        try:
            async with response:
                await response.read(MAX_ANSWER_BYTES)
        except WireError:
            log.debug("an upstream refused without a complete body", status=status)
        if status == 404 and self.id:
            raise SessionLost
        raise Rejected(status)

    async def _send(self, method: str, body: bytes, deadlines: Deadlines, more: Sequence[Field] = ()) -> Response:
        """Follow redirects that keep the method, within the origin: credentials go nowhere else."""
        target = self._target
        for _ in range(MAX_REDIRECTS):
            response = await self._pool.request(method, self._origin, target, more, body, deadlines, self._prepared)
            if response.status not in (307, 308):
                return response
            location = response.header(b"location") or b""
            here = f"{self._origin.scheme}://{self._origin.authority.decode()}{target}"
            origin, target = Origin.parse(urljoin(here, location.decode("latin-1")))
            if origin != self._origin:
                log.warning("an upstream redirects to another origin, which is refused", host=origin.host)
                return response
            await response.read(MAX_ANSWER_BYTES)
        raise Unavailable("too many redirects", executed=False)

    async def _from_stream(self, response: Response, wanted: int, listener: Listener | None) -> Message:
        """The answer in an event stream; a stream that ends early is resumed where its events have ids."""
        stream = AnswerStream(wanted)
        for attempt in range(MAX_RESUMPTIONS + 1):
            try:
                await self._read_stream(response, stream, listener)
            except WireError:
                if not stream.last_id:
                    raise
            if stream.answer is not None:
                return stream.answer
            if not stream.last_id or attempt == MAX_RESUMPTIONS:
                break
            await trio.sleep(stream.delay_s(attempt))
            response = await self._resume(stream.last_id)
        raise Unavailable("the stream ended without an answer")

    async def _read_stream(self, response: Response, stream: AnswerStream, listener: Listener | None) -> None:
        """Read until the answer or the end; what follows an answer is read only to keep the connection."""
        try:
            async for chunk in response.chunks():
                for message in stream.feed(chunk):
                    await self._aside(message, stream.wanted, listener)
                if stream.answer is not None:
                    break
        except BaseException:
            response.close()
            raise
        if response.arrived or self._background is None:
            response.close()
        else:
            self._background.start_soon(drain, response)

    async def _resume(self, last_id: str) -> Response:
        response = await self._send("GET", b"", DEADLINES, [(b"last-event-id", last_id.encode())])
        if response.status != 200 or not is_stream(response):
            response.close()
            raise Unavailable("the stream ended without an answer")
        return response

    async def _aside(self, message: Message, wanted: int, listener: Listener | None) -> None:
        """A message in front of the answer: a notification, or a request of the server's own."""
        if not isinstance(message.method, str):
            return
        if not message.is_notification:
            if self._background is None:
                return
            if self._answering >= MAX_ANSWERING:
                log.info("an upstream asks too much at once", method=message.method)
                return
            self._answering += 1
            self._background.start_soon(self._answer, message, listener)
        elif listener is not None:
            progress = message.method == "notifications/progress"
            if not progress or jsonrpc.params_of(message, _Progress).progressToken == wanted:
                await listener.notified(message)

    async def _answer(self, request: Message, listener: Listener | None) -> None:
        try:
            await self._answered(request, listener)
        finally:
            self._answering -= 1

    async def _answered(self, request: Message, listener: Listener | None) -> None:
        """Answer the server: it may ping and ask for roots, of which there are none; the rest the listener offers."""
        if request.method == "ping":
            body = jsonrpc.result(request.id, b"{}")
        elif request.method == "roots/list":
            body = jsonrpc.result(request.id, b'{"roots":[]}')
        elif listener is not None and request.method in listener.answers:
            body = await listener.asked(request)
        else:
            refusal = jsonrpc.error_object(jsonrpc.METHOD_NOT_FOUND, "not supported by this client")
            body = jsonrpc.error(request.id, refusal)
        try:
            async with await self._send("POST", body, SHORT) as response:
                await response.read(MAX_ANSWER_BYTES)
        except (WireError, ValueError, Unavailable) as error:
            log.debug("an upstream's own request was not answered", error=type(error).__name__)


def is_stream(response: Response) -> bool:
    return (response.header(b"content-type") or b"")[:17].lower() == b"text/event-stream"


async def drain(response: Response) -> None:
    """Read a stream to its end if that comes soon, so that its connection is kept."""
    with trio.move_on_after(DRAIN_S):
        try:
            while await response.next_chunk():
                pass
        except WireError:
            return
    response.close()


def merged(fields: Sequence[Field]) -> list[Field]:
    """Headers by lower-case name; of equal names the last counts."""
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        found[name.lower()] = value
    return list(found.items())


def static_headers(target: MCPTarget) -> list[Field]:
    """The configured headers and, in mode `static`, the credential, which overrides one of the same name."""
    fields = [(name.lower().encode(), str(value).encode()) for name, value in target.headers.items()]
    if target.auth.get("mode") == "static":
        fields.append((target.auth["header"].lower().encode(), target.auth["value"].encode()))
    return fields


async def list_tools(pool: Pool, target: MCPTarget) -> list[Json]:
    """The tools of a server as it lists them now, with the static credential alone. Raises Unavailable, RpcError."""
    session = Session(pool, target.url, static_headers(target))
    try:
        await session.open()
    except RpcError as error:
        raise Unavailable(f"initialize was refused: {error.message}") from error
    try:
        tools = await session.list_all("tools/list", "tools")
    finally:
        await session.close()
    try:
        return [msgspec.json.decode(tool, type=dict[str, Any]) for tool in tools]
    except jsonrpc.NOT_JSON as error:
        raise Unavailable("the answer has a tool that is no object") from error
