"""An asyncio loop in a thread of its own beside Trio: grpcio knows asyncio only.

What lives here: the life of such a thread, and the two ways across. What must not: what runs in it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog
import trio

T = TypeVar("T")

CLOSE_S = 10.0

log = structlog.get_logger("trustgate.sync")


class LoopThread:
    """Made by `running`."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._trio = trio.lowlevel.current_trio_token()

    def tell(self, call: Callable[..., Any], *args: Any) -> None:
        """From Trio: have the loop call something soon. Nothing happens when the loop has ended."""
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(call, *args)
            except RuntimeError:  # closed
                log.debug("told a loop that has ended")

    async def in_trio(self, call: Callable[..., T], *args: Any) -> T:
        """From the loop: have the Trio thread run a synchronous call, and wait for its result.

        Raises what it raises, and `trio.RunFinishedError` when Trio has ended.
        """
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(call(*args))
            except BaseException as error:
                answer.set_exception(error)

        self._trio.run_sync_soon(run)
        return await asyncio.wrap_future(answer)


@asynccontextmanager
async def running(
    name: str, main: Callable[[LoopThread, Callable[[], None], asyncio.Event], Coroutine[Any, Any, None]]
) -> AsyncIterator[LoopThread]:
    """Run `main(thread, started, stop)` in a loop of its own for the time of the block.

    The block begins when `main` has called `started`; at its end the event `stop` is set, and `main` has `CLOSE_S` to
    return before it is cancelled. What `main` raises before it has started is raised here; later, it is logged.
    """
    thread = LoopThread()
    begun, ended = trio.Event(), trio.Event()
    failure: list[BaseException] = []
    stop: list[asyncio.Event] = []

    def tell(event: trio.Event) -> None:
        try:
            thread._trio.run_sync_soon(event.set)
        except trio.RunFinishedError:
            pass

    async def guarded() -> None:
        thread._loop = asyncio.get_running_loop()
        stop.append(asyncio.Event())
        await main(thread, lambda: tell(begun), stop[0])

    def run() -> None:
        try:
            asyncio.run(guarded())
        except asyncio.CancelledError:
            log.warning("stopped before its end", thread=name)
        except BaseException as error:
            failure.append(error)
            if begun.is_set():
                log.error("the feed has ended", thread=name, error=str(error), exc_info=error)
        finally:
            tell(begun)
            tell(ended)

    threading.Thread(target=run, name=name, daemon=True).start()
    await begun.wait()
    if failure:
        raise failure[0]
    try:
        yield thread
    finally:
        with trio.CancelScope(shield=True):
            if stop:
                thread.tell(stop[0].set)
            with trio.move_on_after(CLOSE_S):
                await ended.wait()
            if not ended.is_set():
                log.warning("still busy at the end of the process", thread=name)
