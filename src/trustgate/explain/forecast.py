"""How a recorded request would go under one configuration: denied or not, which routes may serve it, what it costs.

What lives here: the prediction for one state, made with the proxy's own routing and the policies' own code. What must
not: comparing two of them (`whatif`), I/O.

A prediction does not depend on chance: where a balancer would choose among routes it names all of them with their
shares, so that two predictions differ only where configuration does.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import msgspec

from trustgate.balance.strategies import Hint
from trustgate.decisions.record import Decided
from trustgate.domain.entities import GatewayState, Policy
from trustgate.explain.explanation import hidden
from trustgate.explain.rehearsal import PolicyRehearsal, rehearsable
from trustgate.explain.routing import Routing, routing_of
from trustgate.providers.enforce import judge
from trustgate.providers.prices import PriceBook
from trustgate.view.gateway import GatewayView
from trustgate.view.model import ConsumerView, Route


class Denial(msgspec.Struct, frozen=True):
    status: int
    code: str
    message: str = ""


class Served(msgspec.Struct, frozen=True):
    """A route that may serve, the model that is sent there (empty: none is named), and its share of such requests."""

    registry_id: str
    provider: str
    model: str
    share: float

    @property
    def key(self) -> tuple[str, str]:
        return (self.registry_id, self.model)


class Prediction(msgspec.Struct, frozen=True, dict=True):
    """`denial` is None for a request that reaches an upstream, by one of `routes`."""

    denial: Denial | None = None
    routes: tuple[Served, ...] = ()

    @cached_property
    def keys(self) -> frozenset[tuple[str, str]]:
        return frozenset(route.key for route in self.routes)


class _Kept(msgspec.Struct, frozen=True):
    prediction: Prediction
    costs: tuple[tuple[float, float, float], ...]
    """Share, input and output price of each priced route."""


UNKNOWN_GATEWAY = Denial(404, "not_found", "the gateway is gone")
NO_CONSUMER = Denial(404, "not_found", "no active consumer has this slug")
NO_CREDENTIAL = Denial(401, "unauthenticated", "the credential is not accepted any more")


class Forecaster:
    """Predictions under one state. Mutable: remembers what it has worked out, and counters of rehearsed policies.

    Give it records in the order of their times, each once.
    """

    def __init__(
        self, state: GatewayState, prices: PriceBook, keys: Mapping[str, str], changed: Mapping[str, frozenset[str]]
    ) -> None:
        """`keys` are the digests of API keys that the recorded requests presented, by auth id; `changed` are the
        policies worth rehearsing, by consumer id."""
        self._state = state
        self._prices = prices
        self._keys = keys
        self._changed = changed
        self._view = GatewayView(state, hidden) if state.gateway is not None else None
        self._kept: dict[Any, _Kept] = {}
        self._rehearsals: dict[str, PolicyRehearsal | None] = {}

    def predict(self, record: Decided) -> Prediction:
        kept = self._recall(record)
        if kept.prediction.denial is None and self._changed:
            denial = self._rehearse(record, kept.prediction)
            if denial is not None:
                return Prediction(denial)
        return kept.prediction

    def cost_usd(self, record: Decided) -> float | None:
        """The expected cost of the recorded tokens; None without tokens or prices."""
        usage = record.usage
        if usage is None:
            return None
        costs = self._recall(record).costs
        if not costs:
            return None
        return sum(share * (usage.input * input_ + usage.output * output) for share, input_, output in costs)

    def _recall(self, record: Decided) -> _Kept:
        pick = record.pick
        hint = (pick.ranking, pick.score) if pick is not None and (pick.ranking or pick.score is not None) else None
        bad = record.code == "invalid_model" and not record.reference
        key = (record.consumer_slug, record.auth_id, record.roles, record.reference, record.capability, hint, bad)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = self._work_out(record)
        return kept

    def _work_out(self, record: Decided) -> _Kept:
        prediction = self._predict(record)
        costs: list[tuple[float, float, float]] = []
        for route in prediction.routes:
            price = self._prices.lookup(route.provider, (route.model, "", record.reference))
            if price is None:
                return _Kept(prediction, ())
            costs.append((route.share, price.input, price.output))
        return _Kept(prediction, tuple(costs))

    def _predict(self, record: Decided) -> Prediction:
        if self._view is None:
            return Prediction(UNKNOWN_GATEWAY)
        consumer = self._view.consumer(record.consumer_slug)
        if consumer is None or consumer.type != "LLM":
            return Prediction(NO_CONSUMER)
        if record.auth_id and not self._accepted(consumer, record.auth_id):
            return Prediction(NO_CREDENTIAL)
        if record.capability == "models":
            return Prediction()
        if record.code == "invalid_model" and not record.reference:
            return Prediction(Denial(record.status, record.code, record.message))
        roles = tuple(role for role in consumer.roles if role.id in record.roles)
        routing = routing_of(consumer, roles, record.reference)
        if routing.refusal is not None:
            refusal = routing.refusal
            return Prediction(Denial(refusal.status, refusal.code, refusal.message))
        return served_by(routing, consumer, record)

    def _accepted(self, consumer: ConsumerView, auth_id: str) -> bool:
        auth = self._state.auths.get(auth_id)
        if auth is None or not auth.enabled or auth_id not in consumer.entity.auth_ids:
            return False
        return auth.type != "api_key" or auth.key_hash == self._keys.get(auth_id, auth.key_hash)

    def _rehearse(self, record: Decided, prediction: Prediction) -> Denial | None:
        if record.capability == "models" or record.consumer_id not in self._changed or self._view is None:
            return None
        if record.consumer_id not in self._rehearsals:
            consumer = self._view.consumer(record.consumer_slug)
            assert consumer is not None, "a denial would have been predicted"
            wanted = [policy for policy in consumer.policies if policy.id in self._changed[consumer.id]]
            self._rehearsals[record.consumer_id] = rehearsal_of(wanted, consumer, self._view, self._prices)
        rehearsal = self._rehearsals[record.consumer_id]
        if rehearsal is None:
            return None
        served = prediction.routes[0] if prediction.routes else None
        outcome = rehearsal.run(record, served.registry_id if served else "", served.provider if served else "")
        return None if outcome is None else Denial(*outcome)


def rehearsal_of(
    policies: list[Policy], consumer: ConsumerView, view: GatewayView, prices: PriceBook
) -> PolicyRehearsal | None:
    found = [policy for policy in policies if rehearsable(policy)]
    return PolicyRehearsal(found, consumer, view.identity, prices) if found else None


def served_by(routing: Routing, consumer: ConsumerView, record: Decided) -> Prediction:
    """The routes that may serve; denied when none of them takes the model, or its absence."""
    routes: list[tuple[Route, str]] = []
    refusal = None
    body = msgspec.json.encode({"model": routing.intent.model}) if routing.intent.pinned else b"{}"
    for route in routing.routes:
        verdict = judge(body, routing.plan.allowance(route))
        if verdict.refusal is None:
            routes.append((route, verdict.model))
        else:
            refusal = refusal or verdict.refusal
    if not routes:
        assert refusal is not None, "a routing without refusal has routes"
        return Prediction(Denial(refusal.status, refusal.code, refusal.message))
    shares = shares_of([route for route, _ in routes], routing, consumer, record)
    return Prediction(
        None,
        tuple(
            Served(route.registry.id, route.registry.provider, model, share)
            for (route, model), share in zip(routes, shares, strict=True)
            if share
        ),
    )


def shares_of(routes: list[Route], routing: Routing, consumer: ConsumerView, record: Decided) -> list[float]:
    """How such requests spread over the routes when all are healthy."""
    if len(routes) == 1:
        return [1.0]
    pick = record.pick
    chosen: Route | None = None
    if consumer.algorithm == "smart-routing" and pick is not None and pick.score is not None:
        excluded = {route.key for route in routing.excluded}
        chosen = routing.balancer.draw(excluded, Hint(score=pick.score))
    elif consumer.algorithm == "semantic":
        # A ranking holds only for the routes it was made for: the recorded choice stands while it is there.
        key = (pick.registry_id, pick.model) if pick is not None else None
        chosen = next((route for route in routes if route.key == key), routes[0])
    if chosen is not None and chosen in routes:
        return [1.0 if route is chosen else 0.0 for route in routes]
    if consumer.algorithm != "weighted-round-robin":
        return [1.0 / len(routes)] * len(routes)
    total = sum(route.weight for route in routes)
    return [route.weight / total for route in routes]
