"""Decoders raise `DecodeError` and nothing else, and strict where a modelled member has another type."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustgate.formats import embeddings, translate
from trustgate.formats.codecs import CODECS
from trustgate.formats.errors import DecodeError

FORMATS = sorted(CODECS)
CLIENTS = ("openai", "openai_responses", "anthropic", "google", "cohere")
VOCABULARY = (
    "model messages role content tool_calls function arguments type text input output contents parts functionCall args",
    "functionResponse response system tools tool_choice name id call_id max_tokens temperature stop choices message",
    "candidates usage generationConfig error image_url url source data metadata thinking response_format",
)
WORDS = st.sampled_from(" ".join(VOCABULARY).split())
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(
        ["user", "assistant", "tool", "system", "text", "tool_use", "tool_result", "function", "{}", "{", "custom"]
    ),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=5)),
    max_leaves=30,
)
HOSTILE = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"1",
    b'"x"',
    b"\xff\xfe",
    b'{"messages":"x"}',
    b'{"a":1} x',
    b"[" * 1000 + b"]" * 1000,
    b'{"messages":' + b"[" * 1000 + b"]" * 1000 + b"}",
    b'{"messages":' + b'{"a":' * 100000,
    b'{"tools":' + b"[" * 100000,
    b'{"temperature":' + b"9" * 5000 + b"}",
    b'{"max_tokens":1e400}',
    b'{"model":"\xff"}',
    b'{"model":"\\ud800"}',
    b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    b'{"stop":[1]}',
    b'{"tools":[{"function":{"name":"f","parameters":{"a":"\xff"}}}]}',
    b'{"messages":[{"content":[{"type":"tool_use","input":"\xff"}],"role":"assistant"}]}',
]


def attempt(body: bytes) -> None:
    for name in FORMATS:
        codec = CODECS[name]
        for decode in (codec.decode_request, codec.decode_response, codec.stream_decoder().decode):
            try:
                decode(body)
            except DecodeError:
                pass
    for client in CLIENTS:
        for wire in FORMATS:
            for call in (translate.translate_request, translate.translate_response):
                try:
                    call(client, wire, body)
                except DecodeError:
                    pass
            translate.observe_response(wire, body)
    for read in (embeddings.from_cohere, embeddings.from_google, embeddings.from_vertex):
        try:
            read(body, "m", "float")
        except DecodeError:
            pass
    for write in (embeddings.to_cohere, embeddings.to_google, embeddings.to_vertex):
        try:
            write(embeddings.decode_request(body))
        except DecodeError:
            pass


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bytes_give_a_decode_error_or_an_answer(body: bytes) -> None:
    attempt(body)


@given(st.dictionaries(WORDS, TREES, max_size=6))
@settings(max_examples=150, deadline=None)
def test_well_formed_nonsense_gives_a_decode_error_or_an_answer(tree: Any) -> None:
    attempt(json.dumps(tree).encode())


@given(st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_bytes_give_a_decode_error_or_an_answer(body: bytes) -> None:
    attempt(body)


WRONG_TYPES = [
    ("openai", {"messages": "x"}),
    ("openai", {"messages": [], "max_tokens": "5"}),
    ("openai", {"messages": [], "temperature": "hot"}),
    ("openai", {"messages": [{"role": 5}]}),
    ("anthropic", {"messages": {}}),
    ("anthropic", {"messages": [], "stop_sequences": "x"}),
    ("openai_responses", {"input": "q", "max_output_tokens": []}),
    ("google", {"contents": "x"}),
    ("cohere", {"messages": 1}),
]


@pytest.mark.parametrize(("client", "body"), WRONG_TYPES)
def test_a_modelled_member_of_another_type_is_refused(client: str, body: dict[str, Any]) -> None:
    wire = "anthropic" if client != "anthropic" else "openai"
    with pytest.raises(DecodeError):
        translate.translate_request(client, wire, json.dumps(body).encode())


def test_a_thousand_levels_are_refused_and_a_hundred_pass() -> None:
    def nested(levels: int) -> bytes:
        schema = b'{"properties":' * levels + b"{}" + b"}" * levels
        return b'{"messages":[],"tools":[{"function":{"name":"f","parameters":' + schema + b"}}]}"

    assert translate.translate_request("openai", "google", nested(100)).body
    with pytest.raises(DecodeError):
        translate.translate_request("openai", "google", nested(1000))
