"""The OAuth2 side of the MCP plane, built from settings: signing keys, identity, upstream credentials, pages.

What lives here: the choice of concrete parts and where their state is kept. What must not: what they do (`oauth`).
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import httpx
import msgspec
import structlog
import trio

from trustgate.app.parts import Parts
from trustgate.app.views import Views
from trustgate.domain.entities import Auth
from trustgate.identity.jwks import HttpFetcher, KeySets
from trustgate.identity.mcp import BUILT_IN_AUTH_ID, McpIdentityServices
from trustgate.identity.sts import SigningKeys
from trustgate.identity.verify import Introspector
from trustgate.limits.shared import SharedValues
from trustgate.mcp.locate import BaseUrls
from trustgate.oauth.app import OAuthApp
from trustgate.oauth.cipher import TokenCipher
from trustgate.oauth.connect import Connect
from trustgate.oauth.credentials import UpstreamCredentials
from trustgate.oauth.idp import Provider
from trustgate.oauth.issuers import Issuers
from trustgate.oauth.logins import Logins
from trustgate.oauth.outbound import Outbound
from trustgate.oauth.registration import Registrations
from trustgate.oauth.selfservice import ConnectLimit, SelfService
from trustgate.oauth.server import AuthorizationServer
from trustgate.oauth.state import OAuthState, StoreState
from trustgate.oauth.upstreams import UpstreamServers
from trustgate.oauth.vault import Vault
from trustgate.providers.guard import PublicOnly
from trustgate.settings import Settings
from trustgate.settings.secret_keys import STS_KEY_REDIS, load_rsa_key, new_sts_key_pem, pem_text
from trustgate.wire.clients import networks
from trustgate.wire.tls import client_tls

STS_KEY = "sts:signing-key"

log = structlog.get_logger("trustgate.app")


class OAuthParts(msgspec.Struct, frozen=True, kw_only=True):
    """What the MCP plane takes from here."""

    identity: McpIdentityServices
    credentials: UpstreamCredentials
    pages: OAuthApp
    vault: Vault


def cipher_of(parts: Parts) -> TokenCipher:
    return TokenCipher(parts.secret_key, parts.settings.secrets.previous_keys)


def lasting_values(parts: Parts) -> SharedValues:
    """Where that is kept which must outlive a process: the store; without a database, what planes share."""
    return parts.shared.state if parts.opened is None else StoreState(parts.opened)


async def signing_keys(parts: Parts, cipher: TokenCipher) -> SigningKeys:
    """`STS_SIGNING_KEY`, of several keys the first signs; else one that all processes of the installation share.

    In production with Redis it lies under the documented key; elsewhere it is kept encrypted: in the event store, or on
    a plane without a database in what planes share.
    """
    settings, redis = parts.settings, parts.shared.redis
    configured = settings.secrets.sts_signing_key
    if configured:
        blocks = re.findall(r"-----BEGIN [^-]+-----.*?-----END [^-]+-----", pem_text(configured), re.DOTALL)
        return SigningKeys(settings.secrets.sts_issuer, [load_rsa_key(block) for block in blocks or [configured]])
    if settings.production and redis is not None:
        import coredis

        await redis.set(STS_KEY_REDIS, new_sts_key_pem(), condition=coredis.PureToken.NX)
        stored = await redis.get(STS_KEY_REDIS)
        pem = stored.decode() if isinstance(stored, bytes) else str(stored)
    else:
        values = lasting_values(parts)
        known = await values.get(STS_KEY)
        if known is None:
            made = cipher.encrypt(await trio.to_thread.run_sync(new_sts_key_pem)).encode()
            if await values.put_if_absent(STS_KEY, made, None):
                log.info("a signing key for session tokens was generated", kept=type(values).__name__)
            known = await values.get(STS_KEY)
        pem = cipher.decrypt((known or b"").decode())
    return SigningKeys(settings.secrets.sts_issuer, [load_rsa_key(pem)])


def built_in_provider(settings: Settings) -> Auth | None:
    """The built-in identity provider as a virtual oauth2 credential (spec 05 §8.8)."""
    idp = settings.default_idp
    if not idp.enabled:
        return None
    never = datetime(1970, 1, 1, tzinfo=UTC)
    base = idp.issuer.rstrip("/")
    config = {
        "issuer": idp.issuer,
        "audiences": list(idp.audience),
        "jwks_url": idp.jwks_url or f"{base}/jwks",
        "client_id": idp.client_id,
        "client_secret": idp.client_secret,
        "required_scopes": list(idp.scopes),
        "session_mode": True,
        "authorize_url": idp.authorize_url or f"{base}/authorize",
        "token_url": idp.token_url or f"{base}/token",
    }
    return Auth(
        id=BUILT_IN_AUTH_ID,
        gateway_id="",
        name="built-in",
        type="oauth2",
        created_at=never,
        updated_at=never,
        config={"oauth2": config},
    )


def fence(settings: Settings) -> httpx.AsyncBaseTransport | None:
    if not settings.mcp.public_only:
        return None
    return PublicOnly(httpx.AsyncHTTPTransport(verify=client_tls()))


@asynccontextmanager
async def open_oauth(
    parts: Parts, views: Views, base_urls: BaseUrls, catch_up: Callable[[], Awaitable[None]]
) -> AsyncIterator[OAuthParts]:
    """All of it, for the life of the block."""
    settings = parts.settings
    cipher = cipher_of(parts)
    keys = await signing_keys(parts, cipher)
    shared: SharedValues = parts.shared.state if parts.shared.redis is not None else lasting_values(parts)
    state = OAuthState(shared, cipher)
    fetcher = HttpFetcher(fence(settings))
    introspector = Introspector(parts.now, fence(settings))
    outbound = Outbound(public_only=settings.mcp.public_only)
    built_in = built_in_provider(settings)
    provider = Provider(outbound, time.monotonic)
    logins = Logins(state, provider, parts.now)
    servers = UpstreamServers(outbound, state, time.monotonic)
    vault = Vault(lasting_values(parts), cipher, parts.now)
    directory = views.directory
    issuers = Issuers(directory, settings.server.mcp_base_domain, built_in)
    connect = Connect(directory=directory, state=state, vault=vault, servers=servers, outbound=outbound, now=parts.now)
    limit = settings.mcp_connect
    trusted = networks(limit.trusted_proxies)
    secret = parts.secret_key.encode()
    try:
        yield OAuthParts(
            identity=McpIdentityServices(
                directory=directory,
                key_sets=KeySets(fetcher, time.monotonic),
                introspector=introspector,
                keys=keys,
                now=parts.now,
                built_in=built_in,
                leeway_s=settings.mcp.leeway_s,
                xfcc_from=networks(settings.server.trust_xfcc_from),
            ),
            credentials=UpstreamCredentials(
                keys=keys,
                provider=provider,
                outbound=outbound,
                servers=servers,
                vault=vault,
                logins=logins,
                tickets=connect,
                now=parts.now,
            ),
            pages=OAuthApp(
                issuers=issuers,
                server=AuthorizationServer(
                    issuers=issuers,
                    state=state,
                    provider=provider,
                    logins=logins,
                    keys=keys,
                    now=parts.now,
                    detour=connect.detour,
                    consent_key=secret if settings.mcp.consent else b"",
                ),
                registrations=Registrations(issuers=issuers, state=state, limits=parts.shared.limits, trusted=trusted),
                connect=connect,
                selfservice=SelfService(
                    issuers,
                    connect,
                    parts.shared.limits,
                    ConnectLimit(
                        enabled=limit.enabled,
                        source=limit.per_source,
                        consumer=limit.per_consumer,
                        window_s=limit.window_s,
                        trusted=trusted,
                    ),
                    secret,
                ),
                keys=keys,
                base_url=lambda headers, fields, peer, scheme: base_urls.of(fields, headers, peer, scheme),
                catch_up=catch_up,
            ),
            vault=vault,
        )
    finally:
        with trio.CancelScope(shield=True):
            await fetcher.aclose()
            await introspector.aclose()
            await outbound.aclose()
