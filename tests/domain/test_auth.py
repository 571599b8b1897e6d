"""Credentials of consumers: keys, configs, guards (spec 01 §9)."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.domain.world import API_KEY, OAUTH2, OIDC, UNKNOWN, World, message, refusal
from trustgate.domain import commands as cmd
from trustgate.domain import secrets
from trustgate.domain.decide_auth import digest

CONFIG = "auth: invalid config: VF: "
PAIR = OAUTH2 | {"client_id": "c", "authorize_url": "https://a.e", "token_url": "https://t.e"}
SCOPE = (
    CONFIG
    + 'oauth2.required_scopes cannot contain the OIDC protocol scope "openid" (it is not carried by access tokens)'
)
SOURCES = CONFIG + "oauth2 requires jwks_url or introspection_url, or an http(s) issuer for OIDC discovery"
CLIENT = CONFIG + (
    "oauth2.authorize_url/token_url require oauth2.client_id (interactive brokering needs a pre-registered client)"
)


def certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + datetime.timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


REFUSED = [
    ({"name": " "}, "name is required: VF"),
    ({"name": "x" * 256}, "name too long (max 255): VF"),
    ({"type": None}, "type is required: VF"),
    ({"type": " "}, "type is required: VF"),
    ({"type": "API_KEY"}, 'auth: invalid type: VF: "API_KEY"'),
    ({"type": "oidc"}, CONFIG + 'exactly the oidc config payload must be set for type "oidc"'),
    (
        {"type": "oidc", "config": {"oidc": OIDC, "oauth2": OAUTH2}},
        CONFIG + 'exactly the oidc config payload must be set for type "oidc"',
    ),
    (
        {"oauth2": OAUTH2 | {"client_secret": "***"}},
        CONFIG + "oauth2.client_secret cannot be a masked value; omit it to keep the stored value",
    ),
    ({"oauth2": OAUTH2 | {"issuer": " "}}, CONFIG + "oauth2.issuer is required"),
    ({"oauth2": OAUTH2 | {"audiences": []}}, CONFIG + "oauth2.audiences is required"),
    ({"oauth2": OAUTH2 | {"audiences": ["a", " "]}}, CONFIG + "oauth2.audiences cannot contain empty entries"),
    ({"oauth2": OAUTH2 | {"required_scopes": [""]}}, CONFIG + "oauth2.required_scopes cannot contain empty entries"),
    ({"oauth2": OAUTH2 | {"required_scopes": ["read", " openid "]}}, SCOPE),
    ({"oauth2": OAUTH2 | {"userinfo_url": "x"}}, CONFIG + "oauth2.userinfo_url must be an http(s) URL"),
    ({"oauth2": PAIR | {"token_url": " "}}, CONFIG + "oauth2.authorize_url and oauth2.token_url must be set together"),
    ({"oauth2": PAIR | {"client_id": ""}}, CLIENT),
    ({"oauth2": PAIR | {"authorize_url": "x"}}, CONFIG + "oauth2.authorize_url must be an http(s) URL"),
    ({"oauth2": PAIR | {"token_url": "x"}}, CONFIG + "oauth2.token_url must be an http(s) URL"),
    ({"oauth2": {"issuer": "urn:idp", "audiences": ["a"]}}, SOURCES),
    ({"oidc": OIDC | {"issuer": ""}}, CONFIG + "oidc.issuer is required"),
    ({"oidc": OIDC | {"audiences": None}}, CONFIG + "oidc.audiences is required"),
    ({"oidc": OIDC | {"jwks_url": ""}}, CONFIG + "oidc requires jwks_url or public_keys"),
    (
        {"oidc": OIDC | {"allowed_algorithms": ["RS256", "hs256"]}},
        CONFIG + "oidc.allowed_algorithms must not include HMAC algorithms",
    ),
    ({"mtls": {"ca_cert": " "}}, CONFIG + "mtls.ca_cert is required"),
    ({"mtls": {"ca_cert": "pem"}}, CONFIG + "mtls.ca_cert must be a PEM bundle of certificates"),
]


def with_config(body):
    """`{"oidc": X}` for `{"type": "oidc", "config": {"oidc": X}}`."""
    kind = next((name for name in ("oauth2", "oidc", "mtls") if name in body), None)
    return {"type": kind, "config": {kind: body[kind]}} if kind else body


@pytest.mark.parametrize(("body", "expected"), REFUSED)
def test_creation_is_refused_with_the_first_broken_rule(body, expected):
    world = World()
    g = world.gateway().id
    assert message(world.auth, g, **with_config(body)) == expected
    assert not world.states[g].auths


ACCEPTED = [
    {"oauth2": {"issuer": "https://idp.example", "audiences": [" a "]}},
    {"oauth2": {"issuer": "urn:idp", "audiences": ["a"], "session_mode": True}},
    {"oauth2": {"issuer": "urn:idp", "audiences": ["a"], "introspection_url": "https://i.e"}},
    {"oauth2": PAIR | {"required_scopes": [" read "], "client_secret": "oauth-secret-1"}},
    {"oidc": OIDC | {"public_keys": ["pem"], "jwks_url": ""}},
    {"mtls": {"ca_cert": certificate(), "allowed_common_names": ["cn"]}},
    {"mtls": {"ca_cert": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"}},
]


@pytest.mark.parametrize("body", ACCEPTED)
def test_accepted_configs_are_kept_without_their_blank_members(body):
    world = World()
    kind = next(iter(body))
    config = secrets.masked(world.auth(world.gateway().id, **with_config(body)).config)
    expected = {k: v for k, v in body[kind].items() if v}
    for name in ("audiences", "required_scopes"):
        if name in expected:
            expected[name] = [item.strip() for item in expected[name]]
    if "client_secret" in expected:
        expected["client_secret"] = "***et-1"
    assert config == {kind: expected}


def test_of_an_api_key_only_digest_prefix_and_suffix_are_kept():
    world = World()
    g = world.gateway().id
    auth = world.auth(g, enabled=False, config={"oidc": OIDC})
    assert (auth.key_hash, auth.key_prefix, auth.key_suffix) == (digest(API_KEY), API_KEY[:8], API_KEY[-4:])
    assert (auth.config, auth.enabled, len(auth.key_hash)) == ({}, False, 64)
    assert world.auth(g).name == auth.name
    assert API_KEY not in repr(world.log)


def test_creation_in_an_unknown_gateway_is_refused():
    assert message(World().auth, UNKNOWN) == "auth: invalid gateway_id: VF"


REFUSED_PUTS = [
    ({"name": ""}, "name is required: VF"),
    ({"type": ""}, "type is required: VF"),
    ({"type": "zz"}, 'auth: invalid type: VF: "zz"'),
    ({"config": {"oidc": OIDC}}, CONFIG + "api_key auth does not accept a config payload"),
    ({"type": "oidc"}, CONFIG + 'exactly the oidc config payload must be set for type "oidc"'),
]


@pytest.mark.parametrize(("body", "expected"), REFUSED_PUTS)
def test_a_put_is_refused_with_the_first_broken_rule(body, expected):
    world = World()
    g = world.gateway().id
    assert message(world.put_auth, g, world.auth(g).id, **body) == expected


def test_a_put_on_an_unknown_auth_is_404_and_422_when_it_is_of_another_gateway():
    world = World()
    g, other = world.gateway().id, world.gateway().id
    auth = world.auth(g)
    assert refusal(world.put_auth, g, UNKNOWN, name="z").status == 404
    assert message(world.put_auth, other, auth.id, name="z") == "auth: invalid gateway_id: VF"
    assert refusal(world.run, cmd.DeleteAuth(world.meta(), other, auth.id)).status == 404


def test_an_api_key_survives_a_change_of_type_and_back():
    world = World()
    g = world.gateway().id
    auth = world.auth(g)
    oidc = world.put_auth(g, auth.id, type="oidc", config={"oidc": OIDC})
    assert (oidc.type, oidc.key_hash) == ("oidc", auth.key_hash)
    assert world.put_auth(g, auth.id, type="api_key", config={}).key_hash == auth.key_hash


def test_an_auth_that_becomes_an_api_key_gets_the_key_of_the_command():
    world = World()
    g = world.gateway().id
    auth = world.auth(g, type="oidc", config={"oidc": OIDC})
    assert world.put_auth(g, auth.id, type="api_key", config={}).key_hash == digest("ag_" + "n" * 43)


def test_rotation_replaces_the_key_of_an_api_key_auth_only():
    world = World()
    g = world.gateway().id
    auth, oidc = world.auth(g), world.auth(g, type="oidc", config={"oidc": OIDC})
    world.run(cmd.RotateAuth(world.meta(), g, auth.id, "ag_" + "r" * 43))
    assert world.states[g].auths[auth.id].key_hash == digest("ag_" + "r" * 43)
    assert message(world.run, cmd.RotateAuth(world.meta(), g, oidc.id, "x")) == (
        'auth: invalid type: VF: only api_key auths can be rotated, got "oidc"'
    )
    assert refusal(world.run, cmd.RotateAuth(world.meta(), g, UNKNOWN, "x")).status == 404


def test_a_blank_client_secret_keeps_the_stored_one_and_a_mask_without_one_is_let_go():
    world = World()
    g = world.gateway().id
    auth = world.auth(g, type="oauth2", config={"oauth2": OAUTH2 | {"client_secret": "oauth-secret-1"}})
    stored = auth.config["oauth2"]["client_secret"]
    for sent in (OAUTH2, OAUTH2 | {"client_secret": "***et-1"}):
        assert world.put_auth(g, auth.id, config={"oauth2": sent}).config["oauth2"]["client_secret"] == stored
    world.put_auth(g, auth.id, config={"oauth2": OAUTH2 | {"client_secret": "oauth-secret-2"}})
    assert list(world.vault.values()) == ["oauth-secret-2"]
    bare = world.auth(g, type="oauth2", config={"oauth2": OAUTH2 | {"audiences": ["other"]}})
    sent = OAUTH2 | {"audiences": ["other"], "client_secret": "***abcd"}
    assert "client_secret" not in world.put_auth(g, bare.id, config={"oauth2": sent}).config["oauth2"]


NOT_A_TIME = CONFIG + "expires_at must be an RFC 3339 time"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"expires_at": "tomorrow"}, NOT_A_TIME),
        ({"expires_at": "2027-01-01"}, NOT_A_TIME),
        ({"expires_at": "2027-01-01T00:00:00"}, NOT_A_TIME),
        ({"expires_at": "0001-01-01T00:00:00+14:00"}, NOT_A_TIME),
        ({"allowed_cidrs": ["10.0.0.0/8", "x"]}, CONFIG + "allowed_cidrs[1] must be an address or a CIDR block"),
        ({"allowed_cidrs": [None]}, CONFIG + "allowed_cidrs[0] must be an address or a CIDR block"),
        ({"allowed_cidrs": ["10.0.0.0/33"]}, CONFIG + "allowed_cidrs[0] must be an address or a CIDR block"),
        (
            {"type": "oauth2", "config": {"oauth2": OAUTH2}, "expires_at": "2027-01-01T00:00:00Z"},
            CONFIG + "expires_at and allowed_cidrs are only valid for api_key auths",
        ),
    ],
)
def test_bounds_of_a_key_that_make_no_sense_are_refused(body, expected):
    world = World()
    assert message(world.auth, world.gateway().id, **body) == expected


def test_bounds_of_a_key_are_kept_replaced_and_lifted():
    world = World()
    g = world.gateway().id
    made = world.auth(g, expires_at="2027-01-01T02:00:00+02:00", allowed_cidrs=["10.1.2.3/8", " 2001:DB8::1 "])
    moment = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)
    bounds = (moment, ("10.0.0.0/8", "2001:db8::1/128"))
    assert (made.expires_at, made.allowed_cidrs) == bounds
    kept = world.put_auth(g, made.id, name="b")
    assert (kept.expires_at, kept.allowed_cidrs) == bounds
    other = world.put_auth(g, made.id, type="oidc", config={"oidc": OIDC})
    back = world.put_auth(g, made.id, type="api_key", config={})
    assert (other.key_hash, back.expires_at, back.allowed_cidrs) == (made.key_hash, *bounds)
    lifted = world.put_auth(g, made.id, expires_at="", allowed_cidrs=[])
    assert (lifted.expires_at, lifted.allowed_cidrs) == (None, ())


OVERLAPPING = [["api://one"], ["one", "three"], [" api://one "]]


@pytest.mark.parametrize("audiences", OVERLAPPING)
def test_enabled_oauth2_auths_do_not_cover_the_same_issuer_and_audience(audiences):
    world = World()
    g = world.gateway().id
    first = world.auth(g, "first", type="oauth2", config={"oauth2": OAUTH2})
    config = {"oauth2": OAUTH2 | {"issuer": " https://idp.example ", "audiences": audiences}}
    clash = refusal(world.auth, g, type="oauth2", config=config)
    assert (clash.status, clash.code) == (409, "already_exists")
    assert clash.message == (
        "auth: another enabled oauth2 auth already covers this issuer and audience: resource already exists:"
        f' conflicts with "first" ({first.id}); scope it with a distinct audience or disable the other entry'
    )
    second = world.auth(g, type="oauth2", config=config, enabled=False)
    world.auth(g, type="oidc", config={"oidc": OIDC})
    assert refusal(world.put_auth, g, second.id, enabled=True).message == clash.message
    world.put_auth(g, second.id, name="still disabled")
    world.put_auth(g, first.id, enabled=False)
    assert world.put_auth(g, second.id, enabled=True).enabled


def test_a_type_change_is_checked_with_every_consumer_that_uses_the_auth():
    world = World()
    g = world.gateway().id
    oauth = world.auth(g, type="oauth2", config={"oauth2": OAUTH2})
    mcp = world.consumer(g, type="MCP")
    roles = world.consumer(g, routing_mode="role_based")
    world.run(cmd.AttachAuth(world.meta(), g, mcp.id, oauth.id))
    assert message(world.put_auth, g, oauth.id, type="oidc", config={"oidc": OIDC}).endswith(
        f'an oauth2 auth with a pre-registered client (referenced by consumer "{mcp.slug}")'
    )
    world.run(cmd.AttachAuth(world.meta(), g, roles.id, oauth.id))
    assert message(world.put_auth, g, oauth.id, type="api_key", config={}) == (
        "resource conflict: a role_based consumer requires an identity-provider auth (oauth2 or oidc),"
        f' got "api_key" (referenced by consumer "{roles.slug}")'
    )


def test_the_only_provider_of_a_consumer_is_neither_disabled_nor_deleted():
    world = World()
    g = world.gateway().id
    oidc = world.auth(g, type="oidc", config={"oidc": OIDC})
    key, spare, off = world.auth(g), world.auth(g), world.auth(g, enabled=False)
    llm, mcp, roles = world.consumer(g), world.consumer(g, type="MCP"), world.consumer(g, routing_mode="role_based")
    for consumer, auth in ((llm, key), (llm, oidc), (mcp, key), (mcp, spare), (mcp, off), (roles, oidc)):
        world.run(cmd.AttachAuth(world.meta(), g, consumer.id, auth.id))

    def delete(auth):
        world.run(cmd.DeleteAuth(world.meta(), g, auth.id))

    role_based = f'resource conflict: auth is the only identity provider of role_based consumer "{roles.slug}"'
    assert message(world.put_auth, g, oidc.id, enabled=False) == role_based + "; reassign it before disabling"
    assert message(delete, oidc) == role_based + "; reassign it before deleting"
    delete(spare)
    assert spare.id not in world.states[g].consumers[mcp.id].auth_ids
    only = f'resource conflict: auth is the only usable identity provider of MCP consumer "{mcp.slug}"'
    assert message(world.put_auth, g, key.id, enabled=False) == only + "; reassign it before disabling"
    assert message(delete, key) == only + "; reassign it before deleting"
    world.run(cmd.DetachAuth(world.meta(), g, mcp.id, key.id))
    delete(key)
    assert world.states[g].consumers[llm.id].auth_ids == (oidc.id,)
    assert refusal(delete, key).status == 404


@pytest.mark.parametrize("strict", [False, True])
def test_a_stored_client_secret_follows_to_another_issuer_unless_the_switch_forbids_it(strict):
    world = World(require_secret_on_new_origin=strict)
    g = world.gateway().id
    auth = world.auth(g, type="oauth2", config={"oauth2": OAUTH2 | {"client_secret": "oauth-secret-1"}})
    moved = world.put_auth(g, auth.id, config={"oauth2": OAUTH2 | {"issuer": "https://evil.example"}})
    assert ("client_secret" in moved.config["oauth2"]) is not strict
