"""What every answer of the admin plane carries, whatever it is: request id, security headers, CORS (spec 01 §1, 06 §5).

What lives here: header computation from the request's headers and the settings; pure. What must not: routing, bodies.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from trustgate.admin.exchange import Answer, header_text
from trustgate.admin.services import CORSSettings

SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-site"),
)
TRANSPORT_SECURITY = ("Strict-Transport-Security", "max-age=31536000; includeSubDomains")


def request_id(headers: Mapping[str, str]) -> str:
    """The caller's id as it came, else a new one."""
    return header_text(headers.get("x-request-id", "")) or str(uuid.uuid4())


def common_headers(headers: Mapping[str, str], identifier: str) -> list[tuple[str, str]]:
    common = [("X-Request-Id", identifier), *SECURITY_HEADERS]
    if headers.get("x-forwarded-proto", "").strip().lower() == "https":
        common.append(TRANSPORT_SECURITY)
    return common


class CORS:
    """Cross-origin rules. Credentials together with `*` are refused: they would admit any site as the user."""

    def __init__(self, settings: CORSSettings) -> None:
        self._settings = settings
        self._any_origin = "*" in settings.allow_origins
        self._credentials = settings.allow_credentials and not self._any_origin
        self._origins = frozenset(origin.lower() for origin in settings.allow_origins)

    def headers(self, request: Mapping[str, str]) -> list[tuple[str, str]]:
        """The headers of an ordinary answer; none without an Origin, or for one that is not allowed."""
        origin = request.get("origin")
        if not origin or not self._allows(origin):
            return []
        added = [("Vary", "Origin"), ("Access-Control-Allow-Origin", "*" if self._any_origin else origin)]
        if self._settings.expose_headers:
            added.append(("Access-Control-Expose-Headers", ", ".join(self._settings.expose_headers)))
        if self._credentials:
            added.append(("Access-Control-Allow-Credentials", "true"))
        return added

    def preflight(self, method: str, request: Mapping[str, str]) -> Answer | None:
        """The answer to a preflight of an allowed origin; None when the request is an ordinary one."""
        origin = request.get("origin")
        if method != "OPTIONS" or not origin or not request.get("access-control-request-method"):
            return None
        if not self._allows(origin):
            return None
        requested = request.get("access-control-request-headers")
        return Answer(
            204,
            headers=(
                ("Access-Control-Allow-Methods", ", ".join(self._settings.allow_methods)),
                ("Access-Control-Allow-Headers", requested or ", ".join(self._settings.allow_headers)),
                ("Access-Control-Max-Age", self._settings.max_age),
            ),
        )

    def _allows(self, origin: str) -> bool:
        return self._any_origin or origin.lower() in self._origins
