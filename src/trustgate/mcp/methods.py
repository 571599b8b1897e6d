"""The methods of the endpoint (spec 05 §6): a function each, from an exchange and a message to a result.

What lives here: the steps of every method in the order of the contract. What must not: HTTP, envelopes, how upstreams
are reached.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any

import msgspec
import structlog
import trio
from msgspec import Raw

from trustgate.limits.ops import LimitsUnavailable
from trustgate.limits.plan import plan_limit
from trustgate.mcp import errors, guarding, jsonrpc
from trustgate.mcp.compose import Composition, Exposed, Listing, permits_uri
from trustgate.mcp.discovery import PROMPTS, RESOURCES, TEMPLATES, TOOLS, Discovery, Kind
from trustgate.mcp.errors import ConsentNeeded, HttpFailure, RpcFailure
from trustgate.mcp.exchange import Exchange, Reply
from trustgate.mcp.jsonrpc import Message
from trustgate.mcp.links import Peer
from trustgate.mcp.runtime import Found, Ready, negotiated
from trustgate.mcp.services import McpServices
from trustgate.mcp.upstream import Session

MAX_PARALLEL = 8
OK = 200

Handler = Callable[[Exchange, Message, McpServices], Awaitable[bytes]]
Handlers = Mapping[str, tuple[Handler, str]]

log = structlog.get_logger(__name__)


class NamedParams(msgspec.Struct):
    name: Any = None
    arguments: Raw = Raw()


class UriParams(msgspec.Struct):
    uri: Any = None


class InitializeParams(msgspec.Struct):
    protocolVersion: Any = None


async def dispatch(
    exchange: Exchange, message: Message, services: McpServices, handlers: Handlers | None = None
) -> Reply:
    """The reply to one request of an admitted caller. Raises HttpFailure; cancellation means that the client left."""
    if message.method == "ping":
        return Reply(status=OK, body=jsonrpc.result(message.id, b"{}"))
    handler, operation = (METHODS if handlers is None else handlers).get(message.method, (unknown, ""))
    facts = exchange.begin(message.method, operation)
    started = perf_counter()
    try:
        result = await handler(exchange, message, services)
    except RpcFailure as failure:
        facts.rpc_error_code, facts.upstream_status = failure.code, failure.status
        return Reply(status=OK, body=jsonrpc.error(message.id, failure.object), headers=failure.headers)
    except HttpFailure as failure:
        facts.upstream_status = failure.status
        raise
    finally:
        exchange.dispatched(started)
    facts.upstream_status = OK
    return Reply(status=OK, body=jsonrpc.result(message.id, result))


async def unknown(exchange: Exchange, message: Message, services: McpServices) -> bytes:
    raise errors.method_not_found(message.method)


async def initialize(exchange: Exchange, message: Message, services: McpServices) -> bytes:
    """Never contacts upstreams."""
    assert exchange.runtime is not None
    requested = jsonrpc.params_of(message, InitializeParams).protocolVersion
    if exchange.session is not None:
        return exchange.runtime.greeting(exchange.session.record.version, in_session=True)
    return exchange.runtime.greeting(negotiated(requested))


async def check_plan(exchange: Exchange, services: McpServices) -> None:
    """§6.1. Only gateways whose entitlements carry all three caps are metered; trouble lets the request pass."""
    assert exchange.caller is not None
    identity = exchange.caller.view.identity
    if not identity.metered or not services.config.plan_limit:
        return
    caps = identity.entity.entitlements
    try:
        refusal = await plan_limit(
            services.limits, identity.id, caps.burst_per_min or 0, caps.quota_per_month or 0, services.now()
        )
    except LimitsUnavailable as error:
        log.warning("plan limit failed open", gateway_id=identity.id, error=str(error))
        services.count("trustgate_ratelimit_fail_open_total", {"reason": "burst_incr"})
        return
    if refusal is not None:
        raise errors.plan_exceeded(refusal)


# -- lists -----------------------------------------------------------------------------------------------------------


def listing(kind: Kind) -> Handler:
    """A list method: everything on one page."""

    async def handler(exchange: Exchange, message: Message, services: McpServices) -> bytes:
        await check_plan(exchange, services)
        composition, _ = await composed(exchange, kind, services)
        runtime = exchange.runtime
        assert runtime is not None
        if runtime.chain.has_pre_response:
            await guarding.before_list(exchange, kind.method, composition.result)
        return composition.result

    return handler


async def composed(exchange: Exchange, kind: Kind, services: McpServices) -> tuple[Composition, ConsentNeeded | None]:
    """The list that this caller sees, and the first consent that is missing. Raises RpcFailure, HttpFailure."""
    runtime = exchange.runtime
    assert runtime is not None
    discovery = services.discovery
    exchange.targets = len(runtime.peers)
    ready = runtime.ready.get(kind.name)
    if ready is not None and ready.generation == discovery.generation and ready.until > discovery.now():
        return ready.composition, None
    found, pending = await gather(exchange, kind, services)
    composition = runtime.composition(kind, found)
    if runtime.shared and len(found) == len(runtime.peers):
        keep_ready(exchange, kind, found, composition, discovery)
    return composition, pending


def keep_ready(exchange: Exchange, kind: Kind, found: Found, composition: Composition, discovery: Discovery) -> None:
    """What every caller of this consumer sees until one of its lists is asked for again."""
    runtime, asker = exchange.runtime, exchange.asker
    assert runtime is not None and asker is not None
    until = min(discovery.until(kind, peer, asker, listing) for peer, listing in found)
    runtime.ready[kind.name] = Ready(discovery.generation, until, composition)


async def gather(exchange: Exchange, kind: Kind, services: McpServices) -> tuple[Found, ConsentNeeded | None]:
    """Every registry's list in registry order; those that fail are left out, or fail the whole (`fail_mode`)."""
    runtime = exchange.runtime
    assert runtime is not None
    if not runtime.peers:
        raise errors.no_registries()
    found: list[tuple[Peer, Listing]] = []
    pending: ConsentNeeded | None = None
    for peer, answer in await ask_all(exchange, kind, runtime.peers, services):
        if isinstance(answer, Listing):
            found.append((peer, answer))
        elif isinstance(answer, ConsentNeeded):
            pending = pending or answer
        elif runtime.surface.closed:
            raise answer if isinstance(answer, HttpFailure) else errors.registry_failed(peer.registry.name, answer)
    if not found:
        raise pending or errors.nothing_reachable()
    return tuple(found), pending


Answer = Listing | RpcFailure | HttpFailure


async def ask_all(
    exchange: Exchange, kind: Kind, peers: tuple[Peer, ...], services: McpServices
) -> list[tuple[Peer, Answer]]:
    """What each peer lists, or how it failed. Lists that are not kept are asked for in parallel."""
    asker, discovery = exchange.asker, services.discovery
    assert asker is not None
    answers: dict[Peer, Answer] = {}
    missing: list[Peer] = []
    for peer in peers:
        try:
            known = discovery.known(kind, peer, asker)
        except RpcFailure as failure:
            answers[peer] = failure
            continue
        if known is None:
            missing.append(peer)
        else:
            answers[peer] = known
    if missing:
        limiter = trio.CapacityLimiter(MAX_PARALLEL)

        async def ask(peer: Peer) -> None:
            async with limiter:
                try:
                    answers[peer] = await discovery.list(kind, peer, asker)
                except (RpcFailure, HttpFailure) as failure:
                    answers[peer] = failure

        async with trio.open_nursery() as nursery:
            for peer in missing:
                nursery.start_soon(ask, peer)
    return [(peer, answers[peer]) for peer in peers]


# -- tools and prompts -----------------------------------------------------------------------------------------------


async def call_tool(exchange: Exchange, message: Message, services: McpServices) -> bytes:
    params: NamedParams = jsonrpc.params_of(message, NamedParams)
    if not isinstance(params.name, str) or not params.name:
        raise errors.missing_param("tools/call", "name")
    return await call_named(exchange, TOOLS, "tools/call", params.name, given(params.arguments), services)


async def get_prompt(exchange: Exchange, message: Message, services: McpServices) -> bytes:
    params: NamedParams = jsonrpc.params_of(message, NamedParams)
    if not isinstance(params.name, str) or not params.name:
        raise errors.missing_param("prompts/get", "name")
    arguments = given(params.arguments)
    if arguments and not is_string_map(arguments):
        raise RpcFailure(jsonrpc.INVALID_PARAMS, "prompts/get requires params.arguments to be an object of strings")
    return await call_named(exchange, PROMPTS, "prompts/get", params.name, arguments, services)


def given(arguments: Raw) -> bytes:
    """Empty when there are none; null is none."""
    raw = bytes(arguments)
    return b"" if raw == b"null" else raw


def is_string_map(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw, type=dict[str, str])
    except jsonrpc.NOT_JSON:
        return False
    return True


async def call_named(
    exchange: Exchange, kind: Kind, method: str, name: str, arguments: bytes, services: McpServices
) -> bytes:
    """Plan, policies, compose, locate, call, policies: the life of a tool call; a prompt's is the same."""
    runtime, facts = exchange.runtime, exchange.facts
    assert runtime is not None and facts is not None
    if kind is TOOLS:
        facts.tool = name
    else:
        facts.prompt = name
    await check_plan(exchange, services)
    request = None
    if not runtime.chain.empty:
        request = guarding.policy_request(exchange, method, call_body(name, arguments))
        body = request.body
        answered = await guarding.before_call(exchange, request)
        if answered is not None:
            return answered
        if request.body is not body:
            arguments = guarding.arguments_of(request, name, arguments)
    composition, pending = await composed(exchange, kind, services)
    exposed = composition.by_name.get(name)
    if exposed is None:
        raise unknown_name(kind, name, composition, pending)
    result = await ask_upstream(exchange, method, exposed, arguments, services)
    return result if request is None else await guarding.before_answer(exchange, request, result)


def call_body(name: str, arguments: bytes) -> bytes:
    if not arguments:
        return b'{"name":%b}' % msgspec.json.encode(name)
    return b'{"name":%b,"arguments":%b}' % (msgspec.json.encode(name), arguments)


def unknown_name(kind: Kind, name: str, composition: Composition, pending: ConsentNeeded | None) -> RpcFailure:
    if kind is TOOLS and name in composition.excluded:
        return errors.tool_not_permitted(name)
    if pending is not None:
        return pending
    return errors.not_found(kind.toolkit, name)


async def ask_upstream(
    exchange: Exchange, method: str, exposed: Exposed, arguments: bytes, services: McpServices
) -> bytes:
    """The upstream's own result for an exposed tool or prompt, called by its original name."""
    runtime, asker = exchange.runtime, exchange.asker
    assert runtime is not None and asker is not None
    peer = runtime.by_registry[exposed.registry.id]
    params = call_body(exposed.item.name, arguments or b"{}")
    if exchange.facts is not None and method == "tools/call":
        exchange.facts.upstream_tool = exposed.item.name
    if exchange.session is not None and exchange.session.record.listens:
        await services.attendances.calling(exchange, peer)
    started = perf_counter()
    try:
        return await services.links.use(
            peer,
            asker,
            method,
            lambda session: session.request(method, params, exchange.listener),
            repeatable=method != "tools/call",
            profile=exchange.profile,
        )
    finally:
        exchange.asked(peer, started)


# -- resources -------------------------------------------------------------------------------------------------------


async def read_resource(exchange: Exchange, message: Message, services: McpServices) -> bytes:
    runtime, facts = exchange.runtime, exchange.facts
    assert runtime is not None and facts is not None
    uri = jsonrpc.params_of(message, UriParams).uri
    if not isinstance(uri, str) or not uri:
        raise errors.missing_param("resources/read", "uri")
    facts.resource_uri = uri
    await check_plan(exchange, services)
    params = msgspec.json.encode({"uri": uri})
    request = None
    if not runtime.chain.empty:
        request = guarding.policy_request(exchange, "resources/read", params)
        answered = await guarding.before_call(exchange, request)
        if answered is not None:
            return answered
    result = await read_somewhere(exchange, uri, params, services)
    return result if request is None else await guarding.before_answer(exchange, request, result)


async def read_somewhere(exchange: Exchange, uri: str, params: bytes, services: McpServices) -> bytes:
    """The resource from the first registry that lists it, else from the first that has it. Raises RpcFailure."""
    first: RpcFailure | HttpFailure | None = None
    for peer in await readable(exchange, uri, services):
        try:
            result = await read_from(exchange, peer, params, services)
        except (RpcFailure, HttpFailure) as failure:
            first = first or failure
            continue
        if result:
            return result
    raise first or errors.not_found("resource", uri)


async def readable(exchange: Exchange, uri: str, services: McpServices) -> tuple[Peer, ...]:
    """Where that resource may be had: at the first registry that lists it, else at any that is allowed to have it.

    Raises RpcFailure.
    """
    runtime = exchange.runtime
    assert runtime is not None
    if not runtime.peers:
        raise errors.no_registries()
    allowed = tuple(peer for peer in runtime.peers if permits_uri(runtime.entries(peer, RESOURCES), uri))
    for peer, answer in await ask_all(exchange, RESOURCES, allowed, services):
        if isinstance(answer, Listing) and any(item.name == uri for item in answer.items):
            return (peer,)
    return allowed


async def read_from(exchange: Exchange, peer: Peer, params: bytes, services: McpServices) -> bytes:
    """The resource as that upstream has it; empty when the upstream has no resources at all."""
    assert exchange.asker is not None

    async def read(session: Session) -> bytes:
        if session.capabilities is None or "resources" not in session.capabilities:
            return b""
        return await session.request("resources/read", params, exchange.listener)

    started = perf_counter()
    try:
        return await services.links.use(
            peer, exchange.asker, "resources/read", read, repeatable=True, profile=exchange.profile
        )
    finally:
        exchange.asked(peer, started)


METHODS: dict[str, tuple[Handler, str]] = {
    "initialize": (initialize, "initialize"),
    "tools/list": (listing(TOOLS), "discovery"),
    "tools/call": (call_tool, "tool"),
    "resources/list": (listing(RESOURCES), "discovery"),
    "resources/templates/list": (listing(TEMPLATES), "discovery"),
    "resources/read": (read_resource, "resource"),
    "prompts/list": (listing(PROMPTS), "discovery"),
    "prompts/get": (get_prompt, "prompt"),
}
"""Method to handler and the `operation` of its event. `ping` is answered before."""
