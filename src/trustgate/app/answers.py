"""Where the semantic cache may keep answers beside this process: the stores that this installation has, by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from trustgate.app.storage import Shared, database_config
from trustgate.policies.answer_store import AnswerStore
from trustgate.settings import Settings


@asynccontextmanager
async def answer_stores(
    settings: Settings, planes: frozenset[str], shared: Shared
) -> AsyncIterator[dict[str, AnswerStore]]:
    """Nothing is asked of them before a policy uses one."""
    stores: dict[str, AnswerStore] = {}
    if shared.redis is not None:
        from trustgate.policies.redis_answers import RedisAnswers

        stores["redis"] = RedisAnswers(shared.redis)
    if "proxy" not in planes or settings.database_less(planes) or settings.embedded(planes):
        yield stores
        return
    import psycopg

    from trustgate.policies.pgvector_answers import CONNECTIONS, PgvectorAnswers

    config = database_config(settings)
    async with PgvectorAnswers(
        lambda: psycopg.connect(**config.arguments()),
        min(CONNECTIONS, config.max_conns),
        config.max_conn_lifetime_s,
    ) as stores["pgvector"]:
        yield stores
