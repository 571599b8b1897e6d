"""The proxy plane of a process: its services, built from settings, and its listener."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from trustgate.app.parts import Parts
from trustgate.app.readiness import Readiness
from trustgate.app.views import CatchUp, Views
from trustgate.balance.hints import ComplexityScorer, SemanticHints
from trustgate.balance.probe import Prober
from trustgate.balance.redis_health import RedisHealth
from trustgate.identity.authenticate import IdentityServices
from trustgate.identity.jwks import HttpFetcher, KeySets
from trustgate.identity.verify import Introspector
from trustgate.policies.cors import Cors, CorsSettings
from trustgate.policies.engine import compile_chain
from trustgate.providers.prepare import client_for
from trustgate.providers.registry import PROVIDERS
from trustgate.proxy.app import ProxyApp
from trustgate.proxy.runtime import Runtimes
from trustgate.proxy.services import Observer, ProxyConfig, ProxyServices, deadlines_of
from trustgate.proxy.session import Sessions
from trustgate.settings import Settings
from trustgate.view.model import RegistryView
from trustgate.wire.client import Deadlines, Origin
from trustgate.wire.clients import networks

SETTLE_S = 10.0
"""How long a stop waits for the late policies of requests that were answered."""


def proxy_config(settings: Settings) -> ProxyConfig:
    upstream = settings.upstream
    return ProxyConfig(
        version=settings.app.version,
        base_domain=settings.server.gateway_base_domain,
        max_retries=upstream.max_retries,
        request_timeout_s=upstream.request_timeout_s,
        header_timeout_s=upstream.response_header_timeout_s,
        first_event_timeout_s=upstream.stream_first_event_timeout_s,
        stream_idle_timeout_s=upstream.stream_idle_timeout_s,
        stream_max_duration_s=upstream.stream_max_duration_s,
        retry_base_delay_s=upstream.retry_base_delay_s,
        retry_after_max_s=upstream.retry_after_max_s,
        max_body_bytes=settings.server.max_body_bytes,
        forward_headers=frozenset(name.lower().encode() for name in upstream.forward_headers),
        trusted_proxies=networks(settings.server.trusted_proxies),
        plan_limit=upstream.plan_rate_limit_enabled,
        telemetry=settings.telemetry.enabled,
    )


def proxy_cors(settings: Settings) -> Cors | None:
    """CORS for browsers that call the proxy; None, the default, sends no CORS headers."""
    cors = settings.cors
    if not cors.proxy_allow_origins:
        return None
    return Cors(
        CorsSettings(
            origins=cors.proxy_allow_origins,
            methods=cors.allow_methods,
            headers=(*cors.allow_headers, "X-AG-API-Key", "X-AG-Gateway-Slug"),
            expose_headers=cors.expose_headers,
            credentials=cors.allow_credentials,
            max_age_s=int(cors.max_age) if cors.max_age.isdigit() else 600,
        )
    )


@asynccontextmanager
async def open_identity(
    secret_key: bytes, xfcc_from: Sequence[str], now: Callable[[], float] = time.time
) -> AsyncIterator[IdentityServices]:
    """Key sets and introspection of one plane."""
    fetcher, introspector = HttpFetcher(), Introspector(now)
    try:
        yield IdentityServices(
            key_sets=KeySets(fetcher, time.monotonic),
            introspector=introspector,
            secret_key=secret_key,
            now=now,
            xfcc_from=networks(xfcc_from),
        )
    finally:
        with trio.CancelScope(shield=True):
            await fetcher.aclose()
            await introspector.aclose()


@asynccontextmanager
async def open_proxy(
    parts: Parts, views: Views, catch_up: CatchUp, observer: Observer, readiness: Readiness
) -> AsyncIterator[ProxyApp]:
    """The proxy application; its background tasks live as long as the context."""
    settings, shared = parts.settings, parts.shared
    async with AsyncExitStack() as stack:
        identity = await stack.enter_async_context(
            open_identity(parts.secret_key.encode(), settings.server.trust_xfcc_from, parts.now)
        )
        background = await stack.enter_async_context(trio.open_nursery())
        stack.callback(background.cancel_scope.cancel)
        health = parts.health
        if isinstance(health, RedisHealth):
            background.start_soon(health.run)
        prober = Prober(health, lambda registry, timeout_s: ask_health(parts, registry, timeout_s))
        background.start_soon(prober.run)
        views.watch(prober)
        guards = settings.guards
        scorer = ComplexityScorer(guards.firewall_base_url, guards.firewall_secret_key, parts.now)
        stack.push_async_callback(scorer.aclose)

        runtimes = Runtimes(
            lambda consumer, gateway: compile_chain(consumer, gateway, parts.policies),
            lambda registry: client_for(registry, parts.providers),
        )
        views.watch(runtimes)

        config = proxy_config(settings)
        services = ProxyServices(
            config=config,
            deadlines=deadlines_of(config, stream=False),
            stream_deadlines=deadlines_of(config, stream=True),
            directory=views.directory,
            catch_up=catch_up,
            identity=identity,
            health=health,
            semantic=SemanticHints(parts.embed),
            scorer=scorer,
            limits=shared.limits,
            sessions=Sessions(shared.state, settings.sessions.ttl_s, settings.sessions.enabled),
            pool=parts.pool,
            providers=parts.providers,
            policies=parts.policies,
            runtimes=runtimes,
            observer=observer,
            cors=proxy_cors(settings),
            background=background,
            readiness=readiness,
            now=parts.now,
        )
        app = ProxyApp(services)
        try:
            yield app
        finally:
            with trio.move_on_after(SETTLE_S, shield=True):
                await app.settle()


async def ask_health(parts: Parts, registry: RegistryView, timeout_s: float) -> int:
    """One active health check: GET the configured path at the registry's own origin."""
    checks = registry.health_checks
    assert checks is not None, "only checked registries are asked"
    origin, _ = Origin.parse(PROVIDERS[registry.provider].site(registry, parts.providers.environ).root)
    headers = [(name.lower().encode(), value.encode()) for name, value in checks.headers.items()]
    target = checks.path if checks.path.startswith("/") else "/" + checks.path
    deadlines = Deadlines(connect_s=timeout_s, first_byte_s=timeout_s, total_s=timeout_s)
    async with await parts.pool.request("GET", origin, target, headers, b"", deadlines) as response:
        return response.status
