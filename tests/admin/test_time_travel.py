"""What a gateway was, what changed between two points, and the way back."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.admin.past import PLAN, Plane, Target, plane

KEY = {"type": "api_key", "api_key": {"api_key": "sk-first-secret-0001"}}
NEW_KEY = {"type": "api_key", "api_key": {"api_key": "sk-second-secret-0002"}}


async def count(at: Plane) -> int:
    return await at.store.head()


async def test_reads_and_lists_answer_as_things_were(target: Target) -> None:
    async with plane(target) as at:
        gateway = await at.gateway("one")
        registry = await at.made(f"{gateway}/registries", {"name": "a", "provider": "openai", "auth": KEY})
        path = f"{gateway}/registries/{registry['id']}"
        then = await at.got(f"{gateway}/registries")
        changed = (await at.ask("PUT", path, {"name": "b"})).json()
        await at.ask("DELETE", path)
        assert await at.got(f"{path}?as_of=2") == registry
        assert await at.got(f"{path}?as_of={registry['updated_at']}") == registry
        assert await at.got(f"{path}?as_of=3") == changed
        assert (await at.ask("GET", f"{path}?as_of=4")).status_code == 404
        assert await at.got(f"{gateway}/registries?as_of=2") == then
        assert (await at.got(f"{gateway}/registries?as_of=4"))["items"] == []
        assert (await at.ask("GET", f"{path}?as_of=3")).headers["etag"] == '"3"'
        await at.ask("DELETE", gateway)
        assert (await at.got(f"{gateway}?as_of=4", "t"))["slug"] == "one"
        assert (await at.got(f"/v1/gateways?as_of={registry['created_at']}"))["total"] == 1
        assert (await at.got("/v1/gateways"))["total"] == 0
        assert (await at.got(f"/v1/gateways?as_of={registry['created_at']}", "u"))["total"] == 0


@pytest.mark.parametrize(
    ("as_of", "status", "error"),
    [
        ("", 400, "invalid_query"),
        ("yesterday", 400, "invalid_query"),
        ("-1", 400, "invalid_query"),
        ("1.5", 400, "invalid_query"),
        ("2026-01-01", 400, "invalid_query"),
        ("2026-13-01T00:00:00Z", 400, "invalid_query"),
        ("0001-01-01T00:00:00+23:00", 400, "invalid_query"),
        ("9" * 19, 400, "invalid_query"),
        ("2", 422, "invalid_as_of"),
        ("2999-01-01T00:00:00Z", 422, "invalid_as_of"),
        ("0", 404, "before_creation"),
        ("2001-01-01T00:00:00.5 01:00", 404, "before_creation"),
    ],
)
async def test_points_that_are_not_there_are_refused(target: Target, as_of: str, status: int, error: str) -> None:
    async with plane(target) as at:
        gateway = await at.gateway("one")
        before = await count(at)
        asked = [("GET", f"{gateway}?as_of={as_of}"), ("GET", f"{gateway}/roles?as_of={as_of}")]
        if as_of:
            asked += [("GET", f"{gateway}/diff?from={as_of}"), ("GET", f"{gateway}/diff?from=1&to={as_of}")]
        for method, path in asked:
            answer = await at.ask(method, path)
            assert (answer.status_code, answer.json()["error"]) == (status, error), path
        answer = await at.ask("POST", f"{gateway}/revert", {"to": as_of})
        assert (answer.status_code, answer.json()["error"]) == (status, error)
        assert await count(at) == before


async def test_as_of_is_refused_where_it_means_nothing(target: Target) -> None:
    async with plane(target) as at:
        gateway = await at.gateway("one")
        before = await count(at)
        for method, path in (
            ("PUT", gateway),
            ("POST", f"{gateway}/roles"),
            ("DELETE", gateway),
            ("GET", "/v1/providers-catalog"),
            ("GET", f"{gateway}/versions"),
        ):
            answer = await at.ask(method, f"{path}?as_of=1", {"name": "r"} if method != "GET" else None)
            assert (answer.status_code, answer.json()["error"]) == (400, "invalid_query"), path
        assert (await at.ask("GET", "/v1/gateways?as_of=1")).status_code == 400
        assert await count(at) == before


async def test_versions_tell_which_commands_led_to_them(target: Target) -> None:
    async with plane(target) as at:
        gateway = await at.gateway("one")
        registry = await at.made(f"{gateway}/registries", {"name": "a", "provider": "openai", "auth": KEY})
        bound = {"name": "c", "registries": [{"id": registry["id"]}]}
        consumer = await at.made(f"{gateway}/consumers", bound)
        await at.ask("DELETE", f"{gateway}/consumers/{consumer['id']}")
        listed = await at.got(f"{gateway}/versions")
        total = listed["total"]
        assert [item["version"] for item in listed["items"]] == list(range(total, 0, -1))
        commands = [(item["command"], item["complete"]) for item in listed["items"]]
        assert [command for command, complete in commands if complete] == [
            "DeleteConsumer",
            "CreateConsumer",
            "CreateRegistry",
            "CreateGateway",
        ]
        second = await at.got(f"{gateway}/versions?size=2&page=2")
        assert second["items"] == listed["items"][2:4]


async def test_a_difference_names_objects_and_members(target: Target) -> None:
    async with plane(target) as at:
        gateway = await at.gateway("one")
        role = await at.made(f"{gateway}/roles", {"name": "a"})
        await at.ask("PUT", f"{gateway}/roles/{role['id']}", {"name": "b"})
        other = await at.made(f"{gateway}/roles", {"name": "c"})
        found = await at.got(f"{gateway}/diff?from=2")
        assert (found["from"], found["to"]) == (2, 4)
        changes = {change["object_id"]: change for change in found["changes"]}
        assert changes[role["id"]]["change"] == "updated"
        assert {"path": "name", "before": "a", "after": "b"} in changes[role["id"]]["fields"]
        assert changes[other["id"]]["fields"] == [{"path": "", "before": None, "after": other}]
        assert (await at.got(f"{gateway}/diff?from=4&to=2"))["changes"][0]["change"] in ("updated", "deleted")
        assert (await at.got(f"{gateway}/diff?from=3&to=3"))["changes"] == []
        assert (await at.ask("GET", f"{gateway}/diff")).status_code == 400


async def test_a_revert_appends_what_leads_back(target: Target) -> None:
    async with plane(target) as at:
        gateway = await at.gateway("one")
        registry = await at.made(f"{gateway}/registries", {"name": "a", "provider": "openai", "auth": KEY})
        consumer = await at.made(f"{gateway}/consumers", {"name": "c", "registries": [{"id": registry["id"]}]})
        version = (await at.got(f"{gateway}/versions"))["total"]
        everything = [f"{gateway}{part}?size=200" for part in ("", "/registries", "/consumers", "/roles")]
        then = [await at.got(path) for path in everything]
        await at.ask("PUT", gateway, {"slug": "two"})
        await at.made(f"{gateway}/roles", {"name": "new"})
        await at.ask("PUT", f"{gateway}/consumers/{consumer['id']}", {"name": "renamed"})
        dry = (await at.ask("POST", f"{gateway}/revert", {"to": version, "dry_run": True})).json()
        before = await count(at)
        assert {change["change"] for change in dry["changes"]} == {"updated", "deleted"}
        assert (dry["dry_run"], dry["to"], dry["before"], dry["secrets_gone"]) == (True, version, version + 3, [])
        answer = await at.ask("POST", f"{gateway}/revert", {"to": version}, **{"X-AG-Change-Reason": "undo"})
        assert answer.json() == {**dry, "dry_run": False}
        assert [await at.got(path) for path in everything] == then
        assert await count(at) > before
        entry = (await at.got(f"{gateway}/audit?size=1"))["items"][0]
        assert (entry["command"], entry["reason"]) == ("RevertGateway", "undo")
        again = (await at.ask("POST", f"{gateway}/revert", {"to": version})).json()
        assert again["changes"] == [] and again["version"] == again["before"]


async def test_a_revert_to_a_slug_that_is_taken_is_refused(target: Target) -> None:
    async with plane(target) as at:
        gateway = await at.gateway("one")
        consumer = await at.made(f"{gateway}/consumers", {"name": "c"})
        await at.ask("PUT", gateway, {"slug": "moved"})
        other = await at.gateway("one")
        before = await count(at)
        answer = await at.ask("POST", f"{gateway}/revert", {"to": 2})
        assert (answer.status_code, answer.json()["error"]) == (409, "already_exists")
        assert "slug" in answer.json()["message"]
        assert await count(at) == before
        await at.ask("DELETE", other)
        await at.ask("DELETE", f"{gateway}/consumers/{consumer['id']}")
        assert (await at.ask("POST", f"{gateway}/revert", {"to": 2})).status_code == 200
        assert (await at.got(f"{gateway}/consumers"))["items"] == [consumer]


async def test_secrets_that_are_gone_are_listed_and_todays_are_kept(target: Target) -> None:
    async with plane(target) as at:
        gateway = await at.gateway("one")
        kept = await at.made(f"{gateway}/registries", {"name": "kept", "provider": "openai", "auth": KEY})
        lost = await at.made(f"{gateway}/registries", {"name": "lost", "provider": "openai", "auth": KEY})
        await at.ask("PUT", f"{gateway}/registries/{kept['id']}", {"name": "other", "auth": NEW_KEY})
        await at.ask("DELETE", f"{gateway}/registries/{lost['id']}")
        answer = (await at.ask("POST", f"{gateway}/revert", {"to": 3})).json()
        gone = {secret["object_id"]: secret for secret in answer["secrets_gone"]}
        assert (gone[kept["id"]]["kept"], gone[lost["id"]]["kept"]) == (True, False)
        assert gone[lost["id"]]["path"] == "llm_target.auth.api_key.api_key"
        back = await at.got(f"{gateway}/registries/{kept['id']}")
        assert (back["name"], back["auth"]["api_key"]["api_key"]) == ("kept", "***0002")
        state = await at.control.state(gateway.split("/")[-1])
        assert state is not None
        ref = state.registries[kept["id"]].llm_target.auth["api_key"]["api_key"]["$secret"]  # type: ignore[union-attr,index]
        assert await at.control.reveal(ref) == "sk-second-secret-0002"


async def test_revoked_api_keys_come_back_only_when_asked(target: Target) -> None:
    async with plane(target) as at:
        gateway = await at.gateway("one")
        rotated = await at.made(f"{gateway}/auths", {"name": "rotated", "type": "api_key"})
        deleted = await at.made(f"{gateway}/auths", {"name": "deleted", "type": "api_key"})
        now = (await at.ask("POST", f"{gateway}/auths/{rotated['id']}/rotate")).json()
        await at.ask("DELETE", f"{gateway}/auths/{deleted['id']}")
        answer = (await at.ask("POST", f"{gateway}/revert", {"to": 3})).json()
        assert {(gone["object_id"], gone["path"], gone["kept"]) for gone in answer["secrets_gone"]} == {
            (rotated["id"], "api_key", True),
            (deleted["id"], "api_key", False),
        }
        suffix: Any = {auth["id"]: auth.get("key_suffix") for auth in (await at.got(f"{gateway}/auths"))["items"]}
        assert suffix == {rotated["id"]: now["key_suffix"], deleted["id"]: None}
        answer = (await at.ask("POST", f"{gateway}/revert", {"to": 3, "restore_keys": True})).json()
        assert answer["secrets_gone"] == []
        suffix = {auth["id"]: auth.get("key_suffix") for auth in (await at.got(f"{gateway}/auths"))["items"]}
        assert suffix == {auth["id"]: auth["key_suffix"] for auth in (rotated, deleted)}


async def test_a_tenant_cannot_bring_back_what_only_the_platform_may_set(target: Target) -> None:
    async with plane(target) as at:
        gateway = await at.gateway("one")
        raw = {
            "exporters": [
                {"name": "e", "type": "otlp", "settings": {"endpoint": "https://c.example:4318"}, "class": "raw"}
            ]
        }
        assert (await at.ask("PUT", gateway, {"telemetry": raw})).status_code == 200
        plan = {**PLAN, "tier": "enterprise", "burst_per_min": 6000}
        assert (await at.ask("PUT", gateway, {"entitlements": plan})).status_code == 200
        assert (await at.ask("PUT", gateway, {"entitlements": PLAN, "telemetry": {"exporters": []}})).status_code == 200
        refused = await at.ask("POST", f"{gateway}/revert", {"to": 3}, "t")
        assert refused.status_code == 422 and "platform admins" in refused.json()["message"]
        assert (await at.ask("POST", f"{gateway}/revert", {"to": 1}, "t")).status_code == 200
        assert (await at.got(gateway))["entitlements"]["tier"] == "free"
        assert (await at.ask("POST", f"{gateway}/revert", {"to": 3})).status_code == 200
        assert (await at.got(gateway))["entitlements"]["tier"] == "enterprise"
        assert (await at.ask("POST", f"{gateway}/revert", {"to": 1}, "t")).status_code == 200
        assert (await at.got(gateway))["entitlements"]["tier"] == "enterprise"


@pytest.mark.parametrize("body", [{}, {"to": None}, {"to": "x"}, {"to": [1]}, {"to": 1.5}])
async def test_a_revert_without_a_readable_target_is_refused(target: Target, body: dict[str, Any]) -> None:
    async with plane(target) as at:
        gateway = await at.gateway("one")
        assert (await at.ask("POST", f"{gateway}/revert", body)).status_code in (400, 422)
        assert (await at.ask("POST", f"{gateway}/revert", {"to": 1}, **{"If-Match": '"7"'})).status_code == 412


async def test_a_revert_beside_other_writers_is_whole_or_refused(target: Target) -> None:
    async with plane(target) as at:
        gateway = await at.gateway("one")
        await at.made(f"{gateway}/roles", {"name": "kept"})
        statuses: list[int] = []

        async def write(number: int) -> None:
            await at.ask("POST", f"{gateway}/roles", {"name": f"r{number}"})

        async def back() -> None:
            statuses.append((await at.ask("POST", f"{gateway}/revert", {"to": 2})).status_code)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(write, number)
                if number % 4 == 0:
                    nursery.start_soon(back)
        assert set(statuses) <= {200, 412} and 200 in statuses
        names = {role["name"] for role in (await at.got(f"{gateway}/roles?size=200"))["items"]}
        assert "kept" in names
        assert (await at.ask("POST", f"{gateway}/revert", {"to": 2})).status_code == 200
        assert [role["name"] for role in (await at.got(f"{gateway}/roles"))["items"]] == ["kept"]
