"""Tokens: single flight, renewal before expiry, shared failures, bounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from trustgate.providers.errors import CredentialError
from trustgate.providers.tokens import MAX_ENTRIES, Token, TokenCache, fingerprint


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Source:
    """Counts fetches; waits for `gate` when there is one; fails while `failing`."""

    def __init__(self, lifetime_s: float = 3600.0) -> None:
        self.lifetime_s = lifetime_s
        self.fetches = 0
        self.failing = False
        self.gate: trio.Event | None = None
        self.started = trio.Event()

    async def __call__(self) -> Token[str]:
        self.fetches += 1
        mine = self.fetches
        self.started.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failing:
            raise CredentialError("no")
        return Token(f"t{mine}", self.lifetime_s)


async def test_a_token_is_fetched_once_and_kept_until_shortly_before_it_expires() -> None:
    clock, source = Clock(), Source()
    cache = TokenCache(clock)
    assert cache.peek("k") is None
    assert await cache.get("k", source) == "t1"
    clock.now += 3600 - 301
    assert cache.peek("k") == "t1"
    assert await cache.get("k", source) == "t1"
    clock.now += 2
    assert cache.peek("k") is None
    assert await cache.get("k", source) == "t2"


async def test_a_short_token_is_renewed_in_its_last_fifth() -> None:
    clock, source = Clock(), Source(lifetime_s=100)
    cache = TokenCache(clock)
    await cache.get("k", source)
    clock.now += 79
    assert await cache.get("k", source) == "t1"
    clock.now += 2
    assert await cache.get("k", source) == "t2"


async def test_many_callers_cause_one_fetch() -> None:
    cache, source = TokenCache(Clock()), Source()
    source.gate = trio.Event()
    got: list[str] = []

    async def caller() -> None:
        got.append(await cache.get("k", source))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(caller)
        await source.started.wait()
        await trio.testing.wait_all_tasks_blocked()
        source.gate.set()
    assert got == ["t1"] * 20
    assert source.fetches == 1


async def test_whoever_waited_for_a_failed_fetch_shares_its_failure() -> None:
    cache, source = TokenCache(Clock()), Source()
    source.gate, source.failing = trio.Event(), True
    failures: list[str] = []

    async def caller() -> None:
        with pytest.raises(CredentialError):
            await cache.get("k", source)
        failures.append("failed")

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(caller)
        await source.started.wait()
        await trio.testing.wait_all_tasks_blocked()
        source.gate.set()
    assert (len(failures), source.fetches) == (5, 1)


async def test_a_later_caller_tries_again_after_a_failure() -> None:
    clock, source = Clock(), Source()
    cache = TokenCache(clock)
    source.failing = True
    with pytest.raises(CredentialError):
        await cache.get("k", source)
    clock.now += 0.1
    source.failing = False
    assert await cache.get("k", source) == "t2"


async def test_an_ageing_token_serves_while_one_caller_renews_it() -> None:
    clock, source = Clock(), Source()
    cache = TokenCache(clock)
    await cache.get("k", source)
    clock.now += 3400
    source.gate, source.started = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.get, "k", source)
        await source.started.wait()
        assert await cache.get("k", source) == "t1"
        source.gate.set()
    assert cache.peek("k") == "t2"


async def test_a_failed_renewal_is_no_failure_while_the_token_lasts() -> None:
    clock, source = Clock(), Source()
    cache = TokenCache(clock)
    await cache.get("k", source)
    source.failing = True
    clock.now += 3599
    assert await cache.get("k", source) == "t1"
    clock.now += 2
    with pytest.raises(CredentialError):
        await cache.get("k", source)


async def test_a_cancelled_fetch_is_taken_over_by_the_next_in_line() -> None:
    cache, source = TokenCache(Clock()), Source()
    source.gate = trio.Event()
    got: list[str] = []

    async def second() -> None:
        got.append(await cache.get("k", source))

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as first:
                first.start_soon(cache.get, "k", source)
                await source.started.wait()
                nursery.start_soon(second)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        source.gate.set()
    assert got == ["t2"]


async def test_the_cache_is_bounded_and_drops_the_least_recently_used() -> None:
    cache, source = TokenCache(Clock()), Source()
    for number in range(MAX_ENTRIES):
        await cache.get(f"k{number}", source)
    await cache.get("k0", source)
    await cache.get("more", source)
    assert len(cache) == MAX_ENTRIES
    assert cache.peek("k0") is not None
    assert cache.peek("k1") is None


@pytest.mark.parametrize("change", [lambda c: {**c, "client_secret": "other"}, lambda c: {**c, "scopes": []}])
def test_a_rotated_secret_is_another_cache_entry(change: Callable[[dict[str, object]], dict[str, object]]) -> None:
    credential: dict[str, object] = {"client_id": "a", "client_secret": "s", "scopes": ["x"]}
    assert fingerprint("oauth2", credential) != fingerprint("oauth2", change(credential))
    assert fingerprint("oauth2", credential) == fingerprint("oauth2", dict(reversed(credential.items())))
    assert "s" not in fingerprint("x", credential).removeprefix("x:").translate(
        {ord(c): None for c in "0123456789abcdef"}
    )
