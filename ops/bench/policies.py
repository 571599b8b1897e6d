"""CPU microseconds a request spends in policies: in process, and with Redis at concurrency 32.

Run: python ops/bench/policies.py [redis-url]. Process CPU time divided by requests, best of five rounds; the chain is
compiled once, a fresh `Run` and `PolicyRequest` are made for each request, as the proxy does.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import coredis
import msgspec
import trio

from trustgate.domain.entities import Consumer, Gateway, GatewayState, Policy
from trustgate.limits import Limits, MemoryLimits
from trustgate.limits.redis import redis_limits
from trustgate.policies.engine import Chain, compile_chain
from trustgate.policies.model import PolicyRequest, PolicyResponse, Run, TokenUsage
from trustgate.policies.plugin import HttpReply, Services
from trustgate.view.gateway import GatewayView

AT = datetime(2026, 1, 1, tzinfo=UTC)
BODY = msgspec.json.encode(
    {
        "model": "gpt-4o",
        "temperature": 0.2,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant that answers briefly."},
            {"role": "user", "content": "Explain in two sentences why the sky is blue. " * 4},
        ],
    }
)
ANSWER = msgspec.json.encode(
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Rayleigh scattering. " * 20}}]}
)
HEADERS = [
    (b"host", b"gateway.example"),
    (b"content-type", b"application/json"),
    (b"content-length", str(len(BODY)).encode()),
    (b"x-ag-api-key", b"0" * 40),
]

RATE = ("rate_limiter", {"limit": 10**9, "window": "1m"}, ())
SIZE = ("request_size_limiter", {"allowed_payload_size": 1}, ())
REGEX = ("regex_replace", {"target": "request", "rules": [{"pattern": r"\d{3}-\d{2}-\d{4}"}]}, ("pre_request",))
REGEX_HIT = (
    "regex_replace",
    {"target": "request", "rules": [{"pattern": "sky", "replacement": "sea"}]},
    ("pre_request",),
)
MODELS = ("model_allowlist", {"allowed_models": ["gpt-*"]}, ())
TOOLS = ("tool_allowlist", {"allow_tools": ["a*"]}, ())
EXACT = ("semantic_cache", {"mode": "exact"}, ())
SEMANTIC = ("semantic_cache", {"mode": "semantic", "embedding": {"api_key": "k"}}, ())
BUDGET = ("token_rate_limiter", {"aggregate": {"max": 10**12, "time_window": "1h"}}, ())

CASES: dict[str, tuple[Any, ...]] = {
    "no policy": (),
    "rate_limiter": (RATE,),
    "request_size_limiter": (SIZE,),
    "regex_replace, no match": (REGEX,),
    "regex_replace, rewriting": (REGEX_HIT,),
    "model_allowlist": (MODELS,),
    "token_rate_limiter": (BUDGET,),
    "semantic_cache, exact hit": (EXACT,),
    "semantic_cache, semantic hit": (SEMANTIC,),
    "rate + token + model + tool lists": (RATE, BUDGET, MODELS, TOOLS),
}


def chain_of(policies: tuple[Any, ...], limits: Limits) -> Chain:
    made = {
        f"{index:08d}-0000-7000-8000-000000000000": Policy(
            id=f"{index:08d}-0000-7000-8000-000000000000",
            gateway_id="g",
            name=slug,
            slug=slug,
            created_at=AT,
            updated_at=AT,
            enabled=True,
            parallel=True,
            settings=settings,
            stages=stages,
            consumer_ids=("c",),
        )
        for index, (slug, settings, stages) in enumerate(policies)
    }
    consumer = Consumer(id="c", gateway_id="g", name="c", slug="c", created_at=AT, updated_at=AT)
    gateway = Gateway(id="g", slug="g", created_at=AT, updated_at=AT)
    view = GatewayView(
        GatewayState(version=1, gateway=gateway, consumers={"c": consumer}, policies=made), lambda ref: ref
    )
    compiled = view.consumer("c")
    assert compiled is not None
    return compile_chain(compiled, view.identity, Services(limits=limits, http=embedded))


VECTOR = msgspec.json.encode({"data": [{"embedding": [0.01 * (at % 17) for at in range(1536)]}]})


async def embedded(url: str, headers: Any, body: bytes, *, timeout_s: float, max_bytes: int = 0) -> HttpReply:
    """The embedding service, which is not measured but for reading its answer."""
    return HttpReply(200, {}, VECTOR)


USAGE = TokenUsage(10, 10, 20)


async def request(chain: Chain) -> None:
    if chain.empty:
        return
    made = PolicyRequest(
        body=BODY,
        headers=HEADERS,
        gateway_id="g",
        consumer_id="c",
        session_id="s",
        source_format="openai",
        requested_model="gpt-4o",
        registry_id="r",
        provider="openai",
    )
    run = Run()
    outcome = await chain.pre_request(made, run)
    if outcome is not None:  # the cache's
        assert outcome.status == 200
    elif chain.has_post_response:
        await chain.post_response(made, PolicyResponse(body=ANSWER, usage=USAGE), run)


async def measure(work: Callable[[], Awaitable[None]], count: int, clients: int) -> float:
    """Microseconds of process CPU a call, best of five."""

    async def client() -> None:
        for _ in range(count // clients):
            await work()

    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        async with trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(client)
        best = min(best, (time.process_time() - started) / count * 1e6)
    return best


async def main(redis_url: str | None) -> None:
    print(f"{'in process':40} us/request")
    for name, policies in CASES.items():
        chain = chain_of(policies, MemoryLimits())
        print(f"{name:40} {await measure(lambda chain=chain: request(chain), 20_000, 1):8.2f}")  # type: ignore[misc]
    if redis_url is None:
        return
    async with coredis.Redis.from_url(redis_url) as client, redis_limits(client) as limits:
        for clients in (1, 8, 32):
            print(f"\n{f'Redis, {clients} at once':40} us/request")
            for name in ("rate_limiter", "token_rate_limiter", "rate + token + model + tool lists"):
                chain = chain_of(CASES[name], limits)
                spent = await measure(lambda chain=chain: request(chain), 3_200, clients)  # type: ignore[misc]
                print(f"{name:40} {spent:8.2f}")


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else None)
