"""Reading and overriding the model of a body (spec 04 §13), and small reads of a JSON body."""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.formats.errors import DecodeError
from trustgate.formats.json import decode_with, set_members
from trustgate.policies.model import PolicyRequest


class _Models(msgspec.Struct):
    model: Any = None
    modelId: Any = msgspec.UNSET


_models = msgspec.json.Decoder(_Models).decode


def body_model(body: bytes) -> str | None:
    """`model`, else `modelId`, as long as they are text; None when the body is not a JSON object."""
    try:
        found = decode_with(_models, body)
    except DecodeError:
        return None
    if isinstance(found.model, str) and found.model:
        return found.model
    return found.modelId if isinstance(found.modelId, str) else ""


def with_model(body: bytes, model: str) -> bytes:
    """The body with another model; a body that is not a JSON object stays as it is."""
    try:
        found = decode_with(_models, body)
        name = "modelId" if found.modelId is not msgspec.UNSET and found.model is None else "model"
        return set_members(body, {name: model})
    except DecodeError:
        return body


class _Stream(msgspec.Struct):
    stream: Any = None


_stream = msgspec.json.Decoder(_Stream).decode


def asks_for_stream(request: PolicyRequest) -> bool:
    """Whether the client wants its answer streamed."""
    if request.stream or request.path.endswith(":streamGenerateContent"):
        return True
    if b'"stream"' not in request.body:
        return False
    try:
        return decode_with(_stream, request.body).stream is True
    except DecodeError:
        return False


class _Bounds(msgspec.Struct):
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    n: Any = None
    generationConfig: Any = None


_bounds = msgspec.json.Decoder(_Bounds).decode


def output_bound(body: bytes, default: int) -> tuple[int, int]:
    """How many answers a request asks for, and the output tokens of each at most (`default` when it names none)."""
    try:
        found = decode_with(_bounds, body)
    except DecodeError:
        return 1, default
    google: dict[str, Any] = found.generationConfig if isinstance(found.generationConfig, dict) else {}
    bounds = (
        found.max_completion_tokens,
        found.max_tokens,
        found.max_output_tokens,
        google.get("maxOutputTokens"),
    )
    bound = next((value for value in bounds if isinstance(value, int) and value > 0), default)
    answers = next((value for value in (found.n, google.get("candidateCount")) if isinstance(value, int)), 1)
    return max(1, answers), bound
