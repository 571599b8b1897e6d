"""What a session token of this gateway must hold, claim by claim."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.installation import installed
from tests.oauth.test_choice import provider
from tests.oauth.test_rotation import kid, pkcs8
from tests.oauth.world import Client, Tenant, Upstream

KEY = rsa.generate_private_key(65537, 2048)


class Endpoint:
    """An MCP server whose credential wants two scopes, and a client with tokens of its own making."""

    def __init__(self, client: Client, url: str, auth: str, gateway: str) -> None:
        self._client, self._url, self._auth, self._gateway = client, url, auth, gateway

    def status(self, changes: dict[str, Any], *, algorithm: str = "RS256", key: Any = KEY, key_id: str = "") -> int:
        """Of a call with a good token that is changed so; None takes a claim out."""
        now = int(time.time())
        claims = {
            "iss": "trustgate",
            "sub": "alice",
            "aud": ["tools"],
            "scope": "read w",
            "authid": self._auth,
            "gwid": self._gateway,
            "token_use": "mcp_session",
            "iat": now,
            "exp": now + 3600,
            "jti": "x",
        } | changes
        kept = {name: value for name, value in claims.items() if value is not None}
        raw = jwt.encode(kept, key, algorithm=algorithm, headers={"kid": key_id or kid(KEY)})
        return self._client.rpc(self._url, "ping", Authorization=f"Bearer {raw}").status_code


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("tokens")
    with installed(folder, "all", STS_SIGNING_KEY=pkcs8(KEY)) as place, contextlib.closing(Upstream()) as upstream:
        tenant, client = Tenant(place), Client(place.mcp)
        auth = provider(tenant, "idp", required_scopes=["read", "api://x/w"])
        url = tenant.url(tenant.consumer("c", [tenant.registry("r", upstream.url)], auth))
        yield Endpoint(client, url, auth, tenant.id)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 200),
        ({"aud": "tools"}, 200),
        ({"aud": ["x", "api://tools"]}, 200),
        ({"aud": "other"}, 401),
        ({"aud": None}, 401),
        ({"exp": 1}, 401),
        ({"exp": None}, 401),
        ({"sub": ""}, 401),
        ({"sub": None}, 401),
        ({"token_use": "mcp"}, 401),
        ({"token_use": None}, 401),
        ({"authid": "01890000-0000-7000-8000-000000000000"}, 401),
        ({"authid": None}, 401),
        ({"scope": "read api://x/w"}, 200),
        ({"scope": "read"}, 401),
        ({"scope": None, "scp": ["read", "w"]}, 200),
        ({"path": "nobody00/mcp"}, 401),
        ({"gwid": None}, 200),  # the gateway is that of the credential
    ],
)
def test_claims(endpoint: Endpoint, changes: dict[str, Any], status: int) -> None:
    assert endpoint.status(changes) == status


def test_signatures(endpoint: Endpoint) -> None:
    stranger = rsa.generate_private_key(65537, 2048)
    assert endpoint.status({}, key=stranger) == 401
    assert endpoint.status({}, key=stranger, key_id=kid(stranger)) == 401
    assert endpoint.status({}, key_id="other") == 401
    assert endpoint.status({}, algorithm="RS512") == 401
    assert endpoint.status({}, algorithm="HS256", key="k" * 32) == 401
