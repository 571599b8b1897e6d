"""From the state of a gateway and the model catalog to the objects of a snapshot (spec 06 §17.2).

What lives here: the JSON of each kind of object, with its secrets in clear. What must not: order and versions of whole
snapshots (`compiled`). The same state always gives the same bytes.

Beside the documented members there are three of ours, which other readers skip: a gateway's `config_version`,
`fallback.pinned` and `lb_config.balance_pinned` where they are set; and a model's cache prices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import msgspec

from trustgate.domain.entities import (
    Auth,
    Consumer,
    Fallback,
    Gateway,
    GatewayState,
    Policy,
    Registry,
    Role,
)
from trustgate.providers.catalog import Model, Models, model_id, provider_id, providers_catalog
from trustgate.sync.messages import Item
from trustgate.view.compile import Reveal, reveal_all

Json = dict[str, Any]

NEVER = "0001-01-01T00:00:00Z"
"""The time of rows that have none."""

NANOSECONDS_PER_MS = 1_000_000


def plain(value: Any) -> Any:
    """A struct as JSON values, members at their defaults left out."""
    return msgspec.to_builtins(value)


def times(entity: Gateway | Registry | Consumer | Auth | Policy | Role) -> Json:
    return {"created_at": moment(entity.created_at), "updated_at": moment(entity.updated_at)}


def moment(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def given(**members: Any) -> Json:
    """The members that are not empty."""
    return {name: value for name, value in members.items() if value not in (None, "", {}, [], ())}


def gateway(entity: Gateway, version: int) -> Json:
    return {
        "id": entity.id,
        "slug": entity.slug,
        "status": entity.status,
        **given(
            domain=entity.domain,
            metadata=entity.metadata,
            telemetry=entity.telemetry,
            client_tls=entity.client_tls,
        ),
        **({} if entity.session_config is None else {"session_config": plain(entity.session_config)}),
        "entitlements": {**plain(entity.entitlements), "tier": entity.entitlements.tier.strip() or "free"},
        "config_version": version,
        **times(entity),
    }


def registry(entity: Registry) -> Json:
    llm, mcp = entity.llm_target, entity.mcp_target
    return {
        "id": entity.id,
        "gateway_id": entity.gateway_id,
        "name": entity.name,
        "type": entity.type,
        "enabled": entity.enabled,
        **given(description=entity.description),
        **({} if llm is None else {"llm_target": plain(llm)}),
        **({} if mcp is None else {"mcp_target": {**plain(mcp), "transport": mcp.transport}}),
        **times(entity),
    }


def consumer(entity: Consumer) -> Json:
    toolkit = plain(entity.toolkit or ())
    mcp = {"toolkit": toolkit, **given(fail_mode=entity.fail_mode)} if toolkit or entity.fail_mode else None
    balancing = entity.lb_config
    return {
        "id": entity.id,
        "gateway_id": entity.gateway_id,
        "name": entity.name,
        "type": entity.type,
        "slug": entity.slug,
        "routing_mode": entity.routing_mode,
        **({} if balancing is None else {"lb_config": {**plain(balancing), "enabled": balancing.enabled}}),
        **given(headers=entity.headers),
        "active": entity.active,
        "registry_ids": list(entity.registry_ids),
        **given(registry_weights=entity.registry_weights),
        "role_ids": list(entity.role_ids),
        "auth_ids": list(entity.auth_ids),
        **({} if entity.fallback is None else {"fallback": fallback(entity.fallback)}),
        **given(model_policies=plain(entity.model_policies), mcp=mcp),
        **times(entity),
    }


def fallback(value: Fallback) -> Json:
    latency = value.budget.max_total_latency_ms
    return {
        "enabled": value.enabled,
        **given(triggers=list(value.triggers)),
        "budget": {
            "max_attempts": value.budget.max_attempts,
            **({"max_total_latency": latency * NANOSECONDS_PER_MS} if latency else {}),
        },
        **given(chain=list(value.chain)),
        **({} if value.pinned == "never" else {"pinned": value.pinned}),
    }


def policy(entity: Policy) -> Json:
    return {
        "id": entity.id,
        "gateway_id": entity.gateway_id,
        **given(consumer_ids=list(entity.consumer_ids)),
        "name": entity.name,
        **given(description=entity.description),
        "slug": entity.slug,
        "enabled": entity.enabled,
        "global": entity.global_,
        "priority": entity.priority,
        "parallel": entity.parallel,
        **given(settings=entity.settings, stages=list(entity.stages)),
        "mode": entity.mode,
        **times(entity),
    }


def auth(entity: Auth) -> Json:
    return {
        "id": entity.id,
        "gateway_id": entity.gateway_id,
        "name": entity.name,
        "type": entity.type,
        "enabled": entity.enabled,
        "config": entity.config,
        **times(entity),
    }


def role(entity: Role) -> Json:
    granted = entity.mcp_policies
    return {
        "id": entity.id,
        "gateway_id": entity.gateway_id,
        "name": entity.name,
        **given(model_policies=plain(entity.model_policies)),
        **({} if granted is None else {"mcp_policies": plain(granted)}),
        **given(oidc_mapping=entity.oidc_mapping, registry_ids=list(entity.registry_ids)),
        **times(entity),
    }


Entry = tuple[str, Item]
"""The id of an object, and the object."""


def entries(state: GatewayState, reveal: Reveal) -> list[Entry]:
    """All objects of a gateway, secrets in clear."""
    found: list[Entry] = []

    def add(kind: Any, id_: str, members: Json, extra: str = "") -> None:
        found.append((id_, Item(kind, msgspec.json.encode(reveal_all(members, reveal)), extra)))

    def each(kind: Any, entities: Iterable[Any], of: Callable[[Any], Json]) -> None:
        for entity in entities:
            add(kind, entity.id, of(entity))

    assert state.gateway is not None, "a deleted gateway has no snapshot"
    add("gateway", state.gateway.id, gateway(state.gateway, state.version))
    each("consumer", state.consumers.values(), consumer)
    each("registry", state.registries.values(), registry)
    each("policy", state.policies.values(), policy)
    for entity in state.auths.values():
        add("auth", entity.id, auth(entity), entity.key_hash)
    each("role", state.roles.values(), role)
    return found


def catalog(models: Models) -> list[Item]:
    """Providers by code, models by provider, slug and id."""
    found = [Item("provider", msgspec.json.encode(provider(row))) for row in providers_catalog()]
    rows = [(code, row.slug, model_id(code, row.slug), row) for code in models for row in models[code].values()]
    rows.sort(key=lambda row: row[:3])
    found += [Item("model", msgspec.json.encode(model(code, id_, row)), code) for code, _, id_, row in rows]
    return found


def provider(row: Json) -> Json:
    return {
        "ID": row["id"],
        "Code": row["code"],
        "DisplayName": row["display_name"],
        "WireFormat": row["wire_format"],
        "Source": row["source"],
        "Metadata": {},
        "CreatedAt": NEVER,
        "UpdatedAt": NEVER,
    }


def model(code: str, id_: str, row: Model) -> Json:
    """What is not known is null."""
    return {
        "ID": id_,
        "ProviderID": provider_id(code),
        "Slug": row.slug,
        "ExternalID": row.external_id or None,
        "DisplayName": row.display_name or row.slug,
        "ContextWindow": row.context_window or None,
        "MaxOutput": row.max_output or None,
        "InputPrice": row.input_price or None,
        "OutputPrice": row.output_price or None,
        **given(CacheReadPrice=row.cache_read_price, CacheWritePrice=row.cache_write_price),
        "Capabilities": row.capabilities,
        "Enabled": row.enabled,
        "Source": row.source,
        "ReleaseDate": f"{row.release_date}T00:00:00Z" if row.release_date else None,
        "InputModalities": list(row.input_modalities),
        "OutputModalities": list(row.output_modalities),
        "CreatedAt": NEVER,
        "UpdatedAt": NEVER,
    }
