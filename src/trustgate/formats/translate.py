"""One request or answer from a client's dialect to an upstream's and back: the room's front door for buffered calls.

Same dialect means the same bytes. Between the OpenAI-shaped dialects, and from Anthropic to Claude on Bedrock, the
client's own JSON is edited instead of re-encoded, so members that the canonical model lacks survive.
"""

from __future__ import annotations

from msgspec import Struct

from . import bedrock, json, normalise, openai
from . import canonical as c
from .codecs import CODECS
from .errors import DecodeError

OPENAI_WIRE = frozenset({"openai", "azure", "groq", "deepseek", "xai", "openrouter"})
_CLASSES = dict.fromkeys(OPENAI_WIRE, "openai") | {"google": "google", "vertex": "google"}
_NEVER_SAME = frozenset({"groq", "openrouter"})
_OPENAI_SHAPED = OPENAI_WIRE | {"mistral"}
_ENCODING_FAULTS = (UnicodeError, RecursionError, OverflowError)


class Translated(Struct):
    """A request body in the upstream's dialect, and the names of the client's members that it does not carry."""

    body: bytes
    untranslated: tuple[str, ...] = ()


def same_wire(client: str, wire: str) -> bool:
    """Whether bodies pass between the two dialects unchanged."""
    if client == wire:
        return True
    if wire in _NEVER_SAME or client in _NEVER_SAME:
        return False
    return _CLASSES.get(client, client) == _CLASSES.get(wire, wire)


def translate_request(client: str, wire: str, body: bytes, model: str | None = None) -> Translated:
    """The request for the upstream. Raises `DecodeError` when the body is no request of the client's dialect.

    `model` is the model that will be called where the body does not say it (Bedrock's body shape depends on it).
    """
    if same_wire(client, wire):
        return Translated(body)
    try:
        request = CODECS[client].decode_request(body)
        kept = _kept(client, wire, body, model or request.model)
        if kept is not None:
            return Translated(kept)
        request.model = model or request.model
        encoded = CODECS[wire].encode_request(request)
        if wire == "mistral":
            encoded = normalise.openai_shaped(wire, encoded)
        elif wire in OPENAI_WIRE:
            encoded = normalise.normalise(wire, encoded)
        return Translated(encoded, tuple(request.untranslated))
    except _ENCODING_FAULTS as error:
        raise DecodeError(str(error)) from None


def _kept(client: str, wire: str, body: bytes, model: str) -> bytes | None:
    """The client's own JSON adapted to a dialect of the same shape; None where the shapes differ."""
    if wire in _OPENAI_SHAPED:
        return normalise.openai_shaped(wire, body) if client in _OPENAI_SHAPED and _is_chat(body) else None
    if wire != "bedrock":
        return None
    kind = bedrock.family(model)
    if client == "anthropic" and kind == "claude":
        return bedrock.claude_from_anthropic(body)
    if client == "openai" and kind == "openai" and _is_chat(body):
        return json.remove_members(normalise.openai_shaped("openai", body), ("model", "stream", "stream_options"))
    return None


def _is_chat(body: bytes) -> bool:
    return "messages" in json.members(body)


def translate_response(client: str, wire: str, body: bytes) -> bytes:
    """The answer for the client. Raises `DecodeError` when the body is no answer of the upstream's dialect.

    An error object inside a success becomes the error object of the client's dialect.
    """
    if same_wire(client, wire):
        return body
    try:
        response = CODECS[wire].decode_response(body)
        if response.error is None:
            if client in _OPENAI_SHAPED and wire in _OPENAI_SHAPED:
                return openai.with_thinking(body, response)
            if client == "anthropic" and wire == "bedrock":
                return _claude_blocks(CODECS[client].encode_response(response), body)
        return CODECS[client].encode_response(response)
    except _ENCODING_FAULTS as error:
        raise DecodeError(str(error)) from None


def _claude_blocks(encoded: bytes, body: bytes) -> bytes:
    """The answer for an Anthropic client with Claude's own content blocks, in their order and with all members."""
    fields = json.members(body)
    if bytes(fields.get("type", b"")) != b'"message"' or bytes(fields.get("content", b""))[:1] != b"[":
        return encoded
    return json.set_members(encoded, {"content": fields["content"]})


def observe_response(wire: str, body: bytes) -> c.Observed:
    """Id, model, finish reason and usage of an answer; empty where it says nothing. Never raises."""
    try:
        if wire in _OPENAI_SHAPED and (seen := openai.observe_response(body)) is not None:
            return seen
        response = CODECS[wire].decode_response(body)
    except (DecodeError, KeyError, *_ENCODING_FAULTS):
        return c.Observed()
    return c.Observed(response.id, response.model, response.finish_reason, response.usage)
