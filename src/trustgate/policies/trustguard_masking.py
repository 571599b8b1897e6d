"""Putting TrustGuard's masked text back where the inspected text came from (spec 04 §14.15, masking)."""

from __future__ import annotations

from typing import Any

from trustgate.formats import json as fj
from trustgate.formats.errors import DecodeError
from trustgate.policies.conversation import Answer, Prompt, Slot
from trustgate.policies.holdback import Said
from trustgate.policies.trustguard_payload import leaves, mcp_texts

NO_PAYLOAD = "transform_no_payload"
UNSUPPORTED_PATH = "transform_unsupported_path"
ENCODE_FAILED = "transform_encode_failed"


class MaskingFailed(Exception):
    """The masked text cannot be put back; the text is the `degraded_reason`."""


def masked_text(payload: Any) -> str:
    """`input`, or the non-blank contents of `messages` joined by line feeds. Raises `MaskingFailed`."""
    if isinstance(payload, dict):
        if isinstance(payload.get("input"), str):
            return payload["input"]
        messages = payload.get("messages")
        contents = [
            message["content"]
            for message in (messages if isinstance(messages, list) else ())
            if isinstance(message, dict) and isinstance(message.get("content"), str) and message["content"].strip()
        ]
        if contents:
            return "\n".join(contents)
    raise MaskingFailed(NO_PAYLOAD)


def mask_prompt(prompt: Prompt, payload: Any) -> bytes:
    """The request with its inspected texts masked, line by line."""
    text = masked_text(payload)
    system = [slot for slot in prompt.system if slot.text] if prompt.system_text.strip() else []
    slots = list(system)
    for turn in prompt.turns:
        if turn.text.strip():
            slots += [slot for slot in turn.slots if slot.text]
    if not slots:
        raise MaskingFailed(UNSUPPORTED_PATH)
    # The system prompt is shown trimmed, so what was trimmed is put around it again.
    lead = tail = ""
    if system:
        first, last = system[0].text, system[-1].text
        lead, tail = first[: len(first) - len(first.lstrip())], last[len(last.rstrip()) :]
        system[0].text = system[0].text.lstrip()
        system[-1].text = system[-1].text.rstrip()
    _by_lines([(slot.holder, slot.key) for slot in slots], text)
    if system:
        system[0].text = lead + system[0].text
        system[-1].text += tail
    return prompt.encode()


def mask_answer(answer: Answer, payload: Any) -> bytes:
    """The answer with its text masked."""
    text = masked_text(payload)
    slots = [slot for slot in answer.slots if slot.text]
    if not slots:
        raise MaskingFailed(UNSUPPORTED_PATH)
    try:
        _by_lines([(slot.holder, slot.key) for slot in slots], text)
    except MaskingFailed:
        _all_into_first(slots, text)
    return answer.encode()


def _all_into_first(slots: list[Slot], text: str) -> None:
    slots[0].text = text
    for slot in slots[1:]:
        slot.text = ""


def mask_stream(said: list[Said], payload: Any) -> None:
    """What is held of a stream with its texts masked: of one answer the whole text, of several line by line."""
    text = masked_text(payload)
    spoken = [answer for answer in said if answer.text]
    if not spoken:
        raise MaskingFailed(UNSUPPORTED_PATH)
    if len(spoken) == 1:
        spoken[0].replace(text)
        return
    texts: list[Any] = [answer.text for answer in spoken]
    _by_lines([(texts, index) for index in range(len(texts))], text)
    for answer, masked in zip(spoken, texts, strict=True):
        answer.replace(masked)


def mask_tool_call(body: bytes, payload: Any) -> bytes:
    """The tool call with masked arguments; its name is never changed."""
    call = _object(body)
    params = payload.get("params") if isinstance(payload, dict) else None
    if isinstance(params, dict) and "arguments" in params:
        return fj.set_members(body, {"arguments": params["arguments"]})
    lines = masked_text(payload).split("\n")
    places = leaves(call, "arguments") if "arguments" in call else []
    if not places:
        raise MaskingFailed(UNSUPPORTED_PATH)
    named = str(call.get("name", "")).count("\n") + 1
    _by_lines(places, "\n".join(lines[named:]))
    return fj.encode(call)


def mask_tool_result(body: bytes, payload: Any) -> bytes:
    """The tool result with masked texts."""
    result = _object(body)
    if isinstance(payload, dict) and "result" in payload:
        return fj.encode(payload["result"])
    text = masked_text(payload)
    places = mcp_texts(result)
    if not places:
        raise MaskingFailed(UNSUPPORTED_PATH)
    _by_lines(places, text)
    return fj.encode(result)


def _object(body: bytes) -> dict[str, Any]:
    try:
        return fj.object_tree(body)
    except DecodeError:
        raise MaskingFailed(UNSUPPORTED_PATH) from None


def _by_lines(places: list[tuple[Any, Any]], text: str) -> None:
    """Hand the lines of `text` out, to each place as many as it has; raises when the totals differ."""
    lines = text.split("\n")
    counts = [holder[key].count("\n") + 1 for holder, key in places]
    if sum(counts) != len(lines):
        raise MaskingFailed(ENCODE_FAILED)
    at = 0
    for (holder, key), count in zip(places, counts, strict=True):
        holder[key] = "\n".join(lines[at : at + count])
        at += count
