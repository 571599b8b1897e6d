"""What guard services answer, as JSON decoded into Structs. Nothing here knows a service.

A member that is null counts as absent, in objects and in lists: a service that writes out what it has no value for
must not have its verdict taken for something unreadable, which some policies let pass.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from trustgate.policies.plugin import HttpReply, PolicyError

T = TypeVar("T", bound=msgspec.Struct)


def read_reply(reply: HttpReply, kind: type[T], service: str) -> T:
    """The body as a `kind`; raises `PolicyError`, which names the service, when it is not one."""
    try:
        return msgspec.convert(_without_nulls(msgspec.json.decode(reply.body), kind), kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise PolicyError(f"{service} answered something that is not its JSON") from None


_SCALARS = (str, int, float, bool)


@cache
def _members(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return get_type_hints(kind)


def _without_nulls(value: Any, kind: Any) -> Any:
    """`value` as far as `kind` describes it; what it leaves open (`Any`) stays as it is."""
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {
            name: _without_nulls(value[name], hint)
            for name, hint in _members(kind).items()
            if value.get(name) is not None
        }
    if isinstance(value, list) and get_origin(kind) is list:
        (item,) = get_args(kind)
        if item in _SCALARS:  # vectors are long
            return [element for element in value if element is not None] if None in value else value
        return [_without_nulls(element, item) for element in value if element is not None]
    if isinstance(value, dict) and get_origin(kind) is dict:
        return {name: element for name, element in value.items() if element is not None}
    return value
