"""The credential headers of upstream MCP servers, by auth mode (spec 05 §7.1, §7.2).

What lives here: what each mode sends, tokens had by exchange and kept until shortly before they end, refreshing a
user's own tokens with one request at a time. What must not: pages and logins (`connect`).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import structlog

from trustgate.identity import jwt
from trustgate.identity.mcp import Caller
from trustgate.identity.sts import SigningKeys, base64url
from trustgate.identity.verify import text
from trustgate.oauth.cipher import Undecryptable
from trustgate.oauth.http import OAuthError
from trustgate.oauth.idp import Provider, unverified
from trustgate.oauth.locks import Locks
from trustgate.oauth.logins import LoginOver, Logins
from trustgate.oauth.outbound import Answer, Outbound, OutboundFailed
from trustgate.oauth.upstreams import UpstreamServers, client_fields
from trustgate.oauth.vault import Tokens, Vault, lifetime
from trustgate.view.model import ConsumerView, RegistryView

MINTED_S = 300
EXCHANGE_MARGIN_S = 30.0
CLIENT_MARGIN_S = 60.0
MAX_KEPT = 10_000
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
NO_USER = "mcp: downstream auth mode requires an authenticated user identity"
WRONG_AUDIENCE = "mcp: inbound token audience does not match the upstream's expected audience"
NO_USER_TOKEN = "sts: exchange requires an inbound user token"
INVALID_REQUEST = -32600

Json = dict[str, Any]
HeaderList = list[tuple[bytes, bytes]]

log = structlog.get_logger("trustgate.oauth")


class ConsentRequired(Exception):
    """The user must link an account of `provider` at `connect_url` first."""

    def __init__(self, provider: str, connect_url: str) -> None:
        super().__init__(provider)
        self.provider, self.connect_url = provider, connect_url


class InteractionRequired(Exception):
    """The identity provider wants the user to come by; the text is its description."""


class CredentialError(Exception):
    """No credential can be had; `code` is the JSON-RPC error code, the text is shown to the client."""

    def __init__(self, text: str, code: int = -32603) -> None:
        super().__init__(text)
        self.code = code


class Tickets(Protocol):
    """Leave for a user to link accounts (`connect`)."""

    async def url(self, caller: Caller, consumer: ConsumerView, base_url: str) -> str:
        """Where this caller may link accounts for that consumer."""
        ...


class _Kept(msgspec.Struct, frozen=True):
    header: bytes
    until: float


class UpstreamCredentials:
    """Mutable: tokens that are kept, locks of refreshes."""

    def __init__(
        self,
        *,
        keys: SigningKeys,
        provider: Provider,
        outbound: Outbound,
        servers: UpstreamServers,
        vault: Vault,
        logins: Logins,
        tickets: Tickets,
        now: Callable[[], float],
    ) -> None:
        self._keys, self._provider, self._outbound = keys, provider, outbound
        self._servers, self._vault, self._logins, self._tickets, self._now = servers, vault, logins, tickets, now
        self._kept: dict[object, _Kept] = {}
        self._locks = Locks()

    async def headers_for(
        self, registry: RegistryView, caller: Caller, consumer: ConsumerView, base_url: str
    ) -> HeaderList:
        """Headers that override configured ones. Raises ConsentRequired, InteractionRequired, CredentialError."""
        assert registry.mcp_target is not None, "only MCP registries have upstream credentials"
        auth = registry.mcp_target.auth
        match auth.get("mode") or "none":
            case "none":
                return []
            case "static":
                return [(auth["header"].lower().encode(), auth["value"].encode())]
            case "passthrough":
                return authorization(await self._passthrough(auth, caller))
            case "exchange":
                return authorization(await self._exchange(registry, auth, caller))
            case "client_credentials":
                return authorization(await self._client_credentials(registry, auth))
            case "forwarded":
                return authorization(await self._forwarded(registry, auth, caller, consumer, base_url))
            case other:
                raise CredentialError(f"mcp: unknown auth mode {other}")

    async def refused(self, registry: RegistryView, caller: Caller) -> bool:
        """The upstream answered 401: what was kept is forgotten. True when new headers may do better."""
        assert registry.mcp_target is not None
        auth = registry.mcp_target.auth
        mode = auth.get("mode")
        if mode == "client_credentials":
            return self._kept.pop(client_key(registry), None) is not None
        if mode == "exchange" and auth.get("pattern") in ("obo", "token_exchange"):
            return self._kept.pop(exchange_key(registry, auth, caller), None) is not None
        if mode == "forwarded":
            return await self._renew_refused(registry, auth, caller)
        return False

    # passthrough

    async def _passthrough(self, auth: Json, caller: Caller) -> bytes:
        principal = caller.principal
        if not principal.raw_token:
            raise CredentialError(NO_USER, INVALID_REQUEST)
        token, claims = principal.raw_token, principal.claims
        if self._is_session(caller):
            token = await self._login_token(caller)
            claims = unverified(token) or {}
        if not jwt.audience_matches(jwt.strings(claims.get("aud")), [auth.get("expected_audience") or ""]):
            raise CredentialError(WRONG_AUDIENCE, INVALID_REQUEST)
        return b"Bearer " + token.encode()

    def _is_session(self, caller: Caller) -> bool:
        principal = caller.principal
        return principal.issuer == self._keys.issuer and principal.claims.get("token_use") == "mcp_session"

    async def _login_token(self, caller: Caller) -> str:
        """The provider's token behind a session: a session token opens this gateway, no upstream ever sees it."""
        principal = caller.principal
        login_id = str(principal.claims.get("login") or "")
        try:
            return await self._logins.token(caller.view, caller.auth_id, principal.subject, login_id)
        except LoginOver as over:
            raise InteractionRequired(str(over)) from None
        except OAuthError as error:
            raise CredentialError(f"sts: token exchange failed: {error.description or error.code}") from None

    # exchange

    async def _exchange(self, registry: RegistryView, auth: Json, caller: Caller) -> bytes:
        pattern = auth.get("pattern")
        if pattern in ("impersonation", "delegation"):
            return self._minted(auth, caller, delegated=pattern == "delegation")
        principal = caller.principal
        usable = principal.method == "jwt" or (pattern == "token_exchange" and principal.method == "introspection")
        if not principal.raw_token or not usable:
            raise CredentialError(NO_USER_TOKEN, INVALID_REQUEST)
        key = exchange_key(registry, auth, caller)

        async def fetch() -> bytes:
            return self._live(key) or await self._exchanged(key, pattern or "", auth, caller)

        return self._live(key) or await self._locks.run(key, fetch)

    def _minted(self, auth: Json, caller: Caller, *, delegated: bool) -> bytes:
        """A token of this gateway that names the user, for five minutes."""
        principal, now = caller.principal, int(self._now())
        claims: Json = {
            "sub": principal.subject,
            "aud": auth.get("audience") or "",
            "iat": now,
            "exp": now + MINTED_S,
            "jti": base64url(secrets.token_bytes(16)),
        }
        if principal.issuer:
            claims["orig_iss"] = principal.issuer
        if principal.scopes:
            claims["scope"] = " ".join(principal.scopes)
        if delegated:
            claims["act"] = {"sub": auth.get("actor") or ""}
        return b"Bearer " + self._keys.sign(claims).encode()

    async def _exchanged(self, key: object, pattern: str, auth: Json, caller: Caller) -> bytes:
        principal = caller.principal
        token, issuer, oldest_first = principal.raw_token, principal.issuer, tuple(reversed(caller.view.oauth2))
        if self._is_session(caller):
            token = await self._login_token(caller)
            if not token:
                raise CredentialError(NO_USER_TOKEN, INVALID_REQUEST)
            own = next((one for one in oldest_first if one.id == caller.auth_id), None)
        else:
            own = next((one for one in oldest_first if config(one.config, "issuer") == issuer), None)
        if own is None:
            raise CredentialError(f"sts: no oauth2 auth configured for issuer {issuer}")
        settings: Json = own.config.get("oauth2") or {}
        issuer = text(settings, "issuer")
        if not text(settings, "client_id") or not text(settings, "client_secret"):
            raise CredentialError(f"sts: oauth2 auth for {issuer} lacks client_id/client_secret needed for exchange")
        if pattern == "obo":
            fields = {
                "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
                "requested_token_use": "on_behalf_of",
                "assertion": token,
                "scope": auth.get("scope") or "",
            }
        else:
            fields = {
                "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
                "subject_token": token,
                "subject_token_type": ACCESS_TOKEN,
                "audience": auth.get("audience") or "",
            }
            if auth.get("scope"):
                fields["scope"] = auth["scope"]
        try:
            answer = await self._provider.token(settings, fields)
        except OAuthError as error:
            raise CredentialError(f"sts: token exchange failed: {error.description}") from None
        members = answer.fields
        error, described = members.get("error"), str(members.get("error_description") or members.get("error") or "")
        if error in ("interaction_required", "invalid_grant"):
            raise InteractionRequired(described)
        if answer.status != 200 or not members.get("access_token"):
            raise CredentialError(f"sts: token exchange failed: {described or f'status {answer.status}'}")
        scheme = str(members.get("token_type") or "Bearer")
        scheme = "Bearer" if scheme.lower() in ("bearer", "n_a") else scheme
        seconds = lifetime(members.get("expires_in"), MINTED_S).total_seconds()
        header = f"{scheme} {members['access_token']}".encode()
        return self._keep(key, header, seconds - EXCHANGE_MARGIN_S)

    # client credentials

    async def _client_credentials(self, registry: RegistryView, auth: Json) -> bytes:
        key = client_key(registry)

        async def fetch() -> bytes:
            return self._live(key) or await self._of_client(key, auth)

        return self._live(key) or await self._locks.run(key, fetch)

    async def _of_client(self, key: object, auth: Json) -> bytes:
        fields = {"grant_type": "client_credentials"}
        if auth.get("scopes"):
            fields["scope"] = " ".join(auth["scopes"])
        if auth.get("resource"):
            fields["resource"] = auth["resource"]
        client = (auth.get("client_id") or "", auth.get("client_secret") or "")
        basic = auth.get("token_endpoint_auth_method") != "client_secret_post"
        if not basic:
            fields |= {"client_id": client[0], "client_secret": client[1]}
        try:
            answer = await self._outbound.post_form(auth["token_url"], fields, client if basic else None)
        except OutboundFailed:
            raise CredentialError("mcp: upstream unavailable: token endpoint could not be reached") from None
        members = answer.document or {}
        token, kind = members.get("access_token"), str(members.get("token_type") or "")
        if answer.status != 200 or not isinstance(token, str) or not token or kind.lower() != "bearer":
            log.info("client credentials refused", registry_id=str(key), status=answer.status)
            raise CredentialError("mcp: upstream unavailable: client credentials were refused")
        seconds = lifetime(members.get("expires_in"), 3600.0).total_seconds()
        return self._keep(key, b"Bearer " + token.encode(), seconds - CLIENT_MARGIN_S)

    # forwarded

    async def _forwarded(
        self, registry: RegistryView, auth: Json, caller: Caller, consumer: ConsumerView, base_url: str
    ) -> bytes:
        """The user's own token. Nothing is sent anywhere before there is one."""
        provider, subject = auth["provider"], caller.principal.subject
        tokens = await self._stored(caller, provider)
        if tokens is not None and self._vault.ends(tokens):
            tokens = await self._refreshed(registry, caller, tokens.access_token)
        if tokens is None:
            log.debug("consent required", gateway_id=caller.view.id, provider=provider, known=bool(subject))
            raise ConsentRequired(provider, await self._tickets.url(caller, consumer, base_url))
        return b"Bearer " + tokens.access_token.encode()

    async def _stored(self, caller: Caller, provider: str) -> Tokens | None:
        credential = await self._vault.get(caller.view.id, caller.principal.subject, provider)
        if credential is None:
            return None
        try:
            return self._vault.open(credential)
        except Undecryptable:
            return None

    async def _renew_refused(self, registry: RegistryView, auth: Json, caller: Caller) -> bool:
        tokens = await self._stored(caller, auth["provider"])
        if tokens is None or not tokens.refresh_token:
            return False
        return await self._refreshed(registry, caller, tokens.access_token) is not None

    async def _refreshed(self, registry: RegistryView, caller: Caller, stale: str) -> Tokens | None:
        """New tokens in place of the access token `stale`; None when the user has to log in again.

        One refresh at a time; who waited takes what the first got. Raises CredentialError for other failures.
        """
        assert registry.mcp_target is not None
        provider = registry.mcp_target.auth["provider"]

        async def refresh() -> Tokens | None:
            tokens = await self._stored(caller, provider)
            if tokens is None or tokens.access_token != stale:
                return tokens
            if not tokens.refresh_token:
                return None
            return await self._refresh(registry, caller, provider, tokens)

        return await self._locks.run((caller.view.id, caller.principal.subject, provider), refresh, whole=True)

    async def _refresh(self, registry: RegistryView, caller: Caller, provider: str, tokens: Tokens) -> Tokens | None:
        client = await self._servers.registered(registry)
        if client is None:
            return None
        try:
            server = await self._servers.server(registry)
        except OAuthError as error:
            raise CredentialError(f"mcp: upstream unavailable: {error.description}") from None
        fields = {"grant_type": "refresh_token", "refresh_token": tokens.refresh_token}
        fields |= client_fields(client, server)
        try:
            answer = await self._outbound.post_form(server.token_url, fields)
        except OutboundFailed:
            raise CredentialError("mcp: upstream unavailable: token refresh could not be sent") from None
        if answer.fields.get("error") == "invalid_grant":
            # Perhaps another instance has rotated it a moment ago.
            newer = await self._stored(caller, provider)
            return newer if newer is not None and newer.access_token != tokens.access_token else None
        fresh = tokens_of(answer, self._now(), tokens.scopes)
        if fresh is None:
            raise CredentialError(f"mcp: upstream unavailable: token refresh failed (status {answer.status})")
        if await self._stored(caller, provider) is None:
            return None  # the user ended the link meanwhile, and it stays ended
        stored = await self._vault.put(caller.view.id, caller.principal.subject, provider, fresh)
        return self._vault.open(stored)

    # tokens that are kept

    def _live(self, key: object) -> bytes | None:
        kept = self._kept.get(key)
        return kept.header if kept is not None and kept.until > self._now() else None

    def _keep(self, key: object, header: bytes, seconds: float) -> bytes:
        if len(self._kept) >= MAX_KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[key] = _Kept(header, self._now() + seconds)
        return header


def authorization(value: bytes) -> HeaderList:
    return [(b"authorization", value)]


def config(auth_config: Json, name: str) -> str:
    return text(auth_config.get("oauth2") or {}, name)


def client_key(registry: RegistryView) -> object:
    """Tokens of a client are kept for one revision of its registry."""
    target = registry.mcp_target
    return ("client", registry.id, hashlib.sha256(msgspec.json.encode(target)).digest())


def exchange_key(registry: RegistryView, auth: Json, caller: Caller) -> object:
    """Exchanged tokens are kept per user, issuer, registry and inbound token."""
    principal = caller.principal
    inbound = hashlib.sha256(principal.raw_token.encode()).digest()
    asked = (auth.get("pattern"), auth.get("audience"), auth.get("scope"))
    return ("exchange", caller.view.id, registry.id, principal.subject, principal.issuer, inbound, asked)


def tokens_of(answer: Answer, now: float, scopes: list[str]) -> Tokens | None:
    """The tokens of a token endpoint's answer; None when it has none of a kind that can be used."""
    members = answer.document or {}
    token, kind = members.get("access_token"), members.get("token_type")
    if answer.status != 200 or not isinstance(token, str) or not token:
        return None
    if kind is not None and str(kind).lower() not in ("", "bearer"):
        return None
    granted = members.get("scope")
    return Tokens(
        access_token=token,
        refresh_token=str(members.get("refresh_token") or ""),
        scopes=[part for part in granted.replace(",", " ").split() if part] if isinstance(granted, str) else scopes,
        expires_at=now + lifetime(members.get("expires_in"), 3600.0).total_seconds(),
    )
