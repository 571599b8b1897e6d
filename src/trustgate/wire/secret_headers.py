"""Which headers hold credentials (spec 06 §10): their values leave the process in no record."""

from __future__ import annotations

SECRET_HEADERS = frozenset(
    [
        "authorization",
        "proxy-authorization",
        "www-authenticate",
        "authentication",
        "cookie",
        "set-cookie",
        "x-api-key",
        "api-key",
        "apikey",
        "x-tg-api-key",
        "x-ag-api-key",
        "x-ag-playground-token",
        "x-auth-token",
        "x-access-token",
        "x-amz-security-token",
        "x-amz-credential",
        "x-goog-api-key",
        "x-csrf-token",
        "x-xsrf-token",
    ]
)


def is_secret_header(name: str) -> bool:
    """Whether the header of this lower-case name holds a credential."""
    return name in SECRET_HEADERS or name.endswith("-api-key")
