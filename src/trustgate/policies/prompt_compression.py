"""Policy `prompt_compression`: loss-free shrinking of prompt text (spec 04 §14.10).

Texts are changed in place, so whatever surrounds them survives. A body with members outside the documented structure
is still left alone (`skipped_lossy_roundtrip`), as clients of the existing TrustGate know it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from trustgate.formats import json as fj
from trustgate.formats.errors import DecodeError
from trustgate.policies.conversation import Prompt, Slot, text_of
from trustgate.policies.dialects import ANTHROPIC, OPENAI, format_of, read_prompt
from trustgate.policies.model import Effect, Headers, Mark, PolicyRequest, Run
from trustgate.policies.plugin import REQUEST_BODY, Binding, Plugin
from trustgate.policies.prompt_compression_settings import PREFIX, Settings, check

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\].*?(?:\x07|\x1b\\)", re.DOTALL)
_FENCE = re.compile(r"```json[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)

_MESSAGE = frozenset(("role", "content", "tool_calls", "tool_call_id"))
_PARTS = {"text": frozenset(("type", "text")), "tool_use": frozenset(("type", "id", "name", "input"))}
_CALL = frozenset(("id", "type", "function", "index"))
_CALL_FUNCTION = frozenset(("name", "arguments"))
_TOOL = frozenset(("type", "function"))
_TOOL_FUNCTION = frozenset(("name", "description", "parameters"))
_PLAIN_TOOL = frozenset(("name", "description", "input_schema"))
_CHOICE = frozenset(("type", "name", "function"))
_CHOICE_FUNCTION = frozenset(("name",))


def strip_ansi(text: str) -> str:
    """Without terminal escape sequences (CSI, and OSC up to its terminator)."""
    return _ANSI.sub("", text) if "\x1b" in text else text


def _compact(text: str) -> str:
    """The JSON text without white space between tokens, or `text` when it is not JSON or gets no shorter."""
    try:
        msgspec.json.decode(text)
        shorter = fj.compact(text.encode()).decode()
    except (msgspec.DecodeError, DecodeError, UnicodeError, RecursionError):
        return text
    return shorter if len(shorter) < len(text) else text


def compress_json(text: str) -> str:
    """A text that is JSON compacted, else each fenced JSON block of it."""
    stripped = text.strip()
    if len(stripped) >= 2 and stripped[0] in "{[":
        compact = _compact(stripped)
        if compact != stripped:
            return compact

    def fenced(match: re.Match[str]) -> str:
        inner = match.group(1)
        compact = _compact(inner)
        return match.group(0) if compact == inner else f"```json\n{compact}\n```"

    return _FENCE.sub(fenced, text) if "```json" in text else text


def normalize_whitespace(text: str, most_blank: int) -> str:
    """Trailing blanks cut (two are kept where a line ended in more: a hard break), runs of empty lines capped."""
    out: list[str] = []
    blank = 0
    for line in text.split("\n"):
        bare = line.rstrip(" \t")
        if bare:
            blank = 0
            out.append(bare + "  " if line.endswith("  ") else bare)
            continue
        blank += 1
        if blank <= most_blank:
            out.append("")
    return "\n".join(out)


class PromptCompression:
    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        check(settings)
        self._settings = settings
        self._blocking = binding.blocking
        self._mode = binding.mode
        self._roles = frozenset(role.strip().lower() for role in settings.target_roles)
        self._transforms = [
            name
            for name, on in (
                ("json", settings.compress_json),
                ("whitespace", settings.normalize_whitespace),
                ("ansi", settings.strip_ansi),
            )
            if on
        ]

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        body, settings = request.body, self._settings
        if not request.provider or not body:
            return None
        if settings.max_body_bytes and len(body) > settings.max_body_bytes:
            return self._skipped("skipped_too_large", mark)
        format_ = format_of(request)
        if format_ not in (OPENAI, ANTHROPIC):
            return self._skipped("skipped_unsupported_format", mark)
        prompt = read_prompt(format_, body)
        if prompt is None:
            return None
        if not well_known(prompt.tree):
            return self._skipped("skipped_lossy_roundtrip", mark)
        shrunk = self._shrink(prompt)
        if shrunk is None or len(shrunk) >= len(body):
            return self._skipped("no_change", mark)
        return self._shrunk(body, shrunk, mark)

    def _shrink(self, prompt: Prompt) -> bytes | None:
        changed = False
        for role, slots in [("system", prompt.system)] + [(turn.role, turn.slots) for turn in prompt.turns]:
            if self._roles and role not in self._roles:
                continue
            for slot in slots:
                changed |= self._change(slot)
        for turn in prompt.turns:
            for call in turn.calls if not self._roles or turn.role in self._roles else ():
                changed |= call.slot is not None and self._change_arguments(call.slot)
        return prompt.encode() if changed else None

    def _change(self, slot: Slot) -> bool:
        settings = self._settings
        text = slot.text
        if len(text.encode(errors="surrogatepass")) < settings.min_length:
            return False
        new = strip_ansi(text) if settings.strip_ansi else text
        if settings.compress_json:
            new = compress_json(new)
        if settings.normalize_whitespace:
            new = normalize_whitespace(new, settings.max_consecutive_blank_lines)
        slot.text = new
        return new != text

    def _change_arguments(self, slot: Slot) -> bool:
        text = slot.text
        if not self._settings.compress_json or len(text.encode()) < self._settings.min_length:
            return False
        slot.text = _compact(text)
        return slot.text != text

    def _skipped(self, decision: str, mark: Mark) -> Effect:
        mark.extras = self._extras(mark, decision)
        return Effect(headers=[("X-Prompt-Compression", decision)])

    def _shrunk(self, body: bytes, shrunk: bytes, mark: Mark) -> Effect:
        decision = "compressed" if self._blocking else "observed"
        ratio = len(shrunk) / len(body)
        mark.extras = self._extras(mark, decision) | {
            "bytes_in": len(body),
            "bytes_out": len(shrunk),
            "bytes_saved": len(body) - len(shrunk),
            "ratio": ratio,
        }
        headers: Headers = [
            ("X-Prompt-Compression", decision),
            ("X-Prompt-Compression-Saved", str(len(body) - len(shrunk))),
            ("X-Prompt-Compression-Ratio", f"{ratio:.4f}"),
        ]
        if not self._blocking:
            return Effect(headers=headers)
        mark.decision = decision
        return Effect(headers=headers, body=shrunk)

    def _extras(self, mark: Mark, decision: str) -> dict[str, Any]:
        return {"stage": mark.stage, "mode": self._mode, "decision": decision, "transforms": self._transforms}


def well_known(tree: dict[str, Any]) -> bool:
    """Whether messages, tools and the choice of one have only documented members."""
    messages, tools = tree.get("messages"), _listed(tree.get("tools"))
    if not isinstance(messages, list) or tools is None:
        return False
    for index, message in enumerate(messages):
        if not _only(message, _MESSAGE) or not _known_content(message.get("content")):
            return False
        if message.get("role") == "system" and index > 0:
            return False
        calls = _listed(message.get("tool_calls"))
        if calls is None:
            return False
        for call in calls:
            if not _only(call, _CALL) or not _only(call.get("function") or {}, _CALL_FUNCTION):
                return False
    return all(_known_tool(tool) for tool in tools) and _known_choice(tree.get("tool_choice"))


def _listed(value: Any) -> list[Any] | None:
    """A list; an absent one is empty, anything else is None."""
    return [] if value is None else value if isinstance(value, list) else None


def _only(value: Any, names: Iterable[str]) -> bool:
    return isinstance(value, dict) and value.keys() <= set(names)


def _known_content(content: Any) -> bool:
    if content is None or isinstance(content, str):
        return True
    return isinstance(content, list) and all(
        isinstance(part, dict) and _only(part, _PARTS.get(text_of(part.get("type")), frozenset())) for part in content
    )


def _known_tool(tool: Any) -> bool:
    return _only(tool, _PLAIN_TOOL) or (_only(tool, _TOOL) and _only(tool.get("function") or {}, _TOOL_FUNCTION))


def _known_choice(choice: Any) -> bool:
    if choice is None or isinstance(choice, str):
        return True
    return _only(choice, _CHOICE) and _only(choice.get("function") or {}, _CHOICE_FUNCTION)


PLUGIN = Plugin(
    slug="prompt_compression",
    name="Prompt Compression",
    description="Loss-free shrinking of prompt text (JSON, terminal escapes, white space).",
    group="Prompt Management",
    supported=("pre_request",),
    capabilities=frozenset((REQUEST_BODY,)),
    settings=Settings,
    check=check,
    build=PromptCompression,
    error_prefix=PREFIX,
)
