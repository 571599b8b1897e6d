"""Explanations and forecasts for the admin plane and the command line: recorded decisions meet the configuration's log.

What lives here: reading the local file of decisions in threads, and the states they were made under. What must not:
what follows from them (`explain`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from trustgate.admin.services import Explanation
from trustgate.app.decisions import FLUSH_S
from trustgate.decisions.record import Decided
from trustgate.decisions.store import DecisionFile
from trustgate.domain import events as ev
from trustgate.domain.entities import GatewayState
from trustgate.domain.evolve import fold
from trustgate.explain.explanation import explain
from trustgate.explain.whatif import Comparison
from trustgate.providers.prices import PriceBook
from trustgate.store import EventStore, gateway_stream

LOOKS = 3
"""A decision may still be on its way to the file: it is looked for again before it counts as unknown."""

Json = dict[str, Any]
Progress = Callable[[int], None]


async def find_decision(file: DecisionFile, trace_id: str) -> Decided | None:
    """The recorded decision; waits a moment for one that has just been made."""
    for look in range(LOOKS):
        if look:
            await trio.sleep(FLUSH_S)
        found = await trio.to_thread.run_sync(file.find, trace_id)
        if found is not None:
            return found
    return None


async def state_at(store: EventStore, gateway_id: str, version: int) -> GatewayState:
    """The gateway after its first `version` events."""
    recorded = await store.read(gateway_stream(gateway_id), 0, version)
    return fold(ev.decode(one.data, one.position) for one in recorded)


async def explanation_of(store: EventStore, file: DecisionFile, trace_id: str) -> Explanation | None:
    """The explanation of a request; None when its decision, or the log that governed it, is not there."""
    record = await find_decision(file, trace_id)
    if record is None:
        return None
    state = await state_at(store, record.gateway_id, record.version)
    if state.gateway is None or state.version != record.version:
        return None
    return Explanation(state.gateway.tenant_id, explain(record, state))


def compared(
    file: DecisionFile,
    before: GatewayState,
    after: GatewayState,
    prices: PriceBook,
    from_s: float,
    to_s: float,
    progress: Progress = lambda count: None,
) -> Json:
    """What the recorded requests of a time range would have met. Synchronous; for a thread."""
    gateway = before.gateway or after.gateway
    comparison = Comparison(before, after, prices)
    if gateway is not None:
        for records in file.between(gateway.id, int(from_s * 1000), int(to_s * 1000)):
            comparison.add(records)
            progress(len(records))
    return comparison.summary()
