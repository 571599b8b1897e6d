"""Bodies with a member of the wrong kind, one at a time, through every policy: none breaks on them (spec 04 §6, §13).

A policy that broke would answer 502, in observe mode too, where the upstream has its own answer to such a request.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from trustgate.policies.model import Run
from trustgate.policies.plugin import Environment, HttpReply

from . import builders as b

JUNK = [None, 5, 1.5, True, "x", [], {}, ["x"], {"a": 1}, [5], [None], [[]], [{}]]
FUNCTION = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PROMPTS: dict[str, Any] = {
    "openai": {
        "model": "m",
        "stream": False,
        "max_tokens": 5,
        "properties": {"a": "b"},
        "tools": [FUNCTION],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "u"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "r"},
        ],
    },
    "anthropic": {
        "model": "m",
        "system": [{"type": "text", "text": "s"}],
        "tools": [{"name": "f", "input_schema": {}}],
        "messages": [
            {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x"}}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "r"}]},
        ],
    },
    "openai_responses": {
        "model": "m",
        "instructions": "i",
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "u"}, {"type": "input_file", "file": {}}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "r"},
        ],
    },
    "google": {
        "model": "m",
        "systemInstruction": {"parts": [{"text": "s"}]},
        "generationConfig": {"maxOutputTokens": 5, "candidateCount": 1},
        "tools": [{"functionDeclarations": [{"name": "f", "parameters": {}}]}],
        "contents": [
            {"role": "user", "parts": [{"text": "u"}, {"inlineData": {"mimeType": "a/b", "data": "AA"}}]},
            {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]},
        ],
    },
    "cohere": {
        "model": "m",
        "tools": [FUNCTION],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "u"}]},
            {"role": "assistant", "tool_plan": "p", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "document", "document": {"data": "r"}}]},
        ],
    },
}
ANSWERS: dict[str, Any] = {
    "openai": b.answer("hi", message={"reasoning_content": "r", "tool_calls": [CALL]}),
    "anthropic": {
        "content": [{"type": "text", "text": "hi"}, {"type": "tool_use", "id": "c", "name": "f", "input": {}}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 2},
    },
    "openai_responses": {
        "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]},
            {"type": "message", "content": [{"type": "output_text", "text": "hi"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        ],
        "usage": {"input_tokens": 1, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 1}},
    },
    "google": {
        "candidates": [{"content": {"parts": [{"text": "hi"}, {"functionCall": {"name": "f", "args": {}}}]}}],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2},
    },
    "cohere": {"message": {"content": [{"type": "text", "text": "hi"}], "tool_calls": [CALL]}, "finish_reason": "X"},
}
BUDGET = {"reserve": True, "rules": [{"model": "*", "max": 1e12, "time_window": "1h"}]}
TOOLS = {
    "behavior_default": "inject_error_result",
    "rules": [{"tool": "*", "windows": [{"duration": "1h", "max": 1}]}],
}
POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("rate_limiter", {"limit": 1_000_000, "window": "1m"}),
    ("token_rate_limiter", BUDGET),
    ("per_tool_rate_limiter", TOOLS),
    ("request_size_limiter", {"allowed_payload_size": 10}),
    ("semantic_cache", {"mode": "both", "skip_if_tools_present": False, "embedding": {"api_key": "k"}}),
    ("model_allowlist", {"allowed_models": ["z"], "behavior_on_disallowed": "substitute", "substitute_with": "z"}),
    ("tool_allowlist", {"deny_tools": ["f"], "on_empty_after_filter": "strip_tools_field"}),
    ("tool_injection", {"inject_tools": [{"function": {"name": "g"}}]}),
    ("prompt_template", {"inject_templates": [{"id": "a", "content": "x"}]}),
    ("prompt_compression", {"min_length": 0}),
    ("regex_replace", {"target": "request", "rules": [{"pattern": "u", "replacement": "v"}]}),
    ("regex_replace", {"target": "response", "rules": [{"pattern": "h", "replacement": "v"}]}),
    ("openai_moderation", {"api_key": "k"}),
    ("azure_content_safety", {"api_key": "k", "endpoint": "http://x/safety", "category_severity": {"Hate": 2}}),
    ("trustguard", {"collector_id": "3f2b8c1e-0000-4000-8000-000000000001"}),
]
REPLIES = {
    "/v1/token": {"access_token": "t", "expires_in": 60},
    "/v1/evaluate": {"status": "transform", "transformed_payload": {"input": "masked"}},
    "/v1/moderations": {"results": []},
    "/v1/embeddings": {"data": [{"embedding": [1.0, 0.0]}]},
    "/safety": {"categoriesAnalysis": []},
}
ENVIRONMENT = Environment(trustguard_base_url="http://x", trustguard_client_id="id", trustguard_client_secret="secret")


async def http(url: str, headers: Any, body: bytes, *, timeout_s: float, max_bytes: int = 1 << 20) -> HttpReply:
    reply = next(reply for path, reply in REPLIES.items() if url.endswith(path))
    return HttpReply(200, {}, msgspec.json.encode(reply))


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield from places(tree[key], (*at, key))


def odd(tree: Any) -> Iterator[Any]:
    """The tree with each of its values replaced by each piece of junk."""
    for at in places(tree):
        for junk in JUNK:
            if not at:
                yield junk
                continue
            changed = copy.deepcopy(tree)
            holder = changed
            for key in at[:-1]:
                holder = holder[key]
            holder[at[-1]] = junk
            yield changed


@pytest.mark.parametrize(("slug", "settings"), POLICIES, ids=[f"{slug}-{i}" for i, (slug, _) in enumerate(POLICIES)])
@pytest.mark.parametrize("dialect", PROMPTS)
async def test_no_policy_breaks_on_an_odd_body(slug: str, settings: dict[str, Any], dialect: str) -> None:
    services = b.make_services(http=http, environment=ENVIRONMENT)
    chain = b.chain(b.policy(slug, settings, stages=("pre_request", "pre_response")), services=services)
    for body in odd(PROMPTS[dialect]):
        run = Run()
        outcome = await chain.pre_request(b.request(body, source_format=dialect), run)
        await chain.release(run)
        assert outcome is None or outcome.kind != "error", (body, outcome)
    for answer in odd(ANSWERS[dialect]):
        run, request = Run(), b.request(PROMPTS[dialect], source_format=dialect)
        await chain.pre_request(request, run)
        outcome = await chain.pre_response(request, b.response(answer), run)
        assert outcome is None or outcome.kind != "reject" or outcome.status != 502, (answer, outcome)
        await chain.post_response(request, b.response(answer), run)
        assert not [mark for mark in run.marks if mark.error and mark.status_code == 0], answer


@pytest.mark.parametrize("kind", [["text"], 5, {}, None])
async def test_a_text_is_not_hidden_from_guards_by_the_odd_type_of_its_part(kind: Any) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": kind, "text": "evil"}]}]}
    request = b.request(body)
    rules = [{"pattern": "evil", "replacement": "good"}]
    policy = b.policy("regex_replace", {"target": "request", "rules": rules}, stages=("pre_request",))
    assert await b.chain(policy).pre_request(request, Run()) is None
    assert b"good" in request.body


READERS = [
    ("model_allowlist", {"allowed_models": ["other"]}, ()),
    ("tool_allowlist", {"allow_tools": ["other"]}, ()),
    ("regex_replace", {"target": "request", "rules": [{"pattern": "hi"}]}, ("pre_request",)),
    ("token_rate_limiter", {"cost_cap": {"enabled": True}}, ()),
    ("openai_moderation", {"api_key": "k"}, ()),
    ("azure_content_safety", {"api_key": "k", "endpoint": "http://x/safety", "category_severity": {"Hate": 2}}, ()),
]


@pytest.mark.parametrize("levels", [400, 970, 1500, 100_000])
@pytest.mark.parametrize(("slug", "settings", "stages"), READERS)
async def test_no_policy_is_evaded_by_a_body_that_is_too_deep_to_be_read(
    slug: str, settings: dict[str, Any], stages: tuple[str, ...], levels: int
) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"x":' + b"[" * levels + b"]" * levels + b"}"
    for mode in ("enforce", "observe"):
        outcome = await b.chain(b.policy(slug, settings, mode=mode, stages=stages)).pre_request(b.request(body), Run())
        refused = outcome is not None and outcome.rendered()
        expected = b'{"error":"invalid_request","message":"the request body is nested too deeply"}'
        assert refused == ((400, [("Content-Type", "application/json")], expected) if mode == "enforce" else False)


async def test_policies_that_do_not_read_bodies_take_any() -> None:
    chain = b.chain(b.policy("rate_limiter", {"limit": 1, "window": "1m"}))
    assert await chain.pre_request(b.request(b"[" * 1500 + b"]" * 1500), Run()) is None


UNREADABLE = {
    "half a surrogate pair behind many escapes": b'"' + b"\\\\" * 30_000 + b'\\ud800"',
    "no UTF-8": b'"\xff"',
}


@pytest.mark.parametrize("member", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize(("slug", "settings", "stages"), READERS[:4])
async def test_no_policy_is_evaded_by_texts_that_lenient_parsers_take(
    slug: str, settings: dict[str, Any], stages: tuple[str, ...], member: bytes
) -> None:
    tools = b'[{"type":"function","function":{"name":"t"}}]'
    body = b'{"x":%b,"model":"m","messages":[{"role":"user","content":"hi"}],"tools":%b}' % (member, tools)
    request = b.request(body)
    outcome = await b.chain(b.policy(slug, settings, stages=stages)).pre_request(request, Run())
    assert (outcome is not None and outcome.status == 403) or b'"content":"hi"' not in request.body
