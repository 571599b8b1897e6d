"""JSON Web Tokens (RFC 7519) as both data planes accept them: parsing, key material, signature and claims.

What lives here: synchronous, I/O-free verification (spec 02 §4.2, spec 05 §4.2). What must not: fetching keys (`jwks`)
and deciding which credential applies (`authenticate`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Any, cast

import jwt as pyjwt
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms

ALGORITHMS = {name: algorithm for name, algorithm in get_default_algorithms().items() if name != "none"}
PROTOCOL_SCOPES = frozenset({"openid", "profile", "email", "offline_access"})
MAX_TOKEN_BYTES = 32 * 1024


class Refused(Exception):
    """A token that does not verify. The reason is for logs; clients never learn it."""


class BadSignature(Refused):
    """No candidate key verifies the signature: fresh keys may."""


class Token(msgspec.Struct, frozen=True):
    """A parsed and not yet verified token."""

    raw: str
    header: dict[str, Any]
    claims: dict[str, Any]
    signing_input: bytes
    signature: bytes

    @property
    def algorithm(self) -> str:
        value = self.header.get("alg")
        return value if isinstance(value, str) else ""

    @property
    def kid(self) -> str:
        value = self.header.get("kid")
        return value if isinstance(value, str) else ""


class Key(msgspec.Struct, frozen=True):
    """A verification key; empty `kid` or `alg` mean that the key set does not say."""

    kid: str
    alg: str
    material: Any


def decode_segment(segment: str) -> bytes:
    try:
        return base64.b64decode(segment + "=" * (-len(segment) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused("not base64url") from error


def parse(raw: str) -> Token:
    """Split and decode a compact JWS (RFC 7515 §7.1). Raises Refused."""
    if len(raw) > MAX_TOKEN_BYTES:
        raise Refused("token too large")
    parts = raw.split(".")
    if len(parts) != 3:
        raise Refused("not a compact JWS")
    try:
        header = msgspec.json.decode(decode_segment(parts[0]))
        claims = msgspec.json.decode(decode_segment(parts[1]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("header or claims are not JSON") from error
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise Refused("header or claims are not objects")
    return Token(
        raw,
        cast("dict[str, Any]", header),
        cast("dict[str, Any]", claims),
        f"{parts[0]}.{parts[1]}".encode(),
        decode_segment(parts[2]),
    )


def keys_of_jwks(document: Any) -> tuple[Key, ...]:
    """The usable signature keys of a JWK set (RFC 7517 §5): RSA, EC, OKP, or the first `x5c` certificate."""
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise Refused("not a JWK set")
    found: list[Key] = []
    for entry in document["keys"]:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        material = material_of(entry)
        if material is not None:
            found.append(Key(str(entry.get("kid") or ""), str(entry.get("alg") or ""), material))
    return tuple(found)


def material_of(jwk: dict[str, Any]) -> Any:
    """The public key of one JWK, or None when its kind is unknown or it is malformed (other keys still serve)."""
    try:
        chain = jwk.get("x5c")
        if isinstance(chain, list) and chain:
            return x509.load_der_x509_certificate(base64.b64decode(chain[0])).public_key()
        match jwk.get("kty"):
            case "RSA":
                return RSAAlgorithm.from_jwk({"kty": "RSA", "n": jwk["n"], "e": jwk["e"]})
            case "EC":
                return ECAlgorithm.from_jwk({name: jwk[name] for name in ("kty", "crv", "x", "y")})
            case "OKP":
                return OKPAlgorithm.from_jwk({name: jwk[name] for name in ("kty", "crv", "x")})
            case _:
                return None
    except (pyjwt.InvalidKeyError, KeyError, ValueError, TypeError):
        return None


def keys_of_pems(pems: Iterable[str]) -> tuple[Key, ...]:
    """Configured PEM public keys or certificates; unreadable ones are skipped."""
    found: list[Key] = []
    for pem in pems:
        data = pem.replace("\\n", "\n").encode()
        try:
            if b"CERTIFICATE" in data:
                found.append(Key("", "", x509.load_pem_x509_certificate(data).public_key()))
            else:
                found.append(Key("", "", load_pem_public_key(data)))
        except ValueError:
            continue
    return tuple(found)


def check_algorithm(token: Token, allowed: Sequence[str]) -> None:
    """Refuse symmetric and unsigned tokens, and those outside a non-empty `allowed` list."""
    name = token.algorithm
    if name.upper().startswith("HS") or name not in ALGORITHMS:
        raise Refused(f"algorithm {name!r} is not accepted")
    if allowed and name not in allowed:
        raise Refused(f"algorithm {name!r} is not allowed")


def candidates(token: Token, keys: Iterable[Key]) -> list[Key]:
    """Keys that may have signed the token: same `kid` when it has one, same `alg` when the key names one."""
    kid, alg = token.kid, token.algorithm
    return [key for key in keys if (not kid or not key.kid or key.kid == kid) and (not key.alg or key.alg == alg)]


def check_signature(token: Token, keys: Iterable[Key]) -> None:
    """Raises BadSignature unless one of the keys verifies the token."""
    algorithm = ALGORITHMS[token.algorithm]
    for key in keys:
        try:
            material = algorithm.prepare_key(key.material)
            if algorithm.verify(token.signing_input, material, token.signature):
                return
        except (pyjwt.PyJWTError, TypeError, ValueError, AttributeError):
            continue  # a key of another kind than the algorithm's
    raise BadSignature("no key verifies the signature")


def number(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refused(f"{name} is not a number")
    try:
        return float(value)
    except OverflowError:
        raise Refused(f"{name} is out of range") from None


def strings(value: Any) -> list[str]:
    """A claim that is a string or an array of strings, as a list."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [item for item in cast("list[Any]", value) if isinstance(item, str)]
    return []


def bare(audience: str) -> str:
    """`api://X` and `X` name the same audience."""
    return audience.removeprefix("api://")


def audience_matches(token_audiences: Iterable[str], configured: Iterable[str]) -> bool:
    wanted = {bare(audience) for audience in configured}
    return any(bare(audience) in wanted for audience in token_audiences)


def check_claims(
    claims: dict[str, Any], *, issuer: str, audiences: Sequence[str], now: float, leeway_s: float = 0
) -> None:
    """`exp` required and ahead, `nbf` past, `iss` exact, `aud` matching (spec 02 §4.2). Raises Refused."""
    expires = number(claims, "exp")
    if expires is None or expires + leeway_s <= now:
        raise Refused("expired, or without exp")
    not_before = number(claims, "nbf")
    if not_before is not None and not_before - leeway_s > now:
        raise Refused("not valid yet")
    if claims.get("iss") != issuer:
        raise Refused("issuer differs")
    if not audience_matches(strings(claims.get("aud")), audiences):
        raise Refused("audience differs")


def scopes_of(claims: dict[str, Any], names: Sequence[str] = ("scope", "scp", "scopes")) -> list[str]:
    """Union of the scope claims, each a space-separated string or an array."""
    found: dict[str, None] = {}
    for name in names:
        for value in strings(claims.get(name)):
            found.update(dict.fromkeys(value.split()))
    return list(found)


def subject_of(claims: dict[str, Any], claim: str) -> str:
    """The subject claim, a non-empty string. Raises Refused."""
    value = claims.get(claim or "sub")
    if not isinstance(value, str) or not value:
        raise Refused("no subject")
    return value
