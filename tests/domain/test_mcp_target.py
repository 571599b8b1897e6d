"""Upstream MCP servers: messages, inheritance, catalog (spec 01 §6.4, spec 05 §7.1)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.domain.world import World, message
from trustgate.domain import secrets

URL = "https://mcp.example/one"
MASKED = "secret cannot be a masked value; omit the field to keep the stored value"
PATTERN_RULE = "exchange requires pattern (impersonation|delegation|obo|token_exchange)"
MANUAL_RULE = (
    "forwarded with manual registration requires client_id, authorize_url and token_url (or set registration: auto)"
)
CREDENTIALS_RULE = "client_credentials requires client_id and client_secret"
MANUAL = {
    "mode": "forwarded",
    "provider": "p",
    "client_id": "c",
    "authorize_url": "https://a.e",
    "token_url": "https://a.e",
}
CREDENTIALS = {
    "mode": "client_credentials",
    "client_id": "c",
    "client_secret": "mcp-secret-1",
    "token_url": "https://a.e",
}

REFUSED_AUTHS: list[tuple[dict[str, Any], str]] = [
    ({"mode": "none", "header": "X"}, "auth mode none does not accept header/value"),
    ({"value": "v"}, "auth mode none does not accept header/value"),
    ({"mode": "static", "header": "X"}, "auth mode static requires header and value"),
    ({"mode": "static", "header": "X", "value": "***"}, MASKED),
    ({"mode": "passthrough"}, "passthrough requires expected_audience (unconstrained passthrough is forbidden)"),
    ({"mode": "exchange"}, PATTERN_RULE),
    ({"mode": "exchange", "pattern": "zz"}, PATTERN_RULE),
    ({"mode": "exchange", "pattern": "impersonation"}, "exchange/impersonation requires audience"),
    ({"mode": "exchange", "pattern": "delegation", "audience": "a"}, "exchange/delegation requires audience and actor"),
    ({"mode": "exchange", "pattern": "obo"}, "exchange/obo requires scope (e.g. resource/.default)"),
    ({"mode": "exchange", "pattern": "token_exchange"}, "exchange/token_exchange requires audience"),
    ({"mode": "forwarded"}, "forwarded requires provider"),
    (
        {"mode": "forwarded", "provider": "p", "registration": "auto", "client_id": "c"},
        "registration auto does not accept client_id/client_secret",
    ),
    ({"mode": "forwarded", "provider": "p"}, MANUAL_RULE),
    (MANUAL | {"token_url": "x"}, "authorize_url and token_url must be valid http(s) URLs"),
    (MANUAL | {"registration": "zz"}, 'unknown registration mode "zz"'),
    (MANUAL | {"client_secret": "***abcd"}, MASKED),
    ({"mode": "client_credentials", "client_id": "c"}, CREDENTIALS_RULE),
    (CREDENTIALS | {"client_secret": "***"}, MASKED),
    (CREDENTIALS | {"token_url": "ftp://x"}, "client_credentials requires a valid http(s) token_url"),
    (CREDENTIALS | {"token_endpoint_auth_method": "zz"}, 'unknown token_endpoint_auth_method "zz"'),
    ({"mode": "zz"}, 'unknown auth mode "zz"'),
]
REFUSED = [({"url": URL, "auth": auth}, expected) for auth, expected in REFUSED_AUTHS] + [
    ({}, "url is required"),
    ({"url": "ftp://x", "transport": "sse"}, "url must be a valid http(s) URL"),
    ({"url": URL, "transport": "sse", "auth": {"mode": "zz"}}, 'unsupported transport "sse"'),
    ({"url": URL, "headers": {"Authorization": "***abcd"}}, MASKED),
]


@pytest.mark.parametrize(("target", "expected"), REFUSED)
def test_a_target_is_refused_with_the_first_broken_rule(target, expected):
    world = World()
    said = message(world.registry, world.gateway().id, type="MCP", mcp_target=target)
    assert said == "registry: invalid mcp target: VF: " + expected


def made(world: World, **target: Any):
    g = world.gateway().id
    registry = world.registry(g, type="MCP", mcp_target={"url": URL, **target})
    assert registry.mcp_target is not None

    def put(**changes: Any):
        changed = world.put_registry(g, registry.id, mcp_target=changes).mcp_target
        assert changed is not None
        return changed

    return registry.mcp_target, put


def test_blank_members_of_a_put_keep_the_stored_ones_and_empty_headers_clear():
    target, put = made(
        World(), code="mine", headers={"X-Env": "t"}, auth={"mode": "static", "header": "X", "value": "static-01"}
    )
    assert put() == target
    assert put(url=" ", transport="", code="", auth={}) == target
    changed = put(url="https://two.example", headers={})
    assert (changed.url, changed.headers, changed.code, changed.auth) == (
        "https://two.example",
        {},
        "mine",
        target.auth,
    )


@pytest.mark.parametrize(
    ("auth", "name", "rest"),
    [
        ({"mode": "static", "header": "X", "value": "static-0001"}, "value", {"mode": "static", "header": "Y"}),
        (MANUAL | {"client_secret": "mcp-secret-2"}, "client_secret", MANUAL | {"client_id": "d"}),
        (CREDENTIALS, "client_secret", {k: v for k, v in CREDENTIALS.items() if k != "client_secret"}),
    ],
)
def test_a_put_of_the_same_mode_keeps_the_secret(auth, name, rest):
    target, put = made(World(), auth=auth)
    assert secrets.is_ref(target.auth[name])
    assert put(auth=rest).auth[name] == target.auth[name]
    assert put(auth=rest | {name: "***"}).auth[name] == target.auth[name]


def test_a_put_of_another_mode_inherits_nothing():
    _, put = made(World(), auth={"mode": "static", "header": "X", "value": "static-0001"})
    prefix = "registry: invalid mcp target: VF: "
    without = {k: v for k, v in CREDENTIALS.items() if k != "client_secret"}
    assert message(put, auth=without) == prefix + CREDENTIALS_RULE
    assert message(put, auth=without | {"client_secret": "***"}) == prefix + MASKED
    assert put(auth={"mode": "none"}).auth == {"mode": "none"}


def test_automatic_registration_lets_a_stored_client_secret_go():
    _, put = made(World(), auth=MANUAL | {"client_secret": "mcp-secret-2"})
    auto = {"mode": "forwarded", "provider": "p", "registration": "auto"}
    assert put(auth=auto).auth == auto


def test_headers_that_carry_credentials_are_kept_as_secrets():
    world = World()
    target, put = made(world, headers={"X-Env": "prod", "Authorization": "Bearer abc-123"})
    assert target.headers["X-Env"] == "prod"
    assert list(world.vault.values()) == ["Bearer abc-123"]
    echo = secrets.masked(target.headers)
    assert echo["Authorization"] == "***-123"
    assert put(headers=echo).headers == target.headers


def test_a_client_credentials_entry_of_the_catalog_decides_its_endpoint():
    world = World()
    sent = CREDENTIALS | {"scopes": ["mine"], "token_url": "https://mine.example", "header": "X", "authorize_url": "y"}
    target, _ = made(world, code="cat", auth=sent)
    assert secrets.masked(target.auth) == {
        "mode": "client_credentials",
        "client_id": "c",
        "client_secret": "***et-1",
        "token_url": "https://cat.example/t",
        "resource": URL,
    }
    target, put = made(world, code="cat", auth={"client_id": "c", "client_secret": "mcp-secret-1"})
    assert target.auth["mode"] == "client_credentials"
    assert put(auth={"client_id": "d"}).auth["client_secret"] == target.auth["client_secret"]
    free, _ = made(world, code="cat-open")
    assert (free.code, free.auth) == ("cat-open", {"mode": "none"})


@pytest.mark.parametrize(
    ("code", "mode", "expected"),
    [
        ("cat", "none", 'VF: catalog entry "cat" requires auth mode client_credentials'),
        ("cat-broken", "client_credentials", 'VF: catalog entry "cat-broken" is missing oauth.token_url'),
    ],
)
def test_a_catalog_entry_refuses_what_does_not_fit_it(code, mode, expected):
    assert message(made, World(), code=code, auth={"mode": mode}) == expected


def test_vault_references_stay_short_whatever_a_client_calls_its_headers():
    world = World()
    target, put = made(
        world, headers={"X-Token-" + "a" * 5000: "secret-one-1", "X-Token-" + "b" * 5000: "secret-two-2"}
    )
    assert sorted(world.vault.values()) == ["secret-one-1", "secret-two-2"]
    assert all(len(ref) < 300 for ref in world.vault)
    assert put(headers=secrets.masked(target.headers)).headers == target.headers


@pytest.mark.parametrize("strict", [False, True])
def test_a_stored_secret_follows_to_another_origin_unless_the_switch_forbids_it(strict):
    _, put = made(
        World(require_secret_on_new_origin=strict), auth={"mode": "static", "header": "X", "value": "static-01"}
    )
    again = {"mode": "static", "header": "X"}
    put(url="https://mcp.example/two", auth=again)
    if strict:
        said = message(put, url="https://evil.example/one", auth=again)
        assert said == "registry: invalid mcp target: VF: auth mode static requires header and value"
    else:
        put(url="https://evil.example/one", auth=again)
