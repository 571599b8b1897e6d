"""The metadata documents of the gateway as resource server and authorization server (spec 05 §8.1, §8.2)."""

from __future__ import annotations

from typing import Any

from trustgate.domain.entities import Auth
from trustgate.identity.mcp import uses_built_in
from trustgate.oauth.http import Reply, Request, json_reply, text_reply
from trustgate.oauth.issuers import NO_SERVER, Issuers, scopes_of

RESOURCE = "/.well-known/oauth-protected-resource"


def protected_resource(request: Request, issuers: Issuers) -> Reply:
    """RFC 9728 for the path after the well-known prefix."""
    path = request.path[len(RESOURCE) :].strip("/")
    base = request.base_url
    known, scopes = _of_path(path, request, issuers)
    document: dict[str, Any] = {"resource": f"{base}/{path}" if path else base}
    if known:
        document["authorization_servers"] = [base]
    document["bearer_methods_supported"] = ["header"]
    if scopes:
        document["scopes_supported"] = scopes
    return json_reply(document)


def _of_path(path: str, request: Request, issuers: Issuers) -> tuple[bool, list[str]]:
    """Whether there is somewhere to log in, and the scopes that are asked for there."""
    found = issuers.consumer_at("/" + path, request.base_url)
    if found is not None:
        view, consumer = found
        auths = consumer.auths
        if auths.oauth2:
            return True, scopes_of(auths.oauth2)
        if auths.api_keys or auths.mtls or auths.oidc:
            return False, []
        if uses_built_in(consumer, view, issuers.built_in):
            return True, scopes_of([*view.oauth2, *_some(issuers.built_in)])
        return bool(view.oauth2), scopes_of(view.oauth2)
    routed = issuers.routed(request)
    if routed is not None:
        return bool(routed.oauth2) or issuers.built_in is not None, scopes_of(
            [*routed.oauth2, *_some(issuers.built_in)]
        )
    return issuers.any(), scopes_of([*_of_one_tenant(issuers), *_some(issuers.built_in)])


def _some(auth: Auth | None) -> list[Auth]:
    return [] if auth is None else [auth]


def _of_one_tenant(issuers: Issuers) -> list[Auth]:
    """The platform's credentials where they all belong to one gateway: other tenants' scopes are nobody's business."""
    found = issuers.platform()
    return found if len({auth.gateway_id for auth in found}) <= 1 else []


def authorization_server(request: Request, issuers: Issuers) -> Reply:
    """RFC 8414."""
    routed = issuers.routed(request)
    auths = list(routed.oauth2) if routed is not None else issuers.platform()
    if not auths and issuers.built_in is None:
        return text_reply(NO_SERVER, 404)
    base = request.base_url
    document: dict[str, Any] = {
        "issuer": base,
        "authorization_endpoint": f"{base}/oauth/authorize",
        "token_endpoint": f"{base}/oauth/token",
        "registration_endpoint": f"{base}/oauth/register",
        "revocation_endpoint": f"{base}/oauth/revoke",
        "jwks_uri": f"{base}/.well-known/jwks.json",
        "response_types_supported": ["code"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
    }
    shown = auths if routed is not None else _of_one_tenant(issuers)
    scopes = scopes_of([*shown, *_some(issuers.built_in)])
    if scopes:
        document["scopes_supported"] = scopes
    return json_reply(document)
