"""Choosing the next route of a request: the algorithm's draws, filtered by health (spec 02 §7.6, §7.7)."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from trustgate.balance.health import HealthBook
from trustgate.balance.strategies import Balancer, Hint, Key
from trustgate.view.model import Route


async def pick(
    balancer: Balancer, health: HealthBook, excluded: AbstractSet[Key], hint: Hint | None = None
) -> Route | None:
    """Up to one draw per route; the first healthy one wins, and when none is healthy the last drawn."""
    down = await health.unhealthy(route.registry for route in balancer.routes)
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
