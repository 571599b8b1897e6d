"""Opening the event store and the shared state that the settings name: SQLite or PostgreSQL, in process or Redis."""

from __future__ import annotations

import pathlib
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec
import structlog
import trio

from trustgate.app import workers
from trustgate.limits import Limits, MemoryLimits
from trustgate.limits.bus import Bus, LocalBus
from trustgate.limits.remote import remote_shared
from trustgate.limits.shared import LocalState, RedisState, SharedState
from trustgate.settings import ConfigurationError, Settings
from trustgate.settings import secret_keys as keys
from trustgate.store import EventStore, PostgresConfig, aws_password_source, open_store

STORE_FILE = "trustgate.db"
REDIS_BUDGET_S = 5.0
BUS = "trustgate:bus"
SERVER_KEY = "trustgate:server:secret-key"

log = structlog.get_logger("trustgate.app")


class Shared(msgspec.Struct, kw_only=True):
    """State that requests share: counters, small values, and news. `redis` is None in process."""

    limits: Limits
    state: SharedState
    bus: Bus
    redis: Any = None


@asynccontextmanager
async def open_shared(settings: Settings) -> AsyncIterator[Shared]:
    """In-process state, the supervisor's in a worker, or one Redis client for the process.

    Raises ConfigurationError when Redis does not answer.
    """
    if not settings.redis.configured and (path := workers.shared_socket()):
        async with remote_shared(path) as (limits, state, bus):
            yield Shared(limits=limits, state=state, bus=bus)
        return
    if not settings.redis.configured:
        yield Shared(limits=MemoryLimits(), state=LocalState(trio.current_time), bus=LocalBus())
        return
    import coredis  # large, and not for embedded installations

    from trustgate.limits.redis import redis_limits
    from trustgate.limits.redis_bus import RedisBus

    config = settings.redis
    options: dict[str, Any] = {
        "host": config.host,
        "port": config.port,
        "db": config.db,
        "decode_responses": False,
    }
    if config.login == "aws":
        from trustgate.app.elasticache import IamLogin

        try:
            options["credential_provider"] = IamLogin(config)
        except ValueError as error:
            raise ConfigurationError.invalid(str(error)) from error
    else:
        options |= {"username": config.username or None, "password": config.password or None}
    if config.tls_enabled:
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if config.tls_insecure_verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        options["ssl_context"] = context
    async with coredis.Redis(**options) as redis:
        try:
            with trio.fail_after(REDIS_BUDGET_S):
                await redis.ping()
        except Exception as error:
            where = f"redis at {config.host}:{config.port} (REDIS_HOST, REDIS_PORT)"
            raise ConfigurationError(f"{where} does not answer: {str(error) or type(error).__name__}") from error
        log.info("redis connected successfully", host=config.host, port=config.port)
        async with redis_limits(redis) as limits:
            yield Shared(limits=limits, state=RedisState(redis), bus=RedisBus(redis, BUS), redis=redis)


async def server_key(settings: Settings, planes: frozenset[str], shared: Shared) -> str:
    """`SERVER_SECRET_KEY`, or the one that this kind of installation provisions (spec 06 §3.1)."""
    if settings.secrets.server_key:
        return settings.secrets.server_key
    if settings.embedded(planes):
        key, path, created = keys.embedded_server_key(settings.app.data_dir)
        if created:
            log.info("a server secret key was generated", file=str(path))
        return key
    if settings.production and shared.redis is not None:
        import coredis

        await shared.redis.set(SERVER_KEY, keys.new_server_key(), condition=coredis.PureToken.NX)
        stored = await shared.redis.get(SERVER_KEY)
        return stored.decode() if isinstance(stored, bytes) else str(stored)
    raise ConfigurationError("crypto: encryption secret is required (set SERVER_SECRET_KEY)")


def store_of(settings: Settings, planes: frozenset[str], key: str) -> AbstractAsyncContextManager[EventStore]:
    """The event store of these planes, not yet open."""
    previous = settings.secrets.previous_keys
    if settings.embedded(planes):
        folder = pathlib.Path(settings.app.data_dir)
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        return open_store(folder / STORE_FILE, key, previous)
    return open_store(database_config(settings), key, previous)


def database_config(settings: Settings) -> PostgresConfig:
    """The `DB_*` variables. Raises ConfigurationError."""
    database = settings.database
    config = PostgresConfig(
        host=database.host,
        port=database.port,
        user=database.user,
        password=database.password,
        dbname=database.name,
        sslmode=database.ssl_mode,
        sslrootcert=database.ssl_root_cert,
        min_conns=database.min_conns,
        max_conns=database.max_conns,
        max_conn_lifetime_s=database.max_conn_lifetime_s,
        max_conn_idle_s=database.max_conn_idle_time_s,
        connect_timeout_s=database.connect_timeout_s,
    )
    if database.login == "aws":
        try:
            config = msgspec.structs.replace(config, password_source=aws_password_source(config))
        except ValueError as error:
            raise ConfigurationError.invalid(str(error)) from error
    return config
