"""The JSON of a snapshot's objects (spec 06 §17.2): what we write, and what we read of other control planes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import views
from tests.sync.states import SECRETS, WRITTEN, everything
from trustgate.domain.entities import (
    Budget,
    Entitlements,
    Fallback,
    GatewayState,
    LBConfig,
    LLMTarget,
    ModelPolicy,
)
from trustgate.providers.catalog import Model
from trustgate.sync import encode
from trustgate.sync.decode import Reader, Unreadable
from trustgate.sync.messages import Item, snapshot_item


def objects(state: GatewayState) -> dict[tuple[str, str], tuple[Any, str]]:
    found = encode.entries(state, SECRETS.__getitem__)
    return {(item.kind, id_): (json.loads(item.json), item.extra) for id_, item in found}


def data_of(state: GatewayState, *more: Item) -> bytes:
    return b"".join(snapshot_item(item) for _, item in encode.entries(state, SECRETS.__getitem__)) + b"".join(
        map(snapshot_item, more)
    )


@pytest.mark.parametrize("kind, id_", list(WRITTEN))
def test_an_object_is_written_with_its_documented_members(kind: str, id_: str) -> None:
    assert objects(everything())[kind, id_][0] == WRITTEN[kind, id_]


def test_every_object_of_a_gateway_is_written_and_only_keys_have_a_hash() -> None:
    found = objects(everything())
    assert found.keys() == WRITTEN.keys()
    assert {place: extra for place, (_, extra) in found.items() if extra} == {("auth", "a-key"): "ab" * 32}


def test_a_blank_tier_is_free() -> None:
    state = views.state(entitlements=Entitlements("  "))
    assert objects(state)["gateway", "gw-1"][0]["entitlements"] == {"tier": "free"}


def test_what_was_written_is_read_with_its_secrets_in_clear() -> None:
    state = everything()
    read = Reader().read(data_of(state)).states["gw-1"]
    assert read.version == 12
    assert read.gateway is not None and state.gateway is not None
    assert (read.gateway.domain, read.gateway.session_config) == ("ai.example.com", state.gateway.session_config)
    assert read.gateway.entitlements == state.gateway.entitlements
    assert read.roles == state.roles
    assert read.policies["p-2"] == state.policies["p-2"]
    assert read.policies["p-1"].settings == {"limit": 5, "webhook": {"token": "hook-clear"}}
    assert read.consumers["c-Tools001"] == state.consumers["c-Tools001"]
    assert read.consumers["c-Inline01"].fallback == state.consumers["c-Inline01"].fallback
    target = read.registries["r-llm"].llm_target
    assert target is not None and target.auth == {"type": "api_key", "api_key": {"api_key": "sk-clear"}}
    assert read.auths["a-key"].key_hash == "ab" * 32
    again = encode.entries(read, SECRETS.__getitem__)
    assert {(item.kind, id_): json.loads(item.json) for id_, item in again} == WRITTEN


OTHERS: list[tuple[str, dict[str, Any], str]] = [
    (
        "gateway",
        {
            "id": "g",
            "slug": "s",
            "status": "active",
            "domain": "",
            "metadata": {"team": 7, "x": None},
            "telemetry": None,
            "client_tls": None,
            "session_config": None,
            "entitlements": {"tier": "", "burst_per_min": None},
            "hosts": {"new": True},
        },
        "",
    ),
    (
        "consumer",
        {
            "id": "c",
            "gateway_id": "g",
            "name": "c",
            "type": "LLM",
            "slug": "S",
            "routing_mode": "inline",
            "active": True,
            "registry_ids": ["r"],
            "registry_weights": None,
            "role_ids": None,
            "auth_ids": None,
            "headers": None,
            "model_policies": {"r": {"allowed": None, "default": ""}},
            "mcp": None,
            "unheard": [1],
            "lb_config": {"enabled": False, "members": None, "embedding_config": None, "smart_routing": None},
            "fallback": {
                "enabled": False,
                "triggers": None,
                "budget": {"max_attempts": 3, "max_total_latency": 1},
                "chain": None,
            },
        },
        "",
    ),
    (
        "consumer",
        {
            "id": "c2",
            "gateway_id": "g",
            "name": "c2",
            "type": "MCP",
            "slug": "S2",
            "routing_mode": "inline",
            "active": True,
            "registry_ids": [],
            "role_ids": [],
            "auth_ids": [],
            "mcp": {"toolkit": None, "fail_mode": ""},
        },
        "",
    ),
    (
        "registry",
        {
            "id": "r",
            "gateway_id": "g",
            "name": "r",
            "type": "LLM",
            "enabled": True,
            "mcp_target": None,
            "llm_target": {
                "provider": "openai",
                "provider_options": None,
                "auth": None,
                "health_checks": None,
                "zone": 1,
            },
        },
        "",
    ),
    (
        "policy",
        {
            "id": "p",
            "gateway_id": "g",
            "consumer_ids": None,
            "name": "p",
            "slug": "cors",
            "enabled": True,
            "global": True,
            "priority": 1,
            "parallel": False,
            "settings": {"keep": None},
            "stages": None,
            "mode": "enforce",
        },
        "",
    ),
    (
        "auth",
        {"id": "a", "gateway_id": "g", "name": "a", "type": "api_key", "enabled": True, "config": None},
        "AB" * 32,
    ),
    (
        "role",
        {"id": "o", "gateway_id": "g", "name": "o", "model_policies": None, "mcp_policies": None, "oidc_mapping": None},
        "",
    ),
]
NANOS = {"created_at": "2026-01-02T03:04:05.123456789Z", "updated_at": "2026-01-02T03:04:05+02:00"}


def test_objects_of_another_control_plane_are_read_whatever_else_they_say() -> None:
    items = [Item(kind, json.dumps(members | NANOS).encode(), extra) for kind, members, extra in OTHERS]  # type: ignore[arg-type]
    state = Reader().read(b"".join(map(snapshot_item, items))).states["g"]
    assert state.version == 1
    assert state.gateway is not None
    assert state.gateway.entitlements == Entitlements()
    assert state.gateway.metadata == {"team": "7"}
    assert state.gateway.created_at.microsecond in (123456, 123457)
    consumer = state.consumers["c"]
    assert consumer.fallback == Fallback(budget=Budget(3, 1))
    assert consumer.lb_config == LBConfig()
    assert consumer.model_policies == {"r": ModelPolicy()}
    assert state.consumers["c2"].toolkit is None
    assert state.registries["r"].llm_target == LLMTarget("openai")
    assert state.policies["p"].settings == {"keep": None}
    assert state.auths["a"].key_hash == "ab" * 32
    assert state.auths["a"].config == {}


def test_what_did_not_change_is_the_same_object_and_versions_grow() -> None:
    reader, state = Reader(), everything()
    first = reader.read(data_of(state)).states["gw-1"]
    assert reader.read(data_of(state)).states["gw-1"] is first
    role = views.role("role-2")
    other = views.state(*state.consumers.values(), role, version=3)
    second = reader.read(data_of(other)).states["gw-1"]
    assert second.version == 13
    assert second.consumers["c-Inline01"] is first.consumers["c-Inline01"]
    assert second.roles == {"role-2": role}


UNREADABLE = [
    (b"\xff", "no snapshot"),
    (snapshot_item(Item("gateway", b"{")), "a gateway cannot be read"),
    (snapshot_item(Item("gateway", b'{"id":"g"}')), "gateway g cannot be read"),
    (snapshot_item(Item("role", b'{"id":"o"}')), "role o names no gateway"),
    (snapshot_item(Item("policy", b'{"id":"p","gateway_id":"g","priority":"x"}')), "policy p cannot be read"),
    (snapshot_item(Item("model", b"[]", "openai")), "a model of openai cannot be read"),
]


@pytest.mark.parametrize("data, message", UNREADABLE)
def test_a_snapshot_that_cannot_be_read_says_which_object_and_changes_nothing(data: bytes, message: str) -> None:
    reader = Reader()
    before = reader.read(data_of(everything())).states["gw-1"]
    with pytest.raises(Unreadable, match=message):
        reader.read(data)
    assert reader.read(data_of(everything())).states["gw-1"] is before


MODEL = Model(
    slug="m",
    display_name="M",
    context_window=8000,
    input_price="0.000001",
    cache_read_price="0.0000001",
    capabilities={"tools": True},
    enabled=False,
    source="models.dev",
    release_date="2025-01-31",
    input_modalities=("text",),
)


def test_the_catalog_has_capitalised_members_in_order() -> None:
    found = encode.catalog({"openai": {"z": Model(slug="z"), "m": MODEL}, "anthropic": {"c": Model(slug="c")}})
    providers = [json.loads(item.json) for item in found if item.kind == "provider"]
    assert [row["Code"] for row in providers] == sorted(row["Code"] for row in providers)
    assert providers[0].keys() == {
        "ID",
        "Code",
        "DisplayName",
        "WireFormat",
        "Source",
        "Metadata",
        "CreatedAt",
        "UpdatedAt",
    }
    models = [(item.extra, json.loads(item.json)) for item in found if item.kind == "model"]
    assert [(code, row["Slug"]) for code, row in models] == [("anthropic", "c"), ("openai", "m"), ("openai", "z")]
    assert models[1][1] | {"ID": 0, "ProviderID": 0} == {
        "ID": 0,
        "ProviderID": 0,
        "Slug": "m",
        "ExternalID": None,
        "DisplayName": "M",
        "ContextWindow": 8000,
        "MaxOutput": None,
        "InputPrice": "0.000001",
        "OutputPrice": None,
        "CacheReadPrice": "0.0000001",
        "Capabilities": {"tools": True},
        "Enabled": False,
        "Source": "models.dev",
        "ReleaseDate": "2025-01-31T00:00:00Z",
        "InputModalities": ["text"],
        "OutputModalities": [],
        "CreatedAt": encode.NEVER,
        "UpdatedAt": encode.NEVER,
    }


def test_models_are_read_back_and_prices_may_be_numbers() -> None:
    items = encode.catalog({"openai": {"m": MODEL}})
    other = {"Slug": "n", "InputPrice": 2e-06, "OutputPrice": None, "Capabilities": None, "Enabled": True, "New": 1}
    items.append(Item("model", json.dumps(other).encode(), "openai"))
    models = Reader().read(b"".join(map(snapshot_item, items))).models
    assert models["openai"]["m"] == MODEL
    assert models["openai"]["n"].input_price == "2e-06"
