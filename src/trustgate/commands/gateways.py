"""Naming a gateway on the command line: by its id, or by a slug that it has."""

from __future__ import annotations

from trustgate.actors import projection as pj
from trustgate.admin.ids import parse_uuid
from trustgate.domain.directory import fold_directory
from trustgate.domain.errors import DomainError
from trustgate.store import DIRECTORY, EventStore


async def gateway_id_of(store: EventStore, name: str) -> str:
    """The id of a gateway; also of a deleted one, by its id. Raises `DomainError` for a slug that nobody has."""
    if (id_ := parse_uuid(name)) is not None:
        return id_
    snapshots = await store.snapshots([DIRECTORY])
    directory = pj.directory_from(snapshots[0] if snapshots else None)
    tail = pj.decoded(await store.read(DIRECTORY, directory.version))
    directory = fold_directory((event for _, event in tail), directory)
    found = directory.slugs.get(name.strip().lower())
    if found is None:
        raise DomainError(404, "not_found", f"there is no gateway {name!r}; a deleted one is named by its id")
    return found
