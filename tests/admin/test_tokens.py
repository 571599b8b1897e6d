"""Console and machine tokens (spec 01 §2.1)."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from trustgate.admin.services import AdminSettings, MachineKey, MachineSettings
from trustgate.admin.tokens import Authenticator, Identity
from trustgate.domain.errors import DomainError

SECRET = b"0123456789abcdef0123456789abcdef"
NOW = 1_800_000_000
ISSUER = "https://machines.example"

REQUIRED = "Authorization required"
FORMAT = "Invalid authorization format"
EMPTY = "Empty token provided"
INVALID = "Invalid token"
PURPOSE = "Token not valid for admin API"


def pair() -> tuple[str, str]:
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return private, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


PRIVATE, PUBLIC = pair()
OTHER_PRIVATE, OTHER_PUBLIC = pair()


def authenticator(machine: MachineSettings | None = None, **settings: Any) -> Authenticator:
    machine = machine or MachineSettings(issuer=ISSUER, keys=(MachineKey(PUBLIC),))
    return Authenticator(AdminSettings(secret_key=SECRET, machine=machine, **settings), now=lambda: NOW)


def identify(header: str | None, check: Authenticator | None = None) -> Identity | str:
    """The identity, or the message of the refusal."""
    try:
        return (check or authenticator()).identify(header)
    except DomainError as refusal:
        assert (refusal.status, refusal.code) == (401, "unauthorized")
        return refusal.message


def console(**claims: Any) -> str:
    return "Bearer " + jwt.encode(claims, SECRET, algorithm="HS256")


def machine(private: str = PRIVATE, headers: dict[str, Any] | None = None, **changes: Any) -> str:
    claims = {
        "iss": ISSUER,
        "aud": "trustgate-admin",
        "iat": NOW,
        "exp": NOW + 600,
        "token_use": "admin_m2m",
        "tenant_id": "t-1",
        "gateway_id": "g-1",
        "scopes": ["consumers:read"],
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return "Bearer " + jwt.encode(claims, private, algorithm="RS256", headers=headers)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, REQUIRED),
        ("", REQUIRED),
        ("Basic YTpi", FORMAT),
        ("Bearer", FORMAT),
        ("Bearer ", EMPTY),
        ("Bearer    ", EMPTY),
        ("Bearer abc", INVALID),
        ("Bearer a.b.c", INVALID),
        ("Bearer " + "é" * 20, INVALID),
        ("Bearer eyJhbGciOiJIUzI1NiJ9.WzFd.x", INVALID),
    ],
)
def test_headers_without_a_usable_token(header: str | None, message: str) -> None:
    assert identify(header) == message


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_may_be_spelled_in_any_case(scheme: str) -> None:
    assert identify(scheme + console()[6:]) == Identity(kind="platform")


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({}, Identity(kind="platform")),
        ({"sub": "admin"}, Identity(kind="platform", actor="admin")),
        ({"tenant_id": ""}, Identity(kind="platform")),
        ({"tenant_id": "t"}, Identity(kind="tenant", tenant="t")),
        ({"tenant_id": "t", "user_id": "u", "user_email": "a@b.c", "sub": "s"},
         Identity(kind="tenant", tenant="t", actor="u", email="a@b.c")),
        ({"exp": NOW + 1}, Identity(kind="platform")),
        ({"exp": NOW}, INVALID),
        ({"exp": NOW - 1}, INVALID),
        ({"exp": str(NOW + 5)}, Identity(kind="platform")),
        ({"exp": str(NOW - 5)}, INVALID),
        ({"exp": NOW + 1.9}, Identity(kind="platform")),
        ({"exp": NOW + 0.9}, INVALID),
        ({"exp": "soon"}, INVALID),
        ({"exp": True}, INVALID),
        ({"exp": [NOW]}, INVALID),
        ({"nbf": NOW + 5}, INVALID),
        ({"nbf": NOW}, Identity(kind="platform")),
        ({"iat": NOW + 500, "iss": "x", "aud": ["y"]}, Identity(kind="platform")),
        ({"tenant_id": 5}, INVALID),
        ({"user_id": ["u"]}, INVALID),
        ({"consumer_slug": 1}, INVALID),
        ({"platform_admin": "yes"}, INVALID),
        ({"purpose": "playground"}, PURPOSE),
        ({"token_use": "admin_m2m"}, PURPOSE),
        ({"purpose": "playground", "exp": NOW - 1}, INVALID),
        ({"purpose": None, "tenant_id": None}, Identity(kind="platform")),
    ],
)  # fmt: skip
def test_claims_of_a_console_token(claims: dict[str, Any], expected: Identity | str) -> None:
    assert identify(console(**claims)) == expected


@pytest.mark.parametrize("algorithm", ["HS384", "HS512", "none"])
def test_a_console_token_is_signed_with_hs256_only(algorithm: str) -> None:
    token = jwt.encode({"sub": "admin"}, "" if algorithm == "none" else SECRET * 2, algorithm=algorithm)
    assert identify(f"Bearer {token}") == INVALID


def test_a_console_token_of_another_secret_is_refused() -> None:
    assert identify("Bearer " + jwt.encode({}, b"x" * 32, algorithm="HS256")) == INVALID


def test_the_public_machine_key_is_no_hmac_secret() -> None:
    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    signing = part(json.dumps({"alg": "HS256"}).encode()) + b"." + part(b'{"tenant_id":"t"}')
    signature = part(hmac.digest(PUBLIC.encode(), signing, "sha256"))
    assert identify("Bearer " + (signing + b"." + signature).decode()) == INVALID


def test_platform_tokens_may_be_made_to_carry_a_claim() -> None:
    check = authenticator(platform_claim_required=True)
    assert identify(console(), check) == PURPOSE
    assert identify(console(platform_admin=False), check) == PURPOSE
    assert identify(console(platform_admin=True), check) == Identity(kind="platform")
    assert identify(console(tenant_id="t"), check) == Identity(kind="tenant", tenant="t")


def test_an_expiry_may_be_made_compulsory() -> None:
    check = authenticator(require_exp=True)
    assert identify(console(), check) == INVALID
    assert identify(console(exp=NOW + 5), check) == Identity(kind="platform")


def test_a_machine_token_names_its_tenant_gateway_and_scopes() -> None:
    assert identify(machine(sub="ci")) == Identity(
        kind="machine", tenant="t-1", actor="ci", gateway_id="g-1", scopes=frozenset(["consumers:read"])
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "x"},
        {"iss": None},
        {"aud": "x"},
        {"aud": ["x", "y"]},
        {"aud": None},
        {"exp": None},
        {"exp": NOW},
        {"iat": NOW + 1},
        {"iat": None},
        {"exp": NOW + 86_401},
        {"nbf": NOW + 1},
        {"token_use": "x"},
        {"token_use": None},
        {"tenant_id": " "},
        {"tenant_id": None},
        {"tenant_id": 7},
        {"gateway_id": ""},
        {"scopes": []},
        {"scopes": "consumers:read"},
        {"scopes": [1]},
        {"scopes": None},
    ],
)
def test_a_machine_token_with_a_claim_amiss_is_invalid(changes: dict[str, Any]) -> None:
    assert identify(machine(**changes)) == INVALID


def test_the_lifetime_of_machine_tokens_is_not_bounded_when_the_bound_is_zero() -> None:
    settings = MachineSettings(issuer=ISSUER, keys=(MachineKey(PUBLIC),), max_token_ttl_s=0)
    found = identify(machine(iat=None, exp=NOW + 10**6), authenticator(settings))
    assert isinstance(found, Identity)


def test_a_machine_token_of_another_key_is_invalid() -> None:
    assert identify(machine(OTHER_PRIVATE)) == INVALID


def test_the_kid_chooses_among_keys_and_a_key_without_kid_fits_any() -> None:
    keys = (MachineKey(PUBLIC, "one"), MachineKey(OTHER_PUBLIC, "two"))
    named = authenticator(MachineSettings(issuer=ISSUER, keys=keys))
    assert isinstance(identify(machine(headers={"kid": "one"}), named), Identity)
    assert isinstance(identify(machine(OTHER_PRIVATE, {"kid": "two"}), named), Identity)
    assert identify(machine(headers={"kid": "two"}), named) == INVALID
    assert identify(machine(headers={"kid": "three"}), named) == INVALID
    unnamed = authenticator(MachineSettings(issuer=ISSUER, keys=(MachineKey(OTHER_PUBLIC), MachineKey(PUBLIC))))
    assert isinstance(identify(machine(headers={"kid": "zz"}), unnamed), Identity)


@pytest.mark.parametrize(
    "settings",
    [
        MachineSettings(keys=(MachineKey(PUBLIC),)),
        MachineSettings(issuer=ISSUER),
        MachineSettings(issuer=ISSUER, audience="", keys=(MachineKey(PUBLIC),)),
    ],
)
def test_machine_tokens_are_off_unless_issuer_audience_and_a_key_are_set(settings: MachineSettings) -> None:
    assert identify(machine(), authenticator(settings)) == PURPOSE


def test_other_asymmetric_algorithms_are_machine_tokens_and_invalid() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert identify("Bearer " + jwt.encode({}, key, algorithm="ES256")) == INVALID
    assert identify("Bearer " + jwt.encode({}, PRIVATE, algorithm="RS512")) == INVALID
    assert identify("Bearer " + jwt.encode({}, PRIVATE, algorithm="PS256")) == INVALID


@pytest.mark.parametrize(
    "spelled", [PUBLIC, PUBLIC.replace("\n", "\\n"), base64.b64encode(PUBLIC.encode()).decode(), f"  {PUBLIC}\n"]
)
def test_machine_keys_may_be_spelled_in_three_ways(spelled: str) -> None:
    settings = MachineSettings(issuer=ISSUER, keys=(MachineKey(spelled),))
    assert isinstance(identify(machine(), authenticator(settings)), Identity)


@pytest.mark.parametrize("spelled", ["nonsense", "-----BEGIN PUBLIC KEY-----\nxx\n-----END PUBLIC KEY-----", "YWJj"])
def test_an_unusable_machine_key_stops_the_start(spelled: str) -> None:
    with pytest.raises(ValueError):
        authenticator(MachineSettings(issuer=ISSUER, keys=(MachineKey(spelled),)))


def test_a_short_secret_stops_the_start() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Authenticator(AdminSettings(secret_key=b"short"))


def test_the_clock_is_the_systems_unless_another_is_given() -> None:
    check = Authenticator(AdminSettings(secret_key=SECRET))
    assert identify(console(exp=int(time.time()) + 60), check) == Identity(kind="platform")
    assert identify(console(exp=int(time.time()) - 1), check) == INVALID
