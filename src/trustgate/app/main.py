"""One process with a set of planes: start order, readiness, signals and the bounded shutdown (spec 06 §1, §4).

What lives here: the life of the process. What must not: how a plane is put together (`proxy_plane`, `admin_plane`).
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import structlog
import trio

from trustgate.actors.follower import Follower
from trustgate.app import gauges, listeners, metrics_plane, otel_push, workers
from trustgate.app.decisions import noting
from trustgate.app.feed import fed, serving_feed
from trustgate.app.meter import Meter
from trustgate.app.observer import open_observer
from trustgate.app.parts import open_parts
from trustgate.app.proxy_plane import open_proxy
from trustgate.app.readiness import Readiness
from trustgate.app.views import Views
from trustgate.domain.events import CorruptEvent, UnknownEvent
from trustgate.settings import ConfigurationError, Settings
from trustgate.store import EventStore, StoreError, StoreUnavailable
from trustgate.telemetry.instruments import Family, added
from trustgate.telemetry.metrics import Metrics
from trustgate.wire.workers import WorkersFailed, supervisor_gone

log = structlog.get_logger("trustgate.app")

KNOWN = (ConfigurationError, StoreError, UnknownEvent, CorruptEvent, WorkersFailed, OSError)
"""What a start or a run fails with that needs no traceback."""
DATA_PLANES = frozenset({"proxy", "mcp"})
OnReady = Callable[[dict[str, int]], Awaitable[None]]
"""Told the port of every plane once all of them serve."""


def main(planes: frozenset[str], settings: Settings, on_ready: OnReady | None = None) -> int:
    """Run the planes until a signal. The exit code: 0 after a graceful shutdown, 1 when they cannot start or break."""
    try:
        settings.check(planes)
        trio.run(serve, planes, settings, on_ready)
    except ConfigurationError as error:
        log.error(str(error))
        return 1
    except BaseExceptionGroup as group:
        for error in leaves(group):
            report(error, settings.embedded(planes))
        return 1
    except KNOWN as error:
        report(error, settings.embedded(planes))
        return 1
    return 0


def report(error: BaseException, embedded: bool) -> None:
    """One log line for a cause of a failed process; it names the variables that lead to a store that is not there."""
    if not isinstance(error, KNOWN):
        log.error("server crashed", error=str(error), exc_info=error)
        return
    where = f" (see {'TRUSTGATE_DATA_DIR' if embedded else 'DB_HOST, DB_PORT'})"
    log.error("server failed", error=str(error) + (where if isinstance(error, StoreUnavailable) else ""))


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


async def serve(planes: frozenset[str], settings: Settings, on_ready: OnReady | None = None) -> None:
    """Start in the order of spec 06 §4, serve until SIGINT or SIGTERM, then drain within the bound."""
    stop = trio.Event()
    async with trio.open_nursery() as signals:
        await signals.start(watch_signals, stop)
        await run_planes(planes, settings, stop, on_ready)
        signals.cancel_scope.cancel()


async def watch_signals(stop: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """The first signal asks for a graceful end; a second one forces it.

    Not in a worker: a signal to the whole process group reaches it twice, once through its supervisor, whose end is
    what forces it (`leave_with_supervisor`).
    """
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        task_status.started()
        async for number in received:
            if stop.is_set():
                if workers.is_worker():
                    log.info("shutting down already", signal=signal.Signals(number).name, pid=os.getpid())
                    continue
                log.warning("forced exit", signal=signal.Signals(number).name)
                os._exit(1)
            log.info("shutting down", signal=signal.Signals(number).name)
            stop.set()


async def run_planes(
    planes: frozenset[str], settings: Settings, stop: trio.Event, on_ready: OnReady | None = None
) -> None:
    """The planes of a command until `stop`: here, and where several are asked for in worker processes."""
    count = workers.wanted(settings, planes)
    metrics = Metrics(settings.app.version, ops=settings.metrics.ops_enabled)
    gauges.watch_process(metrics)
    counts = metrics_plane.WorkerCounts()
    async with AsyncExitStack() as stack:
        if not workers.is_worker():
            await stack.enter_async_context(otel_push.pushing(settings, partial(gather, metrics, counts)))
        nursery = await stack.enter_async_context(trio.open_nursery())
        if workers.is_worker():
            nursery.start_soon(leave_with_supervisor, stop)
        else:
            places = metrics_plane.places(settings, planes)
            nursery.start_soon(metrics_plane.serve_metrics, places, partial(gather, metrics, counts), stop)
        if count:
            for found in bind(planes & workers.WORKED, settings, shared=False).values():
                for sock in found:  # one line for a port that is taken, in place of one from each try of each worker
                    sock.close()
            await nursery.start(workers.supervise, settings, planes, count, stop, counts)
            planes = planes - workers.WORKED
        if planes:
            async with trio.open_nursery() as telling:
                if workers.is_worker() and (path := workers.metrics_socket()):
                    telling.start_soon(metrics_plane.tell_supervisor, path, metrics)
                await run_here(planes, settings, stop, metrics, on_ready)
                telling.cancel_scope.cancel()
            if not count:
                nursery.cancel_scope.cancel()


async def gather(metrics: Metrics, counts: metrics_plane.WorkerCounts) -> list[Family]:
    """What this process and its workers have counted."""
    return added([metrics.snapshot(), await counts.gather()])


async def leave_with_supervisor(stop: trio.Event) -> None:
    """A worker drains itself when its supervisor is gone; it ends at once where it was draining already.

    A supervisor outlives the drain of its workers, unless it was forced to end.
    """
    await supervisor_gone()
    if stop.is_set():
        os._exit(1)
    stop.set()


async def run_here(
    planes: frozenset[str], settings: Settings, stop: trio.Event, metrics: Metrics, on_ready: OnReady | None = None
) -> None:
    """These planes in this process."""
    shared = workers.is_worker()
    sockets = bind(planes, settings, shared=shared)
    async with open_parts(settings, planes, metrics) as parts, AsyncExitStack() as stack:
        views = Views()
        background = await stack.enter_async_context(trio.open_nursery())
        stack.callback(background.cancel_scope.cancel)
        plane = await stack.enter_async_context(fed(parts, views)) if parts.opened is None else None
        readiness = Readiness(parts.opened, parts.shared, embedded=settings.embedded(planes), fed=plane)
        await background.start(readiness.run)
        follower = await start_follower(parts.opened, views, background) if parts.opened is not None else None
        catch_up = nothing_newer if follower is None else partial(caught_up, follower)
        observer = await stack.enter_async_context(open_observer(parts, views, serving=bool(planes & DATA_PLANES)))
        if planes & DATA_PLANES:
            gauges.watch_data_plane(metrics, parts, views)
            gauges.watch_observer(metrics, observer)
        if plane is not None:
            gauges.watch_feed(metrics, plane)
        elif follower is not None and planes & DATA_PLANES:
            gauges.watch_log(metrics, follower)
        watch = partial(gauges.watch_server, metrics)
        serving: list[listeners.Serve] = []
        if "admin" in planes:
            from trustgate.app.admin_plane import open_admin  # loads the web framework

            assert follower is not None, "the admin plane has a database"
            await stack.enter_async_context(serving_feed(parts, follower, views, stop))
            admin = await stack.enter_async_context(open_admin(parts, follower, readiness))
            serving.append(listeners.admin_server(admin, sockets["admin"], settings, stop, readiness))
        if "proxy" in planes:
            noted = await stack.enter_async_context(noting(observer, settings, lambda: parts.models.prices))
            meter = Meter(metrics, parts.models, noted)
            proxy = await stack.enter_async_context(open_proxy(parts, views, catch_up, meter, readiness))
            serving.append(listeners.wire_server(proxy, sockets["proxy"], settings, stop, readiness, "proxy", watch))
        if "mcp" in planes:
            from trustgate.app.mcp_plane import open_mcp  # what only this plane needs is loaded by it

            mcp = await stack.enter_async_context(open_mcp(parts, views, catch_up, observer, readiness))
            serving.append(listeners.wire_server(mcp, sockets["mcp"], settings, stop, readiness, "mcp", watch))
        async with trio.open_nursery() as nursery:
            for server in serving:
                await nursery.start(server)
            settle_memory()
            if on_ready is not None:
                await on_ready({plane: found[0].getsockname()[1] for plane, found in sockets.items()})


def bind(planes: frozenset[str], settings: Settings, *, shared: bool) -> dict[str, list[socket.socket]]:
    """The sockets of each plane. Raises ConfigurationError for a port that cannot be had."""
    server = settings.server
    every = {"admin": server.admin_port, "proxy": server.proxy_port, "mcp": server.mcp_port}
    return {
        plane: listeners.bind(port, shared=shared, variable=f"SERVER_{plane.upper()}_PORT")
        for plane, port in every.items()
        if plane in planes
    }


def settle_memory() -> None:
    """Keep the collector away from what lives for ever: requests make little that it has to look for.

    What admin requests and broken-off exchanges leave in cycles is found by a full collection every few minutes of
    traffic that makes such; it looks only at what came after the start.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 5)


async def start_follower(store: EventStore, views: Views, nursery: trio.Nursery) -> Follower:
    """The projection of the log onto this process's views: what data planes serve by, and what the feed is made of."""
    follower = Follower(store, views.on_state)
    views.reveal = follower.reveal
    await nursery.start(follower.run)
    return follower


async def caught_up(follower: Follower) -> None:
    await follower.catch_up()


async def nothing_newer() -> None:
    """A snapshot is all there is: a control plane tells of newer ones."""
    await trio.lowlevel.checkpoint()
