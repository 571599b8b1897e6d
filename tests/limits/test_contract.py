"""The contract of the counters, run against every backend (spec 04 §14.1-14.3, 02 §6)."""

from __future__ import annotations

import math
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import coredis
import pytest
import trio

from trustgate.limits import (
    Charge,
    Charged,
    Limits,
    LimitsUnavailable,
    MemoryLimits,
    Op,
    Peek,
    Peeked,
    Reserve,
    Reserved,
    Settle,
    Slid,
    Slide,
    Window,
    plan_limit,
)
from trustgate.limits.redis import redis_limits
from trustgate.limits.remote import remote_shared, serve_shared
from trustgate.limits.shared import LocalState


@asynccontextmanager
async def memory_backend(url: str) -> AsyncIterator[Limits]:
    yield MemoryLimits()


@asynccontextmanager
async def redis_backend(url: str) -> AsyncIterator[Limits]:
    async with coredis.Redis.from_url(url) as client, redis_limits(client) as limits:
        yield limits


@asynccontextmanager
async def remote_backend(path: str) -> AsyncIterator[Limits]:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_shared, path, MemoryLimits(), LocalState(trio.current_time))
        async with remote_shared(path) as (limits, *_):
            yield limits
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["memory", "redis", "remote"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    if request.param == "memory":
        return lambda: memory_backend("")
    if request.param == "remote":
        return lambda: remote_backend(str(tmp_path / "shared.sock"))
    url = request.getfixturevalue("redis_url")
    return lambda: redis_backend(url)


def fresh(name: str) -> str:
    return f"{name}:{uuid.uuid4()}"


async def one(limits: Limits, op: Op) -> Any:
    (reply,) = await limits.run((op,))
    return reply


async def test_a_sliding_window_admits_up_to_its_limit(backend: Any) -> None:
    key = fresh("ratelimit")
    async with backend() as limits:
        got = [await one(limits, Slide(key, 3_600_000, 2)) for _ in range(4)]
    assert got == [Slid(0, True), Slid(1, True), Slid(2, False), Slid(2, False)]


async def test_always_records_above_the_limit_too(backend: Any) -> None:
    key = fresh("ratelimit")
    async with backend() as limits:
        got = [await one(limits, Slide(key, 3_600_000, 1, always=True)) for _ in range(3)]
    assert got == [Slid(0, True), Slid(1, True), Slid(2, True)]


async def test_the_operations_of_one_run_are_applied_in_order(backend: Any) -> None:
    counter, log = fresh("c"), fresh("s")
    window = Window(counter, 60_000)
    async with backend() as limits:
        replies = await limits.run((Peek((counter,)), Charge((window,), 5), Peek((counter,)), Slide(log, 1000, 1)))
    assert isinstance(replies[0], Peeked)
    assert replies[0].values == (0,)
    assert isinstance(replies[2], Peeked)
    assert replies[2].values == (5,)
    assert replies[3] == Slid(0, True)


async def test_a_fixed_window_lives_from_its_first_charge(backend: Any) -> None:
    key = fresh("c")
    async with backend() as limits:
        first = await one(limits, Charge((Window(key, 60_000),)))
        second = await one(limits, Charge((Window(key, 10_000_000),)))
    assert (first.values, second.values) == ((1,), (2,))
    assert 59_000 <= second.ttls_ms[0] <= 60_000


async def test_a_charge_stops_behind_the_window_it_exceeds(backend: Any) -> None:
    burst, quota = fresh("b"), fresh("q")
    windows = (Window(burst, 60_000, 1), Window(quota, 60_000, 10))
    async with backend() as limits:
        assert (await one(limits, Charge(windows))).values == (1, 1)
        assert (await one(limits, Charge(windows))).values == (2,)
        assert (await one(limits, Peek((quota,)))).values == (1,)


async def test_something_counts_once_under_its_own_key(backend: Any) -> None:
    key, call = fresh("c"), fresh("call")
    op = Charge((Window(key, 60_000),), once_key=call, once_ttl_ms=60_000)
    async with backend() as limits:
        assert (await one(limits, op)).values == (1,)
        assert await one(limits, op) == Charged((), ())
        assert (await one(limits, Peek((key,)))).values == (1,)


async def test_a_reservation_takes_room_until_it_is_settled(backend: Any) -> None:
    window = Window(fresh("trl"), 60_000, 10)
    async with backend() as limits:
        assert (await one(limits, Reserve((window,), "a", 6, 60_000))).refused_by == -1
        refused = await one(limits, Reserve((window,), "b", 6, 60_000))
        assert (refused.refused_by, refused.values, refused.held) == (0, (0,), (6,))
        assert (await one(limits, Settle((window,), "a", 4))).values == (4,)
        assert (await one(limits, Reserve((window,), "b", 6, 60_000))).refused_by == -1
        peeked = await one(limits, Peek((window.key,)))
    assert (peeked.values, peeked.held) == ((4,), (6,))


async def test_a_release_gives_everything_back(backend: Any) -> None:
    window = Window(fresh("trl"), 60_000, 10)
    async with backend() as limits:
        await one(limits, Reserve((window,), "a", 10, 60_000))
        await one(limits, Settle((window,), "a", 0))
        await one(limits, Settle((window,), "a", 0))
        peeked = await one(limits, Peek((window.key,)))
    assert (peeked.values, peeked.held) == ((0,), (0,))


async def test_a_reservation_is_on_all_windows_or_on_none(backend: Any) -> None:
    wide, narrow = Window(fresh("w"), 60_000, 100), Window(fresh("n"), 60_000, 5)
    async with backend() as limits:
        reserved = await one(limits, Reserve((wide, narrow), "a", 6, 60_000))
        assert isinstance(reserved, Reserved)
        assert reserved.refused_by == 1
        assert (await one(limits, Peek((wide.key, narrow.key)))).held == (0, 0)


async def test_what_a_crash_left_on_hold_lapses(backend: Any) -> None:
    window = Window(fresh("trl"), 60_000, 10)
    async with backend() as limits:
        await one(limits, Reserve((window,), "a", 10, 30))
        with trio.fail_after(5):
            while (await one(limits, Peek((window.key,)))).held != (0,):  # noqa: ASYNC110
                await trio.sleep(0.005)
        assert (await one(limits, Reserve((window,), "b", 10, 60_000))).refused_by == -1


async def test_what_was_used_is_charged_even_above_the_ceiling(backend: Any) -> None:
    rule, overall = Window(fresh("r"), 60_000, 5), Window(fresh("a"), 60_000, 100)
    async with backend() as limits:
        await one(limits, Reserve((rule, overall), "a", 5, 60_000))
        assert (await one(limits, Settle((rule, overall), "a", 50))).values == (50, 50)


async def test_many_callers_at_once_never_exceed_the_limit(backend: Any) -> None:
    key = fresh("ratelimit")
    admitted: list[bool] = []
    async with backend() as limits:

        async def call() -> None:
            slid = await one(limits, Slide(key, 3_600_000, 7))
            admitted.append(slid.recorded)

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(call)
    assert sum(admitted) == 7


PLAN = [
    # burst, quota, refusals of four requests
    (2, 0, [None, None, "burst", "burst"]),
    (9, 2, [None, None, "quota", "quota"]),
    (9, 0, [None, None, None, None]),
]


@pytest.mark.parametrize(("burst", "quota", "expected"), PLAN)
async def test_the_plan_limits_bursts_and_months(backend: Any, burst: int, quota: int, expected: list[Any]) -> None:
    gateway = fresh("gw")
    async with backend() as limits:
        refusals = [await plan_limit(limits, gateway, burst, quota, 1_767_225_000.0) for _ in expected]
    assert [refusal and refusal.reason for refusal in refusals] == expected
    for refusal in filter(None, refusals):
        left = 60 if refusal.reason == "burst" else math.ceil(1_767_225_600.0 - 1_767_225_000.0)
        assert refusal.retry_after_s == left
        assert ("Retry-After", str(left)) in refusal.headers
        assert b'"reason":"' + refusal.reason.encode() in refusal.body


async def test_the_documented_redis_keys_are_used(redis_url: str) -> None:
    gateway, policy = fresh("gw"), fresh("p")
    async with coredis.Redis.from_url(redis_url) as client, redis_limits(client) as limits:
        await plan_limit(limits, gateway, 5, 5, 1_767_225_000.0)
        await one(limits, Slide(f"ratelimit:{policy}", 5_000, 5))
        assert await client.get(f"gt:rl:burst:{gateway}") == b"1"
        assert await client.get(f"gt:rl:quota:{gateway}:2025-12") == b"1"
        assert 595 <= await client.ttl(f"gt:rl:quota:{gateway}:2025-12") <= 600
        ((member, score),) = await client.zrange(f"ratelimit:{policy}", 0, -1, withscores=True)
        assert int(member.split(b":")[0]) // 10**9 == int(score)
        assert await client.ttl(f"ratelimit:{policy}") == 5


async def test_members_of_another_process_are_counted(redis_url: str) -> None:
    key = fresh("ratelimit")
    async with coredis.Redis.from_url(redis_url) as client, redis_limits(client) as limits:
        seconds = (await client.time()).timestamp()
        await client.zadd(key, {f"{int(seconds)}000000000:other": int(seconds), "old": int(seconds) - 100})
        assert await one(limits, Slide(key, 60_000, 5)) == Slid(1, True)


async def test_an_operation_that_fails_fails_alone(redis_url: str) -> None:
    wrong, right = fresh("ratelimit"), fresh("c")
    async with coredis.Redis.from_url(redis_url) as client, redis_limits(client) as limits:
        await one(limits, Slide(wrong, 5_000, 5))
        results: dict[str, Any] = {}

        async def ask(name: str, op: Op) -> None:
            try:
                results[name] = await one(limits, op)
            except LimitsUnavailable as error:
                results[name] = error

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "wrong", Peek((wrong,)))
            nursery.start_soon(ask, "right", Charge((Window(right, 60_000),)))
    assert isinstance(results["wrong"], LimitsUnavailable)
    assert results["right"].values == (1,)


async def test_callers_at_the_same_moment_share_a_round_trip(redis_url: str) -> None:
    async with coredis.Redis.from_url(redis_url) as client, redis_limits(client) as limits:
        await one(limits, Peek((fresh("c"),)))
        before = limits.statistics()
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(one, limits, Charge((Window(fresh("c"), 60_000),)))
        after = limits.statistics()
    assert after["operations"] - before["operations"] == 30
    assert after["calls"] - before["calls"] <= 3


async def test_a_redis_that_is_gone_is_reported_and_not_fatal(redis_url: str) -> None:
    class Gone:
        async def script_load(self, script: str) -> str:
            raise OSError("connection refused")

    async with redis_limits(Gone()) as limits:
        for _ in range(2):
            with pytest.raises(LimitsUnavailable):
                await one(limits, Peek((fresh("c"),)))


async def test_a_redis_that_does_not_answer_is_given_up(autojump_clock: Any) -> None:
    class Silent:
        async def script_load(self, script: str) -> str:
            await trio.sleep_forever()
            raise AssertionError

    async with redis_limits(Silent()) as limits:
        with pytest.raises(LimitsUnavailable):
            await one(limits, Peek((fresh("c"),)))
        assert trio.current_time() < 5


async def test_a_forgotten_script_is_loaded_again(redis_url: str) -> None:
    key = fresh("c")
    async with coredis.Redis.from_url(redis_url) as client, redis_limits(client) as limits:
        await one(limits, Charge((Window(key, 60_000),)))
        await client.script_flush()
        assert (await one(limits, Charge((Window(key, 60_000),)))).values == (2,)
