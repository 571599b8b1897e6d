"""The texts of requests and answers, for policies: read them, and change them inside the original JSON.

A change touches the strings it changes and nothing else: media, cache marks, unknown members and number literals
stay. Implements topics "prompt text for guards" and "rewriting a body" of the policy contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from msgspec import Struct

from . import json
from .codecs import CODECS
from .errors import DecodeError


class PromptText(Struct):
    """One text of a conversation: `system`, or the role of the turn it belongs to (`tool` for tool results)."""

    role: str
    text: str


class _Slot:
    """The strings that make up one text, each at a key of its container, joined by `joint`."""

    def __init__(self, role: str, joint: str = "\n") -> None:
        self.role = role
        self.joint = joint
        self.places: list[tuple[Any, Any]] = []

    def add(self, container: Any, key: Any) -> None:
        self.places.append((container, key))

    @property
    def text(self) -> str:
        texts = (container[key] for container, key in self.places)
        return self.joint.join(text for text in texts if text or not self.joint)

    def change(self, change: Callable[[str, str], str]) -> bool:
        """Applies a change to the text. String by string where that gives the same, else into the first string."""
        old = self.text
        new = change(self.role, old)
        if new == old:
            return False
        if len(self.places) > 1:
            each = [change(self.role, container[key]) for container, key in self.places]
            if self.joint.join(text for text in each if text or not self.joint) != new:
                each = [new] + [""] * (len(self.places) - 1)
        else:
            each = [new]
        for (container, key), text in zip(self.places, each, strict=True):
            container[key] = text
        return True


def prompt_texts(format: str, body: bytes) -> list[PromptText]:
    """The system prompt, then the text of each message, blank ones left out. Raises `DecodeError`."""
    request = CODECS[format].decode_request(body)
    texts = [PromptText("system", request.system)] if request.system.strip() else []
    texts += [PromptText(message.role, message.text) for message in request.messages if message.text.strip()]
    return texts


def prompt_text(format: str, body: bytes) -> str:
    """All texts of the conversation joined by line feeds: what guards look at. Raises `DecodeError`."""
    return "\n".join(entry.text for entry in prompt_texts(format, body))


def response_text(format: str, body: bytes) -> str:
    """The text of a buffered answer. Raises `DecodeError`."""
    return CODECS[format].decode_response(body).text


def rewrite_request(format: str, body: bytes, change: Callable[[str, str], str]) -> bytes:
    """The request with `change(role, text)` applied to the system prompt and to each message's text.

    The same bytes when nothing changed. Raises `DecodeError` when the body is no request of the format.
    """
    CODECS[format].decode_request(body)
    tree = json.object_tree(body)
    changed = False
    for slot in _request_slots(format, tree):
        if slot.places and slot.text.strip():
            changed |= slot.change(change)
    return json.encode(tree) if changed else body


def replace_request(format: str, body: bytes, texts: Sequence[str]) -> bytes:
    """The request with its texts replaced, one for one with `prompt_texts`. Raises `DecodeError`."""
    if len(texts) != len(prompt_texts(format, body)):
        raise ValueError("one text is needed for each text of the prompt")
    tree = json.object_tree(body)
    slots = [slot for slot in _request_slots(format, tree) if slot.places and slot.text.strip()]
    changed = False
    for slot, text in zip(slots, texts, strict=True):
        changed |= slot.change(_always(slot.text, text))
    return json.encode(tree) if changed else body


def _always(old: str, new: str) -> Callable[[str, str], str]:
    return lambda role, text: new if text == old else text


def rewrite_response(format: str, body: bytes, change: Callable[[str], str]) -> bytes:
    """The answer with `change(text)` applied to the text of each choice or candidate.

    The same bytes when nothing changed. Raises `DecodeError` when the body is no answer of the format.
    """
    CODECS[format].decode_response(body)
    tree = json.object_tree(body)
    changed = False
    for slot in _response_slots(format, tree):
        if slot.places and slot.text:
            changed |= slot.change(lambda role, text: change(text))
    return json.encode(tree) if changed else body


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for entry in cast("list[Any]", value):
            if isinstance(entry, dict):
                yield cast("dict[str, Any]", entry)


def _add_content(slot: _Slot, container: dict[str, Any], key: str, kinds: frozenset[str] | None = None) -> None:
    """The strings of a content member: itself, or the `text` of its parts."""
    value = container.get(key)
    if isinstance(value, str):
        slot.add(container, key)
    for part in _objects(value):
        if isinstance(part.get("text"), str) and (kinds is None or part.get("type") in kinds):
            slot.add(part, "text")
        elif isinstance(part.get("refusal"), str) and kinds is None:
            slot.add(part, "refusal")
        elif part.get("type") == "document" and isinstance(part.get("document"), dict) and kinds is None:
            slot.add(_DocumentText(cast("dict[str, Any]", part["document"])), "data")


class _DocumentText:
    """The data of one of Cohere's documents seen as text: an object's JSON is read, and put back as an object."""

    def __init__(self, owner: dict[str, Any]) -> None:
        self._owner = owner

    def __getitem__(self, key: str) -> str:
        data = self._owner.get(key)
        return data if isinstance(data, str) else "" if data is None else json.text(data)

    def __setitem__(self, key: str, value: str) -> None:
        if value == self[key]:
            return
        data = self._owner.get(key)
        self._owner[key] = json.tree(value.encode()) if not isinstance(data, str) and json.is_object(value) else value


def _request_slots(format: str, tree: dict[str, Any]) -> list[_Slot]:
    if format in ("google", "vertex"):
        return _gemini_slots(tree)
    if format in ("anthropic", "bedrock"):
        return _anthropic_slots(tree)
    if format == "openai_responses" or (tree.get("messages") is None and tree.get("input") is not None):
        return _responses_slots(tree)
    return _openai_slots(tree)


def _openai_slots(tree: dict[str, Any]) -> list[_Slot]:
    system = _Slot("system")
    slots = [system]
    for message in _objects(tree.get("messages")):
        role = message.get("role") or ""
        slot = system if role in ("system", "developer") else _Slot(role)
        _add_content(slot, message, "content")
        if slot is not system:
            if not slot.places and isinstance(message.get("refusal"), str):
                slot.add(message, "refusal")
            slots.append(slot)
    return slots


def _responses_slots(tree: dict[str, Any]) -> list[_Slot]:
    system = _Slot("system")
    slots = [system]
    if isinstance(tree.get("instructions"), str):
        system.add(tree, "instructions")
    if isinstance(tree.get("input"), str):
        slots.append(_Slot("user"))
        slots[-1].add(tree, "input")
    for item in _objects(tree.get("input")):
        kind, role = item.get("type"), item.get("role")
        slot = _Slot(role or "user")
        if kind in ("function_call_output", "custom_tool_call_output"):
            slot.role = "tool"
            _add_content(slot, item, "output")
        elif role in ("system", "developer"):
            _add_content(system, item, "content")
            continue
        elif role:
            _add_content(slot, item, "content")
        elif kind == "input_text" and isinstance(item.get("text"), str):
            slot.add(item, "text")
        slots.append(slot)
    return slots


_TEXT = frozenset({"text"})


def _anthropic_slots(tree: dict[str, Any]) -> list[_Slot]:
    system = _Slot("system")
    _add_content(system, tree, "system")
    slots = [system]
    for message in _objects(tree.get("messages")):
        role = message.get("role") or ""
        slot = _Slot(role)
        _add_content(slot, message, "content", _TEXT)
        for block in _objects(message.get("content")):
            if block.get("type") == "tool_result" and role != "assistant":
                result = _Slot("tool")
                _add_content(result, block, "content", _TEXT)
                slots.append(result)
            elif block.get("type") == "document" and isinstance(block.get("source"), dict):
                source = cast("dict[str, Any]", block["source"])
                if source.get("type") == "text" and isinstance(source.get("data"), str) and role != "assistant":
                    slot.add(source, "data")
        slots.append(slot)
    return slots


class _ResultText(dict[str, Any]):
    """A function response seen as text: reading gives its JSON, writing puts an object back."""

    def __init__(self, owner: dict[str, Any]) -> None:
        super().__init__()
        self._owner = owner

    def __getitem__(self, key: str) -> Any:
        return json.text(self._owner["response"])

    def __setitem__(self, key: str, value: Any) -> None:
        if json.is_object(value):
            self._owner["response"] = json.tree(value.encode())
        else:
            self._owner["response"] = {"result": value}


def _gemini_slots(tree: dict[str, Any]) -> list[_Slot]:
    system = _Slot("system")
    instruction = tree.get("systemInstruction") or tree.get("system_instruction")
    if isinstance(instruction, dict):
        _add_content(system, cast("dict[str, Any]", instruction), "parts")
    slots = [system]
    for turn in _objects(tree.get("contents")):
        role = {"model": "assistant"}.get(turn.get("role") or "user", turn.get("role") or "user")
        slot, results = _Slot(role), list[_Slot]()
        for part in _objects(turn.get("parts")):
            answer = part.get("functionResponse") or part.get("function_response")
            if isinstance(answer, dict):
                results.append(_Slot("tool"))
                if "response" in answer:
                    results[-1].add(_ResultText(cast("dict[str, Any]", answer)), "text")
            elif isinstance(part.get("text"), str) and not part.get("thought") and not _is_call(part):
                slot.add(part, "text")
        slots += [slot, *results]
    return slots


def _is_call(part: dict[str, Any]) -> bool:
    return part.get("functionCall") is not None or part.get("function_call") is not None


def _response_slots(format: str, tree: dict[str, Any]) -> list[_Slot]:
    slots: list[_Slot] = []

    def one(container: Any, key: str, joint: str, kinds: frozenset[str] | None = None) -> None:
        if isinstance(container, dict):
            slots.append(_Slot("assistant", joint))
            _add_content(slots[-1], cast("dict[str, Any]", container), key, kinds)

    if format in ("google", "vertex"):
        for candidate in _objects(tree.get("candidates")):
            slot = _Slot("assistant", "")
            content = candidate.get("content")
            parts = cast("dict[str, Any]", content).get("parts") if isinstance(content, dict) else None
            for part in _objects(parts):
                if isinstance(part.get("text"), str) and not part.get("thought"):
                    slot.add(part, "text")
            slots.append(slot)
    elif format in ("anthropic", "bedrock"):
        one(tree, "content", "", _TEXT)
    elif format == "cohere":
        one(tree.get("message"), "content", "")
    elif format == "openai_responses" or tree.get("object") == "response":
        slot = _Slot("assistant")
        for item in _objects(tree.get("output")):
            if item.get("type") == "message":
                _add_content(slot, item, "content")
        slots.append(slot)
    else:
        for choice in _objects(tree.get("choices")):
            message = choice.get("message")
            one(message, "content", "\n")
            if isinstance(message, dict) and not slots[-1].places:
                fields = cast("dict[str, Any]", message)
                if isinstance(fields.get("refusal"), str):
                    slots[-1].add(fields, "refusal")
    return slots


__all__ = [
    "DecodeError",
    "PromptText",
    "prompt_text",
    "prompt_texts",
    "replace_request",
    "response_text",
    "rewrite_request",
    "rewrite_response",
]
