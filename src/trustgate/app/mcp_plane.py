"""The MCP plane of a process: its services, built from settings, and its application."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import trio

from trustgate.app.mcp_observer import McpObserver
from trustgate.app.oauth_parts import open_oauth
from trustgate.app.observer import EventObserver
from trustgate.app.parts import Parts, pool_config
from trustgate.app.readiness import Readiness
from trustgate.app.views import CatchUp, Views
from trustgate.identity.mcp import authenticate
from trustgate.mcp.app import McpApp
from trustgate.mcp.attendance import Attendances
from trustgate.mcp.discovery import Discovery
from trustgate.mcp.ears import Ears
from trustgate.mcp.hub import Hub
from trustgate.mcp.links import Links
from trustgate.mcp.locate import AllowedHosts, BaseUrls, host_of
from trustgate.mcp.runtime import Runtimes
from trustgate.mcp.services import McpConfig, McpServices
from trustgate.mcp.sessions import Sessions
from trustgate.policies.cors import Cors, CorsSettings
from trustgate.policies.engine import compile_chain
from trustgate.providers.guard import is_public
from trustgate.settings import Settings
from trustgate.wire.client import Pool
from trustgate.wire.clients import networks


def mcp_config(settings: Settings) -> McpConfig:
    return McpConfig(
        version=settings.app.version,
        max_body_bytes=settings.server.max_body_bytes,
        plan_limit=settings.upstream.plan_rate_limit_enabled,
        telemetry=settings.telemetry.enabled,
    )


EXPOSED = ("WWW-Authenticate", "Mcp-Session-Id", "X-AG-Trace-Id")
"""Headers of answers that browser clients of MCP cannot do without."""


def mcp_cors(settings: Settings) -> Cors | None:
    cors = settings.cors
    if not cors.allow_origins:
        return None
    exposed = dict.fromkeys((*cors.expose_headers, *EXPOSED))
    return Cors(
        CorsSettings(
            origins=cors.allow_origins,
            methods=cors.allow_methods,
            headers=(*cors.allow_headers, "X-AG-API-Key", "Mcp-Session-Id", "Mcp-Protocol-Version", "Last-Event-ID"),
            expose_headers=tuple(exposed),
            credentials=cors.allow_credentials,
            max_age_s=int(cors.max_age) if cors.max_age.isdigit() else 600,
        )
    )


def allowed_hosts(settings: Settings) -> AllowedHosts | None:
    mcp = settings.mcp
    if not mcp.allowed_hosts:
        return None
    return AllowedHosts((*mcp.allowed_hosts, *([host_of(mcp.public_base_url)] if mcp.public_base_url else ())))


def sessions_of(parts: Parts) -> Sessions:
    mcp = parts.settings.mcp
    return Sessions(parts.shared.state, mcp.session_ttl_s if mcp.sessions else 0.0, parts.now)


@asynccontextmanager
async def upstream_pool(parts: Parts) -> AsyncIterator[Pool]:
    """The process's pool, or one of its own that connects to public addresses only."""
    if not parts.settings.mcp.public_only:
        yield parts.pool
        return
    async with Pool(msgspec.structs.replace(pool_config(parts.settings), admits=is_public)) as pool:
        yield pool


@asynccontextmanager
async def open_mcp(
    parts: Parts, views: Views, catch_up: CatchUp, observer: EventObserver, readiness: Readiness
) -> AsyncIterator[McpApp]:
    """The MCP application; its background tasks live as long as the context."""
    settings = parts.settings
    trusted = networks(settings.mcp.trusted_proxies)
    base_urls = BaseUrls(settings.mcp.public_base_url, trusted)

    async with (
        open_oauth(parts, views, base_urls, catch_up) as oauth,
        upstream_pool(parts) as pool,
        trio.open_nursery() as background,
    ):
        links = Links(pool, oauth.credentials, background)
        background.start_soon(links.run)
        hub = Hub(parts.shared.state, parts.shared.bus)
        background.start_soon(hub.run)
        discovery = Discovery(links, background, time.monotonic, settings.mcp.discovery_timeout_s)
        sessions = sessions_of(parts)
        attendances = Attendances(sessions, hub, Ears(links, discovery, hub, background), background)
        background.start_soon(attendances.run)
        runtimes = Runtimes(lambda consumer, gateway: compile_chain(consumer, gateway, parts.policies, "MCP"))
        views.watch(runtimes)
        try:
            yield McpApp(
                McpServices(
                    config=mcp_config(settings),
                    directory=views.directory,
                    catch_up=catch_up,
                    base_urls=base_urls,
                    authenticate=partial(authenticate, oauth.identity),
                    links=links,
                    discovery=discovery,
                    runtimes=runtimes,
                    limits=parts.shared.limits,
                    count=parts.policies.count,
                    observer=McpObserver(observer, parts.metrics, policies=settings.telemetry.plugin_traces),
                    background=background,
                    readiness=readiness,
                    pages=oauth.pages,
                    sessions=sessions,
                    hub=hub,
                    attendances=attendances,
                    cors=mcp_cors(settings),
                    allowed_hosts=allowed_hosts(settings),
                    trusted_proxies=networks(settings.server.trusted_proxies),
                    now=time.time,
                )
            )
        finally:
            background.cancel_scope.cancel()
