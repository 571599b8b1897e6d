"""The configuration feed of a process, put together from settings: the control plane's side, and the data plane's.

What lives here: the choice of concrete parts. What must not: what they do (`sync`).
"""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog
import trio

from trustgate.actors.control import ControlPlane
from trustgate.actors.follower import Follower
from trustgate.admin.rendering import rfc3339
from trustgate.app.parts import Parts
from trustgate.app.views import Views
from trustgate.domain.values import parse_uuid
from trustgate.settings import ConfigurationError, Settings
from trustgate.store import EventStore, SyncConnection
from trustgate.sync.address import Address
from trustgate.sync.connections import Connections, shown
from trustgate.sync.dispatcher import Dispatcher
from trustgate.sync.lkg import LastKnownGood
from trustgate.sync.tokens import Tokens
from trustgate.telemetry.instruments import Gauge
from trustgate.wire.workers import worker_number

if TYPE_CHECKING:
    from trustgate.sync.plane import DataPlane

Json = dict[str, Any]

ASK_S = 2.0

log = structlog.get_logger("trustgate.sync")


def quiet_library() -> None:
    """Before grpcio is loaded: what it would print to stderr beside our log, calls tell as well."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


# The control plane


def tokens_of(settings: Settings) -> Tokens:
    sync = settings.config_sync
    return Tokens(
        mode=sync.auth_mode,
        shared=sync.token,
        shared_previous=sync.token_previous,
        secret=sync.jwt_secret,
        secret_previous=sync.jwt_secret_previous,
        issuer=sync.jwt_issuer,
        audience=sync.jwt_audience,
    )


@asynccontextmanager
async def serving_feed(parts: Parts, follower: Follower, views: Views, stop: trio.Event) -> AsyncIterator[None]:
    """Serve the feed for the time of the block; all `Sync` calls end when `stop` is set.

    An address that is taken is told, and the process goes on without the feed: several planes may run on one host with
    the same environment. A process with all planes (`all`) serves it only where somebody can read it: it costs memory.
    Raises ConfigurationError for certificates that cannot be used.
    """
    sync, tokens = parts.settings.config_sync, tokens_of(parts.settings)
    if not tokens.configured and "mcp" in parts.planes:
        log.info("the config-sync feed is not served: nobody could read it", key="CONFIG_SYNC_TOKEN")
        parts.metrics.add(planes_gauge(int))
        yield
        return
    quiet_library()
    from trustgate.sync.server import CannotListen, ServerConfig, serving  # loads grpcio

    if not tokens.configured:
        log.warning("config-sync auth is not configured: data planes without a database are refused",
                    key="CONFIG_SYNC_TOKEN")  # fmt: skip
    config = ServerConfig(
        address=Address.parse(sync.grpc_listen_addr),
        tokens=tokens,
        tls_cert=sync.grpc_tls_cert,
        tls_key=sync.grpc_tls_key,
        keepalive_time_s=sync.keepalive_time_s,
        keepalive_timeout_s=sync.keepalive_timeout_s,
    )
    connections = Connections(parts.store)
    parts.metrics.add(planes_gauge(lambda: len(connections)))
    async with AsyncExitStack() as stack:
        background = await stack.enter_async_context(trio.open_nursery())
        stack.callback(background.cancel_scope.cancel)
        background.start_soon(connections.run)
        try:
            server = await stack.enter_async_context(serving(config, connections.told))
        except CannotListen as error:
            log.warning("the config-sync feed is not served", key="CONFIG_SYNC_GRPC_LISTEN_ADDR", error=str(error))
            yield
            return
        except (OSError, ValueError) as error:
            raise ConfigurationError.invalid(f"CONFIG_SYNC_GRPC_TLS_CERT cannot be used: {error}") from error
        log.info("config-sync gRPC server listening", addr=sync.grpc_listen_addr, port=server.port)
        dispatcher = Dispatcher(
            server.publish,
            lambda: parts.models.rows,
            follower.projection.deleted,
            debounce_s=sync.recompile_debounce_s,
            backstop_s=sync.recompile_backstop_s,
        )
        views.watch(dispatcher)
        parts.models.watch(lambda _: dispatcher.signal())
        compiling = await stack.enter_async_context(trio.open_nursery())
        stack.callback(compiling.cancel_scope.cancel)
        await compiling.start(dispatcher.run)
        compiling.start_soon(end_with, stop, server.close)
        yield


def planes_gauge(count: Callable[[], int]) -> Gauge:
    return Gauge(
        "trustgate_config_sync_planes",
        "Data planes without a database that are connected to this control plane.",
        lambda: [((), count())],
    )


async def end_with(stop: trio.Event, end: Callable[[], None]) -> None:
    await stop.wait()
    end()


async def connections_of(
    store: EventStore, control: ControlPlane, scope: str | None, tenant: str | None
) -> Sequence[Json]:
    """The rows of `GET /v1/config-sync/connections`; a tenant sees those of its own gateways."""
    rows = await store.sync_connections(scope)
    if tenant is not None:
        listings = (await control.directory()).gateways

        def owned(row: SyncConnection) -> bool:
            listing = listings.get(parse_uuid(row.scope) or row.scope)
            return listing is not None and listing.tenant_id == tenant

        rows = [row for row in rows if owned(row)]
    return [answered(shown(row)) for row in rows]


def answered(row: SyncConnection) -> Json:
    return {
        "scope": row.scope,
        "instance_id": row.instance_id,
        "state": row.state,
        "applied_version": row.applied_version,
        "first_seen": rfc3339(datetime.fromtimestamp(row.first_seen, UTC)),
        "last_seen": rfc3339(datetime.fromtimestamp(row.last_seen, UTC)),
    }


# The data plane


def instance_of(settings: Settings) -> str:
    """Workers of one host are told apart by their numbers."""
    number = worker_number(os.environ)
    return settings.config_sync.instance_id + ("" if number is None else f"-{number}")


def no_secrets(ref: str) -> str:
    """Snapshots hold secrets in clear: there are no references to look up."""
    raise LookupError(ref)


@asynccontextmanager
async def fed(parts: Parts, views: Views) -> AsyncIterator[DataPlane]:
    """A data plane that has its configuration from a control plane, for the time of the block.

    It serves what is on disk from the first moment on.
    """
    quiet_library()
    from trustgate.sync.client import ClientConfig  # loads grpcio
    from trustgate.sync.plane import DataPlane

    sync = parts.settings.config_sync
    views.reveal = no_secrets
    if "mcp" in parts.planes:
        await warn_of_forgetting(parts.shared.redis)
    kept = LastKnownGood(sync.lkg_path, base64.b64decode(sync.lkg_key))
    plane = DataPlane(kept, views.on_state, parts.models.take_over, sync.max_staleness_s)
    await plane.restore()
    config = ClientConfig(
        endpoint=sync.grpc_endpoint,
        token=sync.token,
        instance_id=instance_of(parts.settings),
        insecure=sync.tls_insecure,
        ca_file=sync.tls_ca,
        server_name=sync.tls_server_name,
        keepalive_time_s=sync.keepalive_time_s,
        keepalive_timeout_s=sync.keepalive_timeout_s,
        min_backoff_s=sync.min_backoff_s,
        max_backoff_s=sync.max_backoff_s,
        poll_interval_s=sync.poll_interval_s,
    )
    async with plane.following(config):
        yield plane


async def warn_of_forgetting(redis: Any) -> None:
    """Users' linked accounts live in Redis here: tell of one that may lose them (spec 06 §16)."""
    if redis is None:
        log.warning("accounts that users link end with this process: there is no Redis", key="REDIS_HOST")
        return
    try:
        with trio.fail_after(ASK_S):
            found = await redis.config_get(["maxmemory-policy", "appendonly", "save"])
    except Exception as error:  # managed servers may refuse to tell
        log.info("redis does not tell whether it keeps what it is given", error=str(error) or type(error).__name__)
        return
    for reason in forgetting({text(name): text(value) for name, value in found.items()}):
        log.warning("redis may lose the accounts that users link", reason=reason)


def forgetting(configuration: Mapping[str, str]) -> list[str]:
    """Why a Redis of that configuration may lose keys without an expiry."""
    policy = configuration.get("maxmemory-policy", "")
    reasons = [f"maxmemory-policy is {policy}"] if policy.startswith("allkeys-") else []
    if configuration.get("appendonly", "yes") == "no" and not configuration.get("save", "3600 1").strip():
        reasons.append("neither AOF nor RDB is on")
    return reasons


def text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
