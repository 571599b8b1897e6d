"""Records that the existing system wrote, under its keys and in its words, are read by a running installation."""

from __future__ import annotations

import json
import pathlib
import secrets
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import coredis
import jwt
import pytest

from tests.e2e.installation import SECRET, Installation, installed
from tests.e2e.test_config_sync import control_plane, data_plane, until
from tests.oauth.test_connect import consent_url, forwarded
from tests.oauth.world import CALLBACK, Client, Tenant, Upstream, query_of
from tests.ports import free_port
from trustgate.oauth.cipher import TokenCipher
from trustgate.oauth.state import key_of

LIFETIME_S = 3000


DATABASE = 13
"""Of these tests alone: what they leave is under a secret that others do not have."""


def settings(redis_url: str) -> dict[str, str]:
    parts = urlsplit(redis_url)
    return {"REDIS_HOST": str(parts.hostname), "REDIS_PORT": str(parts.port), "REDIS_DB": str(DATABASE)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("before"), "all", **settings(redis_url)) as found:
        yield found


class Written:
    """What lies in Redis."""

    def __init__(self, redis: coredis.Redis[Any]) -> None:
        self._redis = redis

    async def put(self, kind: str, record: dict[str, Any], name: str = "") -> str:
        name = name or secrets.token_hex(32)
        await self._redis.set(f"oauth:{kind}:{name}", json.dumps(record), ex=LIFETIME_S)
        return name

    async def link(self, tenant: Tenant, subject: str, provider: str, access: str, **more: Any) -> str:
        """An account in the vault of planes without a database. Its key."""
        record = {
            "id": str(uuid.uuid4()),
            "gateway_id": tenant.id,
            "principal_sub": subject,
            "provider": provider,
            "account_ref": "",
            "access_token": TokenCipher(SECRET).encrypt(access),
            "refresh_token": "",
            "scopes": None,
            "expires_at": None,
            "created_at": "2026-01-02T03:04:05.123456789Z",
            "updated_at": "2026-01-02T03:04:05Z",
        }
        key = f"vault:{tenant.id}:{subject}:{provider}"
        await self._redis.set(key, json.dumps(record | more))
        return key

    async def lose(self, kind: str, name: str) -> None:
        """What this system wrote, as a restarted Redis does."""
        assert await self._redis.delete([key_of(kind, name)]) == 1

    async def ages(self, kind: str, name: str) -> None:
        """What this system wrote has an hour left."""
        assert await self._redis.expire(key_of(kind, name), 3600)

    async def days_left(self, kind: str, name: str) -> int:
        return round(await self._redis.ttl(key_of(kind, name)) / 86400)

    async def holds_key(self, key: str) -> bool:
        return await self._redis.exists([key]) == 1

    async def holds(self, kind: str, name: str) -> bool:
        return await self.holds_key(f"oauth:{kind}:{name}")


@pytest.fixture
async def written(redis_url: str) -> AsyncIterator[Written]:
    async with coredis.Redis.from_url(urlsplit(redis_url)._replace(path=f"/{DATABASE}").geturl()) as redis:
        yield Written(redis)


@pytest.fixture
def tenant(place: Installation) -> Tenant:
    return Tenant(place)


@pytest.fixture
def client(place: Installation) -> Client:
    return Client(place.mcp)


class Login:
    """A consumer whose users log in at the upstream's own, scripted provider."""

    def __init__(self, tenant: Tenant, upstream: Upstream) -> None:
        self.auth = tenant.oauth2(
            upstream.origin, authorize_url=f"{upstream.origin}/authorize", token_url=f"{upstream.origin}/token"
        )
        self.url = tenant.url(tenant.consumer("c", [tenant.registry("r", upstream.url)], self.auth))
        answer = {"access_token": "opaque", "id_token": jwt.encode({"sub": "alice"}, "k" * 32)}
        upstream.answers["/token"] = (200, answer)


async def test_a_registered_client_goes_on(
    tenant: Tenant, client: Client, upstream: Upstream, written: Written
) -> None:
    login, client_id = Login(tenant, upstream), f"agw-{secrets.token_hex(32)}"
    record = {"client_id": client_id, "redirect_uris": ["https://app.example/cb"], "client_name": "Old"}
    await written.put("gwclient", record, client_id)
    fine = client.authorize(client_id=client_id, redirect_uri="https://app.example/cb", resource=login.url)
    assert fine.status_code == 302 and fine.headers["location"].startswith(upstream.origin)
    other = client.authorize(client_id=client_id, redirect_uri="https://app.example/other", resource=login.url)
    assert other.json()["error_description"] == "redirect_uri is not registered for this client"


async def test_a_client_that_only_renews_its_session_stays_registered(
    tenant: Tenant, client: Client, upstream: Upstream, written: Written
) -> None:
    login, client_id = Login(tenant, upstream), f"agw-{secrets.token_hex(32)}"
    await written.put("gwclient", {"client_id": client_id, "redirect_uris": [CALLBACK]}, client_id)
    away = client.authorize(client_id=client_id, resource=login.url)
    query = {"state": query_of(away.headers["location"])["state"], "code": "c-1"}
    back = client.http.get(f"{client.mcp}/oauth/callback", params=query)
    session = client.redeem(back.headers["location"], client_id=client_id).json()
    await written.ages("gwclient", client_id)
    renewed = client.token(grant_type="refresh_token", refresh_token=session["refresh_token"], client_id=client_id)
    assert renewed.status_code == 200
    assert await written.days_left("gwclient", client_id) == 30


@pytest.mark.parametrize("told", [True, False])
async def test_users_who_were_away_come_back(
    tenant: Tenant, client: Client, upstream: Upstream, written: Written, *, told: bool
) -> None:
    login = Login(tenant, upstream)
    record = {
        "client_id": "",
        "redirect_uri": CALLBACK,
        "state": "client-state",
        "code_challenge": client.challenge,
        "code_challenge_method": "S256",
        "scope": "a b",
        "code_verifier": "theirs",
        "resource": login.url,
    }
    state = await written.put("pending", record | ({"auth_id": login.auth, "gateway_id": tenant.id} if told else {}))
    back = client.http.get(f"{client.mcp}/oauth/callback", params={"state": state, "code": "c-1"})
    assert back.status_code == 302, back.text
    assert upstream.posts[-1][1]["code_verifier"] == "theirs" and not await written.holds("pending", state)
    session = client.redeem(back.headers["location"]).json()
    assert session["scope"] == "a b"
    assert client.rpc(login.url, "ping", Authorization=f"Bearer {session['access_token']}").status_code == 200


async def test_codes_are_redeemed_once(tenant: Tenant, client: Client, upstream: Upstream, written: Written) -> None:
    login = Login(tenant, upstream)
    record = {"client_id": "", "redirect_uri": CALLBACK, "code_challenge": client.challenge}
    theirs = {"access_token": "at", "token_type": "Bearer", "expires_in": 60, "refresh_token": "rt", "scope": "x"}
    code = await written.put("code", record | {"token": theirs, "auth_id": login.auth, "gateway_id": tenant.id})
    assert client.redeem(f"?code={code}").json() == theirs
    assert client.redeem(f"?code={code}").json()["error"] == "invalid_grant"
    mine = {"token": {"access_token": "at", "token_type": ""}, "subject": "bob", "session_mode": True}
    whose = {"auth_id": login.auth, "gateway_id": tenant.id, "audiences": ["tools"], "scopes": ["s"]}
    session = client.redeem(f"?code={await written.put('code', record | mine | whose)}").json()
    assert session["scope"] == "s" and session["refresh_token"].startswith("gwrt_")
    assert client.rpc(login.url, "ping", Authorization=f"Bearer {session['access_token']}").status_code == 200


@pytest.mark.parametrize("more", [{}, {"scopes": None, "audiences": None}, {"scopes": ["s"], "audiences": ["tools"]}])
async def test_sessions_are_renewed(
    tenant: Tenant, client: Client, upstream: Upstream, written: Written, more: dict[str, Any]
) -> None:
    login, token = Login(tenant, upstream), f"gwrt_{secrets.token_hex(32)}"
    await written.put("session", {"subject": "bob", "gateway_id": tenant.id, "auth_id": login.auth} | more, token)
    fresh = client.token(grant_type="refresh_token", refresh_token=token)
    assert fresh.status_code == 200, fresh.text
    access = fresh.json()["access_token"]
    assert client.rpc(login.url, "ping", Authorization=f"Bearer {access}").status_code == 200
    assert jwt.decode(access, options={"verify_signature": False})["sub"] == "bob"


async def test_tickets_and_states_of_links(
    tenant: Tenant, client: Client, upstream: Upstream, written: Written
) -> None:
    auth, key = tenant.key()
    consumer = tenant.consumer("c", [tenant.registry("Notes", upstream.url, forwarded(upstream))], auth)
    whose = {"gateway_id": tenant.id, "principal_sub": "robot", "consumer_path": f"/{consumer['slug']}/mcp"}
    by_key = whose | {"consumer_id": consumer["id"], "auth_id": auth, "providers": ["notes"]}
    resumed = whose | {"resume_url": "https://app.example/cb?code=1&state=<2>"}
    for record, status, text in (
        (whose, 200, ">Connect</a>"),
        (resumed, 200, '<a class="continue" href="https://app.example/cb?code=1&amp;state=&lt;2&gt;">Continue</a>'),
        (by_key, 200, ">Connect</a>"),
        ({name: value for name, value in by_key.items() if name != "providers"}, 401, "expired or unknown"),
        ({name: value for name, value in by_key.items() if name != "consumer_id"}, 401, "expired or unknown"),
        (by_key | {"providers": ["other"]}, 200, "No tool of this server"),
    ):
        ticket = await written.put("connect:ticket", record)
        page = client.http.get(f"{client.mcp}/x/mcp/connect", params={"ticket": ticket})
        assert page.status_code == status and text in page.text, record
    away = {"ticket": whose, "ticket_id": secrets.token_hex(32), "provider": "notes", "verifier": "theirs"}
    upstream.answers["/token"] = (200, {"access_token": "linked-before", "token_type": "Bearer"})
    state = await written.put("connect:state", away)
    page = client.http.get(f"{client.mcp}/oauth/callback/notes", params={"state": state, "code": "c-1"})
    assert page.status_code == 200 and "Connected" in page.text
    sent = upstream.posts[-1][1]
    assert sent["code_verifier"] == "theirs" and sent["redirect_uri"] == f"{client.mcp}/oauth/callback/notes"
    assert client.whoami(tenant.url(consumer), X_AG_API_Key=key) == "Bearer linked-before"


async def test_a_ticket_that_is_lost_is_not_handed_out_again(
    tenant: Tenant, client: Client, upstream: Upstream, written: Written
) -> None:
    auth, key = tenant.key()
    url = tenant.url(tenant.consumer("c", [tenant.registry("Notes", upstream.url, forwarded(upstream))], auth))
    first, again = (consent_url(client, url, X_AG_API_Key=key) for _ in range(2))
    assert first == again
    await written.lose("connect:ticket", query_of(first)["ticket"])
    assert client.http.get(first).status_code == 401
    assert client.http.get(consent_url(client, url, X_AG_API_Key=key)).status_code == 200


async def test_a_registration_at_an_upstream_is_used_again(
    tenant: Tenant, client: Client, upstream: Upstream, written: Written
) -> None:
    upstream.documents["/.well-known/oauth-protected-resource"] = {"authorization_servers": [upstream.origin]}
    upstream.documents["/.well-known/oauth-authorization-server"] = {
        "issuer": upstream.origin,
        "authorization_endpoint": f"{upstream.origin}/authorize",
        "token_endpoint": f"{upstream.origin}/token",
    }
    auth = {"mode": "forwarded", "provider": "auto", "registration": "auto"}
    registry = tenant.registry("A", upstream.url, auth)
    consumer = tenant.consumer("c", [registry], tenant.key()[0])
    record = {"client_id": "theirs", "client_secret": "s", "redirect_uri": f"{client.mcp}/oauth/callback/auto"}
    await written.put("dcr:client", record, f"{tenant.id}|{registry}")
    whose = {"gateway_id": tenant.id, "principal_sub": "robot", "consumer_path": f"/{consumer['slug']}/mcp"}
    ticket = await written.put("connect:ticket", whose)
    away = client.http.get(f"{client.mcp}/oauth/connect/auto", params={"ticket": ticket})
    assert query_of(away.headers["location"])["client_id"] == "theirs"


@pytest.mark.parametrize("provider", ["notes", "urn:acme:notes"])
async def test_accounts_in_the_vault_of_a_plane_without_a_database(
    tmp_path: pathlib.Path, redis_url: str, upstream: Upstream, written: Written, provider: str
) -> None:
    port, redis = free_port(), settings(redis_url)
    with control_plane(tmp_path / "control", port, **redis) as control:
        tenant = Tenant(control)
        auth, key = tenant.key()
        consumer = tenant.consumer("c", [tenant.registry("N", upstream.url, forwarded(upstream, provider))], auth)
        where = await written.link(tenant, "robot", provider, "linked-before")
        await written.link(tenant, "other", provider, "of-somebody-else")
        with data_plane("mcp", tmp_path / "mcp", port, **redis) as plane:
            plane.until_ready()
            client = Client(f"http://127.0.0.1:{plane.port}")
            url = f"{client.mcp}/{consumer['slug']}/mcp"
            until(lambda: client.rpc(url, "ping", X_AG_API_Key=key).status_code == 200)
            assert client.whoami(url, X_AG_API_Key=key) == "Bearer linked-before"
            whose = {"gateway_id": tenant.id, "principal_sub": "robot", "consumer_path": f"/{consumer['slug']}/mcp"}
            ticket = {"ticket": await written.put("connect:ticket", whose)}
            assert "Connected" in client.http.get(f"{client.mcp}/x/mcp/connect", params=ticket).text
            after = client.http.post(f"{client.mcp}/oauth/disconnect/{provider}", params=ticket)
            assert ">Connect</a>" in after.text and not await written.holds_key(where)
            assert plane.stop() == 0
