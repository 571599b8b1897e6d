"""Reading bodies in every client dialect: policies see what they can, and never break on the rest."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.formats.test_decoders import HOSTILE, TREES, WORDS
from trustgate.policies.dialects import CHAT_FORMATS, read_answer, read_prompt, refuse_calls
from trustgate.policies.texts import prompt_text, rewrite_answer, rewrite_prompt
from trustgate.policies.tools import offered_tools, with_tools

from . import builders as b


def attempt(body: bytes) -> None:
    for dialect in CHAT_FORMATS:
        request = b.request(source_format=dialect)
        request.body = body
        for text in (rewrite_prompt(request, lambda _, text: text + "!"), rewrite_answer(request, body, str.upper)):
            assert text is None or isinstance(msgspec.json.decode(text), dict)
        tools = offered_tools(request)
        if tools:
            with_tools(request, tools[1:])
        answer = read_answer(dialect, body)
        if answer is not None and answer.calls:
            refuse_calls(answer, answer.calls, "no")
            refused = read_answer(dialect, answer.encode())
            assert refused is not None and not refused.calls and refused.text.endswith("no")


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bytes_are_read_or_let_be(body: bytes) -> None:
    attempt(body)


@given(st.dictionaries(WORDS, TREES, max_size=6))
@settings(max_examples=150, deadline=None)
def test_well_formed_nonsense_is_read_or_let_be(tree: Any) -> None:
    attempt(json.dumps(tree).encode())


CALL = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ODD_ANSWERS = [
    {"choices": [{"message": {"tool_calls": [CALL]}}]},
    {"choices": [{"index": 0}, {"message": {"tool_calls": [CALL]}}]},
    {"choices": ["x", {"message": {"content": [{"type": "refusal", "refusal": "r"}], "tool_calls": [CALL]}}]},
    {"message": {"content": "x", "tool_calls": [CALL]}},
    {"message": {"content": None, "tool_calls": [CALL]}},
    {"message": {"tool_calls": [CALL, CALL, 5]}},
    {"content": [{"type": "tool_use", "id": "x", "name": "f", "input": {}}, 5]},
    {"output": [{"type": "function_call", "call_id": "x", "name": "f"}, 5]},
    {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}]}}]},
    {"candidates": [{"finishReason": "STOP"}, {"content": {"parts": [{"functionCall": {"name": "f"}}]}}]},
]


@pytest.mark.parametrize("answer", ODD_ANSWERS, ids=range(len(ODD_ANSWERS)))
def test_calls_of_odd_answers_can_be_refused(answer: dict[str, Any]) -> None:
    attempt(json.dumps(answer).encode())


ODD = [
    {"seed": 1.5, "n": "2", "user": 5, "parallel_tool_calls": "no", "reasoning_effort": {}, "presence_penalty": "x"},
    {"response_format": {"type": "json_schema", "json_schema": 5}},
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("dialect", ["openai", "cohere"])
def test_odd_optional_members_never_hide_the_texts_from_guards(dialect: str, odd: dict[str, Any]) -> None:
    parts = [{"type": "text", "text": "evil", "image_url": 5}]
    body = json.dumps({"messages": [{"role": "user", "content": parts, "name": 5, "refusal": []}]} | odd)
    prompt = read_prompt(dialect, body.encode())
    assert prompt is not None and prompt_text(prompt) == "evil"
