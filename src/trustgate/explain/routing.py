"""Where a model reference leads under one version of the configuration: the proxy's own rules, without a request.

What lives here: candidates and routes, and the reason why each registry is or is not among them. What must not: rules
of its own (they are `proxy.candidates` and `proxy.attempts`), recorded facts.
"""

from __future__ import annotations

from typing import cast

import msgspec

from trustgate.balance import strategies
from trustgate.balance.strategies import Balancer
from trustgate.domain.entities import GatewayState
from trustgate.proxy.attempts import Targets
from trustgate.proxy.candidates import Candidate, RoutingPlan, candidates_of, inline_candidates, role_candidates
from trustgate.proxy.errors import Refusal
from trustgate.proxy.exchange import Exchange
from trustgate.proxy.intent import NONE, Intent, intent_of
from trustgate.proxy.runtime import tiers_of
from trustgate.proxy.services import ProxyServices
from trustgate.view.model import ConsumerView, RoleView, Route

NO_POOL = "consumer has no registries in pool"
NO_ROUTE = "no backend available: no available routes"


class Routing(msgspec.Struct, kw_only=True):
    """What the routing stages make of a reference.

    `refusal` is set when they refuse it. `routes` are those that the first pick may choose, in the balancer's order;
    `excluded` are routes of the pool that this request may not use.
    """

    intent: Intent = NONE
    refusal: Refusal | None = None
    plan: RoutingPlan = RoutingPlan(None)
    balancer: Balancer
    balanced: bool = False
    routes: tuple[Route, ...] = ()
    excluded: tuple[Route, ...] = ()

    @property
    def candidates(self) -> list[Candidate]:
        return self.plan.candidates or []


def routing_of(consumer: ConsumerView, roles: tuple[RoleView, ...], reference: str) -> Routing:
    """The stages `read_model_reference`, `choose_candidates` and `pick_route`, health and rotation aside."""
    routing = Routing(balancer=strategies.build(consumer.algorithm, consumer.routes, tiers_of(consumer)))
    try:
        routing.intent = intent_of(reference)
        routing.plan = RoutingPlan(candidates_of(consumer, routing.intent, roles))
    except Refusal as refusal:
        routing.refusal = refusal
        return routing
    if not consumer.role_based and not consumer.pool and routing.plan.candidates is None:
        routing.refusal = Refusal("no_backend_available", NO_POOL)
        return routing
    targets = targets_of(consumer, routing)
    routing.balanced = targets.balanced
    if not targets.balanced and routing.plan.first is not None:
        routing.routes = (routing.plan.first,)
        return routing
    pool = routing.balancer.routes
    routing.routes = tuple(route for route in pool if route.key not in targets.excluded)
    routing.excluded = tuple(route for route in pool if route.key in targets.excluded)
    if not routing.routes:
        beyond = targets.beyond_the_pool()
        if beyond is None:
            routing.refusal = Refusal("no_backend_available", NO_ROUTE)
        else:
            routing.routes = (beyond,)
    return routing


def targets_of(consumer: ConsumerView, routing: Routing) -> Targets:
    """The proxy's own choice of targets; nothing of what is called here asks a service."""
    exchange = Exchange("POST", "/", b"", (), b"", "")
    exchange.consumer, exchange.intent, exchange.plan = consumer, routing.intent, routing.plan
    return Targets(exchange, routing.balancer, cast("ProxyServices", None))


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """One registry that was looked at. `sources` are `consumer`, `fallback`, `pool:<alias>`, `role:<name>`."""

    registry_id: str
    sources: tuple[str, ...]
    kept: bool
    reason: str
    allowed: tuple[str, ...] | None = None
    default: str = ""


def reasons(state: GatewayState, consumer: ConsumerView, roles: tuple[RoleView, ...], routing: Routing) -> list[Reason]:
    """Every registry that the consumer, its chain or its caller's roles name, and why it was kept or dropped."""
    kept = {candidate.registry.id: candidate for candidate in routing.candidates}
    computed = routing.plan.candidates is not None
    everything = {candidate.registry.id: candidate for candidate in unfiltered(consumer, roles)}
    found: list[Reason] = []
    for registry_id, source in named(consumer, roles):
        candidate = kept.get(registry_id) or everything.get(registry_id)
        chosen = registry_id in kept or (not computed and routing.refusal is None and registry_id in everything)
        allowance = candidate.allowance if candidate is not None else None
        found.append(
            Reason(
                registry_id=registry_id,
                sources=candidate.sources if candidate is not None else (source,),
                kept=chosen,
                reason=kept_reason(routing) if chosen else dropped_reason(state, registry_id, candidate, routing),
                allowed=allowance.allowed if allowance is not None else None,
                default=allowance.default if allowance is not None else "",
            )
        )
    return found


def unfiltered(consumer: ConsumerView, roles: tuple[RoleView, ...]) -> list[Candidate]:
    """The candidates before the reference filters them."""
    return role_candidates(roles) if consumer.role_based else inline_candidates(consumer)


def named(consumer: ConsumerView, roles: tuple[RoleView, ...]) -> list[tuple[str, str]]:
    """Ids of all registries that could matter, each once, with where the first mention stands."""
    found: dict[str, str] = {}
    for role in roles:
        for registry_id in role.entity.registry_ids:
            found.setdefault(registry_id, f"role:{role.name}")
    if not consumer.role_based:
        for registry_id in consumer.entity.registry_ids:
            found.setdefault(registry_id, "consumer")
        for registry_id in consumer.entity.fallback.chain if consumer.entity.fallback else ():
            found.setdefault(registry_id, "fallback")
    return list(found.items())


def kept_reason(routing: Routing) -> str:
    match routing.intent.kind:
        case "auto":
            return "has a default model"
        case "provider":
            return f"is of provider {routing.intent.provider} and may serve {routing.intent.model}"
        case "model":
            return f"may serve {routing.intent.model}"
        case "pool":
            return f"is a member of the pool {routing.intent.alias}"
        case _:
            return "the request names no model"


def dropped_reason(state: GatewayState, registry_id: str, candidate: Candidate | None, routing: Routing) -> str:
    registry, intent = state.registries.get(registry_id), routing.intent
    if registry is None:
        return "does not exist any more"
    if not registry.enabled:
        return "is disabled"
    if registry.type != "LLM":
        return "is not an LLM registry"
    if candidate is None:
        return "is not used by this consumer"
    match intent.kind:
        case "auto" if not candidate.allowance.default:
            return "has no default model, which `auto` needs"
        case "provider" if candidate.registry.provider.lower() != intent.provider:
            return f"is of provider {candidate.registry.provider}, not {intent.provider}"
        case "provider" | "model" if not candidate.allowance.permits(intent.model):
            return f"its allow-list does not hold {intent.model}"
        case "pool":
            return f"is not a member of the pool {intent.alias}"
        case _:
            return "the request was refused before it was considered"
