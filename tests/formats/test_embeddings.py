"""Embeddings between the OpenAI dialect and the others; counts of embedding and rerank answers."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from trustgate.formats import embeddings
from trustgate.formats.errors import DecodeError

from .samples import dump

WRITERS = {
    "cohere": embeddings.to_cohere,
    "google": embeddings.to_google,
    "vertex": embeddings.to_vertex,
}
READERS = {
    "cohere": embeddings.from_cohere,
    "google": embeddings.from_google,
    "vertex": embeddings.from_vertex,
}
REQUEST = {"model": "e", "input": ["a", "b"], "dimensions": 2, "user": "u"}


def test_requests_take_the_shape_of_each_dialect() -> None:
    def sent(wire: str) -> Any:
        return json.loads(WRITERS[wire](embeddings.decode_request(dump(REQUEST).encode())))

    assert sent("cohere") == {
        "model": "e",
        "texts": ["a", "b"],
        "input_type": "search_document",
        "embedding_types": ["float"],
        "output_dimension": 2,
    }
    assert sent("google")["requests"][1] == {
        "model": "models/e",
        "content": {"parts": [{"text": "b"}]},
        "outputDimensionality": 2,
    }
    assert sent("vertex") == {
        "model": "e",
        "instances": [{"content": "a"}, {"content": "b"}],
        "parameters": {"outputDimensionality": 2},
    }
    assert embeddings.decode_request(dump(REQUEST).encode()).untranslated == ("user",)


@pytest.mark.parametrize("body", [b"x", b"{}", b'{"input":[1,2]}', b'{"input":[[1]]}', b'{"input":5}'])
def test_token_arrays_and_other_inputs_are_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        embeddings.decode_request(body)


VECTOR = "[0.1000000000000000055,-2]"
ANSWERS = {
    "cohere": [
        '{"embeddings":{"float":[%s]},"meta":{"billed_units":{"input_tokens":3}}}',
        '{"embeddings":[%s],"meta":{"billed_units":{"input_tokens":3}}}',
    ],
    "google": ['{"embeddings":[{"values":%s}]}', '{"embedding":{"values":%s}}'],
    "vertex": ['{"predictions":[{"embeddings":{"values":%s,"statistics":{"token_count":3}}}]}'],
}


@pytest.mark.parametrize(
    ("wire", "answer"), [(wire, answer) for wire, answers in ANSWERS.items() for answer in answers]
)
def test_answers_become_an_openai_list_with_the_vectors_as_written(wire: str, answer: str) -> None:
    body = (answer % VECTOR).encode()
    got = READERS[wire](body, "e", "float")
    tokens = 0 if wire == "google" else 3
    assert got.decode() == (
        '{"object":"list","data":[{"object":"embedding","index":0,"embedding":'
        + VECTOR
        + '}],"model":"e",'
        + dump({"usage": {"prompt_tokens": tokens, "total_tokens": tokens}})[1:]
    )
    packed = json.loads(READERS[wire](body, "e", "base64"))
    assert base64.b64decode(packed["data"][0]["embedding"]) == struct.pack("<2f", 0.1, -2)


def test_counts_of_embedding_and_rerank_answers_are_observed() -> None:
    openai = b'{"model":"e","usage":{"prompt_tokens":5,"total_tokens":5}}'
    usage = embeddings.observe("openai_embeddings", openai).usage
    assert usage is not None and usage.input_tokens == 5
    assert embeddings.observe("cohere_rerank", b'{"id":"r","meta":{"billed_units":{"search_units":1}}}').id == "r"
    with pytest.raises(DecodeError):
        embeddings.observe("cohere_rerank", b"x")
