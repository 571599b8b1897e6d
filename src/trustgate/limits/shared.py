"""Small shared state with an expiry: sessions, playground traces, OAuth hand-overs.

What lives here: one interface (values: `get`, `put`, `put_if_absent`, `take`, `delete`; logs: `append`, `entries`) with
two backends, in process and Redis, that give the same answers. What must not: counters (they need atomic arithmetic).
"""

from __future__ import annotations

import heapq
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

Entry = tuple[str, bytes]
"""One entry of a log: its position, and what was appended."""

POSITION = re.compile(r"[0-9]{1,19}(-[0-9]{1,19})?")
"""What positions look like in every backend: those that clients hand back are checked before they are used."""


class SharedValues(Protocol):
    """Byte values by text key, each with a time to live in seconds (None: until deleted)."""

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes, ttl_s: float | None) -> None: ...

    async def put_if_absent(self, key: str, value: bytes, ttl_s: float | None) -> bool:
        """Put unless there is a value; whether this one was put."""
        ...

    async def take(self, key: str) -> bytes | None:
        """Get and delete in one step: of several callers exactly one receives the value."""
        ...

    async def delete(self, key: str) -> None: ...


class SharedState(SharedValues, Protocol):
    """Values, and logs of them; `delete` forgets either."""

    async def append(self, key: str, value: bytes, keep: int, ttl_s: float) -> str:
        """Add to the log `key`, of which the last `keep` entries stay, for `ttl_s` from now. The entry's position."""
        ...

    async def entries(self, key: str, after: str = "0") -> list[Entry]:
        """What is kept of the log behind a position, oldest first. `after` matches POSITION."""
        ...


class _Log:
    __slots__ = ("entries", "expires", "size")

    def __init__(self) -> None:
        self.entries: deque[tuple[int, bytes]] = deque()
        self.expires = 0.0
        self.size = 0


class LocalState:
    """State of one process, bounded: when full, the entry that expires first goes, and the log longest not appended to.

    Mutable: values with their expiries, and logs, those appended to last at the end.
    """

    def __init__(
        self, now: Callable[[], float], max_entries: int = 100_000, max_log_bytes: int = 64 * 1024 * 1024
    ) -> None:
        self._now = now
        self._max = max_entries
        self._max_log_bytes = max_log_bytes
        self._entries: dict[str, tuple[float, bytes]] = {}
        self._expiries: list[tuple[float, str]] = []
        self._logs: dict[str, _Log] = {}
        self._log_bytes = 0
        self._last = 0

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

    async def put_if_absent(self, key: str, value: bytes, ttl_s: float | None) -> bool:
        if await self.get(key) is not None:
            return False
        await self.put(key, value, ttl_s)
        return True

    async def take(self, key: str) -> bytes | None:
        value = await self.get(key)
        self._entries.pop(key, None)
        return value

    async def delete(self, key: str) -> None:
        self._entries.pop(key, None)
        self._drop_log(key)

    async def append(self, key: str, value: bytes, keep: int, ttl_s: float) -> str:
        now = self._now()
        log = self._logs.pop(key, None)
        if log is None or log.expires <= now:
            self._log_bytes -= log.size if log is not None else 0
            log = _Log()
        self._logs[key] = log
        self._last += 1
        log.entries.append((self._last, value))
        log.expires = now + ttl_s
        self._grow(log, len(value))
        while len(log.entries) > max(1, keep):
            self._grow(log, -len(log.entries.popleft()[1]))
        while len(self._logs) > 1:
            oldest = next(iter(self._logs))
            full = len(self._logs) > self._max or self._log_bytes > self._max_log_bytes
            if not full and self._logs[oldest].expires > now:
                break
            self._drop_log(oldest)
        return str(self._last)

    async def entries(self, key: str, after: str = "0") -> list[Entry]:
        log = self._logs.get(key)
        if log is None or log.expires <= self._now():
            return []
        first = int(after.partition("-")[0])
        return [(str(position), value) for position, value in log.entries if position > first]

    def _grow(self, log: _Log, size: int) -> None:
        log.size += size
        self._log_bytes += size

    def _drop_log(self, key: str) -> None:
        log = self._logs.pop(key, None)
        if log is not None:
            self._log_bytes -= log.size


APPEND = """
local id = redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[2], '*', 'v', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return id
"""
"""One round trip for an entry, the bound and the life of its log."""


REPLACE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
return 1
"""
"""Exchange a value that has not changed; its time to live stays."""

GLOB = re.compile(r"([\\*?\[\]])")
"""Characters that a pattern of SCAN reads as more than themselves."""


class RedisCommands(Protocol):
    """The few commands used of a coredis client (bytes in, bytes out)."""

    def get(self, key: str) -> Awaitable[Any]: ...
    def set(self, key: str, value: bytes, *, px: int | None = None, condition: Any = None) -> Awaitable[Any]: ...
    def getdel(self, key: str) -> Awaitable[Any]: ...
    def delete(self, keys: list[str]) -> Awaitable[Any]: ...
    def eval(self, script: str, *, keys: list[str], args: list[bytes | int]) -> Awaitable[Any]: ...
    def xrange(self, key: str, start: str, end: str) -> Awaitable[Any]: ...
    def scan_iter(self, match: str, count: int) -> AsyncIterator[Any]: ...


class RedisState:
    """State shared by all processes on one Redis. Errors of the client are the caller's to handle."""

    def __init__(self, redis: RedisCommands) -> None:
        self._redis = redis

    async def get(self, key: str) -> bytes | None:
        return as_bytes(await self._redis.get(key))

    async def put(self, key: str, value: bytes, ttl_s: float | None) -> None:
        await self._redis.set(key, value, px=milliseconds(ttl_s))

    async def put_if_absent(self, key: str, value: bytes, ttl_s: float | None) -> bool:
        from coredis import PureToken  # large, and here only with a client of it

        return bool(await self._redis.set(key, value, px=milliseconds(ttl_s), condition=PureToken.NX))

    async def take(self, key: str) -> bytes | None:
        return as_bytes(await self._redis.getdel(key))

    async def delete(self, key: str) -> None:
        await self._redis.delete([key])

    async def below(self, prefix: str) -> list[tuple[str, bytes]]:
        """Keys and values of all keys that begin with `prefix`, by key; the server is not held up."""
        pattern = GLOB.sub(r"\\\1", prefix) + "*"
        keys = sorted({text(key) async for key in self._redis.scan_iter(match=pattern, count=500)})
        found = [(key, await self.get(key)) for key in keys]
        return [(key, value) for key, value in found if value is not None]

    async def replace(self, key: str, old: bytes, new: bytes) -> bool:
        """Put `new` in the place of `old`, whose time to live stays; False where something else is by now."""
        return bool(await self._redis.eval(REPLACE, keys=[key], args=[old, new]))

    async def append(self, key: str, value: bytes, keep: int, ttl_s: float) -> str:
        args: list[bytes | int] = [value, max(1, keep), max(1, int(ttl_s * 1000))]
        position = await self._redis.eval(APPEND, keys=[key], args=args)
        return text(position)

    async def entries(self, key: str, after: str = "0") -> list[Entry]:
        # Inclusive, for servers older than 6.2; the entry itself is left out.
        found = await self._redis.xrange(key, after, "+")
        entries = [(text(entry.identifier), as_bytes(field(entry)) or b"") for entry in found]
        return [entry for entry in entries if entry[0] != after]


def milliseconds(ttl_s: float | None) -> int | None:
    return None if ttl_s is None else max(1, int(ttl_s * 1000))


def as_bytes(value: Any) -> bytes | None:
    if value is None:
        return None
    return value if isinstance(value, bytes) else str(value).encode()


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def field(entry: Any) -> Any:
    """The one field of a stream's entry, whatever its name is decoded to."""
    return next(iter(entry.field_values.values()), None)
