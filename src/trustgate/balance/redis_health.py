"""The health book shared through Redis under the documented keys (spec 02 §7.6, spec 06 §16).

`lb:health:{registry}` holds `{"Healthy","LastCheck","LastError":null,"Failures","ActiveConn"}` for an hour, the
reason in `Error`; `lb:health:{registry}:failures` counts, expiring after the registry's interval. A pool's registry
without a mark gets a healthy one. Writes go through a bounded queue that one task drains, so a request never waits for
them; Redis trouble means "healthy".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import structlog
import trio

from trustgate.balance.health import HealthStatus, failure_window_s
from trustgate.view.model import RegistryView

QUEUE = 1000
TTL_S = 3600
READ_TIMEOUT_S = 0.25

log = structlog.get_logger(__name__)


Write = Callable[[RegistryView], Awaitable[None]]
"""What the background task does to a registry's keys."""


class RedisClient(Protocol):
    """The few commands used of a coredis client."""

    def mget(self, keys: list[str]) -> Awaitable[Any]: ...
    def set(self, key: str, value: bytes | str, *, ex: int, condition: Any = None) -> Awaitable[Any]: ...
    def incr(self, key: str) -> Awaitable[int]: ...
    def expire(self, key: str, seconds: int) -> Awaitable[Any]: ...
    def delete(self, keys: list[str]) -> Awaitable[Any]: ...


class StoredMark(msgspec.Struct, rename="pascal"):
    """The JSON value of `lb:health:{registry}`."""

    healthy: bool = True
    last_check: str = ""
    last_error: str | None = None
    failures: int = 0
    active_conn: int = 0
    error: str = ""


def read_mark(registry_id: str, value: bytes | str | None) -> HealthStatus | None:
    """A stored mark; None when there is none or it cannot be read, which counts as healthy."""
    if not value:
        return None
    try:
        mark = msgspec.json.decode(value, type=StoredMark)
        checked = datetime.fromisoformat(mark.last_check).timestamp() if mark.last_check else 0.0
    except (msgspec.DecodeError, ValueError):
        return None
    return HealthStatus(
        registry_id=registry_id,
        healthy=mark.healthy,
        failures=mark.failures,
        last_check=checked,
        last_error=mark.error,
    )


class RedisHealth:
    """Reads the marks of a pool with one MGET; writes them in the background task `run`."""

    def __init__(self, redis: RedisClient, now: Callable[[], float]) -> None:
        self._redis = redis
        self._now = now
        self._send, self._receive = trio.open_memory_channel[tuple[RegistryView, Write]](QUEUE)
        self._known: dict[str, HealthStatus] = {}
        self._trials: dict[str, float] = {}
        self.dropped = 0

    async def run(self) -> None:
        """Write reports until cancelled."""
        async for registry, write in self._receive:
            try:
                await write(registry)
            except Exception as failure:  # any client error: the next report tries again
                log.warning("health mark not written", registry_id=registry.id, error=type(failure).__name__)

    async def unhealthy(self, registries: Iterable[RegistryView]) -> frozenset[str]:
        pool = list({registry.id: registry for registry in registries}.values())
        try:
            with trio.fail_after(READ_TIMEOUT_S):
                values = await self._redis.mget([f"lb:health:{registry.id}" for registry in pool])
        except Exception as failure:  # Redis trouble never fails a request
            log.warning("health marks not read", error=type(failure).__name__)
            return frozenset()
        marks = list(zip(pool, values, strict=True))
        for registry, value in marks:
            if value is None:
                self._put(registry, self._seed)
        return frozenset(registry.id for registry, value in marks if self._avoid(registry, value))

    async def status(self, registry_id: str) -> HealthStatus:
        """The shared mark. Raises what the client raises."""
        (value,) = await self._redis.mget([f"lb:health:{registry_id}"])
        nothing = HealthStatus(registry_id=registry_id, healthy=True, failures=0, last_check=0.0)
        return read_mark(registry_id, value) or nothing

    def _avoid(self, registry: RegistryView, value: bytes | str | None) -> bool:
        mark = read_mark(registry.id, value)
        if mark is None:
            return False
        self._known[registry.id] = mark
        if mark.healthy:
            return False
        now, checked = self._now(), mark.last_check
        interval = registry.health_checks.interval if registry.health_checks else 0
        if now < checked + interval or now < self._trials.get(registry.id, 0.0):
            return True
        self._trials[registry.id] = now + max(interval, 1)
        return False

    def succeeded(self, registry: RegistryView) -> None:
        self._put(registry, self._write_success)

    def failed(self, registry: RegistryView, error: str) -> None:
        checks = registry.health_checks
        if checks is not None and (checks.passive or checks.path):
            self._put(registry, lambda registry: self._write_failure(registry, error))

    def _put(self, registry: RegistryView, write: Write) -> None:
        try:
            self._send.send_nowait((registry, write))
        except trio.WouldBlock:
            self.dropped += 1

    async def _seed(self, registry: RegistryView) -> None:
        from coredis import PureToken  # large, and here only with a client of it

        mark = msgspec.json.encode(StoredMark(last_check=self._stamp()))
        await self._redis.set(f"lb:health:{registry.id}", mark, ex=TTL_S, condition=PureToken.NX)

    async def _write_success(self, registry: RegistryView) -> None:
        key = f"lb:health:{registry.id}"
        mark = StoredMark(last_check=self._stamp())
        await self._redis.set(key, msgspec.json.encode(mark), ex=TTL_S)
        await self._redis.delete([f"{key}:failures"])
        self._trials.pop(registry.id, None)

    async def _write_failure(self, registry: RegistryView, error: str) -> None:
        checks = registry.health_checks
        assert checks is not None, "only checked registries report failures"
        key = f"lb:health:{registry.id}"
        count = await self._redis.incr(f"{key}:failures")
        await self._redis.expire(f"{key}:failures", failure_window_s(checks))
        known = self._known.get(registry.id)
        if count >= checks.threshold or (known is not None and not known.healthy):
            mark = StoredMark(healthy=False, last_check=self._stamp(), failures=count, error=error)
            await self._redis.set(key, msgspec.json.encode(mark), ex=TTL_S)
            self._trials.pop(registry.id, None)

    def _stamp(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).isoformat().replace("+00:00", "Z")

    def statuses(self) -> list[HealthStatus]:
        return list(self._known.values())
