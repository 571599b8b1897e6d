"""A supervisor of worker processes: starts n copies of one command, restarts what crashes, drains them on stop.

Knows nothing of what the workers do. Workers share ports by SO_REUSEPORT (`listeners.py`); each learns its number from
an environment variable and holds the read end of a pipe as standard input, whose end tells it that the supervisor died.
"""

import logging
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import msgspec
import trio

log = logging.getLogger("trustgate.wire")

_SETTLED_S: Final = 10.0
"""A worker that lived this long has started well: its next restart is immediate again."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0


class WorkersFailed(Exception):
    """A worker kept dying right after its start; the others have been stopped."""


class WorkerPlan(msgspec.Struct, frozen=True):
    command: Sequence[str]
    count: int
    number_variable: str = "TRUSTGATE_WORKER"
    """Environment variable that gives a worker its number, 0 to count - 1."""
    environment: Mapping[str, str] | None = None
    """Environment of the workers; None: the supervisor's own."""
    drain_timeout_s: float = 60.0
    """From SIGTERM to SIGKILL."""
    max_failed_starts: int = 5
    """Deaths in a row, each within 10 s of the start, after which the supervisor gives up."""


class WorkerStatistics(msgspec.Struct, frozen=True):
    running: int
    restarts: int
    pids: tuple[int, ...]


class Supervisor:
    """Mutable state: the running processes by worker number."""

    def __init__(self, plan: WorkerPlan) -> None:
        self._plan = plan
        self._running: dict[int, trio.Process] = {}
        self._restarts = 0
        self._stopping = trio.Event()
        self._failed = False

    def statistics(self) -> WorkerStatistics:
        processes = self._running.values()
        return WorkerStatistics(len(processes), self._restarts, tuple(process.pid for process in processes))

    def stop(self) -> None:
        """Drain: SIGTERM to every worker, SIGKILL after the drain timeout; `run` then returns."""
        self._stopping.set()

    async def run(self, *, task_status: trio.TaskStatus["Supervisor"] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until stopped. Cancelling it kills the workers at once. Raises WorkersFailed."""
        async with trio.open_nursery() as nursery:
            for number in range(self._plan.count):
                nursery.start_soon(self._keep_alive, number)
            task_status.started(self)
        if self._failed:
            raise WorkersFailed("a worker kept failing right after its start")

    async def run_until_signal(self) -> None:
        """`run`, stopped by SIGTERM or SIGINT. Call from the main thread."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_on, signals)
                await self.run()
                nursery.cancel_scope.cancel()

    async def _stop_on(self, signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            self.stop()

    async def _keep_alive(self, number: int) -> None:
        failures = 0
        while not self._stopping.is_set():
            started_at = trio.current_time()
            code = await self._run_once(number)
            if self._stopping.is_set():
                return
            failures = 0 if trio.current_time() - started_at >= _SETTLED_S else failures + 1
            log.error("worker %d ended with status %s", number, code)
            if failures >= self._plan.max_failed_starts:
                self._failed = True
                self.stop()
                return
            self._restarts += 1
            if failures:
                with trio.move_on_after(min(_FIRST_PAUSE_S * 2 ** (failures - 1), _LONGEST_PAUSE_S)):
                    await self._stopping.wait()

    async def _run_once(self, number: int) -> int:
        base = os.environ if self._plan.environment is None else self._plan.environment
        process = await trio.lowlevel.open_process(
            list(self._plan.command), env={**base, self._plan.number_variable: str(number)}, stdin=subprocess.PIPE
        )
        self._running[number] = process
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drain_on_stop, process)
                code = await process.wait()
                nursery.cancel_scope.cancel()
            return code
        finally:
            if process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
            del self._running[number]
            if process.stdin is not None:
                with trio.CancelScope(shield=True):
                    await process.stdin.aclose()

    async def _drain_on_stop(self, process: trio.Process) -> None:
        await self._stopping.wait()
        process.terminate()
        await trio.sleep(self._plan.drain_timeout_s)
        log.error("a worker did not drain in time and is killed")
        process.kill()


def worker_number(environment: Mapping[str, str], variable: str = "TRUSTGATE_WORKER") -> int | None:
    """The number of this worker, None in a process that is not one."""
    text = environment.get(variable, "")
    return int(text) if text.isascii() and text.isdigit() else None


async def supervisor_gone(stdin: int = 0) -> None:
    """In a worker: returns once the supervisor is gone, by whatever end. A worker then drains itself."""
    os.set_blocking(stdin, False)
    while True:
        await trio.lowlevel.wait_readable(stdin)
        if not os.read(stdin, 4096):
            return
