"""Embeddings in the OpenAI shape for every provider that offers them (spec 03 §12, §17 B22).

What lives here: one codec per wire format, from the client's request to the wire and from the answer back. What must
not: URLs and credentials. Vectors are carried as the JSON text that came, so no digit is lost.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from trustgate.formats.canonical import Usage
from trustgate.providers.errors import InvalidRequest, RequestFault

CLIENT_FORMAT = "openai_embeddings"


class Wanted(msgspec.Struct, frozen=True):
    """What the client asks for; `model` is the one that is sent."""

    model: str
    texts: tuple[str, ...]
    dimensions: int | None = None
    base64: bool = False


class Vectors(msgspec.Struct, frozen=True):
    """An answer: one JSON array per text, and the tokens that were counted (None: not told)."""

    values: Sequence[msgspec.Raw]
    tokens: int | None = None


class Codec(msgspec.Struct, frozen=True):
    """`encode` makes the wire body; `decode` reads an answer and raises `msgspec.DecodeError`."""

    encode: Callable[[Wanted], bytes]
    decode: Callable[[bytes], Vectors]


class _Request(msgspec.Struct):
    input: str | list[str]
    model: Any = None
    dimensions: int | None = None
    encoding_format: str | None = None


def read_request(body: bytes, model: str) -> Wanted:
    """The client's request. Raises `InvalidRequest`, also for token arrays, which only OpenAI's models understand."""
    try:
        request = msgspec.json.decode(body, type=_Request)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidRequest.of_format(CLIENT_FORMAT) from None
    texts = (request.input,) if isinstance(request.input, str) else tuple(request.input)
    return Wanted(model, texts, request.dimensions, request.encoding_format == "base64")


def write_answer(vectors: Vectors, wanted: Wanted) -> bytes:
    """The OpenAI answer, complete with `object`s, `model` and `usage`."""
    tokens = vectors.tokens or 0
    answer = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _packed(value) if wanted.base64 else value}
            for index, value in enumerate(vectors.values)
        ],
        "model": wanted.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return msgspec.json.encode(answer)


def _packed(value: msgspec.Raw) -> str:
    numbers = msgspec.json.decode(value, type=list[float])
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


class _OpenAIUsage(msgspec.Struct):
    prompt_tokens: int = 0
    total_tokens: int = 0


class _OpenAIAnswer(msgspec.Struct):
    model: str = ""
    usage: _OpenAIUsage | None = None


def usage_of(body: bytes) -> tuple[str, Usage | None]:
    """Model and usage of an answer in the OpenAI shape; nothing from a body of another shape."""
    try:
        answer = msgspec.json.decode(body, type=_OpenAIAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", None
    if answer.usage is None or not (answer.usage.prompt_tokens or answer.usage.total_tokens):
        return answer.model, None
    tokens = answer.usage.prompt_tokens or answer.usage.total_tokens
    return answer.model, Usage(input_tokens=tokens, output_tokens=0, total_tokens=answer.usage.total_tokens or tokens)


def _compact(members: dict[str, Any]) -> bytes:
    return msgspec.json.encode({name: value for name, value in members.items() if value not in (None, "")})


# Cohere v2, and Cohere's models on Bedrock


class _Units(msgspec.Struct):
    input_tokens: float = 0


class _Meta(msgspec.Struct):
    billed_units: _Units | None = None


class _ByType(msgspec.Struct):
    float_: list[msgspec.Raw] = msgspec.field(name="float")


class _CohereAnswer(msgspec.Struct):
    embeddings: list[msgspec.Raw] | _ByType
    meta: _Meta | None = None


def _cohere_encode(wanted: Wanted) -> bytes:
    return _compact(
        {
            "model": wanted.model,
            "texts": wanted.texts,
            "input_type": "search_document",
            "embedding_types": ("float",),
            "output_dimension": wanted.dimensions,
        }
    )


def _cohere_decode(body: bytes) -> Vectors:
    answer = msgspec.json.decode(body, type=_CohereAnswer)
    values = answer.embeddings.float_ if isinstance(answer.embeddings, _ByType) else answer.embeddings
    units = answer.meta.billed_units if answer.meta else None
    return Vectors(values, int(units.input_tokens) if units else None)


# Gemini API: one request with a part per text


class _Values(msgspec.Struct):
    values: msgspec.Raw


class _GoogleAnswer(msgspec.Struct):
    embeddings: list[_Values]


def _google_encode(wanted: Wanted) -> bytes:
    resource = wanted.model if wanted.model.startswith("models/") else f"models/{wanted.model}"
    extra = {} if wanted.dimensions is None else {"outputDimensionality": wanted.dimensions}
    requests = [{"model": resource, "content": {"parts": [{"text": text}]}} | extra for text in wanted.texts]
    return msgspec.json.encode({"requests": requests})


def _google_decode(body: bytes) -> Vectors:
    return Vectors([item.values for item in msgspec.json.decode(body, type=_GoogleAnswer).embeddings])


# Vertex AI: predict


class _Statistics(msgspec.Struct):
    token_count: float = 0


class _VertexVector(msgspec.Struct):
    values: msgspec.Raw
    statistics: _Statistics | None = None


class _Prediction(msgspec.Struct):
    embeddings: _VertexVector


class _VertexAnswer(msgspec.Struct):
    predictions: list[_Prediction]


def _vertex_encode(wanted: Wanted) -> bytes:
    body: dict[str, Any] = {"instances": [{"content": text} for text in wanted.texts]}
    if wanted.dimensions is not None:
        body["parameters"] = {"outputDimensionality": wanted.dimensions}
    return msgspec.json.encode(body)


def _vertex_decode(body: bytes) -> Vectors:
    found = [item.embeddings for item in msgspec.json.decode(body, type=_VertexAnswer).predictions]
    counts = [item.statistics.token_count for item in found if item.statistics]
    return Vectors([item.values for item in found], int(sum(counts)) if counts else None)


# Bedrock: Cohere's models take many texts, Amazon's one


class _TitanAnswer(msgspec.Struct):
    embedding: msgspec.Raw
    input_text_token_count: int | None = msgspec.field(default=None, name="inputTextTokenCount")


def _bedrock_encode(wanted: Wanted) -> bytes:
    if "cohere." in wanted.model.lower():
        return _compact(
            {
                "texts": wanted.texts,
                "input_type": "search_document",
                "embedding_types": ("float",),
                "output_dimension": wanted.dimensions,
            }
        )
    if len(wanted.texts) != 1:
        raise RequestFault(f"model {wanted.model} embeds one text a request")
    return msgspec.json.encode(
        {"inputText": wanted.texts[0]} | ({} if wanted.dimensions is None else {"dimensions": wanted.dimensions})
    )


def _bedrock_decode(body: bytes) -> Vectors:
    try:
        return _cohere_decode(body)
    except msgspec.ValidationError:
        answer = msgspec.json.decode(body, type=_TitanAnswer)
        return Vectors([answer.embedding], answer.input_text_token_count)


CODECS: dict[str, Codec] = {
    "cohere_embed": Codec(_cohere_encode, _cohere_decode),
    "google_embeddings": Codec(_google_encode, _google_decode),
    "vertex_embeddings": Codec(_vertex_encode, _vertex_decode),
    "bedrock_embeddings": Codec(_bedrock_encode, _bedrock_decode),
}
