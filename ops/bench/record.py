"""What watching a request costs: metrics, and the record: facts, building, encoding, all of it through the queue.

Run: `python ops/bench/record.py`. Microseconds of CPU a record, best of many short
rounds, which a busy machine troubles least.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from trustgate.app.facts import facts_of
from trustgate.app.main import settle_memory
from trustgate.app.meter import Meter
from trustgate.formats.canonical import Usage
from trustgate.providers.prices import Price, PriceBook
from trustgate.proxy.exchange import Attempt, Exchange
from trustgate.telemetry.event import build, encode, metadata_view
from trustgate.telemetry.metrics import Metrics
from trustgate.telemetry.outlet import Item, Manner, Outlet
from trustgate.telemetry.publisher import Job, Publisher, Routing

ROUNDS, RECORDS = 200, 500
BODY = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello, how are you today?"}]}'
HEADERS = [
    (b"host", b"localhost:8081"),
    (b"user-agent", b"bench/1"),
    (b"content-length", b"91"),
    (b"content-type", b"application/json"),
    (b"x-ag-gateway-slug", b"demo"),
    (b"x-ag-api-key", b"ag_0123456789abcdef"),
    (b"accept-encoding", b"gzip"),
]


def sample() -> Exchange:
    """A finished chat completion."""
    exchange = Exchange("POST", "/app/v1/chat/completions", b"", HEADERS, BODY, "127.0.0.1")
    identity: Any = SimpleNamespace(tenant_id="acme", slug="demo")
    state: Any = SimpleNamespace(registries={})
    view: Any = SimpleNamespace(id="0f0c5f3e-7a53-4c53-8f0e-0a6c2d0f5c11", version=7, identity=identity, state=state)
    exchange.view = view
    exchange.consumer = SimpleNamespace(id="019365c0-0000-7000-8000-000000000001", name="app", slug="app")  # pyright: ignore[reportAttributeAccessIssue]
    exchange.session_id = "019365c0-0000-7000-8000-000000000002"
    exchange.trace_id = "4c1f0b7e-52a8-4d55-b6b5-0b1b2f7b0d5e"
    exchange.requested_model = exchange.sent_model = "gpt-4o-mini"
    exchange.provider_model, exchange.finish_reason, exchange.turn_id = "gpt-4o-mini", "stop", "chatcmpl-1"
    exchange.usage = Usage(input_tokens=12, output_tokens=30, total_tokens=42)
    made = Attempt(
        registry_id="019365c0-0000-7000-8000-000000000003",
        provider="openai",
        attempt=1,
        fallback=False,
        pinned=True,
        route="consumer",
        outcome="success",
        status_code=200,
        latency_ms=12,
    )
    exchange.attempts.append(made)
    exchange.reply_status = 200
    exchange.reply_headers = [(b"content-type", b"application/json"), (b"x-selected-provider", b"openai")]
    exchange.reply_body = b'{"id":"chatcmpl-1"}'
    exchange.ended_at = exchange.started_at + 0.013
    return exchange


def cost_us(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(RECORDS):
            work()
        best = min(best, time.process_time() - began)
    return best / RECORDS * 1e6


class Unseen:
    """An observer that nothing sees."""

    def wants_body(self, exchange: Exchange) -> bool:
        return False

    def finished(self, exchange: Exchange) -> None:
        return

    refused = finished

    def probed(self, method: str, path: str, status: int) -> None:
        return


class Nowhere:
    """A sink that takes everything."""

    def publish(self, batch: Sequence[Item]) -> int:
        return 0

    def close(self) -> None:
        return


def through_us(exchange: Exchange, prices: PriceBook) -> float:
    """From the hand-over to a sink, all threads counted."""
    best = float("inf")
    for _ in range(10):
        outlet = Outlet("bench", "bench", Manner("encoded", 10_000, 1_000, 0.05), Nowhere)
        publisher, routing = Publisher(100_000, 1), Routing((outlet,), ())
        began = time.process_time()
        for _ in range(5_000):
            publisher.submit(Job("g", partial(facts_of, exchange, prices), routing, 200))
        publisher.close(30)
        outlet.begin_close(30)
        outlet.finish_close()
        best = min(best, time.process_time() - began)
        assert outlet.statistics().published == 5_000
    return best / 5_000 * 1e6


def main() -> None:
    exchange = sample()
    prices = PriceBook({"openai": {"gpt-4o-mini": Price(1.5e-7, 6e-7, label="GPT-4o mini")}})
    settle_memory()
    facts = facts_of(exchange, prices)
    event = build(facts)
    models: Any = SimpleNamespace(prices=prices)
    meter = Meter(Metrics("bench"), models, Unseen())
    print(f"metrics  {cost_us(lambda: meter.finished(exchange)):6.1f} us")
    print(f"facts    {cost_us(lambda: facts_of(exchange, prices)):6.1f} us")
    print(f"build    {cost_us(lambda: build(facts)):6.1f} us")
    print(f"all of it, queues and threads included {through_us(exchange, prices):6.1f} us")
    print(f"encode   {cost_us(lambda: encode(metadata_view(event))):6.1f} us, {len(encode(event))} bytes")


if __name__ == "__main__":
    main()
