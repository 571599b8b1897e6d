"""semantic_cache: identity, hits, stores, bypasses (spec 04 §14.5)."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import coredis
import msgspec
import pytest

from trustgate.policies.answer_store import DIMENSIONS
from trustgate.policies.engine import Chain
from trustgate.policies.memory_answers import MemoryAnswers
from trustgate.policies.model import PolicyRequest, Run
from trustgate.policies.plugin import Environment
from trustgate.policies.redis_answers import RedisAnswers

from . import builders as b
from .guard_service import Asked, Guard, Reply, guard_service

HIT = [("X-Cache", "HIT"), ("X-Cache-Status", "HIT")]
MISS = [("X-Cache", "MISS"), ("X-Cache-Status", "MISS")]


def chat(text: str = "What is  UP?", **rest: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **rest}


async def ask(chain: Chain, request: PolicyRequest, answer: Any = None, **response: Any) -> Any:
    """One request through the chain: the outcome of a hit, else None after the upstream's answer was stored."""
    run = Run()
    outcome = await chain.pre_request(request, run)
    if outcome is not None:
        return outcome
    assert run.headers == MISS
    await chain.post_response(request, b.response(answer, **response), run)
    return None


def exact(**settings: Any) -> Chain:
    return b.chain(b.policy("semantic_cache", {"mode": "exact", **settings}))


async def test_the_same_text_is_answered_from_the_cache() -> None:
    chain = exact()
    assert await ask(chain, b.request(chat("What is  UP?")), b.answer("fine")) is None
    hit = await ask(chain, b.request(chat(" what IS up? ")))
    status, headers, body = hit.rendered()
    assert (status, headers) == (200, [*HIT, ("Content-Type", "application/json")])
    assert msgspec.json.decode(body) == b.answer("fine")


DIFFERENT = [
    ("model", chat(model="other"), {}),
    ("system", {"model": "m", "messages": [{"role": "system", "content": "S"}, *chat()["messages"]]}, {}),
    ("history", {"model": "m", "messages": [{"role": "assistant", "content": "S"}, *chat()["messages"]]}, {}),
    ("temperature", chat(temperature=0.1), {}),
    ("response format", chat(response_format={"type": "json_object"}), {}),
    ("seed", chat(seed=1), {}),
    ("stream", chat(stream=True), {}),
    ("dialect", chat(), {"source_format": "anthropic"}),
    ("consumer", chat(), {"consumer_id": "other"}),
    ("registry", chat(), {"registry_id": "other"}),
    ("endpoint", chat(), {"path": "/app/v1/responses"}),
]


@pytest.mark.parametrize(("name", "body", "rest"), DIFFERENT, ids=[case[0] for case in DIFFERENT])
async def test_what_shapes_an_answer_is_part_of_its_identity(name: str, body: Any, rest: dict[str, str]) -> None:
    chain = exact()
    await ask(chain, b.request(chat()))
    assert await ask(chain, b.request(body, **rest)) is None


@pytest.mark.parametrize("member", ["user", "metadata", "safety_identifier"])
async def test_who_asks_is_not(member: str) -> None:
    chain = exact()
    await ask(chain, b.request(chat()))
    assert await ask(chain, b.request(chat(**{member: "x"}))) is not None


async def test_the_global_scope_is_shared_by_consumers() -> None:
    chain = exact(scope="global")
    await ask(chain, b.request(chat(), path="/app/v1/chat/completions"))
    other = {"consumer_id": "other", "path": "/other/v1/chat/completions"}
    assert await ask(chain, b.request(chat(), **other)) is not None


BYPASSES = [
    ({"headers": [(b"cache-control", b"no-cache")]}, {}),
    ({"headers": [(b"cache-control", b"max-age=0, No-Cache")]}, {}),
    ({"headers": [(b"cache-control", b"no-store")]}, {}),
    ({"headers": [(b"x-cache-bypass", b"1")]}, {}),
    ({"headers": [(b"x-no", b"1")]}, {"bypass_header": "X-No"}),
]


@pytest.mark.parametrize(("rest", "settings"), BYPASSES)
async def test_a_bypass_neither_reads_nor_stores(rest: dict[str, Any], settings: dict[str, Any]) -> None:
    chain = exact(**settings)
    await ask(chain, b.request(chat(), **rest))
    assert await ask(chain, b.request(chat())) is None
    assert await ask(chain, b.request(chat(), **rest)) is None
    assert await ask(chain, b.request(chat())) is not None


CALLS = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
NOT_STORED = [
    ("status", {}, chat(), b.answer("x"), {"status": 404}),
    ("listed status", {"cache_only_on_status": [201]}, chat(), b.answer("x"), {"status": 200}),
    ("tool calls", {}, chat(), b.answer(None, message={"tool_calls": CALLS}), {}),
    ("tools", {}, chat(tools=[{"type": "function", "function": {"name": "f"}}]), b.answer("x"), {}),
    ("blank text", {}, chat(" "), b.answer("x"), {}),
    ("streams", {"skip_if_streaming": True}, chat(stream=True), b.answer("x"), {}),
]


@pytest.mark.parametrize(("name", "settings", "body", "answer", "response"), NOT_STORED, ids=[c[0] for c in NOT_STORED])
async def test_what_is_not_stored(name: str, settings: Any, body: Any, answer: Any, response: Any) -> None:
    chain = exact(**settings)
    await ask(chain, b.request(body), answer, **response)
    assert await ask(chain, b.request(body), answer, **response) is None


async def test_observing_never_serves_and_never_stores() -> None:
    services = b.make_services()
    observing = b.chain(b.policy("semantic_cache", {"mode": "exact"}, mode="observe"), services=services)
    enforcing = b.chain(b.policy("semantic_cache", {"mode": "exact"}), services=services)
    await ask(observing, b.request(chat()))
    assert await ask(enforcing, b.request(chat())) is None
    run = Run()
    assert await observing.pre_request(b.request(chat()), run) is None
    assert run.headers == MISS
    assert (run.marks[0].decision, run.marks[0].extras and run.marks[0].extras["cache_hit"]) == ("observe", True)


async def test_a_stream_is_replayed_as_server_sent_events() -> None:
    chain = exact()
    lines = b'data: {"a":1}\ndata: [DONE]\n'
    await ask(chain, b.request(chat(stream=True)), lines, streaming=True)
    hit = await ask(chain, b.request(chat(stream=True)))
    assert hit.rendered()[1] == [*HIT, ("Content-Type", "text/event-stream")]
    assert hit.body == b'data: {"a":1}\n\ndata: [DONE]\n\n'


async def test_an_incomplete_stream_is_not_stored() -> None:
    chain = exact()
    await ask(chain, b.request(chat(stream=True)), b"data: {}\n", streaming=True, complete=False)
    assert await ask(chain, b.request(chat(stream=True))) is None


def embedding(asked: Asked) -> Reply:
    """Texts that start with the same word point the same way, a little apart by their length."""
    text = asked.body["input"]
    angle = (hashlib.sha256(text.split()[0].encode()).digest()[0] % 8) * 0.7 + len(text) * 0.001
    return Reply({"data": [{"embedding": [3 * math.cos(angle), 3 * math.sin(angle)] + [0.0] * (DIMENSIONS - 2)}]})


def semantic(guard: Guard, **settings: Any) -> Chain:
    services = b.make_services(http=guard.http, environment=Environment(embeddings_base_url=guard.url))
    return b.chain(b.policy("semantic_cache", {"embedding": {"api_key": "k"}, **settings}), services=services)


async def test_a_near_text_is_answered_with_its_similarity() -> None:
    async with guard_service() as guard:
        guard.answer = embedding
        chain = semantic(guard)
        await ask(chain, b.request(chat("apple pie")), b.answer("tasty"))
        assert len(guard.asked) == 1
        hit = await ask(chain, b.request(chat("apple pies")))
        assert await ask(chain, b.request(chat("zebra crossing"))) is None
    asked = guard.asked[0]
    assert (asked.path, asked.headers["authorization"]) == ("/v1/embeddings", "Bearer k")
    assert asked.body == {"model": "text-embedding-ada-002", "input": "apple pie"}
    assert dict(hit.headers)["X-Cache-Similarity"] == "1.0000"


async def test_the_threshold_decides() -> None:
    async with guard_service() as guard:
        guard.answer = embedding
        chain = semantic(guard, similarity_threshold=1)
        await ask(chain, b.request(chat("apple pie")))
        assert await ask(chain, b.request(chat("apple " + "x" * 300))) is None


async def test_both_looks_for_equality_first() -> None:
    async with guard_service() as guard:
        guard.answer = embedding
        chain = semantic(guard, mode="both")
        await ask(chain, b.request(chat("apple pie")))
        hit = await ask(chain, b.request(chat("apple pie")))
        assert len(guard.asked) == 1
    assert "X-Cache-Similarity" not in dict(hit.headers)


@pytest.mark.parametrize("reply", [Reply({}, 500), Reply(b"<"), Reply({"data": []}), Reply(drop=True)])
async def test_trouble_with_embeddings_is_a_miss(reply: Reply) -> None:
    async with guard_service() as guard:
        guard.answer = lambda asked: reply
        run = Run()
        assert await semantic(guard).pre_request(b.request(chat()), run) is None
    assert run.marks[0].extras is not None
    assert run.marks[0].extras["degraded_reason"] == "embedding_failed"


async def test_without_a_key_the_semantic_mode_passes() -> None:
    run = Run()
    assert await b.chain(b.policy("semantic_cache", {})).pre_request(b.request(chat()), run) is None
    assert run.marks[0].extras is not None
    assert run.marks[0].extras["degraded_reason"] == "embedding_service_unavailable"


async def test_a_blank_partition_degrades() -> None:
    run = Run()
    assert await exact().pre_request(b.request(chat(), consumer_id=""), run) is None
    assert run.marks[0].extras is not None
    assert run.marks[0].extras["degraded_reason"] == "no_partition"


async def test_two_processes_share_redis_entries(redis_url: str) -> None:
    async with coredis.Redis.from_url(redis_url) as client:
        environment = Environment(vector_store="redis")
        policy = b.policy("semantic_cache", {"mode": "exact"})
        first, second = (
            b.chain(policy, services=b.make_services(caches={"redis": RedisAnswers(client)}, environment=environment))
            for _ in range(2)
        )
        body = chat(f"shared {id(client)}")
        await ask(first, b.request(body))
        assert await ask(second, b.request(body)) is not None


@pytest.mark.parametrize("size", [2, DIMENSIONS])
async def test_vectors_of_different_models_are_not_compared(size: int) -> None:
    store = MemoryAnswers()
    async with guard_service() as guard:
        sizes = {"text-embedding-ada-002": DIMENSIONS, "other": size}
        guard.answer = lambda asked: Reply({"data": [{"embedding": [1.0] * sizes[asked.body["model"]]}]})
        for model in ("text-embedding-ada-002", "other"):
            services = b.make_services(
                http=guard.http, environment=Environment(embeddings_base_url=guard.url), caches={"in_memory": store}
            )
            settings = {"embedding": {"api_key": "k"}, "embedding_model": model}
            chain = b.chain(b.policy("semantic_cache", settings), services=services)
            assert await ask(chain, b.request(chat("apple pie"))) is None
            assert await ask(chain, b.request(chat("apple pies"))) is not None
