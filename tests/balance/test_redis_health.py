"""The health book in Redis: documented keys, marks seen by other processes, half-open, trouble means healthy."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import coredis
import trio

from tests.views import consumer, registry, view
from trustgate.balance.redis_health import RedisHealth
from trustgate.domain.entities import HealthChecks

PASSIVE = HealthChecks(passive=True, threshold=2, interval=10)


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def pool_of(name: str) -> Any:
    entity = consumer(registry_ids=(name,))
    found = view(registry(name, health_checks=PASSIVE), entity).consumer(entity.slug)
    assert found is not None
    return found.pool


async def until(check: Callable[[], Any]) -> None:
    with trio.fail_after(5):
        while not await check():
            await trio.lowlevel.checkpoint()


async def test_marks_are_shared_under_the_documented_keys(redis_url: str) -> None:
    name, clock = str(uuid.uuid4()), Clock()
    pool = pool_of(name)
    async with coredis.Redis.from_url(redis_url) as redis, trio.open_nursery() as nursery:
        first, second = RedisHealth(redis, clock), RedisHealth(redis, clock)
        nursery.start_soon(first.run)
        nursery.start_soon(second.run)

        async def stored() -> bool:
            return await redis.get(f"lb:health:{name}") is not None

        assert await first.unhealthy(pool) == frozenset()
        await until(stored)
        mark = json.loads(await redis.get(f"lb:health:{name}"))
        seeded = {"Healthy": True, "LastCheck": mark["LastCheck"], "LastError": None, "Failures": 0, "ActiveConn": 0}
        assert mark == seeded | {"Error": ""}
        assert 3500 < await redis.ttl(f"lb:health:{name}") <= 3600
        first.failed(pool[0], "http_5xx")
        first.failed(pool[0], "http_5xx")

        async def marked() -> bool:
            return not (await second.status(name)).healthy

        await until(marked)
        assert await first.unhealthy(pool) == {name}, "a mark that is there is not seeded anew"
        mark = json.loads(await redis.get(f"lb:health:{name}"))
        assert (mark["Healthy"], mark["LastError"], mark["Failures"], mark["Error"]) == (False, None, 2, "http_5xx")
        assert await redis.get(f"lb:health:{name}:failures") in (b"2", "2")
        assert 0 < await redis.ttl(f"lb:health:{name}:failures") <= 10
        assert await second.unhealthy(pool) == {name}
        assert (await second.status(name)).last_error == "http_5xx"

        clock.now += 10
        assert await second.unhealthy(pool) == frozenset()  # this one tries
        assert await second.unhealthy(pool) == {name}  # the others still wait

        second.succeeded(pool[0])

        async def healthy() -> bool:
            return (await first.status(name)).healthy

        await until(healthy)
        assert await first.unhealthy(pool) == frozenset()
        assert await redis.get(f"lb:health:{name}:failures") is None
        nursery.cancel_scope.cancel()


async def test_unreadable_marks_and_a_dead_redis_mean_healthy(redis_url: str) -> None:
    name = str(uuid.uuid4())
    pool = pool_of(name)

    class Dead:
        async def mget(self, keys: list[str]) -> Any:
            raise OSError("gone")

    async with coredis.Redis.from_url(redis_url) as redis:
        await redis.set(f"lb:health:{name}", b"{broken", ex=60)
        assert await RedisHealth(redis, Clock()).unhealthy(pool) == frozenset()
    assert await RedisHealth(Dead(), Clock()).unhealthy(pool) == frozenset()  # type: ignore[arg-type]
