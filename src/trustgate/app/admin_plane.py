"""The admin plane of a process: the control plane, and what the Admin API is given from other rooms."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import structlog
import trio

from trustgate.actors.archive import Archive
from trustgate.actors.control import ControlPlane, Executed
from trustgate.actors.follower import Follower
from trustgate.actors.notary import Notary
from trustgate.admin.app import create_app
from trustgate.admin.errors import UpstreamUnavailable
from trustgate.admin.routes import template
from trustgate.admin.services import (
    AdminServices,
    AdminSettings,
    ConnectionTest,
    CORSSettings,
    Explanation,
    MachineKey,
    MachineSettings,
)
from trustgate.app.announce import Announcer
from trustgate.app.decisions import decision_file
from trustgate.app.explaining import compared, explanation_of
from trustgate.app.feed import connections_of
from trustgate.app.leftovers import Leftovers
from trustgate.app.links import Links
from trustgate.app.observer import TRACE_KEY
from trustgate.app.parts import Parts
from trustgate.app.readiness import Readiness
from trustgate.domain.commands import Command
from trustgate.domain.entities import GatewayState, Registry
from trustgate.mcp.answers import RpcError, Unavailable
from trustgate.mcp.catalog import servers
from trustgate.mcp.upstream import list_tools
from trustgate.policies import registry as policies
from trustgate.providers.bedrock_models import BedrockAvailability
from trustgate.providers.catalog import providers_catalog
from trustgate.providers.probe import Inline, probe
from trustgate.settings import Settings
from trustgate.settings.secret_keys import parse_public_keys
from trustgate.telemetry.logs import access_log
from trustgate.telemetry.metrics import Metrics

Json = dict[str, Any]

log = structlog.get_logger("trustgate.app")


def admin_settings(settings: Settings, secret_key: str) -> AdminSettings:
    admin, cors = settings.admin, settings.cors
    found, warnings = parse_public_keys(admin.m2m_public_keys)
    for warning in warnings:
        log.warning(warning.message, key=warning.key)
    return AdminSettings(
        secret_key=secret_key.encode(),
        version=settings.app.version,
        gateway_base_domain=settings.server.gateway_base_domain,
        mcp_base_domain=settings.server.mcp_base_domain,
        platform_claim_required=admin.platform_claim_required,
        require_exp=admin.require_exp,
        machine=MachineSettings(
            issuer=admin.m2m_issuer,
            audience=admin.m2m_audience,
            keys=tuple(MachineKey(key.pem, key.kid or None) for key in found),
            max_token_ttl_s=admin.m2m_max_token_ttl_s,
        ),
        cors=CORSSettings(
            allow_origins=cors.allow_origins,
            allow_methods=cors.allow_methods,
            allow_headers=cors.allow_headers,
            expose_headers=cors.expose_headers,
            allow_credentials=cors.allow_credentials,
            max_age=cors.max_age,
        ),
        max_body_bytes=settings.server.max_body_bytes,
        body_timeout_s=settings.server.read_timeout_s,
        trusted_proxies=settings.server.trusted_proxies,
    )


@asynccontextmanager
async def open_admin(parts: Parts, follower: Follower | None, readiness: Readiness) -> AsyncIterator[Any]:
    """The admin application over a running control plane."""
    settings = parts.settings
    redis = parts.shared.redis
    announce = Announcer(redis, settings.redis.event_channel) if redis is not None else None
    leftovers = Leftovers(parts.store, redis)

    async def committed(command: Command, executed: Executed) -> None:
        try:
            if announce is not None:
                await announce(command, executed)
        finally:
            await leftovers(command, executed)

    control = ControlPlane(
        parts.store,
        parts.catalog,
        follower,
        limits_enabled=settings.upstream.plan_rate_limit_enabled,
        barrier_timeout_s=settings.app.config_barrier_timeout_s,
        after_commit=committed,
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(control.running())
        background = await stack.enter_async_context(trio.open_nursery())
        stack.callback(background.cancel_scope.cancel)
        background.start_soon(parts.models.run, parts.providers, settings.upstream.models_dev_base_url, catalog_report)
        archive, notary = Archive(parts.store), Notary(parts.store, settings.audit.checkpoint_interval_s)
        background.start_soon(archive.run)
        background.start_soon(notary.run)
        yield create_app(control, admin_services(parts, control, readiness, archive, notary))


GROUPS = (
    ("admin.gateways", ("/v1/gateways",)),
    ("admin.catalog", tuple(f"/v1/{name}-catalog" for name in ("providers", "models", "policies", "mcp-servers"))),
    ("admin.config_sync", ("/v1/config-sync",)),
    ("admin.docs", ("/docs",)),
    ("version", ("/__/version",)),
    ("health", ("/healthz", "/health", "/readyz")),
)


def group_of(path: str) -> str:
    """The route name of the operators' metrics (spec 06 §8)."""
    lowered = path.lower()
    for name, prefixes in GROUPS:
        if any(lowered == prefix or lowered.startswith(prefix + "/") for prefix in prefixes):
            return name
    return "other"


def observe(metrics: Metrics, method: str, path: str, status: int, seconds: float) -> None:
    metrics.http("admin", group_of(path), template(method, path), method, status, seconds)


def catalog_report(result: int | Exception) -> None:
    """The model catalog works without the network: a failed refresh is worth a line, not more."""
    if isinstance(result, int):
        log.info("catalog sync completed", models=result)
    else:
        log.warning("catalog sync failed, the shipped catalog serves", error=type(result).__name__)


def admin_services(
    parts: Parts, control: ControlPlane, readiness: Readiness, archive: Archive, notary: Notary
) -> AdminServices:
    bedrock = BedrockAvailability(parts.providers)

    async def list_models(provider: str | None, registry: Registry | None) -> Sequence[Json]:
        rows = parts.models.items(provider or "")
        target = registry.llm_target if registry is not None else None
        if provider != "bedrock" or target is None or target.provider != "bedrock":
            return rows
        return await bedrock.filter(Inline(target.provider, target.provider_options, target.auth or {}), rows)

    async def test_connection(test: ConnectionTest) -> Json:
        return await probe(parts.providers, Inline(test.provider, test.provider_options, test.auth))

    async def registry_tools(registry: Registry) -> Sequence[Json]:
        target = registry.mcp_target
        assert target is not None, "only MCP registries have tools"
        try:
            return await list_tools(parts.pool, target)
        except (Unavailable, RpcError) as error:
            raise UpstreamUnavailable(str(error)) from error

    async def health(registry_id: str) -> Json:
        status = await parts.health.status(registry_id)
        at = datetime.fromtimestamp(status.last_check, UTC).isoformat() if status.last_check else None
        return {"healthy": status.healthy, "failures": status.failures} | (
            {"last_check": at.replace("+00:00", "Z"), "last_error": status.last_error} if at else {}
        )

    async def playground_trace(trace_id: str) -> Json | None:
        if not parts.settings.telemetry.playground_traces:
            return None
        data = await parts.shared.state.get(TRACE_KEY + trace_id)
        return msgspec.json.decode(data, type=dict[str, Any]) if data is not None else None

    decisions = decision_file(parts.settings)

    async def explanation(trace_id: str) -> Explanation | None:
        return await explanation_of(parts.store, decisions, trace_id)

    async def forecast(before: GatewayState, after: GatewayState, from_s: float, to_s: float) -> Json:
        work = partial(compared, decisions, before, after, parts.models.prices, from_s, to_s)
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True)

    async def dependencies() -> Mapping[str, str]:
        return readiness.now()

    links = Links(parts)
    return AdminServices(
        settings=admin_settings(parts.settings, parts.secret_key),
        catalog=parts.catalog,
        providers_catalog=providers_catalog,
        models_catalog=list_models,
        policies_catalog=policies.catalog,
        policy_groups=policies.groups,
        mcp_servers_catalog=servers,
        probe=test_connection,
        registry_tools=registry_tools,
        health=health,
        playground_trace=playground_trace,
        config_sync_connections=partial(connections_of, parts.store, control),
        archive=archive,
        notary=notary,
        explanation=explanation,
        forecast=forecast,
        keeps_decisions=parts.settings.explain.enabled,
        readiness=dependencies,
        draining=lambda: readiness.draining,
        links=links.all,
        unlink=links.delete,
        access_log=access_log(),
        observe=partial(observe, parts.metrics) if parts.metrics.ops else None,
    )
