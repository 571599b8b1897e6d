"""Authorization servers of upstream MCP servers: where they are, and this gateway's registration there (spec 05 §9.4).

What lives here: endpoints and client of a `forwarded` registry, configured (`manual`) or found (`auto`: RFC 9728, RFC
8414, RFC 7591). What must not: users' tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from trustgate.oauth.http import OAuthError
from trustgate.oauth.idp import same_safety
from trustgate.oauth.outbound import Outbound, OutboundFailed
from trustgate.oauth.state import OAuthState, UpstreamClient
from trustgate.view.model import RegistryView

DISCOVERY_S = 3600.0
MAX_KNOWN = 10_000
NOT_DISCOVERABLE = (
    "oauth dcr: upstream does not publish OAuth protected-resource metadata; configure registration: manual with a"
    " pre-registered OAuth app"
)

Json = dict[str, Any]


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """Where users of an upstream log in."""

    authorize_url: str
    token_url: str
    registration_url: str = ""
    revocation_url: str = ""
    scopes: list[str] = []
    resource: str = ""


class UpstreamServers:
    """Mutable: the discovery cache, one hour per upstream URL."""

    def __init__(self, outbound: Outbound, state: OAuthState, clock: Callable[[], float]) -> None:
        self._outbound = outbound
        self._state = state
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[float, Server]] = {}

    async def server(self, registry: RegistryView) -> Server:
        """Raises OAuthError."""
        target = registry.mcp_target
        assert target is not None
        auth = target.auth
        if auth.get("registration") != "auto":
            return Server(
                authorize_url=auth.get("authorize_url", ""),
                token_url=auth.get("token_url", ""),
                scopes=list(auth.get("scopes") or ()),
                resource=auth.get("resource") or "",
            )
        key = (target.url, repr((auth.get("scopes"), auth.get("resource"))))
        known = self._known.get(key)
        if known is not None and self._clock() - known[0] < DISCOVERY_S:
            return known[1]
        found = await self._discover(target.url, auth)
        if len(self._known) >= MAX_KNOWN:
            self._known.pop(next(iter(self._known)))
        self._known[key] = (self._clock(), found)
        return found

    async def _discover(self, url: str, auth: Json) -> Server:
        parts = urlsplit(url)
        origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
        well_known = f"{origin}/.well-known/oauth-protected-resource"
        resource = await self._first([well_known + path, well_known] if path else [well_known], origin)
        servers = resource.get("authorization_servers") if resource is not None else None
        if resource is None or not isinstance(servers, list) or not servers or not isinstance(servers[0], str):
            raise OAuthError("server_error", NOT_DISCOVERABLE)
        issuer = servers[0]
        if not same_safety(url, issuer):
            raise OAuthError("server_error", "oauth dcr: upstream names an authorization server without TLS")
        at = urlsplit(issuer)
        base, below = f"{at.scheme}://{at.netloc}", at.path.rstrip("/")
        places = [
            f"{base}/.well-known/oauth-authorization-server{below}",
            f"{base}/.well-known/openid-configuration{below}",
            f"{issuer.rstrip('/')}/.well-known/openid-configuration",
        ]
        metadata = await self._first(places, issuer, named=issuer)
        if metadata is None:
            raise OAuthError("server_error", "oauth dcr: authorization server metadata could not be discovered")
        authorize, token = metadata.get("authorization_endpoint"), metadata.get("token_endpoint")
        if not isinstance(authorize, str) or not isinstance(token, str):
            raise OAuthError("server_error", "oauth dcr: authorization server metadata lacks endpoints")
        for endpoint in (authorize, token):
            if not same_safety(issuer, endpoint):
                raise OAuthError("server_error", "oauth dcr: an endpoint of the authorization server is without TLS")
        scopes = auth.get("scopes") or metadata.get("scopes_supported") or resource.get("scopes_supported") or []
        named = resource.get("resource")
        return Server(
            authorize_url=authorize,
            token_url=token,
            registration_url=str(metadata.get("registration_endpoint") or ""),
            revocation_url=str(metadata.get("revocation_endpoint") or ""),
            scopes=[scope for scope in scopes if isinstance(scope, str)],
            resource=auth.get("resource") or (named if isinstance(named, str) and named else url),
        )

    async def _first(self, urls: list[str], origin: str, named: str = "") -> Json | None:
        """The first document there is; one of another issuer than `named` does not count."""
        for url in dict.fromkeys(urls):
            try:
                document = await self._outbound.get(url)
            except OutboundFailed:
                continue
            issuer = document.get("issuer")
            if named and isinstance(issuer, str) and issuer.rstrip("/") != named.rstrip("/"):
                continue
            return document
        return None

    async def client(self, registry: RegistryView, redirect_uri: str) -> UpstreamClient:
        """The client to log in with: configured, or registered now where it is not yet. Raises OAuthError."""
        target = registry.mcp_target
        assert target is not None
        auth = target.auth
        if auth.get("registration") != "auto":
            return UpstreamClient(auth.get("client_id", ""), redirect_uri, auth.get("client_secret") or "")
        known = await self.registered(registry)
        if known is not None and known.redirect_uri == redirect_uri:
            return known
        made = await self._register(await self.server(registry), redirect_uri)
        await self._state.put("dcr:client", name_of(registry), made, None, secret=True)
        return made

    async def registered(self, registry: RegistryView) -> UpstreamClient | None:
        """The client that an earlier login registered; a configured one is always there."""
        target = registry.mcp_target
        assert target is not None
        auth = target.auth
        if auth.get("registration") != "auto":
            return UpstreamClient(auth.get("client_id", ""), "", auth.get("client_secret") or "")
        return await self._state.get("dcr:client", name_of(registry), UpstreamClient)

    async def _register(self, server: Server, redirect_uri: str) -> UpstreamClient:
        if not server.registration_url:
            raise OAuthError("server_error", "oauth dcr: the authorization server does not register clients")
        body = {
            "client_name": "TrustGate MCP Gateway",
            "redirect_uris": [redirect_uri],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        }
        try:
            answer = await self._outbound.post_json(server.registration_url, body)
        except OutboundFailed:
            raise OAuthError("server_error", "oauth dcr: registration could not be sent") from None
        client_id = answer.fields.get("client_id")
        if answer.status not in (200, 201) or not isinstance(client_id, str) or not client_id:
            raise OAuthError("server_error", f"oauth dcr: registration was refused (status {answer.status})")
        secret = answer.fields.get("client_secret")
        return UpstreamClient(client_id, redirect_uri, secret if isinstance(secret, str) else "")


def client_fields(client: UpstreamClient, server: Server) -> dict[str, str]:
    """What a token request says of who asks, and for what."""
    fields = {"client_id": client.client_id}
    if client.client_secret:
        fields["client_secret"] = client.client_secret
    if server.resource:
        fields["resource"] = server.resource
    return fields


def name_of(registry: RegistryView) -> str:
    return f"{registry.gateway_id}|{registry.id}"
