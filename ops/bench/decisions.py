"""What decisions cost: CPU a request to keep them, and the time of a plan over many of them.

    python ops/bench/decisions.py [REQUESTS]

The first number is user+system time of this process for `note`, the record, its bytes and the write, a request; the
file is a real one in a temporary folder. The second is a plan that changes routing, prices and a rate limit.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio

from trustgate.app.decisions import DecisionLog
from trustgate.app.explaining import compared
from trustgate.balance import strategies
from trustgate.decisions.store import DecisionFile
from trustgate.domain.entities import (
    Auth,
    Consumer,
    Fallback,
    Gateway,
    GatewayState,
    LLMTarget,
    ModelPolicy,
    Policy,
    Registry,
)
from trustgate.formats.canonical import Usage
from trustgate.identity.principal import Principal
from trustgate.providers.catalog import ModelCatalog
from trustgate.proxy.attempts import Targets
from trustgate.proxy.candidates import RoutingPlan, candidates_of
from trustgate.proxy.exchange import Attempt, Exchange
from trustgate.proxy.intent import intent_of
from trustgate.proxy.routes import match_route
from trustgate.view.gateway import GatewayView
from trustgate.wire.ids import uuid4

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-4.1")
WAVE, WARM = 1000, 50
"""Requests a write, and how many there are at a time: a request has just been handled when it is noted."""


def state() -> GatewayState:
    times: dict[str, Any] = {"created_at": NOW, "updated_at": NOW}
    registries = {
        id_: Registry(id=id_, gateway_id="g", name=id_, llm_target=LLMTarget(provider), **times)
        for id_, provider in (("one", "openai"), ("two", "openai"), ("three", "anthropic"))
    }
    consumers = {
        f"c{n}": Consumer(
            id=f"c{n}", gateway_id="g", name=f"c{n}", slug=f"c{n}", auth_ids=("a",),
            registry_ids=("one", "two", "three"),
            fallback=Fallback(enabled=True, triggers=("http_5xx",), chain=("three",)),
            model_policies={"one": ModelPolicy(default="gpt-4o"), "two": ModelPolicy(default="gpt-4o")}, **times,
        )
        for n in range(20)
    }  # fmt: skip
    return GatewayState(
        version=9,
        gateway=Gateway(id="g", slug="g", **times),
        registries=registries,
        consumers=consumers,
        auths={"a": Auth(id="a", gateway_id="g", name="a", type="api_key", key_hash="00", **times)},
    )


def exchanges(view: GatewayView, count: int) -> list[Exchange]:
    route = match_route("/v1/chat/completions", "POST")
    found: list[Exchange] = []
    for number in range(count):
        exchange = Exchange("POST", "/c/v1/chat/completions", b"", [(b"host", b"x")], b"x" * 400, "127.0.0.1")
        consumer = view.consumer(f"c{number % 20}")
        assert consumer is not None and route is not None
        exchange.view, exchange.consumer, exchange.route, exchange.trace_id = view, consumer, route, uuid4()
        exchange.principal = Principal(subject="a", method="api_key", auth_id="a")
        exchange.intent = intent_of(MODELS[number % 3])
        exchange.requested_model = exchange.intent.reference
        exchange.plan = RoutingPlan(candidates_of(consumer, exchange.intent, ()))
        balancer = strategies.build(consumer.algorithm, consumer.routes)
        exchange.targets = Targets(exchange, balancer, None)  # type: ignore[arg-type]
        exchange.picked = exchange.plan.first
        exchange.attempts.append(
            Attempt(
                registry_id="one", provider="openai", attempt=1, fallback=False, pinned=True, route="consumer",
                outcome="success", status_code=200, latency_ms=321,
            )
        )  # fmt: skip
        exchange.sent_model = exchange.provider_model = exchange.requested_model
        exchange.usage = Usage(input_tokens=120, output_tokens=80, total_tokens=200)
        exchange.reply_status, exchange.answered, exchange.stage = 200, True, "call_upstream"
        exchange.started_unix = NOW.timestamp() + number * 0.1
        exchange.ended_at = exchange.started_at + 0.3
        found.append(exchange)
    return found


async def keep(folder: pathlib.Path, count: int, models: ModelCatalog) -> tuple[float, float, DecisionFile]:
    """CPU seconds a request: on the request's path alone, and in all."""
    file = DecisionFile(folder / "decisions.db", 1e9, 1 << 30)
    log = DecisionLog(file, lambda: models.prices)
    view = GatewayView(state(), lambda ref: "")
    noted = total = 0.0
    for start in range(0, count, WAVE):
        wave = exchanges(view, WARM) * (WAVE // WARM)
        for number, exchange in enumerate(wave):
            exchange.started_unix = NOW.timestamp() + (start + number) * 0.1
        began = time.process_time()
        for exchange in wave:
            log.note(exchange)
        middle = time.process_time()
        await log.flush()
        noted += middle - began
        total += time.process_time() - began
    return noted / count, total / count, file


def planned() -> GatewayState:
    before = state()
    replace = msgspec.structs.replace
    consumers = {
        id_: replace(
            consumer, registry_ids=("two", "three"), model_policies={"two": ModelPolicy(("gpt-4o",), "gpt-4o")}
        )
        for id_, consumer in before.consumers.items()
    }
    limit = Policy(
        id="p", gateway_id="g", name="limit", slug="rate_limiter", enabled=True, global_=True, created_at=NOW,
        updated_at=NOW, settings={"limit": 20, "window": "1m"},
    )  # fmt: skip
    return replace(before, version=12, consumers=consumers, policies={"p": limit})


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        models = ModelCatalog()
        noted, total, file = trio.run(keep, pathlib.Path(folder), count, models)
        size = file.statistics()["bytes"] / count
        print(
            f"keep: {noted * 1e6:.2f} us on the request's path, {total * 1e6:.2f} us in all, {size:.0f} bytes a request"
        )
        began = time.perf_counter()
        summary = compared(file, state(), planned(), models.prices, 0, NOW.timestamp() * 2)
        seconds = time.perf_counter() - began
        kinds = {name: summary[name] for name in ("considered", "denied", "routed", "may_route", "priced")}
        print(f"plan: {count} decisions in {seconds:.2f} s", kinds)
        began = time.perf_counter()
        file.find(uuid4())
        print(f"find: {(time.perf_counter() - began) * 1000:.0f} ms for an unknown trace id among {count}")


if __name__ == "__main__":
    main()
