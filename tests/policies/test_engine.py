"""The engine: order, batches, outcomes, planes (spec 04 §2-8)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from trustgate.limits import MemoryLimits
from trustgate.policies import registry
from trustgate.policies.engine import EMPTY_CHAIN, Chain, Entry, cut_batches
from trustgate.policies.model import Effect, Outcome, Run, reject, stop
from trustgate.policies.plugin import PolicyError

from . import builders as b


def entry(name: str, call: Any = None, **rest: Any) -> Entry:
    async def nothing(*args: Any) -> None:
        return None

    return Entry(
        slug=rest.pop("slug", name),
        policy_id=name,
        priority=rest.pop("priority", 0),
        parallel=rest.pop("parallel", True),
        plugin=registry.PLUGINS[rest.pop("plugin", "rate_limiter")],
        observe=rest.pop("observe", False),
        waits=rest.pop("waits", False),
        stage=rest.pop("stage", "pre_request"),
        call=call or nothing,
    )


def chain_of(*entries: Entry, plane: str = "LLM") -> Chain:
    stages: dict[str, list[Entry]] = {}
    for one in entries:
        stages.setdefault(one.stage, []).append(one)
    return Chain(plane, {stage: cut_batches(stage, found) for stage, found in stages.items()})


def returning(effect: Effect | None, *, after: float = 0.0, log: list[str] | None = None, name: str = "") -> Any:
    async def call(*args: Any) -> Effect | None:
        if after:
            await trio.sleep(after)
        if log is not None:
            log.append(name)
        return effect

    return call


def failing(*, after: float = 0.0) -> Any:
    async def call(*args: Any) -> Effect | None:
        if after:
            await trio.sleep(after)
        raise PolicyError("backend down")

    return call


BATCHES = [
    # entries: (id, plugin, priority, parallel), expected batches
    ([("a", "rate_limiter", 0, True), ("b", "request_size_limiter", 0, True)], [["a", "b"]]),
    ([("a", "rate_limiter", 1, True), ("b", "rate_limiter", 0, True)], [["b"], ["a"]]),
    (
        [("a", "rate_limiter", 0, True), ("b", "rate_limiter", 0, False), ("c", "rate_limiter", 0, True)],
        [["a"], ["b"], ["c"]],
    ),
    ([("a", "regex_replace", 0, True), ("b", "prompt_template", 0, True)], [["a"], ["b"]]),
    ([("a", "regex_replace", 0, True), ("b", "openai_moderation", 0, True)], [["a"], ["b"]]),
    ([("a", "openai_moderation", 0, True), ("b", "regex_replace", 0, True)], [["a", "b"]]),
    (
        [("a", "model_allowlist", 0, True), ("b", "rate_limiter", 0, True), ("c", "tool_injection", 0, True)],
        [["a", "b"], ["c"]],
    ),
]


@pytest.mark.parametrize(("entries", "expected"), BATCHES)
def test_entries_are_cut_into_batches(entries: list[tuple[str, str, int, bool]], expected: list[list[str]]) -> None:
    made = [
        entry(name, plugin=plugin, priority=priority, parallel=parallel) for name, plugin, priority, parallel in entries
    ]
    assert [[one.policy_id for one in batch] for batch in cut_batches("pre_request", made)] == expected


async def test_a_consumer_without_policies_has_the_empty_chain() -> None:
    assert b.chain() is EMPTY_CHAIN
    assert EMPTY_CHAIN.empty


async def test_headers_of_all_members_are_appended_in_batch_order() -> None:
    run = Run()
    chain = chain_of(
        entry("a", returning(Effect(headers=[("X", "1")]), after=0.02), waits=True),
        entry("b", returning(Effect(headers=[("X", "2")])), waits=True),
    )
    assert await chain.pre_request(b.request(), run) is None
    assert run.headers == [("X", "1"), ("X", "2")]


async def test_the_first_body_of_a_batch_wins() -> None:
    request = b.request()
    chain = chain_of(
        entry("a", returning(Effect(body=b"a"), after=0.01), waits=True),
        entry("b", returning(Effect(body=b"b")), waits=True),
    )
    await chain.pre_request(request, Run())
    assert request.body == b"a"


async def test_a_rejection_beats_every_stop_of_the_batch() -> None:
    run = Run()
    chain = chain_of(
        entry("a", returning(stop(200, b"canned", [("X", "1")]))),
        entry("b", returning(reject(403, "no"))),
    )
    outcome = await chain.pre_request(b.request(), run)
    assert outcome is not None
    assert (outcome.kind, outcome.slug) == ("reject", "b")
    assert run.headers == []


async def test_a_stop_ends_the_stage_with_the_headers_gathered_so_far() -> None:
    seen: list[str] = []
    run = Run()
    chain = chain_of(
        entry("a", returning(Effect(headers=[("A", "1")])), parallel=False),
        entry("b", returning(stop(200, b"hit", [("B", "2")])), parallel=False),
        entry("c", returning(None, log=seen, name="c"), parallel=False),
    )
    outcome = await chain.pre_request(b.request(), run)
    assert outcome is not None
    assert outcome.rendered() == (200, [("A", "1"), ("B", "2")], b"hit")
    assert seen == []


@pytest.mark.parametrize("slow_first", [True, False])
async def test_the_first_failing_member_in_batch_order_decides(autojump_clock: Any, slow_first: bool) -> None:
    chain = chain_of(
        entry("a", returning(reject(403, "first"), after=5 if slow_first else 0), waits=True),
        entry("b", returning(reject(403, "second"), after=0 if slow_first else 5), waits=True),
    )
    outcome = await chain.pre_request(b.request(), Run())
    assert outcome is not None
    assert outcome.message == "first"


async def test_a_failure_cancels_the_members_behind_it(autojump_clock: Any) -> None:
    seen: list[str] = []
    chain = chain_of(
        entry("a", failing(after=1), waits=True),
        entry("b", returning(None, after=60, log=seen, name="b"), waits=True),
    )
    outcome = await chain.pre_request(b.request(), Run())
    assert outcome is not None
    assert outcome.kind == "error"
    assert trio.current_time() < 10
    assert seen == []


async def test_members_that_wait_run_side_by_side(autojump_clock: Any) -> None:
    started = trio.current_time()
    chain = chain_of(*(entry(name, returning(None, after=10), waits=True) for name in "abc"))
    await chain.pre_request(b.request(), Run())
    assert trio.current_time() - started == pytest.approx(10)


async def test_a_plain_error_is_a_502_before_the_call() -> None:
    outcome = await chain_of(entry("a", failing())).pre_request(b.request(), Run())
    assert outcome is not None
    assert outcome.rendered() == (502, [("Content-Type", "application/json")], b'{"error":"backend_error"}')


@pytest.mark.parametrize(
    ("observe", "plane", "expected"),
    [(False, "LLM", ("reject", 502)), (True, "LLM", None), (False, "MCP", ("error", 502))],
)
async def test_a_plain_error_on_the_answer(observe: bool, plane: str, expected: Any) -> None:
    chain = chain_of(entry("a", failing(), stage="pre_response", observe=observe), plane=plane)
    outcome = await chain.pre_response(b.request(), b.response(), Run())
    assert (outcome and (outcome.kind, outcome.status)) == expected
    if expected == ("reject", 502):
        assert outcome is not None
        assert outcome.rendered()[2] == b'{"error":"plugin_rejected","message":"pre_response plugin stage failed"}'


async def test_a_2xx_stop_on_the_answer_replaces_it_and_the_chain_goes_on() -> None:
    seen: list[bytes] = []

    async def look(request: Any, response: Any, run: Run, mark: Any) -> None:
        seen.append(response.body)

    chain = chain_of(
        entry("a", returning(stop(200, b"new")), stage="pre_response", parallel=False),
        entry("b", look, stage="pre_response", parallel=False),
    )
    response = b.response(status=201)
    assert await chain.pre_response(b.request(), response, Run()) is None
    assert (response.status, response.body) == (200, b"new")
    assert seen == [b"new"]


async def test_another_stop_on_the_answer_ends_the_stage() -> None:
    seen: list[str] = []
    chain = chain_of(
        entry("a", returning(stop(404, b"new")), stage="pre_response", parallel=False),
        entry("b", returning(None, log=seen, name="b"), stage="pre_response", parallel=False),
    )
    response = b.response(status=404)
    assert await chain.pre_response(b.request(), response, Run()) is None
    assert (response.status, response.body, seen) == (404, b"new", [])


async def test_the_body_of_a_stop_is_ignored_on_a_stream() -> None:
    chain = chain_of(entry("a", returning(stop(200, b"new", [("A", "1")])), stage="pre_response"))
    response = b.response(b"", streaming=True)
    await chain.pre_response(b.request(), response, Run())
    assert (response.body, response.headers) == (b"", [("A", "1")])


async def test_errors_after_the_answer_end_nothing() -> None:
    seen: list[str] = []
    chain = chain_of(
        entry("a", failing(), stage="post_response"),
        entry("b", returning(None, log=seen, name="b"), stage="post_response"),
    )
    await chain.post_response(b.request(), b.response(), Run())
    assert seen == ["b"]


async def test_what_follows_the_answer_has_30_seconds(autojump_clock: Any) -> None:
    chain = chain_of(entry("a", returning(None, after=600), stage="post_response", waits=True))
    await chain.post_response(b.request(), b.response(), Run())
    assert trio.current_time() <= 31


async def test_only_charging_policies_see_an_incomplete_stream() -> None:
    seen: list[str] = []
    chain = chain_of(
        entry("a", returning(None, log=seen, name="cache"), stage="post_response", plugin="semantic_cache"),
        entry("b", returning(None, log=seen, name="budget"), stage="post_response", plugin="token_rate_limiter"),
    )
    await chain.post_response(b.request(), b.response(b"", streaming=True, complete=False), Run())
    assert seen == ["budget"]


RENDERINGS = [
    (
        Outcome(kind="reject", status=429, message="m", type="t"),
        b'{"error":"plugin_rejected","message":"m","type":"t"}',
    ),
    (Outcome(kind="reject", status=403, message="m"), b'{"error":"plugin_rejected","message":"m"}'),
    (Outcome(kind="reject", status=403, message="m", body=b"{}"), b"{}"),
]


@pytest.mark.parametrize(("outcome", "body"), RENDERINGS)
def test_a_rejection_is_rendered_as_json(outcome: Outcome, body: bytes) -> None:
    outcome.headers = [("Retry-After", "1"), ("Content-Length", "9"), ("Connection", "close"), ("X-Request-Id", "z")]
    assert outcome.rendered() == (
        outcome.status,
        [("Retry-After", "1"), ("Content-Type", "application/json")],
        body,
    )


async def test_plugins_of_the_other_plane_are_left_out_on_mcp() -> None:
    template = {
        "inject_templates": [{"id": "i", "content": "{{who}}"}],
        "context_variables": {"who": {"source": "header", "name": "X-Who"}},
    }
    chain = b.chain(b.policy("prompt_template", template, global_=True, consumer_ids=()), type="MCP")
    assert chain.empty


async def test_settings_that_no_longer_fit_fail_closed() -> None:
    chain = b.chain(b.policy("rate_limiter", {"limit": 0}))
    outcome = await chain.pre_request(b.request(), Run())
    assert outcome is not None
    assert outcome.kind == "error"


async def test_unknown_plugins_are_skipped() -> None:
    assert b.chain(b.policy("nope")).empty


async def test_a_run_is_marked_for_telemetry() -> None:
    run = Run()
    chain = b.chain(
        b.policy("request_size_limiter", {"allowed_payload_size": 1, "max_chars_per_request": 1}),
        services=b.make_services(limits=MemoryLimits()),
    )
    outcome = await chain.pre_request(b.request(), run)
    assert outcome is not None
    (mark,) = run.marks
    assert (mark.name, mark.stage, mark.decision, mark.status_code, mark.error) == (
        "request_size_limiter",
        "pre_request",
        "block",
        413,
        True,
    )
    assert mark.flagged
    assert msgspec.json.decode(msgspec.json.encode(mark.extras))["exceeded_type"] == "chars"
