"""Properties of any sequence of commands: whole references, refusals without effect, events that survive as bytes.

The commands are drawn from small pools of names, ids and bodies, so that they meet: many are refused, many accepted.
"""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.domain.world import CAPS, KEY_AUTH, OAUTH2, OIDC, OPENAI, UNKNOWN, World, convert, uid
from trustgate.domain import commands as cmd
from trustgate.domain import inputs, secrets
from trustgate.domain.entities import GatewayState
from trustgate.domain.errors import DomainError
from trustgate.domain.evolve import fold

GATEWAYS = [uid(900), uid(901)]
REGISTRIES = [uid(910 + n) for n in range(4)]
CONSUMERS = [uid(920 + n) for n in range(4)]
AUTHS = [uid(930 + n) for n in range(4)]
POLICIES = [uid(940 + n) for n in range(3)]
ROLES = [uid(950 + n) for n in range(2)]

maybe = st.sampled_from
names = st.sampled_from([f"n{number}" for number in range(12)] + [" "])
registry_ids = st.sampled_from([*REGISTRIES * 3, UNKNOWN])
flag = st.booleans()
text = st.sampled_from(["", " ", "x", "***", "***abcd", "long-secret-0001", "https://a.example"])


def body(
    required: dict[str, Any] | None = None, **members: st.SearchStrategy[Any]
) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required or {}, optional=members)


def either(*strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(*strategies)


def routed(ids: list[str]) -> dict[str, Any]:
    """A consumer that names its registries in every member."""
    first = ids[:1]
    return {
        "registries": [{"id": id_, "weight": 5} for id_ in ids],
        "model_policies": [{"registry_id": id_, "allowed": ["m1"]} for id_ in ids],
        "fallback": {"enabled": True, "triggers": ["timeout"], "chain": first},
        "lb_config": {"enabled": True, "members": [{"registry_id": id_} for id_ in ids]},
    }


def semantic(ids: list[str]) -> dict[str, Any]:
    auth = {"api_key": "embedding-secret-1"}
    config = {"enabled": True, "algorithm": "semantic", "embedding_config": {"model": "e", "auth": auth}}
    return routed(ids) | {"lb_config": config | {"members": [{"registry_id": id_} for id_ in ids]}, "fallback": None}


def equipped(ids: list[str]) -> dict[str, Any]:
    tools = [{"registry_id": id_, "tool": "t"} for id_ in ids]
    return {"type": "MCP", "registries": [{"id": id_} for id_ in ids], "toolkit": tools}


some_ids = st.lists(st.sampled_from(REGISTRIES), min_size=1, max_size=2, unique=True)
shapes = either(
    st.builds(routed, some_ids),
    st.builds(semantic, some_ids),
    st.builds(equipped, some_ids),
    maybe([{}, {"routing_mode": "role_based"}, {"routing_mode": "inline"}, {"type": "A2A"}]),
)
broken_consumers = body(
    type=maybe(["LLM", "mcp", "zz"]),
    routing_mode=maybe(["inline", "role_based"]),
    registries=st.lists(body({"id": registry_ids}, weight=maybe([0, 5])), max_size=2),
    fallback=body(enabled=flag, triggers=maybe([["timeout"], ["zz"]]), chain=st.lists(registry_ids, max_size=2)),
    lb_config=body(enabled=flag, members=st.lists(body({"registry_id": registry_ids}), max_size=2)),
    model_policies=st.lists(body({"registry_id": registry_ids}, allowed=maybe([[], ["m1"], [""]])), max_size=2),
    toolkit=st.lists(body({"registry_id": registry_ids}, tool=maybe(["t", "*"])), max_size=2),
    fail_mode=maybe(["open", "closed", "half"]),
    active=flag,
)


def named(bodies: st.SearchStrategy[Any], fresh: bool) -> st.SearchStrategy[Any]:
    """Bodies with a name: always for a creation, sometimes for a change."""
    if fresh:
        return st.builds(lambda name, sent: {"name": name, **sent}, names, bodies)
    return st.builds(lambda name, sent: ({"name": name} if name else {}) | sent, st.one_of(st.none(), names), bodies)


consumers = either(shapes, shapes, broken_consumers)
target_auths = maybe(
    [
        KEY_AUTH,
        {"type": "api_key", "api_key": {"api_key": "***0001"}},
        {"type": "azure", "azure": {"endpoint": "e", "api_key": "azure-secret-2"}},
        {"type": "azure", "azure": {"endpoint": "e"}},
        {"type": "gcp_service_account", "gcp_service_account": {"project_id": "p-long-secret"}},
        {"type": "zz"},
    ]
)
mcp_targets = either(
    maybe([{"url": "https://a.example", "auth": {"mode": "static", "header": "X", "value": "static-secret-1"}}]),
    body(url=text, headers=body(Authorization=text), auth=body(mode=maybe(["static"]), header=text, value=text)),
)
registries = either(
    body({"provider": st.just("openai"), "auth": target_auths}),
    body({"type": st.just("MCP"), "mcp_target": mcp_targets}),
    body(provider=maybe(["openai", "zz"]), auth=target_auths, health_checks=body(interval=maybe([0, 1]))),
)
auths = maybe(
    [
        {"type": "api_key"},
        {"type": "api_key", "config": {}},
        {"type": "oidc", "config": {"oidc": OIDC}},
        {"type": "oauth2", "config": {"oauth2": OAUTH2 | {"client_secret": "client-secret-1"}}},
        {"type": "oauth2", "config": {"oauth2": OAUTH2}},
        {"enabled": False},
        {"enabled": True},
    ]
)
policies = maybe(
    [
        {"slug": "limiter", "settings": {"limit": 1}},
        {"slug": "caller", "settings": {"token": "token-secret-1", "hooks": [{"key": "hook-secret-1"}]}},
        {"slug": "caller", "settings": {"token": "***et-1"}},
        {"slug": "caller", "priority": -1},
        {"enabled": True},
    ]
)
roles = either(
    maybe([{}]),
    body(
        model_policies=st.lists(body({"registry_id": registry_ids}), max_size=1),
        mcp_policies=body(toolkit=st.lists(body({"registry_id": registry_ids, "tool": maybe(["t", ""])}), max_size=1)),
    ),
)
gateways = body(
    slug=maybe(["s1", "s2", "-"]),
    domain=maybe(["", "a.example", "*"]),
    telemetry=body(exporters=st.lists(body({"name": maybe(["otlp"])}, settings=body(dsn=text)), max_size=1)),
)
fresh_gateways = st.builds(lambda sent: {"tenant_id": "t1", "entitlements": CAPS, **sent}, gateways)

META = World().meta()


def calls() -> st.SearchStrategy[cmd.Command]:
    g = st.just(GATEWAYS[0])
    any_gateway = st.sampled_from(GATEWAYS)

    def sent(kind: Any, ids: list[str], bodies: Any, type_: Any, *rest: Any) -> st.SearchStrategy[Any]:
        return st.builds(lambda g, i, b: kind(META, g, i, convert(b, type_), *rest), g, maybe(ids), bodies)

    def linked(kind: Any, first: list[str], second: list[str]) -> st.SearchStrategy[Any]:
        return st.builds(lambda g, a, b: kind(META, g, a, b), g, maybe(first), maybe([*second, UNKNOWN]))

    def gone(kind: Any, ids: list[str]) -> st.SearchStrategy[Any]:
        return st.builds(lambda g, i: kind(META, g, i), g, maybe(ids))

    slugs = ("cs000001", "cs000002", "cs000003", "cs000004", "cs000005", "cs000006")
    return st.one_of(
        st.builds(
            lambda i, b: cmd.CreateGateway(META, i, convert(b, inputs.GatewayCreate), ("s3",)), g, fresh_gateways
        ),
        st.builds(lambda i, b: cmd.UpdateGateway(META, i, convert(b, inputs.GatewayUpdate)), any_gateway, gateways),
        sent(cmd.CreateRegistry, REGISTRIES, named(registries, True), inputs.RegistryCreate),
        sent(cmd.UpdateRegistry, REGISTRIES, named(registries, False), inputs.RegistryUpdate),
        gone(cmd.DeleteRegistry, REGISTRIES),
        sent(cmd.CreateConsumer, CONSUMERS, named(consumers, True), inputs.ConsumerCreate, slugs),
        sent(cmd.UpdateConsumer, CONSUMERS, named(consumers, False), inputs.ConsumerUpdate),
        gone(cmd.DeleteConsumer, CONSUMERS),
        sent(cmd.CreateAuth, AUTHS, named(auths, True), inputs.AuthCreate, "ag_key"),
        sent(cmd.UpdateAuth, AUTHS, named(auths, False), inputs.AuthUpdate, "ag_key"),
        gone(cmd.DeleteAuth, AUTHS),
        sent(cmd.CreatePolicy, POLICIES, named(policies, True), inputs.PolicyCreate),
        sent(cmd.UpdatePolicy, POLICIES, named(policies, False), inputs.PolicyUpdate),
        gone(cmd.DeletePolicy, POLICIES),
        st.builds(lambda g, i, on: cmd.SetPolicyGlobal(META, g, i, on), g, maybe(POLICIES), flag),
        st.builds(lambda g, a, b: cmd.DuplicatePolicy(META, g, a, b), g, maybe(POLICIES), maybe(POLICIES)),
        sent(cmd.CreateRole, ROLES, named(roles, True), inputs.RoleCreate),
        sent(cmd.UpdateRole, ROLES, named(roles, False), inputs.RoleUpdate),
        gone(cmd.DeleteRole, ROLES),
        linked(cmd.AttachRegistry, CONSUMERS, REGISTRIES),
        linked(cmd.DetachRegistry, CONSUMERS, REGISTRIES),
        linked(cmd.AttachRole, CONSUMERS, ROLES),
        linked(cmd.DetachRole, CONSUMERS, ROLES),
        linked(cmd.AttachAuth, CONSUMERS, AUTHS),
        linked(cmd.DetachAuth, CONSUMERS, AUTHS),
        linked(cmd.AttachPolicy, CONSUMERS, POLICIES),
        linked(cmd.DetachPolicy, CONSUMERS, POLICIES),
        linked(cmd.AttachRoleRegistry, ROLES, REGISTRIES),
        linked(cmd.DetachRoleRegistry, ROLES, REGISTRIES),
    )


def peopled() -> st.SearchStrategy[list[cmd.Command]]:
    """Commands that fill the first gateway, then any; now and then the gateway goes."""
    fill: list[cmd.Command] = []
    first = GATEWAYS[0]
    mcp = {"type": "MCP", "mcp_target": {"url": "https://a.example"}}
    for index, id_ in enumerate(REGISTRIES):
        sent = {"name": f"r{index}", **(OPENAI if index < 3 else mcp)}
        fill.append(cmd.CreateRegistry(META, first, id_, convert(sent, inputs.RegistryCreate)))
    for index, id_ in enumerate(CONSUMERS[:3]):
        shape = (routed(REGISTRIES[:2]), equipped(REGISTRIES[3:]), {"routing_mode": "role_based"})[index]
        sent = convert({"name": f"c{index}", **shape}, inputs.ConsumerCreate)
        fill.append(cmd.CreateConsumer(META, first, id_, sent, (f"seed000{index}",)))
    for index, id_ in enumerate(AUTHS[:3]):
        shape = ({"type": "api_key"}, {"type": "oidc", "config": {"oidc": OIDC}}, {"type": "api_key"})[index]
        fill.append(cmd.CreateAuth(META, first, id_, convert({"name": "a", **shape}, inputs.AuthCreate), "ag_key"))
    fill.append(cmd.AttachAuth(META, first, CONSUMERS[1], AUTHS[0]))
    fill.append(cmd.AttachAuth(META, first, CONSUMERS[2], AUTHS[1]))
    fill.append(cmd.AttachAuth(META, first, CONSUMERS[0], AUTHS[2]))
    settings_ = {"token": "token-secret-1"}
    sent = convert({"name": "p", "slug": "caller", "settings": settings_}, inputs.PolicyCreate)
    fill.append(cmd.CreatePolicy(META, first, POLICIES[0], sent))
    fill.append(cmd.AttachPolicy(META, first, CONSUMERS[0], POLICIES[0]))
    fill.append(cmd.CreateRole(META, first, ROLES[0], convert({"name": "o"}, inputs.RoleCreate)))
    ends = maybe([[], [], [], [cmd.DeleteGateway(META, first)]])
    return st.builds(
        lambda some, end, more: fill + some + end + more,
        st.lists(calls(), min_size=10, max_size=40),
        ends,
        st.lists(calls(), max_size=3),
    )


def check_references(state: GatewayState) -> None:
    """Every id that an entity names exists in the same gateway, bindings and weights agree, names are unique."""
    for consumer in state.consumers.values():
        bound = set(consumer.registry_ids)
        assert bound <= state.registries.keys()
        assert consumer.registry_weights.keys() == bound
        assert set(consumer.role_ids) <= state.roles.keys()
        assert set(consumer.auth_ids) <= state.auths.keys()
        assert not (consumer.routing_mode == "inline" and consumer.role_ids)
        assert not (consumer.routing_mode == "role_based" and bound)
        if consumer.routing_mode == "inline":
            assert consumer.model_policies.keys() <= bound
            assert set(consumer.fallback.chain if consumer.fallback else ()) <= bound
            assert {m.registry_id for m in (consumer.lb_config.members if consumer.lb_config else ())} <= bound
        assert consumer.toolkit != ()
    for policy in state.policies.values():
        assert set(policy.consumer_ids) <= state.consumers.keys()
    for role in state.roles.values():
        bound = set(role.registry_ids)
        assert bound <= state.registries.keys()
        assert role.model_policies.keys() <= bound
        assert {entry.registry_id for entry in (role.mcp_policies.toolkit if role.mcp_policies else ())} <= bound
    for objects in (state.registries, state.consumers, state.policies, state.roles):
        names = [entity.name for entity in objects.values()]
        assert len(names) == len(set(names))
    if state.gateway is None:
        assert not (state.registries or state.consumers or state.auths or state.policies or state.roles)


def stored_refs(world: World) -> set[str]:
    """The vault references that the current states name."""
    return set(secrets.refs([msgspec.to_builtins(state) for state in world.states.values()]))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(peopled())
def test_any_sequence_of_commands_keeps_its_promises(sequence):
    """`World.run` checks besides that events survive as bytes, hold no secret, and fold to the decision's state."""
    world = World()
    for id_, slug in zip(GATEWAYS, ("g1", "g2"), strict=True):
        sent = convert({"slug": slug, "tenant_id": "t1", "entitlements": CAPS}, inputs.GatewayCreate)
        world.run(cmd.CreateGateway(META, id_, sent))
    for command in sequence:
        before, directory, vault = dict(world.states), world.directory, dict(world.vault)
        try:
            world.run(command)
        except DomainError as error:
            assert error.status in (404, 409, 422)
            assert (world.states, world.directory, world.vault) == (before, directory, vault)
            continue
        for state in world.states.values():
            check_references(state)
        assert stored_refs(world) == world.vault.keys()
    living = {id_: state for id_, state in world.states.items() if state.gateway is not None}
    assert world.directory.gateways.keys() == living.keys()
    assert world.directory.slugs == {s.gateway.slug: id_ for id_, s in living.items() if s.gateway}
    assert world.directory.consumer_slugs == {
        consumer.slug: id_ for id_, state in living.items() for consumer in state.consumers.values()
    }


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(peopled())
def test_every_prefix_of_a_log_folds_to_a_state_with_whole_references(sequence):
    world = World()
    sent = convert({"slug": "g1", "tenant_id": "t1", "entitlements": CAPS}, inputs.GatewayCreate)
    world.run(cmd.CreateGateway(META, GATEWAYS[0], sent))
    log = list(world.log[:1])
    for command in sequence:
        if cmd.gateway_of(command) != GATEWAYS[0]:
            continue
        try:
            log += world.run(command).gateway
        except DomainError:
            continue
    state = fold(())
    for event in log:
        state = fold((event,), state)
        check_links(state)
    assert state == world.states[GATEWAYS[0]]


def check_links(state: GatewayState) -> None:
    """What holds even in the middle of a cascade."""
    for consumer in state.consumers.values():
        assert set(consumer.registry_ids) <= state.registries.keys()
        assert set(consumer.auth_ids) <= state.auths.keys()
        assert set(consumer.role_ids) <= state.roles.keys()
    for policy in state.policies.values():
        assert set(policy.consumer_ids) <= state.consumers.keys()
