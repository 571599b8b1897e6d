"""Token usage of an answer that the plane did not observe: of a buffered body, or the last one in a stream."""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.formats.errors import DecodeError
from trustgate.formats.json import decode_with
from trustgate.policies.model import PolicyResponse, TokenUsage


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None


class _GoogleUsage(msgspec.Struct):
    promptTokenCount: int | None = None
    candidatesTokenCount: int | None = None
    thoughtsTokenCount: int | None = None
    totalTokenCount: int | None = None
    cachedContentTokenCount: int | None = None


class _Body(msgspec.Struct):
    usage: _Usage | None = None
    usageMetadata: _GoogleUsage | None = None
    message: Any = None
    response: Any = None


_decode = msgspec.json.Decoder(_Body).decode


def usage_of(response: PolicyResponse) -> TokenUsage | None:
    """What the plane observed, else what the body says; None when nothing was counted."""
    if response.usage is not None:
        return response.usage
    if not response.streaming:
        return _read(response.body)
    found: TokenUsage | None = None
    for line in response.body.split(b"\n"):
        if line.startswith(b"data:") and b"sage" in line:
            found = _merge(found, _read(line[5:].strip()))
    return found


def _merge(old: TokenUsage | None, new: TokenUsage | None) -> TokenUsage | None:
    if old is None or new is None:
        return new or old
    return TokenUsage(
        new.input or old.input,
        new.output or old.output,
        new.total or ((new.input or old.input) + (new.output or old.output)),
        new.cache_read or old.cache_read,
    )


def _read(body: bytes) -> TokenUsage | None:
    try:
        decoded = decode_with(_decode, body)
    except DecodeError:
        return None
    if decoded.usageMetadata is not None:
        google = decoded.usageMetadata
        output = (google.candidatesTokenCount or 0) + (google.thoughtsTokenCount or 0)
        return TokenUsage(
            google.promptTokenCount or 0, output, google.totalTokenCount or 0, google.cachedContentTokenCount or 0
        )
    usage = decoded.usage
    for inner in (decoded.message, decoded.response):
        if usage is None and isinstance(inner, dict) and isinstance(inner.get("usage"), dict):
            try:
                usage = msgspec.convert(inner["usage"], _Usage)
            except msgspec.ValidationError:
                return None
    if usage is None:
        return None
    details = usage.prompt_tokens_details or usage.input_tokens_details
    return TokenUsage(
        usage.input_tokens if usage.input_tokens is not None else usage.prompt_tokens or 0,
        usage.output_tokens if usage.output_tokens is not None else usage.completion_tokens or 0,
        usage.total_tokens or 0,
        usage.cache_read_input_tokens or (details.cached_tokens if details and details.cached_tokens else 0),
    )
