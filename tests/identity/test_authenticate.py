"""Spec 02 §4: which credential decides, the 400/401/403 split, JWT verification, roles, playground tokens."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.views import auth, consumer, later, registry, role, view
from trustgate.identity.authenticate import IdentityServices, authenticate, known_key
from trustgate.identity.errors import AuthError
from trustgate.identity.jwks import FetchFailed, KeySets
from trustgate.identity.principal import Principal
from trustgate.identity.verify import Introspector
from trustgate.view.gateway import GatewayView

SECRET = b"s" * 32
NOW = 1_800_000_000.0
ISSUER = "https://idp.example"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    algorithm = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    kind = next((found for type_, found in algorithm.items() if isinstance(key, type_)), OKPAlgorithm)
    return kind.to_jwk(key.public_key(), as_dict=True) | {"kid": kid} | more


class Idp:
    """A key set that counts how often it is fetched."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.fetched: list[str] = []
        self.down = self.slow = self.hangs = False

    async def __call__(self, url: str) -> Any:
        self.fetched.append(url)
        if self.hangs:
            await trio.sleep_forever()
        if self.slow:
            await trio.testing.wait_all_tasks_blocked()
        if self.down:
            raise FetchFailed("down")
        if url.endswith("openid-configuration"):
            return {"jwks_uri": ISSUER + "/keys"}
        return {"keys": self.keys}


class World:
    """One gateway and what its requests are checked with; `clock` moves the caches' time."""

    def __init__(self, *entities: Any, idp: Idp | None = None) -> None:
        self.view: GatewayView = view(*entities)
        self.clock = 0.0
        self.idp = idp or Idp(jwk(RSA, "k1"))
        self.services = IdentityServices(
            key_sets=KeySets(self.idp, lambda: self.clock),
            introspector=Introspector(time.time),
            secret_key=SECRET,
            now=lambda: NOW,
        )

    async def ask(self, slug: str = "AbCd1234", **headers: str) -> Principal:
        found = self.view.consumer(slug)
        assert found is not None
        raw = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        return await authenticate(self.view, found, raw, self.services)

    async def status(self, slug: str = "AbCd1234", **headers: str) -> int:
        try:
            await self.ask(slug, **headers)
        except AuthError as error:
            return error.status
        return 200


def key_auth(id_: str, key: str, **more: Any) -> Any:
    return auth(id_, "api_key", key_hash=hashlib.sha256(key.encode()).hexdigest(), **more)


def oauth2(id_: str = "o1", **config: Any) -> Any:
    base = {"issuer": ISSUER, "audiences": ["api"], "jwks_url": ISSUER + "/keys"}
    return auth(id_, "oauth2", config={"oauth2": base | config})


def oidc(id_: str = "i1", **config: Any) -> Any:
    base = {"issuer": ISSUER, "audiences": ["api"], "jwks_url": ISSUER + "/keys"}
    return auth(id_, "oidc", config={"oidc": base | config})


def token(key: Any = RSA, alg: str = "RS256", kid: str | None = "k1", **claims: Any) -> str:
    base = {"iss": ISSUER, "aud": "api", "sub": "u1", "exp": int(NOW) + 60}
    merged = {name: value for name, value in (base | claims).items() if value is not None}
    return jwt.encode(merged, key, algorithm=alg, headers={"kid": kid} if kid else None)


def bearer(raw: str) -> dict[str, str]:
    return {"authorization": "Bearer " + raw}


def keyed_world() -> World:
    return World(
        consumer("AbCd1234", auth_ids=("a1", "a3")),
        consumer("Other123", auth_ids=("a2",)),
        consumer("Tokens12", auth_ids=("o1",)),
        key_auth("a1", "ag_mine"),
        key_auth("a2", "ag_other"),
        key_auth("a3", "ag_disabled", enabled=False),
        key_auth("a4", "ag_unattached"),
        oauth2(),
    )


@pytest.mark.parametrize(
    ("slug", "headers", "status"),
    [
        ("AbCd1234", {}, 401),
        ("AbCd1234", {"x_ag_api_key": "ag_mine"}, 200),
        ("AbCd1234", {"x_ag_api_key": "  ag_mine "}, 200),
        ("AbCd1234", {"x_api_key": "ag_mine"}, 200),
        ("AbCd1234", {"authorization": "Bearer ag_mine"}, 200),
        ("AbCd1234", {"authorization": "bearer ag_mine"}, 200),
        ("AbCd1234", {"x_ag_api_key": "ag_wrong"}, 401),
        ("AbCd1234", {"x_ag_api_key": "wrong"}, 401),
        ("AbCd1234", {"x_ag_api_key": "ag_wrong", "authorization": "Bearer ag_mine"}, 401),
        ("AbCd1234", {"x_ag_api_key": "ag_other"}, 403),
        ("AbCd1234", {"x_ag_api_key": "ag_disabled"}, 401),
        ("AbCd1234", {"x_ag_api_key": "ag_unattached"}, 401),
        ("Tokens12", {"x_ag_api_key": "ag_wrong"}, 403),
        ("AbCd1234", {"authorization": "Bearer sk-123"}, 403),
        ("AbCd1234", {"authorization": "Basic abc"}, 400),
        ("AbCd1234", {"authorization": "Bearer a b"}, 400),
        ("AbCd1234", {"authorization": "Bearer ag_mine b"}, 400),
        ("AbCd1234", {"authorization": "BEARER\t ag_mine"}, 200),
        ("AbCd1234", {"authorization": "  "}, 401),
        ("Tokens12", {"authorization": "Bearer nonsense"}, 401),
        ("Tokens12", {"x_ag_playground_token": "nonsense"}, 401),
        ("Tokens12", {"x_ag_playground_token": "nonsense", "x_ag_api_key": "ag_other"}, 403),
    ],
)
async def test_the_credential_present_decides(slug: str, headers: dict[str, str], status: int) -> None:
    assert await keyed_world().status(slug, **headers) == status


async def test_an_api_key_names_its_auth() -> None:
    principal = await keyed_world().ask(x_ag_api_key="ag_mine")
    assert (principal.method, principal.auth_id, principal.subject) == ("api_key", "a1", "a1")


def jwt_world(idp: Idp | None = None, **config: Any) -> World:
    return World(consumer(auth_ids=("o1",)), oauth2(**config), idp=idp)


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({}, 200),
        ({"aud": ["x", "api"]}, 200),
        ({"aud": "api://api"}, 200),
        ({"aud": "other"}, 401),
        ({"aud": None}, 401),
        ({"iss": ISSUER + "/"}, 401),
        ({"exp": None}, 401),
        ({"exp": int(NOW)}, 401),
        ({"exp": int(NOW) - 1}, 401),
        ({"exp": 10**400}, 401),
        ({"nbf": -(10**400)}, 401),
        ({"nbf": int(NOW) + 5}, 401),
        ({"nbf": int(NOW)}, 200),
        ({"sub": None}, 401),
        ({"sub": ""}, 401),
        ({"scope": "other"}, 200),
    ],
)
async def test_claims(claims: dict[str, Any], status: int) -> None:
    assert await jwt_world().status(**bearer(token(**claims))) == status


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"scope": "read write"}, 200),
        ({"scp": ["read", "write"]}, 200),
        ({"scope": "read", "scopes": ["write"]}, 200),
        ({"scope": "read"}, 401),
        ({}, 401),
    ],
)
async def test_every_required_scope_must_be_held(claims: dict[str, Any], status: int) -> None:
    assert await jwt_world(required_scopes=["read", "write"]).status(**bearer(token(**claims))) == status


async def test_symmetric_and_unsigned_tokens_are_refused() -> None:
    pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    world = jwt_world()
    claims = {"iss": ISSUER, "aud": "api", "sub": "u1", "exp": int(NOW) + 60}
    confused = jwt.api_jws.PyJWS().encode(
        jwt.api_jwt.json.dumps(claims).encode(), b"x" * 32, algorithm="HS256", headers={"kid": "k1"}
    )
    assert await world.status(**bearer(confused)) == 401
    assert await world.status(**bearer(jwt.encode(claims, None, algorithm="none"))) == 401
    assert pem  # the public key must not serve as an HMAC secret


@pytest.mark.parametrize(
    ("allowed", "alg", "status"),
    [([], "RS256", 200), ([], "PS384", 200), (["RS256"], "RS256", 200), (["RS512"], "RS256", 401)],
)
async def test_allowed_algorithms(allowed: list[str], alg: str, status: int) -> None:
    assert await jwt_world(allowed_algorithms=allowed).status(**bearer(token(alg=alg))) == status


@pytest.mark.parametrize(("key", "alg"), [(RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA")])
async def test_rsa_ec_and_okp_keys_of_a_key_set(key: Any, alg: str) -> None:
    world = jwt_world(Idp(jwk(OTHER_RSA, "k0"), jwk(key, "k1")))
    assert await world.status(**bearer(token(key, alg))) == 200
    assert await world.status(**bearer(token(key, alg, kid=None))) == 200


async def test_a_key_that_names_another_algorithm_does_not_verify() -> None:
    assert await jwt_world(Idp(jwk(RSA, "k1", alg="RS512"))).status(**bearer(token())) == 401


async def test_an_unknown_kid_forces_one_refresh_and_no_more_within_30_seconds() -> None:
    idp = Idp(jwk(OTHER_RSA, "k0"))
    world = jwt_world(idp)
    assert await world.status(**bearer(token())) == 401
    assert len(idp.fetched) == 2  # the set, and the forced refresh
    idp.keys.append(jwk(RSA, "k1"))
    assert await world.status(**bearer(token())) == 401
    assert len(idp.fetched) == 2
    world.clock += 31
    assert await world.status(**bearer(token())) == 200
    assert len(idp.fetched) == 3


async def test_a_rotated_key_under_the_same_kid_is_found_by_a_refresh() -> None:
    idp = Idp(jwk(OTHER_RSA, "k1"))
    world = jwt_world(idp)
    idp_after = jwk(RSA, "k1")
    assert await world.status(**bearer(token(OTHER_RSA))) == 200
    idp.keys = [idp_after]
    assert await world.status(**bearer(token())) == 200


async def test_all_requests_that_wait_for_a_rotated_key_get_it() -> None:
    idp = Idp(jwk(OTHER_RSA, "k1"))
    world = jwt_world(idp)
    assert await world.status(**bearer(token(OTHER_RSA))) == 200
    idp.keys, idp.slow = [jwk(RSA, "k2")], True
    answers: list[int] = []

    async def ask() -> None:
        answers.append(await world.status(**bearer(token(kid="k2"))))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert (answers, len(idp.fetched)) == ([200] * 5, 2)


@pytest.mark.parametrize("config", [{}, {"jwks_url": ""}], ids=["keys", "discovery"])
async def test_a_client_that_leaves_during_the_fetch_leaves_it_to_the_next(config: dict[str, Any]) -> None:
    idp = Idp(jwk(RSA, "k1"))
    world = World(consumer(auth_ids=("o1",)), oauth2(**config), idp=idp)
    idp.hangs = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: world.status(**bearer(token())))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(idp.fetched) == 1
    idp.hangs = False
    assert await world.status(**bearer(token())) == 200


async def test_requests_at_the_same_time_share_one_try_of_discovery() -> None:
    idp = Idp(jwk(RSA, "k1"))
    world = World(consumer(auth_ids=("o1",)), oauth2(jwks_url=""), idp=idp)
    idp.down = idp.slow = True
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(lambda: world.status(**bearer(token())))
    assert len(idp.fetched) == 1
    idp.down = False
    assert await world.status(**bearer(token())) == 200


async def test_stale_keys_serve_while_the_provider_is_down() -> None:
    idp = Idp(jwk(RSA, "k1"))
    world = jwt_world(idp)
    assert await world.status(**bearer(token())) == 200
    idp.down = True
    world.clock += 3600
    assert await world.status(**bearer(token())) == 200
    assert len(idp.fetched) == 2


async def test_without_a_jwks_url_the_issuer_is_discovered() -> None:
    idp = Idp(jwk(RSA, "k1"))
    world = World(consumer(auth_ids=("o1",)), oauth2(jwks_url=""), idp=idp)
    assert await world.status(**bearer(token())) == 200
    assert idp.fetched == [ISSUER + "/.well-known/openid-configuration", ISSUER + "/keys"]


async def test_several_oauth2_credentials_are_tried_in_id_order() -> None:
    world = World(
        consumer(auth_ids=("o2", "o1")), oauth2("o1", audiences=["other"]), oauth2("o2"), oauth2("o3", audiences=["z"])
    )
    assert (await world.ask(**bearer(token()))).auth_id == "o2"


def pem_of(key: Any) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def any_of(path: str, *values: str, op: str = "contains_any") -> dict[str, Any]:
    return {"match": "any", "claims": [{"path": path, "op": op, "values": list(values)}]}


def role_world(*extra: Any, **config: Any) -> World:
    return World(
        registry("r1"),
        consumer(routing_mode="role_based", auth_ids=("i1",), role_ids=("eng", "ops")),
        oidc(**config),
        role("eng", oidc_mapping=any_of("groups", "eng"), registry_ids=("r1",), created_at=later(1)),
        role("ops", oidc_mapping=any_of("groups", "ops"), registry_ids=("r1",), created_at=later(2)),
        role("hidden", oidc_mapping=any_of("groups", "eng"), registry_ids=("r1",), created_at=later(3)),
        *extra,
    )


async def test_claims_select_the_consumers_roles_newest_first() -> None:
    principal = await role_world().ask(**bearer(token(groups=["eng", "ops"])))
    assert [found.id for found in principal.roles] == ["ops", "eng"]


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"groups": ["eng"]}, 200),
        ({"groups": "eng"}, 200),
        ({"groups": ["sales"]}, 403),
        ({}, 403),
        ({"groups": 5}, 403),
    ],
)
async def test_a_caller_without_a_role_is_forbidden(claims: dict[str, Any], status: int) -> None:
    assert await role_world().status(**bearer(token(**claims))) == status


async def test_a_broken_mapping_of_any_role_of_the_gateway_is_a_400() -> None:
    world = role_world(role("bad", oidc_mapping={"match": "most", "claims": []}))
    assert await world.status(**bearer(token(groups=["eng"]))) == 400


async def test_api_keys_do_not_open_a_role_based_consumer() -> None:
    assert await role_world().status(x_ag_api_key="ag_x") == 403


async def test_public_keys_serve_tokens_without_kid() -> None:
    world = role_world(jwks_url="", public_keys=[pem_of(EC)])
    assert await world.status(**bearer(token(EC, "ES256", kid=None, groups=["eng"]))) == 200
    assert await world.status(**bearer(token(EC, "ES256", kid="any", groups=["eng"]))) == 200
    assert await world.status(**bearer(token(RSA, groups=["eng"]))) == 401


async def test_two_fitting_oidc_credentials_are_ambiguous() -> None:
    world = World(consumer(routing_mode="role_based", auth_ids=("i1", "i2"), role_ids=()), oidc("i1"), oidc("i2"))
    with pytest.raises(AuthError) as refused:
        await world.ask(**bearer(token()))
    assert (refused.value.status, refused.value.message) == (400, "ambiguous oidc auth config")


async def test_a_role_based_consumer_with_oauth2_only_is_forbidden() -> None:
    world = World(consumer(routing_mode="role_based", auth_ids=("o1",)), oauth2())
    assert await world.status(**bearer(token())) == 403
    assert await world.status() == 401


def playground(key: bytes = SECRET, alg: str = "HS256", **claims: Any) -> dict[str, str]:
    base = {"purpose": "playground", "consumer_slug": "AbCd1234", "user_id": "u9", "exp": NOW + 60}
    merged = {name: value for name, value in (base | claims).items() if value is not None}
    return {"x_ag_playground_token": jwt.encode(merged, key, algorithm=alg)}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (playground(), 200),
        (playground(exp=NOW + 0.5), 200),
        (playground(exp=NOW - 0.5), 401),
        (playground(exp=None), 401),
        (playground(key=b"x" * 32), 401),
        (playground(alg="HS512"), 401),
        (playground(purpose="other"), 403),
        (playground(purpose=None), 403),
        (playground(consumer_slug="Other123"), 403),
        (playground(gateway_id="gw-1"), 200),
        (playground(gateway_id="gw-2"), 403),
        ({"x_ag_playground_token": "a.b"}, 401),
    ],
)
async def test_playground_tokens(headers: dict[str, str], status: int) -> None:
    assert await keyed_world().status(**headers) == status


async def test_a_playground_token_grants_all_roles_of_the_consumer() -> None:
    principal = await role_world().ask(**playground())
    assert (principal.subject, [found.id for found in principal.roles]) == ("u9", ["ops", "eng"])


@pytest.mark.parametrize(
    ("bounds", "peer", "status"),
    [
        ({"expires_at": datetime.fromtimestamp(NOW + 1, UTC)}, "", 200),
        ({"expires_at": datetime.fromtimestamp(NOW, UTC)}, "", 401),
        ({"expires_at": datetime.fromtimestamp(NOW - 1, UTC), "allowed_cidrs": ("10.0.0.0/8",)}, "10.0.0.1", 401),
        ({"allowed_cidrs": ("10.0.0.0/8", "2001:db8::/32")}, "10.255.0.1", 200),
        ({"allowed_cidrs": ("10.0.0.0/8", "2001:db8::/32")}, "2001:db8::7", 200),
        ({"allowed_cidrs": ("10.0.0.0/8",)}, "::ffff:10.0.0.1", 200),
        ({"allowed_cidrs": ("10.0.0.0/8",)}, "11.0.0.1", 401),
        ({"allowed_cidrs": ("10.0.0.0/8",)}, "2001:db8::7", 401),
        ({"allowed_cidrs": ("10.0.0.0/8",)}, "", 401),
    ],
)
async def test_a_key_serves_within_its_time_and_networks_only(bounds: dict[str, Any], peer: str, status: int) -> None:
    world = World(key_auth("k1", "ag_mine", **bounds), consumer(auth_ids=("k1",)))
    found = world.view.consumer("AbCd1234")
    assert found is not None
    headers = {b"x-api-key": b"ag_mine"}
    assert known_key(found, headers) is None
    try:
        await authenticate(world.view, found, headers, world.services, peer)
        got = 200
    except AuthError as error:
        got = error.status
    assert got == status
