"""What one event of a streamed answer says, in the client's dialect: texts, fragments of tool calls, and their places.

What lives here: a reader for each dialect. What must not: several events at once (`holdback`). Events that are no JSON
objects, or that say nothing, give an empty `Delta`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import msgspec

from trustgate.policies.conversation import Slot, Tree, arguments_of, content_slots, objects, text_of

TEXT, REASONING = "text", "reasoning"


class Fragment(msgspec.Struct):
    """A string of an event. `answer` tells the choices of one stream apart, `channel` their parts.

    `whole` marks a text told once more at the end of its channel, as the Responses API does.
    """

    kind: str
    answer: int
    channel: Hashable
    slot: Slot
    whole: bool = False


class CallFragment(msgspec.Struct):
    """A part of a tool call; fragments of one `channel` make a call."""

    answer: int
    channel: Hashable
    id: str = ""
    name: str = ""
    arguments: str = ""
    whole: bool = False


class Delta(msgspec.Struct):
    texts: list[Fragment] = []
    calls: list[CallFragment] = []

    def say(self, kind: str, answer: int, channel: Hashable, holder: Any, key: str, *, whole: bool = False) -> None:
        if isinstance(holder, dict) and isinstance(holder.get(key), str) and holder[key]:
            self.texts.append(Fragment(kind, answer, channel, Slot(holder, key), whole))


def read_delta(format_: str, tree: Tree) -> Delta:
    """The strings of one event; of a dialect that nobody knows there are none."""
    delta = Delta()
    reader = _READERS.get(format_)
    if reader is not None:
        reader(tree, delta)
    return delta


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _object(holder: Any, key: str) -> Tree:
    value = holder.get(key) if isinstance(holder, dict) else None
    return value if isinstance(value, dict) else {}


def _openai(tree: Tree, found: Delta) -> None:
    for choice in objects(tree.get("choices")):
        answer, delta = _number(choice.get("index")), _object(choice, "delta")
        content = delta.get("content")
        if content:
            found.texts += [
                Fragment(TEXT, answer, answer, slot) for slot in content_slots(delta, "content") if slot.text
            ]
        for part in objects(content):
            for thought in objects(part.get("thinking")):
                found.say(REASONING, answer, answer, thought, "text")
        found.say(TEXT, answer, (answer, "refusal"), delta, "refusal")
        for key in ("reasoning_content", "reasoning"):
            found.say(REASONING, answer, answer, delta, key)
        for position, call in enumerate(objects(delta.get("tool_calls"))):
            inner = _object(call, "function") or _object(call, "custom")
            index = call.get("index")
            found.calls.append(
                CallFragment(
                    answer,
                    (answer, position if index is None else _number(index)),
                    text_of(call.get("id")),
                    text_of(inner.get("name")),
                    text_of(inner.get("arguments")) or text_of(inner.get("input")),
                )
            )


def _anthropic(tree: Tree, found: Delta) -> None:
    kind, channel = tree.get("type"), _number(tree.get("index"))
    if kind == "content_block_start":
        block = _object(tree, "content_block")
        if block.get("type") == "tool_use":
            arguments = arguments_of(block["input"]) if block.get("input") else ""
            call = CallFragment(0, channel, text_of(block.get("id")), text_of(block.get("name")), arguments)
            found.calls.append(call)
    elif kind == "content_block_delta":
        block = _object(tree, "delta")
        if block.get("type") == "input_json_delta":
            found.calls.append(CallFragment(0, channel, arguments=text_of(block.get("partial_json"))))
    else:
        return
    found.say(TEXT, 0, channel, block, "text")
    found.say(REASONING, 0, channel, block, "thinking")


def _google(tree: Tree, found: Delta) -> None:
    for candidate in objects(tree.get("candidates")):
        answer = _number(candidate.get("index"))
        for part in objects(_object(candidate, "content").get("parts")):
            found.say(REASONING if part.get("thought") is True else TEXT, answer, answer, part, "text")
            call = _object(part, "functionCall")
            if call:
                arguments = arguments_of(call.get("args"))
                # Calls come whole, so each is a channel of its own.
                found.calls.append(
                    CallFragment(answer, object(), text_of(call.get("id")), text_of(call.get("name")), arguments)
                )


def _cohere(tree: Tree, found: Delta) -> None:
    channel = _number(tree.get("index"))
    message = _object(_object(tree, "delta"), "message")
    content = _object(message, "content")
    found.say(TEXT, 0, channel, content, "text")
    found.say(REASONING, 0, channel, content, "thinking")
    found.say(REASONING, 0, "plan", message, "tool_plan")
    call = _object(message, "tool_calls")
    if call:
        inner = _object(call, "function")
        found.calls.append(
            CallFragment(
                0, channel, text_of(call.get("id")), text_of(inner.get("name")), text_of(inner.get("arguments"))
            )
        )


def _responses(tree: Tree, found: Delta) -> None:
    kind = text_of(tree.get("type")).removeprefix("response.")
    item, part = _number(tree.get("output_index")), tree.get("content_index", tree.get("summary_index"))
    match kind:
        case "output_text.delta" | "refusal.delta":
            found.say(TEXT, 0, (item, part), tree, "delta")
        case "reasoning_text.delta" | "reasoning_summary_text.delta":
            found.say(REASONING, 0, (item, kind[:-6], part), tree, "delta")
        case "function_call_arguments.delta" | "custom_tool_call_input.delta":
            found.calls.append(CallFragment(0, item, arguments=text_of(tree.get("delta"))))
        case "output_text.done":
            found.say(TEXT, 0, (item, part), tree, "text", whole=True)
        case "refusal.done":
            found.say(TEXT, 0, (item, part), tree, "refusal", whole=True)
        case "reasoning_text.done" | "reasoning_summary_text.done":
            found.say(REASONING, 0, (item, kind[:-5], part), tree, "text", whole=True)
        case "content_part.done" | "reasoning_summary_part.done":
            _responses_part(_object(tree, "part"), item, part, found)
        case "output_item.added" | "output_item.done":
            _responses_item(_object(tree, "item"), item, found)
        case "completed" | "incomplete" | "failed":
            for index, entry in enumerate(objects(_object(tree, "response").get("output"))):
                _responses_item(entry, index, found)
        case _:
            pass


def _responses_item(item: Tree, index: int, found: Delta) -> None:
    for position, part in enumerate(objects(item.get("content"))):
        _responses_part(part, index, position, found)
    for position, part in enumerate(objects(item.get("summary"))):
        _responses_part(part, index, position, found)
    if item.get("type") in ("function_call", "custom_tool_call"):
        arguments = text_of(item.get("arguments")) or text_of(item.get("input"))
        id_ = text_of(item.get("call_id"))
        found.calls.append(CallFragment(0, index, id_, text_of(item.get("name")), arguments, whole=True))


def _responses_part(part: Tree, item: int, position: Any, found: Delta) -> None:
    match part.get("type"):
        case "output_text":
            found.say(TEXT, 0, (item, position), part, "text", whole=True)
        case "refusal":
            found.say(TEXT, 0, (item, position), part, "refusal", whole=True)
        case "reasoning_text":
            found.say(REASONING, 0, (item, "reasoning_text", position), part, "text", whole=True)
        case "summary_text":
            found.say(REASONING, 0, (item, "reasoning_summary_text", position), part, "text", whole=True)
        case _:
            pass


_READERS: dict[str, Callable[[Tree, Delta], None]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "openai_responses": _responses,
    "google": _google,
    "cohere": _cohere,
}
