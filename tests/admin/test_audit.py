"""The audit trail: who changed what, when, from where and why; filters, paging, exports, and who may read it."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.admin.past import PLAN, Plane, Target, plane
from trustgate.actors.archive import Archive, IndexBehind
from trustgate.admin.services import MachineKey, MachineSettings
from trustgate.store import AuditFilter

ALL = [f"{kind}:read" for kind in ("gateways", "registries", "consumers", "roles", "auths", "policies")]
KEY = {"type": "api_key", "api_key": {"api_key": "sk-first-secret-0001"}}
NEW_KEY = {"type": "api_key", "api_key": {"api_key": "sk-second-secret-0002"}}


async def furnished(at: Plane) -> tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A gateway with a registry, a consumer bound to it, and an API key that is attached and rotated."""
    gateway = await at.gateway("one")
    registry = await at.made(f"{gateway}/registries", {"name": "r", "provider": "openai", "auth": KEY}, "t")
    consumer = await at.made(f"{gateway}/consumers", {"name": "c"}, "t", **{"X-AG-Change-Reason": "ticket 7"})
    auth = await at.made(f"{gateway}/auths", {"name": "k", "type": "api_key"}, "t")
    await at.made(f"{gateway}/consumers/{consumer['id']}/registries/{registry['id']}", {"weight": 3}, "t")
    await at.made(f"{gateway}/consumers/{consumer['id']}/auths/{auth['id']}", None, "t")
    return gateway, registry, consumer, auth


async def test_an_entry_tells_who_when_where_why_and_what(target: Target) -> None:
    async with plane(target) as at:
        gateway, _, consumer, _ = await furnished(at)
        items = (await at.got(f"{gateway}/audit"))["items"]
        assert [item["event"] for item in items] == [
            "AuthAttached", "RegistryAttached", "AuthCreated", "ConsumerCreated", "RegistryCreated", "GatewayCreated",
        ]  # fmt: skip
        made = items[3]
        assert made["changes"] == [{"path": "", "before": None, "after": consumer}]
        expected = {
            "version": 3,
            "command": "CreateConsumer",
            "object_type": "consumer",
            "object_id": consumer["id"],
            "object_name": "c",
            "tenant_id": "t",
            "actor": "user-of-t",
            "source": "admin-api",
            "address": "192.0.2.7",
            "reason": "ticket 7",
        }
        assert {name: made[name] for name in expected} == expected
        assert made["time"] == consumer["created_at"] and made["request_id"]
        assert made["previous"] == items[4]["hash"] and items[5]["previous"] == "0" * 64


async def test_changes_are_shown_member_by_member(target: Target) -> None:
    async with plane(target) as at:
        gateway, registry, consumer, auth = await furnished(at)
        await at.ask("PUT", f"{gateway}/registries/{registry['id']}", {"description": "new", "auth": NEW_KEY})
        updated, attached, bound = (await at.got(f"{gateway}/audit?size=3"))["items"]
        assert attached["changes"] == [{"path": "auth_ids", "before": [], "after": [auth["id"]]}]
        assert [change["path"] for change in bound["changes"]] == ["registry_ids", "registry_weights"]
        assert bound["changes"][1]["after"] == [{"registry_id": registry["id"], "weight": 3}]
        assert (bound["object_type"], bound["object_id"]) == ("consumer", consumer["id"])
        changes = {change["path"]: change for change in updated["changes"]}
        assert changes.keys() == {"auth.api_key.api_key", "description", "updated_at"}
        secret = changes["auth.api_key.api_key"]
        assert secret["before"].startswith("***0001 (fingerprint ") and secret["after"].startswith("***0002 (")
        deleted = await at.ask("DELETE", gateway)
        assert deleted.status_code == 204
        (gone,) = (await at.got(f"{gateway}/audit?size=1"))["items"]
        assert (gone["event"], gone["changes"][0]["before"]["slug"], gone["changes"][0]["after"]) == (
            "GatewayDeleted",
            "one",
            None,
        )


async def test_secrets_and_digests_show_as_fingerprints_only(target: Target) -> None:
    async with plane(target) as at:
        gateway, _, _, auth = await furnished(at)
        oauth = {"token_url": "https://i.example/t", "grant_type": "password", "username": "someone", "password": "pw"}
        body = {"name": "o", "provider": "openai", "auth": {"type": "oauth2", "oauth": {**oauth, "password": "plain"}}}
        hidden = await at.made(f"{gateway}/registries", body)
        body["auth"]["oauth"]["password"] = "other"  # type: ignore[index]
        await at.ask("PUT", f"{gateway}/registries/{hidden['id']}", body)
        rotated = (await at.ask("POST", f"{gateway}/auths/{auth['id']}/rotate")).json()
        text = (await at.ask("GET", f"{gateway}/audit?size=200")).text
        for secret in (auth["api_key"], rotated["api_key"], "key_hash", "$secret", "plain", "someone", "sk-first"):
            assert secret not in text
        rotation, update = json.loads(text)["items"][:2]
        assert "hidden.api_key" in {change["path"] for change in rotation["changes"]}
        (password,) = (change for change in update["changes"] if "password" in change["path"])
        assert password["before"] != password["after"] and password["before"].startswith("fingerprint ")


@pytest.mark.parametrize(
    ("query", "events"),
    [
        ("object_type=auth", ["AuthCreated"]),
        ("object_type=consumer", ["AuthAttached", "RegistryAttached", "ConsumerCreated"]),
        ("object_type=consumer&type=ConsumerCreated,ConsumerDeleted", ["ConsumerCreated"]),
        ("type=GatewayCreated", ["GatewayCreated"]),
        ("object_id={auth}", ["AuthAttached", "AuthCreated"]),
        ("object_id={consumer}&order=asc", ["ConsumerCreated", "RegistryAttached", "AuthAttached"]),
        ("actor=admin", ["GatewayCreated"]),
        ("actor=nobody", []),
        ("from={time}", ["AuthAttached", "RegistryAttached", "AuthCreated", "ConsumerCreated"]),
        ("to={time}", ["RegistryCreated", "GatewayCreated"]),
        ("from={time}&to={time}", []),
    ],
)
async def test_filters(target: Target, query: str, events: list[str]) -> None:
    async with plane(target) as at:
        gateway, _, consumer, auth = await furnished(at)
        asked = query.format(auth=auth["id"], consumer=consumer["id"], time=consumer["created_at"])
        for path in (f"{gateway}/audit", "/v1/audit"):
            assert [item["event"] for item in (await at.got(f"{path}?{asked}"))["items"]] == events


@pytest.mark.parametrize(
    "query",
    ["type=Nothing", "object_type=thing", "object_type=auth&type=RoleCreated", "from=yesterday", "to=2026-01-01",
     "cursor=x", "cursor=cGFi", "cursor=cDEyMzQ1Njc4OTAxMjM0NTY3ODkw", "order=up", "format=xml", "as_of=1",
     "from=2026-02-30T00:00:00Z"],
)  # fmt: skip
async def test_bad_queries_are_refused(target: Target, query: str) -> None:
    async with plane(target) as at:
        gateway = await at.gateway("one")
        answer = await at.ask("GET", f"{gateway}/audit?{query}")
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_query")


async def test_pages_do_not_shift_when_something_happens_meanwhile(target: Target) -> None:
    async with plane(target) as at:
        gateway, *_ = await furnished(at)
        everything = [item["position"] for item in (await at.got(f"{gateway}/audit"))["items"]]
        seen: list[int] = []
        cursor = ""
        for number in range(10):
            page = await at.got(f"{gateway}/audit?size=2&cursor={cursor}")
            seen += [item["position"] for item in page["items"]]
            await at.made(f"{gateway}/roles", {"name": f"r{number}"})
            cursor = page["next"]
            if cursor is None:
                break
        assert seen == everything


async def test_exports_hold_everything_that_is_wanted(target: Target) -> None:
    async with plane(target) as at:
        gateway, *_ = await furnished(at)
        await at.made(f"{gateway}/roles", {"name": "=cmd|' /C calc'!A0"})
        listed = (await at.got(f"{gateway}/audit"))["items"]
        lines = await at.ask("GET", f"{gateway}/audit?format=jsonl")
        assert lines.headers["content-type"] == "application/x-ndjson"
        assert [json.loads(line) for line in lines.text.splitlines()] == listed
        first = await at.ask("GET", f"{gateway}/audit?format=jsonl&size=5&order=asc")
        rest = await at.ask("GET", f"{gateway}/audit?format=jsonl&order=asc&cursor={first.headers['x-ag-next-cursor']}")
        assert [json.loads(line) for line in (first.text + rest.text).splitlines()] == listed[::-1]
        table = await at.ask("GET", f"{gateway}/audit?format=csv")
        rows = list(csv.DictReader(io.StringIO(table.text)))
        assert [row["hash"] for row in rows] == [item["hash"] for item in listed]
        assert rows[0]["object_name"] == "'=cmd|' /C calc'!A0"
        assert json.loads(rows[1]["changes"]) == listed[1]["changes"]


async def test_a_tenant_sees_its_own_gateways_alone_also_deleted_ones(target: Target) -> None:
    async with plane(target) as at:
        mine, other = await at.gateway("mine", "t"), await at.gateway("other", "u")
        await at.ask("DELETE", mine)
        assert (await at.ask("GET", mine, None, "t")).status_code == 404
        assert [item["event"] for item in (await at.got(f"{mine}/audit", "t"))["items"]] == [
            "GatewayDeleted",
            "GatewayCreated",
        ]
        assert {item["gateway_id"] for item in (await at.got("/v1/audit", "t"))["items"]} == {mine.split("/")[-1]}
        assert (await at.got(f"/v1/audit?tenant_id=u&gateway_id={other.split('/')[-1]}", "t"))["items"] == []
        for question in (f"{other}/audit", f"{other}/versions", f"{other}/diff?from=1", f"{other}?as_of=1"):
            assert (await at.ask("GET", question, None, "t")).status_code == 404
        assert (await at.ask("POST", f"{other}/revert", {"to": 1}, "t")).status_code == 404
        assert (await at.ask("GET", "/v1/gateways/abcdef00-1111-4111-8111-111111111111/audit")).status_code == 404
        assert len((await at.got("/v1/audit"))["items"]) == 3
        assert len((await at.got("/v1/audit?tenant_id=u"))["items"]) == 1


async def test_checkpoints_are_made_on_demand_by_the_platform(target: Target) -> None:
    async with plane(target) as at:
        await at.gateway("one")
        first = await at.ask("POST", "/v1/audit/checkpoints")
        again = await at.ask("POST", "/v1/audit/checkpoints")
        assert (first.status_code, first.json()["number"]) == (201, 1)
        assert again.json() == first.json()
        await at.gateway("two")
        second = (await at.ask("POST", "/v1/audit/checkpoints")).json()
        listed = await at.got("/v1/audit/checkpoints")
        assert listed["items"] == [first.json(), second]
        assert second["previous"] == first.json()["id"]
        assert (await at.got("/v1/audit/checkpoints?after=1"))["items"] == [second]
        for method in ("GET", "POST"):
            assert (await at.ask(method, "/v1/audit/checkpoints", None, "t")).status_code == 403


async def test_a_machine_reads_the_trail_of_its_gateway_when_it_may_read_all_objects(target: Target) -> None:
    private = generate_private_key(65537, 2048)
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    machines = MachineSettings(issuer="https://m.example", keys=(MachineKey(pem),))
    async with plane(target, machine=machines) as at:
        gateway, other = await at.gateway("one"), await at.gateway("two")

        async def status(path: str, scopes: list[str]) -> int:
            claims = {"iss": "https://m.example", "aud": "trustgate-admin", "token_use": "admin_m2m", "sub": "m"}
            claims |= {"tenant_id": "t", "gateway_id": gateway.split("/")[-1], "scopes": scopes}  # type: ignore[dict-item]
            claims |= {"iat": int(time.time()) - 1, "exp": int(time.time()) + 60}  # type: ignore[dict-item]
            token = jwt.encode(claims, private, algorithm="RS256")
            return (await at.ask("GET", path, Authorization=f"Bearer {token}")).status_code

        for path in ("audit", "versions", "diff?from=1"):
            assert await status(f"{gateway}/{path}", ALL) == 200
            assert await status(f"{gateway}/{path}", ALL[1:]) == 403
            assert await status(f"{other}/{path}", ALL) == 403
        assert await status(f"{gateway}/roles?as_of=1", ["roles:read"]) == 200
        assert await status(f"{gateway}/roles?as_of=1", ["auths:read"]) == 403
        assert await status("/v1/audit", ALL) == 403


@pytest.mark.parametrize(
    ("trusted", "forwarded", "address"),
    [
        ((), "198.51.100.1", "192.0.2.7"),
        (("192.0.2.0/24",), "198.51.100.1", "198.51.100.1"),
        (("192.0.2.0/24", "10.0.0.0/8"), "203.0.113.9, 198.51.100.1, 10.1.1.1", "198.51.100.1"),
        (("192.0.2.0/24",), "", "192.0.2.7"),
        (("192.0.2.0/24",), "not an address", "not an address"),
    ],
)
async def test_the_address_is_the_client_s_only_where_proxies_are_trusted(
    tmp_path: Path, trusted: tuple[str, ...], forwarded: str, address: str
) -> None:
    async with plane(tmp_path / "t.db", trusted_proxies=trusted) as at:
        body = {"slug": "one", "tenant_id": "t", "entitlements": PLAN}
        await at.made("/v1/gateways", body, **({"X-Forwarded-For": forwarded} if forwarded else {}))
        assert (await at.got("/v1/audit"))["items"][0]["address"] == address


async def test_several_indexers_make_one_complete_index(target: Target) -> None:
    async with plane(target) as at:
        gateway, *_ = await furnished(at)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(Archive(at.store).catch_up)
            await at.made(f"{gateway}/roles", {"name": "meanwhile"})
        found = await Archive(at.store).entries(AuditFilter(), None, 100, newest_first=False)
        assert [entry.recorded.version for entry in found] == list(range(1, 8))


async def test_an_index_that_is_still_being_built_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with plane(tmp_path / "t.db") as at:
        gateway = await at.gateway("one")

        async def behind(*_: Any) -> None:
            raise IndexBehind(10, 200)

        monkeypatch.setattr(Archive, "catch_up", behind)
        answer = await at.ask("GET", f"{gateway}/audit")
        assert (answer.status_code, answer.json()["error"]) == (503, "audit_index_behind")
        assert "at position 10 of 200" in answer.json()["message"]
        with pytest.raises(IndexBehind):
            monkeypatch.undo()
            await Archive(at.store).catch_up(0.0)
