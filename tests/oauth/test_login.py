"""Logging in through the gateway: metadata, registration, authorization, tokens, rotation, revocation."""

from __future__ import annotations

import html
import pathlib
import re

import httpx
import jwt
import pytest

from tests.e2e.installation import installed
from tests.oauth.world import CALLBACK, Client, Tenant, Upstream, query_of


def test_a_stranger_is_told_where_to_log_in(tenant: Tenant, client: Client, upstream: Upstream, idp: str) -> None:
    consumer = tenant.consumer("c", [tenant.registry("r", upstream.url)], tenant.oauth2(idp, required_scopes=["read"]))
    url = tenant.url(consumer)
    refused = client.rpc(url, "ping")
    assert (refused.status_code, refused.text) == (401, "unauthenticated")
    where = f"{tenant.mcp}/.well-known/oauth-protected-resource/{consumer['slug']}/mcp"
    assert refused.headers["www-authenticate"] == f'Bearer resource_metadata="{where}"'
    assert client.http.get(where).json() == {
        "resource": url,
        "authorization_servers": [tenant.mcp],
        "bearer_methods_supported": ["header"],
        "scopes_supported": ["read"],
    }
    for path in ("oauth-authorization-server", "openid-configuration", "oauth-authorization-server/x/mcp"):
        document = client.http.get(f"{tenant.mcp}/.well-known/{path}").json()
        assert document["issuer"] == tenant.mcp
        assert document["token_endpoint"] == f"{tenant.mcp}/oauth/token"
        assert document["code_challenge_methods_supported"] == ["S256"]


def test_a_session_from_registration_to_a_tool_call(
    tenant: Tenant, client: Client, upstream: Upstream, idp: str
) -> None:
    auth = tenant.oauth2(idp)
    consumer = tenant.consumer("c", [tenant.registry("r", upstream.url)], auth)
    url = tenant.url(consumer)
    registered = client.register(CALLBACK, client_name="Agent")
    assert registered.status_code == 201
    client_id = registered.json()["client_id"]
    assert client_id.startswith("agw-") and len(client_id) == 4 + 64
    authorized = client.authorize(client_id=client_id, resource=url, scope="openid email")
    sent = query_of(authorized.headers["location"])
    assert authorized.headers["location"].startswith(f"{idp}/oauth2/authorize?")
    assert sent["client_id"] == "gateway" and sent["redirect_uri"] == f"{tenant.mcp}/oauth/callback"
    assert sent["scope"] == "openid email" and "resource" not in sent
    assert len(sent["state"]) == 64 and sent["code_challenge"] != client.challenge
    back = client.log_in(authorized, "alice")
    answered = query_of(back.headers["location"])
    assert back.headers["location"].startswith(CALLBACK) and answered["state"] == "client-state"
    token = client.redeem(back.headers["location"], client_id=client_id)
    assert token.headers["cache-control"] == "no-store"
    session = token.json()
    assert session["token_type"] == "Bearer" and session["expires_in"] == 3600
    claims = jwt.decode(session["access_token"], options={"verify_signature": False})
    assert claims["sub"] == "alice" and claims["token_use"] == "mcp_session" and claims["iss"] == "trustgate"
    assert claims["authid"] == auth and claims["gwid"] == tenant.id and claims["aud"] == ["tools"]
    keys = client.http.get(f"{tenant.mcp}/.well-known/jwks.json").json()["keys"]
    kid = jwt.get_unverified_header(session["access_token"])["kid"]
    key = jwt.PyJWK(next(key for key in keys if key["kid"] == kid)).key
    assert jwt.decode(session["access_token"], key, algorithms=["RS256"], audience="tools")["sub"] == "alice"
    assert client.whoami(url, Authorization=f"Bearer {session['access_token']}") == ""


def test_refresh_tokens_rotate_and_can_be_revoked(tenant: Tenant, client: Client, upstream: Upstream, idp: str) -> None:
    consumer = tenant.consumer("c", [tenant.registry("r", upstream.url)], tenant.oauth2(idp))
    session = client.session("alice", tenant.url(consumer))
    first = session["refresh_token"]
    renewed = client.token(grant_type="refresh_token", refresh_token=first, client_id=session["client_id"])
    assert renewed.status_code == 200 and renewed.json()["refresh_token"] != first
    assert client.token(grant_type="refresh_token", refresh_token=first).status_code == 200, "a minute of grace"
    other = client.token(grant_type="refresh_token", refresh_token=first, client_id="agw-other")
    assert other.json()["error"] == "invalid_grant"
    second = renewed.json()["refresh_token"]
    assert client.http.post(f"{tenant.mcp}/oauth/revoke", data={"token": second}).status_code == 200
    for ended in (second, first):
        gone = client.token(grant_type="refresh_token", refresh_token=ended)
        assert gone.json() == {"error": "invalid_grant", "error_description": "unknown or expired refresh token"}


def test_a_session_is_renewed_while_its_login_and_its_server_are_there(
    tenant: Tenant, client: Client, upstream: Upstream, idp: str
) -> None:
    auth = tenant.oauth2(idp)
    consumer = tenant.consumer("c", [tenant.registry("r", upstream.url)], auth)
    tenant.consumer("d", [tenant.registry("s", upstream.url)], auth)
    refresh = client.session("alice", tenant.url(consumer))["refresh_token"]
    path = f"{tenant.base}/consumers/{consumer['id']}"
    for entity, off, on in (
        (path, {"active": False}, {"active": True}),
        (f"{tenant.base}/auths/{auth}", {"enabled": False}, {"enabled": True}),
    ):
        if "auths" in entity:
            for id_ in (one["id"] for one in tenant.call("GET", f"{tenant.base}/consumers")["items"]):
                tenant.call("DELETE", f"{tenant.base}/consumers/{id_}/auths/{auth}")
        tenant.call("PUT", entity, off)
        refused = client.token(grant_type="refresh_token", refresh_token=refresh)
        assert refused.json() == {"error": "invalid_grant", "error_description": "unknown or expired refresh token"}
        tenant.call("PUT", entity, on)
        again = client.token(grant_type="refresh_token", refresh_token=refresh)
        assert again.status_code == 200, "what was off for a moment has ended nobody's login"


def test_revocation_names_a_token(client: Client) -> None:
    answer = client.http.post(f"{client.mcp}/oauth/revoke", data={"token_type_hint": "refresh_token"})
    assert answer.status_code == 400
    assert answer.json() == {"error": "invalid_request", "error_description": "token is required"}
    for token in ("unknown", "gwrt_unknown"):
        assert client.http.post(f"{client.mcp}/oauth/revoke", data={"token": token}).status_code == 200


def test_what_the_provider_says_no_to_goes_back_to_the_client_whatever_its_scheme(
    tenant: Tenant, client: Client, upstream: Upstream, idp: str
) -> None:
    auth = tenant.oauth2(idp)
    resource = tenant.url(tenant.consumer("c", [tenant.registry("r", upstream.url)], auth))
    uri = "cursor://anysphere.cursor-mcp/oauth/callback"

    def away(redirect_uri: str) -> str:
        return query_of(client.authorize(redirect_uri=redirect_uri, resource=resource).headers["location"])["state"]

    def back(state: str, **query: str) -> httpx.Response:
        return client.http.get(f"{client.mcp}/oauth/callback", params=query | {"state": state})

    denied = back(away(uri), error="access_denied", error_description="not today")
    assert denied.status_code == 302 and denied.headers["location"].startswith(f"{uri}?error=access_denied&")
    states = [away(CALLBACK), away(CALLBACK)]
    consumers = tenant.call("GET", f"{tenant.base}/consumers")["items"]
    tenant.call("DELETE", f"{tenant.base}/consumers/{consumers[0]['id']}/auths/{auth}")
    tenant.call("DELETE", f"{tenant.base}/auths/{auth}")
    gone = back(states[0], code="x")
    assert (gone.status_code, gone.json()) == (
        400,
        {
            "error": "invalid_request",
            "error_description": "the identity provider behind this authorization is no longer configured",
        },
    )
    denied = back(states[1], error="access_denied")
    assert query_of(denied.headers["location"]) == {"error": "access_denied", "state": "client-state"}


@pytest.mark.parametrize(
    ("fields", "error", "description"),
    [
        ({"response_type": "token"}, "unsupported_response_type", "only response_type=code is supported"),
        ({"redirect_uri": ""}, "invalid_request", "redirect_uri is required"),
        ({"code_challenge": ""}, "invalid_request", "PKCE with code_challenge_method=S256 is required"),
        ({"code_challenge_method": "plain"}, "invalid_request", "PKCE with code_challenge_method=S256 is required"),
        ({"client_id": "agw-unknown"}, "invalid_client", "unknown client_id; register via /oauth/register"),
        (
            {"redirect_uri": "http://evil.example/cb"},
            "invalid_request",
            "redirect_uri must be an https URL, an http loopback URL, or a registered private-use URI"
            " without a fragment",
        ),
        (
            {"redirect_uri": "zed://callback"},
            "invalid_request",
            "private-use redirect_uri must be registered for this client",
        ),
        ({"redirect_uri": "javascript:alert(1)"}, "invalid_request", None),
        ({"redirect_uri": "https://ok.example/#fragment"}, "invalid_request", None),
        ({"redirect_uri": "//evil.example"}, "invalid_request", None),
    ],
)
def test_what_is_wrong_with_the_request_itself_is_never_sent_to_the_redirect_uri(
    tenant: Tenant, client: Client, idp: str, fields: dict[str, str], error: str, description: str | None
) -> None:
    tenant.oauth2(idp)
    answer = client.authorize(**fields)
    assert answer.status_code == (401 if error == "invalid_client" else 400)
    assert answer.json()["error"] == error
    if description:
        assert answer.json()["error_description"] == description
    assert "location" not in answer.headers


def test_open_redirect_a_registered_client_gets_its_code_only_where_it_registered(
    tenant: Tenant, client: Client, upstream: Upstream, idp: str
) -> None:
    consumer = tenant.consumer("c", [tenant.registry("r", upstream.url)], tenant.oauth2(idp))
    resource = tenant.url(consumer)
    client_id = client.register("https://app.example/cb", "http://localhost:1234/cb").json()["client_id"]
    for uri in (
        "https://app.example/cb/",
        "https://app.example.evil/cb",
        "https://evil.example/cb",
        "http://localhost/x",
    ):
        answer = client.authorize(client_id=client_id, redirect_uri=uri, resource=resource)
        assert answer.json()["error_description"] == "redirect_uri is not registered for this client"
    loopback = client.authorize(client_id=client_id, redirect_uri="http://localhost:9999/cb", resource=resource)
    assert loopback.status_code == 302, "the port of a loopback URI is free (RFC 8252)"


@pytest.mark.parametrize(
    "uri",
    ["ftp+x:", "javascript:alert(1)", "data:text/html,x", "http://evil.example/", "https://", "https://a/#f", "x y"],
)
def test_redirect_uris_that_cannot_be_registered(tenant: Tenant, client: Client, idp: str, uri: str) -> None:
    tenant.oauth2(idp)
    answer = client.register(uri)
    assert answer.status_code == 400 and answer.json()["error"] == "invalid_redirect_uri"


@pytest.mark.parametrize(
    ("body", "kind", "described"),
    [
        (b"", "application/json", "invalid client registration request"),
        (b"{", "application/json", "invalid client registration request"),
        (b"[]", "application/json", "invalid client registration request"),
        (b'{"redirect_uris":"https://a/b"}', "application/json", "invalid client registration request"),
        (b'{"redirect_uris":["https://a/b"]}', "text/plain", "invalid client registration request"),
        (b"redirect_uris=https://a/b", "application/x-www-form-urlencoded", "invalid client registration request"),
        (b"{}", "application/json", "invalid_client_metadata: redirect_uris is required"),
        (b'{"redirect_uris":null}', "application/json", "invalid_client_metadata: redirect_uris is required"),
        (b'{"redirect_uris":[]}', "application/json", "invalid_client_metadata: redirect_uris is required"),
    ],
)
def test_registrations_that_cannot_be_read(
    tenant: Tenant, client: Client, idp: str, body: bytes, kind: str, described: str
) -> None:
    tenant.oauth2(idp)
    answer = client.http.post(f"{client.mcp}/oauth/register", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert answer.json() == {"error": "invalid_client_metadata", "error_description": described}


def test_members_of_a_registration_that_do_not_count_are_ignored(tenant: Tenant, client: Client, idp: str) -> None:
    tenant.oauth2(idp)
    answer = client.register("https://a/b", client_name=None, contacts=1, token_endpoint_auth_method="tls")
    assert answer.status_code == 201
    assert answer.json() | {"client_id": ""} == {
        "client_id": "",
        "redirect_uris": ["https://a/b"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    }


def test_code_replay_and_injection(tenant: Tenant, client: Client, upstream: Upstream, idp: str) -> None:
    consumer = tenant.consumer("c", [tenant.registry("r", upstream.url)], tenant.oauth2(idp))
    resource, client_id = tenant.url(consumer), client.register(CALLBACK).json()["client_id"]

    def code() -> str:
        return client.log_in(client.authorize(client_id=client_id, resource=resource)).headers["location"]

    location = code()
    assert client.redeem(location, client_id=client_id).status_code == 200
    replayed = client.redeem(location, client_id=client_id)
    assert replayed.json()["error_description"] == "unknown, expired or already used code"
    for fields, error in (
        ({"code_verifier": "x" * 43}, "PKCE verification failed"),
        ({"code_verifier": ""}, "PKCE verification failed"),
        ({"redirect_uri": "https://evil.example/"}, "redirect_uri mismatch"),
        ({"client_id": "agw-other"}, "client_id mismatch"),
    ):
        location = code()
        assert client.redeem(location, **{"client_id": client_id} | fields).json()["error_description"] == error
        again = client.redeem(location, client_id=client_id)
        assert again.json()["error"] == "invalid_grant", "a code is spent by a failed attempt too"
    state = query_of(client.authorize(client_id=client_id, resource=resource).headers["location"])["state"]
    first = client.http.get(f"{tenant.mcp}/oauth/callback", params={"state": state, "error": "access_denied"})
    assert query_of(first.headers["location"]) == {"error": "access_denied", "state": "client-state"}
    twice = client.http.get(f"{tenant.mcp}/oauth/callback", params={"state": state, "code": "x"})
    assert twice.json()["error_description"] == "unknown or expired authorization request"


def test_audience_confusion_a_token_of_one_server_opens_no_other(
    tenant: Tenant, client: Client, upstream: Upstream, idp: str
) -> None:
    registry, auth = tenant.registry("r", upstream.url), tenant.oauth2(idp)
    mine, other = tenant.consumer("a", [registry], auth), tenant.consumer("b", [registry], auth)
    elsewhere = tenant.consumer("c", [registry], tenant.oauth2(f"{idp}/", audiences=["other"]))
    token = client.session("alice", tenant.url(mine))["access_token"]
    assert client.rpc(tenant.url(mine), "ping", Authorization=f"Bearer {token}").status_code == 200
    for consumer in (other, elsewhere):
        assert client.rpc(tenant.url(consumer), "ping", Authorization=f"Bearer {token}").status_code == 401
    head, payload, signature = token.split(".")
    forged = f"{head}.{payload}.{signature[:-6]}AAAAAA"
    assert client.rpc(tenant.url(mine), "ping", Authorization=f"Bearer {forged}").status_code == 401
    unsigned = jwt.encode({"iss": "trustgate", "sub": "x", "token_use": "mcp_session"}, "k" * 32, algorithm="HS256")
    assert client.rpc(tenant.url(mine), "ping", Authorization=f"Bearer {unsigned}").status_code == 401


def test_a_bad_bearer_is_final_and_a_key_has_three_forms(tenant: Tenant, client: Client, upstream: Upstream) -> None:
    auth, key = tenant.key()
    url = tenant.url(tenant.consumer("c", [tenant.registry("r", upstream.url)], auth))
    for headers in ({"X_AG_API_Key": key}, {"x_api_key": key}, {"Authorization": f"Bearer {key}"}):
        assert client.rpc(url, "ping", **headers).status_code == 200
    both = client.rpc(url, "ping", Authorization="Bearer nonsense", X_AG_API_Key=key)
    assert both.status_code == 401 and "www-authenticate" not in both.headers
    unknown = client.rpc(f"{tenant.mcp}/zzzzzzzz/mcp", "ping", X_AG_API_Key=key)
    assert (unknown.status_code, unknown.text) == (404, "no virtual MCP configured for this path")


def test_consumers_with_a_credential_of_their_own_offer_no_login(
    tenant: Tenant, client: Client, upstream: Upstream, idp: str
) -> None:
    tenant.oauth2(idp)
    auth, _ = tenant.key()
    url = tenant.url(tenant.consumer("c", [tenant.registry("r", upstream.url)], auth))
    answer = client.authorize(resource=url)
    fields = query_of(answer.headers["location"])
    assert fields["error"] == "invalid_target" and fields["error_description"].startswith(
        "this MCP server authenticates"
    )


def test_a_private_use_client_gets_a_page_with_a_button(
    tenant: Tenant, client: Client, upstream: Upstream, idp: str
) -> None:
    consumer = tenant.consumer("c", [tenant.registry("r", upstream.url)], tenant.oauth2(idp))
    uri = "cursor://anysphere.cursor-mcp/oauth/callback"
    back = client.log_in(client.authorize(redirect_uri=uri, resource=tenant.url(consumer)))
    assert (
        back.status_code == 200
        and "Open Cursor" in back.text
        and "default-src 'none'" in back.headers["content-security-policy"]
    )


def test_roles_follow_the_claims_of_the_login(tenant: Tenant, client: Client, upstream: Upstream, idp: str) -> None:
    registry = tenant.registry("r", upstream.url)
    mapping = {"match": "any", "claims": [{"path": "sub", "op": "equals", "values": ["alice"]}]}
    role = tenant.call("POST", f"{tenant.base}/roles", {"name": "staff", "oidc_mapping": mapping})["id"]
    tenant.call("POST", f"{tenant.base}/roles/{role}/registries/{registry}")
    body = {"name": "c", "type": "MCP", "routing_mode": "role_based"}
    consumer = tenant.call("POST", f"{tenant.base}/consumers", body)
    tenant.call("POST", f"{tenant.base}/consumers/{consumer['id']}/auths/{tenant.oauth2(idp)}")
    tenant.call("POST", f"{tenant.base}/consumers/{consumer['id']}/roles/{role}")
    url = tenant.url(consumer)
    alice = client.session("alice", url)["access_token"]
    assert [
        tool["name"]
        for tool in client.rpc(url, "tools/list", Authorization=f"Bearer {alice}").json()["result"]["tools"]
    ] == ["whoami"]
    bob = client.session("bob", url)["access_token"]
    denied = client.rpc(url, "tools/list", Authorization=f"Bearer {bob}")
    assert (denied.status_code, denied.text) == (403, "mcp: no role grants MCP access for this identity")


def test_users_confirm_the_client_where_the_operator_wants_that(tmp_path: pathlib.Path, idp: str) -> None:
    with installed(tmp_path, "all", MCP_OAUTH_CONSENT="true") as place:
        tenant, client = Tenant(place), Client(place.mcp)
        tenant.oauth2(idp)
        client_id = client.register(CALLBACK, client_name="<Evil>").json()["client_id"]
        page = client.authorize(client_id=client_id)
        assert page.status_code == 200 and "&lt;Evil&gt; wants to sign in" in page.text and "127.0.0.1:9" in page.text
        link = html.unescape(re.search(r'href="(/oauth/authorize[^"]+)"', page.text)[1])  # type: ignore[index]
        stranger = Client(place.mcp)
        assert stranger.http.get(place.mcp + link).status_code == 200, "a link confirms nothing in another browser"
        assert client.http.get(place.mcp + link + "&scope=admin").status_code == 200, "nor for another request"
        gone = client.http.get(place.mcp + link)
        assert gone.status_code == 302 and gone.headers["location"].startswith(idp)
