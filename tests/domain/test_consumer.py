"""Consumers: syntax, type and mode, PUT, mode switches (spec 01 §7)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.domain.world import MCP, NIL, OIDC, UNKNOWN, World, message, refusal
from trustgate.domain import commands as cmd
from trustgate.domain import secrets

TYPE = "consumer: invalid type: VF: "
MODE = "consumer: invalid routing_mode: VF: "
OWNED = "registry: invalid registry_id: VF: "


class Scene:
    """A gateway with LLM registries A and B, an MCP registry M and a role O; `A` etc. in bodies stand for their ids."""

    def __init__(self) -> None:
        self.world = World()
        self.g = self.world.gateway().id
        self.ids = {
            "A": self.world.registry(self.g).id,
            "B": self.world.registry(self.g).id,
            "M": self.world.registry(self.g, **MCP).id,
            "O": self.world.role(self.g).id,
        }

    def fill(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self.fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        return self.ids.get(value, value) if isinstance(value, str) else value

    def short(self, text: str) -> str:
        for name, id_ in self.ids.items():
            text = text.replace(id_, name)
        return text

    def create(self, **body: Any) -> Any:
        return self.world.consumer(self.g, **self.fill(body))

    def put(self, id_: str, **body: Any) -> Any:
        return self.world.put_consumer(self.g, id_, **self.fill(body))

    def refused(self, call: Any, *args: Any, **body: Any) -> str:
        return self.short(message(call, *args, **body))


SYNTAX = [
    ({"name": " ", "registries": [{"id": "x"}]}, "name is required: VF"),
    ({"name": "x" * 256}, "name too long (max 255): VF"),
    ({"fallback": {"chain": ["A", "x"]}}, 'fallback.chain[1]: invalid uuid "x": VF'),
    ({"toolkit": [{"registry_id": "x"}]}, 'toolkit[0]: invalid registry_id "x": VF'),
    ({"lb_config": {"members": [{"registry_id": "x"}]}}, 'lb_config.members[0]: invalid registry_id "x": VF'),
    (
        {"lb_config": {"smart_routing": {"tiers": [{}]}}},
        'lb_config.smart_routing.tiers[0]: invalid registry_id "": VF',
    ),
    ({"model_policies": [{"registry_id": "x"}]}, 'model_policies[0]: invalid registry_id "x": VF'),
    (
        {"model_policies": [{"registry_id": "A"}, {"registry_id": "A"}]},
        'model_policies[1]: duplicate registry_id "A": VF',
    ),
    ({"registries": [None]}, 'registries[0]: invalid id "": VF'),
    ({"registries": [{"id": "A"}, {"id": "A"}]}, 'registries[1]: duplicate id "A": VF'),
    ({"registries": [{"id": "A", "weight": 0}]}, "registries[0]: weight must be between 1 and 100: VF"),
    ({"registries": [{"id": "A", "weight": 101}]}, "registries[0]: weight must be between 1 and 100: VF"),
    (
        {"registries": [{"id": "A", "model_policies": {}}], "model_policies": [{"registry_id": "A"}]},
        'registries[0]: model policy for "A" already declared in model_policies: VF',
    ),
    ({"roles": ["x"]}, 'roles[0]: invalid uuid "x": VF'),
    (
        {"fallback": {"chain": ["x"]}, "toolkit": [{}], "lb_config": {"members": [{}]}},
        'fallback.chain[0]: invalid uuid "x": VF',
    ),
    ({"lb_config": {"members": [{}]}, "model_policies": [{}]}, 'lb_config.members[0]: invalid registry_id "": VF'),
    ({"toolkit": [{}], "lb_config": {"members": [{}]}}, 'toolkit[0]: invalid registry_id "": VF'),
    ({"registries": [{"id": "x"}], "roles": ["x"], "type": "zz"}, 'registries[0]: invalid id "x": VF'),
]
TYPE_AND_MODE = [
    ({"type": "grpc"}, TYPE + '"GRPC"'),
    ({"routing_mode": "magic"}, MODE + '"magic"'),
    ({"toolkit": []}, TYPE + "mcp policy is only valid for MCP consumers"),
    ({"fail_mode": "open"}, TYPE + "mcp policy is only valid for MCP consumers"),
    ({"routing_mode": "role_based", "registries": [{"id": "A"}]}, MODE + "registry_ids are only valid in inline mode"),
    ({"routing_mode": "role_based", "lb_config": {}}, MODE + "lb_config is only valid in inline mode"),
    ({"routing_mode": "role_based", "fallback": {"enabled": True}}, MODE + "fallback is only valid in inline mode"),
    (
        {"routing_mode": "role_based", "model_policies": [{"registry_id": "A"}]},
        MODE + "model_policies are only valid in inline mode",
    ),
    ({"type": "MCP", "routing_mode": "role_based", "toolkit": []}, MODE + "mcp policy is only valid in inline mode"),
    ({"routing_mode": "role_based", "roles": ["O", "O"]}, MODE + "duplicate role O"),
    ({"routing_mode": "role_based", "roles": [NIL]}, MODE + "nil uuid"),
    ({"roles": ["O"]}, MODE + "roles are only valid in role_based mode"),
    (
        {"routing_mode": "role_based", "roles": [UNKNOWN]},
        "role: invalid role_id: VF: one or more roles do not belong to the gateway",
    ),
    ({"registries": [{"id": NIL}]}, "consumer: invalid model policy: VF: nil uuid"),
    ({"registries": [{"id": UNKNOWN}]}, OWNED + "one or more registries do not belong to the gateway"),
    ({"registries": [{"id": "M"}]}, OWNED + "registry of type MCP cannot be attached to a consumer of type LLM"),
    ({"headers": {"$secret": "x"}}, 'member name "$secret" is reserved: VF'),
]


@pytest.mark.parametrize(("body", "expected"), SYNTAX + TYPE_AND_MODE)
def test_creation_is_refused_with_the_first_broken_rule(body, expected):
    scene = Scene()
    assert scene.refused(scene.create, **{"name": "c", **body}) == expected
    assert not scene.world.states[scene.g].consumers


def test_a_minimal_consumer_has_its_defaults():
    consumer = Scene().create(name="c")
    assert (consumer.type, consumer.routing_mode, consumer.active, consumer.fail_mode) == ("LLM", "inline", True, "")
    assert consumer.toolkit is None and consumer.fallback is None and consumer.lb_config is None


def test_spellings_of_type_mode_and_ids_are_normalised():
    scene = Scene()
    consumer = scene.create(
        type=" mcp ", routing_mode=" Inline ", fail_mode=" Closed ", registries=[{"id": scene.ids["M"].upper()}]
    )
    assert (consumer.type, consumer.routing_mode, consumer.fail_mode) == ("MCP", "inline", "closed")
    for spelling in ("{%s}", "urn:uuid:%s"):
        named = scene.create(registries=[{"id": spelling % scene.ids["A"]}])
        assert named.registry_ids == (scene.ids["A"],)


def test_policies_inside_the_bindings_count_as_model_policies():
    scene = Scene()
    consumer = scene.create(registries=[{"id": "B", "weight": 80, "model_policies": {"allowed": ["m"]}}, {"id": "A"}])
    assert consumer.registry_ids == (scene.ids["B"], scene.ids["A"])
    assert consumer.registry_weights == {scene.ids["B"]: 80, scene.ids["A"]: 1}
    assert consumer.model_policies[scene.ids["B"]].allowed == ("m",)


def test_consumer_slugs_are_unique_across_gateways():
    world = World()
    g, other = world.gateway().id, world.gateway().id
    first = world.consumer(g)
    body = cmd.inputs.ConsumerCreate(name="c")
    world.run(cmd.CreateConsumer(world.meta(), other, world.id(), body, (first.slug, "fresh001")))
    assert world.directory.consumer_slugs == {first.slug: g, "fresh001": other}


def test_names_are_unique_per_gateway():
    scene = Scene()
    scene.create(name="c")
    other = scene.create(name="d")
    assert scene.refused(scene.create, name="c") == "consumer: resource already exists"
    assert scene.refused(scene.put, other.id, name="c") == "consumer: resource already exists"


def test_creation_in_an_unknown_gateway_is_refused_after_all_other_checks():
    world = World()
    assert message(world.consumer, UNKNOWN, " ") == "name is required: VF"
    assert message(world.consumer, UNKNOWN) == "consumer: invalid gateway_id: VF"


PUT_SYNTAX = [
    ({"name": ""}, "name is required: VF"),
    (
        {"fallback": {"chain": ["x"]}, "registries": [{"id": "A"}, {"id": "B", "model_policies": {}}]},
        "registries[1].model_policies is not supported on update, declare them in model_policies: VF",
    ),
    ({"fallback": {"chain": ["x"]}, "lb_config": {"members": [{}]}}, 'fallback.chain[0]: invalid uuid "x": VF'),
    ({"toolkit": [{}], "lb_config": {"members": [{}]}}, 'lb_config.members[0]: invalid registry_id "": VF'),
    ({"toolkit": [{}], "model_policies": [{}]}, 'model_policies[0]: invalid registry_id "": VF'),
    ({"toolkit": [{}], "registries": [{}]}, 'toolkit[0]: invalid registry_id "": VF'),
    ({"registries": [{"id": "x"}]}, 'registries[0]: invalid id "x": VF'),
]


@pytest.mark.parametrize(("body", "expected"), PUT_SYNTAX)
def test_a_put_checks_syntax_in_order_and_before_looking_for_the_consumer(body, expected):
    scene = Scene()
    assert scene.refused(scene.put, scene.create().id, **body) == expected
    assert scene.refused(scene.put, UNKNOWN, **body) == expected


def test_a_put_on_an_unknown_consumer_is_404_and_422_when_it_is_of_another_gateway():
    scene = Scene()
    foreign = scene.world.consumer(scene.world.gateway().id)
    assert refusal(scene.put, UNKNOWN, name="z").status == 404
    assert scene.refused(scene.put, foreign.id, name="z") == "consumer: invalid gateway_id: VF"


RULES_ON_PUT = [
    ({"type": "zz"}, TYPE + '"ZZ"'),
    ({"routing_mode": "zz"}, MODE + '"zz"'),
    ({"registries": [{"id": "B"}]}, OWNED + "model_policies registry A is not associated with the consumer"),
    ({"registries": [{"id": "A"}]}, OWNED + "fallback chain registry B is not associated with the consumer"),
    (
        {"fallback": {"enabled": True, "triggers": ["zz"], "chain": [UNKNOWN]}},
        OWNED + f"fallback chain registry {UNKNOWN} is not associated with the consumer",
    ),
    (
        {"fallback": {"enabled": True, "triggers": ["zz"], "chain": ["A"]}},
        'consumer: invalid fallback: VF: unknown trigger "zz"',
    ),
    (
        {"lb_config": {"members": [{"registry_id": "M"}]}},
        OWNED + "lb_config member registry M is not associated with the consumer",
    ),
    (
        {"model_policies": [], "fallback": {}, "registries": [{"id": UNKNOWN}]},
        OWNED + "one or more registries do not belong to the gateway",
    ),
    ({"fail_mode": "open"}, TYPE + "mcp policy is only valid for MCP consumers"),
    ({"routing_mode": "role_based", "registries": [{"id": "A"}]}, MODE + "registry_ids are only valid in inline mode"),
]


@pytest.mark.parametrize(("body", "expected"), RULES_ON_PUT)
def test_a_put_checks_association_first_and_then_the_rules(body, expected):
    scene = Scene()
    consumer = scene.create(
        registries=[{"id": "A", "weight": 7}, {"id": "B"}],
        model_policies=[{"registry_id": "A", "allowed": ["m"]}],
        fallback={"enabled": True, "triggers": ["timeout"], "chain": ["B"]},
    )
    assert scene.refused(scene.put, consumer.id, **body) == expected
    assert scene.world.states[scene.g].consumers[consumer.id] == consumer


def test_a_put_replaces_what_it_names_and_keeps_the_rest():
    scene = Scene()
    old = scene.create(headers={"a": "b"}, registries=[{"id": "A", "weight": 7}, {"id": "B"}])
    empty = scene.put(old.id, type="", routing_mode=" ", fail_mode="")
    assert empty.updated_at > old.updated_at
    assert (empty.headers, empty.registry_weights, empty.slug) == (old.headers, old.registry_weights, old.slug)
    new = scene.put(old.id, headers={}, active=False, registries=[{"id": "B", "weight": 3}, {"id": "A"}])
    assert (new.headers, new.active, new.registry_ids) == ({}, False, (scene.ids["B"], scene.ids["A"]))
    assert new.registry_weights == {scene.ids["B"]: 3, scene.ids["A"]: 1}
    assert scene.put(old.id, registries=[]).registry_ids == ()


def test_to_role_based_drops_the_inline_parts_and_back_drops_the_roles():
    scene = Scene()
    consumer = scene.create(
        registries=[{"id": "A"}],
        model_policies=[{"registry_id": "A"}],
        lb_config={"enabled": True, "members": [{"registry_id": "A"}]},
        fallback={"enabled": True, "triggers": ["timeout"], "chain": ["A"]},
    )
    roles = scene.put(consumer.id, routing_mode="role_based")
    assert (roles.registry_ids, roles.registry_weights, roles.model_policies) == ((), {}, {})
    assert (roles.fallback, roles.lb_config) == (None, None)
    scene.world.run(cmd.AttachRole(scene.world.meta(), scene.g, consumer.id, scene.ids["O"]))
    assert scene.refused(scene.put, consumer.id, lb_config={}) == MODE + "lb_config is only valid in inline mode"
    inline = scene.put(
        consumer.id,
        routing_mode="inline",
        registries=[{"id": "A"}],
        model_policies=[{"registry_id": "A", "allowed": ["m"]}],
    )
    assert (inline.role_ids, inline.registry_ids) == ((), (scene.ids["A"],))


def test_type_and_mode_changes_of_mcp_consumers_drop_toolkit_and_fail_mode():
    scene = Scene()
    tools = [{"registry_id": "M", "tool": "a"}]
    consumer = scene.create(type="MCP", fail_mode="closed", registries=[{"id": "M"}], toolkit=tools)
    roles = scene.put(consumer.id, routing_mode="role_based")
    assert (roles.toolkit, roles.fail_mode) == (None, "")
    assert scene.put(consumer.id, routing_mode="inline").fail_mode == "open"
    other = scene.create(type="MCP", fail_mode="closed", toolkit=[])
    assert scene.put(other.id, type="llm").fail_mode == ""
    assert scene.put(other.id, type="MCP").fail_mode == "open"
    assert scene.refused(scene.put, other.id, fail_mode="Closed") == 'consumer: invalid fail_mode: VF: "Closed"'
    assert (
        scene.refused(scene.put, other.id, toolkit=tools)
        == OWNED + "toolkit registry M is not associated with the consumer"
    )


def test_switches_to_mcp_and_to_role_based_recheck_the_attached_auths():
    scene = Scene()
    consumer = scene.create()
    key = scene.world.auth(scene.g)
    oidc = scene.world.auth(scene.g, type="oidc", config={"oidc": OIDC})

    def attach(auth_id: str) -> None:
        scene.world.run(cmd.AttachAuth(scene.world.meta(), scene.g, consumer.id, auth_id))

    attach(key.id)
    assert refusal(scene.put, consumer.id, routing_mode="role_based").message == (
        'resource conflict: a role_based consumer requires an identity-provider auth (oauth2 or oidc), got "api_key"'
    )
    attach(oidc.id)
    assert scene.refused(scene.put, consumer.id, routing_mode="role_based") == (
        MODE + "a role_based consumer can have at most one auth"
    )
    assert refusal(scene.put, consumer.id, type="MCP").status == 409
    scene.world.run(cmd.DetachAuth(scene.world.meta(), scene.g, consumer.id, key.id))
    assert scene.put(consumer.id, routing_mode="role_based").auth_ids == (oidc.id,)


def test_embedding_secrets_are_kept_in_the_vault_and_inherited_on_put():
    scene = Scene()
    embedding = {"provider": "openai", "model": "e", "auth": {"api_key": "embedding-secret-1", "header_name": "X"}}
    config = {
        "enabled": True,
        "algorithm": "semantic",
        "members": [{"registry_id": "A"}],
        "embedding_config": embedding,
    }
    consumer = scene.create(registries=[{"id": "A"}], model_policies=[{"registry_id": "A"}], lb_config=config)
    stored = consumer.lb_config.embedding_config.auth
    assert secrets.masked(stored) == {"api_key": "***et-1", "header_name": "X"}
    for echo in ({}, {"api_key": "***et-1"}):
        changed = scene.put(consumer.id, lb_config=config | {"embedding_config": embedding | {"auth": echo}})
        assert changed.lb_config.embedding_config.auth == {"api_key": stored["api_key"]}


def test_deleting_a_consumer_detaches_its_policies_and_frees_its_slug():
    scene = Scene()
    consumer, policy = scene.create(), scene.world.policy(scene.g)
    scene.world.run(cmd.AttachPolicy(scene.world.meta(), scene.g, consumer.id, policy.id))
    scene.world.run(cmd.DeleteConsumer(scene.world.meta(), scene.g, consumer.id))
    assert scene.world.states[scene.g].policies[policy.id].consumer_ids == ()
    assert consumer.slug not in scene.world.directory.consumer_slugs
    assert refusal(scene.world.run, cmd.DeleteConsumer(scene.world.meta(), scene.g, consumer.id)).status == 404
