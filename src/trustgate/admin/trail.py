"""The audit trail as the Admin API shows it: entries with their changes, differences of states, JSON lines and CSV.

What lives here: rendering. What must not: anything that the objects themselves don't show. An object appears exactly as
its own endpoint shows it, save that a masked secret is followed by its fingerprint, so that a change of it is seen;
secrets that the endpoint leaves out appear as fingerprints under `hidden`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import msgspec

from trustgate.actors.archive import Entry
from trustgate.admin import answers, rendering
from trustgate.admin.rendering import GatewayRenderer
from trustgate.domain import audit, entities, secrets
from trustgate.domain.entities import GatewayState

Json = dict[str, Any]

E = TypeVar("E", bound=audit.Entity)

COLUMNS = (
    *("position", "version", "time", "gateway_id", "tenant_id", "event", "object_type", "object_id", "object_name"),
    *("command", "actor", "actor_email", "source", "address", "request_id", "reason", "changes", "previous", "hash"),
)


class Trail:
    """Shows entries and differences. `fingerprint` is keyed: it tells whether two secrets are equal, nothing else."""

    def __init__(self, render_gateway: GatewayRenderer, fingerprint: Callable[[str], str]) -> None:
        self._render_gateway = render_gateway
        self._fingerprint = fingerprint

    def shown(self, entity: audit.Entity | None) -> Json | None:
        """An object as its endpoint shows it, with fingerprints; None for one that does not exist."""
        if entity is None:
            return None
        stored = msgspec.to_builtins(entity)
        found = list(_secrets("", stored))
        marked = _marked(stored, type(entity)) if found else entity
        match marked:
            case entities.Gateway():
                answer: Any = self._render_gateway(marked)
            case entities.Registry():
                answer = rendering.registry(marked)
            case entities.Consumer():
                answer = rendering.consumer(marked)
            case entities.Auth():
                answer = rendering.auth(marked)
            case entities.Policy():
                answer = rendering.policy(marked)
            case entities.Role():
                answer = rendering.role(marked)
        plain: Json = msgspec.to_builtins(answer)
        visible = set(_texts(plain)) if found else ()
        hidden = {path: f"fingerprint {ref['fp']}" for path, ref in found if _mark(ref) not in visible}
        if isinstance(entity, entities.Auth) and entity.key_hash:
            hidden["api_key"] = f"fingerprint {self._fingerprint(entity.key_hash)}"
        return {**plain, "hidden": hidden} if hidden else plain

    def changes(self, before: audit.Entity | None, after: audit.Entity | None) -> list[answers.FieldChange]:
        """What differs, member by member; one change with an empty path when the object came or went."""
        old, new = self.shown(before), self.shown(after)
        if old is None or new is None:
            return [] if old is new else [answers.FieldChange("", old, new)]
        return [answers.FieldChange(path, left, right) for path, left, right in _differences("", old, new)]

    def entry(self, entry: Entry) -> answers.AuditEntry:
        meta, recorded = entry.event.meta, entry.recorded
        about = entry.after or entry.before
        return answers.AuditEntry(
            position=recorded.position,
            version=recorded.version,
            time=rendering.rfc3339(meta.time),
            gateway_id=entry.gateway_id,
            tenant_id=entry.tenant,
            event=type(entry.event.data).__name__,
            object_type=entry.subject.kind,
            object_id=entry.subject.id,
            object_name=name_of(about),
            command=entry.event.command,
            actor=meta.actor,
            actor_email=meta.actor_email,
            source=meta.source,
            address=meta.address,
            request_id=meta.request_id,
            reason=meta.reason,
            changes=self.changes(entry.before, entry.after),
            previous=recorded.previous,
            hash=entry.digest,
        )

    def difference(self, before: GatewayState, after: GatewayState) -> list[answers.ObjectChange]:
        """The objects that differ between two states of a gateway, the gateway itself first."""
        found: list[answers.ObjectChange] = []
        for kind in audit.KINDS:
            old, new = objects(before, kind), objects(after, kind)
            for id_ in sorted(old.keys() | new.keys()):
                left, right = old.get(id_), new.get(id_)
                if left == right:
                    continue
                change = "created" if left is None else "deleted" if right is None else "updated"
                found.append(answers.ObjectChange(kind, id_, name_of(right or left), change, self.changes(left, right)))
        return found


def name_of(entity: audit.Entity | None) -> str:
    return "" if entity is None else entity.slug if isinstance(entity, entities.Gateway) else entity.name


def json_lines(entries: Iterable[answers.AuditEntry]) -> bytes:
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)


def csv_lines(entries: Iterable[answers.AuditEntry]) -> bytes:
    """RFC 4180, with a header line; `changes` as JSON. No cell can be taken for a formula by a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for entry in entries:
        cells = msgspec.to_builtins(entry)
        cells["changes"] = msgspec.json.encode(entry.changes).decode()
        writer.writerow([_cell(cells.get(column, "")) for column in COLUMNS])
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def objects(state: GatewayState, kind: str) -> dict[str, audit.Entity]:
    """The objects of one kind by id."""
    if kind == "gateway":
        return {} if state.gateway is None else {state.gateway.id: state.gateway}
    return getattr(state, audit.COLLECTION_OF[kind])


def _mark(ref: Json) -> str:
    return f"{ref['mask']} (fingerprint {ref['fp']})"


def _marked(stored: Json, kind: type[E]) -> E:
    """The entity with masks that carry fingerprints."""
    return msgspec.convert(secrets.replace(stored, lambda ref: {**ref, "mask": _mark(ref)}), kind)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in cast("Json", value).values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _texts(item)


def _secrets(path: str, value: Any) -> Iterator[tuple[str, Json]]:
    """Every secret reference inside a value, with its path."""
    if secrets.is_ref(value):
        yield path, value
    elif isinstance(value, dict):
        for name, item in cast("Json", value).items():
            yield from _secrets(f"{path}.{name}" if path else name, item)
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from _secrets(f"{path}.{index}", item)


def _differences(path: str, old: Json, new: Json) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted(old.keys() | new.keys()):
        left, right, here = old.get(name), new.get(name), f"{path}.{name}" if path else name
        if left == right and (name in old) == (name in new):
            continue
        if isinstance(left, dict) and isinstance(right, dict):
            yield from _differences(here, cast("Json", left), cast("Json", right))
        else:
            yield here, left, right
