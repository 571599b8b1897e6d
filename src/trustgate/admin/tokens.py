"""Who calls the Admin API: console tokens (HS256) and machine tokens (RS256), spec 01 §2.1.

What lives here: verification, from the Authorization header to an `Identity`. What must not: which routes an identity
may use (`access`). Claims are checked by hand because the contract differs from a JWT library's defaults; signatures
are PyJWT's, which compares in constant time.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable
from typing import Any, Literal

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.types import Options

from trustgate.admin.errors import unauthorized
from trustgate.admin.services import AdminSettings, MachineKey
from trustgate.domain.errors import DomainError

MACHINE_ALGORITHMS = ("RS", "PS", "ES", "EdDSA")
STRING_CLAIMS = ("tenant_id", "user_id", "user_email", "purpose", "consumer_slug", "token_use")
SIGNATURE_ONLY: Options = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
    "enforce_minimum_key_length": False,
}


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated caller. `tenant` is None for the platform; `gateway_id` and `scopes` only bind machines."""

    kind: Literal["platform", "tenant", "machine"]
    tenant: str | None = None
    actor: str = ""
    email: str = ""
    gateway_id: str = ""
    scopes: frozenset[str] = frozenset()


def public_key(key: MachineKey) -> RSAPublicKey:
    """Reads a configured key in any of its spellings; raises ValueError when it is none."""
    text = key.pem.strip().replace("\\n", "\n")
    if not text.startswith("-----BEGIN"):
        try:
            text = base64.b64decode(text, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as failure:
            raise ValueError("ADMIN_M2M_PUBLIC_KEYS: a key is neither PEM nor base64 of a PEM") from failure
    loaded = load_pem_public_key(text.encode())
    if not isinstance(loaded, RSAPublicKey):
        raise ValueError("ADMIN_M2M_PUBLIC_KEYS: a key is not an RSA public key")
    return loaded


class Authenticator:
    """Turns an Authorization header into an `Identity`. Construction raises ValueError on an unparsable key."""

    def __init__(self, settings: AdminSettings, now: Callable[[], float] = time.time) -> None:
        if len(settings.secret_key) < 32:
            raise ValueError("the secret key must have at least 32 bytes")
        self._settings = settings
        self._now = now
        self._machine_keys = [(key.kid, public_key(key)) for key in settings.machine.keys]

    def identify(self, header: str | None) -> Identity:
        """Raises `DomainError` (401) with the message of the first failed check."""
        if not header:
            raise unauthorized("Authorization required")
        if header[:7].lower() != "bearer ":
            raise unauthorized("Invalid authorization format")
        token = header[7:].strip()
        if not token:
            raise unauthorized("Empty token provided")
        try:
            head = jwt.get_unverified_header(token)
            algorithm = head.get("alg")
            if isinstance(algorithm, str) and algorithm.startswith(MACHINE_ALGORITHMS):
                return self._machine(token, algorithm, head.get("kid"))
            return self._console(token)
        except (jwt.PyJWTError, _BadClaim, UnicodeError, RecursionError, OverflowError):
            # The cause is dropped on purpose: it may quote the token.
            raise unauthorized("Invalid token") from None

    def _console(self, token: str) -> Identity:
        claims: dict[str, Any] = jwt.decode(
            token, self._settings.secret_key, algorithms=["HS256"], options=SIGNATURE_ONLY
        )
        text = {name: _text(claims, name) for name in STRING_CLAIMS}
        platform_admin = claims.get("platform_admin")
        if platform_admin is not None and not isinstance(platform_admin, bool):
            raise _BadClaim
        now = self._now()
        expiry, not_before = _seconds(claims, "exp"), _seconds(claims, "nbf")
        if expiry is None and self._settings.require_exp:
            raise _BadClaim
        if (expiry is not None and expiry <= now) or (not_before is not None and not_before > now):
            raise _BadClaim
        if text["purpose"] or text["token_use"]:
            raise _wrong_purpose()
        actor = text["user_id"] or _loose_text(claims, "sub")
        if text["tenant_id"]:
            return Identity(kind="tenant", tenant=text["tenant_id"], actor=actor, email=text["user_email"])
        if self._settings.platform_claim_required and platform_admin is not True:
            raise _wrong_purpose()
        return Identity(kind="platform", actor=actor, email=text["user_email"])

    def _machine(self, token: str, algorithm: str, kid: Any) -> Identity:
        machine = self._settings.machine
        if not (machine.issuer and machine.audience and self._machine_keys):
            raise _wrong_purpose()
        if algorithm != "RS256":
            raise _BadClaim
        claims = self._verified_by_any(token, [key for name, key in self._machine_keys if name in (None, "", kid)])
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        now = self._now()
        expiry, issued, not_before = (_seconds(claims, name) for name in ("exp", "iat", "nbf"))
        scopes = claims.get("scopes")
        tenant, gateway_id = _text(claims, "tenant_id"), _text(claims, "gateway_id")
        valid = (
            claims.get("iss") == machine.issuer
            and machine.audience in audiences
            and expiry is not None
            and expiry > now
            and (issued is None or issued <= now)
            and (not_before is None or not_before <= now)
            and claims.get("token_use") == "admin_m2m"
            and bool(tenant.strip() and gateway_id.strip())
            and isinstance(scopes, list)
            and bool(scopes)
            and all(isinstance(scope, str) for scope in scopes)
        )
        if not valid or expiry is None:
            raise _BadClaim
        if machine.max_token_ttl_s > 0 and (issued is None or expiry - issued > machine.max_token_ttl_s):
            raise _BadClaim
        actor = _loose_text(claims, "sub") or "machine"
        return Identity(
            kind="machine", tenant=tenant, actor=actor, gateway_id=gateway_id, scopes=frozenset(scopes or ())
        )

    def _verified_by_any(self, token: str, keys: list[RSAPublicKey]) -> dict[str, Any]:
        for key in keys:
            try:
                return jwt.decode(token, key, algorithms=["RS256"], options=SIGNATURE_ONLY)
            except jwt.InvalidSignatureError:
                continue
        raise _BadClaim


class _BadClaim(Exception):
    """A claim is missing, of the wrong type or not satisfied."""


def _wrong_purpose() -> DomainError:
    return unauthorized("Token not valid for admin API")


def _text(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _BadClaim
    return value


def _loose_text(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name)
    return value if isinstance(value, str) else ""


def _seconds(claims: dict[str, Any], name: str) -> int | None:
    """A NumericDate as whole seconds: a number (a fraction is cut off) or a numeric string; None when absent."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise _BadClaim
    try:
        return int(float(value)) if isinstance(value, str) else int(value)
    except (ValueError, OverflowError):
        raise _BadClaim from None
