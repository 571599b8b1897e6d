"""What `/readyz` knows: each dependency as `ok` or `unavailable` (spec 06 §5.1), looked at in the background.

Probes read the last look, so that they answer at once and never pile up on a dependency that hangs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import structlog
import trio

from trustgate.app.storage import Shared
from trustgate.store import EventStore, StoreError

INTERVAL_S = 2.0
BUDGET_S = 2.0

log = structlog.get_logger("trustgate.app")


class Fed(Protocol):
    """A plane that has its configuration from a control plane."""

    def ready(self) -> bool: ...

    def shown(self) -> Mapping[str, Any]: ...


class Readiness:
    """Single owner: the task `run`. `draining` is set when shutdown begins."""

    def __init__(self, store: EventStore | None, shared: Shared, *, embedded: bool, fed: Fed | None = None) -> None:
        self._store = store
        self._shared = shared
        self._embedded = embedded
        self._fed = fed
        self._looks: dict[str, str] = {}
        self.draining = False

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look at every dependency now and then, until cancelled."""
        await self._look()
        task_status.started()
        while True:
            await trio.sleep(INTERVAL_S)
            await self._look()

    async def _look(self) -> None:
        looks: dict[str, str] = {}
        if self._store is not None and not self._embedded:
            looks["database"] = await self._ask(self._store.ping)
        if self._shared.redis is not None:
            looks["redis"] = await self._ask(self._shared.redis.ping)
        for name, state in looks.items():
            if state != self._looks.get(name, "ok"):
                log.warning("dependency changed", dependency=name, state=state)
        self._looks = looks

    async def _ask(self, ping: Any) -> str:
        with trio.move_on_after(BUDGET_S):
            try:
                await ping()
                return "ok"
            except (StoreError, OSError, trio.BrokenResourceError) as error:
                log.debug("dependency does not answer", error=str(error))
            except Exception as error:  # the client libraries' own errors mean the same
                log.debug("dependency does not answer", error=str(error))
        return "unavailable"

    def now(self) -> Mapping[str, str]:
        if self._fed is None:
            return dict(self._looks)
        return {"snapshot": "ok" if self._fed.ready() else "unavailable"} | self._looks

    def configuration(self) -> Mapping[str, Any] | None:
        """Which snapshot is in use; None where configuration comes from a database."""
        return None if self._fed is None else self._fed.shown()
