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
from trustgate.oauth.locks import Locks
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
    """Mutable: the discovery cache, one hour per upstream URL; locks of registrations."""

    def __init__(self, outbound: Outbound, state: OAuthState, clock: Callable[[], float]) -> None:
        self._outbound = outbound
        self._state = state
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[float, Server]] = {}
        self._locks = Locks()

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
        resource = await self._first([well_known + path, well_known], lambda found: bool(first_server(found)))
        if resource is None:
            raise OAuthError("server_error", NOT_DISCOVERABLE)
        issuer = first_server(resource)
        if not same_safety(url, issuer):
            raise OAuthError("server_error", "oauth dcr: upstream names an authorization server without TLS")
        at = urlsplit(issuer)
        base, below = f"{at.scheme}://{at.netloc}", at.path.rstrip("/")
        places = [
            f"{base}/.well-known/oauth-authorization-server{below}",
            f"{base}/.well-known/openid-configuration{below}",
            f"{issuer.rstrip('/')}/.well-known/openid-configuration",
        ]
        metadata = await self._first(places, lambda found: is_of(found, issuer))
        if metadata is None:
            raise OAuthError("server_error", "oauth dcr: authorization server metadata could not be discovered")
        authorize, token = metadata.get("authorization_endpoint"), metadata.get("token_endpoint")
        if not isinstance(authorize, str) or not isinstance(token, str):
            raise OAuthError("server_error", "oauth dcr: authorization server metadata lacks endpoints")
        registration = str(metadata.get("registration_endpoint") or "")
        revocation = str(metadata.get("revocation_endpoint") or "")
        for endpoint in (authorize, token, registration, revocation):
            if endpoint and not same_safety(issuer, endpoint):
                raise OAuthError("server_error", "oauth dcr: an endpoint of the authorization server is without TLS")
        scopes = auth.get("scopes") or metadata.get("scopes_supported") or resource.get("scopes_supported") or []
        named = resource.get("resource")
        return Server(
            authorize_url=authorize,
            token_url=token,
            registration_url=registration,
            revocation_url=revocation,
            scopes=[scope for scope in scopes if isinstance(scope, str)],
            resource=auth.get("resource") or (named if isinstance(named, str) and named else url),
        )

    async def _first(self, urls: list[str], serves: Callable[[Json], bool]) -> Json | None:
        """The first document that serves."""
        for url in dict.fromkeys(urls):
            try:
                document = await self._outbound.get(url)
            except OutboundFailed:
                continue
            if serves(document):
                return document
        return None

    async def client(self, registry: RegistryView, redirect_uri: str) -> UpstreamClient:
        """The client to log in with: configured, or registered now where it is not yet. Raises OAuthError."""
        target = registry.mcp_target
        assert target is not None
        auth = target.auth
        if auth.get("registration") != "auto":
            return UpstreamClient(auth.get("client_id", ""), redirect_uri, auth.get("client_secret") or "")
        name = name_of(registry)

        async def registered() -> UpstreamClient:
            known = await self._state.upstream_client(name)
            if known is not None and known.redirect_uri == redirect_uri:
                return known
            made = await self._register(await self.server(registry), redirect_uri)
            return await self._state.keep_upstream_client(name, made)

        return await self._locks.run(name, registered)

    async def registered(self, registry: RegistryView) -> UpstreamClient | None:
        """The client that an earlier login registered; a configured one is always there."""
        target = registry.mcp_target
        assert target is not None
        auth = target.auth
        if auth.get("registration") != "auto":
            return UpstreamClient(auth.get("client_id", ""), "", auth.get("client_secret") or "")
        return await self._state.upstream_client(name_of(registry))

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


def first_server(resource: Json) -> str:
    """The first authorization server of a protected resource's metadata, or empty."""
    servers = resource.get("authorization_servers")
    return servers[0] if isinstance(servers, list) and servers and isinstance(servers[0], str) else ""


def is_of(metadata: Json, issuer: str) -> bool:
    """Whether an authorization server's metadata is that issuer's own (RFC 8414 §3.3)."""
    named = metadata.get("issuer")
    return not isinstance(named, str) or named.rstrip("/") == issuer.rstrip("/")


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
