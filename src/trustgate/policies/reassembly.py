"""A streamed answer put together again from its collected lines, for policies that act after the answer."""

from __future__ import annotations

import msgspec

from trustgate.formats.canonical import ToolCall
from trustgate.formats.codecs import CODECS
from trustgate.formats.errors import DecodeError


class Reassembled(msgspec.Struct):
    """What the stream said. `calls` are in the order of their index."""

    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = []
    finish_reason: str = ""


def reassemble(format_: str, lines: bytes) -> Reassembled:
    """The answer in the `data:` lines of a stream in a client dialect; payloads that don't decode add nothing."""
    found = Reassembled()
    codec = CODECS.get(format_)
    if codec is None:
        return found
    decoder = codec.stream_decoder()
    text: list[str] = []
    reasoning: list[str] = []
    calls: dict[int, ToolCall] = {}
    for line in lines.split(b"\n"):
        if not line.startswith(b"data:") or line == b"data: [DONE]":
            continue
        try:
            event = decoder.decode(line[5:].strip())
        except DecodeError:
            continue
        if event is None:
            continue
        text.append(event.text)
        reasoning.append(event.reasoning)
        found.finish_reason = event.finish_reason or found.finish_reason
        for delta in event.tool_calls or ():
            call = calls.setdefault(delta.index, ToolCall("", "", ""))
            call.id = delta.id or call.id
            call.name = delta.name or call.name
            call.arguments += delta.arguments
    found.text, found.reasoning = "".join(text), "".join(reasoning)
    found.calls = [calls[index] for index in sorted(calls)]
    return found
