"""Embeddings and rerank: what each provider is sent, and the answer an OpenAI client gets."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from trustgate.providers.errors import InvalidRequest, ModelNotAllowed, RequestFault
from trustgate.providers.prepare import Prepared, client_for
from trustgate.providers.probe import Inline
from trustgate.view.model import Allowance

KEY: dict[str, Any] = {"type": "api_key", "api_key": {"api_key": "k"}}
AZURE: dict[str, Any] = {"type": "azure", "azure": {"endpoint": "https://r.test", "api_key": "k"}}
OPEN = Allowance()
VERTEX = {"project": "p", "location": "l"}


def ready(
    provider: str,
    body: Any,
    *,
    capability: str = "embeddings",
    auth: dict[str, Any] = KEY,
    allowance: Allowance = OPEN,
    **options: Any,
) -> Prepared:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    client = "openai_embeddings" if capability == "embeddings" else "cohere_rerank"
    made = client_for(Inline(provider, options, auth)).prepare_sync(client, capability, True, data, allowance)
    assert made is not None
    return made


def test_a_cohere_client_reaches_every_embedder_and_its_own_one_byte_for_byte() -> None:
    body = (
        b'{ "model":"e","texts":["a"], "input_type":"search_query", "embedding_types":["float","int8"],"images":null }'
    )
    same = prepared_embed("cohere", body)
    assert (same.body, same.target) == (body, "/v2/embed")
    other = prepared_embed("openai", body)
    assert json.loads(other.body) == {"model": "e", "input": ["a"]}
    assert other.untranslated == ("embedding_types[int8]",)
    answer = {"data": [{"embedding": [1e-7, 3]}], "usage": {"prompt_tokens": 4}}
    shown = other.decode(200, json.dumps(answer).encode())
    assert b"[1e-07,3]" in shown or b"[1e-7,3]" in shown
    assert json.loads(shown) == {
        "id": "",
        "embeddings": {"float": [[1e-7, 3]]},
        "texts": ["a"],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 4}},
        "response_type": "embeddings_by_type",
    }
    usage = other.observe(json.dumps(answer).encode()).usage
    assert usage is not None and usage.input_tokens == 4
    with pytest.raises(InvalidRequest, match='format "cohere_embed"'):
        prepared_embed("openai", b'{"model":"e","images":["x"]}')


def prepared_embed(provider: str, body: bytes) -> Prepared:
    made = client_for(Inline(provider, {}, KEY)).prepare_sync("cohere_embed", "embeddings", False, body, OPEN)
    assert made is not None
    return made


PASS_THROUGH = [
    ("openai", KEY, {}, "/v1/embeddings"),
    ("openai_compatible", KEY, {"base_url": "http://h/v1"}, "/v1/embeddings"),
    ("mistral", KEY, {}, "/v1/embeddings"),
    ("openrouter", KEY, {}, "/api/v1/embeddings"),
    ("azure", AZURE, {}, "/openai/deployments/e/embeddings?api-version=2024-10-21"),
]


@pytest.mark.parametrize(("provider", "auth", "options", "target"), PASS_THROUGH)
def test_openai_shaped_embeddings_pass_through_and_never_stream(
    provider: str, auth: dict[str, Any], options: dict[str, Any], target: str
) -> None:
    body = b'{ "model":"e", "input":[[1,2]], "stream":true }'
    made = ready(provider, body, auth=auth, **options)
    assert (made.body, made.target) == (body, target)
    answer = b'{ "data":[], "model":"e-1", "usage":{"prompt_tokens":4,"total_tokens":4} }'
    assert made.decode(200, answer) is answer
    seen = made.observe(answer)
    assert seen.model == "e-1"
    assert seen.usage is not None and (seen.usage.input_tokens, seen.usage.output_tokens) == (4, 0)


TRANSLATED = [
    (
        "cohere",
        {},
        "/v2/embed",
        {
            "model": "e",
            "texts": ["a", "b"],
            "input_type": "search_document",
            "embedding_types": ["float"],
            "output_dimension": 2,
        },
        {"embeddings": {"float": [[0.1, 0.2], [1e-7, 3]]}, "meta": {"billed_units": {"input_tokens": 4}}},
    ),
    (
        "google",
        {},
        "/v1beta/models/e:batchEmbedContents",
        {
            "model": "e",
            "requests": [
                {"model": "models/e", "content": {"parts": [{"text": "a"}]}, "outputDimensionality": 2},
                {"model": "models/e", "content": {"parts": [{"text": "b"}]}, "outputDimensionality": 2},
            ],
        },
        {"embeddings": [{"values": [0.1, 0.2]}, {"values": [1e-7, 3]}]},
    ),
    (
        "vertex",
        VERTEX,
        "/v1/projects/p/locations/l/publishers/google/models/e:predict",
        {"model": "e", "instances": [{"content": "a"}, {"content": "b"}], "parameters": {"outputDimensionality": 2}},
        {
            "predictions": [
                {"embeddings": {"values": [0.1, 0.2], "statistics": {"token_count": 1}}},
                {"embeddings": {"values": [1e-7, 3], "statistics": {"token_count": 3}}},
            ]
        },
    ),
    (
        "bedrock",
        {"base_url": "http://h"},
        "/model/cohere.embed-v4/invoke",
        {"texts": ["a", "b"], "input_type": "search_document", "embedding_types": ["float"], "output_dimension": 2},
        {"embeddings": {"float": [[0.1, 0.2], [1e-7, 3]]}},
    ),
]


@pytest.mark.parametrize(("provider", "options", "target", "sent", "answer"), TRANSLATED)
def test_other_shapes_are_translated_both_ways(
    provider: str, options: dict[str, Any], target: str, sent: dict[str, Any], answer: dict[str, Any]
) -> None:
    model = "cohere.embed-v4" if provider == "bedrock" else "e"
    made = ready(provider, {"model": model, "input": ["a", "b"], "dimensions": 2}, **options)
    assert (made.target, made.sent_model) == (target, model)
    assert json.loads(made.body) == sent
    got = json.loads(made.decode(200, json.dumps(answer).encode()))
    assert got["object"] == "list"
    assert got["model"] == model
    assert [item["embedding"] for item in got["data"]] == [[0.1, 0.2], [1e-7, 3]]
    assert [(item["object"], item["index"]) for item in got["data"]] == [("embedding", 0), ("embedding", 1)]
    counted = 4 if provider in ("cohere", "vertex") else 0
    assert got["usage"] == {"prompt_tokens": counted, "total_tokens": counted}
    seen = made.observe(json.dumps(answer).encode())
    assert (seen.usage.input_tokens if seen.usage else 0) == counted


def test_amazons_models_embed_one_text() -> None:
    made = ready("bedrock", {"model": "amazon.titan-embed-text-v2:0", "input": "x"}, base_url="http://h")
    assert json.loads(made.body) == {"inputText": "x"}
    got = json.loads(made.decode(200, b'{"embedding":[0.5,0.25],"inputTextTokenCount":3}'))
    assert (got["data"][0]["embedding"], got["usage"]["prompt_tokens"]) == ([0.5, 0.25], 3)
    with pytest.raises(RequestFault, match="one text"):
        ready("bedrock", {"model": "amazon.titan-embed-text-v2:0", "input": ["x", "y"]}, base_url="http://h")


def test_vectors_come_as_base64_when_asked_for() -> None:
    made = ready("cohere", {"model": "e", "input": "a", "encoding_format": "base64"})
    got = json.loads(made.decode(200, b'{"embeddings":[[0.5,-2]]}'))
    assert struct.unpack("<2f", base64.b64decode(got["data"][0]["embedding"])) == (0.5, -2.0)


@pytest.mark.parametrize("body", [b"{", {"model": "e"}, {"model": "e", "input": [1, 2]}, {"model": "e", "input": 5}])
def test_input_that_is_no_text_is_a_bad_request(body: Any) -> None:
    with pytest.raises(InvalidRequest, match='format "openai_embeddings"'):
        ready("cohere", body)


def test_the_model_of_a_translated_embedding_is_enforced_and_defaulted() -> None:
    with pytest.raises(ModelNotAllowed):
        ready("cohere", {"model": "x", "input": "a"}, allowance=Allowance(("e",)))
    made = ready("cohere", {"input": "a"}, allowance=Allowance(("e",), "e"))
    assert json.loads(made.body)["model"] == "e"


def test_options_of_odd_types_are_left_out_and_named() -> None:
    made = ready("cohere", {"model": "e", "input": "a", "dimensions": "5", "encoding_format": 5})
    assert "output_dimension" not in json.loads(made.body)
    assert made.untranslated == ("dimensions", "encoding_format")


def test_a_vector_that_no_float_can_hold_comes_back_as_the_upstream_wrote_it() -> None:
    made = ready("cohere", {"model": "e", "input": "a", "encoding_format": "base64"})
    body = b'{"embeddings":[[1e300]]}'
    assert made.decode(200, body) == body


def test_rerank_passes_through() -> None:
    body = b'{ "model":"r", "query":"q", "documents":["a"] }'
    made = ready("cohere", body, capability="rerank")
    assert (made.body, made.target) == (body, "/v2/rerank")
    answer = b'{ "id":"i", "results":[], "meta":{"billed_units":{"search_units":1}} }'
    assert made.decode(200, answer) is answer
    assert made.observe(answer).id == "i"


def test_rerank_on_bedrock_names_the_model_in_the_url() -> None:
    body = {"model": "cohere.rerank-v3-5:0", "query": "q", "documents": ["a"]}
    made = ready("bedrock", body, capability="rerank", base_url="http://h")
    assert made.target == "/model/cohere.rerank-v3-5%3A0/invoke"
    assert json.loads(made.body) == {"query": "q", "documents": ["a"], "api_version": 2}
    answer = b'{"results":[]}'
    assert made.decode(200, answer, ((b"x-amzn-bedrock-input-token-count", b"3"),)) == answer
