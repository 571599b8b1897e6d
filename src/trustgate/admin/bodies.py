"""Request bodies: from bytes to an input Struct by the parsing rules of spec 01 §1.2.

What lives here: content type, content coding, JSON and its binding to Structs. What must not: rules about values (the
domain's). Binding is done here rather than by msgspec because member names match in any case, the last of duplicate
members wins (whatever its spelling) and an explicit null means absent.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import brotli
import msgspec
from msgspec import inspect

from trustgate.domain.errors import invalid_body
from trustgate.formats.nesting import too_deep

T = TypeVar("T")
Converter = Callable[[Any], Any]

MAX_CODINGS = 3
MAX_DEPTH = 100
"""Objects and lists inside each other. Whoever reads a stored value walks down all of it, and the stack has an end."""
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


class BodyTooLarge(Exception):
    """The decompressed body exceeds the limit (413)."""


class _Invalid(Exception):
    """The body is not what the input Struct asks for."""


class _Members(list[tuple[str, Any]]):
    """A JSON object as it was written: members in order, duplicates included."""


def read_body(data: bytes, content_type: str | None, content_encoding: str | None, into: type[T], limit: int) -> T:
    """The body as a Struct of type `into`; absent and null members are left at the Struct's defaults.

    Raises `DomainError` (422 invalid request body), or `BodyTooLarge` when it inflates beyond `limit` bytes.
    """
    if not is_json(content_type):
        raise invalid_body()
    try:
        value = _parse(decompress(data, content_encoding, limit))
        return _converter(into)({} if value is None else value)
    except _Invalid:
        raise invalid_body() from None


def is_json(content_type: str | None) -> bool:
    """Whether the media type's subtype ends in `json`; parameters don't count."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    return media_type.endswith("json") and "/" in media_type


def decompress(data: bytes, content_encoding: str | None, limit: int) -> bytes:
    """Undoes the codings of a Content-Encoding header, last applied first, never holding more than `limit` bytes."""
    codings = [coding.strip().lower() for coding in (content_encoding or "").split(",")]
    codings = [coding for coding in codings if coding and coding != "identity"]
    if len(codings) > MAX_CODINGS:
        raise _Invalid
    for coding in reversed(codings):
        match coding:
            case "gzip" | "x-gzip":
                data = _inflate(data, 31, limit)
            case "deflate":
                # Clients send either the zlib format of RFC 9110 or, by an old mistake, the bare stream.
                wrapped = len(data) >= 2 and data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
                data = _inflate(data, 15 if wrapped else -15, limit)
            case "br":
                data = _unbrotli(data, limit)
            case _:
                raise _Invalid
    return data


def _inflate(data: bytes, window_bits: int, limit: int) -> bytes:
    inflater = zlib.decompressobj(window_bits)
    try:
        plain = inflater.decompress(data, limit + 1)
    except zlib.error:
        raise _Invalid from None
    if len(plain) > limit:
        raise BodyTooLarge
    if not inflater.eof:
        raise _Invalid
    return plain


def _unbrotli(data: bytes, limit: int) -> bytes:
    decoder = brotli.Decompressor()
    plain = bytearray()
    try:
        plain += decoder.process(data, output_buffer_limit=limit + 1)
        while not decoder.is_finished() and not decoder.can_accept_more_data() and len(plain) <= limit:
            plain += decoder.process(b"", output_buffer_limit=limit + 1 - len(plain))
    except brotli.error:
        raise _Invalid from None
    if len(plain) > limit:
        raise BodyTooLarge
    if not decoder.is_finished():
        raise _Invalid
    return bytes(plain)


def _parse(data: bytes) -> Any:
    try:
        value = json.loads(
            data.decode("utf-8", "replace"), object_pairs_hook=_Members, parse_float=_float, parse_constant=_constant
        )
    except (ValueError, RecursionError):
        raise _Invalid from None
    if too_deep(data, MAX_DEPTH):
        raise _Invalid
    # Only an escape can bring U+0000 or a lone surrogate into a string; most bodies have none.
    return _clean(value) if b"\\u" in data else value


def _float(literal: str) -> float:
    number = float(literal)
    if math.isinf(number):
        raise _Invalid
    return number


def _constant(literal: str) -> Any:
    raise _Invalid  # NaN and infinities are not JSON


def _clean(value: Any) -> Any:
    """Refuses U+0000 and replaces lone surrogates, in strings and member names."""
    if isinstance(value, str):
        if "\0" in value:
            raise _Invalid
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, _Members):
        return _Members((_clean(name), _clean(item)) for name, item in value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value


def _free(value: Any) -> Any:
    """A free-form value as plain JSON; a fraction without a fractional part is an integer (`1.0` comes back as `1`)."""
    if isinstance(value, _Members):
        return {name: _free(item) for name, item in value}
    if isinstance(value, list):
        return [_free(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    return value


def _converter(into: Any) -> Converter:
    return _compiled(into)


@lru_cache(maxsize=256)
def _compiled(into: Any) -> Converter:
    return _convert_type(inspect.type_info(into))


def _convert_type(info: inspect.Type) -> Converter:
    match info:
        case inspect.StructType(cls=cls):
            return _struct(cls, info.fields)
        case inspect.UnionType(types=types):
            return _union(types)
        case inspect.StrType():
            return _exactly(str)
        case inspect.BoolType():
            return _exactly(bool)
        case inspect.IntType():
            return _int
        case inspect.FloatType():
            return _number
        case inspect.LiteralType():
            return _exactly(str)
        case inspect.ListType(item_type=item):
            return _sequence(_convert_type(item), _zero(item), list)
        case inspect.VarTupleType(item_type=item):
            return _sequence(_convert_type(item), _zero(item), tuple)
        case inspect.DictType(value_type=value):
            return _mapping(_convert_type(value), _zero(value))
        case inspect.AnyType():
            return _free
        case inspect.RawType():
            return lambda value: msgspec.Raw(msgspec.json.encode(_free(value)))
        case _:
            raise TypeError(f"request bodies can't bind to {info}")


def _zero(info: inspect.Type) -> Callable[[], Any]:
    """What a null inside an array or map stands for: the zero value of its type."""
    match info:
        case inspect.StrType() | inspect.LiteralType():
            return str
        case inspect.BoolType():
            return bool
        case inspect.IntType():
            return int
        case inspect.FloatType():
            return float
        case inspect.StructType(cls=cls):
            return lambda: _converter(cls)(_Members())
        case inspect.ListType():
            return list
        case inspect.VarTupleType():
            return tuple
        case inspect.DictType():
            return dict
        case _:
            return lambda: None


def _struct(cls: type[msgspec.Struct], fields: tuple[inspect.Field, ...]) -> Converter:
    by_name = {field.encode_name.lower(): (field.name, field.type) for field in fields}
    compiled: dict[str, Converter] = {}  # filled on first use, so that a Struct may contain itself

    def convert(value: Any) -> Any:
        if not isinstance(value, (_Members, dict)):
            raise _Invalid
        members: dict[str, Any] = {}
        for name, item in value if isinstance(value, _Members) else value.items():
            found = by_name.get(name.lower())
            if found is None:
                continue
            field, info = found
            if item is None:
                # Decoding null into a member leaves what an earlier duplicate has set.
                continue
            if field not in compiled:
                compiled[field] = _convert_type(info)
            members[field] = compiled[field](item)
        return cls(**members)

    return convert


def _union(types: tuple[inspect.Type, ...]) -> Converter:
    real = [kind for kind in types if not isinstance(kind, inspect.NoneType)]
    converters = [_convert_type(kind) for kind in real]
    if len(converters) == 1:
        return converters[0]

    def convert(value: Any) -> Any:
        for converter in converters:
            try:
                return converter(value)
            except _Invalid:
                continue
        raise _Invalid

    return convert


def _exactly(kind: type) -> Converter:
    def convert(value: Any) -> Any:
        if type(value) is not kind:
            raise _Invalid
        return value

    return convert


def _int(value: Any) -> int:
    if type(value) is not int or not INT64_MIN <= value <= INT64_MAX:
        raise _Invalid
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise _Invalid
    try:
        return float(value)
    except OverflowError:
        raise _Invalid from None


def _sequence(convert_item: Converter, zero: Callable[[], Any], kind: type) -> Converter:
    def convert(value: Any) -> Any:
        if not isinstance(value, list) or isinstance(value, _Members):
            raise _Invalid
        return kind(zero() if item is None else convert_item(item) for item in value)

    return convert


def _mapping(convert_value: Converter, zero: Callable[[], Any]) -> Converter:
    def convert(value: Any) -> Any:
        if not isinstance(value, _Members):
            raise _Invalid
        return {name: zero() if item is None else convert_value(item) for name, item in value}

    return convert
