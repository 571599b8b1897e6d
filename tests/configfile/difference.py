"""What differs between two states of a gateway, member by member."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from trustgate.domain.entities import GatewayState

COLLECTIONS = ("registries", "consumers", "auths", "policies", "roles")


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One member that differs. `kind` and `id` name the object; `path` is empty where the whole object came or went."""

    kind: str
    id: str
    path: str = ""
    before: Any = None
    after: Any = None


def diff(before: GatewayState, after: GatewayState) -> list[Change]:
    """The changes from `before` to `after`, objects in the order of `COLLECTIONS`, the gateway first."""
    changes: list[Change] = []
    if before.gateway is not after.gateway:
        gateway = before.gateway or after.gateway
        _compare(changes, "gateway", gateway.id if gateway else "", before.gateway, after.gateway)
    for kind in COLLECTIONS:
        old: dict[str, Any] = getattr(before, kind)
        new: dict[str, Any] = getattr(after, kind)
        for id_ in sorted(old.keys() | new.keys()):
            if old.get(id_) is not new.get(id_):
                _compare(changes, kind, id_, old.get(id_), new.get(id_))
    return changes


def _compare(changes: list[Change], kind: str, id_: str, before: Any, after: Any) -> None:
    old, new = msgspec.to_builtins(before), msgspec.to_builtins(after)
    if old is None or new is None:
        if old is not new:
            changes.append(Change(kind, id_, "", old, new))
        return
    for path, left, right in _members("", old, new):
        changes.append(Change(kind, id_, path, left, right))


def _members(path: str, old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for name in sorted(old.keys() | new.keys()):
        left, right, here = old.get(name), new.get(name), f"{path}.{name}" if path else name
        if left == right and (name in old) == (name in new):
            continue
        if isinstance(left, dict) and isinstance(right, dict) and "$secret" not in left and "$secret" not in right:
            found += _members(here, cast("dict[str, Any]", left), cast("dict[str, Any]", right))
        else:
            found.append((here, cast("Any", left), cast("Any", right)))
    return found
