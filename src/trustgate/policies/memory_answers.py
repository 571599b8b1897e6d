"""Answers of the semantic cache in this process: vectors by usearch, bounded in bytes (spec 04 §14.5)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from usearch.index import Index

from trustgate.policies.answer_store import StoreError, Vector

LARGE_SHELF = 128
"""From this many vectors of one rule on, an index is faster than comparing all of them."""


class _Entry:
    """`vector` is None for an exact entry, whose `key` is then its own."""

    __slots__ = ("answer", "expires", "id", "key", "rule", "size", "vector")

    def __init__(self, id_: int, rule: str, key: str, vector: Any, answer: bytes, expires: float) -> None:
        self.id = id_
        self.rule = rule
        self.key = key
        self.vector = vector
        self.answer = answer
        self.expires = expires
        self.size = len(answer) + (vector.nbytes if vector is not None else 0) + 256


class _Shelf:
    """The vectors of one rule and one width; `index` exists while there are many."""

    __slots__ = ("entries", "index")

    def __init__(self) -> None:
        self.entries: dict[int, _Entry] = {}
        self.index: Index | None = None

    def add(self, entry: _Entry) -> None:
        self.entries[entry.id] = entry
        if self.index is not None:
            self.index.add(entry.id, entry.vector)
        elif len(self.entries) >= LARGE_SHELF:
            self.index = Index(ndim=len(entry.vector), metric="cos", dtype="f32")
            for known in self.entries.values():
                self.index.add(known.id, known.vector)

    def remove(self, entry: _Entry) -> None:
        del self.entries[entry.id]
        if self.index is not None:
            self.index.remove(entry.id)

    def nearest(self, vector: Any) -> tuple[float, _Entry] | None:
        if not self.entries:
            return None
        if self.index is not None:
            matches = self.index.search(vector, 1)
            if len(matches) == 0:
                return None
            return 1.0 - float(matches.distances[0]), self.entries[int(matches.keys[0])]
        ids = list(self.entries)
        scores = np.stack([self.entries[id_].vector for id_ in ids]) @ vector
        best = int(scores.argmax())
        return float(scores[best]), self.entries[ids[best]]


class MemoryAnswers:
    """`AnswerStore` of this process, bounded in bytes; the least recently used entries go first.

    Mutable state: `_entries` (in order of use), and `_exact` and `_shelves`, which index it; all change together.
    """

    def __init__(self, max_bytes: int = 64 << 20, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._monotonic = monotonic
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._exact: dict[tuple[str, str], _Entry] = {}
        self._shelves: dict[tuple[str, int], _Shelf] = {}
        self._next = 0
        self._bytes = 0
        self.evicted = 0

    def statistics(self) -> dict[str, int]:
        return {"entries": len(self._entries), "bytes": self._bytes, "evicted": self.evicted}

    async def get(self, rule: str, key: str) -> bytes | None:
        entry = self._exact.get((rule, key))
        return self._used(entry) if entry is not None else None

    async def put(self, rule: str, key: str, answer: bytes, ttl_s: int) -> None:
        old = self._exact.get((rule, key))
        if old is not None:
            self._remove(old)
        self._keep(rule, key, None, answer, ttl_s)

    async def ready(self) -> None:
        pass

    async def nearest(self, rule: str, vector: Vector) -> tuple[float, bytes] | None:
        wanted = np.asarray(vector, dtype=np.float32)
        place = rule, len(wanted)
        shelf = self._shelves.get(place)
        while shelf is not None and (found := shelf.nearest(wanted)) is not None:
            similarity, entry = found
            answer = self._used(entry)
            if answer is not None:
                return similarity, answer
            shelf = self._shelves.get(place)
        return None

    async def add(self, rule: str, vector: Vector, answer: bytes, ttl_s: int) -> None:
        self._keep(rule, "", np.asarray(vector, dtype=np.float32), answer, ttl_s)

    def _used(self, entry: _Entry) -> bytes | None:
        if entry.expires <= self._monotonic():
            self._remove(entry)
            return None
        self._entries.move_to_end(entry.id)
        return entry.answer

    def _keep(self, rule: str, key: str, vector: Any, answer: bytes, ttl_s: int) -> None:
        entry = _Entry(self._next, rule, key, vector, answer, self._monotonic() + ttl_s)
        if entry.size > self._max_bytes:
            raise StoreError("store_failed")
        self._next += 1
        while self._entries and self._bytes + entry.size > self._max_bytes:
            self._remove(next(iter(self._entries.values())))
            self.evicted += 1
        self._entries[entry.id] = entry
        self._bytes += entry.size
        if vector is None:
            self._exact[rule, key] = entry
        else:
            self._shelves.setdefault((rule, len(vector)), _Shelf()).add(entry)

    def _remove(self, entry: _Entry) -> None:
        del self._entries[entry.id]
        self._bytes -= entry.size
        if entry.vector is None:
            del self._exact[entry.rule, entry.key]
            return
        place = entry.rule, len(entry.vector)
        shelf = self._shelves[place]
        shelf.remove(entry)
        if not shelf.entries:
            del self._shelves[place]
