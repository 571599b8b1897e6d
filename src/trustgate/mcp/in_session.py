"""What a client can ask for in a session beyond the methods that everybody has: log levels, completion, subscriptions.

What lives here: those methods. What must not: how sessions are kept (`sessions`).
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import msgspec
from msgspec import Raw

from trustgate.mcp import jsonrpc, methods
from trustgate.mcp.attendance import shared_state, unavailable
from trustgate.mcp.compose import Listing, permits_template, permits_uri
from trustgate.mcp.discovery import PROMPTS, RESOURCES, TEMPLATES
from trustgate.mcp.errors import RpcFailure, missing_param, not_found
from trustgate.mcp.exchange import Exchange
from trustgate.mcp.hub import Subscribed
from trustgate.mcp.jsonrpc import Message
from trustgate.mcp.links import Peer
from trustgate.mcp.services import McpServices
from trustgate.mcp.sessions import LEVELS, Subscription
from trustgate.mcp.upstream import Session

NO_COMPLETION = b'{"completion":{"values":[],"total":0,"hasMore":false}}'
"""The answer of an upstream that completes nothing."""


class LevelParams(msgspec.Struct):
    level: Any = None


class CompleteParams(msgspec.Struct):
    ref: Raw = Raw()
    argument: Raw = Raw()
    context: Raw = Raw()


class Reference(msgspec.Struct):
    type: Any = None
    name: Any = None
    uri: Any = None


async def set_level(exchange: Exchange, message: Message, services: McpServices) -> bytes:
    """From now on only log messages of that level or above; upstreams are asked for them with the next call."""
    session = exchange.session
    assert session is not None
    level = jsonrpc.params_of(message, LevelParams).level
    if level not in LEVELS:
        raise RpcFailure(jsonrpc.INVALID_PARAMS, "logging/setLevel requires params.level, one of " + ", ".join(LEVELS))
    session.record.log_level = level
    with shared_state():
        await services.sessions.keep(session)
    await services.hub.tell(Subscribed(session.id, services.hub.instance))
    return b"{}"


async def subscribe(exchange: Exchange, message: Message, services: McpServices) -> bytes:
    """Tell the client on its session's own stream when that resource changes."""
    uri = await uri_of(exchange, message, "resources/subscribe", services)
    attendance = services.attendances.of(exchange)
    first: RpcFailure | None = None
    for peer in await methods.readable(exchange, uri, services):
        started = perf_counter()
        try:
            await attendance.subscribe(peer, uri)
        except RpcFailure as failure:
            first = first or failure
            continue
        finally:
            exchange.asked(peer, started)
        await services.hub.tell(Subscribed(attendance.session.id, services.hub.instance))
        return b"{}"
    raise first or not_found("resource", uri)


async def unsubscribe(exchange: Exchange, message: Message, services: McpServices) -> bytes:
    """The same for a resource that was never subscribed to."""
    session = exchange.session
    assert session is not None
    uri = await uri_of(exchange, message, "resources/unsubscribe", services)
    with shared_state():
        await services.sessions.subscribe(session, Subscription(registry_id="", uri=uri, on=False))
    await services.hub.tell(Subscribed(session.id, services.hub.instance))
    return b"{}"


async def uri_of(exchange: Exchange, message: Message, method: str, services: McpServices) -> str:
    uri = jsonrpc.params_of(message, methods.UriParams).uri
    if not isinstance(uri, str) or not uri:
        raise missing_param(method, "uri")
    assert exchange.facts is not None
    exchange.facts.resource_uri = uri
    await methods.check_plan(exchange, services)
    return uri


async def complete(exchange: Exchange, message: Message, services: McpServices) -> bytes:
    """Values for an argument of a prompt or of a resource template, from the upstream that has it."""
    params: CompleteParams = jsonrpc.params_of(message, CompleteParams)
    try:
        reference = msgspec.json.decode(params.ref, type=Reference)
    except jsonrpc.NOT_JSON:
        reference = Reference()
    if bytes(params.argument)[:1] != b"{":
        raise RpcFailure(jsonrpc.INVALID_PARAMS, "completion/complete requires params.argument")
    await methods.check_plan(exchange, services)
    if reference.type == "ref/prompt" and isinstance(reference.name, str):
        peer, ref = await prompt_of(reference.name, exchange, services)
    elif reference.type == "ref/resource" and isinstance(reference.uri, str):
        peer, ref = await template_of(reference.uri, exchange, services)
    else:
        raise RpcFailure(jsonrpc.INVALID_PARAMS, "completion/complete requires params.ref, of a prompt or a resource")
    members: dict[str, Any] = {"ref": ref, "argument": params.argument}
    if params.context:
        members["context"] = params.context
    return await ask(peer, msgspec.json.encode(members), exchange, services)


async def prompt_of(name: str, exchange: Exchange, services: McpServices) -> tuple[Peer, dict[str, str]]:
    """The upstream of an exposed prompt, and the reference by the prompt's own name. Raises RpcFailure."""
    composition, pending = await methods.composed(exchange, PROMPTS, services)
    exposed = composition.by_name.get(name)
    if exposed is None:
        raise methods.unknown_name(PROMPTS, name, composition, pending)
    assert exchange.runtime is not None
    return exchange.runtime.by_registry[exposed.registry.id], {"type": "ref/prompt", "name": exposed.item.name}


async def template_of(uri: str, exchange: Exchange, services: McpServices) -> tuple[Peer, dict[str, str]]:
    """The first upstream that lists that URI as a template, or a resource the client may use. Raises RpcFailure."""
    runtime = exchange.runtime
    assert runtime is not None
    for kind in (TEMPLATES, RESOURCES):
        for peer, answer in await methods.ask_all(exchange, kind, runtime.peers, services):
            entries = runtime.entries(peer, kind)
            allowed = (permits_uri if kind is RESOURCES else permits_template)(entries, uri)
            if allowed and isinstance(answer, Listing) and any(item.name == uri for item in answer.items):
                return peer, {"type": "ref/resource", "uri": uri}
    raise not_found("resource", uri)


async def ask(peer: Peer, params: bytes, exchange: Exchange, services: McpServices) -> bytes:
    assert exchange.asker is not None

    async def completing(session: Session) -> bytes:
        if session.capabilities is None or "completions" not in session.capabilities:
            return NO_COMPLETION
        return await session.request("completion/complete", params, exchange.listener)

    started = perf_counter()
    try:
        return await services.links.use(
            peer, exchange.asker, "completion/complete", completing, repeatable=True, profile=exchange.profile
        )
    finally:
        exchange.asked(peer, started)


HANDLERS: methods.Handlers = {
    **methods.METHODS,
    "logging/setLevel": (set_level, "logging"),
    "completion/complete": (complete, "completion"),
    "resources/subscribe": (subscribe, "resource"),
    "resources/unsubscribe": (unsubscribe, "resource"),
}


async def refuse(exchange: Exchange, message: Message, services: McpServices) -> bytes:
    raise unavailable()


WITHOUT_STATE: methods.Handlers = methods.METHODS | {
    name: (refuse, operation) for name, (_, operation) in HANDLERS.items() if name not in methods.METHODS
}
"""For requests that name a session of which nothing is known now, because shared state does not answer."""
