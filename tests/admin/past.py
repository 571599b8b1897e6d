"""The admin plane over the real control plane, archive and notary, for tests of history on both databases."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec

from tests.admin.catalog import plugin_catalog, services, settings
from tests.admin.serving import SECRET, console_token
from trustgate.actors import ControlPlane
from trustgate.actors.archive import Archive
from trustgate.actors.notary import Notary
from trustgate.admin.app import create_app
from trustgate.store import EventStore, PostgresConfig, open_store

Target = pathlib.Path | PostgresConfig
PLAN = {"tier": "free", "burst_per_min": 60, "quota_per_month": 0, "max_instances": 0}


def bearer(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {console_token(**claims)}"}


class Plane(msgspec.Struct):
    """A client of the application itself, for the platform unless told otherwise, and what is behind it."""

    client: httpx.AsyncClient
    store: EventStore
    control: ControlPlane

    async def ask(self, method: str, path: str, body: Any = None, tenant: str = "", **headers: str) -> httpx.Response:
        given = bearer(tenant_id=tenant, user_id=f"user-of-{tenant}") if tenant else {}
        return await self.client.request(method, path, json=body, headers={**given, **headers})

    async def made(self, path: str, body: Any, tenant: str = "", **headers: str) -> dict[str, Any]:
        answer = await self.ask("POST", path, body, tenant, **headers)
        assert answer.status_code in (200, 201, 204), answer.text
        return answer.json() if answer.content else {}

    async def got(self, path: str, tenant: str = "") -> Any:
        answer = await self.ask("GET", path, None, tenant)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def gateway(self, slug: str, tenant: str = "t") -> str:
        """The path of a new gateway."""
        created = await self.made("/v1/gateways", {"slug": slug, "tenant_id": tenant, "entitlements": PLAN})
        return f"/v1/gateways/{created['id']}"


@asynccontextmanager
async def plane(target: Target, **changes: Any) -> AsyncIterator[Plane]:
    """`changes` are those of the plane's settings."""
    async with open_store(target, SECRET) as store, ControlPlane(store, plugin_catalog()).running() as control:
        given = services(archive=Archive(store), notary=Notary(store), settings=settings(**changes))
        app: Any = create_app(control, given)
        transport = httpx.ASGITransport(app, client=("192.0.2.7", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://admin", headers=bearer()) as client:
            yield Plane(client, store, control)
