"""The history of a gateway: the log of its events, shown without secrets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.admin.catalog import plugin_catalog, services
from tests.admin.serving import SECRET, console_token
from trustgate.actors import ControlPlane
from trustgate.admin.app import create_app
from trustgate.domain import events as ev
from trustgate.store import gateway_stream, open_store

PLAN = {"tier": "free", "burst_per_min": 60, "quota_per_month": 0, "max_instances": 0}


@asynccontextmanager
async def plane(file: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with open_store(file, SECRET) as store, ControlPlane(store, plugin_catalog()).running() as control:

        async def history(gateway_id: str, after_version: int, limit: int) -> Sequence[tuple[int, ev.Event]]:
            recorded = await store.read(gateway_stream(gateway_id), after_version, limit)
            return [(entry.version, ev.decode(entry.data, entry.position)) for entry in recorded]

        transport = httpx.ASGITransport(create_app(control, services(history=history)))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://admin", headers=bearer()) as client:
            yield client


def bearer(**claims: object) -> dict[str, str]:
    return {"Authorization": f"Bearer {console_token(**claims)}"}


async def test_every_change_is_listed_with_its_author_newest_first(tmp_path: Path) -> None:
    async with plane(tmp_path / "t.db") as client:
        created = await client.post("/v1/gateways", json={"slug": "one", "tenant_id": "t", "entitlements": PLAN})
        gateway = f"/v1/gateways/{created.json()['id']}"
        author = {**bearer(tenant_id="t", user_id="u", user_email="a@b.c"), "X-AG-Change-Reason": "ticket 7"}
        consumer = (await client.post(f"{gateway}/consumers", json={"name": "c"}, headers=author)).json()
        auth = (await client.post(f"{gateway}/auths", json={"name": "k", "type": "api_key"})).json()
        await client.post(f"{gateway}/consumers/{consumer['id']}/auths/{auth['id']}")
        listed = (await client.get(f"{gateway}/history")).json()
        assert [entry["event"] for entry in listed["items"]] == [
            "AuthAttached",
            "AuthCreated",
            "ConsumerCreated",
            "GatewayCreated",
        ]
        assert (listed["total"], [entry["version"] for entry in listed["items"]]) == (4, [4, 3, 2, 1])
        attached, keyed, made, _ = listed["items"]
        assert attached["members"] == {"consumer_id": consumer["id"], "auth_id": auth["id"]}
        assert made["object"] == consumer
        assert (made["actor"], made["actor_email"], made["tenant_id"], made["reason"]) == (
            "u",
            "a@b.c",
            "t",
            "ticket 7",
        )
        assert "api_key" not in keyed["object"]
        second = (await client.get(f"{gateway}/history?size=3&page=2")).json()
        assert [entry["version"] for entry in second["items"]] == [1]
        assert (await client.get(f"{gateway}/history?size=3&page=3")).json()["items"] == []
        assert (await client.get(f"{gateway}/history", headers=bearer(tenant_id="other"))).status_code == 404


async def test_secrets_and_digests_are_not_part_of_it(tmp_path: Path) -> None:
    async with plane(tmp_path / "t.db") as client:
        created = await client.post("/v1/gateways", json={"slug": "one", "tenant_id": "t", "entitlements": PLAN})
        gateway = f"/v1/gateways/{created.json()['id']}"
        auth = (await client.post(f"{gateway}/auths", json={"name": "k", "type": "api_key"})).json()
        oauth = {
            "token_url": "https://i.example/t",
            "grant_type": "password",
            "username": "someone",
            "password": "plain",
        }
        body = {"name": "r", "provider": "openai", "auth": {"type": "oauth2", "oauth": oauth}}
        assert (await client.post(f"{gateway}/registries", json=body)).status_code == 201
        text = (await client.get(f"{gateway}/history")).text
        assert auth["api_key"] not in text
        assert not any(hidden in text for hidden in ("key_hash", "$secret", "plain", "someone"))
