"""Attach and detach calls of consumers and roles (spec 01 §7.2, §8)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.domain.test_consumer import Scene
from tests.domain.world import MCP, OIDC, UNKNOWN, message, refusal
from trustgate.domain import commands as cmd


def call(scene: Scene, kind: Any, first: str, second: str, *rest: Any) -> int:
    """Run one association call; the number of events it led to."""
    return len(scene.world.run(kind(scene.world.meta(), scene.g, first, second, *rest)).gateway)


def refused(scene: Scene, kind: Any, first: str, second: str, *rest: Any) -> str:
    return scene.short(message(call, scene, kind, first, second, *rest))


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_an_attached_registry_goes_to_the_end_and_keeps_place_and_weight_when_attached_again(scene):
    a, b, consumer = scene.ids["A"], scene.ids["B"], scene.create()
    assert call(scene, cmd.AttachRegistry, consumer.id, b, 9) == 1
    assert call(scene, cmd.AttachRegistry, consumer.id, a) == 1
    assert call(scene, cmd.AttachRegistry, consumer.id, b) == 0
    assert call(scene, cmd.AttachRegistry, consumer.id, b, 40) == 1
    stored = scene.world.states[scene.g].consumers[consumer.id]
    assert (stored.registry_ids, stored.registry_weights) == ((b, a), {b: 40, a: 1})
    assert stored.updated_at == consumer.updated_at


def test_attaching_a_registry_is_refused(scene):
    consumer, roles = scene.create(), scene.create(routing_mode="role_based")
    for weight in (0, 101):
        expected = "weight must be between 1 and 100: VF"
        assert refused(scene, cmd.AttachRegistry, UNKNOWN, UNKNOWN, weight) == expected
    assert refusal(call, scene, cmd.AttachRegistry, UNKNOWN, scene.ids["A"]).status == 404
    assert refusal(call, scene, cmd.AttachRegistry, consumer.id, UNKNOWN).status == 404
    assert refused(scene, cmd.AttachRegistry, consumer.id, scene.ids["M"]) == (
        "registry: invalid registry_id: VF: registry of type MCP cannot be attached to a consumer of type LLM"
    )
    by_role = refusal(call, scene, cmd.AttachRegistry, roles.id, scene.ids["A"])
    assert (by_role.status, by_role.code) == (409, "conflict")
    assert by_role.message == (
        f"resource conflict: consumer {roles.id} routes by role, registries can only be attached in inline routing;"
        " send routing_mode and registries together in PUT /v1/gateways/{gateway_id}/consumers/{id}"
    )


REFERENCES = [
    {"model_policies": [{"registry_id": "A"}]},
    {"fallback": {"chain": ["A"]}},
    {"lb_config": {"members": [{"registry_id": "A"}]}},
]


@pytest.mark.parametrize("body", REFERENCES)
def test_a_registry_that_routing_names_is_not_detached(scene, body):
    consumer = scene.create(registries=[{"id": "A"}], **body)
    blocked = refusal(call, scene, cmd.DetachRegistry, consumer.id, scene.ids["A"])
    assert (blocked.status, blocked.code) == (409, "conflict")
    assert scene.short(blocked.message) == "consumer registry A has dependent routing references: resource conflict"


def test_detaching_is_idempotent_but_needs_the_consumer(scene):
    consumer = scene.create(registries=[{"id": "A"}, {"id": "B"}])
    assert call(scene, cmd.DetachRegistry, consumer.id, scene.ids["A"]) == 1
    for kind in (cmd.DetachRegistry, cmd.DetachRole, cmd.DetachAuth, cmd.DetachPolicy):
        for target in (scene.ids["A"], UNKNOWN):
            assert call(scene, kind, consumer.id, target) == 0
        assert refusal(call, scene, kind, UNKNOWN, scene.ids["A"]).status == 404
    stored = scene.world.states[scene.g].consumers[consumer.id]
    assert (stored.registry_ids, stored.registry_weights) == ((scene.ids["B"],), {scene.ids["B"]: 1})


def test_toolkit_references_do_not_block_a_detachment(scene):
    consumer = scene.create(type="MCP", registries=[{"id": "M"}], toolkit=[{"registry_id": "M", "tool": "a"}])
    assert call(scene, cmd.DetachRegistry, consumer.id, scene.ids["M"]) == 1


def test_roles_are_attached_to_role_based_consumers_only(scene):
    role, consumer, inline = scene.ids["O"], scene.create(routing_mode="role_based"), scene.create()
    assert call(scene, cmd.AttachRole, consumer.id, role) == 1
    assert call(scene, cmd.AttachRole, consumer.id, role) == 0
    assert refusal(call, scene, cmd.AttachRole, consumer.id, UNKNOWN).status == 404
    assert refusal(call, scene, cmd.AttachRole, inline.id, role).message == (
        f"resource conflict: consumer {inline.id} routes inline, roles can only be attached in role_based routing;"
        " send routing_mode in PUT /v1/gateways/{gateway_id}/consumers/{id} first"
    )
    assert call(scene, cmd.DetachRole, consumer.id, role) == 1


def test_a_policy_must_support_the_protocol_unless_it_is_global_or_the_consumer_is_a2a(scene):
    world, g = scene.world, scene.g
    caller = world.policy(g, slug="caller", settings={"token": "long-secret-1"})
    narrow = world.policy(g, settings={"limit": 1, "llm_only": True})
    mcp, a2a, llm = (scene.create(type=kind) for kind in ("MCP", "A2A", "LLM"))
    mismatch = "consumer: policy protocol mismatch: VF: "
    assert refused(scene, cmd.AttachPolicy, mcp.id, caller.id) == (
        mismatch + "plugin caller does not support consumer protocol MCP"
    )
    assert refused(scene, cmd.AttachPolicy, mcp.id, narrow.id) == mismatch + "limiter: llm_only"
    for consumer in (a2a, llm):
        assert call(scene, cmd.AttachPolicy, consumer.id, caller.id) == 1
        assert call(scene, cmd.AttachPolicy, consumer.id, caller.id) == 0
    world.run(cmd.SetPolicyGlobal(world.meta(), g, caller.id, True))
    assert call(scene, cmd.AttachPolicy, mcp.id, caller.id) == 1
    assert world.states[g].policies[caller.id].consumer_ids == tuple(sorted((mcp.id, a2a.id, llm.id)))
    assert refusal(call, scene, cmd.AttachPolicy, llm.id, UNKNOWN).status == 404
    assert call(scene, cmd.DetachPolicy, llm.id, caller.id) == 1


MCP_OIDC = (
    "resource conflict: an MCP consumer cannot use an oidc auth; interactive MCP clients need the gateway to broker the"
    " login, which requires an oauth2 auth with a pre-registered client"
)


def test_an_auth_must_fit_the_consumer(scene):
    key = scene.world.auth(scene.g)
    oidc, other = (scene.world.auth(scene.g, type="oidc", config={"oidc": OIDC}) for _ in range(2))
    mcp, roles, llm = scene.create(type="MCP"), scene.create(routing_mode="role_based"), scene.create()
    assert refused(scene, cmd.AttachAuth, mcp.id, oidc.id) == MCP_OIDC
    assert refused(scene, cmd.AttachAuth, roles.id, key.id) == (
        'resource conflict: a role_based consumer requires an identity-provider auth (oauth2 or oidc), got "api_key"'
    )
    assert call(scene, cmd.AttachAuth, roles.id, oidc.id) == 1
    assert call(scene, cmd.AttachAuth, roles.id, oidc.id) == 0
    assert refused(scene, cmd.AttachAuth, roles.id, other.id) == (
        "resource conflict: a role_based consumer can have at most one auth"
    )
    for auth in (key, oidc, other):
        assert call(scene, cmd.AttachAuth, llm.id, auth.id) == 1
    assert refusal(call, scene, cmd.AttachAuth, llm.id, UNKNOWN).status == 404
    assert refusal(call, scene, cmd.AttachAuth, UNKNOWN, key.id).status == 404


def test_registries_are_bound_to_roles_and_unbound_unless_a_policy_names_them(scene):
    role, a, m = scene.ids["O"], scene.ids["A"], scene.world.registry(scene.g, **MCP).id
    assert call(scene, cmd.AttachRoleRegistry, role, a) == 1
    assert call(scene, cmd.AttachRoleRegistry, role, a) == 0
    assert call(scene, cmd.AttachRoleRegistry, role, m) == 1
    assert refusal(call, scene, cmd.AttachRoleRegistry, role, UNKNOWN).status == 404
    assert refusal(call, scene, cmd.AttachRoleRegistry, UNKNOWN, a).status == 404
    tools = {"toolkit": [{"registry_id": m, "tool": "*"}]}
    scene.world.put_role(scene.g, role, model_policies=[{"registry_id": a}], mcp_policies=tools)
    for registry_id in (a, m):
        blocked = refusal(call, scene, cmd.DetachRoleRegistry, role, registry_id)
        assert (blocked.status, blocked.code) == (409, "conflict")
        assert blocked.message == f"role registry {registry_id} has dependent policy references: resource conflict"
    scene.world.put_role(scene.g, role, model_policies=[], mcp_policies={})
    assert [call(scene, cmd.DetachRoleRegistry, role, id_) for id_ in (a, a, UNKNOWN, m)] == [1, 0, 0, 1]
