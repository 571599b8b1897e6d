"""Clients that register themselves (spec 05 §8.3; RFC 7591).

What lives here: what a registration must hold, and how many an address may make. What must not: what clients may do.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import msgspec

from trustgate.limits.ops import Charge, Charged, Limits, LimitsUnavailable, Window
from trustgate.oauth.http import NO_STORE, OAuthError, Reply, Request, json_reply
from trustgate.oauth.issuers import Issuers
from trustgate.oauth.redirects import acceptable
from trustgate.oauth.sources import source_of
from trustgate.oauth.state import CLIENT_S, Client, OAuthState
from trustgate.wire.clients import Networks

MAX_REDIRECT_URIS = 32
MAX_URI = 2048
MAX_NAME = 200
PER_MINUTE = 120

Json = dict[str, Any]


class Registration(msgspec.Struct):
    """The members of a registration that count (RFC 7591 §2); all others are ignored. Null is as good as absent."""

    redirect_uris: list[str] | None = None
    client_name: str | None = None


class Registrations:
    """Stateless but for what `state` keeps. `trusted` are proxies whose `X-Forwarded-For` counts."""

    def __init__(self, *, issuers: Issuers, state: OAuthState, limits: Limits, trusted: Networks = ()) -> None:
        self._issuers, self._state, self._limits, self._trusted = issuers, state, limits, trusted

    async def register(self, request: Request) -> Reply:
        await self._limit(source_of(request, self._trusted))
        if not self._issuers.client_ids():
            raise OAuthError("invalid_client_metadata", "oauth: dynamic client registration unavailable")
        try:
            wanted = msgspec.json.decode(request.body if is_json(request) else b"", type=Registration)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise OAuthError("invalid_client_metadata", "invalid client registration request") from None
        uris, name = wanted.redirect_uris or [], wanted.client_name or ""
        if not uris:
            raise OAuthError("invalid_client_metadata", "invalid_client_metadata: redirect_uris is required")
        if len(uris) > MAX_REDIRECT_URIS or len(name) > MAX_NAME:
            raise OAuthError("invalid_client_metadata", "too many redirect_uris, or the client_name is too long")
        for uri in uris:
            if len(uri) > MAX_URI or not acceptable(uri):
                raise OAuthError(
                    "invalid_redirect_uri",
                    f'invalid_redirect_uri: "{uri[:MAX_URI]}" must be an https URL, an http loopback URL, or a'
                    " private-use URI without a fragment",
                )
        client_id = f"agw-{secrets.token_hex(32)}"
        record = Client(client_id, uris, name)
        await self._state.put("gwclient", client_id, record, CLIENT_S)
        answer: Json = {"client_id": client_id, "redirect_uris": uris}
        if name:
            answer["client_name"] = name
        answer |= {
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        }
        return json_reply(answer, 201, NO_STORE)

    async def _limit(self, source: str) -> None:
        window = Window(f"gt:mcp:register:rl:{hashlib.sha256(source.encode()).hexdigest()}", 60_000, 0)
        try:
            (charged,) = await self._limits.run((Charge((window,)),))
        except LimitsUnavailable:
            return  # registering is harmless; the records expire
        if isinstance(charged, Charged) and charged.values[0] > PER_MINUTE:
            wait = (b"retry-after", b"%d" % max(1, -(-charged.ttls_ms[0] // 1000)))
            raise OAuthError("too_many_requests", "too many registrations from this address", 429, wait)


def is_json(request: Request) -> bool:
    return request.content_type.endswith(b"json")
