"""Who may read the feed, and how much of it: bearer tokens of data planes (spec 06 §17.2).

What lives here: the three modes of `CONFIG_SYNC_AUTH_MODE` as a pure decision. What must not: transport.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import jwt
import msgspec

REFUSED = "missing or invalid config-sync token"
NOT_CONFIGURED = "config-sync auth is not configured"


class Unauthenticated(Exception):
    """The text is what the caller is told."""


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """What is accepted. Empty texts are not configured."""

    mode: str = "shared"
    shared: str = ""
    shared_previous: str = ""
    secret: str = ""
    secret_previous: str = ""
    issuer: str = ""
    audience: str = ""

    @property
    def configured(self) -> bool:
        """Whether any caller can be accepted."""
        signed = bool(self.secret and self.issuer and self.audience)
        return bool(self.shared) if self.mode == "shared" else signed or (self.mode == "composite" and self.is_shared)

    @property
    def is_shared(self) -> bool:
        return bool(self.shared) and self.mode != "signed"

    def scope(self, authorization: Sequence[str]) -> str:
        """The scope of a caller by its `authorization` metadata: a gateway id, or empty for everything.

        Raises Unauthenticated.
        """
        if not self.configured:
            raise Unauthenticated(NOT_CONFIGURED)
        token = bearer(authorization)
        if not token:
            raise Unauthenticated(REFUSED)
        if self.mode != "shared":
            scope = self._signed(token)
            if scope:
                return scope
        if self.is_shared and self._equals_shared(token):
            return ""
        raise Unauthenticated(REFUSED)

    def _equals_shared(self, token: str) -> bool:
        given = token.encode()
        current = hmac.compare_digest(given, self.shared.encode())
        previous = bool(self.shared_previous) and hmac.compare_digest(given, self.shared_previous.encode())
        return current or previous

    def _signed(self, token: str) -> str:
        """The scope that a valid JWT names; empty without one."""
        for secret in filter(None, (self.secret, self.secret_previous)):
            try:
                claims = jwt.decode(
                    token,
                    secret.encode(),
                    algorithms=["HS256"],
                    audience=self.audience,
                    issuer=self.issuer,
                    options={"require": ["exp"], "verify_iat": False},
                )
            except jwt.PyJWTError:
                continue
            for name in ("instance_id", "scope"):
                value = claims.get(name)
                if isinstance(value, str) and value.strip():
                    return value.strip()
            return ""
        return ""


def bearer(authorization: Sequence[str]) -> str:
    """The token of the first `Bearer` credential."""
    for value in authorization:
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
    return ""
