"""What all planes of a process share: state, store, upstream connections, catalogs, policy services."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from trustgate.app.catalog import Catalog
from trustgate.app.storage import Shared, open_shared, server_key, store_of
from trustgate.domain.entities import EmbeddingConfig
from trustgate.policies.http import pooled_http
from trustgate.policies.plugin import Environment, Price
from trustgate.policies.plugin import Services as PolicyServices
from trustgate.providers.catalog import ModelCatalog
from trustgate.providers.services import Services as ProviderServices
from trustgate.settings import Settings
from trustgate.settings.secret_keys import check_length
from trustgate.store import EventStore
from trustgate.wire.client import Pool, PoolConfig


class Parts(msgspec.Struct, kw_only=True, eq=False):
    """Opened once per process, closed last."""

    settings: Settings
    planes: frozenset[str]
    secret_key: str
    shared: Shared
    store: EventStore
    pool: Pool
    providers: ProviderServices
    policies: PolicyServices
    models: ModelCatalog
    catalog: Catalog
    embed: Callable[[EmbeddingConfig, str], Awaitable[Sequence[float]]]


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
