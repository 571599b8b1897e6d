"""Why an answer ended, from every upstream's word to every client's, buffered and streamed; answers that are empty."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trustgate.formats import translate
from trustgate.formats.streams import StreamRelay

from .samples import dump, sse

Json = dict[str, Any]


def _chat(reason: str) -> tuple[Json, list[Any]]:
    head: Json = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    buffered = head | {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": reason}]
    }
    chunk = {"index": 0, "delta": {"role": "assistant", "content": "x"}, "finish_reason": None}
    last = {"index": 0, "delta": {}, "finish_reason": reason}
    return buffered, [head | {"choices": [chunk]}, head | {"choices": [last]}, "[DONE]"]


def _messages(reason: str) -> tuple[Json, list[Any]]:
    head: Json = {"id": "c", "type": "message", "role": "assistant", "model": "m"}
    events = [
        {"type": "message_start", "message": head | {"content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ]
    return head | {"content": [{"type": "text", "text": "x"}], "stop_reason": reason}, events


def _gemini(reason: str) -> tuple[Json, list[Any]]:
    candidate = {"content": {"role": "model", "parts": [{"text": "x"}]}, "finishReason": reason}
    return {"candidates": [candidate]}, [{"candidates": [candidate]}]


def _cohere(reason: str) -> tuple[Json, list[Any]]:
    message = {"role": "assistant", "content": [{"type": "text", "text": "x"}]}
    events = [
        {"type": "message-start", "id": "c", "delta": {"message": {"role": "assistant"}}},
        {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "x"}}}},
        {"type": "message-end", "delta": {"finish_reason": reason}},
    ]
    return {"id": "c", "finish_reason": reason, "message": message}, events


def _responses(reason: str) -> tuple[Json, list[Any]]:
    status, _, why = reason.partition(":")
    part = {"type": "output_text", "text": "x"}
    body: Json = {"id": "c", "object": "response", "model": "m", "status": status}
    body |= {"output": [{"type": "message", "role": "assistant", "content": [part]}]}
    body |= {"incomplete_details": {"reason": why}} if why else {}
    delta = {"type": "response.output_text.delta", "delta": "x"}
    return body, [delta, {"type": "response." + status, "response": body}]


def _nova(reason: str) -> tuple[Json, list[Any]]:
    body = {"output": {"message": {"role": "assistant", "content": [{"text": "x"}]}}, "stopReason": reason}
    return body, [{"contentBlockDelta": {"delta": {"text": "x"}}}, {"messageStop": {"stopReason": reason}}]


def _titan(reason: str) -> tuple[Json, list[Any]]:
    body = {"inputTextTokenCount": 1, "results": [{"outputText": "x", "completionReason": reason}]}
    return body, [{"outputText": "x", "completionReason": reason}]


def _llama(reason: str) -> tuple[Json, list[Any]]:
    body = {"generation": "x", "stop_reason": reason}
    return body, [body]


def _prompt_mistral(reason: str) -> tuple[Json, list[Any]]:
    body = {"outputs": [{"text": "x", "stop_reason": reason}]}
    return body, [body]


# What each upstream says, and the canonical reason: the right side of spec-like tables is below.
SAID: list[tuple[Any, str, str, str]] = [
    (_chat, "mistral", "stop", "stop"),
    (_chat, "mistral", "length", "length"),
    (_chat, "mistral", "content_filter", "content_filter"),
    (_chat, "mistral", "odd_word", "odd_word"),
    (_messages, "anthropic", "end_turn", "stop"),
    (_messages, "anthropic", "stop_sequence", "stop"),
    (_messages, "anthropic", "max_tokens", "length"),
    (_messages, "anthropic", "refusal", "content_filter"),
    (_messages, "anthropic", "pause_turn", "pause_turn"),
    (_messages, "bedrock", "max_tokens", "length"),
    (_gemini, "google", "STOP", "stop"),
    (_gemini, "google", "MAX_TOKENS", "length"),
    (_gemini, "google", "SAFETY", "content_filter"),
    (_gemini, "google", "RECITATION", "content_filter"),
    (_gemini, "google", "PROHIBITED_CONTENT", "content_filter"),
    (_gemini, "google", "IMAGE_PROHIBITED_CONTENT", "content_filter"),
    (_gemini, "google", "OTHER", "OTHER"),
    (_cohere, "cohere", "COMPLETE", "stop"),
    (_cohere, "cohere", "complete", "stop"),
    (_cohere, "cohere", "STOP_SEQUENCE", "stop"),
    (_cohere, "cohere", "MAX_TOKENS", "length"),
    (_cohere, "cohere", "TIMEOUT", "timeout"),
    (_responses, "openai_responses", "completed", "stop"),
    (_responses, "openai_responses", "incomplete:max_output_tokens", "length"),
    (_responses, "openai_responses", "incomplete:content_filter", "content_filter"),
    (_nova, "bedrock", "end_turn", "stop"),
    (_nova, "bedrock", "stop_sequence", "stop"),
    (_nova, "bedrock", "max_tokens", "length"),
    (_titan, "bedrock", "FINISH", "stop"),
    (_titan, "bedrock", "LENGTH", "length"),
    (_llama, "bedrock", "stop", "stop"),
    (_llama, "bedrock", "end_of_text", "stop"),
    (_llama, "bedrock", "length", "length"),
    (_prompt_mistral, "bedrock", "stop", "stop"),
    (_prompt_mistral, "bedrock", "end_turn", "stop"),
    (_prompt_mistral, "bedrock", "length", "length"),
]  # fmt: skip

# How each client says it; any other reason is told as the last column.
TOLD: dict[str, dict[str, str]] = {
    "openai_responses": {"stop": "completed", "length": "incomplete", "": "completed"},
    "anthropic": {"stop": "end_turn", "length": "max_tokens", "": "end_turn"},
    "google": {"stop": "STOP", "length": "MAX_TOKENS", "": "STOP"},
    "cohere": {"stop": "COMPLETE", "length": "MAX_TOKENS", "": "COMPLETE"},
}


def told_buffered(client: str, body: Json) -> str:
    if client == "openai":
        return body["choices"][0]["finish_reason"]
    if client == "google":
        return body["candidates"][0]["finishReason"]
    return body[{"openai_responses": "status", "anthropic": "stop_reason", "cohere": "finish_reason"}[client]]


def told_streamed(client: str, events: list[Json]) -> list[str]:
    if client == "openai":
        found = [c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]]
    elif client == "google":
        found = [c["finishReason"] for e in events for c in e["candidates"] if "finishReason" in c]
    elif client == "openai_responses":
        found = [e["response"]["status"] for e in events if e["type"] in ("response.completed", "response.incomplete")]
    elif client == "anthropic":
        found = [e["delta"]["stop_reason"] for e in events if e["type"] == "message_delta"]
    else:
        found = [e["delta"]["finish_reason"] for e in events if e["type"] == "message-end"]
    return found


CLIENTS = ("openai", *TOLD)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("make", "wire", "said", "reason"), SAID)
def test_every_reason_is_told_in_the_clients_words(client: str, make: Any, wire: str, said: str, reason: str) -> None:
    if translate.same_wire(client, wire):
        return
    body, events = make(said)
    wanted = reason if client == "openai" else TOLD[client].get(reason, TOLD[client][""])
    assert told_buffered(client, json.loads(translate.translate_response(client, wire, dump(body).encode()))) == wanted
    relay = StreamRelay(client, wire)
    out = (relay.feed(sse(*events)) + relay.end()).decode()
    got = [json.loads(line[5:]) for line in out.splitlines() if line.startswith("data:") and "[DONE]" not in line]
    if client == "google" and wanted == "STOP" and reason.isupper():
        wanted = reason  # the dialect's own word, streamed
    assert told_streamed(client, got) == [wanted]


EMPTY: dict[str, Json] = {
    "mistral": {"id": "c", "choices": [{"message": {"role": "assistant", "content": None}, "finish_reason": "stop"}]},
    "anthropic": {"id": "c", "type": "message", "role": "assistant", "content": [], "stop_reason": "end_turn"},
    "google": {"candidates": [{"content": {"role": "model"}, "finishReason": "STOP"}]},
    "cohere": {"id": "c", "finish_reason": "COMPLETE", "message": {"role": "assistant", "content": []}},
    "openai_responses": {"id": "c", "object": "response", "status": "completed", "output": []},
    "bedrock": {"outputs": [{"text": "", "stop_reason": "stop"}]},
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("wire", EMPTY)
def test_an_answer_that_says_nothing_has_empty_lists_and_no_null(client: str, wire: str) -> None:
    if translate.same_wire(client, wire):
        return
    body = json.loads(translate.translate_response(client, wire, dump(EMPTY[wire]).encode()))
    content = {
        "openai": lambda: body["choices"][0]["message"]["content"] or "",
        "anthropic": lambda: body["content"],
        "google": lambda: body["candidates"][0]["content"]["parts"],
        "cohere": lambda: body["message"]["content"],
        "openai_responses": lambda: body["output"],
    }[client]()
    assert content in ([], "")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_prompt_that_gemini_blocked_is_an_answer_without_content(client: str) -> None:
    if client == "google":
        return
    blocked = {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4},
    }
    body = json.loads(translate.translate_response(client, "google", dump(blocked).encode()))
    assert told_buffered(client, body) == ("content_filter" if client == "openai" else TOLD[client][""])
    relay = StreamRelay(client, "google")
    out = (relay.feed(sse(blocked)) + relay.end()).decode()
    got = [json.loads(line[5:]) for line in out.splitlines() if line.startswith("data:") and "[DONE]" not in line]
    assert told_streamed(client, got) == [told_buffered(client, body)]
