"""Several data plane processes on one port (`TRUSTGATE_WORKERS`): who runs what, and what they share.

The supervisor runs the admin plane of the command itself and keeps `n` workers that run its data planes. Where no Redis
is configured it also owns the counters and small values, which workers reach over a Unix socket in the data folder.
"""

from __future__ import annotations

import os
import pathlib
import sys
from typing import TYPE_CHECKING

import structlog
import trio

from trustgate.limits.memory import MemoryLimits
from trustgate.limits.remote import serve_shared
from trustgate.limits.shared import LocalState
from trustgate.settings import Settings
from trustgate.wire.workers import Supervisor, WorkerPlan, worker_number

if TYPE_CHECKING:
    from trustgate.app.metrics_plane import WorkerCounts

SOCKET_VARIABLE = "TRUSTGATE_SHARED_SOCKET"
METRICS_SOCKET_VARIABLE = "TRUSTGATE_METRICS_SOCKET"
WORKED = frozenset({"proxy", "mcp"})

log = structlog.get_logger("trustgate.app")


def is_worker() -> bool:
    """Whether this process was started by a supervisor."""
    return worker_number(os.environ) is not None


def shared_socket() -> str:
    """The supervisor's socket, in a worker that shares its counters; else empty."""
    return os.environ.get(SOCKET_VARIABLE, "")


def metrics_socket() -> str:
    """Where this worker tells what it counted; else empty."""
    return os.environ.get(METRICS_SOCKET_VARIABLE, "")


def wanted(settings: Settings, planes: frozenset[str]) -> int:
    """How many workers the data planes among these are split into; 0: they run in this process."""
    if is_worker() or not planes & WORKED:
        return 0
    count = settings.app.worker_count
    return count if count > 1 else 0


async def supervise(
    settings: Settings,
    planes: frozenset[str],
    count: int,
    stop: trio.Event,
    counts: WorkerCounts,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep `count` workers of the data planes among `planes` until `stop`, then drain them. Raises WorkersFailed."""
    environment = dict(os.environ)
    async with trio.open_nursery() as nursery:
        if not settings.redis.configured:
            path = socket_path(settings, "shared")
            await nursery.start(serve_shared, path, MemoryLimits(), LocalState(trio.current_time))
            environment[SOCKET_VARIABLE] = path
            nursery.start_soon(remove_at_end, path)
        metrics_path = socket_path(settings, "metrics")
        await nursery.start(counts.serve, metrics_path)
        environment[METRICS_SOCKET_VARIABLE] = metrics_path
        nursery.start_soon(remove_at_end, metrics_path)
        plan = WorkerPlan(
            command=[sys.executable, "-m", "trustgate", "worker", *sorted(planes & WORKED)],
            count=count,
            environment=environment,
            drain_timeout_s=settings.server.shutdown_timeout_s + settings.server.drain_delay_s,
        )
        supervisor = Supervisor(plan)
        nursery.start_soon(stop_with, supervisor, stop)
        log.info("workers starting", count=count)
        task_status.started()
        await supervisor.run()
        nursery.cancel_scope.cancel()


async def stop_with(supervisor: Supervisor, stop: trio.Event) -> None:
    await stop.wait()
    supervisor.stop()


def socket_path(settings: Settings, name: str) -> str:
    """Where workers reach this supervisor; its folder exists afterwards."""
    folder = pathlib.Path(settings.app.data_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    return str(folder / f"{name}-{os.getpid()}.sock")


async def remove_at_end(path: str) -> None:
    try:
        await trio.sleep_forever()
    finally:
        remove(path)


def remove(path: str) -> None:
    pathlib.Path(path).unlink(missing_ok=True)
