"""Health of registries (spec 02 §7.6): passive marks that are honoured, half-open after the interval.

What lives here: the rules, and the in-process book. `redis_health` keeps the same book in Redis under the documented
keys. What must not: choosing routes (`pick`), probing (`probe`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from trustgate.domain.entities import HealthChecks
from trustgate.view.model import RegistryView


class HealthStatus(msgspec.Struct, frozen=True, kw_only=True):
    """State of one registry for operators. Times are Unix seconds."""

    registry_id: str
    healthy: bool
    failures: int
    last_check: float
    last_error: str = ""


class HealthBook(Protocol):
    """Where marks are kept. `unhealthy` may suspend once (one round trip); reports never suspend."""

    async def unhealthy(self, registries: Iterable[RegistryView]) -> frozenset[str]:
        """Ids among `registries` that must be avoided now.

        After the interval one caller is let through (half-open) while the others still avoid the registry.
        """
        ...

    def succeeded(self, registry: RegistryView) -> None: ...

    def failed(self, registry: RegistryView, error: str) -> None: ...

    def statuses(self) -> list[HealthStatus]: ...

    async def status(self, registry_id: str) -> HealthStatus:
        """The mark of one registry; a healthy one when nothing is known."""
        ...


def failure_window_s(checks: HealthChecks) -> int:
    """How long a failure counts: the interval, and longer where probes come only once in an interval."""
    return checks.interval * 3 if checks.path else checks.interval


class _Mark:
    """Mutable record of one registry; touched only by the event loop."""

    __slots__ = ("error", "failures", "failures_until", "healthy", "last_check", "trial_until")

    def __init__(self) -> None:
        self.healthy = True
        self.failures = 0
        self.failures_until = 0.0
        self.last_check = 0.0
        self.trial_until = 0.0
        self.error = ""


class LocalHealth:
    """The book of one process. Marks of registries that are gone are dropped when `MAX_MARKS` is reached."""

    MAX_MARKS = 100_000

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._marks: dict[str, _Mark] = {}
        self._down: set[str] = set()

    async def unhealthy(self, registries: Iterable[RegistryView]) -> frozenset[str]:
        if not self._down:
            return frozenset()
        now = self._now()
        return frozenset(registry.id for registry in registries if self._avoid(registry, now))

    def _avoid(self, registry: RegistryView, now: float) -> bool:
        if registry.id not in self._down:
            return False
        mark = self._marks[registry.id]
        interval = registry.health_checks.interval if registry.health_checks else 0
        if now < mark.last_check + interval or now < mark.trial_until:
            return True
        mark.trial_until = now + max(interval, 1)  # this caller tries; the others wait for its report
        return False

    def _mark(self, registry_id: str) -> _Mark:
        mark = self._marks.get(registry_id)
        if mark is None:
            if len(self._marks) >= self.MAX_MARKS:
                oldest = next(iter(self._marks))
                self._down.discard(oldest)
                del self._marks[oldest]
            mark = self._marks[registry_id] = _Mark()
        return mark

    def succeeded(self, registry: RegistryView) -> None:
        mark = self._marks.get(registry.id)
        if mark is None:
            return  # never failed: nothing to clear
        del self._marks[registry.id]
        self._down.discard(registry.id)

    def failed(self, registry: RegistryView, error: str) -> None:
        checks = registry.health_checks
        if checks is None or not (checks.passive or checks.path):
            return
        now = self._now()
        mark = self._mark(registry.id)
        mark.failures = mark.failures + 1 if now < mark.failures_until or mark.failures == 0 else 1
        mark.failures_until = now + failure_window_s(checks)
        mark.last_check, mark.error = now, error
        if mark.failures >= checks.threshold or not mark.healthy:
            mark.healthy = False
            mark.trial_until = 0.0
            self._down.add(registry.id)

    def statuses(self) -> list[HealthStatus]:
        return [self._status(id_) for id_ in self._marks]

    async def status(self, registry_id: str) -> HealthStatus:
        return self._status(registry_id)

    def _status(self, registry_id: str) -> HealthStatus:
        mark = self._marks.get(registry_id)
        if mark is None:
            return HealthStatus(registry_id=registry_id, healthy=True, failures=0, last_check=0.0)
        return HealthStatus(
            registry_id=registry_id,
            healthy=mark.healthy,
            failures=mark.failures,
            last_check=mark.last_check,
            last_error=mark.error,
        )
