"""What the semantic cache asks of a store of answers: the contract alone, so that naming it loads no vector library.

A `rule` is the hex digest of everything that must be equal, whatever that is. Implementations: `memory_answers`,
`redis_answers` and `pgvector_answers`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

DIMENSIONS = 1536
"""The one width of vectors that the shared stores keep."""

TIMEOUT_S = 2.0
"""How long a request waits for a shared store before it does without."""

RETRY_VECTORS_S = 30.0
"""How long a server without vectors is believed to have none."""

Vector = Sequence[float]

log = structlog.get_logger("trustgate.policies.semantic_cache")


class StoreError(Exception):
    """The store could not be used; the text is a `degraded_reason`."""


class AnswerStore(Protocol):
    """Answers by exact key and by nearness of a normalised embedding, within a rule. Errors are `StoreError`."""

    async def get(self, rule: str, key: str) -> bytes | None: ...

    async def put(self, rule: str, key: str, answer: bytes, ttl_s: int) -> None: ...

    async def ready(self) -> None:
        """Return when vectors can be kept: asked before an embedding is paid for."""
        ...

    async def nearest(self, rule: str, vector: Vector) -> tuple[float, bytes] | None:
        """Cosine similarity and answer of the nearest entry of the rule."""
        ...

    async def add(self, rule: str, vector: Vector, answer: bytes, ttl_s: int) -> None: ...


class Outage:
    """A trouble that is not looked into again for `retry_s`. The log hears of it once, until it has passed."""

    def __init__(self, message: str, retry_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._message = message
        self._retry_s = retry_s
        self._monotonic = monotonic
        self._until = float("-inf")
        self._told = False

    @property
    def lasts(self) -> bool:
        return self._monotonic() < self._until

    def begin(self, error: object) -> None:
        self._until = self._monotonic() + self._retry_s
        if not self._told:
            self._told = True
            log.warning(self._message, error=" ".join(str(error).split()) or type(error).__name__)

    def end(self) -> None:
        self._until = float("-inf")
        self._told = False
