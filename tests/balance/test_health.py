"""Spec 02 §7.6: passive marks, half-open after the interval, the counter cleared on success."""

from __future__ import annotations

from tests.views import consumer, registry, view
from trustgate.balance.health import LocalHealth
from trustgate.balance.pick import pick
from trustgate.balance.strategies import RoundRobin
from trustgate.domain.entities import HealthChecks

PASSIVE = HealthChecks(passive=True, threshold=2, interval=10)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def compiled(**checks: HealthChecks | None):
    registries = [registry(name, health_checks=given) for name, given in checks.items()]
    entity = consumer(registry_ids=tuple(checks))
    found = view(*registries, entity).consumer(entity.slug)
    assert found is not None
    return found


async def test_a_registry_is_avoided_once_its_threshold_is_reached() -> None:
    consumer_view, book = compiled(a=PASSIVE, b=None), LocalHealth(Clock())
    a = consumer_view.pool[0]
    book.failed(a, "http_5xx")
    assert await book.unhealthy(consumer_view.pool) == frozenset()
    book.failed(a, "http_5xx")
    assert await book.unhealthy(consumer_view.pool) == {"a"}


async def test_failures_further_apart_than_the_interval_do_not_add_up() -> None:
    clock = Clock()
    consumer_view, book = compiled(a=PASSIVE), LocalHealth(clock)
    for _ in range(5):
        book.failed(consumer_view.pool[0], "timeout")
        clock.now += 11
    assert await book.unhealthy(consumer_view.pool) == frozenset()


async def test_a_success_clears_the_failure_counter() -> None:
    consumer_view, book = compiled(a=PASSIVE), LocalHealth(Clock())
    for _ in range(3):
        book.failed(consumer_view.pool[0], "timeout")
        book.succeeded(consumer_view.pool[0])
    assert await book.unhealthy(consumer_view.pool) == frozenset()


async def test_without_passive_checks_failures_are_not_counted() -> None:
    consumer_view, book = compiled(a=HealthChecks(passive=False, threshold=1, interval=1)), LocalHealth(Clock())
    book.failed(consumer_view.pool[0], "timeout")
    assert await book.unhealthy(consumer_view.pool) == frozenset()


async def test_after_the_interval_one_request_tries_while_others_still_avoid() -> None:
    clock = Clock()
    consumer_view, book = compiled(a=PASSIVE, b=None), LocalHealth(clock)
    a = consumer_view.pool[0]
    for _ in range(2):
        book.failed(a, "http_5xx")
    clock.now += 10
    assert await book.unhealthy(consumer_view.pool) == frozenset()
    assert await book.unhealthy(consumer_view.pool) == {"a"}
    book.failed(a, "http_5xx")
    clock.now += 5
    assert await book.unhealthy(consumer_view.pool) == {"a"}
    clock.now += 5
    assert await book.unhealthy(consumer_view.pool) == frozenset()
    book.succeeded(a)
    assert await book.unhealthy(consumer_view.pool) == frozenset()
    assert book.statuses() == []


async def test_picking_skips_unhealthy_routes_and_takes_the_last_drawn_when_none_is_healthy() -> None:
    consumer_view, book = compiled(a=PASSIVE, b=PASSIVE), LocalHealth(Clock())
    balancer = RoundRobin(consumer_view.routes)
    for _ in range(2):
        book.failed(consumer_view.pool[0], "http_5xx")
    picked = [await pick(balancer, book, set()) for _ in range(3)]
    assert [route.registry.id for route in picked if route] == ["b", "b", "b"]
    for _ in range(2):
        book.failed(consumer_view.pool[1], "http_5xx")
    assert await pick(balancer, book, set()) is not None
