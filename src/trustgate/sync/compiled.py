"""Compiled snapshots: of all gateways, and of each scope on its own (spec 06 §17.2, §17.3).

What lives here: order, versions and sizes; the cache that makes a change of one gateway cost that gateway only. What
must not: when to compile (`dispatcher`), the JSON of objects (`encode`), transport.

A snapshot is kept as the list of its fields, shared between the scopes: their concatenation is the message. The catalog
comes first, so that its hash is computed once for all scopes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import structlog

from trustgate.domain.values import parse_uuid
from trustgate.providers.catalog import Models
from trustgate.sync import encode
from trustgate.sync.messages import FIELDS, snapshot_item
from trustgate.view.gateway import GatewayView

CHUNK_BYTES = 1 << 20
MAX_SNAPSHOT_BYTES = 256 << 20
EVERYTHING = ""
"""The scope of shared tokens."""

log = structlog.get_logger("trustgate.sync")

Field = tuple[int, str, bytes]
"""Field number and id of an object, which order it, and its bytes in the message."""


class Broken(Exception):
    """No gateway could be compiled."""


class Catalog:
    """The part of every snapshot that belongs to no gateway."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.parts = [snapshot_item(item) for item in encode.catalog(models)]
        self.hash = hashlib.sha256()
        for part in self.parts:
            self.hash.update(part)
        self.size = sum(map(len, self.parts))


class Snapshot:
    """What one scope is served. Immutable."""

    __slots__ = ("_catalog", "_fields", "total_bytes", "version")

    def __init__(self, catalog: Catalog, fields: list[Field]) -> None:
        self._catalog, self._fields = catalog, fields
        digest = catalog.hash.copy()
        for _, _, data in fields:
            digest.update(data)
        self.version = digest.hexdigest()
        self.total_bytes = catalog.size + sum(len(data) for _, _, data in fields)

    def _parts(self) -> Iterator[bytes]:
        yield from self._catalog.parts
        for _, _, data in self._fields:
            yield data

    def chunks(self, size: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The bytes of the message in pieces of `size`, the last one shorter."""
        waiting = bytearray()
        for part in self._parts():
            waiting += part
            while len(waiting) >= size:
                yield bytes(waiting[:size])
                del waiting[:size]
        if waiting:
            yield bytes(waiting)


class Publication:
    """What is served of all scopes at one moment. Snapshots of single gateways are made when they are asked for."""

    def __init__(self, catalog: Catalog, gateways: dict[str, list[Field]], gone: frozenset[str]) -> None:
        """`gone` are gateways that existed: their scopes are told that nothing is left of them."""
        self._catalog, self._gateways, self._gone = catalog, gateways, gone
        everything = sorted((field for fields in gateways.values() for field in fields), key=_order)
        self.everything = Snapshot(catalog, everything)
        self._scopes: dict[str, Snapshot] = {}

    def of(self, scope: str) -> Snapshot | None:
        """The snapshot of a scope; None for one that is unknown."""
        if scope == EVERYTHING:
            return self.everything
        gateway_id = parse_uuid(scope) or scope
        found = self._scopes.get(gateway_id)
        if found is None:
            fields = self._gateways.get(gateway_id)
            if fields is None:
                if gateway_id not in self._gone:
                    return None
                fields = []
            found = self._scopes[gateway_id] = Snapshot(self._catalog, fields)
        return found


def _order(field: Field) -> tuple[int, str]:
    return field[0], field[1]


class Compiler:
    """Single owner; `compile` may run in any thread, one at a time."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[GatewayView, list[Field]]] = {}
        self._catalog: Catalog | None = None

    def forget(self) -> None:
        """Compile everything anew next time."""
        self._known, self._catalog = {}, None

    def compile(self, views: Iterable[GatewayView], models: Models, gone: Iterable[str]) -> Publication:
        """A gateway that cannot be compiled is left out with a warning. Raises Broken when all of them are."""
        known: dict[str, tuple[GatewayView, list[Field]]] = {}
        broken: list[str] = []
        for view in views:
            kept = self._known.get(view.id)
            if kept is not None and kept[0] is view:
                known[view.id] = kept
                continue
            try:
                known[view.id] = (view, fields_of(view))
            except Exception as error:  # whatever is wrong with one gateway, the others are served
                broken.append(view.id)
                log.warning("gateway left out of the snapshot", gateway_id=view.id, error=str(error))
        if broken and not known:
            raise Broken(f"none of {len(broken)} gateways can be compiled")
        if self._catalog is None or self._catalog.models is not models:
            self._catalog = Catalog(models)
        self._known = known
        return Publication(self._catalog, {id_: fields for id_, (_, fields) in known.items()}, frozenset(gone))


def fields_of(view: GatewayView) -> list[Field]:
    """The objects of a gateway in the order of the message."""
    found = [(FIELDS[item.kind], id_, snapshot_item(item)) for id_, item in encode.entries(view.state, view.reveal)]
    return sorted(found, key=_order)


def changed(before: Publication | None, after: Publication) -> bool:
    """Whether the global version differs."""
    return before is None or before.everything.version != after.everything.version


def statistics(publication: Publication | None) -> Mapping[str, Any]:
    """For logs."""
    if publication is None:
        return {}
    return {"version": publication.everything.version, "bytes": publication.everything.total_bytes}
