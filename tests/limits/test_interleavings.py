"""Budgets and rates of up to eight workers on each backend: any interleaving of calls, cancels, crashes and time.

Workers act in rounds, all of a round at once; between rounds time passes. In process, and behind the socket of workers,
the clock is the test's; in Redis the lives and scores of the keys are moved back instead.
"""

from __future__ import annotations

import itertools
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import coredis
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trustgate.limits import Limits, MemoryLimits, Peek, Peeked, Reserve, Reserved, Settle, Slid, Slide, Window
from trustgate.limits.redis import redis_limits
from trustgate.limits.remote import remote_shared, serve_shared
from trustgate.limits.shared import LocalState

WORKERS = 8
CEILING, WIDER, HOLD_S, WINDOW_S = 20, 25, 30, 60
RATE, RATE_S = 5, 10


class World:
    """The workers' counters, and what lets time pass for all of them."""

    def __init__(self, workers: list[Limits], step: Callable[[int], Awaitable[None]]) -> None:
        self.workers, self.step = workers, step


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def step(self, seconds: int) -> None:
        self.now += seconds


@asynccontextmanager
async def in_process(url: str, prefix: str) -> AsyncIterator[World]:
    clock = Clock()
    yield World([MemoryLimits(clock)] * WORKERS, clock.step)


@asynccontextmanager
async def behind_a_socket(url: str, prefix: str) -> AsyncIterator[World]:
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="tg-") as folder:
        path = f"{folder}/shared.sock"
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            await nursery.start(serve_shared, path, MemoryLimits(clock), LocalState(clock))
            workers = [(await stack.enter_async_context(remote_shared(path)))[0] for _ in range(WORKERS)]
            yield World(workers, clock.step)
            await stack.aclose()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def in_redis(url: str, prefix: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(coredis.Redis.from_url(url)) for _ in range(WORKERS)]
        workers = [await stack.enter_async_context(redis_limits(client)) for client in clients]

        async def step(seconds: int) -> None:
            await age(clients[0], prefix, seconds)

        yield World(workers, step)


async def age(client: Any, prefix: str, seconds: int) -> None:
    """Move everything below the prefix into the past by so many seconds."""
    for key in await client.keys(f"{prefix}*"):
        kind = (await client.type(key)).decode()
        left = await client.pttl(key)
        if 0 < left <= seconds * 1000:
            await client.delete([key])
            continue
        if left > 0:
            await client.pexpire(key, left - seconds * 1000)
        if kind == "hash":
            for token, value in (await client.hgetall(key)).items():
                amount, _, until = value.decode().partition(":")
                await client.hset(key, {token: f"{amount}:{int(until) - seconds * 1000}"})
        elif kind == "zset":
            for member in await client.zrange(key, 0, -1):
                await client.zincrby(key, member, -seconds)


BACKENDS = {"in process": in_process, "behind a socket": behind_a_socket, "in Redis": in_redis}

ACTIONS = st.one_of(
    st.tuples(st.just("reserve"), st.integers(0, WORKERS - 1), st.integers(1, 12)),
    st.tuples(st.sampled_from(["settle", "cancel", "crash"]), st.integers(0, WORKERS - 1), st.integers(0, 12)),
    st.tuples(st.just("ask"), st.integers(0, WORKERS - 1), st.just(0)),
)
ROUNDS = st.lists(st.tuples(st.lists(ACTIONS, min_size=1, max_size=10), st.sampled_from([0, 0, 0, 1, 5, 29, 31, 61])))


class Model:
    """What the workers believe: their open calls with reserved amount and age, and when a rate let them through."""

    def __init__(self) -> None:
        self.now = 0
        self.open: dict[int, tuple[str, int, int]] = {}
        self.admitted: list[int] = []
        self._names = itertools.count()

    def name(self) -> str:
        return f"call-{next(self._names)}"


async def act(world: World, model: Model, windows: tuple[Window, ...], rate: str, action: tuple[str, int, int]) -> None:
    kind, who, amount = action
    limits = world.workers[who]
    if kind == "ask":
        (reply,) = await limits.run((Slide(rate, RATE_S * 1000, RATE),))
        assert isinstance(reply, Slid)
        if reply.recorded:
            model.admitted.append(model.now)
    elif kind == "reserve":
        if who in model.open:
            return
        token = model.name()
        model.open[who] = (token, amount, model.now)
        (reply,) = await limits.run((Reserve(windows, token, amount, HOLD_S * 1000),))
        assert isinstance(reply, Reserved)
        if reply.refused_by >= 0:
            del model.open[who]
    elif who in model.open:
        token, reserved, since = model.open[who]
        if token.startswith("busy"):
            return
        # Calls end within the life of their hold; of a crashed one nobody ever hears again.
        if kind == "crash" or model.now - since >= HOLD_S - 1:
            del model.open[who]
            return
        model.open[who] = ("busy", reserved, since)
        await limits.run((Settle(windows, token, min(amount, reserved) if kind == "settle" else 0),))
        del model.open[who]


async def live(make: Any, url: str, rounds: list[tuple[list[tuple[str, int, int]], int]]) -> None:
    prefix = f"interleavings:{uuid.uuid4()}"
    windows = (
        Window(f"{prefix}:rule", WINDOW_S * 1000, CEILING),
        Window(f"{prefix}:all", WINDOW_S * 1000, WIDER),
    )
    keys = tuple(window.key for window in windows)
    model = Model()
    async with make(url, prefix) as world:

        async def look() -> Peeked:
            (reply,) = await world.workers[0].run((Peek(keys),))
            assert isinstance(reply, Peeked)
            return reply

        for actions, seconds in rounds:
            # A worker does one thing at a time; different workers do theirs at once.
            once = {who: (kind, who, amount) for kind, who, amount in actions}
            async with trio.open_nursery() as nursery:
                for action in once.values():
                    nursery.start_soon(act, world, model, windows, f"{prefix}:rate", action)
            seen = await look()
            assert all(value <= ceiling for value, ceiling in zip(seen.values, (CEILING, WIDER), strict=True))
            assert seen.values[0] + seen.held[0] <= CEILING
            assert seen.values[1] + seen.held[1] <= WIDER
            if seconds:
                await world.step(seconds)
                model.now += seconds
        for at in model.admitted:
            # Scores are whole seconds, so what is guaranteed is any span up to one second short of the window.
            assert sum(at <= other < at + RATE_S - 1 for other in model.admitted) <= RATE
        await world.step(HOLD_S + 1)
        assert (await look()).held == (0, 0), "nothing stays on hold"


@pytest.mark.parametrize("backend", BACKENDS)
@given(rounds=ROUNDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_interleaving_overspends_a_budget_or_exceeds_a_rate(
    backend: str, redis_url: str, rounds: list[tuple[list[tuple[str, int, int]], int]]
) -> None:
    trio.run(live, BACKENDS[backend], redis_url, rounds)


@pytest.mark.parametrize("backend", BACKENDS)
def test_eight_workers_at_once_share_what_there_is(backend: str, redis_url: str) -> None:
    """Each asks for the same thing in the same moment, and then crashes."""
    rounds: list[Any] = [([("reserve", who, 4) for who in range(WORKERS)], 0)]
    rounds += [([("ask", who, 0) for who in range(WORKERS)], 0)] * 3
    rounds += [([("crash", who, 0) for who in range(WORKERS)], 5), *rounds[:1], ([("settle", 0, 4)], 31), *rounds[:1]]
    trio.run(live, BACKENDS[backend], redis_url, rounds)
