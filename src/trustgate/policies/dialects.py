"""Where the text, the tools and the tool calls of a request or an answer sit in each client dialect.

What lives here: walks over the JSON tree of a body that name places (`Slot`), so that a policy changes only the
affected strings and everything else survives (spec 04 §13, rewriting). What must not: what a policy does with them.
A body that does not have the dialect's shape yields None: such a body passes unguarded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from trustgate.formats import json as fj
from trustgate.formats.errors import DecodeError
from trustgate.policies.conversation import (
    Answer,
    Call,
    Prompt,
    Slot,
    Tree,
    Turn,
    arguments_of,
    content_slots,
    either,
    joined,
    objects,
    openai_calls,
    text_of,
)
from trustgate.policies.model import PolicyRequest

OPENAI, RESPONSES, ANTHROPIC, GOOGLE, COHERE = "openai", "openai_responses", "anthropic", "google", "cohere"
CHAT_FORMATS = frozenset((OPENAI, RESPONSES, ANTHROPIC, GOOGLE, COHERE))
_BY_PROVIDER = {"anthropic": ANTHROPIC, "google": GOOGLE, "vertex": GOOGLE, "": ""}


def format_of(request: PolicyRequest) -> str:
    """The dialect of the client's route, else the provider's own; empty when neither is known."""
    return request.source_format or _BY_PROVIDER.get(request.provider, OPENAI)


_NO_CALL_LEFT = {OPENAI: "stop", ANTHROPIC: "end_turn", GOOGLE: "STOP", COHERE: "COMPLETE"}


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
        for choice in objects(answer.tree.get("choices")):
            message = choice.get("message")
            if isinstance(message, dict) and message.get("tool_calls") == []:
                del message["tool_calls"]
    elif answer.format == COHERE and not answer.calls:
        answer.tree["message"].pop("tool_calls", None)


def _add_text(answer: Answer, text: str) -> None:
    """Give an answer that has no text one."""
    tree = answer.tree
    if answer.format == OPENAI:
        first_of(tree["choices"], "message")["content"] = text
    elif answer.format == ANTHROPIC:
        tree["content"].append({"type": "text", "text": text})
    elif answer.format == RESPONSES:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        tree["output"].append({"type": "message", "role": "assistant", "status": "completed", "content": content})
    elif answer.format == COHERE:
        message = tree["message"]
        message["content"] = [*objects(message.get("content")), {"type": "text", "text": text}]
    else:
        first_of(tree["candidates"], "content").setdefault("parts", []).append({"text": text})


def first_of(items: Any, key: str) -> Tree:
    """The first object under `key` of a list of objects; calls were found in one."""
    return next(item[key] for item in objects(items) if isinstance(item.get(key), dict))


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


Slots = Callable[[Tree, str], list[Slot]]


def _openai_prompt(prompt: Prompt, turn_slots: Slots = content_slots) -> bool:
    """`turn_slots` finds the texts of a message that is no system prompt."""
    messages = prompt.tree.get("messages")
    if not isinstance(messages, list):
        return False
    for message in objects(messages):
        role = text_of(message.get("role"))
        if role in ("system", "developer"):
            prompt.system += content_slots(message, "content")
        else:
            prompt.turns.append(
                Turn(
                    role,
                    turn_slots(message, "content"),
                    openai_calls(message),
                    text_of(message.get("tool_call_id")) if role == "tool" else "",
                )
            )
    return True


def _cohere_prompt(prompt: Prompt) -> bool:
    """Cohere v2 has OpenAI's messages, whose results of tools may be documents."""
    return _openai_prompt(prompt, _cohere_slots)


def _cohere_slots(message: Tree, key: str) -> list[Slot]:
    documents = [part for part in objects(message.get(key)) if part.get("type") == "document"]
    return content_slots(message, key) + [slot for part in documents for slot in _document_slots(part)]


def _document_slots(part: Tree) -> list[Slot]:
    """The texts of `{"document": "..."}` and of `{"document": {"data": "..." or {name: text}}}`."""
    document = part.get("document")
    if isinstance(document, str):
        return [Slot(part, "document")]
    if not isinstance(document, dict):
        return []
    data = document.get("data")
    if isinstance(data, str):
        return [Slot(document, "data")]
    return [Slot(data, key) for key, value in data.items() if isinstance(value, str)] if isinstance(data, dict) else []


def _anthropic_prompt(prompt: Prompt) -> bool:
    messages = prompt.tree.get("messages")
    if not isinstance(messages, list):
        return False
    prompt.system += content_slots(prompt.tree, "system")
    for message in objects(messages):
        role = text_of(message.get("role"))
        calls: list[Call] = []
        for block in objects(message.get("content")):
            if block.get("type") == "tool_use":
                calls.append(
                    Call(text_of(block.get("id")), text_of(block.get("name")), arguments_of(block.get("input")))
                )
            elif block.get("type") == "tool_result":
                prompt.turns.append(
                    Turn("tool", content_slots(block, "content"), call_id=text_of(block.get("tool_use_id")))
                )
        slots = content_slots(message, "content")
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
    for item in objects(given):
        kind = item.get("type")
        if kind == "function_call":
            slot = Slot(item, "arguments") if isinstance(item.get("arguments"), str) else None
            call = Call(
                text_of(item.get("call_id")), text_of(item.get("name")), arguments_of(item.get("arguments")), slot
            )
            if prompt.turns and prompt.turns[-1].role == "assistant" and prompt.turns[-1].calls:
                prompt.turns[-1].calls.append(call)
            else:
                prompt.turns.append(Turn("assistant", [], [call]))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            prompt.turns.append(Turn("tool", content_slots(item, "output"), call_id=text_of(item.get("call_id"))))
        elif kind in (None, "message"):
            role = text_of(item.get("role"))
            if role in ("system", "developer"):
                prompt.system += content_slots(item, "content")
            else:
                prompt.turns.append(Turn(role, content_slots(item, "content")))
    return True


def _google_parts(content: Any) -> list[Slot]:
    if isinstance(content, dict):
        return [
            Slot(part, "text")
            for part in objects(content.get("parts"))
            if isinstance(part.get("text"), str) and part.get("thought") is not True
        ]
    return []


def _google_call(part: Tree, seed: str) -> Call | None:
    call = either(part, "functionCall", "function_call")
    if not isinstance(call, dict):
        return None
    name, arguments = text_of(call.get("name")), arguments_of(call.get("args"))
    # Gemini calls have no id of their own; one made of what led to the call is stable over the turns that repeat it.
    made = hashlib.sha256(f"{seed}\0{name}\0{arguments}".encode()).hexdigest()[:24]
    return Call(text_of(call.get("id")) or made, name, arguments)


def _google_prompt(prompt: Prompt) -> bool:
    contents = prompt.tree.get("contents")
    if not isinstance(contents, list):
        return False
    prompt.system += _google_parts(either(prompt.tree, "systemInstruction", "system_instruction"))
    seed = ""
    open_calls: list[Call] = []
    for content in objects(contents):
        role = {"model": "assistant", "": "user"}.get(text_of(content.get("role")), text_of(content.get("role")))
        slots = _google_parts(content)
        seed = hashlib.sha256(f"{seed}\0{joined(slots)}".encode(errors="surrogatepass")).hexdigest()
        calls: list[Call] = []
        for index, part in enumerate(objects(content.get("parts"))):
            call = _google_call(part, f"{seed}{index}")
            if call is not None:
                calls.append(call)
            response = either(part, "functionResponse", "function_response")
            if isinstance(response, dict):
                prompt.turns.append(Turn("tool", call_id=_google_answered(response, open_calls)))
        if calls:
            open_calls = list(calls)
        if slots or calls:
            prompt.turns.append(Turn(role, slots, calls))
    return True


def _google_answered(response: Tree, open_calls: list[Call]) -> str:
    """The id of the call that a function response answers: its own, else the first open one of that name."""
    if text_of(response.get("id")):
        return text_of(response.get("id"))
    for index, call in enumerate(open_calls):
        if call.name == response.get("name"):
            return open_calls.pop(index).id
    return ""


_PROMPTS = {
    OPENAI: _openai_prompt,
    RESPONSES: _responses_prompt,
    ANTHROPIC: _anthropic_prompt,
    GOOGLE: _google_prompt,
    COHERE: _cohere_prompt,
}


def _openai_answer(answer: Answer) -> bool:
    choices = list(objects(answer.tree.get("choices")))
    for index, choice in enumerate(choices):
        message = choice.get("message")
        if not isinstance(message, dict):
            continue
        answer.slots += content_slots(message, "content")
        answer.calls += openai_calls(message)
        if index == 0:
            answer.reasoning = text_of(either(message, "reasoning_content", "reasoning"))
            answer.finish = Slot(choice, "finish_reason")
    return bool(choices)


def _anthropic_answer(answer: Answer) -> bool:
    blocks = answer.tree.get("content")
    if not isinstance(blocks, list):
        return False
    answer.slots += content_slots(answer.tree, "content")
    for block in objects(blocks):
        if block.get("type") == "tool_use":
            answer.calls.append(
                Call(
                    text_of(block.get("id")),
                    text_of(block.get("name")),
                    arguments_of(block.get("input")),
                    None,
                    blocks,
                    block,
                )
            )
    thinking = [text_of(block.get("thinking")) for block in objects(blocks) if block.get("type") == "thinking"]
    answer.reasoning = "\n\n".join(text for text in thinking if text)
    answer.finish = Slot(answer.tree, "stop_reason")
    return True


def _responses_answer(answer: Answer) -> bool:
    output = answer.tree.get("output")
    if not isinstance(output, list):
        return False
    reasoning: list[str] = []
    for item in objects(output):
        kind = item.get("type")
        if kind == "message":
            answer.slots += content_slots(item, "content")
        elif kind == "function_call":
            slot = Slot(item, "arguments") if isinstance(item.get("arguments"), str) else None
            answer.calls.append(
                Call(
                    text_of(item.get("call_id")),
                    text_of(item.get("name")),
                    arguments_of(item.get("arguments")),
                    slot,
                    output,
                    item,
                )
            )
        elif kind == "reasoning":
            reasoning += [text_of(part.get("text")) for part in objects(item.get("summary"))]
    answer.reasoning = "\n\n".join(text for text in reasoning if text)
    return True


def _google_answer(answer: Answer) -> bool:
    candidates = list(objects(answer.tree.get("candidates")))
    for index, candidate in enumerate(candidates):
        content = candidate.get("content")
        answer.slots += _google_parts(content)
        home = content.get("parts") if isinstance(content, dict) else None
        parts = list(objects(home))
        for at, part in enumerate(parts):
            call = _google_call(part, f"{index}.{at}")
            if call is not None:
                call.home, call.item = home, part
                answer.calls.append(call)
        if index == 0:
            thoughts = [text_of(part.get("text")) for part in parts if part.get("thought") is True]
            answer.reasoning = "\n\n".join(text for text in thoughts if text)
            answer.finish = Slot(candidate, "finishReason")
    return bool(candidates)


def _cohere_answer(answer: Answer) -> bool:
    message = answer.tree.get("message")
    if not isinstance(message, dict):  # of an error it is a text
        return False
    answer.slots += content_slots(message, "content")
    answer.calls += openai_calls(message)
    thoughts = [text_of(part.get("thinking")) for part in objects(message.get("content"))]
    answer.reasoning = "\n\n".join(text for text in (text_of(message.get("tool_plan")), *thoughts) if text)
    answer.finish = Slot(answer.tree, "finish_reason")
    return True


_ANSWERS = {
    OPENAI: _openai_answer,
    RESPONSES: _responses_answer,
    ANTHROPIC: _anthropic_answer,
    GOOGLE: _google_answer,
    COHERE: _cohere_answer,
}
