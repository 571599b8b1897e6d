"""The operator's identity provider as this gateway uses it: endpoints, code exchange, who logged in (spec 05 §8.4).

What lives here: discovery of endpoints (1 hour per issuer), the token request, the subject and claims of an answer.
What must not: codes and tokens of our own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trustgate.identity import jwt
from trustgate.identity.jwt import Refused
from trustgate.identity.verify import text
from trustgate.oauth.http import OAuthError
from trustgate.oauth.outbound import Answer, Outbound, OutboundFailed

DISCOVERY_S = 3600.0
MAX_ISSUERS = 10_000
MICROSOFT = "https://login.microsoftonline.com/"
ENDPOINTS = ("authorization_endpoint", "token_endpoint")
WELL_KNOWN = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")

Json = dict[str, Any]


class Provider:
    """Talks to identity providers. Mutable: the discovery cache."""

    def __init__(self, outbound: Outbound, clock: Callable[[], float]) -> None:
        self._outbound = outbound
        self._clock = clock
        self._known: dict[str, tuple[float, Json]] = {}

    async def metadata(self, issuer: str) -> Json:
        """The issuer's metadata (RFC 8414, OpenID Connect Discovery), which must name that issuer itself. What the
        first document leaves out is read from the second.

        Raises OutboundFailed.
        """
        known = self._known.get(issuer)
        if known is not None and self._clock() - known[0] < DISCOVERY_S:
            return known[1]
        base = issuer.rstrip("/")
        failure, found = OutboundFailed("no metadata"), Json()
        for suffix in WELL_KNOWN:
            try:
                document = await self._outbound.get(base + suffix)
            except OutboundFailed as error:
                failure = error
                continue
            named = document.get("issuer")
            if isinstance(named, str) and named.rstrip("/") != base:
                failure = OutboundFailed("the metadata belongs to another issuer")
                continue
            found = document | found
            if all(isinstance(found.get(member), str) for member in ENDPOINTS):
                break
        if found:
            if len(self._known) >= MAX_ISSUERS:
                self._known.pop(next(iter(self._known)))
            self._known[issuer] = (self._clock(), found)
            return found
        if known is not None:
            return known[1]
        raise failure

    async def endpoint(self, config: Json, own: str, member: str) -> str:
        """An endpoint: configured under `own`, else discovered as `member`. Raises OAuthError `server_error`."""
        configured = text(config, own).strip()
        if configured:
            return configured
        issuer = text(config, "issuer")
        try:
            found = (await self.metadata(issuer)).get(member)
        except OutboundFailed:
            found = None
            if member == "token_endpoint" and issuer.startswith(MICROSOFT):
                return issuer.rstrip("/").removesuffix("/v2.0") + "/oauth2/v2.0/token"
        if not isinstance(found, str) or not same_safety(issuer, found):
            raise OAuthError("server_error", "identity provider metadata could not be discovered")
        return found

    async def redeem(self, config: Json, fields: dict[str, str]) -> Json:
        """The token endpoint's answer to an authorization code. Raises OAuthError with what went wrong."""
        answer = await self.token(config, fields)
        members = answer.fields
        error = members.get("error")
        if isinstance(error, str) and error:
            description = members.get("error_description")
            raise OAuthError(error, description if isinstance(description, str) else "")
        if answer.status != 200:
            raise OAuthError("server_error", f"identity provider token endpoint returned status {answer.status}")
        if not text(members, "access_token"):
            raise OAuthError("server_error", "identity provider returned no access token")
        return members

    async def token(self, config: Json, fields: dict[str, str]) -> Answer:
        """POST to the token endpoint as the registered client (`client_secret_post`). Raises OAuthError."""
        url = await self.endpoint(config, "token_url", "token_endpoint")
        sent = dict(fields)
        if client_id := text(config, "client_id"):
            sent["client_id"] = client_id
        if secret := text(config, "client_secret"):
            sent["client_secret"] = secret
        try:
            return await self._outbound.post_form(url, sent)
        except OutboundFailed:
            raise OAuthError("server_error", "identity provider token endpoint could not be reached") from None

    async def who(self, config: Json, token: Json) -> tuple[str, Json]:
        """Subject and claims of a token answer. The id token comes straight from the provider, so it is not verified.

        Raises OAuthError `access_denied` when nobody can be made out.
        """
        wanted = text(config, "subject_claim")
        claims = unverified(token.get("id_token"))
        subject = ""
        if claims is not None:
            subject = first(claims, wanted, "oid", "sub")
        elif url := text(config, "userinfo_url").strip():
            try:
                claims = await self._outbound.get(url, {"Authorization": f"Bearer {token['access_token']}"})
                subject = first(claims, wanted or "sub", "sub")
            except OutboundFailed:
                subject = ""
        if not subject:
            access = unverified(token.get("access_token")) or {}
            subject = first(access, "oid", "sub")
            claims = access | (claims or {})
        if not subject:
            raise OAuthError("access_denied", "could not determine subject from identity provider")
        return subject, (unverified(token.get("access_token")) or {}) | (claims or {})


def same_safety(issuer: str, endpoint: str) -> bool:
    """An https issuer's endpoints are https too."""
    if issuer.startswith("https://"):
        return endpoint.startswith("https://")
    return endpoint.startswith(("https://", "http://"))


def unverified(raw: Any) -> Json | None:
    """The claims of a JWT, None for anything else."""
    if not isinstance(raw, str):
        return None
    try:
        return jwt.parse(raw).claims
    except Refused:
        return None


def first(claims: Json, *names: str) -> str:
    """The first of the claims that names somebody; numbers are ids, too."""
    for name in names:
        value = claims.get(name) if name else None
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
    return ""
