"""What `Mcp-Session-Id` changes about a request: which session it is of, opening one, listening to it, ending it.

Clients that send no id of ours see none of this, but for the header in the answer to an `initialize` that accepts event
streams. Where shared state does not answer, requests are served as if there were no sessions.
"""

from __future__ import annotations

import contextlib

import msgspec
import structlog
import trio
from msgspec import Raw

from trustgate.mcp import events, gate, jsonrpc
from trustgate.mcp.errors import HttpFailure
from trustgate.mcp.events import MAIN
from trustgate.mcp.exchange import Exchange, Reply
from trustgate.mcp.hub import Cancel, News
from trustgate.mcp.jsonrpc import Message
from trustgate.mcp.methods import InitializeParams
from trustgate.mcp.runtime import negotiated
from trustgate.mcp.services import McpServices
from trustgate.mcp.sessions import ID, ClientSession, offers_of
from trustgate.mcp.streaming import Follower, Streamed, accepts, stream_of
from trustgate.wire.asgi import TEXT

STATE_S = 2.0
UNKNOWN = "mcp: session not found"
UNAVAILABLE = "mcp: sessions are unavailable"

log = structlog.get_logger(__name__)


class _Cancelled(msgspec.Struct):
    requestId: Raw = Raw()


class StateDown(Exception):
    """Shared state does not answer; nothing is known about the session."""


def named(exchange: Exchange, services: McpServices) -> str:
    """The session id of the request, if it looks like one of ours; else empty."""
    given = exchange.header_map.get(b"mcp-session-id")
    if given is None or not services.sessions.offered:
        return ""
    id = given.decode("latin-1")
    return id if ID.fullmatch(id) else ""


async def find(exchange: Exchange, services: McpServices) -> None:
    """Set the session that an admitted request names. Raises HttpFailure 404 when this caller has no such session."""
    id = named(exchange, services)
    if not id:
        return
    with contextlib.suppress(StateDown):
        exchange.session = await lookup(id, exchange, services)


async def lookup(id: str, exchange: Exchange, services: McpServices) -> ClientSession:
    """Raises HttpFailure, StateDown."""
    caller, runtime = exchange.caller, exchange.runtime
    assert caller is not None and runtime is not None
    try:
        with trio.fail_after(STATE_S):
            found = await services.sessions.find(id, caller, runtime.consumer)
    except Exception as error:
        log.warning("sessions are unavailable", error=str(error))
        raise StateDown from error
    if found is None:
        raise HttpFailure(404, UNKNOWN)
    return found


async def offer(exchange: Exchange, message: Message, services: McpServices) -> None:
    """Open a session for an `initialize` whose client accepts event streams."""
    caller, runtime = exchange.caller, exchange.runtime
    assert caller is not None and runtime is not None
    if not services.sessions.offered or not accepts(exchange.header_map.get(b"accept", b""))[1]:
        return
    version = negotiated(jsonrpc.params_of(message, InitializeParams).protocolVersion)
    try:
        with trio.fail_after(STATE_S):
            exchange.session = await services.sessions.open(caller, runtime.consumer, version, offers_of(message))
    except Exception as error:
        log.warning("no session was opened: shared state failed", error=str(error))


async def notified(exchange: Exchange, message: Message, services: McpServices) -> None:
    """A client's notification in a session: it may cancel a request."""
    if exchange.session is None or message.method != "notifications/cancelled":
        return
    request_id = bytes(jsonrpc.params_of(message, _Cancelled).requestId)
    if request_id:
        await services.hub.cancel(exchange.session.id, request_id)


async def answered(exchange: Exchange, services: McpServices) -> bool:
    """Whether the body is a client's response to a question that was put to it in this session."""
    if exchange.session is None:
        return False
    try:
        message = jsonrpc.read(exchange.body)
        id = jsonrpc.text_of(message.id)
    except jsonrpc.NOT_JSON:
        return False
    if message.jsonrpc != "2.0" or message.method is not None or not (message.result or message.error):
        return False
    await services.hub.answered(exchange.session.id, id, exchange.body)
    return True


async def serve(exchange: Exchange, services: McpServices) -> Reply | Streamed:
    """GET and DELETE of a session. Raises HttpFailure."""
    await gate.identify(exchange, services)
    gate.admit(exchange, services)
    try:
        session = exchange.session = await lookup(named(exchange, services), exchange, services)
        if exchange.method == "DELETE":
            await services.sessions.end(session)
            await services.hub.tell(Cancel(session.id, b""))
            await services.hub.tell(News(events.key_of(session.id, events.MAIN)))
            return Reply(status=204, body=b"")
    except StateDown:
        raise HttpFailure(503, UNAVAILABLE) from None
    if not accepts(exchange.header_map.get(b"accept", b""))[1]:
        return Reply(status=406, body=b"Not Acceptable", headers=[TEXT])
    stream, position = stream_of(exchange.header_map.get(b"last-event-id", b"").decode("latin-1"))
    if stream == MAIN and not session.record.listens:
        await mark_listening(session, services)
    return Streamed(Follower(session, stream, position, services, exchange).write_to)


async def mark_listening(session: ClientSession, services: McpServices) -> None:
    """Calls of this session, wherever they run, now let its upstreams be heard. Raises HttpFailure."""
    session.record.listens = True
    try:
        with trio.fail_after(STATE_S):
            await services.sessions.keep(session)
    except Exception as error:
        log.warning("sessions are unavailable", error=str(error))
        raise HttpFailure(503, UNAVAILABLE) from None
