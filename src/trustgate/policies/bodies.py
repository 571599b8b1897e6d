"""Reading and overriding the model of a body (spec 04 §13), and small reads of a JSON body."""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.formats.errors import DecodeError
from trustgate.formats.json import set_members


class _Models(msgspec.Struct):
    model: Any = None
    modelId: Any = msgspec.UNSET


_DECODER = msgspec.json.Decoder(_Models)


def body_model(body: bytes) -> str | None:
    """`model`, else `modelId`, as long as they are text; None when the body is not a JSON object."""
    try:
        found = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if isinstance(found.model, str) and found.model:
        return found.model
    return found.modelId if isinstance(found.modelId, str) else ""


def with_model(body: bytes, model: str) -> bytes:
    """The body with another model; a body that is not a JSON object stays as it is."""
    try:
        found = _DECODER.decode(body)
        name = "modelId" if found.modelId is not msgspec.UNSET and found.model is None else "model"
        return set_members(body, {name: model})
    except (msgspec.DecodeError, UnicodeDecodeError, DecodeError):
        return body
