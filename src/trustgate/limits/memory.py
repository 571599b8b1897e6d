"""The in-process counters: exact for one process, no I/O, every operation atomic because nothing awaits.

Everything runs on a monotonic clock, so a step of the wall clock neither frees nor freezes a window.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from trustgate.limits.ops import (
    Charge,
    Charged,
    Op,
    Peek,
    Peeked,
    Reply,
    Reserve,
    Reserved,
    Settle,
    Slid,
    Slide,
    Window,
)

SWEEP_FLOOR = 4096


class _Log:
    """A sliding window as (second, how many) pairs, oldest first, with their sum."""

    __slots__ = ("expires", "seconds", "total")

    def __init__(self) -> None:
        self.seconds: deque[list[int]] = deque()
        self.total = 0
        self.expires = 0.0


class _Counter:
    """A fixed window or a budget: `value` until `expires` (0: no life yet), plus holds by token."""

    __slots__ = ("expires", "holds", "value")

    def __init__(self) -> None:
        self.value = 0
        self.expires = 0.0
        self.holds: dict[str, tuple[int, float]] = {}


class MemoryLimits:
    """`Limits` in this process. At most `max_keys` keys are kept; beyond that the oldest are forgotten."""

    waits = False

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, max_keys: int = 1_000_000) -> None:
        self._monotonic = monotonic
        self._max_keys = max_keys
        self._entries: dict[str, _Log | _Counter] = {}
        self._sweep_at = min(SWEEP_FLOOR, max_keys)
        self.evicted = 0

    def statistics(self) -> dict[str, int]:
        """Number of keys kept, and how many live ones were forgotten because of the bound."""
        return {"keys": len(self._entries), "evicted": self.evicted}

    async def run(self, ops: Sequence[Op]) -> list[Reply]:
        """Apply `ops`. Not a checkpoint: it never blocks and cannot be cancelled."""
        now = self._monotonic()
        return [self._apply(op, now) for op in ops]

    def _apply(self, op: Op, now: float) -> Reply:
        kind = type(op)
        if kind is Slide:
            return self._slide(op, now)  # type: ignore[arg-type]
        if kind is Charge:
            return self._charge(op, now)  # type: ignore[arg-type]
        if kind is Peek:
            return self._peek(op, now)  # type: ignore[arg-type]
        if kind is Reserve:
            return self._reserve(op, now)  # type: ignore[arg-type]
        return self._settle(op, now)  # type: ignore[arg-type]

    def _slide(self, op: Slide, now: float) -> Slid:
        log = self._entry(op.key, _Log, now)
        seconds = log.seconds
        score, low = int(now), math.floor(now - op.window_ms / 1000)
        while seconds and seconds[0][0] < low:
            log.total -= seconds.popleft()[1]
        count = log.total
        if count >= op.limit and not op.always:
            return Slid(count, False)
        # A member exactly as old as the window is counted, and dropped by the next record.
        while seconds and seconds[0][0] <= low:
            log.total -= seconds.popleft()[1]
        if seconds and seconds[-1][0] == score:
            seconds[-1][1] += 1
        else:
            seconds.append([score, 1])
        log.total += 1
        log.expires = now + op.window_ms // 1000
        return Slid(count, True)

    def _charge(self, op: Charge, now: float) -> Charged:
        if op.once_key:
            mark = self._live(op.once_key, now)
            if mark is not None:
                return Charged((), ())
            mark = self._entry(op.once_key, _Counter, now)
            mark.value, mark.expires = 1, now + op.once_ttl_ms / 1000
        return self._add(op.windows, op.amount, now)

    def _add(self, windows: tuple[Window, ...], amount: int, now: float) -> Charged:
        values: list[int] = []
        ttls: list[int] = []
        for window in windows:
            counter = self._entry(window.key, _Counter, now)
            counter.value += amount
            if not counter.expires:
                counter.expires = now + window.ttl_ms / 1000
            values.append(counter.value)
            ttls.append(round((counter.expires - now) * 1000))
            if window.ceiling and counter.value > window.ceiling:
                break
        return Charged(tuple(values), tuple(ttls))

    def _peek(self, op: Peek, now: float) -> Peeked:
        values, held, ttls = self._look(op.keys, now)
        return Peeked(tuple(values), tuple(held), tuple(ttls))

    def _look(self, keys: Iterable[str], now: float) -> tuple[list[int], list[int], list[int]]:
        values: list[int] = []
        held: list[int] = []
        ttls: list[int] = []
        for key in keys:
            counter = self._entries.get(key)
            live = type(counter) is _Counter and counter.expires > now
            values.append(counter.value if live else 0)  # type: ignore[union-attr]
            held.append(_held(counter, now))
            ttls.append(round((counter.expires - now) * 1000) if live else 0)  # type: ignore[union-attr]
        return values, held, ttls

    def _reserve(self, op: Reserve, now: float) -> Reserved:
        values, held, ttls = self._look([window.key for window in op.windows], now)
        refused_by = -1
        for index, window in enumerate(op.windows):
            if window.ceiling and values[index] + held[index] + op.amount > window.ceiling:
                refused_by = index
                break
        if refused_by < 0:
            for window in op.windows:
                self._entry(window.key, _Counter, now).holds[op.token] = (op.amount, now + op.hold_ms / 1000)
        return Reserved(refused_by, tuple(values), tuple(held), tuple(ttls))

    def _settle(self, op: Settle, now: float) -> Charged:
        for window in op.windows:
            counter = self._live(window.key, now)
            if isinstance(counter, _Counter):
                counter.holds.pop(op.token, None)
        if not op.amount:
            return Charged((), ())
        # What was used is charged in full: a ceiling must not keep the later windows from hearing of it.
        return self._add(tuple(Window(window.key, window.ttl_ms) for window in op.windows), op.amount, now)

    def _live(self, key: str, now: float) -> _Log | _Counter | None:
        entry = self._entries.get(key)
        if entry is not None and not _alive(entry, now):
            del self._entries[key]
            return None
        return entry

    def _entry(self, key: str, kind: type[Any], now: float) -> Any:
        entry = self._entries.get(key)
        if entry is not None and type(entry) is kind:
            if type(entry) is _Counter and entry.expires and entry.expires <= now:
                entry.value, entry.expires = 0, 0.0
            elif type(entry) is _Log and entry.expires <= now:
                entry.seconds.clear()
                entry.total = 0
            return entry
        entry = self._entries[key] = kind()
        if len(self._entries) > self._sweep_at:
            self._sweep(now, key)
        return entry

    def _sweep(self, now: float, keep: str) -> None:
        """Forget expired keys. The next sweep is due when the table has doubled, so the cost a key is constant."""
        entries = self._entries
        for key in [key for key, entry in entries.items() if key != keep and not _alive(entry, now)]:
            del entries[key]
        if len(entries) > self._max_keys:
            # A tenth at once, so that a full table is not swept for every new key.
            for key in list(islice(entries, len(entries) - self._max_keys * 9 // 10)):
                del entries[key]
                self.evicted += 1
        self._sweep_at = min(max(SWEEP_FLOOR, 2 * len(entries)), self._max_keys)


def _alive(entry: _Log | _Counter, now: float) -> bool:
    if entry.expires > now:
        return True
    return isinstance(entry, _Counter) and any(until > now for _, until in entry.holds.values())


def _held(entry: _Log | _Counter | None, now: float) -> int:
    if not isinstance(entry, _Counter) or not entry.holds:
        return 0
    for token in [token for token, (_, until) in entry.holds.items() if until <= now]:
        del entry.holds[token]
    return sum(amount for amount, _ in entry.holds.values())
