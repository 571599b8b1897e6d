"""Settings of a policy: one frozen Struct per plugin feeds decoding, validation messages and the catalog.

What lives here: `Setting` (the documentation of a member), lenient decoding of a JSON object into a Struct (spec 04
§10), and the catalog's form fields (spec 04 §11). What must not: rules of a single plugin (each plugin's `check`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from trustgate.policies.durations import parse_int


class SettingsError(ValueError):
    """Settings that a plugin refuses; the text is shown to the operator as it is."""


class Option(msgspec.Struct, frozen=True):
    """One value of an enumeration and its label."""

    value: str
    label: str


def options(*values: str, **labels: str) -> tuple[Option, ...]:
    """Options labelled by their words (`in_memory` -> `In Memory`); `labels` overrides single ones."""
    return tuple(Option(value, labels.get(value) or value.replace("_", " ").title()) for value in values)


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalog says of a member. A member without one is accepted but not shown (spec 04 §11).

    `kind` overrides the type derived from the annotation; `shown` is the default to show, UNSET for none; `item` and
    `value` document the elements of a list and the values of a map.
    """

    label: str
    description: str = ""
    kind: str = ""
    required: bool = False
    shown: Any = msgspec.UNSET
    options: tuple[Option, ...] = ()
    key: str = ""
    item: Setting | None = None
    value: Setting | None = None
    key_options: tuple[str, ...] = ()


def setting(label: str, description: str = "", **rest: Any) -> Setting:
    return Setting(label=label, description=description, **rest)


Absent: Any = None


class _Member(msgspec.Struct, frozen=True):
    name: str
    type: Any
    doc: Setting | None
    decode: Callable[[Any, str, list[str]], Any]


_NAMES = {"text": "text", "bool": "true or false", "int": "a whole number", "float": "a number"}


def _received(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "an object"
    return "a list"


def _wrong(path: str, kind: str, value: Any, errors: list[str]) -> None:
    errors.append(f'field "{path}" must be {kind} but received {_received(value)}')


def _unparsable(path: str, kind: str, errors: list[str]) -> None:
    errors.append(f'field "{path}" must be {kind}')


def _decode_int(value: Any, path: str, errors: list[str]) -> int:
    match value:
        case bool() | int() | float() if _fits_int64(value):
            return int(value)
        case str():
            try:
                return parse_int(value) if value else 0
            except ValueError:
                _unparsable(path, _NAMES["int"], errors)
        case _:
            _wrong(path, _NAMES["int"], value, errors)
    return 0


def _fits_int64(value: int | float) -> bool:
    return -(1 << 63) <= value < 1 << 63


_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def _decode_float(value: Any, path: str, errors: list[str]) -> float:
    """A finite number; texts in decimal notation only, without the blanks and `_` that Python would take."""
    match value:
        case "":
            return 0.0
        case bool() | int() | float() | str():
            if not isinstance(value, str) or _DECIMAL.fullmatch(value):
                with suppress(OverflowError):
                    number = float(value)
                    if math.isfinite(number):
                        return number
            _unparsable(path, _NAMES["float"], errors)
        case _:
            _wrong(path, _NAMES["float"], value, errors)
    return 0.0


def plain_number(value: int | float) -> str:
    """A number as plain decimal text without an exponent: `1`, `0.25`, `100000000000000000000`."""
    if isinstance(value, int):
        return str(value)
    if value == int(value):
        return str(int(value))
    return f"{Decimal(repr(value)):f}"


def _decode_text(value: Any, path: str, errors: list[str]) -> str:
    match value:
        case str():
            return value
        case bool():
            return "1" if value else "0"
        case int() | float():
            return plain_number(value)
        case _:
            _wrong(path, _NAMES["text"], value, errors)
    return ""


_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False", ""))


def _decode_bool(value: Any, path: str, errors: list[str]) -> bool:
    match value:
        case bool():
            return value
        case int() | float():
            return value != 0
        case str() if value in _TRUE:
            return True
        case str():
            if value not in _FALSE:
                _unparsable(path, _NAMES["bool"], errors)
        case _:
            _wrong(path, _NAMES["bool"], value, errors)
    return False


def _decode_any(value: Any, path: str, errors: list[str]) -> Any:
    return value


def _zero(kind: Any) -> Any:
    """What an absent list element or map value becomes."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind()
    return {int: 0, float: 0.0, str: "", bool: False}.get(kind)


def _list_decoder(item: Any) -> Callable[[Any, str, list[str]], Any]:
    inner = _decoder(item)

    def decode(value: Any, path: str, errors: list[str]) -> Any:
        if isinstance(value, Mapping) and not value:
            return ()
        elements = value if isinstance(value, list | tuple) else [value]
        return tuple(
            _zero(_bare(item)) if element is None else inner(element, f"{path}.{index}", errors)
            for index, element in enumerate(elements)
        )

    return decode


def _map_decoder(item: Any) -> Callable[[Any, str, list[str]], Any]:
    inner = _decoder(item)

    def decode(value: Any, path: str, errors: list[str]) -> Any:
        if isinstance(value, list | tuple) and not value:
            return {}
        if not isinstance(value, Mapping):
            _wrong(path, "an object", value, errors)
            return {}
        return {
            key: _zero(_bare(item)) if element is None else inner(element, f"{path}.{key}", errors)
            for key, element in value.items()
        }

    return decode


def _struct_decoder(kind: type[msgspec.Struct]) -> Callable[[Any, str, list[str]], Any]:
    def decode(value: Any, path: str, errors: list[str]) -> Any:
        if isinstance(value, list | tuple) and not value:
            value = {}
        if not isinstance(value, Mapping):
            _wrong(path, "an object", value, errors)
            return kind()
        return _decode_members(kind, value, path, errors)

    return decode


def _decode_members(kind: type[msgspec.Struct], value: Mapping[str, Any], path: str, errors: list[str]) -> Any:
    folded: dict[str, Any] | None = None
    found: dict[str, Any] = {}
    for member in members(kind):
        sent = value.get(member.name)
        if sent is None and member.name not in value:
            if folded is None:
                folded = {}
                for key, element in value.items():
                    folded.setdefault(key.lower(), element)
            sent = folded.get(member.name)
        if sent is not None:
            found[member.name] = member.decode(sent, f"{path}.{member.name}" if path else member.name, errors)
    return kind(**found)


def _bare(kind: Any) -> Any:
    """The type without `Annotated` and without `| None`."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    rest = [arg for arg in get_args(kind) if arg is not type(None)]
    if type(None) in get_args(kind) and len(rest) == 1:
        return rest[0]
    return kind


def _decoder(kind: Any) -> Callable[[Any, str, list[str]], Any]:
    kind = _bare(kind)
    origin = get_origin(kind)
    if origin is tuple:
        return _list_decoder(get_args(kind)[0])
    if origin is dict:
        return _map_decoder(get_args(kind)[1])
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _struct_decoder(kind)
    scalar = {int: _decode_int, float: _decode_float, str: _decode_text, bool: _decode_bool}
    return scalar.get(kind, _decode_any)


@cache
def members(kind: type[msgspec.Struct]) -> tuple[_Member, ...]:
    """The members of a settings Struct in their declared order."""
    hints = get_type_hints(kind, include_extras=True)
    found: list[_Member] = []
    for name in kind.__struct_fields__:
        hint = hints[name]
        doc = next((arg for arg in get_args(hint)[1:] if isinstance(arg, Setting)), None)
        found.append(_Member(name, _bare(hint), doc, _decoder(hint)))
    return tuple(found)


def decode(kind: type[msgspec.Struct], settings: Mapping[str, Any] | None) -> Any:
    """Decode leniently; raises `SettingsError` with all misfits in one text."""
    errors: list[str] = []
    decoded = _decode_members(kind, settings or {}, "", errors)
    if errors:
        raise SettingsError("invalid settings: " + "; ".join(errors))
    return decoded


def _catalog_type(kind: Any, doc: Setting) -> str:
    if doc.kind:
        return doc.kind
    if doc.options:
        return "enum"
    origin = get_origin(kind)
    if origin is tuple:
        return "array"
    if origin is dict:
        return "object" if get_args(kind)[1] is Any else "map"
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return "object"
    return {int: "integer", float: "number", str: "string", bool: "boolean"}[kind]


def _field(key: str, kind: Any, doc: Setting) -> dict[str, Any]:
    """One form field; the order of its keys is that of the catalog."""
    kind = _bare(kind)
    type_ = _catalog_type(kind, doc)
    field: dict[str, Any] = {"key": key, "label": doc.label, "type": type_}
    if doc.description:
        field["description"] = doc.description
    if doc.required:
        field["required"] = True
    if doc.shown is not msgspec.UNSET:
        field["default"] = doc.shown
    if doc.options:
        field["enum"] = [{"value": option.value, "label": option.label} for option in doc.options]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        field["fields"] = form(kind)
    if doc.key_options:
        field["key_options"] = list(doc.key_options)
    if type_ == "array":
        assert doc.item is not None, f"the elements of {key} are not documented"
        field["item"] = _field(doc.item.key, get_args(kind)[0], doc.item)
    if type_ == "map":
        assert doc.value is not None, f"the values of {key} are not documented"
        field["value"] = _field(doc.value.key, get_args(kind)[1], doc.value)
    return field


def form(kind: type[msgspec.Struct]) -> list[dict[str, Any]]:
    """The catalog's `fields` of a settings Struct."""
    return [_field(member.name, member.type, member.doc) for member in members(kind) if member.doc is not None]
