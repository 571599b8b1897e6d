"""Durations and whole numbers in the notation that settings use (spec 04 §13).

What lives here: parsing and printing, with the exact texts of the errors. All durations are whole nanoseconds.
"""

from __future__ import annotations

import re

NANOSECOND = 1
SECOND = 1_000_000_000
_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
_LIMIT = 1 << 63
_MOST_DIGITS = 19
"""Of a number below the limit. `int` refuses texts of thousands of digits."""

_ESCAPES = {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"}
_PART = re.compile(r"([0-9]*)(\.[0-9]*)?([^0-9.]*)")


def quote(text: str) -> str:
    """`text` in double quotes with the escapes of a string literal."""
    out = ['"']
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif not char.isprintable():
            code = ord(char)
            out.append(f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
        else:
            out.append(char)
    return "".join(out) + '"'


def _quoted(text: str) -> str:
    """`text` in double quotes as errors about durations show it: what is not plain ASCII as bytes."""
    plain = (
        char if " " <= char < "\x80" else "".join(f"\\x{byte:02x}" for byte in char.encode(errors="replace"))
        for char in text
    )
    return '"' + "".join("\\" + char if char in '"\\' else char for char in plain) + '"'


def parse_duration(text: str) -> int:
    """Nanoseconds of `90s`, `1h30m`, `1.5h`; a bare `0` is zero. Raises `ValueError` with the documented text."""
    invalid = ValueError(f"time: invalid duration {_quoted(text)}")
    rest = text
    negative = rest.startswith("-")
    if rest[:1] in ("-", "+"):
        rest = rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise invalid
    total = 0
    while rest:
        match = _PART.match(rest)
        assert match is not None
        whole, fraction, unit = match.group(1), match.group(2) or "", match.group(3)
        if not whole and len(fraction) < 2:
            raise invalid
        if not unit:
            raise ValueError(f"time: missing unit in duration {_quoted(text)}")
        if unit not in _UNITS:
            raise ValueError(f"time: unknown unit {_quoted(unit)} in duration {_quoted(text)}")
        if len(whole.lstrip("0")) > _MOST_DIGITS:
            raise invalid
        scale = _UNITS[unit]
        digits = fraction[1 : _MOST_DIGITS + 1]
        total += int(whole[-_MOST_DIGITS:] or 0) * scale + (int(digits) * scale // 10 ** len(digits) if digits else 0)
        if total > _LIMIT or (total == _LIMIT and not negative):
            raise invalid
        rest = rest[match.end() :]
    return -total if negative else total


def format_duration(nanoseconds: int) -> str:
    """`1h30m0s`, `1.5s`, `500ms`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    sign, value = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if value < SECOND:
        for unit, scale in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
            if value < scale * 1000:
                return f"{sign}{_decimal(value, scale)}{unit}"
    seconds_total, fraction = divmod(value, SECOND)
    minutes_total, seconds = divmod(seconds_total, 60)
    hours, minutes = divmod(minutes_total, 60)
    text = f"{_decimal(seconds * SECOND + fraction, SECOND)}s"
    if minutes_total:
        text = f"{minutes}m{text}"
    if hours:
        text = f"{hours}h{text}"
    return sign + text


def _decimal(value: int, scale: int) -> str:
    whole, rest = divmod(value, scale)
    if not rest:
        return str(whole)
    width = len(str(scale)) - 1
    return f"{whole}.{rest:0{width}d}".rstrip("0")


_INT = re.compile(r"[+-]?(0[xX](_?[0-9a-fA-F])+|0[bB](_?[01])+|0[oO](_?[0-7])+|0(_?[0-7])+|[1-9](_?[0-9])*|0)")


def parse_int(text: str) -> int:
    """A 64-bit whole number with an optional base prefix (`0x10`, `0b1`, `0o7`, `017`). Raises `ValueError`."""
    if not _INT.fullmatch(text):
        raise ValueError(text)
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    bare = digits.replace("_", "")
    if len(bare) > 1 and bare[0] == "0" and bare[1] in "01234567":
        bare = "0o" + bare[1:]
    number = sign * int(bare, 0)
    if not -_LIMIT <= number < _LIMIT:
        raise ValueError(text)
    return number


LONGEST_WINDOW_S = 10_000_000_000
"""Three centuries: the life of a counter in milliseconds must stay far inside 64 bits."""

_WINDOW_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_window(text: str) -> int:
    """Seconds of a budget's `time_window` (`30m`, `1d`), at least 60. Raises `ValueError` with the documented text."""
    bare = text.strip().lower()
    invalid = f"invalid time_window {quote(text)}"
    if len(bare) < 2:
        raise ValueError(invalid)
    number, unit = bare[:-1], bare[-1]
    if unit not in _WINDOW_UNITS:
        raise ValueError(f"{invalid}: unit must be one of s, m, h, d")
    if not re.fullmatch(r"[+-]?[0-9]+", number):
        raise ValueError(f"{invalid}: strconv.Atoi: parsing {quote(number)}: invalid syntax")
    # Digits past the range of 64 bits are not even counted: `int` refuses texts of thousands of them.
    count = int(number) if len(number) < 1000 else _LIMIT
    if not -_LIMIT <= count < _LIMIT:
        raise ValueError(f"{invalid}: strconv.Atoi: parsing {quote(number)}: value out of range")
    if count <= 0:
        raise ValueError(f"{invalid}: must be positive")
    return max(60, min(count * _WINDOW_UNITS[unit], LONGEST_WINDOW_S))
