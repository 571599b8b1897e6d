"""Which identity provider a login goes to (spec 05 §8.1, §8.4), from the configuration alone.

What lives here: the choice among a consumer's, a gateway's and the platform's oauth2 credentials, and the built-in
provider. What must not: talking to any of them (`idp`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from trustgate.domain.entities import Auth
from trustgate.identity.mcp import BUILT_IN_AUTH_ID, oauth2_of, uses_built_in
from trustgate.identity.verify import text, texts
from trustgate.oauth.http import OAuthError, Request
from trustgate.view.gateway import Directory, GatewayView
from trustgate.view.model import ConsumerView
from trustgate.view.paths import find, slug_of

OWN_CREDENTIAL = (
    "this MCP server authenticates with a credential of its own: send it on every request (an api key travels in the"
    " X-AG-API-Key header) instead of signing in here"
)
SEVERAL_ON_PLATFORM = (
    "multiple identity providers configured; send an RFC 8707 resource parameter identifying the MCP server"
)
ONLY_BUILT_IN = "send an RFC 8707 resource parameter identifying the MCP server"
SEVERAL_ON_GATEWAY = (
    "multiple identity providers configured for this gateway; attach a single oauth2 identity provider to the MCP"
    " consumer"
)
NONE_ON_GATEWAY = (
    "this MCP server has no oauth2 identity provider; interactive login requires an oauth2 auth with a pre-registered"
    " client at your identity provider"
)
NOBODY = "not_found"
"""The error of an installation without any identity provider: there is no way to log in, so nobody is sent back."""
NO_SERVER = "oauth: no authorization server configured"


class Choice(msgspec.Struct, frozen=True):
    """A credential and the gateway whose login it is."""

    auth: Auth
    gateway_id: str

    @property
    def config(self) -> dict[str, Any]:
        return config_of(self.auth)


def config_of(auth: Auth) -> dict[str, Any]:
    return auth.config.get("oauth2") or {}


class Issuers:
    """Looks at the live directory; holds nothing but its settings. `base_domain` is that of `{slug}.<domain>` hosts."""

    def __init__(self, directory: Directory, base_domain: str, built_in: Auth | None) -> None:
        self.directory = directory
        self._base_domain = base_domain.lower()
        self.built_in = built_in

    def routed(self, request: Request) -> GatewayView | None:
        """The gateway that the request names by header, else by the host itself (no forwarded one)."""
        named = request.headers.get(b"x-ag-gateway-slug", b"").decode("latin-1").strip().lower()
        if named:
            return self.directory.by_slug(named)
        return self.by_host(request)

    def by_host(self, request: Request) -> GatewayView | None:
        host = request.headers.get(b"host", b"").decode("latin-1").lower().partition(":")[0]
        label, dot, domain = host.partition(".")
        return self.directory.by_slug(label) if dot and domain == self._base_domain else None

    def consumer_of(self, resource: str) -> tuple[GatewayView, ConsumerView] | None:
        """The consumer whose MCP URL that is."""
        try:
            parts = urlsplit(resource)
        except ValueError:
            return None
        if not parts.netloc:
            return None
        return self.consumer_at(parts.path, f"{parts.scheme}://{parts.netloc}")

    def consumer_at(self, path: str, base_url: str) -> tuple[GatewayView, ConsumerView] | None:
        slug = slug_of(path)
        view = find(self.directory, slug, base_url) if slug else None
        consumer = view.consumer(slug) if view is not None else None
        return (view, consumer) if view is not None and consumer is not None else None

    def platform(self) -> list[Auth]:
        """Every enabled oauth2 credential of the installation, attached or not."""
        return [auth for view in self.directory.views() for auth in view.oauth2]

    def auth(self, gateway_id: str, auth_id: str) -> Auth | None:
        """An enabled oauth2 credential as it is now, or the built-in one."""
        if auth_id == BUILT_IN_AUTH_ID:
            return self.built_in
        view = self.directory.by_id(gateway_id)
        return next((auth for auth in view.oauth2 if auth.id == auth_id), None) if view is not None else None

    def choose(self, resource: str, request: Request) -> Choice:
        """Where to log in. Raises OAuthError; where the platform as a whole has no answer, one of status 404."""
        addressed = self.consumer_of(resource) if resource else None
        if addressed is not None:
            return self._of_consumer(*addressed)
        view = self.routed(request)
        if view is not None:
            return self._of_gateway(view, with_built_in=True)
        return self._of_platform()

    def _of_consumer(self, view: GatewayView, consumer: ConsumerView) -> Choice:
        own = oauth2_of(consumer)
        if own:
            return Choice(own[0], view.id)
        auths = consumer.auths
        if auths.api_keys or auths.mtls or auths.oidc:
            raise OAuthError("invalid_target", OWN_CREDENTIAL)
        # A session of the built-in provider would be refused where an oauth2 credential is attached, even disabled.
        return self._of_gateway(view, with_built_in=uses_built_in(consumer, view, self.built_in))

    def _of_gateway(self, view: GatewayView, *, with_built_in: bool) -> Choice:
        built_in = self.built_in if with_built_in else None
        if len(issuers_of(view.oauth2)) == 1:
            return Choice(view.oauth2[0], view.id)
        if built_in is not None:
            return Choice(built_in, view.id)
        if view.oauth2:
            raise OAuthError("invalid_target", SEVERAL_ON_GATEWAY)
        raise OAuthError("invalid_request", NONE_ON_GATEWAY)

    def _of_platform(self) -> Choice:
        found = self.platform()
        distinct = issuers_of(found)
        if len(distinct) == 1:
            return Choice(found[0], found[0].gateway_id)
        if distinct:
            raise OAuthError("invalid_target", SEVERAL_ON_PLATFORM, 404)
        if self.built_in is not None:
            raise OAuthError("invalid_target", ONLY_BUILT_IN, 404)
        raise OAuthError(NOBODY, NO_SERVER, 404)

    def client_ids(self) -> set[str]:
        """Client ids of all enabled oauth2 credentials."""
        return {text(config_of(auth), "client_id") for auth in self._all()} - {""}

    def _all(self) -> list[Auth]:
        return [*self.platform(), *([self.built_in] if self.built_in is not None else [])]

    def any(self) -> bool:
        return bool(self._all())


def issuers_of(auths: Iterable[Auth]) -> set[str]:
    return {text(config_of(auth), "issuer") for auth in auths}


def scopes_of(auths: Sequence[Auth]) -> list[str]:
    """The union of the required scopes, in the order they are met."""
    return list(dict.fromkeys(scope for auth in auths for scope in texts(config_of(auth), "required_scopes")))
