"""Short-lived credentials, fetched once for all who need them and renewed before they expire.

What lives here: one bounded cache for tokens of every kind (Entra, Google, OAuth 2.0, AWS roles). What must not: how a
token is fetched. There is no background task: the caller that meets an ageing token renews it while the others go on
with the old one.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import msgspec
import trio

T = TypeVar("T")

MAX_ENTRIES = 256
MARGIN_S = 300.0
"""A token is renewed this long before it expires, or when a fifth of its life is left if that is later."""


class Token(msgspec.Struct, Generic[T], frozen=True):
    """A credential and the seconds it lives from now on."""

    value: T
    lifetime_s: float


class _Entry(Generic[T]):
    __slots__ = ("expires_at", "failed_at", "failure", "lock", "renew_at", "value")

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.value: T | None = None
        self.renew_at = self.expires_at = self.failed_at = float("-inf")
        self.failure: Exception | None = None


def fingerprint(kind: str, credential: Any) -> str:
    """A cache key that changes with every part of the credential, its secrets included, and tells none of them."""
    return kind + ":" + hashlib.sha256(msgspec.json.encode(credential, order="deterministic")).hexdigest()


class TokenCache:
    """Credentials by fingerprint. The least recently used entry goes when there are more than `MAX_ENTRIES`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, _Entry[Any]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def peek(self, key: str) -> Any:
        """The value if it needs no renewal yet, else None. Does not touch the order of use."""
        entry = self._entries.get(key)
        return entry.value if entry is not None and self._clock() < entry.renew_at else None

    async def get(self, key: str, fetch: Callable[[], Awaitable[Token[T]]]) -> T:
        """The value, fetched when there is none or renewed when it is about to expire.

        One fetch at a time for a key. Whoever waited for a fetch that failed gets its error instead of trying again; a
        renewal that fails is no error while the old value lasts. Cancelling a caller cancels its fetch, and the next
        one in line fetches.
        """
        entry: _Entry[T] = self._entry(key)
        now = asked_at = self._clock()
        if entry.value is not None and now < entry.renew_at:
            return entry.value
        if entry.value is not None and now < entry.expires_at and entry.lock.locked():
            return entry.value
        async with entry.lock:
            now = self._clock()
            if entry.value is not None and now < entry.renew_at:
                return entry.value
            if entry.failure is not None and entry.failed_at >= asked_at:
                raise entry.failure
            try:
                token = await fetch()
            except Exception as failure:
                now = self._clock()
                if entry.value is not None and now < entry.expires_at:
                    return entry.value
                entry.failure, entry.failed_at = failure, now
                raise
            now = self._clock()
            entry.failure = None
            entry.value = token.value
            entry.expires_at = now + token.lifetime_s
            entry.renew_at = entry.expires_at - min(MARGIN_S, token.lifetime_s / 5)
            return token.value

    def _entry(self, key: str) -> _Entry[Any]:
        entry = self._entries.get(key)
        if entry is None:
            while len(self._entries) >= MAX_ENTRIES:
                self._entries.popitem(last=False)
            entry = self._entries[key] = _Entry()
        else:
            self._entries.move_to_end(key)
        return entry
