"""What one caller sees of a virtual MCP server: registries, toolkit, fail mode, version (spec 05 §5.3, §6). Pure.

The surface of an inline consumer is its own; that of a role_based one is the union of the caller's roles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from trustgate.domain.entities import ToolkitEntry
from trustgate.view.model import ConsumerView, RegistryView, RoleView

WILDCARD = "*"
PER_USER_MODES = frozenset({"passthrough", "exchange", "forwarded"})


class Surface(msgspec.Struct, frozen=True, kw_only=True):
    """The effective MCP registries in order. `toolkit` None allows everything, an empty one nothing."""

    registries: tuple[RegistryView, ...]
    toolkit: tuple[ToolkitEntry, ...] | None
    closed: bool
    """`fail_mode` is `closed`: one registry that fails, fails the whole."""

    def entries(self, registry_id: str, kind: str) -> tuple[ToolkitEntry, ...] | None:
        """The toolkit's entries of a kind (`tool`, `prompt`, `resource`) for a registry; None: everything."""
        if self.toolkit is None:
            return None
        return tuple(entry for entry in self.toolkit if entry.registry_id == registry_id and getattr(entry, kind))

    @property
    def version(self) -> str:
        """Twelve hex digits that change whenever the surface does."""
        parts = sorted(f"{registry.id}@{rfc3339(registry.updated_at)}" for registry in self.registries)
        parts += sorted(
            f"tk:{entry.registry_id}/{entry.tool}/{entry.prompt}/{entry.resource}/{entry.expose_as}"
            for entry in self.toolkit or ()
        )
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:12]


def rfc3339(moment: datetime) -> str:
    """UTC, the fraction without trailing zeros."""
    text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
    return text + "Z"


def mcp_only(registries: Iterable[RegistryView]) -> tuple[RegistryView, ...]:
    return tuple(registry for registry in registries if registry.mcp_target is not None)


def inline_surface(consumer: ConsumerView) -> Surface:
    """An empty toolkit of an inline consumer is no toolkit."""
    return Surface(
        registries=mcp_only(consumer.registries),
        toolkit=consumer.toolkit or None,
        closed=consumer.fail_mode == "closed",
    )


def role_surface(roles: tuple[RoleView, ...]) -> Surface:
    """The union of what roles grant, in role order, then registry id order."""
    registries: dict[str, RegistryView] = {}
    entries: dict[ToolkitEntry, None] = {}
    closed = False
    for role in roles:
        bound = mcp_only(role.registries)
        policies = role.entity.mcp_policies
        closed = closed or policies is None or policies.fail_mode != "open"
        registries |= {registry.id: registry for registry in bound if registry.id not in registries}
        if policies is None:
            granted = [entry for registry in bound for entry in everything(registry.id)]
        else:
            ids = {registry.id for registry in bound}
            granted = [entry for entry in policies.toolkit if entry.registry_id in ids]
        entries |= dict.fromkeys(granted)
    return Surface(registries=tuple(registries.values()), toolkit=tuple(entries), closed=closed)


def everything(registry_id: str) -> tuple[ToolkitEntry, ToolkitEntry, ToolkitEntry]:
    return (
        ToolkitEntry(registry_id, tool=WILDCARD),
        ToolkitEntry(registry_id, prompt=WILDCARD),
        ToolkitEntry(registry_id, resource=WILDCARD),
    )
