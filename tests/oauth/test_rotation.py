"""Keys of session tokens in a list: the first signs, all verify, and those that are taken out do no more."""

from __future__ import annotations

import base64
import hashlib
import pathlib

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.installation import installed
from tests.oauth.world import Client, Tenant, Upstream


def pem(key: rsa.RSAPrivateKey, form: serialization.PrivateFormat) -> str:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def pkcs8(key: rsa.RSAPrivateKey) -> str:
    return pem(key, serialization.PrivateFormat.PKCS8)


def kid(key: rsa.RSAPrivateKey) -> str:
    modulus = key.public_key().public_numbers().n
    digest = hashlib.sha256(modulus.to_bytes((modulus.bit_length() + 7) // 8, "big")).digest()
    return base64.urlsafe_b64encode(digest[:8]).rstrip(b"=").decode()


def test_sessions_outlive_a_rotation_of_the_signing_key_while_the_old_one_is_listed(
    tmp_path: pathlib.Path, idp: str, upstream: Upstream
) -> None:
    old, new = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    old_pem = pem(old, serialization.PrivateFormat.TraditionalOpenSSL)
    new_pem = pkcs8(new)
    with installed(tmp_path, "all", STS_SIGNING_KEY=old_pem.replace("\n", "\\n"), STS_ISSUER="ours") as place:
        tenant, client = Tenant(place), Client(place.mcp)
        consumer = tenant.consumer("c", [tenant.registry("r", upstream.url)], tenant.oauth2(idp))
        before = client.session("alice", tenant.url(consumer))
        place.stop()
    for configured, kids, status in (
        (base64.b64encode((new_pem + old_pem).encode()).decode(), [kid(new), kid(old)], 200),
        (new_pem, [kid(new)], 401),
    ):
        with installed(tmp_path, "all", STS_SIGNING_KEY=configured, STS_ISSUER="ours") as place:
            client, url = Client(place.mcp), f"{place.mcp}/{consumer['slug']}/mcp"
            keys = client.http.get(f"{place.mcp}/.well-known/jwks.json").json()["keys"]
            assert [key["kid"] for key in keys] == kids
            assert {(key["kty"], key["use"], key["alg"], key["e"]) for key in keys} == {("RSA", "sig", "RS256", "AQAB")}
            answer = client.rpc(url, "ping", Authorization=f"Bearer {before['access_token']}")
            assert answer.status_code == status
            fresh = client.token(grant_type="refresh_token", refresh_token=before["refresh_token"]).json()
            header = jwt.get_unverified_header(fresh["access_token"])
            assert header == {"alg": "RS256", "kid": kid(new), "typ": "JWT"}
            assert client.rpc(url, "ping", Authorization=f"Bearer {fresh['access_token']}").status_code == 200
            before["refresh_token"] = fresh["refresh_token"]
            place.stop()
