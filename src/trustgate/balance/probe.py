"""Active health checks (spec 02 §7.6): registries with `health_checks.path` are asked every `interval` seconds.

What lives here: one supervised task per checked registry, started and ended as views change. What must not: how marks
are kept (`health`), what a registry's URL is (the caller knows its providers).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from trustgate.balance.health import HealthBook
from trustgate.view.gateway import GatewayView
from trustgate.view.model import RegistryView

MAX_PROBE_S = 10.0
MIN_INTERVAL_S = 1.0

log = structlog.get_logger(__name__)

Ask = Callable[[RegistryView, float], Awaitable[int]]
"""GET the registry's `health_checks.path` within the seconds given; the status. Raises on transport trouble."""


class Prober:
    """All active checks of a process. `update` and `forget` are called as views change; `run` is the one owner."""

    def __init__(self, book: HealthBook, ask: Ask) -> None:
        self._book = book
        self._ask = ask
        self._wanted: dict[str, dict[str, RegistryView]] = {}
        self._running: dict[str, tuple[RegistryView, trio.CancelScope]] = {}
        self._changed = trio.Event()

    def update(self, view: GatewayView) -> None:
        """A gateway's new view; cheap where nothing is checked."""
        checked = any(
            registry.enabled
            and registry.llm_target is not None
            and registry.llm_target.health_checks is not None
            and registry.llm_target.health_checks.path
            for registry in view.state.registries.values()
        )
        if not checked:
            self.forget(view.id)
            return
        self._wanted[view.id] = {
            id_: registry
            for id_, registry in view.registries.items()
            if registry.health_checks is not None and registry.health_checks.path
        }
        self._changed.set()

    def forget(self, gateway_id: str) -> None:
        if self._wanted.pop(gateway_id, None) is not None:
            self._changed.set()

    @property
    def checked(self) -> int:
        """How many registries are being checked."""
        return len(self._running)

    async def run(self) -> None:
        """Keep one task per wanted registry until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                wanted = {id_: registry for group in self._wanted.values() for id_, registry in group.items()}
                for id_, (registry, scope) in list(self._running.items()):
                    if wanted.get(id_) != registry:
                        scope.cancel()
                        del self._running[id_]
                for id_, registry in wanted.items():
                    if id_ not in self._running:
                        scope = trio.CancelScope()
                        self._running[id_] = (registry, scope)
                        nursery.start_soon(self._check, registry, scope)

    async def _check(self, registry: RegistryView, scope: trio.CancelScope) -> None:
        assert registry.health_checks is not None, "only checked registries are probed"
        interval = max(float(registry.health_checks.interval), MIN_INTERVAL_S)
        with scope:
            while True:
                await self._probe(registry, min(interval, MAX_PROBE_S))
                await trio.sleep(interval)

    async def _probe(self, registry: RegistryView, timeout_s: float) -> None:
        try:
            with trio.fail_after(timeout_s):
                status = await self._ask(registry, timeout_s)
        except Exception as error:  # whatever went wrong, the registry did not answer
            self._book.failed(registry, type(error).__name__)
            return
        if status >= 500:
            self._book.failed(registry, f"status {status}")
        else:
            self._book.succeeded(registry)
