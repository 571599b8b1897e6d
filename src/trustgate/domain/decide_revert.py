"""Lead a gateway back to an earlier state of its own: by new events, never by changing old ones.

What lives here: the events between two states, and what of the earlier one cannot or must not come back. What must not:
finding that state (`actors.archive`).

- A secret comes back by its reference while the vault holds it. One that is gone (it was replaced or its object was
  deleted) is not invented: the object keeps the secret that it has now at the same place, if any.
- Digests of API keys are in the log, but a key that was rotated or deleted was revoked; it comes back only when asked.
- A tenant cannot bring back what only the platform may set: its plan, and reach into the host by exporters.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec
from msgspec.structs import replace

from trustgate.domain import commands as cmd
from trustgate.domain import events as ev
from trustgate.domain import secrets
from trustgate.domain.audit import COLLECTION_OF, Entity
from trustgate.domain.decide_gateway import check_exporter_rights, check_unique
from trustgate.domain.decision import Draft
from trustgate.domain.directory import listed
from trustgate.domain.entities import Auth, GatewayState, Json
from trustgate.domain.errors import already_exists, not_found, quoted

E = TypeVar("E", bound=Entity)

ORDER = ("registry", "auth", "role", "consumer", "policy")
"""Targets of references before what refers to them."""

CREATED: dict[str, Any] = {
    "registry": ev.RegistryCreated,
    "auth": ev.AuthCreated,
    "role": ev.RoleCreated,
    "consumer": ev.ConsumerCreated,
    "policy": ev.PolicyCreated,
}
UPDATED: dict[str, Any] = {
    "registry": ev.RegistryUpdated,
    "auth": ev.AuthUpdated,
    "role": ev.RoleUpdated,
    "consumer": ev.ConsumerUpdated,
    "policy": ev.PolicyUpdated,
}
DELETED: dict[str, Any] = {
    "registry": ev.RegistryDeleted,
    "auth": ev.AuthDeleted,
    "role": ev.RoleDeleted,
    "consumer": ev.ConsumerDeleted,
    "policy": ev.PolicyDeleted,
}


class Gone(msgspec.Struct, frozen=True):
    """A secret of the earlier state that does not come back. `kept`: the object has its present one instead."""

    kind: str
    id: str
    path: str
    fingerprint: str
    kept: bool


def revert_gateway(draft: Draft, command: cmd.RevertGateway) -> None:
    now = draft.state
    if now.gateway is None or command.state.gateway is None:
        raise not_found()
    then, _ = settled(
        command.state,
        now,
        command.held,
        restore_keys=command.restore_keys,
        keep_present=not draft.context.require_secret_on_new_origin,
    )
    gateway = then.gateway
    assert gateway is not None, "settling keeps the gateway"
    if draft.meta.tenant is not None:
        gateway = replace(gateway, entitlements=now.gateway.entitlements)
        _check_exporters(gateway.telemetry, now.gateway.telemetry)
    lead_to(draft, command.id, replace(then, gateway=gateway))


def lead_to(draft: Draft, gateway_id: str, then: GatewayState) -> None:
    """The events from the draft's state to `then`, in an order that leaves all references whole after each."""
    now, gateway = draft.state, then.gateway
    assert gateway is not None, "a gateway is not led to its end"
    check_unique(draft, gateway_id, gateway.slug, gateway.domain)
    if gateway != now.gateway:
        draft.record(ev.GatewayCreated(gateway) if now.gateway is None else ev.GatewayUpdated(gateway))
        if now.gateway is None or listed(gateway) != listed(now.gateway):
            draft.enlist(listed(gateway))
    _list_slugs(draft, gateway_id, then)
    for kind in ORDER:
        present = _objects(now, kind)
        for id_, entity in _objects(then, kind).items():
            if id_ not in present:
                if draft.context.owner(kind, id_) not in (None, gateway_id):
                    raise already_exists(kind)
                draft.record(CREATED[kind](entity))
            elif entity != present[id_]:
                draft.record(UPDATED[kind](entity))
    for kind in reversed(ORDER):
        for id_ in _objects(now, kind).keys() - _objects(then, kind).keys():
            draft.record(DELETED[kind](id_))


def _check_exporters(then: Json | None, now: Json | None) -> None:
    present = {entry["name"]: entry for entry in _exporters(now)}
    for entry in _exporters(then):
        check_exporter_rights(entry, present.get(entry["name"], {}))


def _exporters(telemetry: Json | None) -> list[Json]:
    return (telemetry or {}).get("exporters") or []


def _list_slugs(draft: Draft, gateway_id: str, then: GatewayState) -> None:
    """Give up and take the consumers' globally unique slugs; one that another gateway has taken since is refused."""
    old = {consumer.slug for consumer in draft.state.consumers.values()}
    new = {consumer.slug for consumer in then.consumers.values()}
    for slug in sorted(new - old):
        if slug in draft.directory.consumer_slugs:
            raise already_exists("consumer", f"the slug {quoted(slug)} is already taken")
        draft.enlist(ev.ConsumerListed(slug, gateway_id))
    for slug in sorted(old - new):
        draft.enlist(ev.ConsumerUnlisted(slug))


def settled(
    then: GatewayState, now: GatewayState, held: frozenset[str], *, restore_keys: bool, keep_present: bool = True
) -> tuple[GatewayState, tuple[Gone, ...]]:
    """`then` with the secrets it can have, and those that are gone. `held`: references that the vault still holds.

    Without `keep_present`, no secret of today stands in for one that is gone: it might go to another origin.
    """
    gone: list[Gone] = []
    known = held.union(secrets.refs(msgspec.to_builtins(now)))
    changes: dict[str, Any] = {}
    if then.gateway is not None:
        changes["gateway"] = _with_secrets("gateway", then.gateway, now.gateway if keep_present else None, known, gone)
    for kind in ORDER:
        present = _objects(now, kind)
        kept: dict[str, Any] = {}
        for id_, entity in _objects(then, kind).items():
            keyed = _with_key(entity, present.get(id_), restore_keys, gone)
            kept[id_] = _with_secrets(kind, keyed, present.get(id_) if keep_present else None, known, gone)
        changes[COLLECTION_OF[kind]] = kept
    return replace(then, **changes), tuple(gone)


def missing(then: GatewayState, now: GatewayState) -> frozenset[str]:
    """References of `then` that `now` does not have: those whose presence in the vault is to be looked up."""
    present = set(secrets.refs(msgspec.to_builtins(now)))
    return frozenset(ref for ref in secrets.refs(msgspec.to_builtins(then)) if ref not in present)


def _objects(state: GatewayState, kind: str) -> dict[str, Any]:
    return getattr(state, COLLECTION_OF[kind])


def _with_key(entity: Entity, present: Entity | None, restore: bool, gone: list[Gone]) -> Entity:
    if restore or not isinstance(entity, Auth) or not entity.key_hash:
        return entity
    if isinstance(present, Auth) and present.key_hash == entity.key_hash:
        return entity
    has_key = isinstance(present, Auth) and bool(present.key_hash)
    gone.append(Gone("auth", entity.id, "api_key", "", has_key))
    if isinstance(present, Auth) and has_key:
        return replace(entity, key_hash=present.key_hash, key_prefix=present.key_prefix, key_suffix=present.key_suffix)
    return replace(entity, key_hash="", key_prefix="", key_suffix="")


def _with_secrets(kind: str, entity: E, present: Any, known: frozenset[str], gone: list[Gone]) -> E:
    plain = msgspec.to_builtins(entity)
    if all(ref in known for ref in secrets.refs(plain)):
        return entity
    lost: list[Gone] = []
    merged = _merged(kind, entity.id, "", plain, msgspec.to_builtins(present), known, lost)
    gone += lost
    return msgspec.convert(merged, type(entity))


def _merged(kind: str, id_: str, path: str, then: Any, now: Any, known: frozenset[str], gone: list[Gone]) -> Any:
    """`then` with each secret that is gone replaced by that of `now` at the same path."""
    if secrets.is_ref(then):
        ref = cast("dict[str, Any]", then)
        if ref[secrets.REF] in known:
            return ref
        kept = secrets.is_ref(now)
        gone.append(Gone(kind, id_, path, ref["fp"], kept))
        return now if kept else ref
    if isinstance(then, dict):
        old = cast("dict[str, Any]", now) if isinstance(now, dict) else {}
        return {
            name: _merged(kind, id_, f"{path}.{name}" if path else name, item, old.get(name), known, gone)
            for name, item in cast("dict[str, Any]", then).items()
        }
    if isinstance(then, (list, tuple)):
        items = cast("list[Any]", now) if isinstance(now, (list, tuple)) else []
        return [
            _merged(kind, id_, f"{path}.{index}", item, items[index] if index < len(items) else None, known, gone)
            for index, item in enumerate(cast("list[Any]", then))
        ]
    return then
