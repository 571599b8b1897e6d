"""Restarting what crashed, with growing pauses.

What lives here: `Backoff` and `supervise`. What must not: deciding what is worth restarting.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable

import structlog
import trio

log = structlog.get_logger("trustgate.actors")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 30.0
STEADY_AFTER_S = 60.0
"""A run this long counts as healthy: the pauses start over."""

restarts: Counter[str] = Counter()
"""How often actors of each name crashed in this process and were started again; read by the metrics."""


class Backoff:
    """Pauses that double from `first_s` to `longest_s`, each cut by up to half so that peers do not march in step."""

    def __init__(
        self,
        first_s: float = FIRST_PAUSE_S,
        longest_s: float = LONGEST_PAUSE_S,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s
        self._random = rand

    def reset(self) -> None:
        self._next_s = self._first_s

    def next(self) -> float:
        pause_s = self._next_s * (1 - self._random() / 2)
        self._next_s = min(self._next_s * 2, self._longest_s)
        return pause_s


async def supervise(name: str, run: Callable[[], Awaitable[None]], backoff: Backoff | None = None) -> None:
    """Run `run` until it returns; when it raises an Exception, log it, pause, and run it again.

    Cancellation passes through at once, also during a pause.
    """
    backoff = backoff or Backoff()
    while True:
        started = trio.current_time()
        try:
            await run()
            return
        except Exception:
            if trio.current_time() - started >= STEADY_AFTER_S:
                backoff.reset()
            pause_s = backoff.next()
            restarts[name] += 1
            log.exception("actor crashed and will be restarted", actor=name, restart_in_s=round(pause_s, 3))
        await trio.sleep(pause_s)
