"""The admin plane over the real control plane and an SQLite file: what was written is there after a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

from tests.admin.catalog import plugin_catalog, services
from tests.admin.serving import SECRET, console_token
from trustgate.actors import ControlPlane
from trustgate.admin.app import create_app
from trustgate.admin.services import ConnectionTest
from trustgate.store import open_store


@asynccontextmanager
async def plane(file: Path, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application itself; no socket."""
    async with open_store(file, SECRET) as store, ControlPlane(store, plugin_catalog()).running() as control:
        app: Any = create_app(control, services(**changes))
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": f"Bearer {console_token()}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://admin", headers=headers) as client:
            yield client


async def test_configuration_and_secrets_survive_a_restart(tmp_path: Path) -> None:
    probed: list[ConnectionTest] = []

    async def probe(test: ConnectionTest) -> dict[str, Any]:
        probed.append(test)
        return {"ok": True, "stage": "authentication", "latency_ms": 1}

    plan = {"tier": "free", "burst_per_min": 60, "quota_per_month": 0, "max_instances": 0}
    auth = {"type": "api_key", "api_key": {"api_key": "sk-plain-secret-0001"}}
    async with plane(tmp_path / "t.db") as client:
        created = await client.post("/v1/gateways", json={"slug": "kept", "tenant_id": "t", "entitlements": plan})
        gateway = f"/v1/gateways/{created.json()['id']}"
        body = {"name": "one", "provider": "openai", "auth": auth}
        registry = (await client.post(f"{gateway}/registries", json=body)).json()
    assert b"sk-plain-secret" not in (tmp_path / "t.db").read_bytes()
    async with plane(tmp_path / "t.db", probe=probe) as client:
        assert (await client.get(f"{gateway}/registries/{registry['id']}")).json() == registry
        assert registry["auth"]["api_key"]["api_key"] == "***0001"
        await client.post(f"{gateway}/registries/test-connection", json={"registry_id": registry["id"]})
    assert probed[0].auth == auth


async def test_concurrent_writes_are_all_kept(tmp_path: Path) -> None:
    plan = {"tier": "free", "burst_per_min": 60, "quota_per_month": 0, "max_instances": 0}
    async with plane(tmp_path / "t.db") as client:
        created = await client.post("/v1/gateways", json={"slug": "busy", "tenant_id": "t", "entitlements": plan})
        roles = f"/v1/gateways/{created.json()['id']}/roles"
        statuses: list[int] = []

        async def create(name: str) -> None:
            statuses.append((await client.post(roles, json={"name": name})).status_code)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(create, f"r{number % 10}")
        assert sorted(statuses) == [201] * 10 + [409] * 10
        assert (await client.get(roles)).json()["total"] == 10


async def test_of_two_writes_for_one_version_only_one_is_kept(tmp_path: Path) -> None:
    plan = {"tier": "free", "burst_per_min": 60, "quota_per_month": 0, "max_instances": 0}
    async with plane(tmp_path / "t.db") as client:
        created = await client.post("/v1/gateways", json={"slug": "one", "tenant_id": "t", "entitlements": plan})
        gateway, seen = f"/v1/gateways/{created.json()['id']}", created.headers["etag"]
        answers: list[httpx.Response] = []

        async def change(status: str) -> None:
            answers.append(await client.put(gateway, json={"status": status}, headers={"If-Match": seen}))

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(change, f"s{number}")
        assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7
        (kept,) = [answer.json()["status"] for answer in answers if answer.status_code == 200]
        assert (await client.get(gateway)).json()["status"] == kept
