"""The proxy plane of a process: its services, built from settings, and its listener."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from trustgate.app.storage import Shared
from trustgate.balance.health import LocalHealth
from trustgate.balance.hints import ComplexityScorer, SemanticHints
from trustgate.balance.redis_health import RedisHealth
from trustgate.domain.entities import EmbeddingConfig
from trustgate.identity.authenticate import IdentityServices
from trustgate.identity.jwks import HttpFetcher, KeySets
from trustgate.identity.verify import Introspector
from trustgate.policies.engine import compile_chain
from trustgate.policies.plugin import Environment
from trustgate.policies.plugin import Services as PolicyServices
from trustgate.providers.prepare import client_for
from trustgate.providers.services import Services as ProviderServices
from trustgate.proxy.app import ProxyApp
from trustgate.proxy.runtime import Runtimes
from trustgate.proxy.services import Observer, ProxyConfig, ProxyServices
from trustgate.proxy.session import Sessions
from trustgate.settings import Settings
from trustgate.view.gateway import Directory
from trustgate.wire.client import Pool, PoolConfig

Embedder = Callable[[EmbeddingConfig, str], Awaitable[Sequence[float]]]


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
        retry_base_delay_s=upstream.retry_base_delay_s,
        retry_after_max_s=upstream.retry_after_max_s,
        max_body_bytes=settings.server.max_body_bytes,
        plan_limit=upstream.plan_rate_limit_enabled,
        telemetry=settings.telemetry.enabled,
    )


def policy_environment(settings: Settings) -> Environment:
    guards = settings.guards
    return Environment(
        trustguard_base_url=guards.trustguard_base_url,
        trustguard_client_id=guards.trustguard_client_id,
        trustguard_client_secret=guards.trustguard_client_secret,
        trustguard_timeout_s=guards.trustguard_timeout_s,
        openai_moderation_base_url=guards.openai_moderation_base_url,
        openai_moderation_timeout_s=guards.openai_moderation_timeout_s,
        vector_store=settings.sessions.semantic_cache_vector_store,
    )


@asynccontextmanager
async def open_identity(secret_key: bytes) -> AsyncIterator[IdentityServices]:
    """Key sets and introspection of one plane."""
    fetcher, introspector = HttpFetcher(), Introspector(time.time)
    try:
        yield IdentityServices(
            key_sets=KeySets(fetcher, time.monotonic), introspector=introspector, secret_key=secret_key, now=time.time
        )
    finally:
        with trio.CancelScope(shield=True):
            await fetcher.aclose()
            await introspector.aclose()


@asynccontextmanager
async def open_proxy(
    settings: Settings,
    *,
    secret_key: bytes,
    directory: Directory,
    catch_up: Callable[[], Awaitable[object]],
    shared: Shared,
    policies: PolicyServices,
    pool: Pool,
    providers: ProviderServices,
    embed: Embedder,
    observer: Observer,
    readiness: Callable[[], dict[str, str]],
) -> AsyncIterator[ProxyApp]:
    """The proxy application; its background tasks live as long as the context."""
    async with AsyncExitStack() as stack:
        identity = await stack.enter_async_context(open_identity(secret_key))
        background = await stack.enter_async_context(trio.open_nursery())
        stack.callback(background.cancel_scope.cancel)
        health: LocalHealth | RedisHealth = LocalHealth(time.time)
        if shared.redis is not None:
            health = RedisHealth(shared.redis, time.time)
            background.start_soon(health.run)
        scorer = ComplexityScorer(settings.guards.firewall_base_url, settings.guards.firewall_secret_key, time.time)
        stack.push_async_callback(scorer.aclose)

        async def bring_up_to_date() -> None:
            await catch_up()

        yield ProxyApp(
            ProxyServices(
                config=proxy_config(settings),
                directory=directory,
                catch_up=bring_up_to_date,
                identity=identity,
                health=health,
                semantic=SemanticHints(embed),
                scorer=scorer,
                limits=shared.limits,
                sessions=Sessions(shared.state, settings.sessions.ttl_s, settings.sessions.enabled),
                pool=pool,
                providers=providers,
                policies=policies,
                runtimes=Runtimes(
                    lambda consumer, gateway: compile_chain(consumer, gateway, policies),
                    lambda registry: client_for(registry, providers),
                ),
                observer=observer,
                background=background,
                readiness=readiness,
                now=time.time,
            )
        )


def pool_config(settings: Settings) -> PoolConfig:
    return PoolConfig(max_per_origin=settings.upstream.max_connections_per_origin)
