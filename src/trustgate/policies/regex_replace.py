"""Policy `regex_replace`: ordered RE2 substitutions on the prompt or on the answer (spec 04 §14.11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import re2

from trustgate.policies.durations import quote
from trustgate.policies.model import Effect, Mark, PolicyRequest, PolicyResponse, Run, stop
from trustgate.policies.plugin import REQUEST_BODY, RESPONSE_BODY, Binding, Environment, Plugin
from trustgate.policies.settings import SettingsError, options, setting
from trustgate.policies.texts import rewrite_answer, rewrite_prompt

PREFIX = "regex_replace: "
REASONS = {
    # the engine's words, and those of the existing TrustGate
    "bad repetition operator": "invalid nested repetition operator",
    "invalid named capture group": "invalid named capture",
    "invalid perl operator": "invalid or unsupported Perl syntax",
    "invalid repetition size": "invalid repeat count",
    "missing )": "missing closing )",
    "missing ]": "missing closing ]",
    "no argument for repetition operator": "missing argument to repetition operator",
    "trailing \\": "trailing backslash at end of expression",
}
UNANCHORED = re2._re2.RE2.Anchor.UNANCHORED


class ReplaceRule(msgspec.Struct, frozen=True, kw_only=True):
    pattern: Annotated[str, setting("Pattern", "RE2 expression.", required=True)] = ""
    replacement: Annotated[str, setting("Replacement", "Text; $1 or ${name} insert groups; empty deletes.")] = ""
    case_insensitive: Annotated[bool, setting("Case Insensitive", "Ignore case.", shown=False)] = False
    multiline: Annotated[bool, setting("Multiline", "Let ^ and $ match at line ends.", shown=False)] = False


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    target: Annotated[
        str, setting("Target", "Leg to rewrite.", required=True, options=options("request", "response"))
    ] = ""
    rules: Annotated[
        tuple[ReplaceRule, ...],
        setting(
            "Rules",
            "Applied in order, each on the result of the one before.",
            required=True,
            item=setting("Rule", key="rule"),
        ),
    ] = ()


def check(settings: Settings, environment: Environment | None = None) -> None:
    _compile(settings)


def _compile(settings: Settings) -> tuple[Substitution, ...]:
    if settings.target not in ("request", "response"):
        raise SettingsError(f"{PREFIX}target must be one of request, response: got {quote(settings.target)}")
    if not settings.rules:
        raise SettingsError(f"{PREFIX}at least one rule is required")
    return tuple(Substitution(index, rule) for index, rule in enumerate(settings.rules))


class Substitution:
    """One rule: a compiled RE2 expression and its replacement as literal bytes and group numbers."""

    def __init__(self, index: int, rule: ReplaceRule) -> None:
        if not rule.pattern:
            raise SettingsError(f"{PREFIX}rule pattern must not be empty: rule {index}")
        options_ = re2.Options()
        options_.log_errors = False
        flags = ("(?i)" if rule.case_insensitive else "") + ("(?m)" if rule.multiline else "")
        pattern = flags + rule.pattern
        try:
            regex = re2.compile(pattern.encode(), options_)
        except re2.error as error:
            raise SettingsError(f"{PREFIX}invalid regular expression: rule {index}: {_reason(error)}") from None
        names = {name.decode(): group for name, group in regex.groupindex.items()}
        self._template = parse_replacement(rule.replacement, names, regex.groups)
        # The wrapper around the engine costs several times a match; what it adds (characters) is not needed here.
        self._match: Callable[[Any, bytes, int, int], list[tuple[int, int]]] = regex._regexp.Match

    def apply(self, text: str) -> str:
        """Replace every match, from left to right. An empty match right behind another match is none."""
        source = text.encode(errors="surrogatepass")
        size = len(source)
        out: list[bytes] = []
        at = copied = 0
        while at <= size:
            spans = self._match(UNANCHORED, source, at, size)
            start, end = spans[0]
            if start < 0:
                break
            out.append(source[copied:start])
            if end > copied or start == 0:
                out += [
                    part if isinstance(part, bytes) else source[slice(*spans[part])] if spans[part][0] >= 0 else b""
                    for part in self._template
                ]
            copied = end
            step = at + _width(source, at)
            at = step if step > end else end
        if not out:
            return text
        out.append(source[copied:])
        return b"".join(out).decode(errors="surrogatepass")


def _reason(error: Exception) -> str:
    said = error.args[0]
    words, _, part = (said.decode(errors="replace") if isinstance(said, bytes) else str(said)).partition(": ")
    return f"error parsing regexp: {REASONS.get(words, words)}: `{part}`"


def _width(source: bytes, at: int) -> int:
    """Bytes of the UTF-8 character at `at`; 1 at the end."""
    lead = source[at] if at < len(source) else 0
    return 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


def parse_replacement(text: str, names: dict[str, int], groups: int) -> tuple[bytes | int, ...]:
    """Literal texts and group numbers of `$1`, `$name`, `${name}`, `$$`; unknown groups are left out.

    An unbraced name is the longest run of letters, digits and `_`; a `$` without a name stays.
    """
    parts: list[str | int] = []
    index, size = 0, len(text)
    while index < size:
        dollar = text.find("$", index)
        if dollar < 0:
            parts.append(text[index:])
            break
        parts.append(text[index:dollar])
        index = dollar + 1
        if text[index : index + 1] == "$":
            parts.append("$")
            index += 1
            continue
        braced = text[index : index + 1] == "{"
        start = end = index + 1 if braced else index
        while end < size and (text[end].isalnum() or text[end] == "_"):
            end += 1
        name = text[start:end]
        if not name or (braced and text[end : end + 1] != "}"):
            parts.append("$")
            continue
        index = end + 1 if braced else end
        group = int(name) if name.isascii() and name.isdigit() else names.get(name, -1)
        if 0 <= group <= groups:
            parts.append(group)
    return tuple(part if isinstance(part, int) else part.encode() for part in parts if part != "")


class RegexReplace:
    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        self._substitutions = _compile(settings)
        self._target = settings.target
        self._mode = binding.mode
        self._blocking = binding.blocking

    def _replace(self, text: str) -> str:
        for substitution in self._substitutions:
            text = substitution.apply(text)
        return text

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        if self._target != "request" or not request.provider:
            return None
        body = rewrite_prompt(request, lambda role, text: self._replace(text))
        self._report(mark, body is not None)
        return Effect(body=body) if body is not None and self._blocking else None

    async def pre_response(
        self, request: PolicyRequest, response: PolicyResponse, run: Run, mark: Mark
    ) -> Effect | None:
        if self._target != "response" or not request.provider or response.streaming:
            return None
        body = rewrite_answer(request, response.body, self._replace)
        self._report(mark, body is not None)
        return stop(response.status, body) if body is not None and self._blocking else None

    def _report(self, mark: Mark, changed: bool) -> None:
        decision = "no_match" if not changed else "rewritten" if self._blocking else "observed"
        mark.extras = {"target": self._target, "stage": mark.stage, "mode": self._mode, "decision": decision}
        if changed:
            mark.extras["changed"] = True
            if self._blocking:
                mark.decision = "rewritten"


PLUGIN = Plugin(
    slug="regex_replace",
    name="Regex Replace",
    description="Ordered regular-expression substitutions on the prompt or on the answer.",
    group="Guardrails",
    supported=("pre_request", "pre_response"),
    capabilities=frozenset((REQUEST_BODY, RESPONSE_BODY)),
    settings=Settings,
    check=check,
    build=RegexReplace,
    error_prefix=PREFIX,
)
