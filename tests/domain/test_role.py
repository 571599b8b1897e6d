"""Roles: creation, mapping, model and MCP policies (spec 01 §8)."""

from __future__ import annotations

import pytest

from tests.domain.test_consumer import Scene
from tests.domain.world import UNKNOWN, World, message, refusal
from trustgate.domain import commands as cmd

RULE = {"path": "realm.groups", "op": "contains_any", "values": ["a", "b"]}
MAPPING = {"match": "any", "claims": [RULE], "note": {"x": 1}}
JSON = "role: invalid json: VF: "


def claim(**changes):
    return {"match": "any", "claims": [RULE, RULE | changes]}


MAPPINGS = [
    ("x", JSON + "oidc_mapping: VF"),
    ({"match": "any", "claims": "x"}, JSON + "oidc_mapping: VF"),
    ({"match": "any", "claims": [{"path": 1}]}, JSON + "oidc_mapping: VF"),
    ({}, JSON + "oidc_mapping.match must be any or all: VF"),
    (MAPPING | {"match": "one"}, JSON + "oidc_mapping.match must be any or all: VF"),
    (MAPPING | {"claims": []}, JSON + "oidc_mapping.claims is required: VF"),
    (claim(path=" "), JSON + "oidc_mapping.claims[1].path is invalid: VF"),
    (claim(path="a..b"), JSON + "oidc_mapping.claims[1].path is invalid: VF"),
    (claim(op="regex"), JSON + "oidc_mapping.claims[1].op is invalid: VF"),
    (claim(values=[]), JSON + "oidc_mapping.claims[1].values is required: VF"),
    (claim(values=[" ", None]), JSON + "oidc_mapping.claims[1].values is required: VF"),
    (MAPPING | {"note": {"$secret": "x"}}, 'member name "$secret" is reserved: VF'),
]


@pytest.mark.parametrize(("mapping", "expected"), MAPPINGS)
def test_a_mapping_is_refused_with_the_first_broken_rule(mapping, expected):
    world = World()
    g = world.gateway().id
    assert message(world.role, g, oidc_mapping=mapping) == expected
    assert message(world.put_role, g, world.role(g).id, oidc_mapping=mapping) == expected


REFUSED = [
    ({"name": " "}, "name is required: VF"),
    (
        {"model_policies": [{"registry_id": UNKNOWN}]},
        "model_policies cannot be set on create; bind registries first and update the role: VF",
    ),
    ({"mcp_policies": {}}, "mcp_policies cannot be set on create; bind registries first and update the role: VF"),
]


@pytest.mark.parametrize(("body", "expected"), REFUSED)
def test_creation_is_refused_with_the_first_broken_rule(body, expected):
    world = World()
    assert message(world.role, world.gateway().id, **{"name": "r", **body}) == expected


def test_a_mapping_keeps_its_unknown_members_and_names_have_no_limit():
    world = World()
    g = world.gateway().id
    role = world.role(g, "n" * 300, oidc_mapping=MAPPING, model_policies=[])
    assert (role.oidc_mapping, role.registry_ids, role.mcp_policies) == (MAPPING, (), None)
    assert world.put_role(g, role.id, oidc_mapping=None).oidc_mapping == MAPPING
    assert world.role(g, oidc_mapping=None).oidc_mapping is None


def test_names_are_unique_and_the_gateway_must_exist():
    world = World()
    g, other = world.gateway().id, world.gateway().id
    role = world.role(g, "r")
    assert message(world.role, g, "r") == "role: resource already exists"
    assert message(world.put_role, g, world.role(g).id, name="r") == "role: resource already exists"
    assert message(world.role, UNKNOWN) == "role: invalid gateway_id: VF"
    assert refusal(world.put_role, other, role.id, name="z").status == 404
    assert message(world.put_role, g, UNKNOWN, name="") == "name is required: VF"


POLICY = "role: invalid model policy: VF: "
PUTS = [
    ({"mcp_policies": {"toolkit": [{"registry_id": "x"}]}}, 'mcp_policies.toolkit[0]: invalid registry_id "x": VF'),
    ({"model_policies": [{"registry_id": "x"}]}, 'model_policies[0]: invalid registry_id "x": VF'),
    (
        {"model_policies": [{"registry_id": "A"}, {"registry_id": "A"}]},
        'model_policies[1]: duplicate registry_id "A": VF',
    ),
    (
        {"mcp_policies": {"fail_mode": "half", "toolkit": [{"registry_id": "B"}]}},
        'consumer: invalid fail_mode: VF: "half"',
    ),
    (
        {"mcp_policies": {"toolkit": [{"registry_id": "B", "tool": "a"}]}, "model_policies": [{"registry_id": "B"}]},
        "consumer: invalid toolkit: VF: registry B is not attached to the consumer",
    ),
    ({"model_policies": [{"registry_id": "B"}]}, POLICY + "registry B is not bound to role"),
    (
        {"model_policies": [{"registry_id": "A", "allowed": []}]},
        POLICY + "empty allow-list for registry A (omit allowed to permit all models)",
    ),
    ({"model_policies": [{"registry_id": "A", "allowed": [""]}]}, POLICY + "empty model in allow-list for registry A"),
    ({"model_policies": [{"registry_id": "A", "allowed": ["m", "m"]}]}, POLICY + 'duplicate model "m" for registry A'),
    (
        {"model_policies": [{"registry_id": "A", "allowed": ["m"], "default": "z"}]},
        POLICY + 'default model "z" not in allow-list for registry A',
    ),
]


def bound() -> Scene:
    scene = Scene()
    for name in ("A", "M"):
        scene.world.run(cmd.AttachRoleRegistry(scene.world.meta(), scene.g, scene.ids["O"], scene.ids[name]))
    return scene


@pytest.mark.parametrize(("body", "expected"), PUTS)
def test_a_put_is_refused_with_the_first_broken_rule(body, expected):
    scene = bound()
    assert scene.refused(scene.world.put_role, scene.g, scene.ids["O"], **scene.fill(body)) == expected


def test_policies_are_replaced_and_an_absent_toolkit_is_an_explicit_empty_list():
    scene = bound()

    def put(**body):
        return scene.world.put_role(scene.g, scene.ids["O"], **scene.fill(body))

    tools = [{"registry_id": "M", "tool": " a "}]
    role = put(
        model_policies=[{"registry_id": "A", "allowed": ["m"]}],
        mcp_policies={"fail_mode": " closed ", "toolkit": tools},
    )
    assert list(role.model_policies) == [scene.ids["A"]]
    assert (role.mcp_policies.fail_mode, role.mcp_policies.toolkit[0].tool) == ("closed", "a")
    assert put().mcp_policies == role.mcp_policies
    role = put(model_policies=[], mcp_policies={})
    assert (role.model_policies, role.mcp_policies.toolkit, role.mcp_policies.fail_mode) == ({}, (), "open")


def test_deleting_a_role_detaches_it_from_its_consumers():
    scene = Scene()
    consumer = scene.create(routing_mode="role_based", roles=["O"])
    scene.world.run(cmd.DeleteRole(scene.world.meta(), scene.g, scene.ids["O"]))
    assert scene.world.states[scene.g].consumers[consumer.id].role_ids == ()
    assert refusal(scene.world.run, cmd.DeleteRole(scene.world.meta(), scene.g, scene.ids["O"])).status == 404
