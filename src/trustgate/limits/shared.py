"""Small shared state with an expiry: sessions, playground traces, OAuth hand-overs.

What lives here: one interface (`get`, `put`, `take`, `delete`) with two backends, in process and Redis, that give the
same answers. What must not: counters (they need atomic arithmetic).
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from typing import Any, Protocol


class SharedState(Protocol):
    """Byte values by text key, each with a time to live in seconds (None: until deleted)."""

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes, ttl_s: float | None) -> None: ...

    async def take(self, key: str) -> bytes | None:
        """Get and delete in one step: of several callers exactly one receives the value."""
        ...

    async def delete(self, key: str) -> None: ...


class LocalState:
    """State of one process, bounded: when full, the entry that expires first goes."""

    def __init__(self, now: Callable[[], float], max_entries: int = 100_000) -> None:
        self._now = now
        self._max = max_entries
        self._entries: dict[str, tuple[float, bytes]] = {}
        self._expiries: list[tuple[float, str]] = []

    def _sweep(self) -> None:
        now = self._now()
        while self._expiries and (self._expiries[0][0] <= now or len(self._entries) > self._max):
            expires, key = heapq.heappop(self._expiries)
            entry = self._entries.get(key)
            if entry is not None and entry[0] == expires:
                del self._entries[key]

    async def get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None or entry[0] <= self._now():
            return None
        return entry[1]

    async def put(self, key: str, value: bytes, ttl_s: float | None) -> None:
        expires = float("inf") if ttl_s is None else self._now() + ttl_s
        self._entries[key] = (expires, value)
        if ttl_s is not None:
            heapq.heappush(self._expiries, (expires, key))
        self._sweep()

    async def take(self, key: str) -> bytes | None:
        value = await self.get(key)
        self._entries.pop(key, None)
        return value

    async def delete(self, key: str) -> None:
        self._entries.pop(key, None)


class RedisCommands(Protocol):
    """The few commands used of a coredis client (bytes in, bytes out)."""

    def get(self, key: str) -> Awaitable[Any]: ...
    def set(self, key: str, value: bytes, *, px: int | None = None) -> Awaitable[Any]: ...
    def getdel(self, key: str) -> Awaitable[Any]: ...
    def delete(self, keys: list[str]) -> Awaitable[Any]: ...


class RedisState:
    """State shared by all processes on one Redis. Errors of the client are the caller's to handle."""

    def __init__(self, redis: RedisCommands) -> None:
        self._redis = redis

    async def get(self, key: str) -> bytes | None:
        return as_bytes(await self._redis.get(key))

    async def put(self, key: str, value: bytes, ttl_s: float | None) -> None:
        await self._redis.set(key, value, px=None if ttl_s is None else max(1, int(ttl_s * 1000)))

    async def take(self, key: str) -> bytes | None:
        return as_bytes(await self._redis.getdel(key))

    async def delete(self, key: str) -> None:
        await self._redis.delete([key])


def as_bytes(value: Any) -> bytes | None:
    if value is None:
        return None
    return value if isinstance(value, bytes) else str(value).encode()
