"""What becomes of a finished request: its access log line, its record, the playground's trace (spec 06 §9 to §13).

What lives here: the hand-over from the data planes. What must not: the making of records and their export
(`telemetry.publisher`), which run in threads of their own, so that no request waits for its record.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import structlog
import trio

from trustgate.app.exporters import Exporters, environment
from trustgate.app.facts import facts_of
from trustgate.app.parts import Parts
from trustgate.app.views import Views
from trustgate.proxy.exchange import Exchange
from trustgate.settings.checks import default_exporters
from trustgate.telemetry.event import Facts
from trustgate.telemetry.logs import access_log
from trustgate.telemetry.outlet import OutletStatistics
from trustgate.telemetry.publisher import Job, Keep, Publisher, PublisherStatistics
from trustgate.view.gateway import GatewayView

WRITE_BUDGET_S = 2.0
CLOSE_S = 10.0
TRACE_KEY = "playground:trace:"
PLAYGROUND_HEADER = b"x-ag-playground-token"
TRACES_WAITING = 256

log = structlog.get_logger("trustgate.telemetry")


class EventObserver:
    """The observer of the data planes of a process; all its methods belong to the thread that serves requests."""

    def __init__(self, parts: Parts, exporters: Exporters) -> None:
        self._parts = parts
        self._telemetry = parts.settings.telemetry
        self._access = access_log()
        self._exporters = exporters
        metrics = parts.settings.metrics
        self._publisher = Publisher(max(1, metrics.queue_size), max(1, metrics.worker_count))
        self._token = trio.lowlevel.current_trio_token()
        self._traces, self._received = trio.open_memory_channel[tuple[str, bytes]](TRACES_WAITING)
        self._keep: Keep = self._keep_trace

    # the proxy plane's Observer

    def finished(self, exchange: Exchange) -> None:
        self._log(exchange)
        view = exchange.view
        if not self._telemetry.enabled or view is None:
            return
        size = len(exchange.client_body) + len(exchange.reply_body)
        self.record(view, partial(self._facts, exchange), size, playground=self._is_playground(exchange))

    def refused(self, exchange: Exchange) -> None:
        self._log(exchange)

    def probed(self, method: str, path: str, status: int) -> None:
        """Probes have no records."""

    def wants_body(self, exchange: Exchange) -> bool:
        view = exchange.view
        if not self._telemetry.enabled or view is None:
            return False
        return bool(self._exporters.routing(view).raw) or self._is_playground(exchange)

    # any data plane

    def record(self, view: GatewayView, facts: Callable[[], Facts], size: int, *, playground: bool = False) -> None:
        """Queue the record of a finished call; never waits. `facts` is called once, by another thread.

        `size` is what the call's bodies take while the record waits, in bytes. A record that nobody will see is not
        made: without exporters, only the playground's are.
        """
        if not self._telemetry.enabled:
            return
        routing = self._exporters.routing(view)
        playground = playground and self._telemetry.playground_traces
        if playground or not routing.idle:
            self._publisher.submit(Job(view.id, facts, routing, size, self._keep if playground else None))

    def statistics(self) -> tuple[PublisherStatistics, list[OutletStatistics]]:
        """Of the queue of records to be made, and of each exporter."""
        return self._publisher.statistics(), self._exporters.statistics()

    def _facts(self, exchange: Exchange) -> Facts:
        telemetry = self._telemetry
        return facts_of(
            exchange,
            self._parts.models.prices,
            attempts=telemetry.request_traces,
            policies=telemetry.plugin_traces,
        )

    def _is_playground(self, exchange: Exchange) -> bool:
        return self._telemetry.playground_traces and bool(exchange.header_map.get(PLAYGROUND_HEADER))

    def _log(self, exchange: Exchange) -> None:
        if not self._access.enabled:
            return
        self._access.record(
            status=exchange.reply_status,
            method=exchange.method,
            path=exchange.path,
            duration_ns=round((exchange.ended_at - exchange.started_at) * 1e9),
            request_id=exchange.header_map.get(b"x-ag-trace-id", b"").decode("latin-1"),
            ip=exchange.client_ip,
            bytes_out=-1 if exchange.streaming else len(exchange.reply_body),
            trace_id=exchange.trace_id,
        )

    # playground traces: made by a worker, written by a task of this process

    def _keep_trace(self, trace_id: str, data: bytes) -> None:
        try:
            self._token.run_sync_soon(self._hand_over, trace_id, data)
        except trio.RunFinishedError:  # a record that was still being made when the process ended
            log.debug("playground trace not kept", trace_id=trace_id)

    def _hand_over(self, trace_id: str, data: bytes) -> None:
        try:
            self._traces.send_nowait((trace_id, data))
        except trio.WouldBlock:
            log.warning("playground trace not kept: too many are waiting", trace_id=trace_id)

    async def keep_traces(self) -> None:
        """Write traces until cancelled."""
        async for trace_id, data in self._received:
            await self._write(trace_id, data)

    async def _write(self, trace_id: str, data: bytes) -> None:
        try:
            with trio.fail_after(WRITE_BUDGET_S):
                await self._parts.shared.state.put(TRACE_KEY + trace_id, data, self._telemetry.playground_trace_ttl_s)
        except Exception as error:  # a trace that cannot be kept is worth a line, never a crash
            log.warning("playground trace not kept", trace_id=trace_id, error=type(error).__name__)

    async def finish(self) -> None:
        """Make and deliver what is queued, within the bound; then close the exporters."""
        await trio.to_thread.run_sync(self._publisher.close, CLOSE_S)
        await trio.lowlevel.checkpoint()  # traces handed over by the last workers
        while True:
            try:
                await self._write(*self._received.receive_nowait())
            except trio.WouldBlock:
                break
        await trio.to_thread.run_sync(self._exporters.close, CLOSE_S)


@asynccontextmanager
async def open_observer(parts: Parts, views: Views, *, serving: bool) -> AsyncIterator[EventObserver]:
    """The observer, for the life of the block. `serving`: a data plane runs here; others export nothing.

    Raises ConfigurationError for default exporters that cannot be used.
    """
    found = default_exporters(parts.settings) if serving and parts.settings.telemetry.enabled else ()
    if serving and parts.settings.telemetry.enabled and not found:
        log.warning("no telemetry exporters are configured: records go nowhere unless a gateway names its own")
    exporters = Exporters(found, environment(parts.settings))
    views.watch(exporters)
    observer = EventObserver(parts, exporters)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(observer.keep_traces)
        try:
            yield observer
        finally:
            with trio.CancelScope(shield=True):
                await observer.finish()
            nursery.cancel_scope.cancel()
