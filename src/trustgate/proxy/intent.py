"""The model reference of a request (spec 02 §7.1): what the client asks for. Pure."""

from __future__ import annotations

import json
import re
from typing import Literal

import msgspec

from trustgate.formats.errors import DecodeError
from trustgate.formats.json import decode_with
from trustgate.proxy.errors import Refusal

PREFIX = "routing: invalid model reference: validation failed: "
PROVIDER = re.compile(r"[a-z0-9_-]+")


class Intent(msgspec.Struct, frozen=True):
    """`kind` decides which members count: `pool` has an alias, `provider` a provider and model, `model` a model."""

    kind: Literal["none", "auto", "pool", "provider", "model"]
    model: str = ""
    provider: str = ""
    alias: str = ""
    reference: str = ""

    @property
    def pinned(self) -> bool:
        return self.kind in ("provider", "model")


NONE = Intent("none")

# Traffic names few models, again and again: their references, as the JSON of a body spells them, are read once.
MAX_KNOWN = 1024
MAX_KNOWN_BYTES = 128
_known: dict[bytes, Intent] = {}


class Peek(msgspec.Struct):
    """The members of a body that routing reads; everything else is only checked for JSON syntax."""

    model: msgspec.Raw = msgspec.Raw()
    modelId: msgspec.Raw = msgspec.Raw()
    stream: msgspec.Raw = msgspec.Raw()


_peek = msgspec.json.Decoder(Peek).decode
_string = msgspec.json.Decoder(str).decode


def peek(body: bytes) -> Peek | None:
    """Routing members of a JSON object body; None when it is something else."""
    try:
        return decode_with(_peek, body)
    except DecodeError:
        return None


def text_of(raw: msgspec.Raw | bytes) -> str | None:
    """The JSON string in `raw`, or None."""
    data = bytes(raw)
    if not data.startswith(b'"'):
        return None
    if 92 not in data:  # no backslash
        try:
            return data[1:-1].decode()
        except UnicodeDecodeError:
            return None
    try:
        return decode_with(_string, data)
    except DecodeError:
        return None


def refuse(detail: str) -> Refusal:
    return Refusal("invalid_model", PREFIX + detail)


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def intent_of(reference: str) -> Intent:
    """Parse a trimmed reference. Raises Refusal `invalid_model`."""
    if not reference:
        return NONE
    if reference[0] != "@" and ":" not in reference and len(reference) != 4:
        return Intent("model", model=reference, reference=reference)
    lowered = reference.lower()
    if lowered == "auto":
        return Intent("auto", reference=reference)
    if lowered.startswith("pool:"):
        alias = reference[5:].strip()
        if not alias:
            raise refuse(f"{quoted(reference)} has an empty pool alias")
        if "/" in alias:
            raise refuse(f"pool alias {quoted(alias)} must not contain '/'")
        return Intent("pool", alias=alias, reference=reference)
    if reference.startswith("@"):
        return provider_intent(reference)
    return Intent("model", model=reference, reference=reference)


def provider_intent(reference: str) -> Intent:
    provider, slash, model = reference[1:].partition("/")
    provider, model = provider.strip().lower(), model.strip()
    if not slash or not provider:
        raise refuse(f"{quoted(reference)} must use the @provider/model syntax")
    if PROVIDER.fullmatch(provider) is None:
        raise refuse(f"{quoted(reference)} has an invalid provider")
    if not model:
        raise refuse(f"{quoted(reference)} has an empty model")
    return Intent("provider", model=model, provider=provider, reference=reference)


def read_intent(peeked: Peek | None, path_model: str) -> Intent:
    """The intent of a request: the model in a Gemini path, else the body's `model`. Raises Refusal."""
    if peeked is not None and bytes(peeked.modelId):
        raise refuse("modelId is not a supported request field, use the model field")
    if path_model:
        return intent_of(path_model.strip())
    if peeked is None:
        return NONE
    raw = bytes(peeked.model)
    known = _known.get(raw)
    if known is not None:
        return known
    reference = text_of(raw)
    intent = intent_of(reference.strip()) if reference else NONE
    if len(_known) < MAX_KNOWN and len(raw) <= MAX_KNOWN_BYTES:
        _known[raw] = intent
    return intent
