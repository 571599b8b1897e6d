"""Active health checks: per registry, on its interval, marks honoured, tasks follow the views."""

from __future__ import annotations

import trio

from tests.views import registry, view
from trustgate.balance.health import LocalHealth
from trustgate.balance.probe import Prober
from trustgate.domain.entities import HealthChecks
from trustgate.view.model import RegistryView

CHECKED = HealthChecks(path="/health", threshold=2, interval=5)


class Upstream:
    def __init__(self) -> None:
        self.status = 200
        self.asked: list[tuple[float, str]] = []

    async def __call__(self, found: RegistryView, timeout_s: float) -> int:
        self.asked.append((trio.current_time(), found.id))
        if self.status == 0:
            raise OSError("refused")
        return self.status


async def test_a_registry_is_asked_on_its_interval_and_marked(autojump_clock: trio.testing.MockClock) -> None:
    upstream, book = Upstream(), LocalHealth(trio.current_time)
    prober = Prober(book, upstream)
    current = view(registry("a", health_checks=CHECKED), registry("b"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run)
        prober.update(current)
        await trio.sleep(11)
        assert [id_ for _, id_ in upstream.asked] == ["a", "a", "a"]
        assert book.statuses() == []
        upstream.status = 503
        await trio.sleep(10)
        assert await book.unhealthy(current.registries.values()) == {"a"}
        upstream.status = 0
        await trio.sleep(10)
        assert await book.unhealthy(current.registries.values()) == {"a"}
        upstream.status = 401
        await trio.sleep(5)
        assert await book.unhealthy(current.registries.values()) == frozenset()
        nursery.cancel_scope.cancel()


async def test_checks_end_with_the_registry_and_the_gateway(autojump_clock: trio.testing.MockClock) -> None:
    upstream = Upstream()
    prober = Prober(LocalHealth(trio.current_time), upstream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run)
        prober.update(view(registry("a", health_checks=CHECKED), registry("b", health_checks=CHECKED)))
        await trio.sleep(1)
        assert prober.checked == 2
        prober.update(view(registry("a", health_checks=CHECKED), registry("b", health_checks=CHECKED, enabled=False)))
        await trio.sleep(1)
        assert prober.checked == 1
        prober.forget("gw-1")
        await trio.sleep(1)
        count = len(upstream.asked)
        await trio.sleep(60)
        assert (prober.checked, len(upstream.asked)) == (0, count)
        nursery.cancel_scope.cancel()
