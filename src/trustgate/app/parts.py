"""What all planes of a process share: state, store, upstream connections, catalogs, policy services."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import msgspec

from trustgate.app.answers import answer_stores
from trustgate.app.catalog import Catalog
from trustgate.app.exporters import fence
from trustgate.app.storage import Shared, open_shared, server_key, store_of
from trustgate.balance.embedding import Embedder
from trustgate.balance.health import LocalHealth
from trustgate.balance.redis_health import RedisHealth
from trustgate.domain.entities import EmbeddingConfig
from trustgate.mcp.catalog import by_code
from trustgate.policies.http import pool_http
from trustgate.policies.plugin import Environment, Price
from trustgate.policies.plugin import Services as PolicyServices
from trustgate.providers.catalog import ModelCatalog
from trustgate.providers.services import Services as ProviderServices
from trustgate.settings import Settings
from trustgate.settings.secret_keys import check_length
from trustgate.store import EventStore
from trustgate.telemetry.exporter_settings import validate_exporter
from trustgate.telemetry.metrics import Metrics
from trustgate.wire.client import Pool, PoolConfig


class Parts(msgspec.Struct, kw_only=True, eq=False):
    """Opened once per process, closed last."""

    settings: Settings
    planes: frozenset[str]
    secret_key: str
    shared: Shared
    opened: EventStore | None
    """None on a data plane without a database."""
    pool: Pool
    providers: ProviderServices
    policies: PolicyServices
    models: ModelCatalog
    catalog: Catalog
    health: LocalHealth | RedisHealth
    embed: Callable[[EmbeddingConfig, str], Awaitable[Sequence[float]]]
    metrics: Metrics
    now: Callable[[], float] = time.time
    """The wall clock, epoch seconds: limits, tokens and health go by it."""

    @property
    def store(self) -> EventStore:
        assert self.opened is not None, "a data plane without a database has no store"
        return self.opened


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
async def open_parts(
    settings: Settings, planes: frozenset[str], metrics: Metrics, now: Callable[[], float] = time.time
) -> AsyncIterator[Parts]:
    """Open everything in the order of spec 06 §4. Raises ConfigurationError and StoreError for what stops a start."""
    async with (
        open_shared(settings) as shared,
        ProviderServices.open(os.environ) as providers,
        Pool(pool_config(settings)) as pool,
    ):
        key = await server_key(settings, planes, shared)
        check_length(key)
        environment = policy_environment(settings)
        models = ModelCatalog()
        database_less = settings.database_less(planes)
        async with (
            nullcontext() if database_less else store_of(settings, planes, key) as store,
            answer_stores(settings, planes, shared) as caches,
        ):
            yield Parts(
                settings=settings,
                planes=planes,
                secret_key=key,
                shared=shared,
                opened=store,
                pool=pool,
                providers=providers,
                policies=PolicyServices(
                    limits=shared.limits,
                    http=pool_http(pool),
                    caches=caches,
                    price=lambda provider, model: price_of(models, provider, model),
                    environment=environment,
                    clock=now,
                    count=metrics.count,
                ),
                models=models,
                health=LocalHealth(now) if shared.redis is None else RedisHealth(shared.redis, now),
                catalog=Catalog(environment, exporter_check(settings), by_code()),
                embed=Embedder(pool),
                metrics=metrics,
                now=now,
            )


def exporter_check(settings: Settings) -> Callable[[dict[str, Any]], str | None]:
    allowed = fence(settings)
    return lambda entry: validate_exporter(entry, os.environ, allowed)


def pool_config(settings: Settings) -> PoolConfig:
    return PoolConfig(max_connections_per_origin=settings.upstream.max_connections_per_origin)


def price_of(models: ModelCatalog, provider: str, model: str) -> Price | None:
    """The catalog's price of exactly that model, USD per token; None when it has none."""
    found = models.prices.exact(provider, model)
    return None if found is None else Price(input=found.input, output=found.output)
