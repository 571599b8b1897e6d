"""Registries: creation, PUT, deletion with pruning, connection test requests (spec 01 §4, §6)."""

from __future__ import annotations

import pytest

from tests.domain.world import KEY_AUTH, MCP, NIL, OPENAI, UNKNOWN, World, convert, message, refusal
from trustgate.domain import commands as cmd
from trustgate.domain import inputs, secrets
from trustgate.domain.decide_registry import probe_target
from trustgate.domain.decision import Context

HEALTH = {"passive": True, "threshold": 1, "interval": 1}

REFUSED_CREATES = [
    ({"name": " ", **MCP, "mcp_target": None}, "name is required: VF"),
    ({"name": "é" * 128}, "name too long (max 255): VF"),
    ({"type": "mcp"}, "mcp_target is required for MCP registries: VF"),
    ({"type": "grpc", **OPENAI}, 'registry: invalid backend: VF: unsupported type "GRPC"'),
    ({"provider": " ", "auth": KEY_AUTH}, "provider is required: VF"),
    ({"provider": "openai"}, "auth is required: VF"),
    ({"provider": "nope", "auth": {"type": "x"}}, 'registry: invalid backend: VF: unknown auth type "x"'),
    (
        {"provider": "openai_compatible", "auth": KEY_AUTH},
        "registry: invalid backend: VF: openai_compatible: base_url is required",
    ),
    ({"provider": "OpenAI", "auth": KEY_AUTH}, 'registry: invalid backend: VF: unsupported provider "OpenAI"'),
    (
        OPENAI | {"health_checks": HEALTH | {"interval": 0, "threshold": 0}},
        "registry: invalid health checks: VF: health_checks.interval must be positive",
    ),
    (
        OPENAI | {"health_checks": HEALTH | {"threshold": -1}},
        "registry: invalid health checks: VF: health_checks.threshold must be positive",
    ),
    (OPENAI | {"provider_options": {"a": {"$secret": "x"}}}, 'member name "$secret" is reserved: VF'),
]


@pytest.mark.parametrize(("body", "expected"), REFUSED_CREATES)
def test_creation_is_refused_with_the_first_broken_rule(body, expected):
    world = World()
    g = world.gateway().id
    name = body.pop("name", "r") if "name" in body else "r"
    assert message(world.registry, g, name, **body) == expected


def test_names_are_unique_per_gateway_and_case_sensitive():
    world = World()
    g, other = world.gateway().id, world.gateway().id
    world.registry(g, "a")
    world.registry(g, "A")
    world.registry(other, "a")
    taken = refusal(world.registry, g, "a")
    assert (taken.status, taken.code, taken.message) == (409, "already_exists", "registry: resource already exists")


def test_creation_in_an_unknown_gateway_is_refused_after_the_body_checks():
    world = World()
    assert message(world.registry, UNKNOWN) == "registry: invalid gateway_id: VF"
    assert message(world.registry, UNKNOWN, provider="x") == "auth is required: VF"


def test_each_type_ignores_the_members_of_the_other():
    world = World()
    g = world.gateway().id
    llm = world.registry(g, **OPENAI, mcp_target={"url": "nope"})
    assert (llm.type, llm.mcp_target) == ("LLM", None)
    mcp = world.registry(g, type=" mcp ", provider="nope", mcp_target={"url": "https://a.example"})
    assert (mcp.type, mcp.llm_target) == ("MCP", None)
    assert mcp.mcp_target is not None and mcp.mcp_target.auth == {"mode": "none"}


REFUSED_PUTS = [
    ({"name": ""}, "name is required: VF"),
    ({"name": "x" * 256}, "name too long (max 255): VF"),
    ({"name": "other"}, "registry: resource already exists"),
    ({"provider": " "}, "provider is required: VF"),
    ({"provider": "zz"}, 'registry: invalid backend: VF: unsupported provider "zz"'),
    ({"mcp_target": {"url": "x"}}, "registry: invalid backend: VF: mcp_target is only valid for MCP registries"),
    (
        {"health_checks": {"threshold": 1}},
        "registry: invalid health checks: VF: health_checks.interval must be positive",
    ),
]


@pytest.mark.parametrize(("body", "expected"), REFUSED_PUTS)
def test_a_put_is_refused_with_the_first_broken_rule(body, expected):
    world = World()
    g = world.gateway().id
    world.registry(g, "other")
    assert message(world.put_registry, g, world.registry(g).id, **body) == expected


@pytest.mark.parametrize(
    "body", [{"provider": "openai"}, {"provider_options": {}}, {"auth": KEY_AUTH}, {"health_checks": HEALTH}]
)
def test_llm_members_are_refused_on_an_mcp_registry(body):
    world = World()
    g = world.gateway().id
    assert message(world.put_registry, g, world.registry(g, **MCP).id, **body) == (
        "registry: invalid backend: VF: llm_target is only valid for LLM registries"
    )


def test_a_put_on_an_unknown_registry_is_404_after_the_body_checks_and_422_when_it_is_of_another_gateway():
    world = World()
    g, other = world.gateway().id, world.gateway().id
    foreign = world.registry(other).id
    assert message(world.put_registry, g, UNKNOWN, name="") == "name is required: VF"
    assert refusal(world.put_registry, g, UNKNOWN).status == 404
    assert message(world.put_registry, g, foreign) == "registry: invalid gateway_id: VF"
    assert refusal(world.run, cmd.DeleteRegistry(world.meta(), g, foreign)).status == 404


def test_a_put_replaces_what_it_names_and_keeps_the_rest():
    world = World()
    g = world.gateway().id
    old = world.registry(g, "r", **OPENAI, description="d", provider_options={"a": 2**70}, health_checks=HEALTH)
    empty = world.put_registry(g, old.id)
    assert empty.updated_at > old.updated_at
    assert empty.llm_target == old.llm_target
    new = world.put_registry(g, old.id, enabled=False, description="", provider="groq", provider_options={})
    assert (new.enabled, new.description, new.type) == (False, "", "LLM")
    assert new.llm_target is not None and old.llm_target is not None
    assert (new.llm_target.provider, new.llm_target.provider_options) == ("groq", {})
    assert new.llm_target.auth == old.llm_target.auth


ACCOUNT = {"type": "gcp_service_account", "gcp_service_account": {"project_id": "p-1", "a": 1}}


def test_the_project_of_a_service_account_is_filled_in_where_none_is_named():
    world = World()
    g = world.gateway().id

    def options(**body):
        target = world.registry(g, provider="vertex", auth=ACCOUNT, **body).llm_target
        assert target is not None
        return target.provider_options

    assert options() == {"project": "p-1"}
    assert options(provider_options={"project": " ", "location": "eu"}) == {"project": "p-1", "location": "eu"}
    assert options(provider_options={"project": "mine"}) == {"project": "mine"}
    registry = world.registry(g, provider="vertex", auth=ACCOUNT)
    expected = "registry: invalid backend: VF: vertex: provider_options.project is required"
    assert message(world.put_registry, g, registry.id, provider_options={"location": "eu"}) == expected
    world.put_registry(g, registry.id, provider_options={"location": "eu"}, auth=ACCOUNT)


def test_a_registry_bound_to_a_role_or_in_an_active_chain_is_not_deleted():
    world = World()
    g = world.gateway().id
    bound, chained = world.registry(g).id, world.registry(g).id
    role = world.role(g)
    world.run(cmd.AttachRoleRegistry(world.meta(), g, role.id, bound))
    consumer = world.consumer(g, registries=[{"id": chained}], fallback={"enabled": False, "chain": [chained]})
    for id_ in (bound, chained):
        blocked = refusal(world.run, cmd.DeleteRegistry(world.meta(), g, id_))
        assert (blocked.status, blocked.code) == (409, "has_dependents")
        assert blocked.message == "registry: resource has dependents"
    world.put_consumer(g, consumer.id, active=False)
    world.run(cmd.DeleteRegistry(world.meta(), g, chained))
    assert refusal(world.run, cmd.DeleteRegistry(world.meta(), g, chained)).status == 404


def test_deleting_a_registry_prunes_every_reference_and_leaves_valid_consumers():
    world = World()
    g = world.gateway().id
    a, b = world.registry(g).id, world.registry(g).id
    consumer = world.consumer(
        g,
        registries=[{"id": a}, {"id": b, "weight": 7}],
        model_policies=[{"registry_id": a}, {"registry_id": b}],
        lb_config={
            "enabled": True,
            "algorithm": "smart-routing",
            "members": [{"registry_id": a}, {"registry_id": b}],
            "smart_routing": {"tiers": [{"min_score": 0, "registry_id": a}]},
        },
        active=False,
        fallback={"enabled": True, "triggers": ["timeout"], "chain": [a]},
    )
    world.run(cmd.DeleteRegistry(world.meta(), g, a))
    left = world.states[g].consumers[consumer.id]
    assert (left.registry_ids, left.registry_weights, list(left.model_policies)) == ((b,), {b: 7}, [b])
    assert left.fallback is not None and (left.fallback.enabled, left.fallback.chain) == (False, ())
    assert left.lb_config is not None and left.lb_config.enabled is False
    assert [member.registry_id for member in left.lb_config.members] == [b]
    assert left.updated_at == consumer.updated_at
    world.put_consumer(g, consumer.id, name="still editable")


def test_a_toolkit_that_only_named_a_deleted_registry_does_not_open_the_others():
    world = World()
    g = world.gateway().id
    a, b = world.registry(g, **MCP).id, world.registry(g, **MCP).id
    tools = [{"registry_id": a, "tool": "x"}]
    narrow = world.consumer(g, type="MCP", registries=[{"id": a}, {"id": b}], toolkit=tools)
    alone = world.consumer(g, type="MCP", registries=[{"id": a}], toolkit=tools)
    mixed = world.consumer(
        g, type="MCP", registries=[{"id": a}, {"id": b}], toolkit=[*tools, {"registry_id": b, "tool": "y"}]
    )
    world.run(cmd.DeleteRegistry(world.meta(), g, a))
    consumers = world.states[g].consumers
    assert [entry.registry_id for entry in consumers[mixed.id].toolkit or ()] == [b]
    assert consumers[alone.id].toolkit is None
    assert consumers[narrow.id].toolkit == narrow.toolkit
    assert world.put_consumer(g, narrow.id, name="renamed").toolkit == narrow.toolkit
    assert world.put_consumer(g, narrow.id, toolkit=[{"registry_id": b, "tool": "y"}]).toolkit != narrow.toolkit


REFUSED_PROBES = [
    ({"registry_id": UNKNOWN, "provider": "openai"}, "registry_id cannot be combined with provider/auth: VF"),
    ({"registry_id": "x"}, "invalid registry_id: VF"),
    ({"registry_id": NIL}, ""),
    ({}, "provider is required when registry_id is not set: VF"),
    ({"provider": "openai"}, "auth is required when registry_id is not set: VF"),
    ({"provider": "openai", "auth": {"type": "zz"}}, 'registry: invalid backend: VF: unknown auth type "zz"'),
    ({"provider": "zz", "auth": KEY_AUTH}, 'unsupported provider "zz": VF'),
]


@pytest.mark.parametrize(("body", "expected"), REFUSED_PROBES)
def test_a_connection_test_is_refused_with_the_first_broken_rule(body, expected):
    world = World()
    context = Context(catalog=world.catalog, fingerprint=str)
    g = world.gateway().id
    assert message(probe_target, world.state(g), convert(body, inputs.ConnectionTest), context) == expected


def test_a_connection_test_addresses_a_stored_registry_or_a_body():
    world = World()
    context = Context(catalog=world.catalog, fingerprint=str)
    g = world.gateway().id
    llm, mcp = world.registry(g), world.registry(g, **MCP)

    def probe(**body):
        return probe_target(world.state(g), convert(body, inputs.ConnectionTest), context)

    assert [*secrets.refs(probe(registry_id=llm.id.replace("-", "").upper()).auth)] == list(world.vault)
    assert message(probe, registry_id=mcp.id) == 'unsupported provider "": VF'
    assert probe(**OPENAI).auth == KEY_AUTH
    assert probe(provider="vertex", auth=ACCOUNT).options == {"project": "p-1"}
    oauth = {"type": "oauth2", "oauth": {"token_url": "https://t.example", "grant_type": "g"}}
    assert probe(provider="zz", auth=oauth).auth == oauth
