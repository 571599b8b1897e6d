"""From claims to roles: `oidc_mapping` (spec 02 §4.3, spec 05 §5.1). Pure."""

from __future__ import annotations

from typing import Any, cast

from trustgate.view.model import RoleView

SCOPE_CLAIMS = frozenset({"scope", "scp", "scopes"})


class BadMapping(Exception):
    """A stored mapping that cannot be read; the message is shown to the client."""


def values_at(claims: dict[str, Any], path: str) -> list[str] | None:
    """The claim's strings, or None when it is absent or of another kind.

    A name that contains dots is tried as one literal key before it is walked. A string under a scope claim is split.
    """
    found: Any = claims.get(path)
    if found is None:
        found = claims
        for part in path.split("."):
            if not isinstance(found, dict):
                return None
            found = cast("dict[str, Any]", found).get(part)
    if isinstance(found, str):
        return found.split() if path.rsplit(".", 1)[-1] in SCOPE_CLAIMS else [found]
    if isinstance(found, list):
        return [item for item in cast("list[Any]", found) if isinstance(item, str)] or None
    return None


def holds(claim: dict[str, Any], claims: dict[str, Any]) -> bool:
    """Whether one condition of a mapping holds. Raises BadMapping."""
    path, operator, listed = claim.get("path"), claim.get("op"), claim.get("values")
    if not isinstance(path, str) or not path.strip():
        raise BadMapping("oidc_mapping.claims.path is invalid")
    if not isinstance(listed, list):
        raise BadMapping("oidc_mapping.claims.values is required")
    wanted = {item.strip() for item in cast("list[Any]", listed) if isinstance(item, str) and item.strip()}
    held = values_at(claims, path.strip())
    match operator:
        case "equals":
            return held is not None and len(held) == 1 and held[0] in wanted
        case "contains_any":
            return held is not None and not wanted.isdisjoint(held)
        case "contains_all":
            return held is not None and wanted.issubset(held)
        case _:
            raise BadMapping("oidc_mapping.claims.op is invalid")


def matches(mapping: dict[str, Any], claims: dict[str, Any]) -> bool:
    """Whether the claims satisfy a mapping. Raises BadMapping."""
    how, conditions = mapping.get("match"), mapping.get("claims")
    if how not in ("any", "all"):
        raise BadMapping("oidc_mapping.match must be any or all")
    if not isinstance(conditions, list) or not conditions:
        raise BadMapping("oidc_mapping.claims is required")
    results: list[bool] = []
    for condition in cast("list[Any]", conditions):
        if not isinstance(condition, dict):
            raise BadMapping("oidc_mapping")
        results.append(holds(cast("dict[str, Any]", condition), claims))
    return any(results) if how == "any" else all(results)


def effective_roles(
    gateway_roles: tuple[RoleView, ...], assigned: tuple[RoleView, ...], claims: dict[str, Any]
) -> tuple[RoleView, ...]:
    """Matched roles that the consumer has, in gateway role order. Any role's bad mapping raises BadMapping."""
    names = {role.id for role in assigned}
    matched = [role for role in gateway_roles if role.entity.oidc_mapping and matches(role.entity.oidc_mapping, claims)]
    return tuple(role for role in matched if role.id in names)
