"""The vocabulary of the counters: what a request may ask of the shared state, as data.

What lives here: the operations, their replies, and the `Limits` protocol both backends implement (`memory`, `redis`)
and one contract suite tests. What must not: key names (they belong to the policies), I/O.

All operations that a request needs at one moment go in one `run`, which is one round trip. Operations of a `run` are
applied in order; each is atomic by itself. A backend that cannot be reached raises `LimitsUnavailable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class LimitsUnavailable(Exception):
    """The shared state could not be reached or refused an operation; nothing is known about what was counted."""


class Slide(msgspec.Struct, frozen=True, tag=True):
    """Sliding window: count the members not older than the window; record one more unless `limit` are there.

    Scores are whole seconds of the backend's own clock and both ends are inclusive, so a window of 5 s counts what
    fell into the current second and the five before it. `always` records above the limit too. Reply: `Slid`.
    """

    key: str
    window_ms: int
    limit: int
    always: bool = False


class Slid(msgspec.Struct, frozen=True):
    """`count` members were there before; `recorded` tells whether one was added."""

    count: int
    recorded: bool


class Window(msgspec.Struct, frozen=True):
    """A fixed window: a counter that expires `ttl_ms` after its first charge. `ceiling` 0: no bound."""

    key: str
    ttl_ms: int
    ceiling: int = 0


class Charge(msgspec.Struct, frozen=True, tag=True):
    """Add `amount` to each window; stop behind the first one that then exceeds its ceiling.

    With `once_key` nothing is charged when that key exists already; else it is set for `once_ttl_ms`.
    Reply: `Charged`.
    """

    windows: tuple[Window, ...]
    amount: int = 1
    once_key: str = ""
    once_ttl_ms: int = 0


class Charged(msgspec.Struct, frozen=True):
    """Values and remaining lives after the charge, as far as it came; both empty when `once_key` was there."""

    values: tuple[int, ...]
    ttls_ms: tuple[int, ...]


class Peek(msgspec.Struct, frozen=True, tag=True):
    """Read counters, budgets with what is on hold on them. Reply: `Peeked`."""

    keys: tuple[str, ...]


class Peeked(msgspec.Struct, frozen=True):
    """Counter values (absent: 0), amounts on hold, remaining lives in milliseconds (absent: 0)."""

    values: tuple[int, ...]
    held: tuple[int, ...]
    ttls_ms: tuple[int, ...]


class Reserve(msgspec.Struct, frozen=True, tag=True):
    """Put `amount` on hold on every window, or on none if one cannot take it within its ceiling.

    A hold is named by `token` and lapses by itself after `hold_ms`: that is what a crashed process leaves behind.
    Reply: `Reserved`.
    """

    windows: tuple[Window, ...]
    token: str
    amount: int
    hold_ms: int


class Reserved(msgspec.Struct, frozen=True):
    """`refused_by` is the index of the first window without room, or -1; values, holds and lives as in `Peeked`."""

    refused_by: int
    values: tuple[int, ...]
    held: tuple[int, ...]
    ttls_ms: tuple[int, ...]


class Settle(msgspec.Struct, frozen=True, tag=True):
    """Drop the hold `token` and charge what was really used; `amount` 0 releases. Safe to repeat only when 0.

    Reply: `Charged`.
    """

    windows: tuple[Window, ...]
    token: str
    amount: int


Op = Slide | Charge | Peek | Reserve | Settle
Reply = Slid | Charged | Peeked | Reserved


class Limits(Protocol):
    """Counters and reservations shared by everything that must agree on a limit.

    `waits` tells whether `run` may block; a caller that must not start a task for nothing looks at it.
    """

    @property
    def waits(self) -> bool: ...

    async def run(self, ops: Sequence[Op]) -> list[Reply]:
        """Apply `ops` in order. When cancelled, the operations may or may not have been applied."""
        ...
