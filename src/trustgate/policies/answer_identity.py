"""What makes two requests the same to the semantic cache (spec 04 §14.5, improved).

The text that is looked up is the last user message's. Everything else that shapes an answer (model, system prompt,
earlier messages, sampling, tools, dialect, streaming) is part of the context that must be equal.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from trustgate.formats import json as fj
from trustgate.formats.errors import DecodeError
from trustgate.policies.bodies import asks_for_stream
from trustgate.policies.conversation import Slot, joined
from trustgate.policies.dialects import format_of
from trustgate.policies.model import PolicyRequest
from trustgate.policies.texts import prompt_of

VERSION = "v2"
NOT_SHAPING = ("user", "metadata", "safety_identifier", "prompt_cache_key", "store", "stream")
"""Members that name the caller or the transport, not the answer; streaming is in the context by itself."""


class Identity(msgspec.Struct, frozen=True):
    """`rule` is the digest of partition and context, `key` that of rule and normalised text."""

    text: str
    rule: str
    key: str
    has_tools: bool
    stream: bool


def identify(request: PolicyRequest, partition: str) -> Identity:
    """The identity of a request; its text is empty when it has none to look up."""
    slots, tree = _lookup(request)
    text = joined(slots)
    has_tools = bool(tree.get("tools")) or bool(tree.get("functions"))
    for slot in slots:
        slot.text = ""
    rest = {name: value for name, value in tree.items() if name not in NOT_SHAPING}
    stream = asks_for_stream(request)
    endpoint = request.path.lstrip("/").partition("/")[2]  # the first segment names the consumer
    context = "\0".join(
        (VERSION, partition, format_of(request), request.provider, "stream" if stream else "whole", endpoint)
    )
    material = context.encode() + b"\0" + msgspec.json.encode(rest, order="sorted")
    rule = hashlib.sha256(material).hexdigest()
    normal = " ".join(text.lower().split())
    key = hashlib.sha256(f"{rule}\0{normal}".encode(errors="surrogatepass")).hexdigest()
    return Identity(text, rule, key, has_tools, stream)


def _lookup(request: PolicyRequest) -> tuple[list[Slot], dict[str, Any]]:
    prompt = prompt_of(request)
    if prompt is not None:
        for turn in reversed(prompt.turns):
            if turn.role == "user":
                return [slot for slot in turn.slots if slot.text], prompt.tree
        return [], prompt.tree
    try:
        tree = fj.object_tree(request.body)
    except DecodeError:
        return [], {}
    for name in ("input", "prompt", "query"):
        if isinstance(tree.get(name), str):
            return [Slot(tree, name)], tree
    return [], tree
