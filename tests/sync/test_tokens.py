"""Who may read the feed, in each mode of `CONFIG_SYNC_AUTH_MODE`."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from trustgate.sync.tokens import NOT_CONFIGURED, REFUSED, Tokens, Unauthenticated

SHARED, PREVIOUS, SECRET, OLD = "s" * 32, "p" * 32, "j" * 32, "o" * 32
GATEWAY = "0b7e5f2c-7b0a-4c0e-9f49-2f4f6c1f0a11"


def signed(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    usual: dict[str, Any] = {"iss": "cp", "aud": "dp", "exp": int(time.time()) + 60, "instance_id": GATEWAY}
    given = {name: value for name, value in (usual | claims).items() if value is not None}
    return jwt.encode(given, secret, algorithm=algorithm)


def tokens(mode: str, **more: str) -> Tokens:
    usual = {"shared": SHARED, "shared_previous": PREVIOUS, "secret": SECRET, "issuer": "cp", "audience": "dp"}
    return Tokens(mode=mode, **(usual | {"secret_previous": OLD} | more))  # type: ignore[arg-type]


def outcome(given: Tokens, *sent: str) -> str:
    try:
        return given.scope(sent) or "everything"
    except Unauthenticated as error:
        return str(error)


SHARED_ROWS = [
    (f"Bearer {SHARED}", "everything"),
    (f"bearer  {SHARED} ", "everything"),
    (f"Bearer {PREVIOUS}", "everything"),
    (f"Bearer {SHARED}x", REFUSED),
    (f"Bearer {SHARED[:-1]}", REFUSED),
    ("Bearer ", REFUSED),
    (SHARED, REFUSED),
    (f"Basic {SHARED}", REFUSED),
    ("Bearer ümlaut", REFUSED),
]


@pytest.mark.parametrize("sent, expected", SHARED_ROWS)
def test_a_shared_token_opens_everything(sent: str, expected: str) -> None:
    assert outcome(tokens("shared"), sent) == expected


def test_no_metadata_is_refused() -> None:
    assert outcome(tokens("shared")) == REFUSED


def test_the_previous_token_counts_only_beside_a_current_one() -> None:
    assert outcome(tokens("shared", shared=""), f"Bearer {PREVIOUS}") == NOT_CONFIGURED
    assert outcome(tokens("shared", shared_previous=""), "Bearer ") == REFUSED


def test_a_signed_token_is_nothing_in_shared_mode() -> None:
    assert outcome(tokens("shared"), f"Bearer {signed()}") == REFUSED


SIGNED_ROWS: list[tuple[dict[str, Any], str]] = [
    ({}, GATEWAY),
    ({"secret": OLD}, GATEWAY),
    ({"secret": "x" * 32}, REFUSED),
    ({"exp": None}, REFUSED),
    ({"exp": int(time.time()) - 1}, REFUSED),
    ({"iss": "other"}, REFUSED),
    ({"iss": None}, REFUSED),
    ({"aud": "other"}, REFUSED),
    ({"aud": None}, REFUSED),
    ({"aud": ["other", "dp"]}, GATEWAY),
    ({"nbf": int(time.time()) + 86_400}, REFUSED),
    ({"iat": int(time.time()) + 86_400}, GATEWAY),
    ({"instance_id": None, "scope": GATEWAY}, GATEWAY),
    ({"instance_id": "", "scope": GATEWAY}, GATEWAY),
    ({"instance_id": "first", "scope": GATEWAY}, "first"),
    ({"instance_id": None}, REFUSED),
    ({"instance_id": " "}, REFUSED),
    ({"instance_id": 7}, REFUSED),
    ({"algorithm": "HS384"}, REFUSED),
]


@pytest.mark.parametrize("mode", ["signed", "composite"])
@pytest.mark.parametrize("claims, expected", SIGNED_ROWS)
def test_a_signed_token_opens_its_gateway(mode: str, claims: dict[str, Any], expected: str) -> None:
    assert outcome(tokens(mode), f"Bearer {signed(**claims)}") == expected


def test_a_token_without_a_signature_is_refused() -> None:
    unsigned = jwt.encode({"iss": "cp", "aud": "dp", "exp": time.time() + 60, "instance_id": GATEWAY}, None, "none")
    assert outcome(tokens("signed"), f"Bearer {unsigned}") == REFUSED


def test_a_shared_token_counts_in_composite_mode_and_not_in_signed() -> None:
    assert outcome(tokens("composite"), f"Bearer {SHARED}") == "everything"
    assert outcome(tokens("composite"), f"Bearer {PREVIOUS}") == "everything"
    assert outcome(tokens("signed"), f"Bearer {SHARED}") == REFUSED


def test_without_any_credential_nobody_is_let_in() -> None:
    assert outcome(Tokens(), f"Bearer {SHARED}") == NOT_CONFIGURED
    assert outcome(Tokens(mode="signed"), f"Bearer {signed()}") == NOT_CONFIGURED
