"""Tool-call fragments of an OpenAI chat stream, merged into one chunk on the way to the client.

Works on the upstream's own lines: a chunk with exactly one choice and a non-empty `delta.tool_calls` is absorbed,
everything else passes verbatim. Implements topic "tool-call coalescing" of the streaming contract.
"""

from __future__ import annotations

from typing import Any, cast

from msgspec import Raw

from . import json
from .canonical import ToolCall, ToolDelta
from .errors import DecodeError
from .openai import encode_answered_call, signature_of
from .openai_stream import merge_delta


class Coalescer:
    """The fragments of one stream. `absorb` takes every `data:` payload that might hold calls or a finish."""

    def __init__(self) -> None:
        self._calls: dict[int, ToolCall] = {}
        self._envelope: dict[str, Any] = {}
        self._choice_index: Any = 0

    @property
    def pending(self) -> bool:
        """Whether calls wait to be flushed."""
        return bool(self._calls)

    def absorb(self, payload: bytes) -> bytes | None:
        """What to send in place of the payload's line: None for the line itself, else whole lines, maybe none."""
        try:
            chunk = json.tree(payload)
        except DecodeError:
            return None
        choice = _only_choice(chunk)
        if choice is None:
            return None
        inner = choice.get("delta")
        delta = cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}
        finish = choice.get("finish_reason")
        fragments = delta.get("tool_calls")
        if not isinstance(fragments, list) or not fragments:
            return self.flush() + b"data: " + payload + b"\n" if finish is not None and self._calls else None
        self._add(chunk, choice, cast("list[Any]", fragments))
        del delta["tool_calls"]
        rest = any(value is not None for value in delta.values())
        if not rest and finish is None:
            return b""
        line = b"data: " + json.encode(chunk) + b"\n"
        return self.flush() + line if finish is not None else line

    def _add(self, chunk: dict[str, Any], choice: dict[str, Any], fragments: list[Any]) -> None:
        if not self._envelope:
            self._envelope = {name: value for name, value in chunk.items() if name not in ("choices", "usage")}
            self._choice_index = choice.get("index", 0)
        for position, fragment in enumerate(fragments):
            if isinstance(fragment, dict):
                merge_delta(self._calls, _delta(position, cast("dict[str, Any]", fragment)))

    def flush(self) -> bytes:
        """The merged calls as one event (line and blank line); nothing when there are none."""
        if not self._calls:
            return b""
        entries = [{"index": index} | encode_answered_call(self._calls[index]) for index in sorted(self._calls)]
        choice = {"index": self._choice_index, "delta": {"tool_calls": entries}, "finish_reason": None}
        self._calls = {}
        return b"data: " + json.encode(self._envelope | {"choices": [choice]}) + b"\n\n"


def _only_choice(chunk: Any) -> dict[str, Any] | None:
    if not isinstance(chunk, dict):
        return None
    choices = cast("dict[str, Any]", chunk).get("choices")
    if not isinstance(choices, list) or len(cast("list[Any]", choices)) != 1 or not isinstance(choices[0], dict):
        return None
    return cast("dict[str, Any]", choices[0])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _delta(position: int, fragment: dict[str, Any]) -> ToolDelta:
    index = fragment.get("index")
    custom = fragment.get("custom")
    is_custom = isinstance(custom, dict) or fragment.get("type") == "custom"
    inner = cast("Any", custom) if is_custom and custom is not None else fragment.get("function")
    fields = cast("dict[str, Any]", inner) if isinstance(inner, dict) else dict[str, Any]()
    return ToolDelta(
        index=index if isinstance(index, int) else position,
        id=_text(fragment.get("id")),
        name=_text(fields.get("name")),
        arguments=_text(fields.get("input" if is_custom else "arguments")),
        kind="custom" if is_custom else "",
        signature=signature_of(Raw(json.encode(fragment.get("extra_content")))),
    )
