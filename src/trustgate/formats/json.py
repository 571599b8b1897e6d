"""JSON texts edited without touching what is not edited: number literals, member order and escapes survive.

`Raw` values are kept as text, trees keep the literal of every non-integer number. Nothing here knows a dialect.
Everything that is written is compact (no white space between tokens). Malformed input raises `DecodeError`,
including nesting beyond the interpreter's recursion limit. Half a surrogate pair, which is JSON but no character, and
bytes that are no UTF-8 are read as U+FFFD, integers of thousands of digits as decimal fractions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Raw

from .errors import DecodeError, NotAnObject

T = TypeVar("T")

_MALFORMED = (msgspec.DecodeError, UnicodeError, RecursionError, ValueError)


# Half of a surrogate pair: a first one that no second one follows, or a second one that follows no first one.
_HALVES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_INTEGER_DIGITS = 4300
"""Integers of more digits are not read (`sys.int_info.default_max_str_digits`), decimal fractions are."""
_OUT_OF_RANGE = "Integer value out of range"
_HUGE = re.compile(rb"[0-9]{%d}" % (_INTEGER_DIGITS + 1))
_TEXT_OR_INTEGER = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"?|(?<![0-9.eE+])[0-9]{%d,}+(?![.eE])' % (_INTEGER_DIGITS + 1), re.DOTALL
)
_VEIL = b"\x01\x01"
"""Stands for an escaped backslash, so that each backslash that is left begins an escape. No JSON text contains it."""


def _literal(text: str) -> Raw:
    return Raw(text.encode())


_encode = msgspec.json.Encoder().encode
_tree_decoder = msgspec.json.Decoder(float_hook=_literal)
_members_decoder = msgspec.json.Decoder(dict[str, Raw])


def encode(value: object) -> bytes:
    """Compact JSON of a tree, structs and `Raw` texts included. `Raw` texts are written as they are."""
    return _encode(value)


def text(value: object) -> str:
    """`encode` as text, for the members of a dialect that hold JSON inside a string."""
    return _encode(value).decode()


def mended(body: bytes) -> bytes | None:
    """A JSON text with U+FFFD for bytes that are no UTF-8 and for halves of a surrogate pair, and with an exponent of 0
    at integers that are too long; None when it has none of these.

    JavaScript clients write such halves when they cut a text inside an emoji. Many parsers take all three, so policies
    must not be blind to them.
    """
    whole = body
    try:
        body.decode()
    except UnicodeDecodeError:
        whole = body.decode(errors="replace").encode()
    if (b"\\ud" in whole or b"\\uD" in whole) and b"\x01" not in whole:
        whole = _HALVES.sub(rb"\\ufffd", whole.replace(b"\\\\", _VEIL)).replace(_VEIL, b"\\\\")
    if _HUGE.search(whole):
        whole = _TEXT_OR_INTEGER.sub(_fraction, whole)
    return None if whole == body else whole


def _fraction(found: re.Match[bytes]) -> bytes:
    said = found[0]
    return said if said[:1] == b'"' else said + b"e0"


def decode_with(decode: Callable[[bytes], T], body: bytes) -> T:
    """Runs a msgspec decoder and turns every way in which it can fail into `DecodeError`."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        if not str(error).startswith(_OUT_OF_RANGE):
            raise DecodeError(str(error)) from None
        problem: Exception = error
    except _MALFORMED as error:
        problem = error
    whole = mended(body)
    if whole is not None:
        try:
            return decode(whole)
        except _MALFORMED as error:
            problem = error
    raise DecodeError(_reason(problem)) from None


def _reason(problem: Exception) -> str:
    """What is told of a text that cannot be read: clients may see it."""
    if isinstance(problem, RecursionError):
        return "the value is nested too deeply"
    if isinstance(problem, UnicodeError):
        return "the text is not UTF-8"
    return str(problem)


def tree(body: bytes | Raw) -> Any:
    """The value as dicts, lists, strings, integers, booleans and None; other numbers are `Raw` literals."""
    return decode_with(_tree_decoder.decode, bytes(body))


def object_tree(body: bytes | Raw) -> dict[str, Any]:
    """`tree` of a JSON object; raises `NotAnObject` for every other value."""
    value = tree(body)
    if not isinstance(value, dict):
        raise NotAnObject("the JSON value is not an object")
    return cast("dict[str, Any]", value)


def members(body: bytes) -> dict[str, Raw]:
    """The members of a JSON object in their order, each as its own text. The last of equal keys counts."""
    try:
        return _members_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise NotAnObject(str(error)) from None
    except _MALFORMED:
        return decode_with(_members_decoder.decode, body)


def read_member(body: bytes, name: str) -> Raw | None:
    """The text of one member, None when it is absent. Raises `NotAnObject` (or `DecodeError`)."""
    return members(body).get(name)


def set_members(body: bytes, changes: Mapping[str, object]) -> bytes:
    """The object with members replaced in place or appended, compact; `Raw` values are inserted as JSON text."""
    edited: dict[str, object] = dict(members(body))
    edited.update(changes)
    return compact(_encode(edited))


def remove_members(body: bytes, names: Iterable[str]) -> bytes:
    """The object without the named members, compact; the original bytes when it has none of them."""
    edited = members(body)
    doomed = [name for name in names if name in edited]
    if not doomed:
        return body
    for name in doomed:
        del edited[name]
    return compact(_encode(edited))


def _format(body: bytes) -> bytes:
    return msgspec.json.format(body, indent=-1)


def compact(body: bytes | Raw) -> bytes:
    """The same JSON text without white space between tokens; literals and escapes stay as written."""
    return decode_with(_format, bytes(body))


def is_null(raw: Raw) -> bool:
    """Absent (an empty text) or `null`, which every dialect treats alike."""
    return not raw or bytes(raw) == b"null"


def raw_text(raw: bytes | Raw) -> str:
    """A JSON text as a string, for members that hold JSON inside a string. Raises `DecodeError` when it is no UTF-8."""
    try:
        return bytes(raw).decode()
    except UnicodeError as error:
        raise DecodeError(str(error)) from None


def number(raw: Raw) -> Raw | None:
    """A member that must be a number, literal kept; None for absent and null. Raises `DecodeError` for other types."""
    literal = bytes(raw)
    if not literal or literal == b"null":
        return None
    if literal[:1] not in b"-0123456789":
        raise DecodeError("expected a number")
    return raw


def is_object(literal: str) -> bool:
    """Whether a text is one complete JSON object."""
    if literal.lstrip()[:1] != "{":
        return False
    try:
        members(literal.encode("utf-8", "surrogatepass"))
    except DecodeError:
        return False
    return True


def object_or_empty(arguments: str) -> Raw:
    """Tool arguments as the JSON object a dialect wants: anything that is no object becomes `{}`."""
    literal = arguments.strip().encode("utf-8", "surrogatepass")
    if literal[:1] == b"{":
        try:
            members(literal)
            return Raw(compact(literal))
        except DecodeError:
            pass
    return Raw(b"{}")
