"""Credentials of LLM upstreams: messages, inheritance, Azure modes (spec 01 §3.5, §6.2)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.domain.world import World, message
from trustgate.domain import secrets

PREFIX = "registry: invalid backend: VF: "
MASKED = "secret cannot be a masked value; omit the field to keep the stored value"
KEY_RULE = "api_key requires api_key, header pair, or param pair"
AWS_RULE = "aws.access_key_id and aws.secret_access_key are required when use_role is false"
PRINCIPAL_RULE = "azure service principal requires client_id, client_secret, and tenant_id"
END = {"endpoint": "https://x.example"}

REFUSED = [
    ({"type": "nope"}, 'unknown auth type "nope"'),
    ({}, 'unknown auth type ""'),
    ({"type": "api_key"}, "api_key payload required for type api_key"),
    ({"type": "api_key", "api_key": {}}, KEY_RULE),
    ({"type": "api_key", "api_key": {"api_key": "  "}}, KEY_RULE),
    ({"type": "api_key", "api_key": {"header_name": "X"}}, KEY_RULE),
    ({"type": "api_key", "api_key": {"param_value": "v"}}, KEY_RULE),
    ({"type": "api_key", "api_key": {"api_key": "***"}}, MASKED),
    ({"type": "zz", "aws": {"session_token": "***abcd"}}, MASKED),
    ({"type": "azure"}, "azure payload required for type azure"),
    ({"type": "azure", "azure": {"api_key": "k"}}, "azure.endpoint is required"),
    ({"type": "azure", "azure": END | {"client_id": "c", "tenant_id": "t"}}, PRINCIPAL_RULE),
    (
        {"type": "azure", "azure": END},
        "azure requires exactly one auth mode: api_key, service principal, or use_managed_identity",
    ),
    (
        {"type": "azure", "azure": END | {"api_key": "k", "use_managed_identity": True}},
        "azure auth modes are mutually exclusive",
    ),
    ({"type": "aws"}, "aws payload required for type aws"),
    ({"type": "aws", "aws": {"use_role": True}}, "aws.region is required"),
    ({"type": "aws", "aws": {"region": "r", "use_role": True}}, "aws.role is required when use_role is true"),
    ({"type": "aws", "aws": {"region": "r", "access_key_id": "a"}}, AWS_RULE),
    ({"type": "oauth2"}, "oauth configuration required for type oauth2"),
    ({"type": "oauth2", "oauth": {"grant_type": "g"}}, "oauth.token_url is required"),
    ({"type": "oauth2", "oauth": {"token_url": "u"}}, "oauth.grant_type is required"),
    ({"type": "gcp_service_account"}, "gcp_service_account payload required"),
]


@pytest.mark.parametrize(("auth", "expected"), REFUSED)
def test_credentials_are_refused_with_the_first_broken_rule(auth, expected):
    world = World()
    assert message(world.registry, world.gateway().id, provider="openai", auth=auth) == PREFIX + expected


ACCEPTED = [
    {"type": "api_key", "api_key": {"header_name": "X", "header_value": "header-secret"}},
    {"type": "api_key", "api_key": {"param_name": "k", "param_value": "param-secret", "param_location": "query"}},
    {"type": "azure", "azure": END | {"api_key": "azure-secret", "version": "v1"}},
    {"type": "azure", "azure": END | {"client_id": "c", "client_secret": "azure-secret", "tenant_id": "t"}},
    {"type": "azure", "azure": END | {"use_managed_identity": True}},
    {"type": "aws", "aws": {"region": "r", "access_key_id": "AKIA-1234", "secret_access_key": "aws-secret"}},
    {"type": "aws", "aws": {"region": "r", "use_role": True, "role": "arn"}},
    {"type": "oauth2", "oauth": {"token_url": "u", "grant_type": "g", "scopes": ["a"], "extra": {"b": "c"}}},
]


def masked_auth(world: World, auth: dict[str, Any]) -> Any:
    g = world.gateway().id
    target = world.registry(g, provider="openai", auth=auth).llm_target
    assert target is not None
    return g, next(iter(world.states[g].registries)), secrets.masked(target.auth)


@pytest.mark.parametrize("auth", ACCEPTED)
def test_accepted_credentials_are_kept_as_sent_with_their_secrets_in_the_vault(auth):
    world = World()
    _, _, shown = masked_auth(world, auth)
    payload = next(name for name in auth if name != "type")
    for member, value in auth[payload].items():
        hidden = any(value == secret for secret in world.vault.values())
        assert shown[payload][member] == (secrets.mask(value) if hidden else value)
    assert shown["type"] == auth["type"]


def test_a_service_account_is_compact_json_with_sorted_keys_however_it_is_sent():
    for sent in ({"b": 1, "a": "x"}, ' { "b": 1, "a": "x" } '):
        world = World()
        masked_auth(world, {"type": "gcp_service_account", "gcp_service_account": sent})
        assert list(world.vault.values()) == ['{"a":"x","b":1}']


def stored_auth(world: World, g: str, id_: str) -> dict[str, Any]:
    target = world.states[g].registries[id_].llm_target
    assert target is not None and target.auth is not None
    return target.auth


PAYLOADS = [
    ("api_key", "api_key", {"api_key": "first-secret-1", "header_name": "X", "header_value": "second-secret-2"}, {}),
    (
        "aws",
        "aws",
        {"region": "r", "access_key_id": "AKIA-123456", "secret_access_key": "aws-secret-9"},
        {"region": "q"},
    ),
    (
        "oauth2",
        "oauth",
        {"token_url": "u", "grant_type": "g", "client_secret": "oauth-secret", "password": "pass-secret-1"},
        {"token_url": "v", "grant_type": "g"},
    ),
]


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize(("type_", "payload", "members", "others"), PAYLOADS)
def test_a_put_keeps_stored_secrets_where_its_own_are_blank_or_masked(type_, payload, members, others, echo):
    world = World()
    g, id_, shown = masked_auth(world, {"type": type_, payload: members})
    before = stored_auth(world, g, id_)[payload]
    sent = others | ({k: v for k, v in shown[payload].items() if str(v).startswith("***")} if echo else {})
    world.put_registry(g, id_, auth={"type": type_, payload: sent})
    after = stored_auth(world, g, id_)[payload]
    assert {k: v for k, v in after.items() if secrets.is_ref(v)} == {
        k: v for k, v in before.items() if secrets.is_ref(v)
    }
    assert {k: v for k, v in after.items() if not secrets.is_ref(v)} == others


def test_a_new_secret_replaces_the_stored_one_which_is_forgotten():
    world = World()
    g, id_, _ = masked_auth(world, {"type": "api_key", "api_key": {"api_key": "first-secret-1"}})
    world.put_registry(g, id_, auth={"type": "api_key", "api_key": {"api_key": "second-secret-2"}})
    assert list(world.vault.values()) == ["second-secret-2"]
    assert list(secrets.refs(stored_auth(world, g, id_))) == list(world.vault)


def test_another_type_inherits_nothing():
    world = World()
    g, id_, _ = masked_auth(world, {"type": "api_key", "api_key": {"api_key": "first-secret-1"}})
    aws = {"region": "r", "access_key_id": "***", "secret_access_key": "x"}
    assert message(world.put_registry, g, id_, auth={"type": "aws", "aws": aws}) == PREFIX + MASKED
    assert message(world.put_registry, g, id_, auth={"type": "aws", "aws": {"region": "r"}}) == PREFIX + AWS_RULE


def test_azure_on_put_follows_the_mode_that_the_request_hints_at():
    world = World()
    g, id_, _ = masked_auth(world, {"type": "azure", "azure": END | {"api_key": "azure-key-1", "version": "v"}})

    def put(**members: Any) -> dict[str, Any]:
        world.put_registry(g, id_, auth={"type": "azure", "azure": members})
        return secrets.masked(stored_auth(world, g, id_)["azure"])

    assert put(**END) == END | {"api_key": "***ey-1"}
    assert message(put, api_key="***ey-1") == PREFIX + "azure.endpoint is required"
    assert put(**END, use_managed_identity=True) == END | {"use_managed_identity": True}
    assert message(put, **END, api_key="***ey-1") == PREFIX + MASKED
    principal = {"client_id": "c", "tenant_id": "t"}
    assert put(**END, **principal, client_secret="azure-secret-5") == END | principal | {"client_secret": "***et-5"}
    assert put(**END, client_secret="***et-5") == END | principal | {"client_secret": "***et-5"}
    assert message(put, **END, client_id="other") == PREFIX + PRINCIPAL_RULE
    assert put(**END) == END | principal | {"client_secret": "***et-5"}
    assert put(**END, api_key="azure-key-6") == END | {"api_key": "***ey-6"}
    both = message(put, **END, api_key="k", use_managed_identity=True)
    assert both == PREFIX + "azure auth modes are mutually exclusive"


@pytest.mark.parametrize("strict", [False, True])
def test_a_stored_secret_follows_to_another_origin_unless_the_switch_forbids_it(strict):
    world = World(require_secret_on_new_origin=strict)
    g = world.gateway().id
    auth = {"type": "api_key", "api_key": {"api_key": "first-secret-1"}}
    body = {"provider": "openai_compatible", "provider_options": {"base_url": "https://a.example/v1"}}
    id_ = world.registry(g, **body, auth=auth).id
    world.put_registry(g, id_, provider_options={"base_url": "https://a.example/v2"})
    elsewhere = {"base_url": "https://evil.example/v1"}
    if strict:
        assert message(world.put_registry, g, id_, provider_options=elsewhere) == "auth is required: VF"
        echo = {"type": "api_key", "api_key": {"api_key": "***et-1"}}
        assert message(world.put_registry, g, id_, provider_options=elsewhere, auth=echo) == PREFIX + MASKED
        world.put_registry(g, id_, provider_options=elsewhere, auth=auth)
    else:
        world.put_registry(g, id_, provider_options=elsewhere)
