"""From the bytes of a snapshot to the states of gateways and the models of the catalog.

What lives here: reading of what control planes of this and of the existing system serve: unknown members are skipped,
null is absent. What must not: integrity (`client` checks length and hash), putting to use (`plane`).

`Reader` remembers what it read last: objects whose bytes are the same again are the same objects again, and a gateway
without a change keeps its state.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

import msgspec

from trustgate.domain.entities import (
    Auth,
    Consumer,
    Gateway,
    GatewayState,
    Policy,
    Registry,
    Role,
)
from trustgate.providers.catalog import Model, Models
from trustgate.sync.messages import Item, read_snapshot
from trustgate.sync.protobuf import Malformed

Json = dict[str, Any]
Entity = Gateway | Registry | Consumer | Auth | Policy | Role

FREE = frozenset(
    {"metadata", "telemetry", "client_tls", "provider_options", "auth", "headers", "config", "settings", "oidc_mapping"}
)
"""Members whose inside is nobody's business here."""

NANOSECONDS_PER_MS = 1_000_000


class Unreadable(Exception):
    """A snapshot that cannot be put to use; the text says which object and why."""


class Contents(msgspec.Struct, frozen=True):
    """What a snapshot holds: the state of every gateway by id, and the models it prices."""

    states: dict[str, GatewayState]
    models: Models


def present(value: Any) -> Any:
    """The value without members that are null, except inside free-form ones."""
    if isinstance(value, dict):
        return {
            name: item if name in FREE else present(item)
            for name, item in cast("Json", value).items()
            if item is not None
        }
    if isinstance(value, list):
        return [present(item) for item in cast("list[Any]", value) if item is not None]
    return value


def texts(value: Any) -> dict[str, str]:
    """A map to texts: other values as their JSON, as they were sent."""
    if not isinstance(value, dict):
        return {}
    return {
        name: item if isinstance(item, str) else msgspec.json.encode(item).decode()
        for name, item in cast("Json", value).items()
        if item is not None
    }


def gateway(members: Json, extra: str) -> Gateway:
    entitlements: Json = members.get("entitlements") or {}
    tier = str(entitlements.get("tier") or "").strip() or "free"
    return msgspec.convert(
        members | {"metadata": texts(members.get("metadata")), "entitlements": entitlements | {"tier": tier}}, Gateway
    )


def registry(members: Json, extra: str) -> Registry:
    target: Json | None = members.get("llm_target")
    if target is not None and isinstance(target.get("health_checks"), dict):
        checks: Json = target["health_checks"]
        target = target | {"health_checks": checks | {"headers": texts(checks.get("headers"))}}
        members = members | {"llm_target": target}
    return msgspec.convert(members, Registry)


def consumer(members: Json, extra: str) -> Consumer:
    mcp: Json = members.pop("mcp", None) or {}
    members = {**members, **{name: mcp[name] for name in ("toolkit", "fail_mode") if name in mcp}}
    members["headers"] = texts(members.get("headers"))
    fallback: Json | None = members.get("fallback")
    if fallback is not None:
        budget: Json = fallback.get("budget") or {}
        nanoseconds = budget.get("max_total_latency") or 0
        if not isinstance(nanoseconds, int):
            raise msgspec.ValidationError("fallback.budget.max_total_latency is no number of nanoseconds")
        latency = -(-nanoseconds // NANOSECONDS_PER_MS)
        members["fallback"] = fallback | {"budget": budget | {"max_total_latency_ms": latency}}
    return msgspec.convert(members, Consumer)


def auth(members: Json, extra: str) -> Auth:
    return msgspec.convert(members | {"key_hash": extra.lower()}, Auth)


def policy(members: Json, extra: str) -> Policy:
    return msgspec.convert(members, Policy)


def role(members: Json, extra: str) -> Role:
    return msgspec.convert(members, Role)


READERS: dict[str, Callable[[Json, str], Any]] = {
    "gateway": gateway,
    "consumer": consumer,
    "registry": registry,
    "policy": policy,
    "auth": auth,
    "role": role,
}
COLLECTIONS = {
    "consumer": "consumers",
    "registry": "registries",
    "policy": "policies",
    "auth": "auths",
    "role": "roles",
}


class _Place(msgspec.Struct, frozen=True):
    """Of every object, so that a change of id or of owner cannot hide."""

    id: str
    gateway_id: str = ""
    config_version: int | None = None


_place = msgspec.json.Decoder(_Place)


class Reader:
    """Reads snapshots one after the other. Single owner; `read` changes nothing when it raises."""

    def __init__(self) -> None:
        self._entities: dict[bytes, tuple[_Place, Entity]] = {}
        self._digests: dict[str, tuple[bytes, ...]] = {}
        self._states: dict[str, GatewayState] = {}
        self._catalog: tuple[bytes, Models] = (b"", {})

    def read(self, data: bytes) -> Contents:
        """Raises Unreadable."""
        try:
            items = read_snapshot(data)
        except Malformed as error:
            raise Unreadable(f"no snapshot: {error}") from error
        entities: dict[bytes, tuple[_Place, Entity]] = {}
        owned: defaultdict[str, list[tuple[str, bytes, Entity]]] = defaultdict(list)
        versions: dict[str, int | None] = {}
        catalog: list[Item] = []
        for item in items:
            if item.kind in READERS:
                digest = _digest(item)
                place, entity = entities[digest] = self._entities.get(digest) or _entity(item)
                owned[place.gateway_id or place.id].append((item.kind, digest, entity))
                if item.kind == "gateway":
                    versions[place.id] = place.config_version
            elif item.kind == "model":
                catalog.append(item)
        digests: dict[str, tuple[bytes, ...]] = {}
        states: dict[str, GatewayState] = {}
        for gateway_id, version in versions.items():
            of = owned[gateway_id]
            digests[gateway_id] = tuple(digest for _, digest, _ in of)
            old = self._states.get(gateway_id)
            if old is not None and digests[gateway_id] == self._digests.get(gateway_id):
                states[gateway_id] = old
            else:
                states[gateway_id] = _state(version, old, of)
        mark = hashlib.sha256(b"".join(_digest(item) for item in catalog)).digest()
        models = self._catalog[1] if mark == self._catalog[0] else _models(catalog)
        self._entities, self._digests, self._states, self._catalog = entities, digests, states, (mark, models)
        return Contents(states, models)


def _digest(item: Item) -> bytes:
    mark = f"{item.kind}\0{item.extra}\0".encode()
    return hashlib.blake2b(mark + item.json, digest_size=20).digest()


def _entity(item: Item) -> tuple[_Place, Entity]:
    try:
        place = _place.decode(item.json)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"a {item.kind} cannot be read: {error}") from error
    if item.kind != "gateway" and not place.gateway_id:
        raise Unreadable(f"{item.kind} {place.id} names no gateway")
    try:
        members: Json = present(msgspec.json.decode(item.json))
        return place, READERS[item.kind](members, item.extra)
    except (msgspec.MsgspecError, TypeError, AttributeError) as error:
        raise Unreadable(f"{item.kind} {place.id} cannot be read: {error}") from error


def _state(version: int | None, old: GatewayState | None, of: list[tuple[str, bytes, Entity]]) -> GatewayState:
    """The version grows with every change: by what the control plane says, or by one."""
    number = max(version or 0, old.version + 1 if old is not None else 1)
    parts: dict[str, Any] = {name: {} for name in COLLECTIONS.values()}
    found: Any = None
    for kind, _, entity in of:
        if kind == "gateway":
            found = entity
        else:
            parts[COLLECTIONS[kind]][entity.id] = entity
    return GatewayState(version=number, gateway=found, **parts)


# The catalog


class _Model(msgspec.Struct, kw_only=True):
    Slug: str
    ExternalID: str | None = None
    DisplayName: str | None = None
    ContextWindow: int | None = None
    MaxOutput: int | None = None
    InputPrice: str | float | None = None
    OutputPrice: str | float | None = None
    CacheReadPrice: str | None = None
    CacheWritePrice: str | None = None
    Capabilities: Any = None
    Enabled: bool = True
    Source: str | None = None
    ReleaseDate: str | None = None
    InputModalities: list[str] | None = None
    OutputModalities: list[str] | None = None


_model = msgspec.json.Decoder(_Model)


def _models(items: list[Item]) -> Models:
    models: Models = defaultdict(dict)
    for item in items:
        try:
            row = _model.decode(item.json)
        except msgspec.MsgspecError as error:
            raise Unreadable(f"a model of {item.extra or 'no provider'} cannot be read: {error}") from error
        capabilities = cast("Json", row.Capabilities) if isinstance(row.Capabilities, dict) else {}
        models[item.extra][row.Slug] = Model(
            slug=row.Slug,
            external_id=row.ExternalID or "",
            display_name=row.DisplayName or "",
            context_window=row.ContextWindow or 0,
            max_output=row.MaxOutput or 0,
            input_price=_price(row.InputPrice),
            output_price=_price(row.OutputPrice),
            cache_read_price=_price(row.CacheReadPrice),
            cache_write_price=_price(row.CacheWritePrice),
            capabilities={name: value for name, value in capabilities.items() if isinstance(value, bool)},
            enabled=row.Enabled,
            source=row.Source or "seed",
            release_date=(row.ReleaseDate or "")[:10],
            input_modalities=tuple(row.InputModalities or ()),
            output_modalities=tuple(row.OutputModalities or ()),
        )
    return dict(models)


def _price(value: str | float | None) -> str:
    """Decimal text; empty where it is no number."""
    text = "" if value is None else str(value).strip()
    try:
        return text if text and float(text) >= 0 else ""
    except ValueError:
        return ""
