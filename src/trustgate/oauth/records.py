"""Records in shared state as any program may have written them: a member that is null is as good as absent. Pure."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


def decode(data: bytes, type_: type[T]) -> T:
    """Raises msgspec.DecodeError."""
    try:
        return msgspec.json.decode(data, type=type_)
    except msgspec.ValidationError:
        return msgspec.convert(without_nulls(msgspec.json.decode(data)), type_)


def without_nulls(value: Any) -> Any:
    """The value without the null members of its objects."""
    if isinstance(value, dict):
        return {name: without_nulls(member) for name, member in value.items() if member is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
