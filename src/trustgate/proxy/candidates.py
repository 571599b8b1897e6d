"""Which registries may serve a request (spec 02 §7.3). Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trustgate.domain.entities import ModelPolicy
from trustgate.proxy.errors import Refusal
from trustgate.proxy.intent import Intent, quoted
from trustgate.view.model import Allowance, ConsumerView, RegistryView, RoleView, Route

DENIED = "routing: model denied: "
UNKNOWN_POOL = "routing: unknown pool alias: validation failed: "


class Candidate(msgspec.Struct, frozen=True):
    """A registry that may serve the request; `sources` are `consumer`, `fallback`, `pool:<alias>`, `role:<name>`."""

    registry: RegistryView
    allowance: Allowance
    sources: tuple[str, ...]

    @property
    def fallback(self) -> bool:
        return self.sources == ("fallback",)


def route_of(candidate: Candidate) -> Route:
    source = "fallback" if candidate.fallback else "consumer"
    return Route(registry=candidate.registry, allowance=candidate.allowance, source=source)


class RoutingPlan:
    """Everything about an intent's candidates that does not depend on the single request; kept per view version.

    Grows only by `allowance`, which remembers what it works out.
    """

    __slots__ = ("_allowances", "candidates", "first", "ids", "sources")

    def __init__(self, candidates: list[Candidate] | None) -> None:
        self.candidates = candidates
        self.ids = None if candidates is None else frozenset(candidate.registry.id for candidate in candidates)
        self.sources = {candidate.registry.id: ",".join(candidate.sources) for candidate in candidates or ()}
        self.first = route_of(candidates[0]) if candidates else None
        """The first candidate as a route: where requests go that are not balanced."""
        self._allowances: dict[tuple[str, str, str], Allowance] = {}

    def allowance(self, route: Route) -> Allowance:
        """The route's own allow-list and default where set, else the candidate's (spec 02 §8.4, precedence)."""
        key = (route.registry.id, route.model, route.source)
        known = self._allowances.get(key)
        if known is None:
            known = self._allowances[key] = self._merged(route)
        return known

    def _merged(self, route: Route) -> Allowance:
        own = route.allowance
        for candidate in self.candidates or ():
            if candidate.registry.id == route.registry.id:
                other = candidate.allowance
                allowed = own.allowed if own.allowed is not None else other.allowed
                return Allowance(allowed, own.default or other.default)
        return own


def denied(detail: str) -> Refusal:
    return Refusal("model_not_allowed", DENIED + detail)


def candidates_of(consumer: ConsumerView, intent: Intent, roles: tuple[RoleView, ...]) -> list[Candidate] | None:
    """Candidates in order, at least one; None when they are not computed (no intent on an inline consumer).

    Raises Refusal: `invalid_model`, `model_not_allowed`, `no_backend_available`.
    """
    if consumer.role_based:
        if intent.kind == "pool":
            raise Refusal(
                "invalid_model",
                f"{UNKNOWN_POOL}pool {quoted(intent.alias)} (pool aliases are not available for role-based consumers)",
            )
        found = filtered(role_candidates(roles), intent)
        if not found:
            raise Refusal("no_backend_available", "consumer has no registries in pool")
        return found
    if intent.kind == "none":
        return None
    if intent.kind == "pool":
        return pool_candidates(consumer, intent)
    return filtered(inline_candidates(consumer), intent)


def inline_candidates(consumer: ConsumerView) -> list[Candidate]:
    """Pool registries, then chain registries; one in both is one candidate."""
    merged: dict[str, Candidate] = {}
    for source, registries in (("consumer", consumer.pool), ("fallback", consumer.chain)):
        for registry in registries:
            merge(merged, registry, member_default(consumer, registry.id), source)
    return list(merged.values())


def member_default(consumer: ConsumerView, registry_id: str) -> Allowance:
    """The model policy; without a default in it, the first model pinned by an enabled pool member."""
    allowance = allowance_of(consumer.model_policies.get(registry_id))
    config = consumer.entity.lb_config
    if allowance.default or config is None or not config.enabled:
        return allowance
    for member in config.members:
        if member.registry_id == registry_id and member.model.strip():
            return Allowance(allowance.allowed, member.model.strip())
    return allowance


def allowance_of(policy: ModelPolicy | None) -> Allowance:
    return Allowance(policy.allowed or None, policy.default) if policy else Allowance()


def merge(merged: dict[str, Candidate], registry: RegistryView, allowance: Allowance, source: str) -> None:
    """Allow-lists unite, "any" wins, the first default wins, sources add up."""
    known = merged.get(registry.id)
    if known is None:
        merged[registry.id] = Candidate(registry, allowance, (source,))
        return
    old = known.allowance
    allowed = None
    if old.allowed is not None and allowance.allowed is not None:
        allowed = tuple(dict.fromkeys(old.allowed + allowance.allowed))
    sources = known.sources if source in known.sources else (*known.sources, source)
    merged[registry.id] = Candidate(registry, Allowance(allowed, old.default or allowance.default), sources)


def pool_candidates(consumer: ConsumerView, intent: Intent) -> list[Candidate]:
    if not consumer.pool_alias or consumer.pool_alias.lower() != intent.alias.lower():
        message = f"{UNKNOWN_POOL}pool {quoted(intent.alias)} is not configured for this consumer"
        raise Refusal("invalid_model", message)
    merged: dict[str, Candidate] = {}
    config = consumer.entity.lb_config
    members = {member.registry_id for member in config.members} if config else set[str]()
    for route in consumer.routes:
        if route.registry.id in members:
            merge(merged, route.registry, route.allowance, f"pool:{consumer.pool_alias}")
    if not merged:
        raise denied(f"pool {quoted(intent.alias)} has no resolvable members")
    return list(merged.values())


def role_candidates(roles: Iterable[RoleView]) -> list[Candidate]:
    merged: dict[str, Candidate] = {}
    for role in roles:
        for registry in role.registries:
            if registry.type == "LLM":
                merge(merged, registry, allowance_of(role.model_policies.get(registry.id)), f"role:{role.name}")
    return list(merged.values())


def filtered(candidates: list[Candidate], intent: Intent) -> list[Candidate]:
    """The `auto`, `@provider/model` and bare-model filters, with their refusals."""
    match intent.kind:
        case "auto":
            found = [candidate for candidate in candidates if candidate.allowance.default]
            if not found:
                raise denied("auto routing requires at least one registry with a default model")
        case "provider":
            of_provider = [c for c in candidates if c.registry.provider.lower() == intent.provider]
            found = [candidate for candidate in of_provider if candidate.allowance.permits(intent.model)]
            if not of_provider:
                raise denied(f"provider {quoted(intent.provider)} is not available for this consumer")
            if not found:
                raise denied(f"model {quoted(intent.model)} is not allowed for provider {quoted(intent.provider)}")
        case "model":
            found = [candidate for candidate in candidates if candidate.allowance.permits(intent.model)]
            if not found:
                raise denied(f"model {quoted(intent.model)} is not allowed for this consumer")
        case _:
            return candidates
    return found
