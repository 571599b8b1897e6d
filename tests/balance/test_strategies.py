"""Spec 02 §7.5: each algorithm's exact choice, one contract for all, and distribution."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.views import consumer, registry, view
from trustgate.balance.strategies import (
    Hint,
    LeastConnections,
    Random,
    RoundRobin,
    Semantic,
    SmartRouting,
    WeightedRoundRobin,
    build,
)
from trustgate.view.model import Route

ALGORITHMS = ["round-robin", "random", "weighted-round-robin", "least-connections", "semantic", "smart-routing"]


def routes(**weights: int) -> tuple[Route, ...]:
    registries = [registry(name) for name in weights]
    entity = consumer(registry_ids=tuple(weights), registry_weights=weights)
    compiled = view(*registries, entity).consumer(entity.slug)
    assert compiled is not None
    return compiled.routes


def names(balancer, count: int, excluded: frozenset[str] = frozenset(), hint: Hint | None = None) -> list[str]:
    keys = {route.key for route in balancer.routes if route.registry.id in excluded}
    drawn = [balancer.draw(keys, hint) for _ in range(count)]
    return [route.registry.id if route else "-" for route in drawn]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_draws_only_routes_that_are_not_excluded(algorithm: str) -> None:
    balancer = build(algorithm, routes(a=1, b=1, c=1), [(0.5, "a", "")])
    assert set(names(balancer, 50, frozenset({"a", "c"}))) == {"b"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_has_nothing_when_all_are_excluded(algorithm: str) -> None:
    balancer = build(algorithm, routes(a=1, b=1))
    assert names(balancer, 3, frozenset({"a", "b"})) == ["-", "-", "-"]
    assert build(algorithm, ()).draw(set()) is None


def test_round_robin_starts_at_the_first_route() -> None:
    assert names(RoundRobin(routes(a=1, b=1, c=1)), 5) == ["a", "b", "c", "a", "b"]


def test_an_excluded_route_advances_the_rotation() -> None:
    balancer = RoundRobin(routes(a=1, b=1, c=1))
    assert names(balancer, 1, frozenset({"a"})) == ["b"]
    assert names(balancer, 2) == ["c", "a"]


def test_weighted_round_robin_is_the_classic_interleaving() -> None:
    drawn = names(WeightedRoundRobin(routes(a=3, b=1, c=2)), 14)
    assert drawn == ["b", "c", *["a", "a", "c", "a", "b", "c"] * 2]


def test_random_is_uniform_over_the_routes() -> None:
    counts = Counter(names(Random(routes(a=1, b=1, c=1, d=1)), 4000))
    # chi-squared with 3 degrees of freedom: 30 is beyond one in a million
    assert sum((counts[name] - 1000) ** 2 / 1000 for name in "abcd") < 30


def test_least_connections_is_round_robin_when_idle() -> None:
    assert names(LeastConnections(routes(a=1, b=1, c=1)), 5) == ["a", "b", "c", "a", "b"]


def test_least_connections_prefers_the_route_with_fewest_requests_in_flight() -> None:
    balancer = LeastConnections(routes(a=1, b=1, c=1))
    balancer.in_flight = {("a", ""): 2, ("b", ""): 1, ("c", ""): 2}
    assert names(balancer, 3) == ["b", "b", "b"]


def test_semantic_follows_the_ranking_and_without_one_takes_the_first() -> None:
    balancer = Semantic(routes(a=1, b=1, c=1))
    assert names(balancer, 2) == ["a", "a"]
    assert names(balancer, 1, hint=Hint(ranking=(2, 0, 1))) == ["c"]
    assert names(balancer, 1, frozenset({"c"}), Hint(ranking=(2, 0, 1))) == ["a"]


@pytest.mark.parametrize(
    ("score", "chosen"),
    [(0.1, "a"), (0.3, "b"), (0.69, "b"), (0.7, "c"), (1.0, "c")],
)
def test_smart_routing_takes_the_greatest_tier_reached(score: float, chosen: str) -> None:
    tiers = [(0.3, "b", ""), (0.7, "c", ""), (0.0, "a", "")]
    assert names(SmartRouting(routes(a=1, b=1, c=1), tiers), 1, hint=Hint(score=score)) == [chosen]


def test_smart_routing_without_a_tier_or_with_its_route_excluded_is_round_robin() -> None:
    tiers = [(0.5, "b", "")]
    assert names(SmartRouting(routes(a=1, b=1, c=1), tiers), 3, hint=Hint(score=0.1)) == ["a", "b", "c"]
    assert names(SmartRouting(routes(a=1, b=1, c=1), tiers), 2, frozenset({"b"}), Hint(score=0.9)) == ["a", "c"]
