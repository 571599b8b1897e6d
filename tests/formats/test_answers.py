"""Answers across dialects: thinking in every upstream's way of saying it, opaque blocks, members nobody models."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trustgate.formats import translate
from trustgate.formats.streams import StreamRelay

from .samples import dump, sse


def answered(client: str, wire: str, body: dict[str, Any]) -> dict[str, Any]:
    return json.loads(translate.translate_response(client, wire, dump(body).encode()))


def streamed(client: str, wire: str, *events: Any, named: bool = False) -> list[dict[str, Any]]:
    relay = StreamRelay(client, wire)
    lines = (relay.feed(sse(*events, named=named)) + relay.end()).decode().splitlines()
    return [json.loads(line[5:]) for line in lines if line.startswith("data:") and line != "data: [DONE]"]


def chat(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": "stop", "logprobs": {"c": 1.50}}
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]} | more


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}, {"type": "text", "text": "m"}]}
THOUGHTS: list[tuple[str, dict[str, Any]]] = [
    ("mistral", chat({"content": [THINKING, {"type": "text", "text": "four"}]})),
    ("groq", chat({"content": "four", "reasoning": "hmm"})),
    ("openrouter", chat({"content": "four", "reasoning": "hmm", "reasoning_details": [{"type": "reasoning.text"}]})),
    ("deepseek", chat({"content": "four", "reasoning_content": "hmm"})),
    ("openai", chat({"content": "four"}, reasoning={"effort": "low", "summary": "hmm"})),
    (
        "cohere",
        {
            "id": "c1",
            "finish_reason": "COMPLETE",
            "message": {"tool_plan": "hmm", "content": [{"type": "text", "text": "four"}]},
        },
    ),
]


@pytest.mark.parametrize(("wire", "body"), THOUGHTS)
def test_thinking_reaches_an_anthropic_client_before_the_text(wire: str, body: dict[str, Any]) -> None:
    blocks = answered("anthropic", wire, body)["content"]
    assert [(block["type"], block.get("thinking", block.get("text"))) for block in blocks] == [
        ("thinking", "hmm"),
        ("text", "four"),
    ]


@pytest.mark.parametrize(("wire", "body"), [row for row in THOUGHTS if row[0] in ("mistral", "groq", "openrouter")])
def test_a_peers_answer_gains_its_thinking_and_loses_nothing(wire: str, body: dict[str, Any]) -> None:
    answer = answered("openai", wire, body)
    message, original = answer["choices"][0]["message"], body["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("four", "hmm")
    assert {name: message[name] for name in original if name != "content"} == {
        name: original[name] for name in original if name != "content"
    }
    assert answer["choices"][0]["logprobs"] == {"c": 1.5} and answer["reasoning"] == {"summary": "hmm"}


@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_a_streamed_tool_plan_is_thinking(client: str) -> None:
    events = [
        {"type": "message-start", "id": "c1", "delta": {"message": {"role": "assistant"}}},
        {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "h"}}},
        {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "mm"}}},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}},
    ]
    got = streamed(client, "cohere", *events, named=True)
    if client == "openai":
        thoughts = [choice["delta"].get("reasoning_content", "") for event in got for choice in event["choices"]]
    else:
        thoughts = [event.get("delta", {}).get("thinking", "") for event in got]
    assert "".join(thoughts) == "hmm"


# What a thinking Claude may say: two signed thoughts in a row, one kept back, one without readable text.
BLOCKS: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "one", "signature": "sig1"},
    {"type": "thinking", "thinking": "two", "signature": "sig2"},
    {"type": "redacted_thinking", "data": "hidden"},
    {"type": "thinking", "thinking": "", "signature": "sig3"},
    {"type": "text", "text": "four"},
]


def claude_events() -> list[dict[str, Any]]:
    message = {"id": "c1", "type": "message", "role": "assistant", "model": "m", "content": []}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for index, block in enumerate(BLOCKS):
        empty = {name: value if name in ("type", "data") else "" for name, value in block.items()}
        events.append({"type": "content_block_start", "index": index, "content_block": empty})
        for name, kind in (("thinking", "thinking_delta"), ("signature", "signature_delta"), ("text", "text_delta")):
            if block.get(name):
                delta = {"type": kind, name: block[name]}
                events.append({"type": "content_block_delta", "index": index, "delta": delta})
        events.append({"type": "content_block_stop", "index": index})
    events.append({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}})
    return [*events, {"type": "message_stop"}]


def test_streamed_thoughts_of_claude_on_bedrock_keep_their_blocks_and_signatures() -> None:
    blocks: list[dict[str, Any]] = []
    for event in streamed("anthropic", "bedrock", *claude_events()):
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            name = event["delta"]["type"].removesuffix("_delta")
            assert event["index"] == len(blocks) - 1
            blocks[-1][name] = blocks[-1].get(name, "") + event["delta"][name]
    assert blocks == BLOCKS


def test_blocks_of_claude_on_bedrock_come_back_as_they_are() -> None:
    blocks = [
        {"type": "text", "text": "see", "citations": [{"type": "char_location", "cited_text": "x"}]},
        *BLOCKS,
        {
            "type": "tool_use",
            "id": "t",
            "name": "f",
            "input": {"n": 12345678901234567890},
            "caller": {"type": "direct"},
        },
    ]
    body = {"id": "c1", "type": "message", "role": "assistant", "model": "m", "content": blocks}
    body |= {"stop_reason": "tool_use", "usage": {"input_tokens": 2, "output_tokens": 3}}
    body |= {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 2, "outputTokenCount": 3}}
    answer = answered("anthropic", "bedrock", body)
    assert (answer["content"], answer["stop_reason"]) == (blocks, "tool_use")
    assert "amazon-bedrock-invocationMetrics" not in answer
