"""Linking accounts: consent errors, tickets, the page, login at the provider, refresh, revocation, self-service."""

from __future__ import annotations

import html
import pathlib
import re
import time
from typing import Any

import httpx
import pytest

from tests.oauth.world import CALLBACK, Client, Tenant, Upstream, query_of


def forwarded(upstream: Upstream, provider: str = "notes", **more: Any) -> dict[str, Any]:
    """A manual registration at the upstream's own, scripted authorization server."""
    return {
        "mode": "forwarded",
        "provider": provider,
        "client_id": "app-1",
        "client_secret": "app-secret-1",
        "authorize_url": f"{upstream.origin}/authorize",
        "token_url": f"{upstream.origin}/token",
        "scopes": ["notes.read"],
    } | more


def token(access: str, refresh: str = "r-1", seconds: int = 3600) -> dict[str, Any]:
    return {"access_token": access, "refresh_token": refresh, "expires_in": seconds, "token_type": "bearer"}


def consent_url(client: Client, url: str, **headers: str) -> str:
    error = client.whoami(url, **headers)
    assert error["code"] == -32003, error
    assert error["message"] == f"user consent required: open {error['data']['connect_url']} to connect notes"
    return error["data"]["connect_url"]


def link(
    client: Client, page: str, upstream: Upstream, access: str, refresh: str = "r-1", seconds: int = 3600
) -> httpx.Response:
    """Follow the page's Connect link, come back from the provider, and see the page again."""
    href = html.unescape(re.search(r'href="(/oauth/connect/[^"]+)"', client.http.get(page).text)[1])  # type: ignore[index]
    away = client.http.get(client.mcp + href)
    assert away.status_code == 302
    state = query_of(away.headers["location"])["state"]
    upstream.answers["/token"] = (200, token(access, refresh, seconds))
    return client.http.get(f"{client.mcp}/oauth/callback/notes", params={"state": state, "code": "c-1"})


@pytest.fixture
def keyed(tenant: Tenant, upstream: Upstream) -> tuple[str, str]:
    """URL and key of a consumer whose tool needs the user's own account."""
    auth, key = tenant.key()
    consumer = tenant.consumer("c", [tenant.registry("Notes", upstream.url, forwarded(upstream))], auth)
    return tenant.url(consumer), key


def test_from_consent_to_a_call_with_the_users_own_token(
    tenant: Tenant, keyed: tuple[str, str], client: Client, upstream: Upstream, log: pathlib.Path
) -> None:
    url, key = keyed
    page = consent_url(client, url, X_AG_API_Key=key)
    assert page.startswith(f"{url}/connect?ticket=") and len(query_of(page)["ticket"]) == 64
    assert page == consent_url(client, url, X_AG_API_Key=key), "one live ticket per user and consumer"
    assert upstream.seen == [], "nothing goes to the upstream before there is a credential"
    shown = client.http.get(page)
    assert shown.headers["cache-control"] == "no-store, must-revalidate" and shown.headers["pragma"] == "no-cache"
    assert (
        "frame-ancestors 'none'" in shown.headers["content-security-policy"] and "Connect your accounts" in shown.text
    )
    href = html.unescape(re.search(r'href="(/oauth/connect/[^"]+)"', shown.text)[1])  # type: ignore[index]
    away = query_of(client.http.get(client.mcp + href).headers["location"])
    assert away["redirect_uri"] == f"{client.mcp}/oauth/callback/notes" and away["scope"] == "notes.read"
    assert away["client_id"] == "app-1" and away["code_challenge_method"] == "S256"
    after = link(client, page, upstream, "at-secret-1")
    assert after.status_code == 200 and "Connected" in after.text and "Revoke" in after.text
    posted = upstream.posts[-1][1]
    assert posted["grant_type"] == "authorization_code" and posted["client_secret"] == "app-secret-1"
    assert posted["code_verifier"]
    assert client.whoami(url, X_AG_API_Key=key) == "Bearer at-secret-1"
    (shown_link,) = tenant.call("GET", f"{tenant.base}/links?provider=notes")["items"]
    assert (shown_link["subject"], shown_link["state"]) == ("robot", "linked") and "token" not in str(shown_link)
    stranger = Tenant(tenant.installation, "globex")
    with pytest.raises(AssertionError, match="404"):
        stranger.call("GET", f"{tenant.base}/links")
    revoked = client.http.post(f"{client.mcp}/oauth/disconnect/notes", params={"ticket": query_of(page)["ticket"]})
    assert revoked.status_code == 200 and "Connect</a>" in revoked.text
    again = client.http.post(f"{client.mcp}/oauth/disconnect/notes", params={"ticket": query_of(page)["ticket"]})
    assert again.status_code == 200
    assert client.whoami(url, X_AG_API_Key=key)["code"] == -32003
    text = log.read_text()
    for event in ("mcp_connect_ticket_created", "mcp_provider_linked", "mcp_provider_unlinked"):
        assert f'"event":"{event}"' in text
    for secret in ("at-secret-1", "app-secret-1", "r-1", key, query_of(page)["ticket"]):
        assert secret not in text


def test_an_administrator_ends_a_link(
    tenant: Tenant, keyed: tuple[str, str], client: Client, upstream: Upstream
) -> None:
    url, key = keyed
    link(client, consent_url(client, url, X_AG_API_Key=key), upstream, "at-2")
    (shown,) = tenant.call("GET", f"{tenant.base}/links?subject=robot")["items"]
    assert tenant.call("GET", f"{tenant.base}/links?subject=other")["items"] == []
    tenant.call("DELETE", f"{tenant.base}/links/{shown['id']}")
    assert client.whoami(url, X_AG_API_Key=key)["code"] == -32003
    with pytest.raises(AssertionError, match="404"):
        tenant.call("DELETE", f"{tenant.base}/links/{shown['id']}")


def test_an_old_token_is_refreshed_once_and_a_refused_refresh_asks_again(
    keyed: tuple[str, str], client: Client, upstream: Upstream
) -> None:
    url, key = keyed
    page = consent_url(client, url, X_AG_API_Key=key)
    link(client, page, upstream, "old", "r-1", seconds=30)  # within a minute of its end
    upstream.answers["/token"] = (200, token("new", ""))
    assert client.whoami(url, X_AG_API_Key=key) == "Bearer new"
    refreshed = upstream.posts[-1][1]
    assert refreshed["grant_type"] == "refresh_token" and refreshed["refresh_token"] == "r-1"
    count = len(upstream.posts)
    assert client.whoami(url, X_AG_API_Key=key) == "Bearer new" and len(upstream.posts) == count
    # The upstream withdraws the token in mid-session: the kept refresh token gets another.
    upstream.accepts = {"Bearer newer"}
    upstream.answers["/token"] = (200, token("newer", "r-2"))
    assert client.whoami(url, X_AG_API_Key=key) == "Bearer newer"
    upstream.accepts = {"Bearer none"}
    upstream.answers["/token"] = (400, {"error": "invalid_grant"})
    assert client.whoami(url, X_AG_API_Key=key)["code"] in (-32003, -32603, -32005)
    upstream.accepts = None


def test_a_link_that_is_ended_during_its_refresh_stays_ended(
    keyed: tuple[str, str], client: Client, upstream: Upstream
) -> None:
    url, key = keyed
    page = consent_url(client, url, X_AG_API_Key=key)
    link(client, page, upstream, "old", "r-1", seconds=30)

    def meanwhile() -> tuple[int, Any]:
        ended = httpx.post(f"{client.mcp}/oauth/disconnect/notes", params=query_of(page), trust_env=False)
        assert ended.status_code == 200
        return 200, token("new")

    upstream.answers["/token"] = meanwhile
    assert client.whoami(url, X_AG_API_Key=key)["code"] == -32003
    assert ">Connect</a>" in client.http.get(page).text
    assert "Bearer new" not in upstream.seen


def test_a_token_of_user_a_is_never_used_for_user_b(
    tenant: Tenant, client: Client, upstream: Upstream, idp: str
) -> None:
    registry = tenant.registry("Notes", upstream.url, forwarded(upstream))
    consumer = tenant.consumer("c", [registry], tenant.oauth2(idp))
    url = tenant.url(consumer)
    other = Client(client.mcp)

    def log_in(who: Client, user: str) -> str:
        client_id = who.register(CALLBACK).json()["client_id"]
        back = who.log_in(who.authorize(client_id=client_id, resource=url), user)
        page = back.headers["location"]
        assert page.startswith(f"{url}/connect?ticket="), "a login makes a detour to what is not linked"
        linked = link(who, page, upstream, f"token-of-{user}")
        resume = html.unescape(re.search(r'class="continue" href="([^"]+)"', linked.text)[1])  # type: ignore[index]
        return who.redeem(resume, client_id=client_id).json()["access_token"]

    alice, bob = log_in(client, "alice"), log_in(other, "bob")
    for _ in range(3):
        assert client.whoami(url, Authorization=f"Bearer {alice}") == "Bearer token-of-alice"
        assert other.whoami(url, Authorization=f"Bearer {bob}") == "Bearer token-of-bob"


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/x/mcp/connect", 401, "missing ticket: re-run the tool call to get a fresh connect link"),
        ("/x/mcp/connect?ticket=" + "0" * 64, 401, "oauth connect: ticket expired or unknown"),
        ("/oauth/connect/notes?ticket=" + "f" * 64, 401, "oauth connect: ticket expired or unknown"),
        ("/oauth/callback/notes?state=" + "0" * 64 + "&code=x", 400, "invalid_request: unknown or expired state"),
    ],
)
def test_guessed_tickets_and_states(client: Client, path: str, status: int, text: str) -> None:
    answer = client.http.get(client.mcp + path)
    assert (answer.status_code, answer.text) == (status, text)


def test_a_ticket_links_only_what_its_consumer_forwards(keyed: tuple[str, str], client: Client) -> None:
    url, key = keyed
    ticket = query_of(consent_url(client, url, X_AG_API_Key=key))["ticket"]
    answer = client.http.get(f"{client.mcp}/oauth/connect/other", params={"ticket": ticket})
    assert (answer.status_code, answer.text) == (404, "oauth connect: provider not configured for this consumer")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "null"}, 200),
        ({"Origin": "{mcp}"}, 200),
        ({"Origin": "https://public.example", "X-Forwarded-Host": "public.example"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "{mcp}"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "{mcp}.evil.example"}, 403),
    ],
)
def test_only_our_own_pages_end_links(
    keyed: tuple[str, str], client: Client, headers: dict[str, str], status: int
) -> None:
    url, key = keyed
    ticket = query_of(consent_url(client, url, X_AG_API_Key=key))["ticket"]
    sent = {name: value.replace("{mcp}", client.mcp) for name, value in headers.items()}
    answer = client.http.post(f"{client.mcp}/oauth/disconnect/notes", params={"ticket": ticket}, headers=sent)
    assert answer.status_code == status


def test_servers_that_ask_at_once_share_one_ticket(tenant: Tenant, client: Client, upstream: Upstream) -> None:
    auth, key = tenant.key()
    registries = [tenant.registry(f"r{n}", upstream.url, forwarded(upstream, f"p{n}")) for n in range(6)]
    url = tenant.url(tenant.consumer("c", registries, auth))
    asked = [client.whoami(url, X_AG_API_Key=key)["data"]["connect_url"] for _ in range(3)]
    assert len(set(asked)) == 1


def test_a_way_back_without_a_code_links_nothing(keyed: tuple[str, str], client: Client, upstream: Upstream) -> None:
    url, key = keyed
    ticket = query_of(consent_url(client, url, X_AG_API_Key=key))["ticket"]
    away = client.http.get(f"{client.mcp}/oauth/connect/notes", params={"ticket": ticket})
    upstream.answers["/token"] = (200, token("never"))
    state = query_of(away.headers["location"])["state"]
    page = client.http.get(f"{client.mcp}/oauth/callback/notes", params={"state": state})
    assert page.status_code == 200 and "oauth provider: no code in the answer" in page.text
    assert upstream.posts == []


@pytest.mark.parametrize(
    ("answer", "flash"),
    [
        (
            (400, {"error": "bad_code", "error_description": "<b>no</b>"}),
            "token exchange failed (bad_code): &lt;b&gt;no",
        ),
        ((500, b"oops"), "oauth provider: non-JSON token response (status 500)"),
        ((200, {"token_type": "mac", "access_token": "x"}), "no usable token"),
    ],
)
def test_a_login_that_fails_at_the_provider_says_why_on_the_page(
    keyed: tuple[str, str], client: Client, upstream: Upstream, answer: tuple[int, Any], flash: str
) -> None:
    url, key = keyed
    ticket = query_of(consent_url(client, url, X_AG_API_Key=key))["ticket"]

    def state() -> str:
        away = client.http.get(f"{client.mcp}/oauth/connect/notes", params={"ticket": ticket})
        return query_of(away.headers["location"])["state"]

    upstream.answers["/token"] = answer
    page = client.http.get(f"{client.mcp}/oauth/callback/notes", params={"state": state(), "code": "x"})
    assert page.status_code == 200 and flash in page.text and 'class="flash"' in page.text
    refused = client.http.get(
        f"{client.mcp}/oauth/callback/notes",
        params={"state": state(), "error": "access_denied", "error_description": "not today"},
    )
    assert "access_denied: not today" in refused.text


def test_registration_at_an_upstream_that_publishes_where_to_log_in(
    tenant: Tenant, client: Client, upstream: Upstream
) -> None:
    auth, key = tenant.key()
    automatic = {"mode": "forwarded", "provider": "notes", "registration": "auto"}
    consumer = tenant.consumer("c", [tenant.registry("Notes", upstream.url, automatic)], auth)
    page = consent_url(client, tenant.url(consumer), X_AG_API_Key=key)
    ticket = query_of(page)["ticket"]
    nowhere = client.http.get(f"{client.mcp}/oauth/connect/notes", params={"ticket": ticket})
    assert "oauth dcr: upstream does not publish OAuth protected-resource metadata" in nowhere.text
    upstream.documents["/.well-known/oauth-protected-resource/mcp"] = {"resource": upstream.url}  # without servers
    upstream.documents["/.well-known/oauth-protected-resource"] = {
        "resource": upstream.url,
        "authorization_servers": [upstream.origin],
    }
    upstream.documents["/.well-known/oauth-authorization-server"] = {
        "issuer": upstream.origin,
        "authorization_endpoint": f"{upstream.origin}/authorize",
        "token_endpoint": f"{upstream.origin}/token",
        "registration_endpoint": f"{upstream.origin}/register",
        "scopes_supported": ["a", "b"],
    }
    upstream.answers["/register"] = (400, {"error": "invalid_client_metadata"})
    assert (
        "registration was refused"
        in client.http.get(f"{client.mcp}/oauth/connect/notes", params={"ticket": ticket}).text
    )
    upstream.answers["/register"] = (201, {"client_id": "dyn-1"})
    link(client, page, upstream, "dynamic")
    registrations = [fields for path, fields in upstream.posts if path == "/register"]
    assert registrations[-1]["redirect_uris"] == [f"{client.mcp}/oauth/callback/notes"]
    redeemed = upstream.posts[-1][1]
    assert redeemed["client_id"] == "dyn-1" and redeemed["resource"] == upstream.url
    assert client.whoami(tenant.url(consumer), X_AG_API_Key=key) == "Bearer dynamic"


# Other credentials of upstreams


def test_client_credentials_are_had_once_and_again_when_refused(
    tenant: Tenant, client: Client, upstream: Upstream
) -> None:
    auth, key = tenant.key()
    mode = {"mode": "client_credentials", "client_id": "m", "client_secret": "machine-secret", "scopes": ["x"],
            "token_url": f"{upstream.origin}/token"}  # fmt: skip
    url = tenant.url(tenant.consumer("c", [tenant.registry("r", upstream.url, mode)], auth))
    upstream.answers["/token"] = (200, token("machine-1"))
    for _ in range(2):
        assert client.whoami(url, X_AG_API_Key=key) == "Bearer machine-1"
    fields = upstream.posts[-1][1]
    assert len(upstream.posts) == 1 and fields["grant_type"] == "client_credentials" and "basic" in fields
    upstream.accepts = {"Bearer machine-2"}
    upstream.answers["/token"] = (200, token("machine-2"))
    assert client.whoami(url, X_AG_API_Key=key) == "Bearer machine-2"


def test_minted_tokens_name_the_user(tenant: Tenant, client: Client, upstream: Upstream) -> None:
    import jwt

    auth, key = tenant.key("robot")
    mode = {"mode": "exchange", "pattern": "delegation", "audience": "api://up", "actor": "gateway"}
    url = tenant.url(tenant.consumer("c", [tenant.registry("r", upstream.url, mode)], auth))
    seen = client.whoami(url, X_AG_API_Key=key)
    claims = jwt.decode(seen.removeprefix("Bearer "), options={"verify_signature": False})
    assert claims["sub"] == "robot" and claims["aud"] == "api://up" and claims["act"] == {"sub": "gateway"}
    assert 290 <= claims["exp"] - time.time() <= 301


def test_a_session_token_of_the_gateway_is_never_passed_through(
    tenant: Tenant, client: Client, upstream: Upstream, idp: str
) -> None:
    mode = {"mode": "passthrough", "expected_audience": "tools"}
    registry = tenant.registry("r", upstream.url, mode)
    url = tenant.url(tenant.consumer("c", [registry], tenant.oauth2(idp), fail_mode="closed"))
    access = client.session("alice", url)["access_token"]
    error = client.whoami(url, Authorization=f"Bearer {access}")
    assert "audience does not match" in error["message"] and upstream.seen == []


# From an API key to a ticket


def self_service(client: Client, tenant: Tenant, slug: str, method: str = "POST", **more: Any) -> httpx.Response:
    headers = {"Host": f"{tenant.slug}.mcp.test"} | more.pop("headers", {})
    return client.http.request(method, f"{client.mcp}/{slug}/connect", headers=headers, **more)


def test_a_key_opens_the_connect_page(
    tenant: Tenant, keyed: tuple[str, str], client: Client, upstream: Upstream
) -> None:
    url, key = keyed
    slug = url.split("/")[-2]
    form = self_service(client, tenant, slug, "GET")
    assert form.status_code == 200 and 'name="api_key"' in form.text and "Connect with an API key" in form.text
    ok = self_service(client, tenant, slug, data={"api_key": key})
    assert ok.status_code == 303 and ok.headers["location"].startswith(f"/{slug}/mcp/connect?ticket=")
    after = link(client, client.mcp + ok.headers["location"], upstream, "by-form")
    assert "Connected" in after.text
    assert client.whoami(url, X_AG_API_Key=key) == "Bearer by-form", "the ticket's subject is the key's"


@pytest.mark.parametrize(
    ("more", "status", "text"),
    [
        ({"data": {"api_key": "ag_wrong"}}, 401, "Unauthorized"),
        ({"data": {"api_key": " "}}, 401, "Unauthorized"),
        ({"data": {"other": "x"}}, 401, "Unauthorized"),
        ({"content": b"", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 401, "Unauthorized"),
        ({"content": b"a=%zz", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 400, "Bad Request"),
        ({"json": {"api_key": "x"}}, 415, "Unsupported Media Type"),
    ],
)
def test_what_self_service_refuses(
    tenant: Tenant, keyed: tuple[str, str], client: Client, more: dict[str, Any], status: int, text: str
) -> None:
    slug = keyed[0].split("/")[-2]
    for name in (slug, "nobody"):
        answer = self_service(client, tenant, name, **more)
        assert (answer.status_code, answer.text) == (status, text)
        assert "content-type" not in answer.headers and "location" not in answer.headers
        assert answer.headers["cache-control"] == "no-store" and "www-authenticate" not in answer.headers


def test_a_form_of_nobody(tenant: Tenant, client: Client, keyed: tuple[str, str]) -> None:
    answer = self_service(client, tenant, "nobody", "GET")
    assert (answer.status_code, answer.text) == (404, "Not Found")
    elsewhere = client.http.get(f"{client.mcp}/{keyed[0].split('/')[-2]}/connect")
    assert elsewhere.status_code == 404, "the gateway is the host's subdomain, nothing else"


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("POST", "/oauth/connect", 401, "Unauthorized"),  # a slug of any shape
        ("POST", "/.well-known/connect/", 401, "Unauthorized"),
        ("POST", "/a%2Fb/CONNECT", 401, "Unauthorized"),
        ("GET", "/oauth/connect", 404, "Not Found"),
        ("GET", "/oauth/x/y/connect", 401, "missing ticket: re-run the tool call to get a fresh connect link"),
        ("GET", "/.well-known/x/connect", 401, "missing ticket: re-run the tool call to get a fresh connect link"),
        ("POST", "/a/b/connect", 401, "unauthenticated"),
        ("GET", "/connect", 405, "Method Not Allowed"),
        ("GET", "/oauth/disconnect/x", 405, "Method Not Allowed"),
    ],
)
def test_which_paths_are_connect_pages(client: Client, method: str, path: str, status: int, text: str) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = client.http.request(method, client.mcp + path, headers=headers)
    assert (answer.status_code, answer.text) == (status, text)
    assert ("www-authenticate" in answer.headers) == (text == "unauthenticated")
