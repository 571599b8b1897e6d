"""The way back from the identity provider: what it may answer, who has logged in, where the user goes on."""

from __future__ import annotations

import re
from typing import Any

import httpx
import jwt
import pytest

from tests.oauth.world import CALLBACK, Client, Tenant, Upstream, query_of
from trustgate.oauth import pages


def id_token(**claims: Any) -> str:
    return jwt.encode(claims, "k" * 32)


class Visit:
    """A login at a scripted provider that is configured so."""

    def __init__(self, tenant: Tenant, client: Client, upstream: Upstream, **config: Any) -> None:
        self._client, self._upstream = client, upstream
        ends = {"authorize_url": f"{upstream.origin}/authorize", "token_url": f"{upstream.origin}/token"}
        auth = tenant.oauth2(upstream.origin, **ends, **config)
        self.url = tenant.url(tenant.consumer("c", [tenant.registry("r", upstream.url)], auth))

    def back(self, status: int, answer: Any, **fields: str) -> httpx.Response:
        self._upstream.answers["/token"] = (status, answer)
        away = self._client.authorize(resource=self.url, **fields)
        query = {"state": query_of(away.headers["location"])["state"], "code": "c-1"}
        return self._client.http.get(f"{self._client.mcp}/oauth/callback", params=query)


@pytest.fixture
def visit(tenant: Tenant, client: Client, upstream: Upstream) -> Visit:
    return Visit(tenant, client, upstream)


NOBODY = ("access_denied", "could not determine subject from identity provider")
NO_TOKEN = ("server_error", "identity provider returned no access token")


@pytest.mark.parametrize(
    ("status", "answer", "told"),
    [
        (400, {"error": "invalid_grant", "error_description": "used"}, ("invalid_grant", "used")),
        (200, {"error": "bad_code", "error_description": "<x>"}, ("bad_code", "<x>")),
        (400, {"error": "invalid_client"}, ("invalid_client", None)),
        (500, b"oops", ("server_error", "identity provider token endpoint returned status 500")),
        (403, {}, ("server_error", "identity provider token endpoint returned status 403")),
        (200, {}, NO_TOKEN),
        (200, b"oops", NO_TOKEN),
        (200, {"access_token": 5}, NO_TOKEN),
        (200, {"access_token": "opaque"}, NOBODY),
        (200, {"access_token": "opaque", "id_token": "a.b.c"}, NOBODY),
        (200, {"access_token": "opaque", "id_token": id_token(email="x")}, NOBODY),
        (200, b"x" * (1024 * 1024 + 1), ("server_error", "identity provider token endpoint could not be reached")),
    ],
)
def test_what_goes_wrong_at_the_provider_is_told_to_the_client(
    visit: Visit, status: int, answer: Any, told: tuple[str, str | None]
) -> None:
    back = visit.back(status, answer, redirect_uri=f"{CALLBACK}?x=1")
    assert back.status_code == 302 and back.headers["location"].startswith(f"{CALLBACK}?x=1&error=")
    fields = query_of(back.headers["location"])
    assert (fields["error"], fields.get("error_description"), fields["state"]) == (*told, "client-state")


@pytest.mark.parametrize(
    ("config", "answer", "me", "subject"),
    [
        ({}, {"id_token": id_token(sub="s", oid="o")}, None, "o"),
        ({}, {"id_token": id_token(sub="s", oid="")}, None, "s"),
        ({"subject_claim": "email"}, {"id_token": id_token(sub="s", email="e")}, None, "e"),
        ({"subject_claim": "email"}, {"id_token": id_token(sub="s")}, None, "s"),
        ({}, {"access_token": id_token(sub="s", oid="o")}, None, "o"),
        ({"userinfo": True}, {}, {"sub": "me"}, "me"),
        ({"userinfo": True, "subject_claim": "id"}, {}, {"id": 12345678901, "sub": "me"}, "12345678901"),
        ({"userinfo": True, "subject_claim": "login"}, {}, {"sub": 7.0}, "7"),
        ({"userinfo": True}, {"id_token": id_token(sub="s")}, {"sub": "me"}, "s"),
        ({"userinfo": True}, {"access_token": id_token(sub="s")}, None, "s"),
        ({}, {"id_token": id_token(sub="s", iss="other", aud="other", exp=1)}, None, "s"),  # straight from the provider
    ],
)
def test_who_has_logged_in(
    tenant: Tenant,
    client: Client,
    upstream: Upstream,
    config: dict[str, Any],
    answer: dict[str, Any],
    me: Any,
    subject: str,
) -> None:
    if config.pop("userinfo", False):
        config["userinfo_url"] = f"{upstream.origin}/me"
    if me is not None:
        upstream.documents["/me"] = me
    back = Visit(tenant, client, upstream, **config).back(200, {"access_token": "opaque"} | answer)
    session = client.redeem(back.headers["location"]).json()
    assert jwt.decode(session["access_token"], options={"verify_signature": False})["sub"] == subject


def test_scopes_are_those_granted_else_those_asked_for(tenant: Tenant, client: Client, upstream: Upstream) -> None:
    visit, who = Visit(tenant, client, upstream, required_scopes=["read"]), {"id_token": id_token(sub="s")}
    for granted, scope in (("a b", "a b"), (None, "openid read"), ("", "openid read")):
        back = visit.back(200, who | {"access_token": "x", "scope": granted})
        assert client.redeem(back.headers["location"]).json()["scope"] == scope


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("cursor://anysphere.cursor-mcp/oauth/callback", "Cursor"),
        ("vscode://x/y", "VS Code"),
        ("vscode-insiders://x/y", "VS Code Insiders"),
        ("windsurf://x/y", "Windsurf"),
        ("zed://x/y", "Zed"),
        ("claude://x/y", "Claude"),
        ("jetbrains://x/y", "your JetBrains IDE"),
        ("chatgpt://x/y", "ChatGPT"),
        ("cline://x/y", "Cline"),
        ("com.example.app:/cb", "your application"),
        ('app://x?"><script>alert(1)</script>', "your application"),
    ],
)
def test_applications_are_opened_by_a_page(uri: str, name: str) -> None:
    page = pages.deep_link(uri)
    text = page.body.decode()
    assert page.status == 200 and "Authentication complete" in text and f">Open {name}</a>" in text
    assert (b"cache-control", b"no-store, must-revalidate") in page.headers
    assert len(re.findall("<script", text)) == 1
