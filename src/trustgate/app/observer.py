"""From finished requests to their events: facts, cost, and the playground's trace store (spec 06 §9, §12, §13).

`finished` only puts the exchange into a bounded mailbox; one task builds events, so that no request waits for its
record.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog
import trio

from trustgate.app.parts import Parts
from trustgate.providers.prices import cost
from trustgate.proxy.exchange import Exchange
from trustgate.telemetry.event import AttemptFacts, Facts, PolicyFacts, Tokens, build
from trustgate.telemetry.logs import access_log

WRITE_BUDGET_S = 2.0
TRACE_KEY = "playground:trace:"
STREAM_KEPT = b"x-ag-playground-token"

log = structlog.get_logger("trustgate.telemetry")


class Sampling(msgspec.Struct):
    """Members of a request body that the event repeats."""

    temperature: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    stream: Any = None


class EventObserver:
    """The observer of a data plane. Mutable: counters of what was built and what the full mailbox refused."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._telemetry = parts.settings.telemetry
        self._access = access_log()
        size = max(1, parts.settings.metrics.queue_size)
        self._send, self._receive = trio.open_memory_channel[Exchange](size)
        self.built = 0
        self.dropped = 0

    def finished(self, exchange: Exchange) -> None:
        self._log(exchange)
        # An event that nobody will see is not built: without exporters only the playground reads them.
        if not self._telemetry.enabled or not self._is_playground(exchange):
            return
        try:
            self._send.send_nowait(exchange)
        except trio.WouldBlock:
            self.dropped += 1
            log.warning("metrics task channel is full, dropping task", gateway_id=exchange.view and exchange.view.id)

    def refused(self, exchange: Exchange) -> None:
        self._log(exchange)

    def wants_body(self, exchange: Exchange) -> bool:
        return self._telemetry.enabled and self._is_playground(exchange)

    def _is_playground(self, exchange: Exchange) -> bool:
        return self._telemetry.playground_traces and bool(exchange.header_map.get(STREAM_KEPT))

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
        )

    async def run(self) -> None:
        """Build events until cancelled; what is queued then is still built."""
        try:
            async for exchange in self._receive:
                await self._handle(exchange)
        finally:
            with trio.move_on_after(WRITE_BUDGET_S, shield=True):
                while True:
                    try:
                        await self._handle(self._receive.receive_nowait())
                    except trio.WouldBlock:
                        break

    async def _handle(self, exchange: Exchange) -> None:
        try:
            event = build(self._facts(exchange))
            self.built += 1
            with trio.move_on_after(WRITE_BUDGET_S):
                key = TRACE_KEY + exchange.trace_id
                data = msgspec.json.encode(event)
                await self._parts.shared.state.put(key, data, self._telemetry.playground_trace_ttl_s)
        except Exception as error:  # a record that cannot be made or kept is worth a line, never a crash
            log.warning("playground trace not kept", trace_id=exchange.trace_id, error=type(error).__name__)

    def _facts(self, exchange: Exchange) -> Facts:
        view, consumer = exchange.view, exchange.consumer
        assert view is not None and consumer is not None, "only authenticated requests have events"
        attempts = exchange.attempts
        provider = attempts[-1].provider if attempts else ""
        names = (exchange.sent_model, exchange.provider_model, exchange.requested_model)
        price = self._parts.models.prices.lookup(provider, names) if exchange.usage is not None else None
        spent = cost(price, exchange.usage) if price is not None and exchange.usage is not None else None
        sampling = sampling_of(exchange.client_body)
        run = exchange.run
        return Facts(
            trace_id=exchange.trace_id,
            gateway_id=view.id,
            tenant_id=view.identity.tenant_id,
            started_unix=exchange.started_unix,
            total_ms=round((exchange.ended_at - exchange.started_at) * 1000),
            consumer_id=consumer.id,
            consumer_name=consumer.name,
            session_id=exchange.session_id,
            turn_id=exchange.turn_id,
            ip=exchange.client_ip,
            status=exchange.reply_status,
            reason=exchange.error_code,
            method=exchange.method,
            path=exchange.path,
            requested_model=exchange.requested_model,
            sent_model=exchange.sent_model,
            provider_model=exchange.provider_model,
            model_label=price.label if price is not None else "",
            temperature=number(sampling.temperature),
            max_tokens=whole(sampling.max_completion_tokens) or whole(sampling.max_tokens),
            stream=sampling.stream is True,
            streaming=exchange.streaming,
            finish_reason=exchange.finish_reason,
            request_headers=exchange.headers,
            response_headers=[*exchange.reply_headers, *own_headers(exchange)],
            request_body=exchange.client_body,
            response_body=exchange.reply_body,
            usage=tokens_of(exchange),
            cost=(spent.prompt, spent.completion) if spent is not None else None,
            attempts=[attempt_facts(attempt) for attempt in attempts] if self._telemetry.request_traces else [],
            policies=[policy_facts(mark) for mark in run.marks if mark.telling]
            if run is not None and self._telemetry.plugin_traces
            else [],
            config_version=view.version,
            untranslated=exchange.untranslated,
            aborted=exchange.aborted,
        )


def own_headers(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """What the plane adds to every answer after the stages."""
    return [(b"x-session-id", exchange.session_id.encode()), (b"x-ag-trace-id", exchange.trace_id.encode())]


def attempt_facts(attempt: Any) -> AttemptFacts:
    members = AttemptFacts.__struct_fields__
    return AttemptFacts(**{name: getattr(attempt, name) for name in members})


def policy_facts(mark: Any) -> PolicyFacts:
    members = PolicyFacts.__struct_fields__
    return PolicyFacts(**{name: getattr(mark, name) for name in members})


def tokens_of(exchange: Exchange) -> Tokens | None:
    usage = exchange.usage
    if usage is None:
        return None
    return Tokens(
        prompt=usage.input_tokens,
        completion=usage.output_tokens,
        total=usage.total_tokens or usage.input_tokens + usage.output_tokens,
        cached=usage.cached,
        reasoning=usage.reasoning_output_tokens,
    )


def sampling_of(body: bytes) -> Sampling:
    """What the client asked of the model; nothing of a body that cannot be read."""
    try:
        return msgspec.json.decode(body, type=Sampling)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Sampling()


def number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


@asynccontextmanager
async def open_observer(parts: Parts) -> AsyncIterator[EventObserver]:
    """The observer and its task, for the life of the block."""
    observer = EventObserver(parts)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(observer.run)
        try:
            yield observer
        finally:
            nursery.cancel_scope.cancel()
