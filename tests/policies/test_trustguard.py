"""trustguard against a service on loopback: tokens, payloads, verdicts, masking, failures (spec 04 §14.15)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from trustgate.policies import registry
from trustgate.policies.engine import Chain
from trustgate.policies.model import Outcome, Run
from trustgate.policies.plugin import Environment
from trustgate.policies.reassembly import reassemble
from trustgate.policies.settings import SettingsError

from . import builders as b
from .guard_service import Asked, Guard, Reply, guard_service

COLLECTOR = "3f2b8c1e-0000-4000-8000-000000000001"
FINDING = {
    "source": {"kind": "detector", "plugin": "ipi", "detector_name": "Det", "gate_name": "G"},
    "signal": {"type": "prompt_injection", "confidence": 0.9},
    "outcome": {"action": "block"},
}


class Service:
    """TrustGuard: hands out numbered tokens and evaluates as told."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.tokens = 0
        self.token_reply: Reply | None = None
        self.verdict: Reply = Reply({"status": "allow"})
        self.refused_tokens: set[str] = set()
        self.counted: list[dict[str, str]] = []
        guard.answer = self.answer

    def answer(self, asked: Asked) -> Reply:
        if asked.path == "/v1/token":
            self.tokens += 1
            return self.token_reply or Reply({"access_token": f"t{self.tokens}", "expires_in": 3600})
        if asked.headers["authorization"].removeprefix("Bearer ") in self.refused_tokens:
            return Reply({}, 401)
        return self.verdict

    @property
    def evaluations(self) -> list[Asked]:
        return [asked for asked in self.guard.asked if asked.path == "/v1/evaluate"]

    def chain(self, type: str = "LLM", mode: str = "enforce", **settings: Any) -> Chain:
        services = b.make_services(
            http=self.guard.http,
            environment=Environment(
                trustguard_base_url=self.guard.url + "/",
                trustguard_client_id="id",
                trustguard_client_secret="secret",
                trustguard_timeout_s=0.5,
            ),
            count=lambda name, labels: self.counted.append({"name": name, **labels}),
            shared=self.shared,
        )
        policy = b.policy("trustguard", {"collector_id": COLLECTOR, **settings}, mode=mode)
        return b.chain(policy, services=services, type=type)

    shared: dict[Any, Any]


@asynccontextmanager
async def trustguard() -> AsyncIterator[Service]:
    async with guard_service() as guard:
        service = Service(guard)
        service.shared = {}
        yield service


async def test_a_token_is_fetched_once_and_shared() -> None:
    async with trustguard() as service:
        first, second = service.chain(), service.chain()
        async with trio.open_nursery() as nursery:
            for chain in (first, second, first, second):
                nursery.start_soon(chain.pre_request, b.request(), Run())
    token = next(asked for asked in service.guard.asked if asked.path == "/v1/token")
    assert token.body == {
        "grant_type": "client_credentials",
        "client_id": "id",
        "client_secret": "secret",
        "scope": "platform",
        "collector_id": COLLECTOR,
        "gateway_id": b.GATEWAY,
    }
    assert (service.tokens, len(service.evaluations)) == (1, 4)


async def test_a_refused_token_is_renewed_once() -> None:
    async with trustguard() as service:
        service.refused_tokens = {"t1"}
        assert await service.chain().pre_request(b.request(), Run()) is None
    assert [asked.headers["authorization"] for asked in service.evaluations] == ["Bearer t1", "Bearer t2"]


async def test_a_token_fetch_survives_the_client_that_asked() -> None:
    async with trustguard() as service:
        chain = service.chain()
        with trio.CancelScope() as scope:
            answer = service.guard.answer

            def leave(asked: Asked) -> Reply:
                scope.cancel()
                return answer(asked)

            service.guard.answer = leave
            await chain.pre_request(b.request(), Run())
        assert scope.cancelled_caught
        service.guard.answer = answer
        await chain.pre_request(b.request(), Run())
    assert service.tokens == 1


async def test_the_evaluation_of_a_chat_request() -> None:
    body = {
        "model": "gpt-x",
        "messages": [
            {"role": "system", "content": " S "},
            {"role": "user", "content": "q"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "r"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB"}},
                    {"type": "image_url", "image_url": {"url": "https://x/i.png"}},
                    {"type": "image_url", "image_url": {"url": "https://x/i.png"}},
                ],
            },
        ],
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
        ],
    }
    async with trustguard() as service:
        request = b.request(body, headers=[(b"x-ag-playground-token", b"p")])
        await service.chain().pre_request(request, Run())
    (asked,) = service.evaluations
    assert asked.headers["x-trace-id"] == "trace-1"
    assert asked.headers["x-ag-playground"] == "1"
    assert b"\n" not in asked.raw
    assert b": " not in asked.raw
    assert asked.body == {
        "payload": {
            "messages": [
                {"role": "system", "content": "S"},
                {"role": "user", "content": "q"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
                },
                {"role": "tool", "content": "r", "tool_call_id": "c1"},
                {"role": "user", "content": "look"},
            ],
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
                }
            ],
            "attachments": [
                {"filename": "image", "content_type": "image/png", "data": "AAAA"},
                {"filename": "a.pdf", "content_type": "application/pdf", "data": "BBBB"},
                {"filename": "image", "content_type": "image/*", "url": "https://x/i.png"},
            ],
        },
        "direction": "input",
        "protocol": "llm",
        "gateway_id": b.GATEWAY,
        "session_id": "s-1",
        "consumer_id": b.CONSUMER,
        "attributes": {"content_type": "application/json", "model": {"name": "gpt-x", "provider": "openai"}},
    }


async def test_the_evaluation_of_a_chat_answer() -> None:
    async with trustguard() as service:
        await service.chain().pre_response(b.request(), b.response(b.answer("fine")), Run())
    (asked,) = service.evaluations
    assert asked.body["direction"] == "output"
    assert asked.body["payload"] == {"messages": [{"role": "assistant", "content": "fine"}]}


async def test_a_stream_is_evaluated_when_it_is_over() -> None:
    lines = [
        b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"he"}}]}',
        b'data: {"choices":[{"index":0,"delta":{"content":"llo"}}]}',
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c",'
        b'"function":{"name":"f","arguments":"{"}}]}}]}',
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]}}]}',
        b"data: [DONE]",
    ]
    async with trustguard() as service:
        service.verdict = Reply({"status": "block", "findings": [FINDING]})
        run = Run()
        chain = service.chain()
        streaming = b.response(b"", streaming=True)
        assert await chain.pre_response(b.request(), streaming, run) is None
        streaming.body = b"".join(line + b"\n" for line in lines)
        await chain.post_response(b.request(), streaming, run)
    (asked,) = service.evaluations
    assert asked.body["payload"]["messages"] == [
        {
            "role": "assistant",
            "content": "hello",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        }
    ]
    mark = run.marks[-1]
    assert (mark.decision, mark.status_code, mark.error, streaming.status) == ("block", 403, True, 200)


LEGS = [
    ({}, (1, 1)),
    ({"inspect": "request"}, (1, 0)),
    ({"inspect": "response"}, (0, 1)),
    ({"direction": "response"}, (0, 1)),
    ({"inspect": "request", "direction": "response"}, (1, 0)),
]


@pytest.mark.parametrize(("settings", "expected"), LEGS)
async def test_which_legs_are_evaluated(settings: dict[str, Any], expected: tuple[int, int]) -> None:
    async with trustguard() as service:
        chain = service.chain(**settings)
        await chain.pre_request(b.request(), Run())
        before = len(service.evaluations)
        await chain.pre_response(b.request(), b.response(), Run())
        assert (before, len(service.evaluations) - before) == expected


async def test_nothing_to_look_at_is_not_sent() -> None:
    async with trustguard() as service:
        await service.chain().pre_request(
            b.request({"model": "m", "messages": [{"role": "user", "content": " "}]}), Run()
        )
        await service.chain().pre_request(b.request(b"{"), Run())
    assert service.evaluations == []


async def test_a_block_answers_with_its_primary_finding() -> None:
    other = {"signal": {"type": "pii", "confidence": 0.95}}
    async with trustguard() as service:
        service.verdict = Reply({"status": "block", "findings": [other, FINDING], "trace_id": "t", "request_id": "r"})
        run = Run()
        outcome = await service.chain().pre_request(b.request(), run)
    assert outcome is not None
    assert outcome.status == 403
    assert outcome.body == (
        b'{"status":"block","message":"Request blocked by security policy: prompt_injection (Det).",'
        b'"type":"trustguard_blocked","reason":"prompt_injection","plugin":"ipi","detector_name":"Det",'
        b'"gate_name":"G","trace_id":"t","request_id":"r"}'
    )
    (mark,) = run.marks
    assert (mark.decision, mark.score, mark.score_label) == ("block", 0.9, "prompt_injection")
    assert mark.extras is not None
    assert (mark.extras["decision"], mark.extras["findings_count"]) == ("blocked", 2)


MESSAGES = [
    ([], "request blocked due to a policy infraction"),
    ([{"signal": {"type": "x"}}], "Request blocked by security policy: x."),
    ([{"signal": {"type": "x"}, "source": {"gate_name": "G"}}], "Request blocked by security policy: x (G)."),
    ([{"source": {"gate_name": "G"}}], "Request blocked by security policy (G)."),
]


@pytest.mark.parametrize(("findings", "message"), MESSAGES)
async def test_the_message_of_a_block(findings: list[Any], message: str) -> None:
    async with trustguard() as service:
        service.verdict = Reply({"status": "block", "findings": findings})
        outcome = await service.chain().pre_request(b.request(), Run())
    assert outcome is not None
    assert outcome.message == message


@pytest.mark.parametrize("status", ["block", "report", "transform", "allow"])
async def test_observing_reports_and_passes(status: str) -> None:
    async with trustguard() as service:
        service.verdict = Reply({"status": status, "transformed_payload": {"input": "x"}, "findings": [FINDING]})
        request, run = b.request(), Run()
        before = request.body
        assert await service.chain(mode="observe").pre_request(request, run) is None
    assert request.body == before
    assert run.marks[0].decision == ("allowed" if status == "allow" else "reported")


REFUSALS = [
    # answer of the service, status, body, headers that are forwarded
    (Reply({"a": 1}, 429, {"Retry-After": "7", "X-RateLimit-Reason": "burst", "X-Other": "no"}), 429, b'{"a":1}',
     {"Retry-After": "7", "X-RateLimit-Reason": "burst"}),
    (Reply(b"", 429), 429, b'{"error":"rate limit exceeded","message":"Request blocked: rate limit exceeded."}', {}),
    (Reply(b"", 503), 503, b'{"error":"rate limit entitlements unavailable"}', {}),
    (Reply({"b": 2}, 503), 503, b'{"b":2}', {}),
    (Reply({}, 403), 502, b'{"error":"trustguard_unauthorized","message":"trustguard authentication or configuration'
     b' rejected","upstream_status":403}', {}),
    (Reply({}, 401), 502, b'{"error":"trustguard_unauthorized","message":"trustguard authentication or configuration'
     b' rejected","upstream_status":401}', {}),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["enforce", "observe"])
@pytest.mark.parametrize(("reply", "status", "body", "headers"), REFUSALS)
async def test_refusals_of_the_service_reject_in_every_mode(
    reply: Reply, status: int, body: bytes, headers: dict[str, str], mode: str
) -> None:
    async with trustguard() as service:
        service.verdict = reply
        outcome = await service.chain(mode=mode).pre_request(b.request(), Run())
    assert outcome is not None
    assert (outcome.status, outcome.body, dict(outcome.headers)) == (status, body, headers)
    if status == 503:
        assert outcome.type == "trustguard_unavailable"


FAILURES = {
    "slow": Reply(hang=True),
    "failing": Reply({}, 500),
    "malformed": Reply(b"not json"),
    "gone": Reply(drop=True),
}


@pytest.mark.parametrize("mode", ["enforce", "observe"])
@pytest.mark.parametrize("failure", FAILURES)
async def test_failures_follow_on_error(failure: str, mode: str) -> None:
    async with trustguard() as service:
        service.verdict = FAILURES[failure]
        run = Run()
        assert await service.chain(mode=mode).pre_request(b.request(), run) is None
        assert run.marks[0].decision == "failed_open"
        assert service.counted == []
        outcome = await service.chain(mode=mode, on_error="fail_closed").pre_request(b.request(), run)
    assert outcome is not None
    assert (outcome.status, outcome.body) == (
        502,
        b'{"error":"trustguard_error","message":"trustguard unavailable"}',
    )
    assert service.counted == [{"name": "trustguard_evaluate_failures_total", "reason": "transport"}]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [(Reply({}, 401), "unauthorized"), (Reply({}, 500), "transport"), (Reply({"access_token": ""}), "transport")],
)
async def test_a_token_that_cannot_be_had_is_a_failure(reply: Reply, reason: str) -> None:
    async with trustguard() as service:
        service.token_reply = reply
        outcome = await service.chain(on_error="fail_closed").pre_request(b.request(), Run())
    assert outcome is not None
    assert outcome.status == 502
    assert service.counted[0]["reason"] == reason
    assert service.evaluations == []


async def test_without_base_url_or_credentials_traffic_passes() -> None:
    services = b.make_services(environment=Environment(trustguard_base_url="http://127.0.0.1:1"))
    chain = b.chain(b.policy("trustguard", {"collector_id": COLLECTOR, "on_error": "fail_closed"}), services=services)
    assert await chain.pre_request(b.request(), Run()) is None


TWO_LINES = {
    "seed": 12345678901234567890,
    "messages": [
        {"role": "system", "content": "  keep\nthis\n"},
        {"role": "user", "content": "mail a@b.c"},
        {"role": "user", "content": ""},
    ],
}
INPUT_MASKS = [
    # transformed payload, system and user text after it (None: blocked for the reason)
    ({"input": "KEEP\nTHIS\nmail ***"}, ("  KEEP\nTHIS\n", "mail ***")),
    ({"messages": [{"role": "system", "content": "keep\nthis"}, {"content": "mail X"}]}, ("  keep\nthis\n", "mail X")),
    ({"input": "one line"}, "transform_encode_failed"),
    ({}, "transform_no_payload"),
    (None, "transform_no_payload"),
]


@pytest.mark.parametrize(("payload", "expected"), INPUT_MASKS)
async def test_masking_of_a_request(payload: Any, expected: Any) -> None:
    async with trustguard() as service:
        service.verdict = Reply({"status": "transform", "transformed_payload": payload})
        request, run = b.request(TWO_LINES), Run()
        outcome = await service.chain().pre_request(request, run)
    (mark,) = run.marks
    assert mark.extras is not None
    if isinstance(expected, str):
        assert outcome is not None
        assert outcome.status == 403
        assert msgspec.json.decode(outcome.body or b"")["status"] == "transform"
        assert (mark.extras["degraded"], mark.extras["degraded_reason"]) == (True, expected)
        return
    assert outcome is None
    assert mark.decision == "transformed"
    masked = msgspec.json.decode(request.body)
    assert (masked["messages"][0]["content"], masked["messages"][1]["content"]) == expected
    assert masked["seed"] == TWO_LINES["seed"]


async def test_a_masked_input_is_literal_even_when_it_looks_like_json() -> None:
    async with trustguard() as service:
        service.verdict = Reply({"status": "transform", "transformed_payload": {"input": '{"messages":[]}'}})
        request = b.request()
        await service.chain().pre_request(request, Run())
    assert msgspec.json.decode(request.body)["messages"][0]["content"] == '{"messages":[]}'


async def test_masking_of_an_answer_is_a_200() -> None:
    async with trustguard() as service:
        service.verdict = Reply({"status": "transform", "transformed_payload": {"input": "a\nb\nc"}})
        response = b.response(b.answer("secret"), status=201)
        assert await service.chain().pre_response(b.request(), response, Run()) is None
    assert response.status == 200
    assert msgspec.json.decode(response.body) == b.answer("a\nb\nc")


async def test_an_answer_without_text_has_nothing_to_mask() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    async with trustguard() as service:
        service.verdict = Reply({"status": "transform", "transformed_payload": {"input": "x"}})
        run = Run()
        response = b.response(b.answer(None, message={"tool_calls": calls}))
        outcome = await service.chain().pre_response(b.request(), response, run)
    assert outcome is not None
    assert outcome.status == 403
    assert run.marks[0].extras is not None
    assert run.marks[0].extras["degraded_reason"] == "transform_unsupported_path"


MCP_INPUT_MASKS = [
    ({"params": {"name": "other", "arguments": {"q": "***"}}}, {"name": "search", "arguments": {"q": "***"}}),
    ({"input": "search\nx\n***"}, {"name": "search", "arguments": {"a": ["x"], "q": "***", "n": 1}}),
]


@pytest.mark.parametrize(("payload", "expected"), MCP_INPUT_MASKS)
async def test_masking_of_a_tool_call(payload: Any, expected: Any) -> None:
    async with trustguard() as service:
        service.verdict = Reply({"status": "transform", "transformed_payload": payload})
        request = b.mcp_request("search", {"q": "a@b.c", "a": ["y"], "n": 1})
        assert await service.chain(type="MCP").pre_request(request, Run()) is None
    assert msgspec.json.decode(request.body) == expected
    (asked,) = service.evaluations
    assert asked.body["protocol"] == "mcp"
    assert asked.body["session_id"] == ""
    assert asked.body["attributes"]["model"] == {}
    assert asked.body["payload"] == {
        "id": 1,
        "jsonrpc": "2.0",
        "method": "tools/call",
        "params": {"name": "search", "arguments": {"q": "a@b.c", "a": ["y"], "n": 1}},
    }


RESULT = {"content": [{"type": "text", "text": "a"}, {"type": "image", "data": "z"}], "structuredContent": {"k": "b"}}
MCP_OUTPUT_MASKS = [
    ({"result": {"content": []}}, {"content": []}),
    (
        {"input": "A\nB"},
        {"content": [{"type": "text", "text": "A"}, {"type": "image", "data": "z"}], "structuredContent": {"k": "B"}},
    ),
]


@pytest.mark.parametrize(("payload", "expected"), MCP_OUTPUT_MASKS)
async def test_masking_of_a_tool_result(payload: Any, expected: Any) -> None:
    async with trustguard() as service:
        service.verdict = Reply({"status": "transform", "transformed_payload": payload})
        response = b.response(RESULT)
        assert await service.chain(type="MCP").pre_response(b.mcp_request("search"), response, Run()) is None
    assert msgspec.json.decode(response.body) == expected
    assert service.evaluations[0].body["payload"] == {"id": 1, "jsonrpc": "2.0", "result": RESULT}


async def test_a_block_on_mcp_has_a_body_for_the_error_data() -> None:
    async with trustguard() as service:
        service.verdict = Reply({"status": "block"})
        outcome = await service.chain(type="MCP").pre_request(b.mcp_request("search"), Run())
    assert outcome is not None
    assert (outcome.kind, outcome.status) == ("reject", 403)
    assert msgspec.json.decode(outcome.body or b"")["type"] == "trustguard_blocked"


NULLS = [
    # a verdict that writes out what it has no value for, its block's reason
    ({"status": "block", "trace_id": None, "request_id": None, "findings": None, "transformed_payload": None}, None),
    ({"status": "block", "findings": [None, FINDING | {"evidence": None}]}, "prompt_injection"),
    ({"status": "block", "findings": [FINDING | {"source": None}]}, "prompt_injection"),
    ({"status": "block", "findings": [FINDING | {"outcome": {"action": None}}]}, "prompt_injection"),
    ({"status": "block", "findings": [{"source": {"gate_name": None}, "signal": {"confidence": None}}]}, None),
]


@pytest.mark.parametrize(("verdict", "reason"), NULLS)
async def test_a_block_with_nulls_in_it_is_still_a_block(verdict: dict[str, Any], reason: str | None) -> None:
    async with trustguard() as service:
        service.verdict = Reply(verdict)
        run = Run()
        outcome = await service.chain().pre_request(b.request(), run)
    assert outcome is not None and outcome.status == 403
    assert msgspec.json.decode(outcome.rendered()[2]).get("reason") == reason
    assert run.marks[0].decision == "block"


async def test_nulls_inside_of_a_transformed_payload_are_kept() -> None:
    async with trustguard() as service:
        payload = {"params": {"name": "t", "arguments": {"a": None}}}
        service.verdict = Reply({"status": "transform", "transformed_payload": payload})
        request = b.mcp_request("t", {"a": "secret"})
        assert await service.chain(type="MCP").pre_request(request, Run()) is None
    assert msgspec.json.decode(request.body) == {"name": "t", "arguments": {"a": None}}


def streamed(*pieces: str) -> bytes:
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    return b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in chunks) + b"data: [DONE]\n\n"


async def flow(chain: Chain, data: bytes, run: Run) -> tuple[str, Outcome | None]:
    """What left of a stream, and how it ended."""
    (gate,) = chain.watch(b.request(), run)
    out = await gate.feed(data) + await gate.end()
    return reassemble("openai", out).text, gate.outcome


WORDS = ("one ", "two ", "three ", "four ", "five ", "six ", "seven ", "eight ")


async def test_a_stream_is_evaluated_in_windows_where_the_settings_ask_for_it() -> None:
    async with trustguard() as service:
        run, chain = Run(), service.chain(stream_window=16, stream_hold_back=6)
        assert await flow(chain, streamed(*WORDS), run) == ("".join(WORDS), None)
        shown = [asked.body["payload"]["messages"][0]["content"] for asked in service.evaluations]
        assert shown == ["one two three four ", "three four five six seven ", "seven eight "]
        assert {asked.body["direction"] for asked in service.evaluations} == {"output"}
        assert [(mark.stage, mark.decision) for mark in run.marks] == [("pre_response", "allowed")]
        over = b.response(streamed(*WORDS).replace(b"\n\n", b"\n"), streaming=True)
        await chain.post_response(b.request(), over, run)
        assert len(service.evaluations) == len(shown)


NOT_IN_FLOW = [
    ({}, "enforce"),
    ({"stream_window": 0}, "enforce"),
    ({"stream_window": 16}, "observe"),
    ({"stream_window": 16, "inspect": "request"}, "enforce"),
]


@pytest.mark.parametrize(("settings", "mode"), NOT_IN_FLOW)
async def test_streams_flow_freely_by_default(settings: dict[str, Any], mode: str) -> None:
    async with trustguard() as service:
        assert service.chain(mode=mode, **settings).watch(b.request(), Run()) == []


async def test_a_blocked_window_ends_the_stream() -> None:
    async with trustguard() as service:

        def answer(asked: Asked) -> Reply:
            if asked.path == "/v1/evaluate" and "seven" in asked.body["payload"]["messages"][0]["content"]:
                return Reply({"status": "block", "findings": [FINDING]})
            return service.answer(asked)

        service.guard.answer = answer
        run = Run()
        text, outcome = await flow(service.chain(stream_window=16, stream_hold_back=6), streamed(*WORDS), run)
    assert text == "one two "
    assert outcome is not None
    assert (outcome.status, outcome.type) == (403, "trustguard_blocked")
    assert outcome.message == "Request blocked by security policy: prompt_injection (Det)."
    (mark,) = run.marks
    assert (mark.decision, mark.score_label, mark.status_code) == ("block", "prompt_injection", 403)


async def test_a_masked_window_leaves_masked() -> None:
    async with trustguard() as service:

        def answer(asked: Asked) -> Reply:
            if asked.path != "/v1/evaluate":
                return service.answer(asked)
            text = asked.body["payload"]["messages"][0]["content"]
            if "four" not in text:
                return Reply({"status": "allow"})
            return Reply({"status": "transform", "transformed_payload": {"input": text.replace("four", "****")}})

        service.guard.answer = answer
        run = Run()
        text, outcome = await flow(service.chain(stream_window=16, stream_hold_back=6), streamed(*WORDS), run)
    assert (text, outcome) == ("".join(WORDS).replace("four", "****"), None)
    assert run.marks[0].decision == "transformed"


IN_TROUBLE = [Reply({}, 500), Reply(b"no json"), Reply(drop=True), Reply(hang=True)]


@pytest.mark.parametrize("reply", IN_TROUBLE)
async def test_a_failing_service_stops_a_stream_only_where_the_settings_say_so(reply: Reply) -> None:
    async with trustguard() as service:
        service.verdict = reply
        run = Run()
        assert await flow(service.chain(stream_window=16), streamed(*WORDS), run) == ("".join(WORDS), None)
        assert len(service.evaluations) == 1
        assert run.marks[0].decision == "failed_open"
        text, outcome = await flow(service.chain(stream_window=16, on_error="fail_closed"), streamed(*WORDS), Run())
    assert text == ""
    assert outcome is not None
    assert (outcome.status, outcome.type) == (502, "trustguard_error")


async def test_a_refusing_service_ends_a_stream() -> None:
    async with trustguard() as service:
        service.verdict = Reply({}, 403)
        text, outcome = await flow(service.chain(stream_window=16), streamed(*WORDS), Run())
    assert text == ""
    assert outcome is not None
    assert (outcome.status, outcome.type) == (502, "trustguard_unauthorized")


async def test_what_the_judge_cannot_bear_ends_the_stream_like_a_failed_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise KeyError

    async with trustguard() as service:
        monkeypatch.setattr("trustgate.policies.trustguard.payloads.llm_stream", broken)
        text, outcome = await flow(service.chain(stream_window=16), streamed(*WORDS), Run())
    assert text == ""
    assert outcome is not None
    assert (outcome.status, outcome.message) == (502, "pre_response plugin stage failed")


WINDOWS = [
    ({"stream_window": -1}, "stream_window must be between 0 and 65536"),
    ({"stream_window": 65537}, "stream_window must be between 0 and 65536"),
    ({"stream_window": 10, "stream_hold_back": 10}, "stream_hold_back must be at least 0 and less than stream_window"),
    ({"stream_window": 10, "stream_hold_back": -1}, "stream_hold_back must be at least 0 and less than stream_window"),
]


@pytest.mark.parametrize(("settings", "message"), WINDOWS)
def test_windows_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    plugin = registry.PLUGINS["trustguard"]
    decoded = registry.decode_settings(plugin, {"collector_id": COLLECTOR, **settings})
    with pytest.raises(SettingsError, match=f"trustguard: {message}"):
        plugin.check(decoded, Environment(trustguard_client_id="i", trustguard_client_secret="s"))
