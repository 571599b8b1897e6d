"""The gateway's own signing keys: tokens that the MCP plane mints, and their verification (spec 05 §8.6, §8.7).

What lives here: RS256 with a list of keys, of which the first signs and all verify, so that keys can be rotated. What
must not: which tokens are minted, and what their claims mean.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import jwt as pyjwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import get_default_algorithms

from trustgate.identity.jwt import Refused, Token

_RS256 = get_default_algorithms()["RS256"]


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def key_id(key: rsa.RSAPublicKey) -> str:
    """base64url of the first 8 bytes of SHA-256 over the modulus' big-endian bytes."""
    return base64url(hashlib.sha256(_bytes(key.public_numbers().n)).digest()[:8])


class SigningKeys:
    """Immutable. `keys` must not be empty."""

    def __init__(self, issuer: str, keys: Sequence[rsa.RSAPrivateKey]) -> None:
        self.issuer = issuer
        self._signing = keys[0]
        self.kid = key_id(keys[0].public_key())
        self._public = {key_id(key.public_key()): key.public_key() for key in keys}

    def sign(self, claims: dict[str, Any]) -> str:
        """A compact JWT of the claims, with `iss` of this gateway."""
        return pyjwt.encode(
            {"iss": self.issuer, **claims}, self._signing, algorithm="RS256", headers={"kid": self.kid, "typ": "JWT"}
        )

    def check(self, token: Token, now: float) -> None:
        """Signature, issuer and expiry of a token of ours, without leeway. Raises Refused."""
        key = self._public.get(token.kid)
        if token.algorithm != "RS256" or key is None:
            raise Refused("not signed by this gateway")
        if not _RS256.verify(token.signing_input, key, token.signature):
            raise Refused("signature")
        expires = token.claims.get("exp")
        if isinstance(expires, bool) or not isinstance(expires, (int, float)) or expires <= now:
            raise Refused("expired, or without exp")
        if token.claims.get("iss") != self.issuer:
            raise Refused("issuer differs")

    def jwks(self) -> dict[str, Any]:
        """The public keys as a JWK set (RFC 7517 §5)."""
        keys: list[dict[str, str]] = []
        for kid, key in self._public.items():
            numbers = key.public_numbers()
            members = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid}
            keys.append(members | {"n": base64url(_bytes(numbers.n)), "e": base64url(_bytes(numbers.e))})
        return {"keys": keys}
