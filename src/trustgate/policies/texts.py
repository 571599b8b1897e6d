"""The text that guards look at and rewriters change (spec 04 §13): prompt text, answer text, edits in place."""

from __future__ import annotations

from collections.abc import Callable

from trustgate.policies.conversation import Answer, Prompt
from trustgate.policies.dialects import format_of, read_answer, read_prompt
from trustgate.policies.model import PolicyRequest


def prompt_of(request: PolicyRequest) -> Prompt | None:
    return read_prompt(format_of(request), request.body)


def answer_of(request: PolicyRequest, body: bytes) -> Answer | None:
    return read_answer(format_of(request), body)


def prompt_text(prompt: Prompt) -> str:
    """System prompt, then each message's text, blank ones left out, joined by line feeds."""
    texts = [prompt.system_text, *(turn.text for turn in prompt.turns)]
    return "\n".join(text for text in texts if text.strip())


def rewrite_prompt(request: PolicyRequest, change: Callable[[str, str], str]) -> bytes | None:
    """The body with `change(role, text)` applied to each text; None when nothing changed or it is no chat request."""
    prompt = prompt_of(request)
    if prompt is None:
        return None
    changed = False
    for role, slot in [("system", slot) for slot in prompt.system] + [
        (turn.role, slot) for turn in prompt.turns for slot in turn.slots
    ]:
        text = slot.text
        new = change(role, text)
        if new != text:
            slot.text = new
            changed = True
    return prompt.encode() if changed else None


def rewrite_answer(request: PolicyRequest, body: bytes, change: Callable[[str], str]) -> bytes | None:
    """The answer with `change(text)` applied to each of its texts; None when nothing changed."""
    answer = answer_of(request, body)
    if answer is None:
        return None
    changed = False
    for slot in answer.slots:
        text = slot.text
        new = change(text)
        if new != text:
            slot.text = new
            changed = True
    return answer.encode() if changed else None
