"""The admin plane's parts without its listener, for commands that work on this environment's store themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import trio

from trustgate.actors.archive import Archive
from trustgate.actors.control import ControlPlane
from trustgate.actors.notary import Notary
from trustgate.admin.answers import ObjectChange
from trustgate.admin.exchange import Call
from trustgate.admin.handlers.plan import PlanAnswer, planned
from trustgate.admin.lists import Query
from trustgate.admin.rendering import GatewayRenderer
from trustgate.admin.services import AdminServices
from trustgate.admin.tokens import Identity
from trustgate.admin.trail import Trail
from trustgate.app.admin_plane import admin_services
from trustgate.app.decisions import decision_file
from trustgate.app.explaining import compared
from trustgate.app.parts import Parts, open_parts
from trustgate.app.readiness import Readiness
from trustgate.domain.entities import GatewayState
from trustgate.domain.errors import DomainError
from trustgate.settings import Settings
from trustgate.telemetry.metrics import Metrics

ADMIN = frozenset({"admin"})

Json = dict[str, Any]
Told = Callable[[int, int], None]
"""Told how many decisions have just been looked at, and how many there are in all."""


class Offline(msgspec.Struct, eq=False):
    """What such a command works with."""

    parts: Parts
    control: ControlPlane
    services: AdminServices
    render_gateway: GatewayRenderer

    async def gateway(self, name: str) -> GatewayState:
        """The gateway of that id or slug. Raises `DomainError` 404."""
        directory = await self.control.directory()
        found = await self.control.state(directory.slugs.get(name.strip().lower(), name.strip().lower()))
        if found is None:
            raise DomainError(404, "not_found", f"there is no gateway {name!r}")
        return found

    def difference(self, before: GatewayState, after: GatewayState) -> list[ObjectChange]:
        """What differs, as the audit trail shows it."""
        return Trail(self.render_gateway, self.parts.store.fingerprint).difference(before, after)

    async def forecast(self, before: GatewayState, after: GatewayState, from_s: float, to_s: float, told: Told) -> Json:
        """What recorded requests would have met, with progress."""
        file = decision_file(self.parts.settings)
        total = await trio.to_thread.run_sync(file.count, int(from_s * 1000), int(to_s * 1000))
        told(0, total)
        prices = self.parts.models.prices
        work = partial(compared, file, before, after, prices, from_s, to_s, lambda count: told(count, total))
        return await trio.to_thread.run_sync(work)


@asynccontextmanager
async def offline(settings: Settings) -> AsyncIterator[Offline]:
    """A running control plane over the store of these settings."""
    metrics = Metrics(settings.app.version, ops=False)
    async with open_parts(settings, ADMIN, metrics) as parts:
        control = ControlPlane(
            parts.store,
            parts.catalog,
            limits_enabled=settings.upstream.plan_rate_limit_enabled,
            barrier_timeout_s=settings.app.config_barrier_timeout_s,
        )
        readiness = Readiness(parts.store, parts.shared, embedded=settings.embedded(ADMIN))
        services = admin_services(parts, control, readiness, Archive(parts.store), Notary(parts.store, 0.0))
        server = settings.server
        renderer = GatewayRenderer(settings.app.version, server.gateway_base_domain, server.mcp_base_domain)
        async with control.running():
            yield Offline(parts, control, services, renderer)


async def plan_of(settings: Settings, name: str, request: Json, actor: str, told: Told) -> PlanAnswer:
    """`POST /v1/gateways/{id}/plan` as a platform identity. Raises `DomainError`."""
    async with offline(settings) as here:
        state = await here.gateway(name)
        assert state.gateway is not None

        async def forecast(before: GatewayState, after: GatewayState, from_s: float, to_s: float) -> Json:
            return await here.forecast(before, after, from_s, to_s, told)

        here.services.forecast = forecast
        call = Call(
            control=here.control,
            services=here.services,
            render_gateway=here.render_gateway,
            method="POST",
            path=f"/v1/gateways/{state.gateway.id}/plan",
            query=Query(b""),
            headers={"content-type": "application/json"},
            body=msgspec.json.encode(request),
            request_id="",
            identity=Identity(kind="platform", actor=actor),
            params={"gateway_id": state.gateway.id},
            state=state,
        )
        return await planned(call)
