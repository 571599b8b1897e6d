"""The table of chat dialects: one `Codec` per wire id. Adding a dialect is one module and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from . import (
    anthropic,
    anthropic_answer,
    bedrock,
    cohere,
    cohere_answer,
    converse,
    gemini,
    gemini_answer,
    openai,
    openai_stream,
    responses,
    responses_answer,
)
from .canonical import Request, Response, StreamEvent


class StreamDecoder(Protocol):
    """Reads the `data:` payloads of one upstream stream, in order."""

    def decode(self, payload: bytes) -> StreamEvent | None:
        """What the payload adds; None for nothing. Raises `DecodeError`."""
        ...


class StreamEncoder(Protocol):
    """Writes one client stream. `end` completes it and may be called more than once."""

    def encode(self, event: StreamEvent) -> bytes: ...

    def end(self) -> bytes: ...


class Codec(Struct, frozen=True):
    """What a dialect can do. Decoders raise `DecodeError`; `encode_request` notes what it cannot carry.

    Bedrock is no client's dialect: its request decoder and answer encoders are those of the Claude family.
    """

    decode_request: Callable[[bytes], Request]
    encode_request: Callable[[Request], bytes]
    decode_response: Callable[[bytes], Response]
    encode_response: Callable[[Response], bytes]
    stream_decoder: Callable[[], StreamDecoder]
    stream_encoder: Callable[[], StreamEncoder]


_OPENAI = Codec(
    openai.decode_request,
    openai.encode_request,
    openai.decode_response,
    openai.encode_response,
    openai_stream.Decoder,
    openai_stream.Encoder,
)
_RESPONSES = Codec(
    responses.decode_request,
    responses.encode_request,
    responses_answer.decode_response,
    responses_answer.encode_response,
    responses_answer.Decoder,
    responses_answer.Encoder,
)
_ANTHROPIC = Codec(
    anthropic.decode_request,
    anthropic.encode_request,
    anthropic_answer.decode_response,
    anthropic_answer.encode_response,
    anthropic_answer.Decoder,
    anthropic_answer.Encoder,
)
_GEMINI = Codec(
    gemini.decode_request,
    gemini.encode_request,
    gemini_answer.decode_response,
    gemini_answer.encode_response,
    gemini_answer.Decoder,
    gemini_answer.Encoder,
)
_COHERE = Codec(
    cohere.decode_request,
    cohere.encode_request,
    cohere_answer.decode_response,
    cohere_answer.encode_response,
    cohere_answer.Decoder,
    cohere_answer.Encoder,
)
_BEDROCK = Codec(
    anthropic.decode_request,
    bedrock.encode_request,
    bedrock.decode_response,
    anthropic_answer.encode_response,
    bedrock.Decoder,
    anthropic_answer.Encoder,
)
_CONVERSE = Codec(
    anthropic.decode_request,
    converse.encode_request,
    converse.decode_response,
    anthropic_answer.encode_response,
    converse.Decoder,
    anthropic_answer.Encoder,
)

CODECS: dict[str, Codec] = {
    "openai": _OPENAI,
    "azure": _OPENAI,
    "deepseek": _OPENAI,
    "xai": _OPENAI,
    "groq": _OPENAI,
    "openrouter": _OPENAI,
    "mistral": _OPENAI,
    "openai_responses": _RESPONSES,
    "anthropic": _ANTHROPIC,
    "google": _GEMINI,
    "vertex": _GEMINI,
    "cohere": _COHERE,
    "bedrock": _BEDROCK,
    "bedrock_converse": _CONVERSE,
}
