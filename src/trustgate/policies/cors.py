"""Opt-in CORS for the traffic planes: answers preflights before authentication, and marks answers (spec 04 §15).

Off unless configured: without a `Cors` no header is added and an `OPTIONS` takes the ordinary way. With `*` and
credentials both on, arbitrary origins are answered with `*` and without credentials, never reflected with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trustgate.policies.model import Headers, Outcome

Fields = Sequence[tuple[bytes, bytes]]


class CorsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Lists as in the `CORS_*` settings. `max_age_s` is how long a browser may remember a preflight."""

    origins: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    headers: tuple[str, ...] = ("Content-Type", "Authorization", "X-AG-Trace-Id")
    expose_headers: tuple[str, ...] = ("X-AG-Trace-Id",)
    credentials: bool = False
    max_age_s: int = 600


class Cors:
    """The decision for one set of settings. Stateless."""

    def __init__(self, settings: CorsSettings) -> None:
        self._any = "*" in settings.origins
        self._origins = frozenset(origin.lower() for origin in settings.origins)
        self._credentials = settings.credentials
        self._methods = ", ".join(settings.methods)
        self._headers = ", ".join(settings.headers)
        self._expose = ", ".join(settings.expose_headers)
        self._max_age = str(settings.max_age_s)

    def preflight(self, method: bytes, headers: Fields) -> Outcome | None:
        """The 204 answer of a preflight from an allowed origin; None when the request is something else."""
        if method != b"OPTIONS" or not _header(headers, b"access-control-request-method"):
            return None
        allowed = self.answer_headers(headers)
        if not allowed:
            return None
        requested = _header(headers, b"access-control-request-headers")
        answer = [
            *allowed,
            ("Access-Control-Allow-Methods", self._methods),
            ("Access-Control-Allow-Headers", requested or self._headers),
            ("Access-Control-Max-Age", self._max_age),
        ]
        return Outcome(kind="stop", status=204, headers=answer, body=b"")

    def answer_headers(self, headers: Fields) -> Headers:
        """What an ordinary answer to this request carries; empty for no or a foreign origin."""
        origin = _header(headers, b"origin")
        if not origin:
            return []
        listed = origin.lower() in self._origins
        if not listed and not self._any:
            return []
        answer: Headers = [("Vary", "Origin")]
        if listed and self._credentials:
            answer += [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Credentials", "true")]
        else:
            answer.append(("Access-Control-Allow-Origin", "*" if self._any else origin))
        if self._expose:
            answer.append(("Access-Control-Expose-Headers", self._expose))
        return answer


def _header(headers: Fields, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in headers if key == name), "")
