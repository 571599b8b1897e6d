"""Whatever is done to a gateway: every version can be seen as it was, every change taken back, everything replayed.

Real commands by HTTP, drawn by Hypothesis, many of them refused; on both databases.
"""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import msgspec
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.admin.past import Plane, Target, plane
from trustgate.actors.evidence import export
from trustgate.actors.notary import Notary
from trustgate.actors.projection import snapshot_of
from trustgate.actors.replay import digest_of, load_all, replay
from trustgate.audit_verify import verify
from trustgate.domain.entities import GatewayState
from trustgate.store import DIRECTORY, gateway_stream
from trustgate.view.encoded import encoded

KINDS = ("registries", "consumers", "auths", "policies", "roles")
NAMES = st.sampled_from(["a", "b", "c"])
NUMBERS = itertools.count()


def registry(name: str, secret: str | None) -> dict[str, Any]:
    auth = {"type": "api_key", "api_key": {"api_key": secret}} if secret else None
    return {"name": name, "provider": "openai", "auth": auth}


BODIES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "registries": st.builds(registry, NAMES, st.sampled_from(["sk-0123456789", "sk-9876543210", None, "***"])),
    "consumers": st.fixed_dictionaries(
        {"name": NAMES}, optional={"active": st.booleans(), "registries": st.just([{"id": "@registries"}])}
    ),
    "auths": st.fixed_dictionaries({"name": NAMES, "type": st.just("api_key")}, optional={"enabled": st.booleans()}),
    "policies": st.builds(
        lambda name, on, limit: {
            "name": name,
            "slug": "rate_limiter",
            "enabled": on,
            "settings": {"limit": limit, "window": "1m"},
        },
        NAMES,
        st.booleans(),
        st.sampled_from([1, 2, -1]),
    ),
    "roles": st.fixed_dictionaries({"name": NAMES}),
}

Step = tuple[str, str, int, Any]
writes = st.sampled_from(KINDS).flatmap(
    lambda kind: st.tuples(
        st.sampled_from(["POST", "POST", "PUT", "DELETE"]), st.just(kind), st.integers(0, 2), BODIES[kind]
    )
)
links = st.tuples(
    st.sampled_from(["ATTACH", "ATTACH", "DETACH"]), st.sampled_from(KINDS), st.integers(0, 2), st.integers(0, 2)
)
others = st.tuples(
    st.sampled_from(["ROTATE", "GLOBAL", "DUPLICATE", "GATEWAY", "REVERT"]), NAMES, st.integers(0, 2), NAMES
)
scripts = st.lists(st.one_of(writes, writes, links, others), min_size=4, max_size=16)


class Script:
    """One gateway, what GET answered at each of its versions, and what was done."""

    def __init__(self, at: Plane, gateway: str) -> None:
        self.at = at
        self.gateway = gateway
        self.id = gateway.split("/")[-1]
        self.seen: dict[int, list[bytes]] = {}

    async def open(self) -> None:
        """Two of each kind to begin with, so that most steps have something to hit."""
        self.seen[1] = await self.look()
        for name in ("a", "b"):
            for kind in KINDS:
                body = {"name": name, "slug": "rate_limiter", "settings": {"limit": 1, "window": "1m"}}
                await self.at.made(
                    f"{self.gateway}/{kind}",
                    {
                        "registries": registry(name, f"sk-of-{name}-12345678"),
                        "auths": {"name": name, "type": "api_key"},
                        "policies": body,
                    }.get(kind, {"name": name}),
                )
                self.seen[(await self.state()).version] = await self.look()

    async def ids(self, kind: str) -> list[str]:
        return [item["id"] for item in (await self.at.got(f"{self.gateway}/{kind}?size=200&sort=name"))["items"]]

    async def id_of(self, kind: str, index: int) -> str:
        found = await self.ids(kind)
        return found[index % len(found)] if found else "abcdef00-1111-4111-8111-111111111111"

    async def do(self, step: Step) -> httpx.Response:
        what, kind, index, body = step
        match what:
            case "POST":
                return await self.at.ask("POST", f"{self.gateway}/{kind}", await self.resolved(body))
            case "PUT" | "DELETE":
                path = f"{self.gateway}/{kind}/{await self.id_of(kind, index)}"
                return await self.at.ask(what, path, await self.resolved(body) if what == "PUT" else None)
            case "ATTACH" | "DETACH":
                consumer, other = await self.id_of("consumers", index), await self.id_of(kind, body)
                path = f"{self.gateway}/consumers/{consumer}/{kind}/{other}"
                return await self.at.ask("POST" if what == "ATTACH" else "DELETE", path)
            case "ROTATE":
                return await self.at.ask("POST", f"{self.gateway}/auths/{await self.id_of('auths', index)}/rotate")
            case "GLOBAL" | "DUPLICATE":
                policy = f"{self.gateway}/policies/{await self.id_of('policies', index)}"
                return await self.at.ask("POST", f"{policy}/{what.lower()}")
            case "GATEWAY":
                return await self.at.ask("PUT", self.gateway, {"slug": f"{kind}-{self.id}", "metadata": {"x": body}})
            case _:
                version = sorted(self.seen)[index % len(self.seen)]
                return await self.at.ask("POST", f"{self.gateway}/revert", {"to": version})

    async def resolved(self, body: dict[str, Any]) -> dict[str, Any]:
        if "registries" in body:
            return {**body, "registries": [{"id": await self.id_of("registries", 0)}]}
        return body

    async def look(self, as_of: str = "") -> list[bytes]:
        parts = ("", *(f"/{kind}" for kind in KINDS))
        found: list[bytes] = []
        for part in parts:
            answer = await self.at.ask("GET", f"{self.gateway}{part}?size=200&sort=&{as_of}")
            assert answer.status_code == 200, answer.text
            found.append(answer.content)
        return found

    async def state(self) -> GatewayState:
        state = await self.at.control.state(self.id)
        assert state is not None
        return state


async def run(target: Target, script: list[Step]) -> None:
    async with plane(target) as at:
        ours = Script(at, await at.gateway(f"g-{next(NUMBERS)}"))
        await ours.open()
        for step in script:
            before, head = await ours.state(), await at.store.head()
            answer = await ours.do(step)
            after = await ours.state()
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert (await at.store.head(), after) == (head, before), "a refusal appends nothing"
            ours.seen.setdefault(after.version, await ours.look())
            if after is not before and step[0] != "REVERT":
                await taken_back(ours, before, after)
        for version, seen in ours.seen.items():
            assert await ours.look(f"as_of={version}") == seen, version
        await replayed(at)


async def taken_back(ours: Script, before: GatewayState, after: GatewayState) -> None:
    """revert∘apply is the identity, save for secrets that the change erased; and back again."""
    answer = await ours.at.ask("POST", f"{ours.gateway}/revert", {"to": before.version, "restore_keys": True})
    assert answer.status_code == 200, answer.text
    gone = {secret["object_id"] for secret in answer.json()["secrets_gone"]}
    state = await ours.state()
    assert without(state, gone) == without(before, gone)
    ours.seen[state.version] = await ours.look()
    again = await ours.at.ask("POST", f"{ours.gateway}/revert", {"to": after.version, "restore_keys": True})
    gone |= {secret["object_id"] for secret in again.json()["secrets_gone"]}
    assert without(await ours.state(), gone) == without(after, gone)
    ours.seen[(await ours.state()).version] = await ours.look()


def without(state: GatewayState, ids: set[str]) -> GatewayState:
    registries = {id_: one for id_, one in state.registries.items() if id_ not in ids}
    return replace(state, version=0, registries=registries)


async def replayed(at: Plane) -> None:
    """From nothing, from snapshots, and live: the same bytes. And nobody has touched the log."""
    projection = at.control.follower.projection
    stored = await replay(at.store, compile_view=encoded)
    assert stored.mismatches == []
    live = {gateway_stream(id_): state for id_, state in projection.states().items()}
    for stream, state in live.items():
        await at.store.put_snapshot(snapshot_of(stream, state))
        assert digest_of(stream, state) == stored.digests[stream]
    assert digest_of(DIRECTORY, projection.directory) == stored.digests[DIRECTORY]
    assert await load_all(at.store) == stored.digests
    again = await replay(at.store)
    assert (again.mismatches, again.digest) == ([], stored.digest)
    assert again.snapshots >= len(live)
    notary = Notary(at.store)
    lines = [line async for line in export(at.store, notary)]
    assert verify(lines, await notary.public_key()).events == again.events


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(script=scripts)
def test_every_version_can_be_seen_taken_back_and_replayed(target: Target, script: list[Step]) -> None:
    trio.run(run, target, script)


def test_what_differs_from_the_log_is_found_and_repaired(target: Target) -> None:
    trio.run(damaged, target)


async def damaged(target: Target) -> None:
    from trustgate.actors.archive import Archive
    from trustgate.actors.replay import repair

    async with plane(target) as at:
        gateway = await at.gateway("one")
        id_ = gateway.split("/")[-1]
        await at.made(f"{gateway}/roles", {"name": "a"})
        state = await at.control.state(id_)
        assert state is not None and state.gateway is not None
        await Archive(at.store).catch_up()
        wrong = replace(state, gateway=replace(state.gateway, slug="forged"))
        await at.store.put_snapshot(snapshot_of(gateway_stream(id_), wrong))
        await at.store.audit.put_milestone(snapshot_of(gateway_stream(id_), wrong))
        at.store._backend._write("UPDATE tg_audit SET actor = ? WHERE version = 2", ("somebody else",))  # type: ignore[attr-defined]
        found = await replay(at.store)
        assert [(one.what, one.version) for one in found.mismatches] == [
            ("milestone", 2),
            ("index", 2),
            ("snapshot", 2),
            ("live", 2),
        ]
        await repair(at.store, found)
        assert (await replay(at.store)).mismatches == []
        assert msgspec.to_builtins(await Archive(at.store).state_at(id_, 2)) == msgspec.to_builtins(state)
