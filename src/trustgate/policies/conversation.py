"""A request or an answer as policies see it: turns, texts and tool calls, each with its place in the JSON tree.

What lives here: the structs and what several dialects share in reading them. What must not: a dialect (`dialects`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from trustgate.formats import json as fj

Tree = dict[str, Any]


class Slot(msgspec.Struct):
    """A string inside the tree: `holder[key]`."""

    holder: Any
    key: Any

    @property
    def text(self) -> str:
        return self.holder[self.key]

    @text.setter
    def text(self, value: str) -> None:
        self.holder[self.key] = value


class Call(msgspec.Struct):
    """A tool call. `arguments` is JSON text; `slot` holds it where the dialect keeps it as a string.

    `item` is the call's own object and `home` the list that contains it.
    """

    id: str
    name: str
    arguments: str
    slot: Slot | None = None
    home: list[Any] | None = None
    item: Any = None


class Turn(msgspec.Struct):
    """A message: its role in OpenAI's words, its texts, its tool calls, or the call it answers."""

    role: str
    slots: list[Slot] = []
    calls: list[Call] = []
    call_id: str = ""

    @property
    def text(self) -> str:
        return joined(self.slots)


class Prompt(msgspec.Struct):
    """A decoded request. `system` are the places of the system prompt, `turns` the rest of the conversation."""

    format: str
    tree: Tree
    system: list[Slot] = []
    turns: list[Turn] = []

    @property
    def system_text(self) -> str:
        return joined(self.system)

    def encode(self) -> bytes:
        return fj.encode(self.tree)


class Answer(msgspec.Struct):
    """A decoded answer of the assistant. `finish` holds the finish reason; `reasoning` is its readable thinking."""

    format: str
    tree: Tree
    slots: list[Slot] = []
    calls: list[Call] = []
    reasoning: str = ""
    finish: Slot | None = None

    @property
    def text(self) -> str:
        return joined(self.slots)

    def encode(self) -> bytes:
        return fj.encode(self.tree)


def joined(slots: list[Slot]) -> str:
    """The non-empty texts, separated by line feeds."""
    return "\n".join(slot.text for slot in slots if slot.text)


def either(tree: Tree, *names: str) -> Any:
    """The first of several spellings that is there."""
    return next((tree[name] for name in names if tree.get(name) is not None), None)


def objects(value: Any) -> Iterator[Tree]:
    if isinstance(value, list):
        yield from (element for element in value if isinstance(element, dict))


_TEXT_TYPES = frozenset(("text", "input_text", "output_text"))


def content_slots(holder: Tree, key: str) -> list[Slot]:
    """The texts of a `content`: a string, or the text parts of an array (a part may be a bare string)."""
    content = holder.get(key)
    if isinstance(content, str):
        return [Slot(holder, key)]
    found: list[Slot] = []
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, str):
            found.append(Slot(content, index))
        elif isinstance(part, dict) and isinstance(part.get("text"), str) and _may_be_text(part.get("type")):
            found.append(Slot(part, "text"))
    return found


def _may_be_text(kind: Any) -> bool:
    """Whether a part of this type is text; one whose type is no string is not hidden from guards by that."""
    return not isinstance(kind, str) or kind in _TEXT_TYPES


def arguments_of(value: Any) -> str:
    return value if isinstance(value, str) else fj.text(value if value is not None else {})


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else ""


def openai_calls(message: Tree) -> list[Call]:
    calls: list[Call] = []
    for call in objects(message.get("tool_calls")):
        function = call.get("function")
        if isinstance(function, dict):
            slot = Slot(function, "arguments") if isinstance(function.get("arguments"), str) else None
            calls.append(
                Call(
                    text_of(call.get("id")),
                    text_of(function.get("name")),
                    arguments_of(function.get("arguments")),
                    slot,
                    message["tool_calls"],
                    call,
                )
            )
    return calls
