"""Authentication on the proxy plane: which credential decides, and what it yields (spec 02 §4).

The credential *present* decides exclusively, in the order of `authenticate`; there is no fall-through to another kind.
API keys are checked without suspending; tokens may wait for a key set.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from jwt.algorithms import HMACAlgorithm

from trustgate.domain.entities import Auth
from trustgate.identity import jwt, keys, mtls
from trustgate.identity.errors import AuthError, forbidden, invalid_request, unauthenticated
from trustgate.identity.jwks import KeySets
from trustgate.identity.jwt import Refused, Token
from trustgate.identity.principal import Principal
from trustgate.identity.roles import BadMapping, effective_roles
from trustgate.identity.verify import Introspection, Introspector, text, texts, verify_token
from trustgate.view.gateway import GatewayView
from trustgate.view.model import ConsumerView
from trustgate.wire.clients import Networks

Headers = Mapping[bytes, bytes]
"""First value of each request header by lower-case name."""

MALFORMED_BEARER = "invalid auth request: malformed bearer authorization header"


class IdentityServices(msgspec.Struct, frozen=True, kw_only=True):
    """What authentication needs from outside: key sets, introspection, the playground secret and the wall clock."""

    key_sets: KeySets
    introspector: Introspector
    secret_key: bytes
    now: Callable[[], float]
    xfcc_from: Networks = ()
    """Peers whose forwarded client certificates are believed."""


def digest(key: str) -> str:
    """How API keys are stored: lower-case hex SHA-256."""
    return hashlib.sha256(key.encode()).hexdigest()


def presented_key(headers: Headers) -> str:
    """The API key of a request in any of its three forms, or empty (spec 02 §4.1 row 2)."""
    for name in (b"x-ag-api-key", b"x-api-key"):
        value = headers.get(name)
        if value:
            key = value.decode("latin-1").strip()
            if key:
                return key
    words = headers.get(b"authorization", b"").split()
    if len(words) == 2 and words[1].startswith(b"ag_") and words[0].lower() == b"bearer":
        return words[1].decode("latin-1")
    return ""


async def authenticate(
    view: GatewayView,
    consumer: ConsumerView,
    headers: Headers,
    services: IdentityServices,
    peer_ip: str = "",
    client_ip: str = "",
) -> Principal:
    """Who calls this consumer. Raises AuthError; a 401 becomes 403 when the key presented is another consumer's.

    `peer_ip` decides whose forwarded certificate is believed; `client_ip`, the same unless a trusted proxy names
    another, is where keys bound to networks are used from. A client certificate counts where nothing else is presented
    (an addition: the contract knows none on this plane).
    """
    try:
        playground = headers.get(b"x-ag-playground-token")
        if playground:
            return check_playground(playground.decode("latin-1"), view, consumer, services)
        key = presented_key(headers)
        if key:
            return check_api_key(key, consumer, services, client_ip or peer_ip)
        authorization = headers.get(b"authorization", b"").decode("latin-1").strip()
        if not authorization:
            certificate = mtls.presented(headers, peer_ip, services.xfcc_from) if consumer.auths.mtls else None
            if certificate is None:
                raise unauthenticated()
            return check_certificate(certificate, consumer, services)
        if consumer.role_based:
            return await check_oidc(authorization, view, consumer, services)
        return await check_oauth2(authorization, consumer, services)
    except AuthError as error:
        if error.status == 401 and belongs_to_another(presented_key(headers), view, consumer):
            raise forbidden() from None
        raise


def known_key(consumer: ConsumerView, headers: Headers) -> Principal | None:
    """The caller of a request that presents one of the consumer's API keys; None: `authenticate` must look.

    The fast way for most requests. It never accepts what `authenticate` would refuse.
    """
    if consumer.role_based or headers.get(b"x-ag-playground-token"):
        return None
    key = presented_key(headers)
    if not key:
        return None
    hashed = digest(key)
    auth = consumer.auths.api_keys.get(hashed)
    if auth is None or not hmac.compare_digest(auth.key_hash, hashed) or keys.restricted(auth):
        return None
    return Principal(subject=auth.name, method="api_key", auth_id=auth.id)


def check_api_key(key: str, consumer: ConsumerView, services: IdentityServices, client_ip: str) -> Principal:
    if consumer.role_based:
        raise forbidden()
    known = consumer.auths.api_keys
    hashed = digest(key)
    auth = known.get(hashed)
    if auth is not None and hmac.compare_digest(auth.key_hash, hashed) and keys.serves(auth, services.now(), client_ip):
        return Principal(subject=auth.name, method="api_key", auth_id=auth.id)
    raise unauthenticated() if known else forbidden()


def belongs_to_another(key: str, view: GatewayView, consumer: ConsumerView) -> bool:
    if not key:
        return False
    auth_id = view.api_key_digests.get(digest(key))
    return auth_id is not None and auth_id not in consumer.entity.auth_ids and auth_id in view.attached_auths


def check_certificate(certificate: mtls.Certificate, consumer: ConsumerView, services: IdentityServices) -> Principal:
    """The first attached mtls credential that accepts the certificate."""
    for auth in consumer.auths.mtls:
        try:
            mtls.check(certificate, auth.config.get("mtls") or {}, services.now())
        except Refused:
            continue
        if certificate.subject:
            return Principal(subject=certificate.subject, method="mtls", auth_id=auth.id, claims=certificate.claims())
    raise unauthenticated()


def bearer(authorization: str) -> str:
    """The token of an `Authorization` value of exactly two words, scheme `bearer` in any case."""
    words = authorization.split()
    if len(words) != 2 or words[0].lower() != "bearer":
        raise invalid_request(MALFORMED_BEARER)
    return words[1]


async def check_oauth2(authorization: str, consumer: ConsumerView, services: IdentityServices) -> Principal:
    """Inline consumers: the attached oauth2 credentials in id order; the first that verifies wins."""
    raw = bearer(authorization)
    if not consumer.auths.oauth2:
        raise forbidden()
    for auth in consumer.auths.oauth2:
        try:
            return await check_oauth2_auth(raw, auth, services)
        except Refused:
            continue
    raise unauthenticated()


async def check_oauth2_auth(raw: str, auth: Auth, services: IdentityServices) -> Principal:
    """One oauth2 credential: JWT by its key set or discovery, opaque or key-less ones by introspection."""
    config: dict[str, Any] = auth.config.get("oauth2") or {}
    introspectable = bool(text(config, "introspection_url").strip())
    has_keys = bool(text(config, "jwks_url").strip())
    if introspectable and (not has_keys or raw.count(".") != 2):
        return introspected_principal(await services.introspector.introspect(raw, config), raw, auth, config)
    token = jwt.parse(raw)
    await verify_token(token, config, services.key_sets, services.now(), discover=True)
    return jwt_principal(token, auth, text(config, "subject_claim"))


def introspected_principal(found: Introspection, raw: str, auth: Auth, config: dict[str, Any]) -> Principal:
    return Principal(
        subject=found.subject,
        method="introspection",
        auth_id=auth.id,
        issuer=text(config, "issuer"),
        claims=found.claims,
        scopes=found.scopes,
        raw_token=raw,
    )


def jwt_principal(token: Token, auth: Auth, subject_claim: str) -> Principal:
    return Principal(
        subject=jwt.subject_of(token.claims, subject_claim),
        method="jwt",
        auth_id=auth.id,
        issuer=str(token.claims.get("iss", "")),
        claims=token.claims,
        scopes=tuple(jwt.scopes_of(token.claims)),
        raw_token=token.raw,
    )


async def check_oidc(
    authorization: str, view: GatewayView, consumer: ConsumerView, services: IdentityServices
) -> Principal:
    """role_based consumers: exactly one oidc credential must fit the token; then its claims select roles."""
    if consumer.auths.oauth2 and not consumer.auths.oidc:
        raise forbidden()
    raw = bearer(authorization)
    try:
        token = jwt.parse(raw)
        auth = select_oidc(token, consumer)
        config: dict[str, Any] = auth.config.get("oidc") or {}
        await verify_token(token, config, services.key_sets, services.now(), discover=False)
        principal = jwt_principal(token, auth, text(config, "subject_claim"))
    except Refused:
        raise unauthenticated() from None
    try:
        roles = effective_roles(view.roles, consumer.roles, token.claims)
    except BadMapping as error:
        raise invalid_request(str(error)) from None
    if not roles:
        raise forbidden()
    return msgspec.structs.replace(principal, roles=roles)


def select_oidc(token: Token, consumer: ConsumerView) -> Auth:
    """The one credential whose issuer and audiences fit the unverified token. Raises Refused or AuthError."""
    issuer = token.claims.get("iss")
    audiences = jwt.strings(token.claims.get("aud"))
    fitting: list[Auth] = []
    for auth in consumer.auths.oidc:
        config: dict[str, Any] = auth.config.get("oidc") or {}
        configured, expected = text(config, "issuer"), texts(config, "audiences")
        if issuer and configured and issuer != configured:
            continue
        if audiences and expected and not jwt.audience_matches(audiences, expected):
            continue
        fitting.append(auth)
    if len(fitting) > 1:
        raise invalid_request("ambiguous oidc auth config")
    if not fitting:
        raise Refused("no credential fits")
    return fitting[0]


def check_playground(raw: str, view: GatewayView, consumer: ConsumerView, services: IdentityServices) -> Principal:
    """A console's playground token: HS256 by the server secret, `exp` required (spec 02 §4.2, §13)."""
    try:
        token = jwt.parse(raw)
        if token.algorithm != "HS256":
            raise Refused("algorithm")
        if not HMACAlgorithm(HMACAlgorithm.SHA256).verify(token.signing_input, services.secret_key, token.signature):
            raise Refused("signature")
        expires = jwt.number(token.claims, "exp")
        if expires is None or expires <= services.now():
            raise Refused("expired")
    except Refused:
        raise unauthenticated() from None
    claims = token.claims
    gateway = claims.get("gateway_id")
    if claims.get("purpose") != "playground" or claims.get("consumer_slug") != consumer.slug:
        raise forbidden()
    if isinstance(gateway, str) and gateway and gateway != view.id:
        raise forbidden()
    user = claims.get("user_id")
    return Principal(
        subject=user if isinstance(user, str) and user else "playground",
        method="playground",
        claims=claims,
        roles=consumer.roles if consumer.role_based else (),
    )
