"""Token counts from every upstream to every client and to accounting, buffered and streamed alike."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trustgate.formats import translate
from trustgate.formats.streams import StreamRelay

from .samples import dump, sse

Json = dict[str, Any]
CLIENTS = ("openai", "openai_responses", "anthropic", "google", "cohere")

_CHAT: Json = {"prompt_tokens": 100, "completion_tokens": 30, "total_tokens": 130}
_CHAT |= {"prompt_tokens_details": {"cached_tokens": 40}, "completion_tokens_details": {"reasoning_tokens": 12}}
_RESPONSES: Json = {"input_tokens": 100, "output_tokens": 30, "total_tokens": 130}
_RESPONSES |= {"input_tokens_details": {"cached_tokens": 40}, "output_tokens_details": {"reasoning_tokens": 12}}
_MESSAGES: Json = {"input_tokens": 100, "output_tokens": 30, "service_tier": "priority"}
_MESSAGES |= {"cache_creation_input_tokens": 7, "cache_read_input_tokens": 40}
_GEMINI: Json = {"promptTokenCount": 100, "candidatesTokenCount": 30, "totalTokenCount": 142}
_GEMINI |= {"cachedContentTokenCount": 40, "thoughtsTokenCount": 12}
_COHERE: Json = {"billed_units": {"input_tokens": 1, "output_tokens": 2}}
_COHERE |= {"tokens": {"input_tokens": 100, "output_tokens": 30}, "cached_tokens": 40}


def _chat() -> tuple[Json, list[Any]]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    chunk = {"index": 0, "delta": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    head = {"id": "c", "model": "m"}
    return head | {"choices": [choice], "usage": _CHAT}, [
        head | {"choices": [chunk]},
        head | {"choices": [], "usage": _CHAT},
        "[DONE]",
    ]


def _messages() -> tuple[Json, list[Any]]:
    head: Json = {"id": "c", "type": "message", "role": "assistant", "model": "m"}
    events = [
        {"type": "message_start", "message": head | {"content": [], "usage": _MESSAGES | {"output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "x"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 30}},
        {"type": "message_stop"},
    ]
    return head | {
        "content": [{"type": "text", "text": "x"}],
        "stop_reason": "end_turn",
        "usage": _MESSAGES,
    }, events


def _gemini() -> tuple[Json, list[Any]]:
    candidate = {"content": {"role": "model", "parts": [{"text": "x"}]}, "finishReason": "STOP"}
    early = {"promptTokenCount": 100, "totalTokenCount": 100}
    first = {"candidates": [{"content": {"role": "model", "parts": [{"text": "x"}]}}], "usageMetadata": early}
    last = {"candidates": [{"finishReason": "STOP"}], "usageMetadata": _GEMINI}
    return {"candidates": [candidate], "usageMetadata": _GEMINI}, [first, last]


def _cohere() -> tuple[Json, list[Any]]:
    message = {"role": "assistant", "content": [{"type": "text", "text": "x"}]}
    events = [
        {"type": "message-start", "id": "c", "delta": {"message": {"role": "assistant"}}},
        {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "x"}}}},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": _COHERE}},
    ]
    return {"id": "c", "finish_reason": "COMPLETE", "message": message, "usage": _COHERE}, events


def _responses() -> tuple[Json, list[Any]]:
    part = {"type": "output_text", "text": "x"}
    body: Json = {"id": "c", "object": "response", "model": "m", "status": "completed", "usage": _RESPONSES}
    body |= {"output": [{"type": "message", "role": "assistant", "content": [part]}]}
    return body, [
        {"type": "response.output_text.delta", "delta": "x"},
        {"type": "response.completed", "response": body},
    ]


def _bedrock_nova() -> tuple[Json, list[Any]]:
    usage = {"inputTokens": 100, "outputTokens": 30, "totalTokens": 130}
    body = {"output": {"message": {"content": [{"text": "x"}]}}, "stopReason": "end_turn", "usage": usage}
    return body, [
        {"contentBlockDelta": {"delta": {"text": "x"}}},
        {"messageStop": {"stopReason": "end_turn"}},
        {"metadata": {"usage": usage}},
    ]


def _bedrock_llama() -> tuple[Json, list[Any]]:
    counts = {"inputTokenCount": 100, "outputTokenCount": 30}
    body = {"generation": "x", "stop_reason": "stop", "amazon-bedrock-invocationMetrics": counts}
    return body, [{"generation": "x", "stop_reason": None}, body | {"generation": ""}]


# upstream, what it says, and: input, output, total, cached or read from a cache, written to a cache, reasoning
UPSTREAMS: list[tuple[str, Any, tuple[int, ...]]] = [
    ("mistral", _chat, (100, 30, 130, 40, 0, 12)),
    ("openai_responses", _responses, (100, 30, 130, 40, 0, 12)),
    ("anthropic", _messages, (100, 30, 130, 40, 7, 0)),
    ("bedrock", _messages, (100, 30, 130, 40, 7, 0)),
    ("google", _gemini, (100, 30, 142, 40, 0, 12)),
    ("cohere", _cohere, (100, 30, 130, 40, 0, 0)),
    ("bedrock", _bedrock_nova, (100, 30, 130, 0, 0, 0)),
    ("bedrock", _bedrock_llama, (100, 30, 130, 0, 0, 0)),
]


def counts_of(client: str, answer: Json) -> Json:
    """The counts of an answer, or of the event of a stream that holds them."""
    if client == "google":
        return answer["usageMetadata"]
    if client == "cohere":
        return answer["delta"]["usage"]["tokens"] if "delta" in answer else answer["usage"]["tokens"]
    return answer["response"]["usage"] if "response" in answer else answer["usage"]


def wanted(client: str, counts: tuple[int, ...]) -> Json:
    read, out, total, cached, written, thought = counts
    some: dict[str, Json] = {
        "openai": {"prompt_tokens": read, "completion_tokens": out, "total_tokens": total}
        | ({"prompt_tokens_details": {"cached_tokens": cached}} if cached else {})
        | ({"completion_tokens_details": {"reasoning_tokens": thought}} if thought else {}),
        "openai_responses": {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": out,
            "output_tokens_details": {"reasoning_tokens": thought},
            "total_tokens": total,
        },
        "anthropic": {"input_tokens": read, "output_tokens": out}
        | ({"cache_creation_input_tokens": written} if written else {})
        | ({"cache_read_input_tokens": cached} if cached else {}),
        "google": {"promptTokenCount": read, "candidatesTokenCount": out, "totalTokenCount": total}
        | ({"cachedContentTokenCount": cached} if cached else {})
        | ({"thoughtsTokenCount": thought} if thought else {}),
        "cohere": {"input_tokens": read, "output_tokens": out},
    }
    return some[client]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("wire", "make", "counts"), UPSTREAMS, ids=[f"{w}-{m.__name__}" for w, m, _ in UPSTREAMS])
def test_counts_reach_the_client_and_accounting(client: str, wire: str, make: Any, counts: tuple[int, ...]) -> None:
    body, events = make()
    seen = translate.observe_response(wire, dump(body).encode()).usage
    assert seen is not None
    assert (seen.input_tokens, seen.output_tokens, seen.total_tokens, seen.cached) == counts[:4]
    assert (seen.cache_creation_input_tokens, seen.reasoning_output_tokens) == counts[4:]
    relay = StreamRelay(client, wire)
    out = (relay.feed(sse(*events)) + relay.end()).decode()
    assert relay.observed.usage == seen
    if translate.same_wire(client, wire):
        return
    expected = wanted(client, counts)
    if make is _messages and client == "anthropic":
        expected["service_tier"] = "priority"
    answer = json.loads(translate.translate_response(client, wire, dump(body).encode()))
    assert counts_of(client, answer) == expected
    got = [json.loads(line[5:]) for line in out.splitlines() if line.startswith("data:") and "[DONE]" not in line]
    holders = [event for event in got if event.get("type") != "message_start" and "usage" in dump(event)]
    assert [counts_of(client, event) for event in holders] == [expected], "once"


def without_usage(node: Any) -> Any:
    if isinstance(node, dict):
        hidden = ("usage", "usageMetadata", "metadata", "amazon-bedrock-invocationMetrics")
        return {name: without_usage(value) for name, value in node.items() if name not in hidden}
    return [without_usage(entry) for entry in node] if isinstance(node, list) else node


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("wire", "make", "counts"), UPSTREAMS, ids=[f"{w}-{m.__name__}" for w, m, _ in UPSTREAMS])
def test_an_upstream_that_counts_nothing_is_no_trouble(
    client: str, wire: str, make: Any, counts: tuple[int, ...]
) -> None:
    body, events = without_usage(make()[0]), [without_usage(event) for event in make()[1]]
    assert translate.observe_response(wire, dump(body).encode()).usage is None
    relay = StreamRelay(client, wire)
    out = (relay.feed(sse(*(event for event in events if event))) + relay.end()).decode()
    assert relay.observed.usage is None and "x" in out
    if translate.same_wire(client, wire):
        return
    answer = json.loads(translate.translate_response(client, wire, dump(body).encode()))
    if client == "anthropic":
        assert answer["usage"] == {"input_tokens": 0, "output_tokens": 0}
    else:
        assert "usage" not in answer and "usageMetadata" not in answer
