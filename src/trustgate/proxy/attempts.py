"""Attempts, failover and fallback (spec 02 §8.2, §8.3): the loop around single tries.

What lives here: which target is next, how often it is tried, when to stop, and what is relayed when everything failed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable

import trio

from trustgate.balance.pick import draw, pick, unhealthy
from trustgate.balance.strategies import Balancer, Hint, Key
from trustgate.proxy.call import Result, try_upstream
from trustgate.proxy.candidates import Candidate, route_of
from trustgate.proxy.errors import Refusal
from trustgate.proxy.exchange import Attempt, Exchange
from trustgate.proxy.services import ProxyServices
from trustgate.view.model import Allowance, ConsumerView, RegistryView, Route


def chain_route(consumer: ConsumerView, registry: RegistryView) -> Route:
    """A fallback registry as a route: its model policy, no pinned model."""
    policy = consumer.model_policies.get(registry.id)
    allowance = Allowance(policy.allowed or None, policy.default) if policy else Allowance()
    return Route(registry=registry, allowance=allowance, source="fallback")


class Targets:
    """The routes that one request may be sent to, in the order of spec 02 §7.7 and §8.2.

    Mutable: `excluded` grows as routes are used up.
    """

    def __init__(self, exchange: Exchange, balancer: Balancer, services: ProxyServices) -> None:
        consumer = exchange.consumer
        assert consumer is not None, "consumers are found before routes are picked"
        # Not the exchange itself: a cycle would keep every request in memory until the collector runs.
        self._intent = exchange.intent
        self._plan = exchange.plan
        self._consumer = consumer
        self._balancer = balancer
        self._services = services
        self.hint: Hint | None = None
        self.in_flight: dict[Key, int] = {}
        self.unhealthy: frozenset[str] = frozenset()
        """What the balancer saw at the first pick, for `explain`."""
        self.excluded: set[Key] = set()
        self._used: set[str] = set()
        self._extra: list[Candidate] = []
        self.balanced = not consumer.role_based and not exchange.intent.pinned
        if exchange.intent.pinned and not consumer.role_based:
            self._allow_failover()
        if self.balanced and exchange.plan.ids is not None:
            self._exclude_others(exchange.plan.ids)

    def _allow_failover(self) -> None:
        """A request that names a model stays on its first candidate unless the consumer says otherwise."""
        config, fallback = self._consumer.entity.lb_config, self._consumer.entity.fallback
        self.balanced = config is not None and config.enabled and config.balance_pinned != "never"
        if fallback is not None and fallback.enabled and fallback.pinned != "never":
            self._extra = (self._plan.candidates or [])[1:]

    def _exclude_others(self, allowed: frozenset[str]) -> None:
        """Only candidates count; of a named model, only the routes that can carry it."""
        pinned = self._intent.pinned
        for route in self._balancer.routes:
            if route.registry.id not in allowed or (pinned and not self._serves(route)):
                self.excluded.add(route.key)

    def _serves(self, route: Route) -> bool:
        """A pool route that can carry the model that the request names."""
        return (not route.model or route.model == self._intent.model) and route.allowance.permits(self._intent.model)

    async def first(self) -> Route | None:
        """The first pick of a balanced request (spec 02 §7.7)."""
        self.unhealthy = await unhealthy(self._balancer, self._services.health)
        self.in_flight = self._balancer.in_flight.copy()
        route = draw(self._balancer, self.unhealthy, self.excluded, self.hint)
        return route if route is not None else self.beyond_the_pool()

    def beyond_the_pool(self) -> Route | None:
        """Where a balanced request goes when no route of the pool is left for it."""
        if self._intent.pinned:
            return self.pinned()
        return self._chain(None) if self._consumer.fallback_enabled else None

    def pinned(self) -> Route | None:
        """The first candidate: where requests go that are not balanced."""
        return self._plan.first

    async def next(self, kind: str) -> Route | None:
        """The next target after a failure of that kind, or None."""
        if self._intent.pinned or self._consumer.role_based:
            return self._next_pinned(kind)
        route = await pick(self._balancer, self._services.health, self.excluded, self.hint)
        return route if route is not None else self._chain(kind)

    def _next_pinned(self, kind: str) -> Route | None:
        while self._extra:
            candidate = self._extra.pop(0)
            triggered = not candidate.fallback or kind in self._consumer.triggers
            if triggered and candidate.registry.id not in self._used:
                return route_of(candidate)
        fallback = self._consumer.entity.fallback
        if fallback is None or not fallback.enabled or fallback.pinned != "any" or kind not in self._consumer.triggers:
            return None
        for registry in self._consumer.chain:
            route = chain_route(self._consumer, registry)
            if registry.id not in self._used and route.allowance.default:
                return route
        return None

    def _chain(self, kind: str | None) -> Route | None:
        """The first chain registry none of whose routes is excluded; `kind` None asks regardless of triggers."""
        consumer = self._consumer
        if not consumer.fallback_enabled or (kind is not None and kind not in consumer.triggers):
            return None
        excluded = {registry_id for registry_id, _ in self.excluded}
        allowed = self._plan.ids
        for registry in consumer.chain:
            if registry.id not in excluded and (allowed is None or registry.id in allowed):
                return chain_route(consumer, registry)
        return None

    def use_up(self, route: Route) -> None:
        self.excluded.add(route.key)
        self._used.add(route.registry.id)

    def can_go_on(self, kind: str) -> bool:
        """Whether another target would be tried after a failure of that kind."""
        if self._intent.pinned or self._consumer.role_based:
            return bool(self._extra)
        return any(route.key not in self.excluded for route in self._balancer.routes) or self._chain(kind) is not None


class Spent:
    """The budget of a request: only with fallback enabled, and only checked between tries (spec 02 §8.2)."""

    def __init__(self, consumer: ConsumerView) -> None:
        self._max_attempts = consumer.max_attempts
        self._max_latency_s = consumer.max_total_latency_ms / 1000
        self._started = time.perf_counter()
        self.attempts = 0

    @property
    def exhausted(self) -> bool:
        if self._max_attempts and self.attempts >= self._max_attempts:
            return True
        return bool(self._max_latency_s and self.attempts and self.remaining_s <= 0)

    @property
    def remaining_s(self) -> float:
        if not self._max_latency_s:
            return float("inf")
        return self._max_latency_s - (time.perf_counter() - self._started)


def retry_after_s(text: str) -> float | None:
    """The delay of a `Retry-After` in seconds (RFC 9110 §10.2.3, delta-seconds), or None."""
    return float(text) if text.isascii() and text.isdigit() else None


def back_off_s(result: Result, tried: int, services: ProxyServices) -> float | None:
    """How long to wait before the next try of the same registry; None: it asks for longer than we wait."""
    asked = retry_after_s(result.retry_after)
    if asked is not None:
        return asked if asked <= services.config.retry_after_max_s else None
    return random.uniform(0, services.config.retry_base_delay_s * 2 ** (tried - 1))


Accept = Callable[[Result], Awaitable[Result]]
"""Judges a target's success before it is the answer: the same result, or a rejection in its place."""


async def serve(exchange: Exchange, targets: Targets, accept: Accept, services: ProxyServices) -> Result:
    """The answer of the first target that gives one, else what spec 02 §8.3 relays. Raises Refusal."""
    consumer = exchange.consumer
    assert consumer is not None, "consumers are found before attempts"
    route, last = exchange.picked, None
    spent = Spent(consumer)
    while route is not None:
        result = await try_target(exchange, route, targets, spent, services)
        if result is None:
            break
        if result.verdict == "success":
            result = await judged(result, accept)
            if result.verdict == "success" or "plugin_rejection" not in consumer.triggers or result.stream is not None:
                return result
        elif result.verdict == "terminal" and not result.skip:
            return relay(result)
        if not result.skip or last is None:
            last = result
        targets.use_up(route)
        route = None if spent.exhausted else await targets.next(last.kind)
    return relay(last)


async def judged(result: Result, accept: Accept) -> Result:
    """What `accept` says of a success; a stream that it fails on, or that is cancelled meanwhile, is closed."""
    try:
        return await accept(result)
    except BaseException:
        if result.stream is not None:
            await result.stream.aclose()
        raise


def relay(result: Result | None) -> Result:
    """The answer to send: an upstream's or a rejection, else the refusal of the last failure. Raises Refusal."""
    if result is None:
        raise Refusal("no_backend_available", "no backend available")
    if result.refusal is not None:
        raise result.refusal
    return result


async def try_target(
    exchange: Exchange,
    route: Route,
    targets: Targets,
    spent: Spent,
    services: ProxyServices,
) -> Result | None:
    """One target with its tries; None when the budget ends before the first of them."""
    result: Result | None = None
    for tried in range(1, services.config.max_retries + 2):
        if spent.exhausted:
            break
        spent.attempts += 1
        attempt = new_attempt(exchange, route, spent.attempts, targets)
        result = await counted_try(exchange, route, attempt, targets, services)
        if result.verdict != "retryable" or tried > services.config.max_retries:
            break
        delay = back_off_s(result, tried, services)
        if delay is None:
            if targets.can_go_on(result.kind):
                break
            delay = back_off_s(Result(verdict="retryable"), tried, services) or 0.0
        if delay and not spent.exhausted:
            await trio.sleep(min(delay, max(spent.remaining_s, 0.0)))
    return result


async def counted_try(
    exchange: Exchange, route: Route, attempt: Attempt, targets: Targets, services: ProxyServices
) -> Result:
    """A try that counts as in flight for its route, and reports the route's health where that is kept."""
    runtime = exchange.runtime
    assert runtime is not None, "runtimes are built before attempts"
    in_flight = runtime.balancer.in_flight
    in_flight[route.key] = in_flight.get(route.key, 0) + 1
    streaming = False
    try:
        result = await try_upstream(exchange, route, attempt, services)
        if result.stream is not None:
            streaming = True
            began = time.perf_counter() - attempt.latency_ms / 1000
            result.stream.on_close(lambda: end_stream(attempt, began, in_flight, route.key))
    finally:
        if not streaming:
            release(in_flight, route.key)
    if targets.balanced:
        if result.verdict == "retryable":
            services.health.failed(route.registry, result.kind)
        elif result.answered:
            services.health.succeeded(route.registry)
    return result


def end_stream(attempt: Attempt, began: float, in_flight: dict[Key, int], key: Key) -> None:
    """A stream's attempt lasts until its end (spec 02 §9.5)."""
    attempt.latency_ms = round((time.perf_counter() - began) * 1000)
    release(in_flight, key)


def release(in_flight: dict[Key, int], key: Key) -> None:
    left = in_flight[key] - 1
    if left:
        in_flight[key] = left
    else:
        del in_flight[key]


def new_attempt(exchange: Exchange, route: Route, number: int, targets: Targets) -> Attempt:
    attempt = Attempt(
        registry_id=route.registry.id,
        provider=route.registry.provider,
        attempt=number,
        fallback=route.source == "fallback",
        pinned=exchange.intent.pinned,
        route=exchange.plan.sources.get(route.registry.id, "consumer"),
        route_model=route.model,
    )
    exchange.attempts.append(attempt)
    return attempt
