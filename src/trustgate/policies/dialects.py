"""Where the text, the tools and the tool calls of a request or an answer sit in each client dialect.

What lives here: walks over the JSON tree of a body that name places (`Slot`), so that a policy changes only the
affected strings and everything else survives (spec 04 §13, rewriting). What must not: what a policy does with them.
A body that does not have the dialect's shape yields None: such a body passes unguarded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec

from trustgate.formats import json as fj
from trustgate.formats.errors import DecodeError
from trustgate.policies.model import PolicyRequest

Tree = dict[str, Any]

OPENAI, RESPONSES, ANTHROPIC, GOOGLE = "openai", "openai_responses", "anthropic", "google"
CHAT_FORMATS = frozenset((OPENAI, RESPONSES, ANTHROPIC, GOOGLE))
_BY_PROVIDER = {"anthropic": ANTHROPIC, "google": GOOGLE, "vertex": GOOGLE, "": ""}


def format_of(request: PolicyRequest) -> str:
    """The dialect of the client's route, else the provider's own; empty when neither is known."""
    return request.source_format or _BY_PROVIDER.get(request.provider, OPENAI)


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


_NO_CALL_LEFT = {OPENAI: "stop", ANTHROPIC: "end_turn", GOOGLE: "STOP"}


def refuse_calls(answer: Answer, refused: list[Call], text: str) -> None:
    """Take calls out of an answer and append `text` to its content; without calls left it has simply stopped."""
    for call in refused:
        if call.home is not None:
            call.home[:] = [item for item in call.home if item is not call.item]
    answer.calls = [call for call in answer.calls if not any(call is other for other in refused)]
    if answer.slots:
        answer.slots[-1].text += text
    else:
        _add_text(answer, text)
    if not answer.calls and answer.finish is not None:
        answer.finish.text = _NO_CALL_LEFT[answer.format]
    if answer.format == OPENAI:
        for choice in _objects(answer.tree.get("choices")):
            message = choice.get("message")
            if isinstance(message, dict) and message.get("tool_calls") == []:
                del message["tool_calls"]


def _add_text(answer: Answer, text: str) -> None:
    """Give an answer that has no text one."""
    tree = answer.tree
    if answer.format == OPENAI:
        next(_objects(tree["choices"]))["message"]["content"] = text
    elif answer.format == ANTHROPIC:
        tree["content"].append({"type": "text", "text": text})
    elif answer.format == RESPONSES:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        tree["output"].append({"type": "message", "role": "assistant", "status": "completed", "content": content})
    else:
        next(_objects(tree["candidates"]))["content"].setdefault("parts", []).append({"text": text})


def read_prompt(format_: str, body: bytes) -> Prompt | None:
    """The request in a chat dialect, or None when it is not one."""
    read = _PROMPTS.get(format_)
    tree = _tree(body)
    if read is None or tree is None:
        return None
    prompt = Prompt(format_, tree)
    return prompt if read(prompt) else None


def read_answer(format_: str, body: bytes) -> Answer | None:
    """A buffered answer in a chat dialect, or None when it is not one (an error object, for one)."""
    read = _ANSWERS.get(format_)
    tree = _tree(body)
    if read is None or tree is None:
        return None
    answer = Answer(format_, tree)
    return answer if read(answer) else None


def _tree(body: bytes) -> Tree | None:
    try:
        return fj.object_tree(body)
    except DecodeError:
        return None


def _objects(value: Any) -> Iterator[Tree]:
    if isinstance(value, list):
        yield from (element for element in value if isinstance(element, dict))


_TEXT_TYPES = frozenset(("text", "input_text", "output_text", None))


def _content_slots(holder: Tree, key: str) -> list[Slot]:
    """The texts of a `content`: a string, or the text parts of an array (a part may be a bare string)."""
    content = holder.get(key)
    if isinstance(content, str):
        return [Slot(holder, key)]
    found: list[Slot] = []
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, str):
            found.append(Slot(content, index))
        elif isinstance(part, dict) and part.get("type") in _TEXT_TYPES and isinstance(part.get("text"), str):
            found.append(Slot(part, "text"))
    return found


def _arguments(value: Any) -> str:
    return value if isinstance(value, str) else fj.text(value if value is not None else {})


def _name(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _openai_calls(message: Tree) -> list[Call]:
    calls: list[Call] = []
    for call in _objects(message.get("tool_calls")):
        function = call.get("function")
        if isinstance(function, dict):
            slot = Slot(function, "arguments") if isinstance(function.get("arguments"), str) else None
            calls.append(
                Call(
                    _name(call.get("id")),
                    _name(function.get("name")),
                    _arguments(function.get("arguments")),
                    slot,
                    message["tool_calls"],
                    call,
                )
            )
    return calls


def _openai_prompt(prompt: Prompt) -> bool:
    messages = prompt.tree.get("messages")
    if not isinstance(messages, list):
        return False
    for message in _objects(messages):
        role = _name(message.get("role"))
        if role in ("system", "developer"):
            prompt.system += _content_slots(message, "content")
        else:
            prompt.turns.append(
                Turn(
                    role,
                    _content_slots(message, "content"),
                    _openai_calls(message),
                    _name(message.get("tool_call_id")) if role == "tool" else "",
                )
            )
    return True


def _anthropic_prompt(prompt: Prompt) -> bool:
    messages = prompt.tree.get("messages")
    if not isinstance(messages, list):
        return False
    prompt.system += _content_slots(prompt.tree, "system")
    for message in _objects(messages):
        role = _name(message.get("role"))
        calls: list[Call] = []
        for block in _objects(message.get("content")):
            if block.get("type") == "tool_use":
                calls.append(Call(_name(block.get("id")), _name(block.get("name")), _arguments(block.get("input"))))
            elif block.get("type") == "tool_result":
                prompt.turns.append(
                    Turn("tool", _content_slots(block, "content"), call_id=_name(block.get("tool_use_id")))
                )
        slots = _content_slots(message, "content")
        if slots or calls or not isinstance(message.get("content"), list):
            prompt.turns.append(Turn(role, slots, calls))
    return True


def _responses_prompt(prompt: Prompt) -> bool:
    tree = prompt.tree
    if isinstance(tree.get("instructions"), str):
        prompt.system.append(Slot(tree, "instructions"))
    given = tree.get("input")
    if isinstance(given, str):
        prompt.turns.append(Turn("user", [Slot(tree, "input")]))
        return True
    if not isinstance(given, list):
        return bool(prompt.system)
    for item in _objects(given):
        kind = item.get("type")
        if kind == "function_call":
            slot = Slot(item, "arguments") if isinstance(item.get("arguments"), str) else None
            call = Call(_name(item.get("call_id")), _name(item.get("name")), _arguments(item.get("arguments")), slot)
            if prompt.turns and prompt.turns[-1].role == "assistant" and prompt.turns[-1].calls:
                prompt.turns[-1].calls.append(call)
            else:
                prompt.turns.append(Turn("assistant", [], [call]))
        elif kind == "function_call_output":
            prompt.turns.append(Turn("tool", _content_slots(item, "output"), call_id=_name(item.get("call_id"))))
        elif kind in (None, "message"):
            role = _name(item.get("role"))
            if role in ("system", "developer"):
                prompt.system += _content_slots(item, "content")
            else:
                prompt.turns.append(Turn(role, _content_slots(item, "content")))
    return True


def _google_parts(content: Any) -> list[Slot]:
    if isinstance(content, dict):
        return [
            Slot(part, "text")
            for part in _objects(content.get("parts"))
            if isinstance(part.get("text"), str) and part.get("thought") is not True
        ]
    return []


def _either(tree: Tree, *names: str) -> Any:
    """The first of several spellings that is there."""
    return next((tree[name] for name in names if tree.get(name) is not None), None)


def _google_call(part: Tree, seed: str) -> Call | None:
    call = _either(part, "functionCall", "function_call")
    if not isinstance(call, dict):
        return None
    name, arguments = _name(call.get("name")), _arguments(call.get("args"))
    # Gemini calls have no id of their own; one made of what led to the call is stable over the turns that repeat it.
    made = hashlib.sha256(f"{seed}\0{name}\0{arguments}".encode()).hexdigest()[:24]
    return Call(_name(call.get("id")) or made, name, arguments)


def _google_prompt(prompt: Prompt) -> bool:
    contents = prompt.tree.get("contents")
    if not isinstance(contents, list):
        return False
    prompt.system += _google_parts(_either(prompt.tree, "systemInstruction", "system_instruction"))
    seed = ""
    open_calls: list[Call] = []
    for content in _objects(contents):
        role = {"model": "assistant", "": "user"}.get(_name(content.get("role")), _name(content.get("role")))
        slots = _google_parts(content)
        seed = hashlib.sha256(f"{seed}\0{joined(slots)}".encode(errors="surrogatepass")).hexdigest()
        calls: list[Call] = []
        for index, part in enumerate(_objects(content.get("parts"))):
            call = _google_call(part, f"{seed}{index}")
            if call is not None:
                calls.append(call)
            response = _either(part, "functionResponse", "function_response")
            if isinstance(response, dict):
                prompt.turns.append(Turn("tool", call_id=_google_answered(response, open_calls)))
        if calls:
            open_calls = list(calls)
        if slots or calls:
            prompt.turns.append(Turn(role, slots, calls))
    return True


def _google_answered(response: Tree, open_calls: list[Call]) -> str:
    """The id of the call that a function response answers: its own, else the first open one of that name."""
    if _name(response.get("id")):
        return _name(response.get("id"))
    for index, call in enumerate(open_calls):
        if call.name == response.get("name"):
            return open_calls.pop(index).id
    return ""


_PROMPTS = {
    OPENAI: _openai_prompt,
    RESPONSES: _responses_prompt,
    ANTHROPIC: _anthropic_prompt,
    GOOGLE: _google_prompt,
}


def _openai_answer(answer: Answer) -> bool:
    choices = list(_objects(answer.tree.get("choices")))
    for index, choice in enumerate(choices):
        message = choice.get("message")
        if not isinstance(message, dict):
            continue
        answer.slots += _content_slots(message, "content")
        answer.calls += _openai_calls(message)
        if index == 0:
            answer.reasoning = _name(_either(message, "reasoning_content", "reasoning"))
            answer.finish = Slot(choice, "finish_reason")
    return bool(choices)


def _anthropic_answer(answer: Answer) -> bool:
    blocks = answer.tree.get("content")
    if not isinstance(blocks, list):
        return False
    answer.slots += _content_slots(answer.tree, "content")
    for block in _objects(blocks):
        if block.get("type") == "tool_use":
            answer.calls.append(
                Call(
                    _name(block.get("id")),
                    _name(block.get("name")),
                    _arguments(block.get("input")),
                    None,
                    blocks,
                    block,
                )
            )
    thinking = [_name(block.get("thinking")) for block in _objects(blocks) if block.get("type") == "thinking"]
    answer.reasoning = "\n\n".join(text for text in thinking if text)
    answer.finish = Slot(answer.tree, "stop_reason")
    return True


def _responses_answer(answer: Answer) -> bool:
    output = answer.tree.get("output")
    if not isinstance(output, list):
        return False
    reasoning: list[str] = []
    for item in _objects(output):
        kind = item.get("type")
        if kind == "message":
            answer.slots += _content_slots(item, "content")
        elif kind == "function_call":
            slot = Slot(item, "arguments") if isinstance(item.get("arguments"), str) else None
            answer.calls.append(
                Call(
                    _name(item.get("call_id")),
                    _name(item.get("name")),
                    _arguments(item.get("arguments")),
                    slot,
                    output,
                    item,
                )
            )
        elif kind == "reasoning":
            reasoning += [_name(part.get("text")) for part in _objects(item.get("summary"))]
    answer.reasoning = "\n\n".join(text for text in reasoning if text)
    return True


def _google_answer(answer: Answer) -> bool:
    candidates = list(_objects(answer.tree.get("candidates")))
    for index, candidate in enumerate(candidates):
        content = candidate.get("content")
        answer.slots += _google_parts(content)
        home = content.get("parts") if isinstance(content, dict) else None
        parts = list(_objects(home))
        for at, part in enumerate(parts):
            call = _google_call(part, f"{index}.{at}")
            if call is not None:
                call.home, call.item = home, part
                answer.calls.append(call)
        if index == 0:
            thoughts = [_name(part.get("text")) for part in parts if part.get("thought") is True]
            answer.reasoning = "\n\n".join(text for text in thoughts if text)
            answer.finish = Slot(candidate, "finishReason")
    return bool(candidates)


_ANSWERS = {
    OPENAI: _openai_answer,
    RESPONSES: _responses_answer,
    ANTHROPIC: _anthropic_answer,
    GOOGLE: _google_answer,
}
