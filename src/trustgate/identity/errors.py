"""How authentication on a data plane fails: one exception, one constructor per row of spec 02 §4.4."""

from __future__ import annotations


class AuthError(Exception):
    """A refused caller: HTTP `status`, the envelope's `code` and `message` (empty: no message member)."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message or code)
        self.status = status
        self.code = code
        self.message = message


def unauthenticated() -> AuthError:
    return AuthError(401, "unauthenticated", "unauthenticated")


def forbidden() -> AuthError:
    return AuthError(403, "forbidden", "forbidden")


def invalid_request(detail: str) -> AuthError:
    return AuthError(400, "invalid_auth_request", detail)
