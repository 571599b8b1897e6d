"""Pushes the OpenTelemetry instruments of spec 06 §8 to the operators' collector, now and then and at the end.

On with `OPS_METRICS_ENABLED` where an OTLP endpoint is known. A collector that is away costs a warning: counts are
cumulative, so the next push tells everything.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
import trio

from trustgate.app.exporters import environment
from trustgate.app.metrics_plane import Gather
from trustgate.settings import Settings
from trustgate.telemetry.exporters import otlp_target
from trustgate.telemetry.exporters.otlp import Target
from trustgate.telemetry.instruments import Family
from trustgate.telemetry.outlet import SHOWN_ERROR

if TYPE_CHECKING:
    from trustgate.telemetry.exporters.otlp_metrics import MetricsSink

LAST_PUSH_S = 5.0
"""Bound of the push at the end, whatever the exporter's timeout."""

log = structlog.get_logger("trustgate.telemetry")


def target_of(settings: Settings) -> Target | None:
    """Where instruments are pushed to; None where they are not."""
    otlp = settings.otlp
    endpoint = otlp.metrics_endpoint or otlp.endpoint
    if not settings.metrics.ops_enabled or otlp.metrics_exporter.strip().lower() == "none" or not endpoint:
        return None
    return otlp_target({"endpoint": endpoint}, environment(settings))


@asynccontextmanager
async def pushing(settings: Settings, gather: Gather) -> AsyncIterator[None]:
    """Push what `gather` tells for the life of the block, and once more at its end."""
    target = target_of(settings)
    if target is None:
        yield
        return
    push = Push(target, gather)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(push.run, settings.otlp.metrics_interval_s)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()
            with trio.move_on_after(LAST_PUSH_S, shield=True):
                await push.once()


class Push:
    """Mutable: the sink, made by the first push, and whether the last push failed, which is told once."""

    def __init__(self, target: Target, gather: Gather) -> None:
        self._target = target
        self._gather = gather
        self._started_ns = time.time_ns()
        self._sink: MetricsSink | None = None
        self._away = False

    async def run(self, interval_s: float) -> None:
        while True:
            await trio.sleep(interval_s)
            await self.once()

    async def once(self) -> None:
        """Cancellable: a push under way then goes on in its thread, unheeded."""
        try:
            families = await self._gather()
            await trio.to_thread.run_sync(self._push, families, abandon_on_cancel=True)
        except Exception as error:  # whatever the client library raises: no plane depends on being watched
            if not self._away:
                log.warning("metrics are not pushed", endpoint=self._target.url, error=str(error)[:SHOWN_ERROR])
            self._away = True
            return
        if self._away:
            log.info("metrics are pushed again", endpoint=self._target.url)
        self._away = False

    def _push(self, families: list[Family]) -> None:
        from trustgate.telemetry.exporters import otlp_metrics  # loads OpenTelemetry

        if self._sink is None:
            self._sink = otlp_metrics.MetricsSink(self._target)
        self._sink.push(otlp_metrics.metrics_data(families, self._started_ns, time.time_ns()))
