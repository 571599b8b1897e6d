"""The semantic cache as clients of the OpenAI SDK see it, on each store, over two processes (spec 04 §14.5)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import openai
import psycopg
import pytest

from tests.e2e.installation import Demo, Installation, installed
from tests.e2e.openai_api import OpenAiApi, similarity
from tests.e2e.test_many_processes import database_settings, redis_settings
from tests.e2e.upstream import TEXT, FaultyUpstream

WAIT_S = 60.0
QUESTION = "Please tell me what the capital city of France is called"
NEAR = "Please tell me what the capital city of France is called today"
FAR = "How many legs does a spider have"


Proxies = tuple[str, list[Installation]]
"""The DSN of their database, if they have one, and two proxies (one, where the store is the process's own)."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAiApi]:
    running = OpenAiApi(tmp_path_factory.mktemp("openai"))
    yield running
    running.close()


@pytest.fixture(params=["in_memory", "redis", "pgvector"], scope="module")
def proxies(
    request: pytest.FixtureRequest, api: OpenAiApi, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxies]:
    store: str = request.param
    settings = {"SEMANTIC_CACHE_VECTOR_STORE": store} | api.environment
    if store == "redis":
        settings |= redis_settings(request.getfixturevalue("redis_search_url"))
        settings |= database_settings(request.getfixturevalue("postgres_dsn"))
    elif store == "pgvector":
        settings |= database_settings(request.getfixturevalue("pgvector_server"))
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(installed(tmp_path_factory.mktemp("first"), "run", **settings))]
        if store != "in_memory":
            found.append(stack.enter_context(installed(tmp_path_factory.mktemp("second"), "proxy", **settings)))
        dsn = "postgresql://{DB_USER}:{DB_PASSWORD}@{DB_HOST}:{DB_PORT}/{DB_NAME}" if "DB_HOST" in settings else ""
        yield dsn.format_map(settings), found


def client_of(demo: Demo, at: Installation) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{at.proxy}/{demo.slug}/v1",
        api_key=demo.key,
        default_headers={"X-AG-Gateway-Slug": demo.gateway_slug},
        max_retries=0,
    )


def ask(client: openai.OpenAI, text: str = QUESTION, *, system: str = "", **more: Any) -> Any:
    """The headers of the answer, whose content must be the provider's."""
    messages: Any = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    raw = client.chat.completions.with_raw_response.create(**{"model": "m", "messages": messages} | more)
    answer = raw.parse()
    if more.get("stream"):
        chunks = list(answer)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
        assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [9]
    else:
        assert answer.choices[0].message.content == TEXT
    assert raw.headers["x-cache"] == raw.headers["x-cache-status"]
    return raw.headers


def until(status: str, client: openai.OpenAI, text: str = QUESTION, **more: Any) -> Any:
    """Ask until the cache says so: answers are kept after the client has them."""
    deadline = time.monotonic() + WAIT_S
    while (headers := ask(client, text, **more))["x-cache"] != status:
        assert time.monotonic() < deadline, f"no {status}"
        time.sleep(0.1)
    return headers


def opened(at: Installation, upstream: FaultyUpstream, **settings: Any) -> Demo:
    demo = Demo(at)
    demo.registry("only", upstream.url("ok"))
    demo.open()
    demo.policy("semantic_cache", {"embedding": {"api_key": "sk-embed"}} | settings)
    return demo


def test_equal_and_near_prompts_are_answered_by_every_process(
    proxies: Proxies, api: OpenAiApi, upstream: FaultyUpstream
) -> None:
    _, installations = proxies
    demo = opened(installations[0], upstream, mode="both")
    first, last = (client_of(demo, at) for at in (installations[0], installations[-1]))
    api.asked.clear()
    assert ask(first)["x-cache"] == "MISS"
    until("HIT", first)
    path, authorization, body = api.asked[0]
    assert (path, authorization) == ("/v1/embeddings", "Bearer sk-embed")
    assert body == {"model": "text-embedding-ada-002", "input": QUESTION}

    reached = len(upstream.requests("ok"))
    headers = ask(last, "  please TELL me what the capital city of france is  called ")
    assert (headers["x-cache"], headers.get("x-cache-similarity")) == ("HIT", None)
    assert headers["content-type"] == "application/json"
    headers = until("HIT", last, NEAR)
    assert float(headers["x-cache-similarity"]) == pytest.approx(similarity(QUESTION, NEAR), abs=2e-4)
    assert len(headers["x-cache-similarity"]) == 6
    assert len(upstream.requests("ok")) == reached

    assert ask(last, FAR)["x-cache"] == "MISS"
    assert ask(last, extra_headers={"Cache-Control": "no-cache"})["x-cache"] == "MISS"
    for different in ({"model": "other"}, {"system": "Be brief"}, {"temperature": 0.5}, {"stream": True}):
        assert ask(last, **different)["x-cache"] == "MISS", different


def test_a_stream_is_replayed_as_a_stream(proxies: Proxies, upstream: FaultyUpstream) -> None:
    _, installations = proxies
    demo = opened(installations[0], upstream, mode="exact")
    options = {"stream": True, "stream_options": {"include_usage": True}}
    assert ask(client_of(demo, installations[0]), **options)["x-cache"] == "MISS"
    headers = until("HIT", client_of(demo, installations[-1]), **options)
    assert headers["content-type"].startswith("text/event-stream")


def test_consumers_do_not_share_entries_unless_the_scope_is_global(proxies: Proxies, upstream: FaultyUpstream) -> None:
    _, installations = proxies
    for scope, expected in (("consumer", "MISS"), ("global", "HIT")):
        demo = opened(installations[0], upstream, mode="both", scope=scope)
        until("HIT", client_of(demo, installations[0]))
        demo.open(name="other")
        demo.policy("semantic_cache", {"mode": "both", "scope": scope, "embedding": {"api_key": "k"}}, name="other")
        assert ask(client_of(demo, installations[-1]))["x-cache"] == expected


def test_entries_live_as_long_as_the_policy_says(proxies: Proxies, upstream: FaultyUpstream) -> None:
    _, installations = proxies
    demo = opened(installations[0], upstream, mode="semantic", ttl_seconds=4)
    client = client_of(demo, installations[-1])
    until("HIT", client)
    until("MISS", client)


def test_the_store_that_a_policy_names_is_used_where_the_installation_has_it(
    proxies: Proxies, upstream: FaultyUpstream
) -> None:
    """`pgvector` for one policy, where Redis or the process is the store of the others."""
    dsn, installations = proxies
    demo = opened(installations[0], upstream, mode="exact", vector_store="pgvector")
    for at in installations:
        until("HIT", client_of(demo, at))
    if dsn:
        with psycopg.connect(dsn) as reader:
            kept = reader.execute("SELECT count(*) FROM semantic_cache_exact").fetchone()
        assert kept is not None
        assert kept[0] > 0
