"""The wire format of Protocol Buffers, as far as the messages of the feed use it.

What lives here: varints and length-delimited fields, bytes in, bytes out. What must not: the messages (`messages`).
Unknown fields are skipped, as the format demands; the last of a repeated singular field wins.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10

Value = int | bytes


class Malformed(Exception):
    """Bytes that are no message."""


def varint(number: int) -> bytes:
    """A number that is not negative."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def delimited(field: int, data: bytes) -> bytes:
    """A field of bytes, text or a message; also an empty one."""
    return varint(field << 3 | DELIMITED) + varint(len(data)) + data


def text(field: int, value: str) -> bytes:
    """A text field; nothing for the empty text, which is the default."""
    return delimited(field, value.encode()) if value else b""


def number(field: int, value: int) -> bytes:
    """An integer or bool field; nothing for 0, which is the default."""
    return varint(field << 3 | VARINT) + varint(value) if value else b""


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    result = 0
    for index in range(_MAX_VARINT_BYTES):
        if at + index >= len(data):
            raise Malformed("a number is cut off")
        byte = data[at + index]
        result |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, at + index + 1
    raise Malformed("a number is too long")


def fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """The fields of a message in order: number and value. Raises Malformed."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        field, kind = key >> 3, key & 7
        if field == 0:
            raise Malformed("a field has the number 0")
        if kind == VARINT:
            value, at = _read_varint(data, at)
            yield field, value
            continue
        if kind == DELIMITED:
            size, at = _read_varint(data, at)
        elif kind == FIXED64:
            size = 8
        elif kind == FIXED32:
            size = 4
        else:
            raise Malformed(f"a field has the unknown kind {kind}")
        if at + size > len(data):
            raise Malformed("a field is cut off")
        if kind == DELIMITED:
            yield field, data[at : at + size]
        at += size


def members(data: bytes) -> dict[int, Value]:
    """The fields of a message without repeated ones, the last of each number."""
    return dict(fields(data))


def as_text(value: Value | None) -> str:
    """The text of a field; empty where it is absent or not of that kind. Raises Malformed for text that is no UTF-8."""
    if not isinstance(value, bytes):
        return ""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise Malformed("a text is not UTF-8") from error


def as_bytes(value: Value | None) -> bytes:
    return value if isinstance(value, bytes) else b""


def as_int(value: Value | None) -> int:
    """The number of an int64 field; 0 where it is absent."""
    if not isinstance(value, int):
        return 0
    return value - (1 << 64) if value >= 1 << 63 else value
