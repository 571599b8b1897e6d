"""Client certificates, provider tokens and introspection on the MCP plane; fences around outbound addresses."""

from __future__ import annotations

import datetime
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import jwt as pyjwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.e2e.installation import Demo, Installation, installed
from tests.e2e.upstream import FaultyUpstream
from tests.oauth.world import Client, Tenant, Upstream
from trustgate.identity import mtls
from trustgate.identity.jwt import Refused

Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def certificate(
    name: str, issuer: Pair | None = None, *, dns: str = "", usage: Any = ExtendedKeyUsageOID.CLIENT_AUTH, days: int = 1
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
    if issuer is None:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    elif usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if dns:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False)
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def pem(pair: Pair) -> str:
    return pair[0].public_bytes(serialization.Encoding.PEM).decode()


def xfcc(pair: Pair) -> str:
    return f'By=spiffe://x;Hash=abc;Subject="CN=a,O=b;c";Cert="{quote(pem(pair))}"'


CA, OTHER_CA, OLD_CA = certificate("ca"), certificate("other ca"), certificate("old ca", days=-1)
ROBOT = certificate("robot", CA, dns="robot.internal")


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation that believes forwarded certificates and connects to public addresses only."""
    folder = tmp_path_factory.mktemp("trusting")
    with installed(folder, "all", TRUST_XFCC_FROM="127.0.0.0/8", MCP_OUTBOUND_PUBLIC_ONLY="true") as found:
        yield found


def test_a_forwarded_certificate_counts_only_from_a_trusted_peer(
    trusting: Installation, installation: Installation, upstream: Upstream
) -> None:
    for place, status in ((trusting, 200), (installation, 401)):
        tenant = Tenant(place)
        config = {"mtls": {"ca_cert": pem(CA), "allowed_common_names": ["robot"]}}
        auth = tenant.call("POST", f"{tenant.base}/auths", {"name": "m", "type": "mtls", "config": config})["id"]
        url = tenant.url(tenant.consumer("c", [tenant.registry("r", upstream.url)], auth))
        client = Client(place.mcp)
        assert client.rpc(url, "ping", X_Forwarded_Client_Cert=xfcc(ROBOT)).status_code == status
    two = f"{xfcc(certificate('robot', OTHER_CA))},{xfcc(ROBOT)}"
    assert client.rpc(url, "ping").status_code == 401
    last_counts = Client(trusting.mcp)
    tenant = Tenant(trusting)
    auth = tenant.call(
        "POST", f"{tenant.base}/auths", {"name": "m", "type": "mtls", "config": {"mtls": {"ca_cert": pem(CA)}}}
    )["id"]
    key_auth, key = tenant.key()
    url = tenant.url(tenant.consumer("c", [tenant.registry("r", upstream.url)], auth, key_auth))
    assert last_counts.rpc(url, "ping", X_Forwarded_Client_Cert=two).status_code == 200
    foreign = xfcc(certificate("robot", OTHER_CA))
    final = last_counts.rpc(url, "ping", X_Forwarded_Client_Cert=foreign, X_AG_API_Key=key)
    assert final.status_code == 401, "a certificate that can be read is final"
    garbage = last_counts.rpc(url, "ping", X_Forwarded_Client_Cert="Cert=nonsense", X_AG_API_Key=key)
    assert garbage.status_code == 200, "one that cannot is no credential at all"


def test_a_client_certificate_opens_the_proxy_plane_too(trusting: Installation) -> None:
    provider = FaultyUpstream()
    try:
        demo = Demo(trusting)
        demo.registry("r", provider.url("ok"))
        demo.open()
        config = {"mtls": {"ca_cert": pem(CA)}}
        auth = trusting.call("POST", f"{demo.base}/auths", {"name": "m", "type": "mtls", "config": config})["id"]
        trusting.call("POST", f"{demo.base}/consumers/{demo.consumer_id}/auths/{auth}")
        headers = {"X-AG-Gateway-Slug": demo.gateway_slug}
        body = {"model": "m-up", "messages": [{"role": "user", "content": "hi"}]}

        def call(pair: Pair | None, **more: str) -> int:
            sent = headers | more | ({"X-Forwarded-Client-Cert": xfcc(pair)} if pair else {})
            return httpx.post(f"{demo.url}/v1/chat/completions", json=body, headers=sent, trust_env=False).status_code

        assert call(ROBOT) == 200
        assert call(None) == call(certificate("robot", OTHER_CA)) == 401
        assert call(ROBOT, **{"X-AG-API-Key": "ag_wrong"}) == 401, "a key that is presented decides"
    finally:
        provider.close()


@pytest.mark.parametrize(
    ("made", "config", "reason"),
    [
        (ROBOT, {}, ""),
        (ROBOT, {"allowed_dns_names": ["robot.internal"]}, ""),
        (ROBOT, {"allowed_dns_names": ["other"]}, "DNS names"),
        (ROBOT, {"allowed_common_names": ["Robot"]}, "common name"),
        (ROBOT, {"allowed_fingerprints": ["AA:BB"]}, "fingerprint"),
        (certificate("robot", OTHER_CA), {}, "trusts"),
        (certificate("robot", CA, days=-1), {}, "not valid now"),
        (certificate("robot", CA, usage=ExtendedKeyUsageOID.SERVER_AUTH), {}, "client certificate"),
        (certificate("robot", CA, usage=None), {}, ""),
        (certificate("robot", ROBOT), {}, "trusts"),
        (certificate("robot", ROBOT), {"ca_cert": pem(CA) + pem(ROBOT)}, "trusts"),
        (certificate("robot", OLD_CA), {"ca_cert": pem(OLD_CA)}, "trusts"),
    ],
)
def test_what_a_certificate_must_be(made: Pair, config: dict[str, Any], reason: str) -> None:
    found = mtls.Certificate(made[0])
    settings = {"ca_cert": pem(CA)} | config
    if not reason:
        mtls.check(found, settings, time.time())
        colons = ":".join(found.fingerprint[i : i + 2].upper() for i in range(0, 64, 2))
        mtls.check(found, settings | {"allowed_fingerprints": [colons]}, time.time())
        return
    with pytest.raises(Refused, match=reason):
        mtls.check(found, settings, time.time())


@pytest.mark.parametrize("header", ["", "Cert=", 'Cert="%%%"', "Hash=1", ";;;,,,", 'Cert="' + "x" * 5000])
def test_headers_without_a_certificate(header: str) -> None:
    assert mtls.from_xfcc(header) is None


# Tokens of a provider


class Signer:
    def __init__(self, upstream: Upstream) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.issuer = upstream.origin
        public = json.loads(pyjwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        upstream.documents["/jwks"] = {"keys": [public | {"kid": "k1", "alg": "RS256", "use": "sig"}]}
        upstream.documents["/.well-known/openid-configuration"] = {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/jwks",
        }

    def token(self, **claims: Any) -> str:
        usual = {"iss": self.issuer, "aud": "tools", "sub": "s-1", "exp": time.time() + 60}
        return pyjwt.encode(usual | claims, self.key, algorithm="RS256", headers={"kid": "k1"})


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"scope": "read"}, 200),
        ({"permissions": ["read"]}, 200),
        ({"roles": ["read"], "aud": ["x", "api://tools"]}, 200),
        ({}, 401),
        ({"scope": "read", "aud": "other"}, 401),
        ({"scope": "read", "exp": 1}, 401),
        ({"scope": "read", "sub": ""}, 401),
        ({"scope": "read", "iss": "http://elsewhere"}, 401),
        ({"scope": "read", "nbf": time.time() + 86_400}, 401),
    ],
)
def test_tokens_of_the_identity_provider_by_discovery(
    tenant: Tenant, client: Client, upstream: Upstream, claims: dict[str, Any], status: int
) -> None:
    signer = Signer(upstream)
    auth = tenant.oauth2(signer.issuer, session_mode=False, required_scopes=["api://x/read"])
    url = tenant.url(tenant.consumer("c", [tenant.registry("r", upstream.url)], auth))
    answer = client.rpc(url, "ping", Authorization=f"Bearer {signer.token(**claims)}")
    assert answer.status_code == status
    assert ("www-authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize(
    ("claim", "seconds", "status"),
    [
        ("exp", -20, 200),
        ("exp", -61, 401),
        ("nbf", 20, 200),
        ("nbf", 90, 401),
    ],
)
def test_clocks_of_providers_may_be_off_by_a_minute(
    tenant: Tenant, client: Client, upstream: Upstream, claim: str, seconds: float, status: int
) -> None:
    signer = Signer(upstream)
    auth = tenant.oauth2(signer.issuer, session_mode=False)
    url = tenant.url(tenant.consumer("c", [tenant.registry("r", upstream.url)], auth))
    token = signer.token(**{claim: time.time() + seconds})
    assert client.rpc(url, "ping", Authorization=f"Bearer {token}").status_code == status


def test_passthrough_and_impersonation_carry_the_users_identity(
    tenant: Tenant, client: Client, upstream: Upstream
) -> None:
    signer = Signer(upstream)
    auth = tenant.oauth2(signer.issuer, session_mode=False)
    passing = tenant.registry("p", upstream.url, {"mode": "passthrough", "expected_audience": "tools"})
    url = tenant.url(tenant.consumer("c", [passing], auth))
    token = signer.token(oid="user-7")
    assert client.whoami(url, Authorization=f"Bearer {token}") == f"Bearer {token}"
    minted = tenant.registry("m", upstream.url, {"mode": "exchange", "pattern": "impersonation", "audience": "up"})
    seen = client.whoami(tenant.url(tenant.consumer("d", [minted], auth)), Authorization=f"Bearer {token}")
    claims = pyjwt.decode(seen.removeprefix("Bearer "), options={"verify_signature": False})
    assert (claims["sub"], claims["aud"], claims["orig_iss"]) == ("user-7", "up", signer.issuer)


def test_token_exchange_is_kept_per_token_and_interaction_is_a_401(
    tenant: Tenant, client: Client, upstream: Upstream
) -> None:
    signer = Signer(upstream)
    upstream.documents["/.well-known/openid-configuration"] |= {"token_endpoint": f"{upstream.origin}/token"}
    auth = tenant.oauth2(signer.issuer, session_mode=False)
    registry = tenant.registry("x", upstream.url, {"mode": "exchange", "pattern": "token_exchange", "audience": "up"})
    url = tenant.url(tenant.consumer("c", [registry], auth, fail_mode="closed"))
    upstream.answers["/token"] = (200, {"access_token": "x-1", "token_type": "Bearer", "expires_in": 600})
    first = signer.token()
    for _ in range(2):
        assert client.whoami(url, Authorization=f"Bearer {first}") == "Bearer x-1"
    assert len(upstream.posts) == 1 and upstream.posts[0][1]["subject_token"] == first
    upstream.answers["/token"] = (400, {"error": "interaction_required", "error_description": "come by"})
    refused = client.rpc(url, "tools/call", {"name": "whoami"}, Authorization=f"Bearer {signer.token(sub='another')}")
    assert refused.status_code == 401 and refused.text == "sts: interaction required: come by"
    assert "www-authenticate" in refused.headers


def test_opaque_tokens_are_introspected(tenant: Tenant, client: Client, upstream: Upstream) -> None:
    auth = tenant.oauth2(
        "https://issuer.example", session_mode=False, introspection_url=f"{upstream.origin}/introspect"
    )
    url = tenant.url(tenant.consumer("c", [tenant.registry("r", upstream.url)], auth))
    upstream.answers["/introspect"] = (200, {"active": True, "aud": "tools", "username": "u-1"})
    assert client.rpc(url, "ping", Authorization="Bearer opaque-1").status_code == 200
    refused = [{"active": False}, {"active": True, "username": "u-1"}, {"active": True, "aud": "x", "sub": "u-1"}, []]
    for number, answer in enumerate(refused, 2):
        upstream.answers["/introspect"] = (200, answer)
        assert client.rpc(url, "ping", Authorization=f"Bearer opaque-{number}").status_code == 401, answer
    upstream.answers["/introspect"] = (200, {"active": True, "aud": "tools", "sub": "u-1", "x": "x" * 1024 * 1024})
    assert client.rpc(url, "ping", Authorization="Bearer opaque-9").status_code == 401, (
        "no more than a mebibyte is read"
    )
    asked = list(dict.fromkeys(fields["token"] for _, fields in upstream.posts))
    assert asked == [f"opaque-{number}" for number in (1, 2, 3, 4, 5, 9)]


# SSRF


def test_ssrf_with_the_fence_nothing_private_is_connected_to(trusting: Installation, upstream: Upstream) -> None:
    """Upstream URLs, JWKS, introspection, metadata and registration: none reaches loopback."""
    tenant, client = Tenant(trusting), Client(trusting.mcp)
    key_auth, key = tenant.key()
    signer = Signer(upstream)
    by_jwks = tenant.oauth2(signer.issuer, session_mode=False, jwks_url=f"{upstream.origin}/jwks")
    opaque = tenant.oauth2("https://i.example", session_mode=False, introspection_url=f"{upstream.origin}/introspect")
    url = tenant.url(tenant.consumer("c", [tenant.registry("r", upstream.url)], key_auth, by_jwks, opaque))
    assert client.rpc(url, "tools/list", X_AG_API_Key=key).json()["error"]["code"] == -32603
    assert client.rpc(url, "ping", Authorization=f"Bearer {signer.token()}").status_code == 401
    assert client.rpc(url, "ping", Authorization="Bearer opaque").status_code == 401
    automatic = {"mode": "forwarded", "provider": "notes", "registration": "auto"}
    upstream.documents["/.well-known/oauth-protected-resource/mcp"] = {"authorization_servers": [upstream.origin]}
    linked = tenant.url(tenant.consumer("d", [tenant.registry("f", upstream.url, automatic)], key_auth))
    error = client.whoami(linked, X_AG_API_Key=key)
    ticket = error["data"]["connect_url"].partition("ticket=")[2]
    page = client.http.get(f"{client.mcp}/oauth/connect/notes", params={"ticket": ticket})
    assert "does not publish OAuth protected-resource metadata" in page.text
    assert upstream.seen == [] and upstream.posts == []


def test_metadata_of_another_issuer_is_not_believed(tenant: Tenant, client: Client, upstream: Upstream) -> None:
    upstream.documents["/.well-known/openid-configuration"] = {
        "issuer": "https://evil.example",
        "authorization_endpoint": "https://evil.example/authorize",
        "token_endpoint": "https://evil.example/token",
    }
    consumer = tenant.consumer("c", [tenant.registry("r", upstream.url)], tenant.oauth2(upstream.origin))
    answer = client.authorize(resource=tenant.url(consumer))
    assert "error=server_error" in answer.headers["location"] and "evil" not in answer.headers["location"]


def test_key_sets_of_another_issuers_metadata_are_not_fetched(
    tenant: Tenant, client: Client, upstream: Upstream
) -> None:
    signer = Signer(upstream)
    consumer = tenant.consumer(
        "c", [tenant.registry("r", upstream.url)], tenant.oauth2(signer.issuer, session_mode=False)
    )
    upstream.documents["/.well-known/openid-configuration"] |= {"issuer": "https://evil.example"}
    url = tenant.url(consumer)
    assert client.rpc(url, "ping", Authorization=f"Bearer {signer.token()}").status_code == 401
    upstream.documents["/.well-known/openid-configuration"] |= {"issuer": signer.issuer}
    assert client.rpc(url, "ping", Authorization=f"Bearer {signer.token()}").status_code == 200


def test_secrets_stay_out_of_the_log(log: pathlib.Path) -> None:
    text = log.read_text()
    assert "gateway-secret-1" not in text and "machine-secret" not in text and "gwrt_" not in text
