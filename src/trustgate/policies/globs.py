"""The two kinds of name patterns (spec 04 §13): model globs know only `*`, tool globs are shell patterns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache


class PatternError(ValueError):
    """A malformed tool pattern; the text is `syntax error in pattern`."""

    def __init__(self) -> None:
        super().__init__("syntax error in pattern")


@lru_cache(4096)
def _model_regex(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)


def model_matches(pattern: str, model: str) -> bool:
    """Whole-name match; `*` is any run, everything else is literal. Case-sensitive."""
    if "*" not in pattern:
        return pattern == model
    return _model_regex(pattern).fullmatch(model) is not None


def best_model_match(patterns: Iterable[str], model: str) -> str | None:
    """The exact key, else the matching pattern with most literal characters, ties to the smallest."""
    best: str | None = None
    for pattern in patterns:
        if pattern == model:
            return pattern
        if "*" not in pattern or not model_matches(pattern, model):
            continue
        if best is None or (-_literals(pattern), pattern) < (-_literals(best), best):
            best = pattern
    return best


def _literals(pattern: str) -> int:
    return len(pattern) - pattern.count("*")


def tool_pattern(pattern: str) -> Callable[[str], bool]:
    """Compile a shell pattern over a whole tool name: `*`, `?`, `[a-z]`, `[^a]`, `\\x`. Raises `PatternError`."""
    regex = re.compile(_tool_regex(pattern), re.DOTALL)
    return lambda name: regex.fullmatch(name) is not None


def _tool_regex(pattern: str) -> str:
    out: list[str] = []
    index, size = 0, len(pattern)
    while index < size:
        char = pattern[index]
        index += 1
        if char == "*":
            out.append(".*")
        elif char == "?":
            out.append(".")
        elif char == "[":
            text, index = _char_class(pattern, index)
            out.append(text)
        elif char == "\\":
            if index == size:
                raise PatternError
            out.append(re.escape(pattern[index]))
            index += 1
        else:
            out.append(re.escape(char))
    return "".join(out)


def _char_class(pattern: str, index: int) -> tuple[str, int]:
    """The class that starts after `[` at `index`, as a regular expression, and the index behind its `]`."""
    size = len(pattern)
    negated = index < size and pattern[index] == "^"
    if negated:
        index += 1
    ranges: list[tuple[str, str]] = []

    def one(at: int) -> tuple[str, int]:
        if at >= size or pattern[at] in "-]":
            raise PatternError
        if pattern[at] == "\\":
            at += 1
            if at >= size:
                raise PatternError
        if at + 1 >= size:
            raise PatternError
        return pattern[at], at + 1

    while True:
        if index < size and pattern[index] == "]" and ranges:
            index += 1
            break
        low, index = one(index)
        high = low
        if pattern[index] == "-":
            high, index = one(index + 1)
        ranges.append((low, high))
    usable = [(low, high) for low, high in ranges if low <= high]
    if not usable:
        return (r"[\s\S]" if negated else r"(?!)"), index
    body = "".join(f"{re.escape(low)}-{re.escape(high)}" for low, high in usable)
    return f"[{'^' if negated else ''}{body}]", index
