"""From upstream lists to the one list that a consumer sees: toolkit, aliases, collisions (spec 05 §6.2 to §6.4). Pure.

Upstream objects stay the bytes they are; only a `name` that changes is written anew.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import msgspec

from trustgate.domain.entities import ToolkitEntry
from trustgate.formats.json import set_members
from trustgate.mcp.surface import WILDCARD
from trustgate.view.model import RegistryView

_OUTSIDE = re.compile(r"[^A-Za-z0-9_-]+")


class Item(msgspec.Struct, frozen=True):
    """One tool, prompt, resource or template of an upstream: what identifies it, and its object as it came."""

    name: str
    raw: bytes


class Listing(msgspec.Struct, frozen=True, eq=False):
    """What one upstream listed; compared by identity, so that an answer made of it can be kept."""

    items: tuple[Item, ...] = ()


EMPTY = Listing()


class Exposed(msgspec.Struct, frozen=True):
    """An item under the name by which clients know it."""

    name: str
    registry: RegistryView
    item: Item


class Composition(msgspec.Struct, frozen=True):
    """The composed list: by exposed name, as the result of its list method, and the original names that the toolkit
    keeps back."""

    by_name: dict[str, Exposed]
    result: bytes
    excluded: frozenset[str]


def select(items: Sequence[Item], entries: tuple[ToolkitEntry, ...] | None, kind: str) -> list[tuple[str, Item]]:
    """The items of one registry that the toolkit grants, with their names before collisions.

    Named entries come first, in toolkit order; a wildcard adds what is left in upstream order.
    """
    by_name: dict[str, Item] = {}
    for item in items:
        by_name.setdefault(item.name, item)  # an upstream that repeats a name is heard once
    if entries is None:
        return list(by_name.items())
    chosen: dict[str, str] = {}
    wildcard = False
    for entry in entries:
        name = getattr(entry, kind)
        if name == WILDCARD:
            wildcard = True
        elif name in by_name and name not in chosen:
            chosen[name] = entry.expose_as or name
    found = [(exposed, by_name[name]) for name, exposed in chosen.items()]
    if wildcard:
        found += [pair for pair in by_name.items() if pair[0] not in chosen]
    return found


def prefix_of(registry: RegistryView) -> str:
    """What a registry's name makes of itself in front of a name that is taken."""
    return _OUTSIDE.sub("_", registry.name).strip("_") or f"reg_{registry.id[:8]}"


def expose(candidates: Sequence[tuple[str, RegistryView]]) -> list[str]:
    """Unique names for candidates in order. A name wanted once is kept, one wanted more often is kept by nobody."""
    wanted = Counter(name for name, _ in candidates)
    taken = {name for name, count in wanted.items() if count == 1}
    names: list[str] = []
    for name, registry in candidates:
        if wanted[name] > 1:
            name = _free_name(name, registry, taken)
            taken.add(name)
        names.append(name)
    return names


def _free_name(name: str, registry: RegistryView, taken: set[str]) -> str:
    prefix = prefix_of(registry)
    found = f"{prefix}_{name}"
    if found not in taken:
        return found
    found = base = f"{prefix}_{registry.id[:8]}_{name}"
    number = 2
    while found in taken:
        found = f"{base}_{number}"
        number += 1
    return found


def compose(
    parts: Sequence[tuple[RegistryView, Listing, tuple[ToolkitEntry, ...] | None]], kind: str, member: str
) -> Composition:
    """Tools or prompts of several registries as one list."""
    selected = [
        (name, registry, item)
        for registry, listing, entries in parts
        for name, item in select(listing.items, entries, kind)
    ]
    names = expose([(name, registry) for name, registry, _ in selected])
    by_name = {name: Exposed(name, registry, item) for name, (_, registry, item) in zip(names, selected, strict=True)}
    granted = {(registry.id, item.name) for _, registry, item in selected}
    excluded = frozenset(
        item.name for registry, listing, _ in parts for item in listing.items if (registry.id, item.name) not in granted
    )
    result = result_of(member, [renamed(exposed) for exposed in by_name.values()])
    return Composition(by_name, result, excluded - set(by_name))


def renamed(exposed: Exposed) -> bytes:
    """The upstream's object under the exposed name."""
    item = exposed.item
    return item.raw if exposed.name == item.name else set_members(item.raw, {"name": exposed.name})


def result_of(member: str, objects: Sequence[bytes]) -> bytes:
    """The result of a list method: everything on one page."""
    return b'{"%b":[%b]}' % (member.encode(), b",".join(objects))


def permits_uri(entries: tuple[ToolkitEntry, ...] | None, uri: str) -> bool:
    """Whether the toolkit's resource entries grant a URI: `*`, exactly it, or a prefix that ends in `*`."""
    if entries is None:
        return True
    return any(
        uri.startswith(entry.resource[:-1]) if entry.resource.endswith(WILDCARD) else entry.resource == uri
        for entry in entries
    )


def permits_template(entries: tuple[ToolkitEntry, ...] | None, template: str) -> bool:
    """Whether the toolkit grants a template: all of a registry are, if any of its resources is."""
    return entries is None or bool(entries)
