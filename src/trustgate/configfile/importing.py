"""From the tables of an existing installation to gateways of this one: rows become a file, whose rules judge it.

What lives here: the encodings of those tables, and what becomes of an object that cannot be carried: it is left out
with every link to it, and told. What must not: the database connection (`commands.importing`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, cast

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec.structs import replace

from trustgate.configfile import document as doc
from trustgate.configfile.compiling import Compiled
from trustgate.configfile.document import escaped
from trustgate.configfile.reading import FileError, Source
from trustgate.domain.entities import GatewayState

Json = dict[str, Any]
Row = Mapping[str, Any]

LEDGER_LAST = "20260805140000_add_policies_gateway_slug_idx"
"""The migration that a current installation has; with it, it has all the others."""

NANOSECONDS_PER_MS = 1_000_000


class Tables(msgspec.Struct, frozen=True):
    """All rows, by table; ids are texts."""

    rows: dict[str, list[Json]]

    def of(self, table: str, **where: str) -> list[Json]:
        return [row for row in self.rows[table] if all(row[name] == value for name, value in where.items())]


class Left(msgspec.Struct, frozen=True):
    """Something that was not carried, and why."""

    gateway: str
    what: str
    why: str


class CannotDecrypt(Exception):
    """A ciphertext that the given key does not open."""


def decrypt(text: str, secret_key: str) -> str:
    """Base64 of nonce (12 bytes), ciphertext and tag, AES-256-GCM, key SHA-256 of `trustgate-vault:` and the secret."""
    if not text:
        return ""
    key = hashlib.sha256(b"trustgate-vault:" + secret_key.encode()).digest()
    try:
        sealed = base64.b64decode(text, validate=True)
        return AESGCM(key).decrypt(sealed[:12], sealed[12:], None).decode()
    except (binascii.Error, InvalidTag, ValueError) as error:
        raise CannotDecrypt("cannot be decrypted with the given secret key") from error


class Gateway(msgspec.Struct):
    """A gateway on its way: its file, the times of its objects, and what is left behind already."""

    id: str
    slug: str
    plain: Json
    times: dict[str, tuple[datetime, datetime]]
    left: list[Left]


def gateway_of(row: Row, tables: Tables, secret_key: str) -> Gateway:
    """The file of one gateway. Credentials that cannot be opened leave their registry behind."""
    id_, slug = row["id"], row["slug"]
    found = Gateway(id_, slug, {"trustgate": doc.FORMAT, "gateway": gateway_part(row)}, {id_: times(row)}, [])
    parts: dict[str, Callable[[Row], Json]] = {
        "registries": lambda row: registry_part(row, secret_key),
        "auths": auth_part,
        "roles": lambda row: role_part(row, tables),
        "consumers": lambda row: consumer_part(row, tables),
        "policies": lambda row: policy_part(row, tables),
    }
    for collection in doc.COLLECTIONS:
        items: list[Json] = []
        for one in tables.of(collection, gateway_id=id_):
            try:
                items.append(escaped(bare(parts[collection](one))))
            except (CannotDecrypt, msgspec.DecodeError) as error:
                found.left.append(Left(slug, f"{collection}: {one['name']}", str(error)))
            found.times[one["id"]] = times(one)
        found.plain[collection] = items
    return found


def times(row: Row) -> tuple[datetime, datetime]:
    return row["created_at"], row["updated_at"]


def bare(item: Json) -> Json:
    """Without members that are not set."""
    return {name: value for name, value in item.items() if value is not None and value != ""}


def gateway_part(row: Row) -> Json:
    metadata = dict(row["metadata"] or {})
    tenant_id = metadata.pop("tenant_id", None) or metadata.pop("team_id", None) or "imported"
    entitlements = dict(row["entitlements"] or {})
    entitlements["tier"] = entitlements.get("tier") or "free"
    return bare(
        escaped(
            {
                "id": row["id"],
                "slug": row["slug"],
                "tenant_id": tenant_id,
                "status": row["status"],
                "domain": row["domain"],
                "metadata": metadata,
                "telemetry": row["telemetry"],
                "client_tls": row["client_tls"],
                "session_config": row["session_config"],
                "entitlements": entitlements,
            }
        )
    )


def registry_part(row: Row, secret_key: str) -> Json:
    auth = decrypt(row["auth"] or "", secret_key)
    item = {name: row[name] for name in ("id", "name", "type", "enabled", "description", "mcp_target")}
    if row["type"] == "MCP":
        return item
    return item | {
        "provider": row["provider"],
        "provider_options": row["provider_options"],
        "auth": msgspec.json.decode(auth) if auth else None,
        "health_checks": row["health_checks"],
    }


def auth_part(row: Row) -> Json:
    names = ("id", "name", "type", "enabled", "config", "key_hash", "key_prefix", "key_suffix")
    return {name: row[name] for name in names}


def role_part(row: Row, tables: Tables) -> Json:
    links = tables.of("role_registry", role_id=row["id"])
    return {
        "id": row["id"],
        "name": row["name"],
        "model_policies": listed(row["model_policies"]),
        "mcp_policies": row["mcp_policies"],
        "oidc_mapping": row["oidc_mapping"],
        "registries": [link["registry_id"] for link in links],
    }


def consumer_part(row: Row, tables: Tables) -> Json:
    names = ("id", "name", "type", "slug", "routing_mode", "lb_config", "headers", "active", "fail_mode")
    item: Json = {name: row[name] for name in names}
    bindings = sorted(tables.of("consumer_registry", consumer_id=row["id"]), key=lambda link: link["position"] or 0)
    toolkit = row["toolkit"]
    item |= {
        "fallback": fallback_of(row["fallback"]),
        "model_policies": listed(row["model_policies"]),
        "toolkit": toolkit or None,
        "registries": [{"id": link["registry_id"], "weight": max(1, min(100, link["weight"]))} for link in bindings],
        "roles": [link["role_id"] for link in tables.of("consumer_role", consumer_id=row["id"])],
        "auths": [link["auth_id"] for link in tables.of("consumer_auth", consumer_id=row["id"])],
    }
    return {name: value for name, value in item.items() if value != []}


def fallback_of(stored: Json | None) -> Json | None:
    """The stored budget counts nanoseconds."""
    if not stored:
        return None
    budget = dict(stored.get("budget") or {})
    nanoseconds = budget.pop("max_total_latency", 0) or 0
    return {**stored, "budget": {**budget, "max_total_latency_ms": nanoseconds // NANOSECONDS_PER_MS}}


def listed(policies: Json | None) -> list[Json] | None:
    if not policies:
        return None
    return [{"registry_id": id_, **(policy or {})} for id_, policy in sorted(policies.items())]


def policy_part(row: Row, tables: Tables) -> Json:
    names = (
        "id",
        "name",
        "description",
        "slug",
        "enabled",
        "global",
        "priority",
        "parallel",
        "settings",
        "stages",
        "mode",
    )
    links = tables.of("consumer_policy", policy_id=row["id"])
    return {name: row[name] for name in names} | {"consumers": [link["consumer_id"] for link in links]}


def carried(found: Gateway, compile_file: Callable[[Source], Compiled]) -> Compiled | None:
    """The gateway's state with the times it had; what is refused is left out, and named in `found.left`.

    None when the gateway itself is refused.
    """
    plain = found.plain
    while True:
        plain = whole(plain, found)
        source = Source(found.slug, msgspec.json.decode(msgspec.json.encode(plain)), {})
        try:
            compiled = compile_file(source)
        except FileError as fault:
            if fault.path[:1] == ("gateway",) or len(fault.path) < 2:
                found.left.append(Left(found.slug, "the gateway", fault.detail))
                return None
            collection, index = cast("tuple[str, int]", fault.path[:2])
            item = plain[collection][index]
            found.left.append(Left(found.slug, f"{collection}: {item.get('name', item['id'])}", fault.detail))
            kept = [one for number, one in enumerate(plain[collection]) if number != index]
            plain = {**plain, collection: kept}
            continue
        return Compiled(retimed(compiled.state, found.times), compiled.secrets)


def whole(plain: Json, found: Gateway) -> Json:
    """The file without links to objects that it does not hold."""
    ids = {collection: {item["id"] for item in plain[collection]} for collection in doc.COLLECTIONS}

    def cut(collection: str, item: Json) -> Json:
        for key, (path, target) in doc.REFERENCES.items():
            if key.partition(".")[0] == collection:
                lost: list[str] = []
                item = _cut(item, path, ids[target], lost)
                for id_ in lost:
                    what = f"{collection}: {item.get('name', item['id'])}"
                    found.left.append(Left(found.slug, what, f"its link to {target} {id_}: it is not carried"))
        return item

    return plain | {collection: [cut(collection, item) for item in plain[collection]] for collection in doc.COLLECTIONS}


def _cut(value: Any, path: tuple[str, ...], ids: set[str], lost: list[str]) -> Any:
    step, rest = path[0], path[1:]
    if step == "*" and isinstance(value, list):
        kept: list[Any] = []
        for item in cast("list[Any]", value):
            id_ = item if not rest else item.get(rest[0]) if len(rest) == 1 and isinstance(item, dict) else None
            if isinstance(id_, str) and id_ not in ids:
                lost.append(id_)
            else:
                kept.append(item)
        return kept
    if isinstance(value, dict) and step in value and rest:
        members = cast("Json", value)
        return {**members, step: _cut(members[step], rest, ids, lost)}
    return value


def retimed(state: GatewayState, times: Mapping[str, tuple[datetime, datetime]]) -> GatewayState:
    """The state with the times its objects had."""

    def of(entity: Any) -> Any:
        created, updated = times[entity.id]
        return replace(entity, created_at=created, updated_at=updated)

    assert state.gateway is not None
    parts: Json = {
        collection: {id_: of(entity) for id_, entity in getattr(state, collection).items()}
        for collection in doc.COLLECTIONS
    }
    return replace(state, version=0, gateway=of(state.gateway), **parts)
