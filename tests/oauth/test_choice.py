"""Which identity provider a login goes to, as the configuration of an installation grows."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from tests.e2e.installation import installed
from tests.oauth.world import CALLBACK, Client, Tenant, Upstream, query_of

OWN = (
    "this MCP server authenticates with a credential of its own: send it on every request (an api key travels in the"
    " X-AG-API-Key header) instead of signing in here"
)
SEVERAL = "multiple identity providers configured; send an RFC 8707 resource parameter identifying the MCP server"
SEVERAL_HERE = (
    "multiple identity providers configured for this gateway; attach a single oauth2 identity provider to the MCP"
    " consumer"
)
NONE_HERE = (
    "this MCP server has no oauth2 identity provider; interactive login requires an oauth2 auth with a pre-registered"
    " client at your identity provider"
)
RESOURCE_WANTED = "send an RFC 8707 resource parameter identifying the MCP server"
DOMAIN = "mcp.test"


class Browser(Client):
    """Says where an authorization request leads."""

    def ask(self, resource: str = "", client_id: str = "", **headers: str) -> Any:
        """The client id at the provider; or error and description that the client gets; or status and error."""
        query = {"response_type": "code", "redirect_uri": CALLBACK, "code_challenge": self.challenge}
        query |= {name: value for name, value in (("resource", resource), ("client_id", client_id)) if value}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.http.get(f"{self.mcp}/oauth/authorize", params=query, headers=named)
        if answer.status_code != 302:
            return answer.status_code, answer.json()["error"]
        fields = query_of(answer.headers["location"])
        if not answer.headers["location"].startswith(CALLBACK):
            return fields["client_id"]
        return fields["error"], fields["error_description"]

    def where(self, path: str = "", **headers: str) -> dict[str, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.get(f"{self.mcp}/.well-known/oauth-protected-resource{path}", headers=named).json()


def provider(tenant: Tenant, name: str, **config: Any) -> str:
    origin = f"http://{name}.test"
    return tenant.oauth2(
        origin, client_id=name, authorize_url=f"{origin}/authorize", token_url=f"{origin}/token", **config
    )


def test_the_choice_among_consumers_gateways_and_the_platform(tmp_path: pathlib.Path) -> None:
    with installed(tmp_path, "all", MCP_BASE_DOMAIN=DOMAIN) as place, contextlib.closing(Upstream()) as upstream:
        browser, first, second = Browser(place.mcp), Tenant(place), Tenant(place, "other")
        assert browser.ask() == (404, "not_found"), "there is no provider to log in at"
        refreshed = browser.token(grant_type="refresh_token", refresh_token="x")
        assert (refreshed.status_code, refreshed.json()["error"]) == (404, "not_found")
        nowhere = browser.http.get(f"{place.mcp}/.well-known/oauth-authorization-server")
        assert (nowhere.status_code, nowhere.text) == (404, "oauth: no authorization server configured")
        assert browser.register(CALLBACK).json() == {
            "error": "invalid_client_metadata",
            "error_description": "oauth: dynamic client registration unavailable",
        }

        registry, (key, _) = first.registry("r", upstream.url), first.key()
        a = provider(first, "a", required_scopes=["read"])
        by_a, by_key = first.consumer("a", [registry], a), first.consumer("k", [registry], key)
        bare = first.consumer("n", [registry])
        for resource, answer in (
            ("", "a"),  # the only one there is
            (first.url(by_a), "a"),
            (first.url(bare), "a"),
            (first.url(by_key), ("invalid_target", OWN)),
            (f"{place.mcp}/nobody00/mcp", "a"),
            ("no url", "a"),
        ):
            assert browser.ask(resource) == answer, resource
        assert browser.ask(X_AG_Gateway_Slug=second.slug) == ("invalid_request", NONE_HERE)
        assert browser.ask(Host=f"{second.slug}.{DOMAIN}:8082") == ("invalid_request", NONE_HERE)
        assert browser.where(f"/{by_key['slug']}/mcp") == {
            "resource": first.url(by_key),
            "bearer_methods_supported": ["header"],
        }

        b = provider(first, "b", required_scopes=["write"])
        by_two = first.consumer("ab", [registry], b, a)
        assert browser.ask() == ("invalid_target", SEVERAL)
        assert browser.ask(client_id="b") == ("invalid_target", SEVERAL), "the client chooses no provider"
        assert browser.ask(first.url(bare)) == ("invalid_target", SEVERAL_HERE)
        assert browser.ask(X_AG_Gateway_Slug=first.slug.upper()) == ("invalid_target", SEVERAL_HERE)
        assert browser.ask(first.url(by_two)) == "a", "the older one"
        assert browser.ask(first.url(by_a), X_AG_Gateway_Slug=second.slug) == "a", "the resource comes first"
        ambiguous = browser.token(grant_type="refresh_token", refresh_token="x")
        assert (ambiguous.status_code, ambiguous.json()["error_description"]) == (404, SEVERAL)
        assert browser.where()["scopes_supported"] == ["write", "read"]

        provider(second, "c", required_scopes=["theirs"])
        for headers, answer in (
            ({"X_AG_Gateway_Slug": second.slug}, "c"),
            ({"Host": f"{second.slug}.{DOMAIN}"}, "c"),
            ({"X_AG_Gateway_Slug": "!!"}, ("invalid_target", SEVERAL)),
            ({"Host": f"x.{second.slug}.{DOMAIN}"}, ("invalid_target", SEVERAL)),
            ({"X_Forwarded_Host": f"{second.slug}.{DOMAIN}"}, ("invalid_target", SEVERAL)),
        ):
            assert browser.ask(**headers) == answer, headers
        assert browser.where(X_AG_Gateway_Slug=second.slug)["scopes_supported"] == ["theirs"]
        assert "scopes_supported" not in browser.where(), "tenants' scopes are not told to each other"


@pytest.fixture(scope="module")
def upstream_provider() -> Iterator[Upstream]:
    with contextlib.closing(Upstream()) as found:
        yield found


def test_the_built_in_provider_serves_those_without_credentials(
    tmp_path: pathlib.Path, upstream_provider: Upstream
) -> None:
    upstream = upstream_provider
    more = {
        "MCP_DEFAULT_IDP_ISSUER": upstream.origin,
        "MCP_DEFAULT_IDP_CLIENT_ID": "built-in",
        "MCP_DEFAULT_IDP_SCOPES": "openid,extra",
    }
    with installed(tmp_path, "all", **more) as place:
        browser, tenant = Browser(place.mcp), Tenant(place)
        registry, (key, _) = tenant.registry("r", upstream.url), tenant.key()
        bare, by_key = tenant.consumer("n", [registry]), tenant.consumer("k", [registry], key)
        assert browser.ask() == ("invalid_target", RESOURCE_WANTED)
        assert browser.ask(tenant.url(by_key)) == ("invalid_target", OWN)
        assert browser.ask(tenant.url(bare)) == "built-in"
        assert browser.ask(X_AG_Gateway_Slug=tenant.slug) == "built-in"
        for path, servers in (
            ("", [place.mcp]),
            (f"/{bare['slug']}/mcp", [place.mcp]),
            (f"/{by_key['slug']}/mcp", None),
        ):
            document = browser.where(path)
            assert document.get("authorization_servers") == servers
            assert document.get("scopes_supported") == (["openid", "extra"] if servers else None)
        assert "www-authenticate" in browser.rpc(tenant.url(bare), "ping").headers
        assert "www-authenticate" not in browser.rpc(tenant.url(by_key), "ping").headers

        upstream.answers["/token"] = (200, {"access_token": "x", "id_token": jwt.encode({"sub": "al"}, "k" * 32)})
        away = browser.authorize(resource=tenant.url(bare), scope="")
        assert query_of(away.headers["location"])["scope"] == "openid extra"
        state = query_of(away.headers["location"])["state"]
        back = browser.http.get(f"{place.mcp}/oauth/callback", params={"state": state, "code": "c"})
        session = browser.redeem(back.headers["location"]).json()
        claims = jwt.decode(session["access_token"], options={"verify_signature": False})
        assert claims["authid"] == "de1de1de-de1d-4de1-8de1-de1de1de1de1"
        assert claims["gwid"] == tenant.id and claims["aud"] == ["neuraltrust-mcp"]
        bearer = {"Authorization": f"Bearer {session['access_token']}"}
        assert browser.rpc(tenant.url(bare), "ping", **bearer).status_code == 200
        assert browser.rpc(tenant.url(by_key), "ping", **bearer).status_code == 401
        tenant.call("POST", f"{tenant.base}/consumers/{bare['id']}/auths/{key}")
        assert browser.rpc(tenant.url(bare), "ping", **bearer).status_code == 401, "it has a credential of its own now"

        off = provider(tenant, "off")
        only_off = tenant.consumer("d", [registry], off, key)
        tenant.call("PUT", f"{tenant.base}/auths/{off}", {"name": "off", "enabled": False})
        tenant.call("DELETE", f"{tenant.base}/consumers/{only_off['id']}/auths/{key}")
        assert browser.ask(tenant.url(only_off)) == ("invalid_request", NONE_HERE)
        assert "authorization_servers" not in browser.where(f"/{only_off['slug']}/mcp")
