"""What a deleted gateway leaves outside the log: users' accounts and keys in Redis (spec 01 §4, spec 06 §15).

Taken away once the deletion is committed, best effort: a failure is a line in the log, never the client's trouble.
"""

from __future__ import annotations

from typing import Any

import structlog
import trio

from trustgate.actors.control import Executed
from trustgate.domain.commands import Command, DeleteGateway
from trustgate.oauth.vault import prefix
from trustgate.store import EventStore

BUDGET_S = 10.0
SCANNED = 1000
"""Keys that Redis looks at in one step."""

log = structlog.get_logger("trustgate.app")


class Leftovers:
    """Called after each commit; `redis` is None where state is in process, which forgets by itself."""

    def __init__(self, store: EventStore, redis: Any) -> None:
        self._store = store
        self._redis = redis

    async def __call__(self, command: Command, executed: Executed) -> None:
        """Not cut short by a client that leaves; bounded instead."""
        if not isinstance(command, DeleteGateway):
            return
        try:
            with trio.fail_after(BUDGET_S) as scope:
                scope.shield = True
                await self._accounts(command.id)
                if self._redis is not None:
                    await self._keys(command.id)
        except Exception as error:  # of whatever client: the gateway is gone all the same
            log.warning("a deleted gateway left something behind", gateway_id=command.id, error=type(error).__name__)

    async def _accounts(self, gateway_id: str) -> None:
        for key, _ in await self._store.values_below(prefix(gateway_id)):
            await self._store.delete_value(key)

    async def _keys(self, gateway_id: str) -> None:
        """Every key that contains the id."""
        cursor = 0
        while True:
            cursor, keys = await self._redis.scan(cursor, match=f"*{gateway_id}*", count=SCANNED)
            if keys:
                await self._redis.unlink(list(keys))
            if not cursor:
                return
