"""Bedrock calls from the client's body to the client's answer, buffered and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.providers.test_aws_answers import THROTTLED, chunk
from trustgate.providers.errors import ModelNotAllowed, RequestFault, StreamBroken
from trustgate.providers.prepare import Prepared, client_for
from trustgate.providers.probe import Inline
from trustgate.view.model import Allowance

AWS: dict[str, Any] = {
    "type": "aws",
    "aws": {"region": "us-east-1", "access_key_id": "AKIA", "secret_access_key": "s"},
}
OPEN = Allowance()
ASK = [{"role": "user", "content": "q"}]


async def ready(body: Any, *, client: str = "openai", stream: bool = False, allowance: Allowance = OPEN) -> Prepared:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await client_for(Inline("bedrock", {}, AWS)).prepare(client, "chat", stream, data, allowance)


FAMILIES = [
    ("us.anthropic.claude-x-v1:0", {"anthropic_version", "max_tokens", "messages"}),
    ("amazon.nova-lite-v1:0", {"messages"}),
    ("openai.gpt-oss-20b-1:0", {"messages"}),
    ("amazon.titan-text-express-v1", {"inputText"}),
    ("meta.llama3-1-8b-instruct-v1:0", {"prompt"}),
    ("mistral.mistral-7b-instruct-v0:2", {"prompt"}),
]


@pytest.mark.parametrize(("model", "keys"), FAMILIES)
async def test_the_model_is_in_the_url_and_decides_the_shape(model: str, keys: set[str]) -> None:
    made = await ready({"model": model, "messages": ASK, "stream": False})
    assert set(json.loads(made.body)) == keys
    assert made.target == f"/model/{model.replace(':', '%3A')}/invoke"
    assert made.sent_model == model


async def test_the_requested_model_is_not_replaced_by_the_default() -> None:
    both = Allowance(("amazon.nova-lite-v1:0", "anthropic.claude-x"), "anthropic.claude-x")
    made = await ready({"model": "amazon.nova-lite-v1:0", "messages": ASK}, allowance=both)
    assert made.target == "/model/amazon.nova-lite-v1%3A0/invoke"
    absent = await ready({"messages": ASK}, allowance=both)
    assert absent.sent_model == "anthropic.claude-x"
    assert "anthropic_version" in json.loads(absent.body)
    with pytest.raises(ModelNotAllowed):
        await ready({"model": "other", "messages": ASK}, allowance=both)


async def test_a_call_without_any_model_is_a_local_fault() -> None:
    with pytest.raises(RequestFault, match="request has no model"):
        await ready({"messages": ASK})


async def test_a_streamed_call_names_the_operation_and_not_the_flag() -> None:
    made = await ready({"model": "anthropic.claude-x", "messages": ASK, "stream": True}, stream=True)
    assert made.target == "/model/anthropic.claude-x/invoke-with-response-stream"
    assert not {"stream", "model"} & set(json.loads(made.body))


async def test_token_counts_of_the_headers_reach_client_and_accounting() -> None:
    made = await ready({"model": "mistral.mistral-7b-instruct-v0:2", "messages": ASK})
    answer = b'{"outputs":[{"text":"hi","stop_reason":"stop"}]}'
    headers = ((b"x-amzn-bedrock-input-token-count", b"7"), (b"x-amzn-bedrock-output-token-count", b"2"))
    got = json.loads(made.decode(200, answer, headers))
    assert got["choices"][0]["message"]["content"] == "hi"
    assert got["usage"]["prompt_tokens"] == 7
    seen = made.observe(answer, headers)
    assert seen.usage is not None and (seen.usage.input_tokens, seen.usage.output_tokens) == (7, 2)


async def test_an_aws_error_is_told_by_code_and_message() -> None:
    made = await ready({"model": "anthropic.claude-x", "messages": ASK})
    body = made.decode(429, b'{"message":"slow down"}', ((b"x-amzn-errortype", b"ThrottlingException"),))
    assert json.loads(body) == {"error": "ThrottlingException", "message": "slow down"}


CLAUDE_STREAM = [
    b'{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"c","content":[],'
    b'"usage":{"input_tokens":5,"output_tokens":1}}}',
    b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
    b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hel"}}',
    b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"lo"}}',
    b'{"type":"content_block_stop","index":0}',
    b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}',
    b'{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":5,"outputTokenCount":2}}',
]


async def test_frames_of_claude_become_chunks_of_chat_completions() -> None:
    made = await ready({"model": "anthropic.claude-x", "messages": ASK, "stream": True}, stream=True)
    relay = made.relay()
    data = b"".join(map(chunk, CLAUDE_STREAM))
    out = b"".join(relay.feed(data[start : start + 50]) for start in range(0, len(data), 50)) + relay.end()
    lines = [line[6:] for line in out.split(b"\n") if line.startswith(b"data: ")]
    assert lines[-1] == b"[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    deltas = [event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"]]
    assert "".join(deltas) == "Hello"
    assert relay.text == "Hello"
    assert relay.observed.finish_reason == "stop"
    assert relay.observed.usage is not None
    assert (relay.observed.usage.input_tokens, relay.observed.usage.output_tokens) == (5, 2)


async def test_an_exception_frame_ends_the_stream_with_an_error_in_the_clients_dialect() -> None:
    made = await ready({"model": "anthropic.claude-x", "messages": ASK, "stream": True}, stream=True)
    relay = made.relay()
    relay.feed(chunk(CLAUDE_STREAM[0]))
    with pytest.raises(StreamBroken, match="throttlingException"):
        relay.feed(THROTTLED)
    assert b"upstream stream terminated unexpectedly" in relay.fail()
