"""What the semantic cache asks of a store of answers: the contract alone, so that naming it loads no vector library.

A `rule` is the hex digest of everything that must be equal, whatever that is. Implementations: `answer_stores`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Vector = Sequence[float]


class StoreError(Exception):
    """The store could not be used; the text is a `degraded_reason`."""


class AnswerStore(Protocol):
    """Answers by exact key and by nearness of a normalised embedding, within a rule. Errors are `StoreError`."""

    async def get(self, rule: str, key: str) -> bytes | None: ...

    async def put(self, rule: str, key: str, answer: bytes, ttl_s: int) -> None: ...

    async def nearest(self, rule: str, vector: Vector) -> tuple[float, bytes] | None:
        """Cosine similarity and answer of the nearest entry of the rule."""
        ...

    async def add(self, rule: str, vector: Vector, answer: bytes, ttl_s: int) -> None: ...
