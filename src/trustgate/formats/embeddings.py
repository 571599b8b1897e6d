"""Embeddings between the clients' dialects (OpenAI, Cohere v2) and the providers' own, Gemini's and Vertex's too.

Numbers of vectors are carried as they were written. Implements topic "Embeddings and rerank" of the provider
contract; reranking has one dialect only and needs no codec.
"""

from __future__ import annotations

import base64
import struct
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from . import content, json
from .canonical import Observed, Usage
from .errors import DecodeError


class _Request(Struct):
    model: str | None = None
    input: str | list[str] | None = None
    dimensions: Raw = Raw()
    encoding_format: Raw = Raw()


class _CohereRequest(Struct):
    model: str | None = None
    texts: list[str] | None = None
    input_type: str | None = None
    embedding_types: list[str] | None = None
    output_dimension: int | None = None


T = TypeVar("T")

_MODELLED = frozenset(_Request.__struct_fields__)
_COHERE_MODELLED = frozenset(_CohereRequest.__struct_fields__)
_decode_request = msgspec.json.Decoder(_Request).decode
_decode_cohere_request = msgspec.json.Decoder(_CohereRequest).decode
_decode_floats = msgspec.json.Decoder(list[float]).decode
_decode_vectors = msgspec.json.Decoder(list[Raw]).decode


class EmbeddingRequest(Struct):
    """An embedding request; `untranslated` names the members of the client that a dialect cannot carry."""

    model: str
    texts: list[str]
    dimensions: int | None = None
    encoding_format: str = "float"
    untranslated: tuple[str, ...] = ()
    input_type: str = "search_document"


def decode_request(body: bytes) -> EmbeddingRequest:
    """An OpenAI embedding request of one text or a list of texts. Raises `DecodeError` for token arrays."""
    wire = json.decode_with(_decode_request, body)
    if wire.input is None:
        raise DecodeError("input is missing")
    texts = [wire.input] if isinstance(wire.input, str) else wire.input
    lost = content.unknown_members(body, _MODELLED)
    request = EmbeddingRequest(wire.model or "", texts)
    request.dimensions = _optional("dimensions", wire.dimensions, int, lost)
    request.encoding_format = _optional("encoding_format", wire.encoding_format, str, lost) or "float"
    request.untranslated = tuple(lost)
    return request


def _optional(name: str, raw: Raw, kind: type[T], lost: list[str]) -> T | None:
    """A member that may be left out, and is, with its name noted, where its type is odd."""
    try:
        return None if json.is_null(raw) else msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        lost.append(name)
        return None


def decode_cohere_request(body: bytes) -> EmbeddingRequest:
    """A Cohere v2 embed request of texts. Raises `DecodeError` for images and mixed inputs alone."""
    wire = json.decode_with(_decode_cohere_request, body)
    if wire.texts is None:
        raise DecodeError("texts are missing")
    lost = content.unknown_members(body, _COHERE_MODELLED)
    wanted = wire.embedding_types or ["float"]
    lost += [f"embedding_types[{kind}]"[: content.MAX_NOTED_NAME] for kind in wanted if kind != "float"]
    request = EmbeddingRequest(wire.model or "", wire.texts, wire.output_dimension)
    request.untranslated = tuple(lost[: content.MAX_NOTED])
    request.input_type = wire.input_type or request.input_type
    return request


def to_openai(request: EmbeddingRequest) -> bytes:
    """OpenAI `/embeddings`."""
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    body["input"] = request.texts
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    return json.encode(body)


def to_cohere(request: EmbeddingRequest) -> bytes:
    """Cohere v2 `/embed`."""
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    body |= {"texts": request.texts, "input_type": request.input_type, "embedding_types": ["float"]}
    if request.dimensions is not None:
        body["output_dimension"] = request.dimensions
    return json.encode(body)


def to_google(request: EmbeddingRequest) -> bytes:
    """Gemini `:batchEmbedContents`; `model` is repeated in every entry, as the API wants it."""
    name = request.model if request.model.startswith("models/") else "models/" + request.model
    entries: list[dict[str, Any]] = []
    for text in request.texts:
        entry: dict[str, Any] = {"model": name, "content": {"parts": [{"text": text}]}}
        if request.dimensions is not None:
            entry["outputDimensionality"] = request.dimensions
        entries.append(entry)
    return json.encode({"model": request.model, "requests": entries})


def to_vertex(request: EmbeddingRequest) -> bytes:
    """Vertex `:predict` of a text-embedding model."""
    body: dict[str, Any] = {"model": request.model, "instances": [{"content": text} for text in request.texts]}
    if request.dimensions is not None:
        body["parameters"] = {"outputDimensionality": request.dimensions}
    return json.encode(body)


class _BilledUnits(Struct):
    input_tokens: int | float | None = None


class _Meta(Struct):
    billed_units: _BilledUnits | None = None


class _CohereAnswer(Struct):
    embeddings: Raw = Raw()
    meta: _Meta | None = None
    model: str | None = None


class _CohereFloats(Struct):
    float: list[Raw] | None = None


class _GoogleVector(Struct):
    values: Raw = Raw()


class _GoogleAnswer(Struct):
    embeddings: list[_GoogleVector] | None = None
    embedding: _GoogleVector | None = None


class _VertexStatistics(Struct):
    token_count: int | float | None = None


class _VertexVector(Struct):
    values: Raw = Raw()
    statistics: _VertexStatistics | None = None


class _VertexPrediction(Struct):
    embeddings: _VertexVector | None = None


class _VertexAnswer(Struct):
    predictions: list[_VertexPrediction] | None = None


_decode_cohere = msgspec.json.Decoder(_CohereAnswer).decode
_decode_cohere_floats = msgspec.json.Decoder(_CohereFloats).decode
_decode_google = msgspec.json.Decoder(_GoogleAnswer).decode
_decode_vertex = msgspec.json.Decoder(_VertexAnswer).decode


def from_cohere(body: bytes, model: str = "", encoding_format: str = "float") -> bytes:
    """An OpenAI embedding list from a Cohere answer, `embeddings` bare or by type."""
    wire = json.decode_with(_decode_cohere, body)
    literal = bytes(wire.embeddings)
    if literal[:1] == b"[":
        vectors = json.decode_with(_decode_vectors, literal)
    elif literal[:1] == b"{":
        vectors = json.decode_with(_decode_cohere_floats, literal).float or []
    else:
        raise DecodeError("the answer has no embeddings")
    billed = wire.meta.billed_units if wire.meta is not None else None
    tokens = int(billed.input_tokens or 0) if billed is not None else 0
    return _openai_list(vectors, model or wire.model or "", tokens, encoding_format)


def from_google(body: bytes, model: str = "", encoding_format: str = "float") -> bytes:
    """An OpenAI embedding list from a Gemini answer, which counts no tokens."""
    wire = json.decode_with(_decode_google, body)
    found = wire.embeddings if wire.embeddings is not None else [wire.embedding] if wire.embedding is not None else None
    if found is None:
        raise DecodeError("the answer has no embeddings")
    return _openai_list([vector.values for vector in found], model, 0, encoding_format)


def from_vertex(body: bytes, model: str = "", encoding_format: str = "float") -> bytes:
    """An OpenAI embedding list from a Vertex prediction."""
    wire = json.decode_with(_decode_vertex, body)
    if wire.predictions is None:
        raise DecodeError("the answer has no predictions")
    vectors: list[Raw] = []
    tokens = 0
    for prediction in wire.predictions:
        vector = prediction.embeddings or _VertexVector()
        vectors.append(vector.values)
        if vector.statistics is not None:
            tokens += int(vector.statistics.token_count or 0)
    return _openai_list(vectors, model, tokens, encoding_format)


def _openai_list(vectors: list[Raw], model: str, tokens: int, encoding_format: str) -> bytes:
    data: list[dict[str, Any]] = []
    for index, vector in enumerate(vectors):
        if encoding_format == "base64":
            numbers = json.decode_with(_decode_floats, bytes(vector))
            try:
                embedding: Any = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
            except OverflowError:
                raise DecodeError("a number of the vector is out of range") from None
        else:
            embedding = Raw(json.compact(vector)) if vector else []
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json.encode({"object": "list", "data": data, "model": model, "usage": usage})


class _OpenAIVector(Struct):
    embedding: Raw = Raw()


class _OpenAIList(Struct):
    id: str | None = None
    data: list[_OpenAIVector] | None = None


_decode_list = msgspec.json.Decoder(_OpenAIList).decode


def cohere_answer(body: bytes, texts: list[str]) -> bytes:
    """A Cohere v2 answer from an OpenAI embedding list."""
    wire = json.decode_with(_decode_list, body)
    if wire.data is None:
        raise DecodeError("the answer has no embeddings")
    usage = observe("openai_embeddings", body).usage
    billed = {"input_tokens": 0 if usage is None else usage.input_tokens}
    return json.encode(
        {
            "id": wire.id or "",
            "embeddings": {"float": [Raw(json.compact(vector.embedding)) for vector in wire.data]},
            "texts": texts,
            "meta": {"api_version": {"version": "2"}, "billed_units": billed},
            "response_type": "embeddings_by_type",
        }
    )


class _OpenAIUsage(Struct):
    prompt_tokens: int | None = None
    total_tokens: int | None = None


class _OpenAIAnswer(Struct):
    model: str | None = None
    usage: _OpenAIUsage | None = None


class _RerankAnswer(Struct):
    id: str | None = None
    meta: _Meta | None = None


_decode_openai = msgspec.json.Decoder(_OpenAIAnswer).decode
_decode_rerank = msgspec.json.Decoder(_RerankAnswer).decode


def observe(wire: str, body: bytes) -> Observed:
    """Model and input tokens of an embedding or rerank answer. Raises `DecodeError`."""
    if wire == "openai_embeddings":
        answer = json.decode_with(_decode_openai, body)
        counts = answer.usage
        tokens = 0 if counts is None else counts.prompt_tokens or counts.total_tokens or 0
        return Observed(model=answer.model or "", usage=Usage(tokens, 0, tokens) if tokens else None)
    other = json.decode_with(_decode_rerank, body)
    billed = other.meta.billed_units if other.meta is not None else None
    tokens = int(billed.input_tokens or 0) if billed is not None else 0
    return Observed(id=other.id or "", usage=Usage(tokens, 0, tokens) if tokens else None)
