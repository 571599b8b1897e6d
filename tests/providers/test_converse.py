"""Bedrock Converse: requests that botocore's own model of the API accepts, answers that botocore's shapes describe."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from tests.providers.test_aws_answers import frame as message
from tests.providers.test_bedrock import ASK, AWS
from trustgate.providers.prepare import Prepared, client_for
from trustgate.providers.probe import Inline
from trustgate.providers.registry import PROVIDERS
from trustgate.view.model import Allowance

CONVERSE = {"api": "converse"}
PIXEL = base64.b64encode(b"\x89PNG").decode()


async def ready(body: dict[str, Any], *, client: str = "openai", stream: bool = False) -> Prepared:
    data = json.dumps(body).encode()
    return await client_for(Inline("bedrock", CONVERSE, AWS)).prepare(client, "chat", stream, data, Allowance())


@cache
def operation(name: str) -> Any:
    service = botocore.session.get_session().get_service_model("bedrock-runtime")
    return service.operation_model(name)


def accepted(made: Prepared, model: str) -> dict[str, Any]:
    """The body, after AWS's own SDK found nothing wrong with it as parameters of Converse."""
    body = json.loads(made.body)
    report = ParamValidator().validate({"modelId": model, **body}, operation("Converse").input_shape)
    assert not report.has_errors(), report.generate_report()
    unknown = body.keys() - operation("Converse").input_shape.members.keys()
    assert not unknown
    return body


TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
CALL = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


async def test_a_whole_conversation_for_a_family_that_invoke_model_could_not_give_tools() -> None:
    made = await ready(
        {
            "model": "amazon.nova-lite-v1:0",
            "max_tokens": 50,
            "temperature": 0.5,
            "top_p": 0.9,
            "stop": ["X"],
            "seed": 7,
            "tools": [TOOL],
            "tool_choice": "required",
            "messages": [
                {"role": "system", "content": "S"},
                {"role": "user", "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                ]},
                {"role": "assistant", "content": "", "tool_calls": [CALL, CALL | {"id": "t2"}]},
                {"role": "tool", "tool_call_id": "t1", "content": "one"},
                {"role": "tool", "tool_call_id": "t2", "content": "two"},
                {"role": "user", "content": "and?"},
            ],
        }
    )  # fmt: skip
    assert made.target == "/model/amazon.nova-lite-v1%3A0/converse"
    body = accepted(made, "amazon.nova-lite-v1:0")
    assert body["system"] == [{"text": "S"}]
    assert body["inferenceConfig"] == {"maxTokens": 50, "temperature": 0.5, "topP": 0.9, "stopSequences": ["X"]}
    assert body["toolConfig"]["toolChoice"] == {"any": {}}
    assert body["toolConfig"]["tools"][0]["toolSpec"]["name"] == "f"
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][0]["content"][1] == {"image": {"format": "png", "source": {"bytes": PIXEL}}}
    results = [block["toolResult"]["toolUseId"] for block in body["messages"][2]["content"] if "toolResult" in block]
    assert results == ["t1", "t2"]
    assert body["messages"][2]["content"][-1] == {"text": "and?"}
    assert made.untranslated == ("seed",)


async def test_reasoning_and_documents_of_an_anthropic_client_survive() -> None:
    document = {"type": "base64", "media_type": "application/pdf", "data": PIXEL}
    made = await ready(
        {
            "model": "anthropic.claude-x",
            "max_tokens": 4096,
            "top_k": 5,
            "thinking": {"type": "enabled", "budget_tokens": 2048},
            "messages": [
                {"role": "user", "content": [
                    {"type": "document", "title": "a/b.pdf", "source": document},
                    {"type": "document", "title": "a/b.pdf", "source": document},
                    {"type": "text", "text": "q"},
                ]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "sig"},
                    {"type": "text", "text": "a"},
                ]},
                {"role": "user", "content": "go on"},
            ],
        },
        client="anthropic",
    )  # fmt: skip
    body = accepted(made, "anthropic.claude-x")
    names = [block["document"]["name"] for block in body["messages"][0]["content"] if "document" in block]
    assert len(set(names)) == 2
    thought = body["messages"][1]["content"][0]["reasoningContent"]["reasoningText"]
    assert thought == {"text": "hm", "signature": "sig"}
    extra = body["additionalModelRequestFields"]
    assert extra == {"top_k": 5, "thinking": {"type": "enabled", "budget_tokens": 2048}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", None),
        ({"type": "function", "function": {"name": "f"}}, {"tool": {"name": "f"}}),
        ("none", "no tools"),
    ],
)
async def test_tool_choices(choice: Any, expected: Any) -> None:
    made = await ready({"model": "m", "messages": ASK, "tools": [TOOL], "tool_choice": choice})
    config = accepted(made, "m").get("toolConfig")
    assert (config.get("toolChoice") if config else "no tools") == expected


ANSWER = {
    "output": {"message": {"role": "assistant", "content": [
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}},
        {"text": "hello"},
        {"toolUse": {"toolUseId": "t1", "name": "f", "input": {"a": 1}}},
    ]}},
    "stopReason": "tool_use",
    "usage": {"inputTokens": 5, "outputTokens": 3, "totalTokens": 8, "cacheReadInputTokens": 2},
    "metrics": {"latencyMs": 1},
}  # fmt: skip


async def test_an_answer_in_two_dialects_and_in_accounting() -> None:
    data = json.dumps(ANSWER).encode()
    made = await ready({"model": "m", "messages": ASK})
    got = json.loads(made.decode(200, data, ()))
    choice = got["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("hello", "tool_calls")
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}
    seen = made.observe(data, ())
    assert seen.usage is not None and (seen.usage.input_tokens, seen.usage.output_tokens, seen.usage.cached) == (
        5,
        3,
        2,
    )
    claude = await ready({"model": "m", "max_tokens": 9, "messages": ASK}, client="anthropic")
    blocks = json.loads(claude.decode(200, data, ()))["content"]
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use"]
    assert blocks[0]["signature"] == "sig"


def frame(kind: str, payload: dict[str, Any]) -> bytes:
    headers = {":message-type": "event", ":event-type": kind, ":content-type": "application/json"}
    return message(headers, json.dumps(payload).encode())


STREAM = [
    ("messageStart", {"role": "assistant"}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "hm"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": "sig"}}}),
    ("contentBlockStop", {"contentBlockIndex": 0}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "hel"}}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "lo\u2028"}}),
    ("contentBlockStart", {"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "t1", "name": "f"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": '{"a"'}}}),
    ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": ":1}"}}}),
    ("contentBlockStop", {"contentBlockIndex": 2}),
    ("messageStop", {"stopReason": "tool_use"}),
    ("metadata", {"usage": {"inputTokens": 5, "outputTokens": 3, "totalTokens": 8}, "metrics": {"latencyMs": 1}}),
]


@pytest.mark.parametrize("size", [1, 37, 100_000])
async def test_a_stream_event_by_event(size: int) -> None:
    made = await ready({"model": "m", "messages": ASK, "stream": True}, stream=True)
    assert made.target == "/model/m/converse-stream"
    data = b"".join(frame(kind, payload) for kind, payload in STREAM)
    relay = made.relay()
    out = b"".join(relay.feed(data[at : at + size]) for at in range(0, len(data), size)) + relay.end()
    lines = [line[6:] for line in out.split(b"\n") if line.startswith(b"data: ")]
    assert lines[-1] == b"[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "hello\u2028"
    calls = [call for delta in deltas for call in delta.get("tool_calls") or []]
    assert "".join(call["function"]["arguments"] for call in calls) == '{"a":1}'
    assert relay.observed.finish_reason == "tool_calls"
    assert relay.observed.usage is not None and relay.observed.usage.total_tokens == 8


def test_the_stream_above_is_what_the_api_documents() -> None:
    shape = operation("ConverseStream").output_shape.members["stream"]
    for kind, payload in STREAM:
        report = ParamValidator().validate(payload, shape.members[kind])
        assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("api", ["chat", "completions", 5, None])
def test_another_api_is_invoke_model(api: Any) -> None:
    provider = PROVIDERS["bedrock"]
    provider.check_options({"api": api})
    assert provider.chat("openai", {"api": api}) == "bedrock"
