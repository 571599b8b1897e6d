"""rate_limiter, request_size_limiter, token_rate_limiter and per_tool_rate_limiter (spec 04 §14.1-14.4)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from trustgate.limits import LimitsUnavailable, MemoryLimits, Peek, Slide
from trustgate.policies.model import Run, TokenUsage
from trustgate.policies.plugin import Price

from . import builders as b

NOW = 1_700_000_000.0


def services(**rest: Any) -> Any:
    return b.make_services(clock=lambda: NOW, **rest)


class Broken:
    """Counters that cannot be reached."""

    waits = False

    async def run(self, ops: Any) -> Any:
        raise LimitsUnavailable("gone")


STATEFUL = [
    ("rate_limiter", {"limit": 1, "window": "1m"}),
    ("token_rate_limiter", {"aggregate": {"max": 1, "time_window": "1m"}}),
]


@pytest.mark.parametrize(("slug", "settings"), STATEFUL)
async def test_counters_that_are_gone_are_a_backend_error(slug: str, settings: dict[str, Any]) -> None:
    chain = b.chain(b.policy(slug, settings), services=services(limits=Broken()))
    outcome = await chain.pre_request(b.request(), Run())
    assert outcome is not None
    assert outcome.rendered()[2] == b'{"error":"backend_error"}'


async def test_a_global_policy_counts_for_the_gateway() -> None:
    limits = MemoryLimits()
    policy = b.policy("rate_limiter", {"limit": 5, "window": "90s"}, global_=True, consumer_ids=())
    run = Run()
    await b.chain(policy, services=services(limits=limits)).pre_request(b.request(), run)
    assert run.headers == [
        ("X-RateLimit-global-Limit", "5"),
        ("X-RateLimit-global-Remaining", "4"),
        ("X-RateLimit-global-Reset", str(int(NOW) + 90)),
    ]
    assert list(limits._entries) == [f"ratelimit:{policy.id}:global:{b.GATEWAY}"]


async def test_each_value_of_a_header_has_its_own_counter() -> None:
    chain = b.chain(b.policy("rate_limiter", {"limit": 1, "window": "1m", "group_by_header": "X-Team"}))
    for value in (b"red", b"blue"):
        request = b.request(headers=[(b"x-team", b""), (b"x-team", value)])
        assert await chain.pre_request(request, Run()) is None
        assert await chain.pre_request(request, Run()) is not None
    assert await chain.pre_request(b.request(), Run()) is None


THROTTLE = [("1m", 60, 1.0), ("10s", 1, 2.0), ("1s", 10, 0.1)]


@pytest.mark.parametrize(("window", "limit", "delay_s"), THROTTLE)
async def test_throttling_delays_and_lets_pass(autojump_clock: Any, window: str, limit: int, delay_s: float) -> None:
    chain = b.chain(b.policy("rate_limiter", {"limit": limit, "window": window}, mode="throttle"))
    for _ in range(limit):
        await chain.pre_request(b.request(), Run())
    started, run = trio.current_time(), Run()
    assert await chain.pre_request(b.request(), run) is None
    assert trio.current_time() - started == pytest.approx(delay_s)
    assert (run.marks[0].decision, run.marks[0].flagged) == ("throttle", True)


async def test_throttled_requests_are_recorded_behind_their_delay(autojump_clock: Any) -> None:
    limits = MemoryLimits(trio.current_time)
    policy = b.policy("rate_limiter", {"limit": 1, "window": "1h"}, mode="throttle")
    chain = b.chain(policy, services=services(limits=limits))

    async def recorded() -> int:
        (slid,) = await limits.run((Slide(f"ratelimit:{policy.id}:consumer:{b.CONSUMER}", 3_600_000, 0),))
        return slid.count  # type: ignore[union-attr]

    await chain.pre_request(b.request(), Run())
    with trio.move_on_after(1) as left:
        await chain.pre_request(b.request(), Run())
    assert (left.cancelled_caught, await recorded()) == (True, 1)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(chain.pre_request, b.request(), Run())
        await trio.sleep(1.9)
        assert await recorded() == 1
    assert await recorded() == 4


async def test_no_more_than_the_limit_go_without_a_delay(autojump_clock: Any) -> None:
    chain = b.chain(b.policy("rate_limiter", {"limit": 5, "window": "1h"}, mode="throttle"))
    started, delays = trio.current_time(), []

    async def client() -> None:
        assert await chain.pre_request(b.request(), Run()) is None
        delays.append(trio.current_time() - started)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(client)
    assert sorted(delays) == [0.0] * 5 + [2.0] * 15


RETRIES = [("5", 5), ("0", None), ("-5", None), ("soon", None), ("9" * 19, None), ("9" * 5000, None), ("١", None)]


@pytest.mark.parametrize(("retry_after", "seconds"), RETRIES)
async def test_retry_after_is_free_text(retry_after: str, seconds: int | None) -> None:
    chain = b.chain(b.policy("rate_limiter", {"limit": 1, "window": "90s", "retry_after": retry_after}))
    await chain.pre_request(b.request(), Run())
    outcome = await chain.pre_request(b.request(), Run())
    assert outcome is not None
    body = msgspec.json.decode(outcome.rendered()[2])
    assert body.get("retry_after_seconds") == seconds
    assert body["message"] == f"Request blocked: consumer rate limit exceeded. Retry after {retry_after}s."
    assert list(body)[:4] == ["error", "limit", "message", "reason"]


async def test_the_marks_of_a_rate_limiter() -> None:
    chain = b.chain(b.policy("rate_limiter", {"limit": 1, "window": "5s"}))
    run = Run()
    await chain.pre_request(b.request(), run)
    await chain.pre_request(b.request(), run)
    first, second = run.marks
    assert (first.decision, first.status_code, second.decision, second.status_code) == ("", 200, "block", 429)
    assert first.extras == {
        "rate_limit_exceeded": False,
        "exceeded_type": "consumer",
        "current_count": 0,
        "limit": 1,
        "window": "5s",
    }
    assert second.extras == {
        "rate_limit_exceeded": True,
        "exceeded_type": "consumer",
        "retry_after": "5",
        "current_count": 1,
        "limit": 1,
        "window": "5s",
    }


CHARACTERS = [(b"abc", 3), ("é€😀".encode(), 3), (b"a\xff\xfeb", 4), (b"\xe2\x82", 2)]


@pytest.mark.parametrize(("body", "count"), CHARACTERS)
async def test_characters_are_code_points_and_invalid_bytes(body: bytes, count: int) -> None:
    run = Run()
    await b.chain(b.policy("request_size_limiter", {"allowed_payload_size": 1})).pre_request(b.request(body), run)
    assert dict(run.headers)["X-Request-Size-Chars"] == str(count)


async def test_content_length_is_not_asked_for_on_mcp() -> None:
    settings = {"allowed_payload_size": 1, "require_content_length": True}
    chain = b.chain(b.policy("request_size_limiter", settings), type="MCP")
    assert await chain.pre_request(b.mcp_request("t"), Run()) is None


def usage(total: int) -> TokenUsage:
    return TokenUsage(input=total, total=total)


async def spend(chain: Any, request: Any, tokens: TokenUsage, **rest: Any) -> Any:
    run = Run()
    outcome = await chain.pre_request(request, run)
    if outcome is None:
        await chain.post_response(request, b.response(usage=tokens, **rest), run)
    await chain.release(run)
    return outcome, dict(run.headers)


COUNTING = [
    ({}, 30),
    ({"count_cache_reads": True}, 26),
    ({"counting": "input"}, 33),
    ({"counting": "input", "count_cache_reads": True}, 29),
    ({"counting": "output"}, 37),
]


@pytest.mark.parametrize(("settings", "left"), COUNTING)
async def test_what_counts_as_spent(settings: dict[str, Any], left: int) -> None:
    settings = settings | {"aggregate": {"max": 40, "time_window": "1m"}}
    chain = b.chain(b.policy("token_rate_limiter", settings))
    await spend(chain, b.request(), TokenUsage(input=7, output=3, total=10, cache_read=4))
    _outcome, headers = await spend(chain, b.request(), usage(1))
    assert headers["X-Ratelimit-Remaining-Tokens"] == str(left)


async def test_an_answer_that_was_blocked_is_still_charged() -> None:
    chain = b.chain(b.policy("token_rate_limiter", {"aggregate": {"max": 10, "time_window": "1m"}}))
    run = Run()
    await chain.pre_request(b.request(), run)
    await chain.post_response(b.request(), b.response(usage=usage(10)), run, charge_only=True)
    outcome, _ = await spend(chain, b.request(), usage(1))
    assert outcome is not None


async def test_usage_of_an_abandoned_stream_is_charged() -> None:
    chain = b.chain(b.policy("token_rate_limiter", {"aggregate": {"max": 10, "time_window": "1m"}}))
    await spend(chain, b.request(), usage(10), streaming=True, complete=False)
    outcome, _ = await spend(chain, b.request(), usage(1))
    assert outcome is not None


TARGETS = [
    # downgrade_to, model that is used (None: refused)
    ("cheap", "cheap"),
    ("@OpenAI/cheap", "cheap"),
    ("@other/cheap", None),
    ("auto", None),
    ("pool:x", None),
]


@pytest.mark.parametrize(("target", "model"), TARGETS)
async def test_which_targets_a_downgrade_can_use(target: str, model: str | None) -> None:
    settings = {
        "aggregate": {"max": 1, "time_window": "1m"},
        "behavior_on_exceeded": "downgrade_model",
        "downgrade_to": target,
    }
    chain = b.chain(b.policy("token_rate_limiter", settings))
    await spend(chain, b.request(), usage(5))
    request = b.request()
    outcome, headers = await spend(chain, request, usage(1))
    if model is None:
        assert outcome is not None
        assert outcome.status == 429
        return
    assert outcome is None
    assert msgspec.json.decode(request.body)["model"] == model
    name = headers["X-NeuralTrust-Model-Downgraded"].encode("latin-1").decode()
    assert name == f"gpt-x→{model}"


async def test_downgraded_traffic_is_charged_to_the_new_models_rule() -> None:
    limits = MemoryLimits()
    policy = b.policy(
        "token_rate_limiter",
        {
            "rules": [
                {"model": "gpt-*", "max": 5, "time_window": "1m"},
                {"model": "cheap", "max": 50, "time_window": "1m"},
            ],
            "behavior_on_exceeded": "downgrade_model",
            "downgrade_to": "cheap",
        },
    )
    chain = b.chain(policy, services=services(limits=limits))
    await spend(chain, b.request(), usage(5))
    await spend(chain, b.request(), usage(7))
    base = f"trl:{policy.id}:consumer:{b.CONSUMER}:model:"
    (peeked,) = await limits.run((Peek((base + "gpt-*", base + "cheap")),))
    assert peeked.values == (5, 7)  # type: ignore[union-attr]


PRICES = [
    # catalog, custom prices, provider, model, micro-USD of 1000 input and 100 output tokens
    ({("openai", "gpt-x"): Price(0.001, 0.01)}, {}, "openai", "gpt-x", 2_000_000),
    ({("openai", "gpt-x"): Price(0.001, 0.01)}, {}, "openai_compatible", "gpt-x", 2_000_000),
    ({("openai", "gpt-x"): Price(0.001, 0.01)}, {}, "openai", "gpt-x-2024-08-06", 2_000_000),
    ({("bedrock", "a.b"): Price(0.001, 0.01)}, {}, "bedrock", "us.a.b-2024-08-06", 2_000_000),
    ({("openai", "gpt-x"): Price(1, 1)}, {"gpt-*": {"input": 0.002}}, "openai", "gpt-x", 2_000_000),
    ({}, {}, "openai", "gpt-x", 0),
]


@pytest.mark.parametrize(("catalog", "custom", "provider", "model", "cost"), PRICES)
async def test_dollars_are_priced_from_custom_prices_then_the_catalog(
    catalog: Any, custom: Any, provider: str, model: str, cost: int
) -> None:
    settings = {"unit": "dollars", "aggregate": {"max": 100, "time_window": "1m"}, "custom_pricing": custom}
    found = services(price=lambda code, name: catalog.get((code, name)))
    chain = b.chain(b.policy("token_rate_limiter", settings), services=found)
    request = b.request({"model": model, "messages": []}, provider=provider, requested_model=model)
    await spend(chain, request, TokenUsage(input=1000, output=100, total=1100))
    _, headers = await spend(chain, request, usage(0))
    assert headers["X-Budget-Remaining-Usd"] == f"{100 - cost / 1e6:.6f}"


RESERVING = {"aggregate": {"max": 1000, "time_window": "1m"}, "reserve": True}


def bounded(tokens: int) -> Any:
    return b.request({"model": "gpt-x", "max_tokens": tokens, "messages": []})


async def test_a_reserving_budget_is_never_overshot_by_concurrent_requests() -> None:
    limits = MemoryLimits()
    policy = b.policy("token_rate_limiter", RESERVING)
    chain = b.chain(policy, services=services(limits=limits))
    answered = trio.Event()
    admitted: list[Run] = []

    async def client() -> None:
        request, run = bounded(300), Run()
        if await chain.pre_request(request, run) is None:
            admitted.append(run)
            await answered.wait()
            await chain.post_response(request, b.response(usage=usage(300)), run)
        await chain.release(run)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(client)
        await trio.testing.wait_all_tasks_blocked()
        answered.set()
    key = f"trl:{policy.id}:consumer:{b.CONSUMER}"
    (peeked,) = await limits.run((Peek((key,)),))
    assert len(admitted) == 2
    assert (peeked.values, peeked.held) == ((600,), (0,))  # type: ignore[union-attr]


async def test_a_client_that_leaves_gives_its_reservation_back() -> None:
    limits = MemoryLimits()
    policy = b.policy("token_rate_limiter", RESERVING)
    chain = b.chain(policy, services=services(limits=limits))
    with trio.CancelScope() as scope:
        run = Run()
        try:
            await chain.pre_request(bounded(900), run)
            scope.cancel()
            await trio.sleep_forever()
        finally:
            await chain.release(run)
    (peeked,) = await limits.run((Peek((f"trl:{policy.id}:consumer:{b.CONSUMER}",)),))
    assert (peeked.values, peeked.held) == ((0,), (0,))  # type: ignore[union-attr]


def conversation(*results: str, tools: tuple[str, ...] = ("search", "other")) -> dict[str, Any]:
    calls = [{"id": id_, "type": "function", "function": {"name": "search", "arguments": "{}"}} for id_ in results]
    messages: list[Any] = [{"role": "user", "content": "q"}]
    if results:
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        messages += [{"role": "tool", "tool_call_id": id_, "content": "r"} for id_ in results]
    offered = [{"type": "function", "function": {"name": name, "strict": True}} for name in tools]
    return {"model": "m", "messages": messages, "tools": offered, "tool_choice": "auto", "parallel_tool_calls": True}


def quota(behavior: str = "reject_response", most: int = 1, **rest: Any) -> Any:
    rules = [{"tool": "sea*", "windows": [{"duration": "1m", "max": most}], "behavior": behavior}]
    return b.policy("per_tool_rate_limiter", {"rules": rules}, **rest)


async def test_a_result_counts_once_and_the_next_offer_is_refused() -> None:
    chain = b.chain(quota(most=1), services=services())
    assert await chain.pre_request(b.request(conversation("c1")), Run()) is None
    outcome = await chain.pre_request(b.request(conversation("c1")), Run())
    assert outcome is not None
    status, headers, body = outcome.rendered()
    assert (status, body) == (429, b'{"error":"plugin_rejected","message":"tool \\"search\\" rate limit exceeded"}')
    assert dict(headers) == {
        "X-RateLimit-consumer-Limit": "1",
        "X-RateLimit-consumer-Remaining": "0",
        "X-RateLimit-consumer-Reset": str(int(NOW) + 60),
        "X-RateLimit-Tool": "search",
        "Retry-After": "60",
        "Content-Type": "application/json",
    }


async def test_the_same_result_twice_counts_once() -> None:
    chain = b.chain(quota(most=2))
    for _ in range(5):
        assert await chain.pre_request(b.request(conversation("c1")), Run()) is None
    await chain.pre_request(b.request(conversation("c2")), Run())
    assert await chain.pre_request(b.request(conversation()), Run()) is not None


async def test_a_spent_tool_is_stripped_and_others_keep_their_members() -> None:
    chain = b.chain(quota("strip_tool_from_request"))
    await chain.pre_request(b.request(conversation("c1")), Run())
    request = b.request(conversation())
    assert await chain.pre_request(request, Run()) is None
    body = msgspec.json.decode(request.body)
    assert body["tools"] == [{"type": "function", "function": {"name": "other", "strict": True}}]
    assert body["tool_choice"] == "auto"


async def test_without_tools_left_the_choice_of_one_goes_too() -> None:
    chain = b.chain(quota("strip_tool_from_request"))
    await chain.pre_request(b.request(conversation("c1")), Run())
    request = b.request(conversation(tools=("search",)))
    await chain.pre_request(request, Run())
    assert msgspec.json.decode(request.body).keys() == {"model", "messages"}


@pytest.mark.parametrize(("stream", "offered"), [(True, ["other"]), (False, ["search", "other"])])
async def test_injecting_strips_only_where_the_answer_is_streamed(stream: bool, offered: list[str]) -> None:
    chain = b.chain(quota("inject_error_result"))
    await chain.pre_request(b.request(conversation("c1")), Run())
    request = b.request(conversation() | {"stream": stream})
    await chain.pre_request(request, Run())
    assert [tool["function"]["name"] for tool in msgspec.json.decode(request.body)["tools"]] == offered


REFUSED = 'The tool "search" (call x) is rate limited and was not executed. Please slow down and retry later.'
ANSWERS = [
    (
        "openai",
        b.answer("hm. ", finish_reason="tool_calls", message={"tool_calls": [
            {"id": "x", "type": "function", "function": {"name": "search", "arguments": "{}"}}]}),
        b.answer("hm. " + REFUSED, finish_reason="stop"),
    ),
    (
        "openai",
        b.answer(None, finish_reason="tool_calls", message={"tool_calls": [
            {"id": "x", "type": "function", "function": {"name": "search", "arguments": "{}"}},
            {"id": "y", "type": "function", "function": {"name": "other", "arguments": "{}"}}]}),
        b.answer(REFUSED, finish_reason="tool_calls", message={"tool_calls": [
            {"id": "y", "type": "function", "function": {"name": "other", "arguments": "{}"}}]}),
    ),
    (
        "anthropic",
        {"content": [{"type": "tool_use", "id": "x", "name": "search", "input": {}}], "stop_reason": "tool_use"},
        {"content": [{"type": "text", "text": REFUSED}], "stop_reason": "end_turn"},
    ),
    (
        "openai_responses",
        {"output": [{"type": "function_call", "call_id": "x", "name": "search", "arguments": "{}"}]},
        {"output": [{"type": "message", "role": "assistant", "status": "completed", "content": [
            {"type": "output_text", "text": REFUSED, "annotations": []}]}]},
    ),
    (
        "cohere",
        {"finish_reason": "TOOL_CALL", "message": {"role": "assistant", "tool_plan": "p", "tool_calls": [
            {"id": "x", "type": "function", "function": {"name": "search", "arguments": "{}"}}]}},
        {"finish_reason": "COMPLETE", "message": {"role": "assistant", "tool_plan": "p", "content": [
            {"type": "text", "text": REFUSED}]}},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "answer", "expected"), ANSWERS)
async def test_a_spent_call_in_an_answer_becomes_an_error_text(dialect: str, answer: Any, expected: Any) -> None:
    chain = b.chain(quota("inject_error_result"))
    await chain.pre_request(b.request(conversation("c1")), Run())
    response = b.response(answer)
    assert await chain.pre_response(b.request(source_format=dialect), response, Run()) is None
    assert msgspec.json.decode(response.body) == expected


async def test_on_mcp_a_call_counts_when_the_upstream_answered() -> None:
    chain = b.chain(quota("strip_tool_from_request"), type="MCP")
    for _ in range(3):
        assert await chain.pre_request(b.mcp_request("search"), Run()) is None
    await chain.pre_response(b.mcp_request("search"), b.response({"content": []}), Run())
    outcome = await chain.pre_request(b.mcp_request("search"), Run())
    assert outcome is not None
    assert (outcome.kind, outcome.status, outcome.message) == ("reject", 429, 'tool "search" rate limit exceeded')
    assert await chain.pre_request(b.mcp_request("other"), Run()) is None


async def test_listing_tools_counts_nothing() -> None:
    limits = MemoryLimits()
    chain = b.chain(quota(), services=services(limits=limits), type="MCP")
    request = b.mcp_request("x")
    request.body = b"{}"
    await chain.pre_response(request, b.response({"tools": [{"name": "search"}]}), Run())
    assert limits.statistics()["keys"] == 0


@pytest.mark.parametrize(
    ("retry_after", "sent"), [("später", "spÃ¤ter"), ("5\r\nX-Evil: 1", "5X-Evil: 1"), ("5\n", "5")]
)
async def test_any_text_of_retry_after_fits_a_header(retry_after: str, sent: str) -> None:
    settings = {"limit": 1, "window": "1m", "retry_after": retry_after}
    chain = b.chain(b.policy("rate_limiter", settings), services=services())
    await chain.pre_request(b.request(), Run())
    outcome = await chain.pre_request(b.request(), Run())
    assert outcome is not None
    status, headers, body = outcome.rendered()
    assert (status, dict(headers)["Retry-After"]) == (429, sent)
    assert retry_after in msgspec.json.decode(body)["message"]


async def test_a_window_with_white_space_around_it_fits_a_header() -> None:
    settings = {"unit": "dollars", "aggregate": {"max": 1, "time_window": "1h\n"}}
    run = Run()
    chain = b.chain(b.policy("token_rate_limiter", settings), services=services())
    assert await chain.pre_request(b.request(), run) is None
    assert dict(run.headers)["X-Budget-Window"] == "1h"


@pytest.mark.parametrize("unit", ["tokens", "dollars"])
async def test_a_ceiling_beyond_64_bits_is_as_good_as_none(unit: str) -> None:
    settings = {"unit": unit, "aggregate": {"max": 1e300, "time_window": "9999999999d"}}
    run = Run()
    chain = b.chain(b.policy("token_rate_limiter", settings), services=services())
    assert await chain.pre_request(b.request(), run) is None
    assert run.marks[0].extras is not None and 0 < run.marks[0].extras["window_max"] < 1 << 63
