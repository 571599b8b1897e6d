"""The text that routing decisions are made on (spec 02 §7.5, prompt extraction). Pure."""

from __future__ import annotations

from typing import Any, cast

import msgspec


def prompt_of(body: bytes) -> str | None:
    """The last user text of a request in any client dialect, or None.

    `prompt`; else the last `messages` entry of role user with text; else the last message's text; Responses `input` and
    Gemini `contents` likewise. Multi-part content counts with its text parts, joined by line breaks.
    """
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    fields = cast("dict[str, Any]", document)
    prompt = fields.get("prompt")
    if isinstance(prompt, str) and prompt:
        return prompt
    if isinstance(fields.get("input"), str):
        return fields["input"] or None
    for name, part in (("messages", "content"), ("input", "content"), ("contents", "parts")):
        turns = fields.get(name)
        if isinstance(turns, list) and turns:
            return last_text([turn for turn in cast("list[Any]", turns) if isinstance(turn, dict)], part)
    return None


def last_text(turns: list[dict[str, Any]], part: str) -> str | None:
    for turn in reversed(turns):
        if turn.get("role", "user") == "user":
            text = text_of(turn.get(part))
            if text:
                return text
    return text_of(turns[-1].get(part)) if turns else None


def text_of(content: Any) -> str | None:
    if isinstance(content, str):
        return content if content.strip() else None
    if isinstance(content, list):
        texts = [item.get("text") for item in cast("list[Any]", content) if isinstance(item, dict)]
        joined = "\n".join(text for text in texts if isinstance(text, str) and text)
        return joined or None
    return None
