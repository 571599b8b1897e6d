"""The life of a request on the proxy plane, as the tuple `STAGES` (spec 02 §11).

A stage is a function of the exchange: it fills in what it learns, and ends the request by returning a Reply or
raising a Refusal. All stages work on the one view that `find_gateway` pinned.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl

import structlog

from trustgate.balance.prompt import prompt_of
from trustgate.balance.strategies import Hint
from trustgate.formats.errors import DecodeError
from trustgate.formats.json import NotAnObject, remove_members, set_members
from trustgate.identity.authenticate import authenticate, known_key
from trustgate.identity.errors import AuthError
from trustgate.limits.ops import LimitsUnavailable
from trustgate.limits.plan import plan_limit
from trustgate.proxy import decoding, discovery, models
from trustgate.proxy.attempts import Targets, serve
from trustgate.proxy.call import Result
from trustgate.proxy.candidates import RoutingPlan, candidates_of
from trustgate.proxy.errors import Refusal
from trustgate.proxy.exchange import Exchange, Reply
from trustgate.proxy.guarding import before_answer, before_upstream
from trustgate.proxy.intent import peek, read_intent
from trustgate.proxy.routes import match_route, split_path
from trustgate.proxy.services import ProxyServices
from trustgate.proxy.session import supplied_session
from trustgate.view.model import GatewayIdentity
from trustgate.wire.ids import current_trace, uuid4, uuid7

log = structlog.get_logger(__name__)

Later = Awaitable[Reply | None]
Stage = Callable[[Exchange, ProxyServices], Reply | Later | None]


def find_gateway(exchange: Exchange, services: ProxyServices) -> Later | None:
    """§3. A slug that is not there is believed to be unknown only after catching up with the log."""
    headers = exchange.header_map
    where = (headers.get(b"x-ag-gateway-slug"), headers.get(b"host"), services.config.base_domain)
    try:
        exchange.view = discovery.find_gateway(services.directory, *where)
    except discovery.Unknown:
        return find_new_gateway(exchange, services, where)
    return None


async def find_new_gateway(
    exchange: Exchange, services: ProxyServices, where: tuple[bytes | None, bytes | None, str]
) -> None:
    await services.catch_up()
    try:
        exchange.view = discovery.find_gateway(services.directory, *where)
    except discovery.Unknown as unknown:
        raise discovery.unknown_gateway(unknown.slug) from None


def find_consumer(exchange: Exchange, services: ProxyServices) -> Later | None:
    """§2 and §3: the route of the path, then the active consumer of the slug."""
    slug, path = split_path(exchange.path)
    route = match_route(path, exchange.method)
    if route is None:
        raise Refusal("not_found")
    exchange.route = route
    assert exchange.view is not None
    exchange.consumer = exchange.view.consumer(slug)
    return None if exchange.consumer is not None else find_new_consumer(exchange, services, slug)


async def find_new_consumer(exchange: Exchange, services: ProxyServices, slug: str) -> None:
    assert exchange.view is not None
    await services.catch_up()
    exchange.view = services.directory.by_id(exchange.view.id) or exchange.view
    exchange.consumer = exchange.view.consumer(slug)
    if exchange.consumer is None:
        raise Refusal("not_found")


def authenticate_caller(exchange: Exchange, services: ProxyServices) -> Later | None:
    """§4. An API key that is known needs no waiting; everything else goes the whole way."""
    consumer = exchange.consumer
    assert consumer is not None
    exchange.principal = known_key(consumer, exchange.header_map)
    return None if exchange.principal is not None else authenticate_late(exchange, services)


async def authenticate_late(exchange: Exchange, services: ProxyServices) -> None:
    """A credential that is refused is looked at once more after catching up with the log."""
    view, consumer = exchange.view, exchange.consumer
    assert view is not None and consumer is not None
    try:
        exchange.principal = await authenticate(
            view, consumer, exchange.header_map, services.identity, exchange.peer_ip, exchange.client_ip
        )
        return
    except AuthError as error:
        refused = error
    await services.catch_up()
    newer = services.directory.by_id(view.id)
    fresh = newer.consumer(consumer.slug) if newer is not None and newer is not view else None
    if newer is None or fresh is None:
        raise Refusal(refused.code, refused.message, refused.status)
    exchange.view, exchange.consumer = newer, fresh
    try:
        exchange.principal = await authenticate(
            newer, fresh, exchange.header_map, services.identity, exchange.peer_ip, exchange.client_ip
        )
    except AuthError as error:
        raise Refusal(error.code, error.message, error.status) from None


def name_session(exchange: Exchange, services: ProxyServices) -> Later | None:
    """§5. The body is decoded before: from now on stages look at it."""
    encoding = exchange.header_map.get(b"content-encoding")
    if encoding:
        return decode_and_name(exchange, services, encoding)
    take_session(exchange)
    return None


async def decode_and_name(exchange: Exchange, services: ProxyServices, encoding: bytes) -> None:
    try:
        body = await decoding.decode_body(exchange.body, encoding, services.config.max_body_bytes)
    except (Refusal, decoding.TooLarge):
        exchange.client_body = exchange.body = b""
        take_session(exchange)  # a refusal after authentication has its session and its trace, too
        start_trace(exchange, services)
        raise
    exchange.client_body = exchange.body = body
    take_session(exchange)


def take_session(exchange: Exchange) -> None:
    assert exchange.view is not None
    identity = exchange.view.identity
    if identity.session_enabled:
        exchange.session_id = supplied_session(identity, exchange.header_map, exchange.body)
        exchange.session_supplied = bool(exchange.session_id)
        if not exchange.session_id:
            exchange.session_id = uuid7()


def start_trace(exchange: Exchange, services: ProxyServices) -> Reply | None:
    """§5. Inbound trace ids are never reused."""
    if services.config.telemetry:
        exchange.trace_id = uuid4()
        current_trace.set(exchange.trace_id)
    return None


def require_llm(exchange: Exchange, services: ProxyServices) -> Reply | None:
    """§4.4: consumers of other types are not served on this plane."""
    assert exchange.consumer is not None and exchange.view is not None
    if exchange.consumer.type != "LLM":
        raise Refusal("not_found")
    exchange.runtime = services.runtimes.of(exchange.view, exchange.consumer)
    return None


def check_plan(exchange: Exchange, services: ProxyServices) -> Later | None:
    """§6. Only gateways whose entitlements carry all three caps are metered."""
    assert exchange.view is not None
    if not exchange.view.identity.metered or not services.config.plan_limit:
        return None
    return charge_plan(exchange.view.identity, services)


async def charge_plan(identity: GatewayIdentity, services: ProxyServices) -> Reply | None:
    """Trouble with the counters lets the request pass."""
    caps = identity.entity.entitlements
    try:
        refusal = await plan_limit(
            services.limits, identity.id, caps.burst_per_min or 0, caps.quota_per_month or 0, services.now()
        )
    except LimitsUnavailable as error:
        log.warning("plan limit failed open", gateway_id=identity.id, error=str(error))
        services.policies.count("trustgate_ratelimit_fail_open_total", {"reason": "burst_incr"})
        return None
    if refusal is None:
        return None
    headers = [(name.lower().encode(), value.encode()) for name, value in refusal.headers]
    return Reply(status=429, headers=[(b"content-type", b"application/json"), *headers], body=refusal.body)


def list_models(exchange: Exchange, services: ProxyServices) -> Reply | None:
    """The addition `GET /{slug}/v1/models`: what this consumer may use."""
    assert exchange.route is not None
    return models.listing(exchange) if exchange.route.capability == "models" else None


def read_model_reference(exchange: Exchange, services: ProxyServices) -> Reply | None:
    """§7.1."""
    route = exchange.route
    assert route is not None
    exchange.peeked = peek(exchange.body)
    exchange.intent = read_intent(exchange.peeked, route.path_model)
    exchange.requested_model = exchange.intent.reference
    return None


def choose_candidates(exchange: Exchange, services: ProxyServices) -> Reply | None:
    """§7.2, §7.3."""
    consumer, principal, runtime = exchange.consumer, exchange.principal, exchange.runtime
    assert consumer is not None and principal is not None and runtime is not None
    if consumer.role_based:
        exchange.plan = RoutingPlan(candidates_of(consumer, exchange.intent, principal.roles))
        return None
    exchange.plan = runtime.plan(exchange.intent)
    if not consumer.pool and exchange.plan.candidates is None:
        raise Refusal("no_backend_available", "consumer has no registries in pool")
    return None


def apply_reference(exchange: Exchange, services: ProxyServices) -> Reply | None:
    """§7.1, last column: what the reference does to the body before anything else sees it.

    A body that is no JSON object stays as it is: the dialect or the provider judges it.
    """
    route, intent = exchange.route, exchange.intent
    assert route is not None
    try:
        if intent.kind in ("auto", "pool"):
            exchange.body = remove_members(exchange.body, ("model", "modelId"))
        elif intent.kind == "provider" or (intent.kind == "model" and route.path_model):
            exchange.body = set_members(exchange.body, {"model": intent.model})
    except (DecodeError, NotAnObject):
        return None
    return None


def pick_route(exchange: Exchange, services: ProxyServices) -> Later | None:
    """§7.7: the first route, before any policy runs. A pinned request has its own; others may wait for a hint."""
    runtime, consumer = exchange.runtime, exchange.consumer
    assert runtime is not None and consumer is not None
    balancer = runtime.alias_balancer if exchange.intent.kind == "pool" else runtime.balancer
    targets = exchange.targets = Targets(exchange, balancer, services)
    if not targets.balanced and exchange.plan.candidates:
        exchange.picked = targets.pinned()
        return None
    return draw_route(exchange, targets, services)


async def draw_route(exchange: Exchange, targets: Targets, services: ProxyServices) -> None:
    targets.hint = await hint_of(exchange, services)
    exchange.picked = await targets.first()
    if exchange.picked is None:
        raise Refusal("no_backend_available", "no backend available: no available routes")


async def hint_of(exchange: Exchange, services: ProxyServices) -> Hint | None:
    """What an outside service says of the prompt, asked once per request and only by the algorithms that want it."""
    consumer, view = exchange.consumer, exchange.view
    assert consumer is not None and view is not None
    if consumer.algorithm not in ("semantic", "smart-routing") or len(consumer.routes) < 2:
        return None
    if exchange.intent.pinned or consumer.role_based:
        return None
    prompt = prompt_of(exchange.body)
    if consumer.algorithm == "smart-routing":
        return await services.scorer.hint(prompt, exchange.session_id, view.id)
    if consumer.embedding is None:
        return None
    return await services.semantic.hint(consumer.routes, consumer.embedding, prompt)


def run_pre_request(exchange: Exchange, services: ProxyServices) -> Later | None:
    """§10. A consumer without policies pays nothing."""
    runtime = exchange.runtime
    assert runtime is not None
    return None if runtime.chain.empty else before_upstream(exchange)


def detect_streaming(exchange: Exchange, services: ProxyServices) -> Reply | None:
    """§9.1, after the policies, which may have changed the body."""
    route = exchange.route
    assert route is not None
    if route.capability != "chat":
        return None
    exchange.streaming = route.path_stream or first_alt(exchange.query) == "sse" or body_streams(exchange)
    return None


def first_alt(query: bytes) -> str:
    if not query or b"alt" not in query:
        return ""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return next((value for name, value in pairs if name == "alt"), "")


def body_streams(exchange: Exchange) -> bool:
    changed = exchange.body is not exchange.client_body
    peeked = peek(exchange.body) if changed else exchange.peeked
    return peeked is not None and bytes(peeked.stream) == b"true"


async def call_upstream(exchange: Exchange, services: ProxyServices) -> Reply | None:
    """§8 and §9: attempts until an answer, which policies may still replace."""

    async def accept(result: Result) -> Result:
        return await before_answer(exchange, result)

    runtime = exchange.runtime
    assert exchange.targets is not None and runtime is not None
    exchange.collect = runtime.chain.has_post_response or services.observer.wants_body(exchange)
    result = await serve(exchange, exchange.targets, accept, services)
    if result.verdict != "success" and not result.final:
        result = await before_answer(exchange, result)
    exchange.answered = result.answered or not result.final
    return Reply(status=result.status, headers=result.headers, body=result.body, stream=result.stream)


STAGES: tuple[Stage, ...] = (
    find_gateway,
    find_consumer,
    authenticate_caller,
    name_session,
    start_trace,
    require_llm,
    check_plan,
    list_models,
    read_model_reference,
    choose_candidates,
    apply_reference,
    pick_route,
    run_pre_request,
    detect_streaming,
    call_upstream,
)


async def run(exchange: Exchange, services: ProxyServices, stages: tuple[Stage, ...] = STAGES) -> Reply:
    """The answer to a request. Raises Refusal; cancellation means that the client left."""
    stage = find_gateway
    try:
        for stage in stages:
            outcome = stage(exchange, services)
            if outcome is not None:
                reply = outcome if isinstance(outcome, Reply) else await outcome
                if reply is not None:
                    exchange.stage = stage.__name__
                    return reply
    except BaseException:
        exchange.stage = stage.__name__
        raise
    raise AssertionError("the last stage always answers")
