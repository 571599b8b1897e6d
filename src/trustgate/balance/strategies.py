"""The load-balancing algorithms of `lb_config.algorithm` (spec 02 §7.5): which route is next.

What lives here: small classes with one method, `draw`, that never suspend and do no I/O. What must not: health
(`pick`), and the outside services whose answers arrive as a `Hint` (`hints`). State is per consumer and per process.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

import msgspec

from trustgate.view.model import Route

Key = tuple[str, str]


class Hint(msgspec.Struct, frozen=True):
    """What an outside service said of this request: route indexes by preference (semantic), or a score (smart)."""

    ranking: tuple[int, ...] = ()
    score: float | None = None


class Balancer(Protocol):
    """Chooses among `routes`. `in_flight` is maintained by the caller for every attempt, streams until their end."""

    routes: tuple[Route, ...]
    in_flight: dict[Key, int]

    def draw(self, excluded: AbstractSet[Key], hint: Hint | None = None) -> Route | None:
        """The next route that is not excluded, or None when none is left."""
        ...


class RoundRobin:
    """A cyclic index; each inspected route advances it, excluded ones too."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self.in_flight: dict[Key, int] = {}
        self._next = 0

    def draw(self, excluded: AbstractSet[Key], hint: Hint | None = None) -> Route | None:
        count = len(self.routes)
        for _ in range(count):
            route = self.routes[self._next]
            self._next = (self._next + 1) % count
            if route.key not in excluded:
                return route
        return None


class Random:
    """Uniform over the routes that are not excluded."""

    def __init__(self, routes: Sequence[Route], choice: Callable[[Sequence[Route]], Route] = secrets.choice) -> None:
        self.routes = tuple(routes)
        self.in_flight: dict[Key, int] = {}
        self._choice = choice

    def draw(self, excluded: AbstractSet[Key], hint: Hint | None = None) -> Route | None:
        left = [route for route in self.routes if route.key not in excluded]
        return self._choice(left) if left else None


class WeightedRoundRobin:
    """Classic interleaved weighted round-robin."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self.in_flight: dict[Key, int] = {}
        self._index = 0
        self._current = 0
        self._max = max((route.weight for route in self.routes), default=0)

    def draw(self, excluded: AbstractSet[Key], hint: Hint | None = None) -> Route | None:
        count = len(self.routes)
        if not count:
            return None
        for _ in range(count * (self._max + 1) + 1):
            self._index = (self._index + 1) % count
            if self._index == 0:
                self._current -= 1
                if self._current <= 0:
                    self._current = self._max
            route = self.routes[self._index]
            if route.weight >= self._current and route.key not in excluded:
                return route
        return None


class LeastConnections:
    """The route with the fewest requests in flight; ties go by rotation, so that idle behaviour is round-robin."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self.in_flight: dict[Key, int] = {}
        self._order = list(range(len(self.routes)))

    def draw(self, excluded: AbstractSet[Key], hint: Hint | None = None) -> Route | None:
        best: int | None = None
        fewest = 0
        for index in self._order:
            key = self.routes[index].key
            if key in excluded:
                continue
            busy = self.in_flight.get(key, 0)
            if best is None or busy < fewest:
                best, fewest = index, busy
        if best is None:
            return None
        self._order.remove(best)
        self._order.append(best)
        return self.routes[best]


class Semantic:
    """The route whose registry's description is closest to the prompt; without an answer the first one."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self.in_flight: dict[Key, int] = {}

    def draw(self, excluded: AbstractSet[Key], hint: Hint | None = None) -> Route | None:
        for index in hint.ranking if hint else ():
            if self.routes[index].key not in excluded:
                return self.routes[index]
        return next((route for route in self.routes if route.key not in excluded), None)


class SmartRouting:
    """The tier with the greatest `min_score` that the prompt's complexity reaches; else round-robin.

    `tiers` are (min_score, registry id, model or empty).
    """

    def __init__(self, routes: Sequence[Route], tiers: Sequence[tuple[float, str, str]]) -> None:
        self.routes = tuple(routes)
        self.in_flight: dict[Key, int] = {}
        self._tiers = sorted(tiers, reverse=True)
        self._fallback = RoundRobin(routes)

    def draw(self, excluded: AbstractSet[Key], hint: Hint | None = None) -> Route | None:
        left = [route for route in self.routes if route.key not in excluded]
        if len(left) == 1:
            return left[0]
        if hint is not None and hint.score is not None:
            for min_score, registry_id, model in self._tiers:
                if hint.score >= min_score:
                    for route in left:
                        if route.registry.id == registry_id and (not model or route.model == model):
                            return route
                    break
        return self._fallback.draw(excluded)


def build(algorithm: str, routes: Sequence[Route], tiers: Sequence[tuple[float, str, str]] = ()) -> Balancer:
    """The balancer of that name; unknown names are round-robin, as an absent one is."""
    match algorithm:
        case "random":
            return Random(routes)
        case "weighted-round-robin":
            return WeightedRoundRobin(routes)
        case "least-connections":
            return LeastConnections(routes)
        case "semantic":
            return Semantic(routes)
        case "smart-routing":
            return SmartRouting(routes, tiers)
        case _:
            return RoundRobin(routes)
