"""The provider's tokens behind sessions: for upstreams that are called with the user's token, never for clients."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from tests.oauth.test_identity import Signer
from tests.oauth.world import Client, Tenant, Upstream, query_of

PASSTHROUGH = {"mode": "passthrough", "expected_audience": "up"}
EXCHANGE = {"mode": "exchange", "pattern": "token_exchange", "audience": "up"}
ON_BEHALF_OF = {"mode": "exchange", "pattern": "obo", "scope": "up/.default"}


class Login:
    """A consumer whose users log in at the upstream's server, which here is an identity provider as well."""

    def __init__(self, tenant: Tenant, client: Client, upstream: Upstream, mode: dict[str, Any] | None) -> None:
        self.client, self.upstream, self.signer = client, upstream, Signer(upstream)
        urls = {"authorize_url": f"{upstream.origin}/authorize", "token_url": f"{upstream.origin}/token"}
        registry = tenant.registry("r", upstream.url, mode)
        auth = tenant.oauth2(self.signer.issuer, **urls)
        self.url = tenant.url(tenant.consumer("c", [registry], auth, fail_mode="closed"))

    def provides(self, seconds: int = 3600, **claims: Any) -> str:
        """What the provider's token endpoint answers next; its access token."""
        access = self.signer.token(aud="up", **claims)
        answer = {"access_token": access, "id_token": access, "token_type": "Bearer", "expires_in": seconds}
        self.upstream.answers["/token"] = (200, answer | {"refresh_token": "provider-refresh"})
        return access

    def session(self) -> dict[str, Any]:
        away = self.client.authorize(client_id="gateway", resource=self.url)
        state = query_of(away.headers["location"])["state"]
        back = self.client.http.get(f"{self.client.mcp}/oauth/callback", params={"state": state, "code": "c"})
        return self.client.redeem(back.headers["location"], client_id="gateway").json()

    def whoami(self, session: dict[str, Any]) -> Any:
        return self.client.whoami(self.url, Authorization=f"Bearer {session['access_token']}")

    def sent(self, grant: str) -> list[dict[str, str]]:
        return [fields for _, fields in self.upstream.posts if fields["grant_type"].endswith(grant)]


def test_passthrough_sends_the_providers_token_and_the_client_never_sees_it(
    tenant: Tenant, client: Client, upstream: Upstream
) -> None:
    login = Login(tenant, client, upstream, PASSTHROUGH)
    access = login.provides(sub="alice")
    session = login.session()
    assert access not in str(session) and "provider-refresh" not in str(session)
    assert login.whoami(session) == f"Bearer {access}"
    login.provides(sub="bob")
    bob = login.session()
    assert login.whoami(bob) != login.whoami(session) == f"Bearer {access}", "each session has its own login"


def test_a_provider_token_for_another_audience_is_not_passed(
    tenant: Tenant, client: Client, upstream: Upstream
) -> None:
    login = Login(tenant, client, upstream, PASSTHROUGH | {"expected_audience": "elsewhere"})
    login.provides()
    assert "audience does not match" in login.whoami(login.session())["message"] and upstream.seen == []


@pytest.mark.parametrize(
    ("mode", "grant", "member"),
    [(EXCHANGE, "token-exchange", "subject_token"), (ON_BEHALF_OF, "jwt-bearer", "assertion")],
)
def test_exchanges_start_from_the_providers_token(
    tenant: Tenant, client: Client, upstream: Upstream, mode: dict[str, Any], grant: str, member: str
) -> None:
    login = Login(tenant, client, upstream, mode)
    access = login.provides()
    session = login.session()
    upstream.answers["/token"] = (200, {"access_token": "x-1", "token_type": "Bearer", "expires_in": 600})
    assert login.whoami(session) == login.whoami(session) == "Bearer x-1"
    (exchanged,) = login.sent(grant)
    assert exchanged[member] == access and exchanged["client_secret"] == "gateway-secret-1"


def test_an_old_provider_token_is_renewed_once_and_a_login_that_is_over_asks_the_user_back(
    tenant: Tenant, client: Client, upstream: Upstream
) -> None:
    login = Login(tenant, client, upstream, PASSTHROUGH)
    login.provides(seconds=30)  # within a minute of its end
    session = login.session()
    renewed = login.provides(exp=time.time() + 999)
    assert login.whoami(session) == login.whoami(session) == f"Bearer {renewed}"
    (asked,) = login.sent("refresh_token")
    assert asked["refresh_token"] == "provider-refresh"

    login.provides(seconds=30)
    other = login.session()
    upstream.answers["/token"] = (400, {"error": "invalid_grant", "error_description": "signed out"})
    over = client.rpc(login.url, "tools/call", {"name": "whoami"}, Authorization=f"Bearer {other['access_token']}")
    assert (over.status_code, over.text) == (401, "sts: interaction required: signed out")
    assert "www-authenticate" in over.headers


def test_a_refreshed_session_keeps_its_login_and_a_revoked_one_ends_it(
    tenant: Tenant, client: Client, upstream: Upstream
) -> None:
    login = Login(tenant, client, upstream, PASSTHROUGH)
    access = login.provides()
    first = login.session()
    fields = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"], "client_id": "gateway"}
    second = client.token(**fields).json()
    assert login.whoami(second) == f"Bearer {access}"
    client.http.post(f"{client.mcp}/oauth/revoke", data={"token": second["refresh_token"]})
    assert "audience does not match" in login.whoami(second)["message"]


def test_where_no_upstream_wants_them_no_provider_tokens_are_kept(
    tenant: Tenant, client: Client, upstream: Upstream
) -> None:
    login = Login(tenant, client, upstream, None)
    login.provides()
    claims = jwt.decode(login.session()["access_token"], options={"verify_signature": False})
    assert "login" not in claims and claims["token_use"] == "mcp_session"


def test_a_forged_login_id_is_refused_with_the_token(tenant: Tenant, client: Client, upstream: Upstream) -> None:
    login = Login(tenant, client, upstream, PASSTHROUGH)
    login.provides(sub="alice")
    alice = jwt.decode(login.session()["access_token"], options={"verify_signature": False})
    login.provides(sub="mallory")
    mallory = login.session()["access_token"]
    own = jwt.decode(mallory, options={"verify_signature": False})
    kid = jwt.get_unverified_header(mallory)["kid"]
    forged = jwt.encode(own | {"login": alice["login"]}, login.signer.key, algorithm="RS256", headers={"kid": kid})
    assert client.rpc(login.url, "ping", Authorization=f"Bearer {forged}").status_code == 401
