"""Embeddings for every provider that offers them (spec 03 §12, §17 B22): which codec serves which wire format.

What lives here: the table, and the shapes of Bedrock's embedding models, which depend on the model. What must not: the
dialects that the format room has.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from trustgate.formats import embeddings as codecs
from trustgate.formats import json
from trustgate.formats.canonical import Observed
from trustgate.formats.embeddings import EmbeddingRequest
from trustgate.formats.errors import DecodeError
from trustgate.providers.errors import MALFORMED, RequestFault

REQUESTS: dict[str, Callable[[bytes], EmbeddingRequest]] = {
    "openai_embeddings": codecs.decode_request,
    "cohere_embed": codecs.decode_cohere_request,
}
"""Readers of requests by client format. They raise `DecodeError`."""


class Codec(msgspec.Struct, frozen=True):
    """`encode` makes the wire body; `decode` an OpenAI answer of an answer, the model and the encoding format."""

    encode: Callable[[EmbeddingRequest], bytes]
    decode: Callable[[bytes, str, str], bytes]


class _TitanAnswer(msgspec.Struct):
    embedding: msgspec.Raw
    tokens: int = msgspec.field(default=0, name="inputTextTokenCount")


def _to_bedrock(request: EmbeddingRequest) -> bytes:
    """Cohere's models take many texts a request, Amazon's one. Raises `RequestFault`."""
    if "cohere." in request.model.lower():
        return codecs.to_cohere(request)
    if len(request.texts) != 1:
        raise RequestFault(f"model {request.model} embeds one text a request")
    size = {} if request.dimensions is None else {"dimensions": request.dimensions}
    return json.encode({"inputText": request.texts[0]} | size)


def _from_bedrock(body: bytes, model: str, encoding_format: str) -> bytes:
    try:
        titan = msgspec.json.decode(body, type=_TitanAnswer)
    except MALFORMED:
        return codecs.from_cohere(body, model, encoding_format)
    counted = {"billed_units": {"input_tokens": titan.tokens}}
    return codecs.from_cohere(json.encode({"embeddings": [titan.embedding], "meta": counted}), model, encoding_format)


def _from_openai(body: bytes, model: str, encoding_format: str) -> bytes:
    return body


CODECS: dict[str, Codec] = {
    "openai_embeddings": Codec(codecs.to_openai, _from_openai),
    "cohere_embed": Codec(codecs.to_cohere, codecs.from_cohere),
    "google_embeddings": Codec(codecs.to_google, codecs.from_google),
    "vertex_embeddings": Codec(codecs.to_vertex, codecs.from_vertex),
    "bedrock_embeddings": Codec(_to_bedrock, _from_bedrock),
}


def answer(client_format: str, wire: str, body: bytes, request: EmbeddingRequest) -> bytes:
    """The client's answer of an upstream's. Raises `DecodeError`."""
    listed = CODECS[wire].decode(body, request.model, request.encoding_format)
    return codecs.cohere_answer(listed, request.texts) if client_format == "cohere_embed" else listed


def observe(client_format: str, body: bytes) -> Observed:
    """What an answer in the client's format tells of an embedding or rerank call; never raises."""
    try:
        return codecs.observe(client_format, body)
    except DecodeError:
        return Observed()
