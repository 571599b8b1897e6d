"""Choosing the next route of a request: the algorithm's draws, filtered by health (spec 02 §7.6, §7.7)."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from trustgate.balance.health import HealthBook
from trustgate.balance.strategies import Balancer, Hint, Key
from trustgate.view.model import Route


async def unhealthy(balancer: Balancer, health: HealthBook) -> frozenset[str]:
    """Ids of the balancer's registries that must be avoided now; may suspend once."""
    return await health.unhealthy(route.registry for route in balancer.routes)


def draw(
    balancer: Balancer, down: AbstractSet[str], excluded: AbstractSet[Key], hint: Hint | None = None
) -> Route | None:
    """Up to one draw per route; the first whose registry is not `down` wins, and when all are, the last drawn."""
    if not down:
        return balancer.draw(excluded, hint)
    last: Route | None = None
    tried: set[Key] = set(excluded)
    for _ in range(len(balancer.routes)):
        route = balancer.draw(tried, hint)
        if route is None:
            break
        if route.registry.id not in down:
            return route
        last = route
        tried.add(route.key)
    return last


async def pick(
    balancer: Balancer, health: HealthBook, excluded: AbstractSet[Key], hint: Hint | None = None
) -> Route | None:
    """The next route by the algorithm and the health of its registries, or None when none is left."""
    return draw(balancer, await unhealthy(balancer, health), excluded, hint)
