"""A bus between the processes of an installation: short messages to whoever runs now, at most once.

What lives here: the interface, and the bus of a process that is alone; `redis_bus` and `remote` have the others. What
must not: state. A message can be lost when a connection breaks, so whoever waits for one also looks for itself from
time to time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import trio

Hear = Callable[[bytes], None]
"""Told of each message, the process's own included; must neither wait nor raise."""


class Bus(Protocol):
    async def publish(self, message: bytes) -> None:
        """Tell every process that listens. Errors of the backend are the caller's to handle."""
        ...

    async def listen(self, hear: Hear, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Call `hear` for everything published from `started` on, until cancelled; reconnects by itself."""
        ...


class LocalBus:
    """The bus of a process that is alone. Mutable: who listens."""

    def __init__(self) -> None:
        self._hearers: list[Hear] = []

    async def publish(self, message: bytes) -> None:
        for hear in tuple(self._hearers):
            hear(message)

    @contextmanager
    def listening(self, hear: Hear) -> Iterator[None]:
        self._hearers.append(hear)
        try:
            yield
        finally:
            self._hearers.remove(hear)

    async def listen(self, hear: Hear, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self.listening(hear):
            task_status.started()
            await trio.sleep_forever()
