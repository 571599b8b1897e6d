"""What the connect page shows: rows by state and by ticket, and why an account cannot be linked."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.oauth.test_connect import consent_url, forwarded, link, token
from tests.oauth.world import Client, Tenant, Upstream, query_of

AUTO = {"mode": "forwarded", "provider": "notes", "registration": "auto"}
NOT_PUBLISHED = (
    "oauth dcr: upstream does not publish OAuth protected-resource metadata; configure registration: manual with a"
    " pre-registered OAuth app"
)
RESOURCE = "/.well-known/oauth-protected-resource"


def rows(page: str) -> list[tuple[str, str, str]]:
    """Name, provider and what may be done, of every row."""
    found = re.findall(r"<strong>(.*?)</strong><small>(.*?)</small></div>(.*?)</li>", page)
    return [(name, provider, " ".join(re.findall(r">([A-Z]\w+)<", action))) for name, provider, action in found]


def test_rows_tell_their_state(tenant: Tenant, client: Client, upstream: Upstream) -> None:
    auth, key = tenant.key()
    registries = [tenant.registry(name, upstream.url, forwarded(upstream)) for name in ("Notes & co", "Second")]
    url = tenant.url(tenant.consumer("c", registries, auth))
    page = consent_url(client, url, X_AG_API_Key=key)

    def both(state: str) -> list[tuple[str, str, str]]:
        return [("Notes &amp; co", "notes", state), ("Second", "notes", state)]

    first = client.http.get(page)
    assert rows(first.text) == both("Connect"), "registries of one provider share an account"
    assert "<title>Connect accounts" in first.text and "<h1>Connect your accounts</h1>" in first.text
    assert first.headers["cache-control"] == "no-store, must-revalidate" and first.headers["pragma"] == "no-cache"
    for refresh, seconds, state in (
        ("", 3600, "Connected Revoke"),
        ("r", 30, "Connected Revoke"),  # it can be renewed
    ):
        after = link(client, page, upstream, "a", refresh, seconds)
        assert rows(after.text) == both(state)
        action = re.search(r'<form method="post" action="(/oauth/disconnect/notes\?ticket=[0-9a-f]{64})">', after.text)
        assert action is not None
        assert rows(client.http.post(client.mcp + action[1]).text) == both("Connect")
        assert client.http.post(client.mcp + action[1]).status_code == 200, "there is nothing left to end"
    assert rows(link(client, page, upstream, "a", "", 30).text) == both("Expired Reconnect")


def test_role_based_servers_show_what_any_role_may_use(
    tenant: Tenant, client: Client, upstream: Upstream, idp: str
) -> None:
    mapping = {"match": "any", "claims": [{"path": "sub", "op": "equals", "values": ["alice"]}]}
    body = {"name": "c", "type": "MCP", "routing_mode": "role_based"}
    consumer = tenant.call("POST", f"{tenant.base}/consumers", body)
    tenant.call("POST", f"{tenant.base}/consumers/{consumer['id']}/auths/{tenant.oauth2(idp)}")
    for name in ("a", "b"):
        registry = tenant.registry(f"Of {name}", upstream.url, forwarded(upstream, f"p-{name}"))
        role = tenant.call("POST", f"{tenant.base}/roles", {"name": name, "oidc_mapping": mapping})["id"]
        tenant.call("POST", f"{tenant.base}/roles/{role}/registries/{registry}")
        tenant.call("POST", f"{tenant.base}/consumers/{consumer['id']}/roles/{role}")
    away = client.log_in(client.authorize(resource=tenant.url(consumer)), "alice")
    page = client.http.get(away.headers["location"])
    assert sorted(rows(page.text)) == [("Of a", "p-a", "Connect"), ("Of b", "p-b", "Connect")]
    assert '<a class="continue" href="http' in page.text


def published(upstream: Upstream, resource: str, server: str, **members: Any) -> None:
    """Metadata at these paths, with an authorization server at `/as`."""
    issuer = f"{upstream.origin}/as"
    upstream.documents[resource] = {"authorization_servers": [issuer], "scopes_supported": ["of-resource"]}
    upstream.documents[server] = {
        "issuer": issuer,
        "authorization_endpoint": f"{upstream.origin}/a",
        "token_endpoint": f"{upstream.origin}/token",
        "registration_endpoint": f"{upstream.origin}/register",
    } | members


def start(tenant: Tenant, client: Client, upstream: Upstream, **auth: Any) -> Any:
    made, key = tenant.key()
    url = tenant.url(tenant.consumer("c", [tenant.registry("N", upstream.url, AUTO | auth)], made))
    ticket = query_of(consent_url(client, url, X_AG_API_Key=key))["ticket"]
    return client.http.get(f"{client.mcp}/oauth/connect/notes", params={"ticket": ticket})


@pytest.mark.parametrize("resource", [f"{RESOURCE}/mcp", RESOURCE])
@pytest.mark.parametrize(
    "server",
    [
        "/.well-known/oauth-authorization-server/as",
        "/.well-known/openid-configuration/as",
        "/as/.well-known/openid-configuration",
    ],
)
def test_where_metadata_is_looked_for(
    tenant: Tenant, client: Client, upstream: Upstream, resource: str, server: str
) -> None:
    published(upstream, resource, server)
    upstream.answers["/register"] = (200, {"client_id": "made"})
    away = start(tenant, client, upstream)
    sent = query_of(away.headers["location"])
    assert (sent["client_id"], sent["scope"], sent["resource"]) == ("made", "of-resource", upstream.url)
    assert upstream.posts == [
        (
            "/register",
            {
                "client_name": "TrustGate MCP Gateway",
                "redirect_uris": [f"{client.mcp}/oauth/callback/notes"],
                "grant_types": ["authorization_code", "refresh_token"],
                "response_types": ["code"],
                "token_endpoint_auth_method": "none",
            },
        )
    ]


@pytest.mark.parametrize(
    ("auth", "members", "scope"),
    [
        ({}, {"scopes_supported": ["of-server", "x"]}, "of-server x"),
        ({"scopes": ["own"]}, {"scopes_supported": ["of-server"]}, "own"),
    ],
)
def test_which_scopes_are_asked_for(
    tenant: Tenant, client: Client, upstream: Upstream, auth: dict[str, Any], members: dict[str, Any], scope: str
) -> None:
    published(upstream, RESOURCE, "/.well-known/oauth-authorization-server/as", **members)
    upstream.answers["/register"] = (201, {"client_id": "made", "client_secret": "s"})
    sent = query_of(start(tenant, client, upstream, resource="urn:own", **auth).headers["location"])
    assert (sent["scope"], sent["resource"]) == (scope, "urn:own")


@pytest.mark.parametrize(
    ("documents", "registered", "flash"),
    [
        ({}, None, NOT_PUBLISHED),
        ({RESOURCE: {"resource": "x"}}, None, NOT_PUBLISHED),
        ({RESOURCE: {"authorization_servers": []}}, None, NOT_PUBLISHED),
        (
            {RESOURCE: {"authorization_servers": ["{origin}/nowhere"]}},
            None,
            "oauth dcr: authorization server metadata could not be discovered",
        ),
        (None, (400, {"error": "invalid_redirect_uri"}), "oauth dcr: registration was refused (status 400)"),
        (None, (201, {}), "oauth dcr: registration was refused (status 201)"),
        (None, (201, b"x"), "oauth dcr: registration was refused (status 201)"),
    ],
)
def test_why_an_account_cannot_be_linked(
    tenant: Tenant, client: Client, upstream: Upstream, documents: Any, registered: Any, flash: str
) -> None:
    if documents is None:
        published(upstream, RESOURCE, "/.well-known/oauth-authorization-server/as")
    else:
        upstream.documents |= json.loads(json.dumps(documents).replace("{origin}", upstream.origin))
    if registered is not None:
        upstream.answers["/register"] = registered
    page = start(tenant, client, upstream)
    assert page.status_code == 200 and f'<div class="flash" role="alert">{flash}' in page.text


def test_a_refused_consent_is_shown_as_text(tenant: Tenant, client: Client, upstream: Upstream) -> None:
    auth, key = tenant.key()
    url = tenant.url(tenant.consumer("c", [tenant.registry("N", upstream.url, forwarded(upstream))], auth))
    ticket = query_of(consent_url(client, url, X_AG_API_Key=key))["ticket"]

    def back(**query: str) -> Any:
        away = client.http.get(f"{client.mcp}/oauth/connect/notes", params={"ticket": ticket})
        state = {"state": query_of(away.headers["location"])["state"]}
        return client.http.get(f"{client.mcp}/oauth/callback/notes", params=query | state)

    refused = back(error="access_denied", error_description="<script>no</script>")
    assert "access_denied: &lt;script&gt;no&lt;/script&gt;</div>" in refused.text
    upstream.answers["/token"] = (200, token("a") | {"scope": "x,y z"})
    assert rows(back(code="c").text) == [("N", "notes", "Connected Revoke")]
    sent = upstream.posts[-1][1]
    assert sent.keys() == {"grant_type", "code", "redirect_uri", "client_id", "client_secret", "code_verifier"}
    (made,) = tenant.call("GET", f"{tenant.base}/links")["items"]
    assert made["scopes"] == ["x", "y", "z"]
