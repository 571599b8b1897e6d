"""The runnable parts of a view: what a change of the gateway begins anew, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from tests.views import consumer, policy, registry, view
from trustgate.domain.entities import LBConfig, LBMember
from trustgate.proxy.runtime import ConsumerRuntime, Runtimes

CONFIG = LBConfig(
    enabled=True,
    algorithm="least-connections",
    members=(LBMember(registry_id="r1"), LBMember(registry_id="r2")),
    pool_alias="fast",
)


def runtimes(now: Callable[[], float] = lambda: 0.0) -> Runtimes:
    return Runtimes(lambda consumer, identity: cast("Any", object()), lambda registry: cast("Any", object()), now)


def runtime_at(found: Runtimes, version: int, *more: Any) -> ConsumerRuntime:
    entities = (registry("r1"), registry("r2"), consumer(registry_ids=("r1", "r2"), lb_config=CONFIG), *more)
    current = view(*entities, version=version)
    served = current.consumer("AbCd1234")
    assert served is not None
    return found.of(current, served)


def drawn(runtime: ConsumerRuntime) -> str:
    route = runtime.balancer.draw(set())
    assert route is not None
    return route.registry.id


def test_a_rotation_goes_on_until_the_gateway_changes() -> None:
    found, entities = runtimes(), (registry("r1"), registry("r2"), consumer(registry_ids=("r1", "r2")))
    first = view(*entities, version=1)
    served = first.consumer("AbCd1234")
    assert served is not None
    assert [drawn(found.of(first, served)) for _ in range(4)] == ["r1", "r2", "r1", "r2"]
    second = view(*entities, policy("p1", "rate_limiter"), version=2)
    served = second.consumer("AbCd1234")
    assert served is not None
    assert [drawn(found.of(second, served)) for _ in range(2)] == ["r1", "r2"]


def test_requests_in_flight_stay_counted_over_a_change_and_for_the_alias() -> None:
    found = runtimes()
    before = runtime_at(found, 1)
    before.balancer.in_flight[("r1", "")] = 1
    after = runtime_at(found, 2)
    assert after.balancer is not before.balancer
    picked = [balancer.draw(set()) for balancer in (after.balancer, after.alias_balancer)]
    assert [route.registry.id for route in picked if route is not None] == ["r2", "r2"]


def test_a_rotation_begins_anew_after_five_minutes_and_what_is_in_flight_stays_counted() -> None:
    moment = [1000.0]
    found = runtimes(lambda: moment[0])
    entities = (registry("r1"), registry("r2"), consumer(registry_ids=("r1", "r2")))
    current = view(*entities, version=1)
    served = current.consumer("AbCd1234")
    assert served is not None
    assert drawn(found.of(current, served)) == "r1"
    in_flight = found.of(current, served).balancer.in_flight
    moment[0] += 300
    assert drawn(found.of(current, served)) == "r2"
    assert drawn(found.of(current, served)) == "r1"
    moment[0] += 1
    assert [drawn(found.of(current, served)) for _ in range(2)] == ["r1", "r2"]
    assert (
        found.of(current, served).balancer.in_flight is found.of(current, served).alias_balancer.in_flight is in_flight
    )
