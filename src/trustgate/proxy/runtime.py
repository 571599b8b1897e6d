"""The runnable parts of a view: balancers, policy chains and provider clients, one set per consumer.

What lives here: building them once per view version, and reusing what an edit did not touch (design: views are data,
parts are built from them). Balancers are not reused: every change of a gateway begins their rotations anew (spec 02
§7.4), as do five minutes; what is in flight stays counted. What must not: per-request state.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from trustgate.balance import strategies
from trustgate.balance.strategies import Balancer
from trustgate.policies.cors import Cors
from trustgate.policies.cors_policy import cors_of
from trustgate.policies.engine import Chain
from trustgate.providers.prepare import ProviderClient
from trustgate.proxy.candidates import RoutingPlan, candidates_of
from trustgate.proxy.intent import Intent
from trustgate.view.gateway import GatewayView
from trustgate.view.model import ConsumerView, GatewayIdentity, RegistryView

MAX_PLANS = 512
ROTATION_S = 300.0
"""How long balancers keep their position (spec 02 §7.4)."""


class ConsumerRuntime(msgspec.Struct, kw_only=True, eq=False):
    """Runnable parts of one consumer at one version. `alias_balancer` rotates for `pool:<alias>` requests apart; both
    see the same requests in flight."""

    consumer: ConsumerView
    chain: Chain
    balancer: Balancer
    alias_balancer: Balancer
    rotates_until: float
    cors: Cors | None
    """What its `cors` policy says to browsers, in place of the environment."""
    plans: dict[str, RoutingPlan] = {}
    """By model reference, filled by traffic; bounded, since clients choose the references."""

    def plan(self, intent: Intent) -> RoutingPlan:
        """The candidates of an inline consumer's intent. Raises Refusal."""
        plan = self.plans.get(intent.reference)
        if plan is None:
            plan = RoutingPlan(candidates_of(self.consumer, intent, ()))
            if len(self.plans) >= MAX_PLANS:
                self.plans.clear()
            self.plans[intent.reference] = plan
        return plan


class _GatewayParts:
    """Mutable cache of one gateway: parts of the current view, and those of the one before for reuse."""

    __slots__ = ("clients", "current", "previous", "view")

    def __init__(self, view: GatewayView) -> None:
        self.view = view
        self.current: dict[str, ConsumerRuntime] = {}
        self.previous: dict[str, ConsumerRuntime] = {}
        self.clients: dict[str, tuple[RegistryView, ProviderClient]] = {}


class Runtimes:
    """All runnable parts of this process."""

    def __init__(
        self,
        compile_chain: Callable[[ConsumerView, GatewayIdentity], Chain],
        client_for: Callable[[RegistryView], ProviderClient],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._compile_chain = compile_chain
        self._client_for = client_for
        self._gateways: dict[str, _GatewayParts] = {}

    def of(self, view: GatewayView, consumer: ConsumerView) -> ConsumerRuntime:
        """The consumer's parts at that view. Parts of an older, still pinned view are not cached."""
        parts = self._gateways.get(view.id)
        if parts is None:
            parts = self._gateways[view.id] = _GatewayParts(view)
        elif parts.view is not view:
            if parts.view.version > view.version:
                return self._build(view, consumer, parts.current.get(consumer.id))
            parts.view = view
            parts.previous |= parts.current
            parts.current = {}
            known = {consumer.id for consumer in view.state.consumers.values()}
            parts.previous = {id_: runtime for id_, runtime in parts.previous.items() if id_ in known}
            parts.clients = {id_: kept for id_, kept in parts.clients.items() if id_ in view.state.registries}
        found = parts.current.get(consumer.id)
        if found is None:
            found = self._build(view, consumer, parts.previous.pop(consumer.id, None))
            parts.current[consumer.id] = found
        elif self._now() > found.rotates_until:
            found.balancer, found.alias_balancer = _balancers(found.consumer, found.balancer)
            found.rotates_until = self._now() + ROTATION_S
        return found

    def client(self, registry: RegistryView) -> ProviderClient:
        """The provider client of a registry; a new one when the registry changed."""
        parts = self._gateways.get(registry.gateway_id)
        if parts is None:
            return self._client_for(registry)
        known = parts.clients.get(registry.id)
        if known is not None:
            if known[0] is registry:
                return known[1]
            if known[0] == registry:
                parts.clients[registry.id] = (registry, known[1])
                return known[1]
        client = self._client_for(registry)
        parts.clients[registry.id] = (registry, client)
        return client

    def update(self, view: GatewayView) -> None:
        """Parts follow their view on its next request; nothing is built ahead of traffic."""

    def forget(self, gateway_id: str) -> None:
        self._gateways.pop(gateway_id, None)

    def _build(self, view: GatewayView, consumer: ConsumerView, old: ConsumerRuntime | None) -> ConsumerRuntime:
        same_policies = (
            old is not None
            and old.consumer.policies == consumer.policies
            and old.consumer.policy_scopes == consumer.policy_scopes
            and old.consumer.type == consumer.type
        )
        balancer, alias_balancer = _balancers(consumer, old.balancer if old is not None else None)
        return ConsumerRuntime(
            consumer=consumer,
            chain=old.chain if old is not None and same_policies else self._compile_chain(consumer, view.identity),
            balancer=balancer,
            alias_balancer=alias_balancer,
            rotates_until=self._now() + ROTATION_S,
            cors=old.cors if old is not None and same_policies else cors_of(consumer.policies),
        )


def _balancers(consumer: ConsumerView, before: Balancer | None) -> tuple[Balancer, Balancer]:
    """At their first positions; both see what is in flight, also since before."""
    tiers = tiers_of(consumer)
    balancer = strategies.build(consumer.algorithm, consumer.routes, tiers)
    alias_balancer = strategies.build(consumer.algorithm, consumer.routes, tiers)
    if before is not None:
        balancer.in_flight = before.in_flight
    alias_balancer.in_flight = balancer.in_flight
    return balancer, alias_balancer


def tiers_of(consumer: ConsumerView) -> list[tuple[float, str, str]]:
    config = consumer.entity.lb_config
    smart = config.smart_routing if config is not None else None
    return [(tier.min_score, tier.registry_id, tier.model) for tier in smart.tiers] if smart else []
