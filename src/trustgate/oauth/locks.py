"""One thing at a time, by name: whoever waits finds what the first has done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio


class Locks:
    """One lock per name, for as long as somebody waits for it."""

    def __init__(self) -> None:
        self._locks: dict[object, tuple[trio.Lock, list[None]]] = {}

    async def run(self, name: object, action: Callable[[], Awaitable[Any]]) -> Any:
        lock, users = self._locks.setdefault(name, (trio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                return await action()
        finally:
            users.pop()
            if not users:
                self._locks.pop(name, None)
