"""Who calls a virtual MCP server (spec 05 §3): the credential present decides, there is no fall-through to others.

What lives here: the order of credentials, and what a bearer token may be: a session token of this gateway, a JWT of an
identity provider, an opaque token that is introspected. What must not: verification itself (`sts`, `verify`, `mtls`).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from trustgate.domain.entities import Auth
from trustgate.identity import jwt, mtls
from trustgate.identity.authenticate import digest, introspected_principal
from trustgate.identity.jwks import KeySets
from trustgate.identity.jwt import PROTOCOL_SCOPES, Refused, Token
from trustgate.identity.keys import serves
from trustgate.identity.principal import Principal
from trustgate.identity.sts import SigningKeys
from trustgate.identity.verify import Introspector, text, texts, verify_token
from trustgate.view.gateway import Directory, GatewayView
from trustgate.view.model import ConsumerView
from trustgate.wire.clients import Networks

BEARER = b"Bearer "
KEY_PREFIX = b"ag_"
SCOPE_CLAIMS = ("scope", "scp", "scopes")
GRANT_CLAIMS = ("permissions", "roles")
BUILT_IN_AUTH_ID = "de1de1de-de1d-4de1-8de1-de1de1de1de1"
"""The virtual auth of the built-in identity provider, which no consumer has attached (spec 05 §8.8)."""

Scope = tuple[GatewayView, ConsumerView]


class Unauthenticated(Exception):
    """HTTP 401; `challenge` asks for `WWW-Authenticate`."""

    def __init__(self, *, challenge: bool) -> None:
        super().__init__("unauthenticated")
        self.challenge = challenge


class CallRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What authentication reads of a request. `headers` are first values by lower-case name."""

    headers: Mapping[bytes, bytes]
    path: str
    peer_ip: str
    client_ip: str
    """The peer, unless a trusted proxy names another."""
    client_certificate: bytes | None
    base_url: str


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated caller and the gateway of that identity."""

    principal: Principal
    auth_id: str
    view: GatewayView


class McpIdentityServices(msgspec.Struct, frozen=True, kw_only=True):
    """`built_in` is the virtual auth of the built-in identity provider, None where it is not configured;
    `xfcc_from` are the peers whose forwarded client certificates are believed; providers' clocks may be off by
    `leeway_s`."""

    directory: Directory
    key_sets: KeySets
    introspector: Introspector
    keys: SigningKeys
    now: Callable[[], float]
    built_in: Auth | None = None
    xfcc_from: Networks = ()
    leeway_s: float = 0


def uses_built_in(consumer: ConsumerView, view: GatewayView, built_in: Auth | None) -> bool:
    """The built-in provider serves consumers without any enabled auth, and without an oauth2 auth even disabled."""
    if built_in is None:
        return False
    attached = (view.state.auths.get(auth_id) for auth_id in consumer.entity.auth_ids)
    return not any(auth is not None and (auth.enabled or auth.type == "oauth2") for auth in attached)


def oauth2_of(consumer: ConsumerView) -> list[Auth]:
    """The enabled oauth2 credentials of a consumer, oldest first."""
    return sorted(consumer.auths.oauth2, key=lambda auth: (auth.created_at, auth.id))


async def authenticate(services: McpIdentityServices, request: CallRequest, scope: Scope | None) -> Caller:
    """Raises Unauthenticated."""
    try:
        return await _identify(services, request, scope)
    except Refused:
        raise Unauthenticated(challenge=challenges(services, scope)) from None


def challenges(services: McpIdentityServices, scope: Scope | None) -> bool:
    """Whether a refusal says where to log in."""
    if scope is None:
        return True
    view, consumer = scope
    return bool(consumer.auths.oauth2) or uses_built_in(consumer, view, services.built_in)


async def _identify(services: McpIdentityServices, request: CallRequest, scope: Scope | None) -> Caller:
    certificate = presented_certificate(request, services.xfcc_from)
    if certificate is not None:
        return by_certificate(certificate, services, scope)
    headers = request.headers
    authorization = headers.get(b"authorization", b"")
    if authorization.startswith(BEARER):
        bearer = authorization[len(BEARER) :].strip()
        if bearer.startswith(KEY_PREFIX):
            return by_key(bearer, services, scope, request.client_ip)
        if bearer:
            return await by_bearer(bearer.decode("latin-1"), services, scope, request.path)
    key = headers.get(b"x-ag-api-key") or headers.get(b"x-api-key")
    if not key:
        raise Refused("no credential")
    return by_key(key, services, scope, request.client_ip)


# API keys


def by_key(key: bytes, services: McpIdentityServices, scope: Scope | None, client_ip: str) -> Caller:
    """A key attached to the addressed consumer; without a known consumer, any key of the installation."""
    hashed = digest(key.decode("latin-1"))
    if scope is not None:
        view, consumer = scope
        auth = consumer.auths.api_keys.get(hashed)
        if auth is None or not hmac.compare_digest(auth.key_hash, hashed):
            raise Refused("unknown key")
        return key_caller(auth, view, services, client_ip)
    for view in services.directory.views():
        auth_id = view.api_key_digests.get(hashed)
        if auth_id is not None:
            return key_caller(view.state.auths[auth_id], view, services, client_ip)
    raise Refused("unknown key")


def key_caller(auth: Auth, view: GatewayView, services: McpIdentityServices, client_ip: str) -> Caller:
    if not serves(auth, services.now(), client_ip):
        raise Refused("key out of its time or networks")
    principal = Principal(subject=key_subject(auth, view), method="api_key", auth_id=auth.id)
    return Caller(principal=principal, auth_id=auth.id, view=view)


def key_subject(auth: Auth, view: GatewayView) -> str:
    """The key's name; of keys that share a name, all but the oldest are told apart by their ids."""
    return auth.name if view.oldest_key_of_name(auth) else f"api_key:{auth.id}"


# Client certificates


def presented_certificate(request: CallRequest, trusted: Networks) -> mtls.Certificate | None:
    """The TLS peer's certificate, else one that a trusted peer forwards and that can be read."""
    if request.client_certificate is not None:
        return mtls.from_der(request.client_certificate)
    return mtls.forwarded(request.headers, request.peer_ip, trusted)


def by_certificate(certificate: mtls.Certificate, services: McpIdentityServices, scope: Scope | None) -> Caller:
    """The first enabled mtls credential that accepts it."""
    for view, auth in mtls_auths(services.directory, scope):
        try:
            mtls.check(certificate, auth.config.get("mtls") or {}, services.now())
        except Refused:
            continue
        if not certificate.subject:
            raise Refused("no subject")
        principal = Principal(subject=certificate.subject, method="mtls", auth_id=auth.id, claims=certificate.claims())
        return Caller(principal=principal, auth_id=auth.id, view=view)
    raise Refused("no credential accepts the certificate")


def mtls_auths(directory: Directory, scope: Scope | None) -> list[tuple[GatewayView, Auth]]:
    if scope is not None:
        return [(scope[0], auth) for auth in scope[1].auths.mtls]
    return [
        (view, auth)
        for view in directory.views()
        for auth in view.state.auths.values()
        if auth.type == "mtls" and auth.enabled
    ]


# Bearer tokens


async def by_bearer(raw: str, services: McpIdentityServices, scope: Scope | None, path: str) -> Caller:
    if scope is None:
        raise Refused("no virtual MCP server to check the token for")
    view, consumer = scope
    if raw.count(".") == 2:
        token = jwt.parse(raw)
        if token.claims.get("iss") == services.keys.issuer:
            return by_session(token, services, scope, path)
        return await by_provider(token, services, view, consumer)
    for auth in oauth2_of(consumer):
        if text(auth.config.get("oauth2") or {}, "introspection_url").strip():
            try:
                return await introspected(raw, auth, services, view)
            except Refused:
                continue
    raise Refused("no credential accepts the token")


async def by_provider(token: Token, services: McpIdentityServices, view: GatewayView, consumer: ConsumerView) -> Caller:
    """The first credential of the token's issuer that verifies it."""
    issuer = token.claims.get("iss")
    for auth in oauth2_of(consumer):
        config: dict[str, Any] = auth.config.get("oauth2") or {}
        if text(config, "issuer") != issuer:
            continue
        try:
            if text(config, "jwks_url").strip() or not text(config, "introspection_url").strip():
                return await verified(token, auth, config, services, view)
            return await introspected(token.raw, auth, services, view)
        except Refused:
            continue
    raise Refused("no credential accepts the token")


async def verified(
    token: Token, auth: Auth, config: dict[str, Any], services: McpIdentityServices, view: GatewayView
) -> Caller:
    without_scopes = {name: value for name, value in config.items() if name != "required_scopes"}
    await verify_token(
        token, without_scopes, services.key_sets, services.now(), discover=True, leeway_s=services.leeway_s
    )
    scopes = held_scopes(token.claims)
    check_scopes(scopes, texts(config, "required_scopes"))
    jwt.subject_of(token.claims, "sub")
    own = text(config, "subject_claim")
    preferred = token.claims.get(own or "oid")
    subject = preferred if isinstance(preferred, str) and preferred else jwt.subject_of(token.claims, "sub")
    principal = Principal(
        subject=subject,
        method="jwt",
        auth_id=auth.id,
        issuer=text(config, "issuer"),
        claims=token.claims,
        scopes=tuple(scopes),
        raw_token=token.raw,
    )
    return Caller(principal=principal, auth_id=auth.id, view=view)


async def introspected(raw: str, auth: Auth, services: McpIdentityServices, view: GatewayView) -> Caller:
    config: dict[str, Any] = auth.config.get("oauth2") or {}
    principal = introspected_principal(await services.introspector.introspect(raw, config), raw, auth, config)
    return Caller(principal=principal, auth_id=auth.id, view=view)


def by_session(token: Token, services: McpIdentityServices, scope: Scope, path: str) -> Caller:
    """A session token that this gateway minted, for one of the consumer's enabled oauth2 auths."""
    services.keys.check(token, services.now())
    view, consumer = scope
    claims = token.claims
    subject = jwt.subject_of(claims, "sub")
    if claims.get("token_use") != "mcp_session":
        raise Refused("not a session token")
    auth_id = claims.get("authid")
    auth = next((one for one in consumer.auths.oauth2 if one.id == auth_id), None)
    if auth is None and auth_id == BUILT_IN_AUTH_ID and uses_built_in(consumer, view, services.built_in):
        auth = services.built_in
        found = services.directory.by_id(str(claims.get("gwid") or ""))
        if found is None:
            raise Refused("no such gateway")
        view = found
    if auth is None:
        raise Refused("the credential behind the session does not serve this consumer")
    config: dict[str, Any] = auth.config.get("oauth2") or {}
    if not jwt.audience_matches(jwt.strings(claims.get("aud")), texts(config, "audiences")):
        raise Refused("audience differs")
    scopes = held_scopes(claims)
    check_scopes(scopes, texts(config, "required_scopes"))
    bound = claims.get("path")
    if isinstance(bound, str) and bound and bound != slug_path(path):
        raise Refused("the session is for another MCP server")
    principal = Principal(
        subject=subject,
        method="jwt",
        auth_id=auth.id,
        issuer=services.keys.issuer,
        claims=(claims.get("idp") or {}) | claims,
        scopes=tuple(scopes),
        raw_token=token.raw,
    )
    return Caller(principal=principal, auth_id=auth.id, view=view)


def slug_path(path: str) -> str:
    """The last two segments of an MCP path, `{slug}/mcp`: what a session may be bound to."""
    return "/".join(path.strip("/").rsplit("/", 2)[-2:])


def held_scopes(claims: dict[str, Any]) -> list[str]:
    """Scopes of all scope claims, and the entries of `permissions` and `roles` arrays."""
    found = dict.fromkeys(jwt.scopes_of(claims, SCOPE_CLAIMS))
    for name in GRANT_CLAIMS:
        if isinstance(claims.get(name), list):
            found.update(dict.fromkeys(jwt.strings(claims[name])))
    return list(found)


def check_scopes(held: Sequence[str], required: Sequence[str]) -> None:
    """Every required scope is held; `api://x/leaf` also as `leaf`; protocol scopes are not asked for."""
    for scope in required:
        if scope in PROTOCOL_SCOPES or scope in held:
            continue
        if scope.startswith("api://") and scope.rpartition("/")[2] in held:
            continue
        raise Refused("a required scope is missing")


__all__ = ["CallRequest", "Caller", "McpIdentityServices", "Unauthenticated", "authenticate"]
