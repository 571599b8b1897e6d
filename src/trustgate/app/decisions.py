"""From finished requests to the local file of decisions: off the request path, in batches, by one writer a process.

`note` costs the request the bytes of its record; they are written in a thread. What the process cannot keep up with is
dropped and counted, never waited for.
"""

from __future__ import annotations

import pathlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio

from trustgate.decisions.record import MAX_TEXT, encode
from trustgate.decisions.store import FILE, DecisionFile
from trustgate.policies.model import Mark
from trustgate.providers.prices import PriceBook
from trustgate.proxy.attempts import Targets
from trustgate.proxy.exchange import Exchange
from trustgate.proxy.services import Observer
from trustgate.settings import Settings

FLUSH_S = 0.25
"""How long a decision may wait before it is written, and so before other processes can see it."""

BATCH = 1000
MAX_PENDING = 20_000
PAUSE_S = 60.0
"""After a failed write, how long decisions are dropped unwritten; and how often drops are told."""

log = structlog.get_logger("trustgate.decisions")


def decision_file(settings: Settings) -> DecisionFile:
    """The machine's file of decisions, as these settings bound it."""
    explain = settings.explain
    return DecisionFile(pathlib.Path(settings.app.data_dir) / FILE, explain.retention_s, explain.max_bytes)


class DecisionLog:
    """Takes finished exchanges. Mutable: `dropped` counts those not told of yet, `written` those on disk."""

    def __init__(self, file: DecisionFile, prices: Callable[[], PriceBook]) -> None:
        self._file = file
        self._prices = prices
        self._pending: list[bytes] = []
        self._first_ms = self._last_ms = 0
        self._some = trio.Event()
        self._pause_until = self._tell_at = 0.0
        self.dropped = 0
        self.written = 0

    def note(self, exchange: Exchange) -> None:
        """Remember a request that was authenticated. Never waits, never raises.

        The record's bytes are made here: that is cheaper than keeping the exchange alive, and nothing more has to be
        done for a request afterwards.
        """
        pending = self._pending
        if len(pending) >= MAX_PENDING:
            self.dropped += 1
            return
        at_ms = int(exchange.started_unix * 1000)
        try:
            pending.append(encode(members_of(exchange, at_ms, self._prices())))
        except Exception as error:  # a decision that cannot be kept is worth a line, never a request
            self.dropped += 1
            log.warning("a decision could not be recorded", trace_id=exchange.trace_id, error=type(error).__name__)
            return
        if at_ms > self._last_ms:
            self._last_ms = at_ms
        if at_ms < self._first_ms or len(pending) == 1:
            self._first_ms = at_ms
            self._some.set()

    async def run(self) -> None:
        """Write what is noted until cancelled; what is noted then is still written."""
        try:
            while True:
                await self._some.wait()
                await trio.sleep(FLUSH_S)
                await self.flush()
        finally:
            with trio.move_on_after(2.0, shield=True):
                await self.flush()
                await trio.to_thread.run_sync(self._file.close)

    async def flush(self) -> None:
        """Write what is noted so far."""
        pending, first_ms, last_ms = self._pending, self._first_ms, self._last_ms
        self._pending, self._last_ms, self._some = [], 0, trio.Event()
        for start in range(0, len(pending), BATCH):
            batch = pending[start : start + BATCH]
            if trio.current_time() < self._pause_until:
                self.dropped += len(batch)
                continue
            try:
                await trio.to_thread.run_sync(self._file.write_encoded, batch, first_ms, last_ms)
                self.written += len(batch)
            except (sqlite3.Error, OSError) as error:
                self.dropped += len(batch)
                self._pause_until = trio.current_time() + PAUSE_S
                log.warning("decisions cannot be kept for now", error=str(error), file=str(self._file.path))
        if self.dropped and trio.current_time() >= self._tell_at:
            log.warning("decisions were dropped", count=self.dropped)
            self._tell_at = trio.current_time() + PAUSE_S
            self.dropped = 0


def members_of(exchange: Exchange, at_ms: int, book: PriceBook) -> tuple[Any, ...]:
    """The members of a `Decided`, in its order."""
    view, consumer, principal, route = exchange.view, exchange.consumer, exchange.principal, exchange.route
    assert view is not None and consumer is not None and principal is not None and route is not None
    attempts, usage, picked = exchange.attempts, exchange.usage, exchange.picked
    reference, sent, reported = exchange.requested_model, exchange.sent_model, exchange.provider_model
    code, stage, message, price, tokens = exchange.error_code, exchange.stage, exchange.error_message, None, None
    if len(reference) + len(sent) + len(reported) > MAX_TEXT:
        reference, sent, reported = reference[:MAX_TEXT], sent[:MAX_TEXT], reported[:MAX_TEXT]
    if usage is not None:
        total = usage.total_tokens or usage.input_tokens + usage.output_tokens
        tokens = (usage.input_tokens, usage.output_tokens, total, usage.cached, usage.reasoning_output_tokens)
        if attempts:
            found = book.lookup(attempts[-1].provider, (sent, reported, reference))
            price = None if found is None else (found.label, found.input, found.output)
    return (
        exchange.trace_id,
        view.id,
        view.version,
        at_ms,
        (exchange.ended_at - exchange.started_at) * 1000,
        consumer.id,
        consumer.slug,
        principal.auth_id,
        principal.method,
        [role.id for role in principal.roles] if principal.roles else (),
        route.capability,
        route.format,
        reference,
        exchange.streaming,
        len(exchange.client_body),
        exchange.reply_status,
        code,
        message[:MAX_TEXT] if message else "",
        # The upstream's answer ends a request in the ordinary way: only a refusal there is worth its name.
        stage if code or stage != "call_upstream" else "",
        exchange.answered,
        exchange.aborted,
        sent,
        reported,
        None if picked is None else pick_of(picked.registry.id, picked.model, exchange.targets),
        attempts,
        policies_of(exchange.run.marks) if exchange.run is not None else (),
        tokens,
        price,
    )


def pick_of(registry_id: str, model: str, targets: Targets | None) -> tuple[Any, ...]:
    """A `Pick`; what is as usual is left out."""
    if targets is None or not (targets.in_flight or targets.unhealthy or targets.hint):
        return (registry_id, model)
    busy = [(registry, name, count) for (registry, name), count in targets.in_flight.items()]
    hint = targets.hint
    ranking, score = (hint.ranking, hint.score) if hint is not None else ((), None)
    return (registry_id, model, busy, sorted(targets.unhealthy), ranking, score)


def policies_of(marks: list[Mark]) -> list[tuple[Any, ...]]:
    return [
        (mark.policy_id, mark.name, mark.stage, mark.decision, mark.status_code, mark.error, mark.latency_ms)
        for mark in marks
    ]


class NotingObserver:
    """An observer that also notes decisions."""

    def __init__(self, observer: Observer, decisions: DecisionLog) -> None:
        self._observer = observer
        self._decisions = decisions
        self.wants_body = observer.wants_body
        self.refused = observer.refused
        self.probed = observer.probed

    def finished(self, exchange: Exchange) -> None:
        self._decisions.note(exchange)
        self._observer.finished(exchange)


@asynccontextmanager
async def noting(observer: Observer, settings: Settings, prices: Callable[[], PriceBook]) -> AsyncIterator[Observer]:
    """`observer`, noting decisions too where the settings ask for it, for the life of the block."""
    if not settings.explain.enabled:
        yield observer
        return
    decisions = DecisionLog(decision_file(settings), prices)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(decisions.run)
        try:
            yield NotingObserver(observer, decisions)
        finally:
            nursery.cancel_scope.cancel()
