"""One thing at a time, by name: whoever waits finds what the first has done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio


class Locks:
    """One lock per name, for as long as somebody waits for it."""

    def __init__(self) -> None:
        self._locks: dict[object, tuple[trio.Lock, list[None]]] = {}

    async def run(self, name: object, action: Callable[[], Awaitable[Any]], *, whole: bool = False) -> Any:
        """`whole`: begun, it is ended, even where the caller is cancelled. So a refresh token that was rotated is not
        lost with a client that leaves. The action must bound itself."""
        lock, users = self._locks.setdefault(name, (trio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                with trio.CancelScope(shield=whole):
                    return await action()
        finally:
            users.pop()
            if not users:
                self._locks.pop(name, None)
