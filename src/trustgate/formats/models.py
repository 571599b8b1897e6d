"""The model and the stream flag of a request body: read, written and removed without touching anything else.

Implements topics "model enforcement" (what counts as present) and "reading/overriding the model of a body".
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from . import json
from .errors import DecodeError


class ModelMember(Struct, frozen=True):
    """How a body names its model: `present` with its `value` (null counts as an empty name), absent, or unreadable.

    `problem` says why a body or its model could not be read; then neither of the others means anything.
    """

    present: bool = False
    value: str = ""
    problem: str = ""


class _Head(Struct):
    model: str | UnsetType | None = UNSET
    modelId: str | UnsetType | None = UNSET


class _Stream(Struct):
    stream: Any = None


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_stream = msgspec.json.Decoder(_Stream).decode


def model_member(body: bytes) -> ModelMember:
    """The body's `model`, else its `modelId`. Never raises."""
    try:
        head = json.decode_with(_decode_head, body)
    except DecodeError as error:
        return ModelMember(problem=str(error))
    value = head.modelId if head.model is UNSET else head.model
    if value is UNSET:
        return ModelMember()
    return ModelMember(True, value or "")


def read_model(body: bytes) -> str:
    """The model's name, empty when the body has none or cannot be read."""
    return model_member(body).value


def override_model(body: bytes, model: str) -> bytes:
    """The body with another model, in the member it uses for it; an unreadable body stays as it is."""
    try:
        fields = json.members(body)
        name = "modelId" if "modelId" in fields and "model" not in fields else "model"
        return json.set_members(body, {name: model})
    except DecodeError:
        return body


def remove_model(body: bytes) -> bytes:
    """The body without `model` and `modelId`; the same bytes when it has neither or cannot be read."""
    try:
        return json.remove_members(body, ("model", "modelId"))
    except DecodeError:
        return body


def wants_stream(body: bytes) -> bool:
    """Whether the body's `stream` is the boolean true; anything else, or an unreadable body, is no stream."""
    if b"stream" not in body and b"\\u" not in body:
        return False
    try:
        return json.decode_with(_decode_stream, body).stream is True
    except DecodeError:
        return False
