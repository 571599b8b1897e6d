"""A file says all of a gateway: applying an export changes nothing, and an export builds the gateway anew."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from msgspec.structs import replace

from tests.configfile.difference import diff
from tests.domain.test_properties import CAPS, GATEWAYS, META, peopled
from tests.domain.world import World, convert, uid
from trustgate.commands.configure import yaml_of
from trustgate.configfile.compiling import Choices, Compiled, Compiler
from trustgate.configfile.document import document, named
from trustgate.configfile.reading import FileError, read
from trustgate.domain import commands as cmd
from trustgate.domain import inputs, secrets
from trustgate.domain.decision import Context
from trustgate.domain.directory import DirectoryState
from trustgate.domain.entities import GatewayState
from trustgate.domain.errors import DomainError
from trustgate.domain.evolve import EMPTY

GATEWAY = GATEWAYS[0]


def fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compiled(
    text: str, world: World, present: GatewayState, directory: DirectoryState | None = None, *, again: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Compiled:  # fmt: skip
    numbers = itertools.count(5000)
    choices = Choices(
        new_id=lambda: uid(next(numbers)), new_gateway_id=lambda: uid(next(numbers)),
        slugs=lambda: ("new00001", "new00002"), key=lambda: "ag_new",
    )  # fmt: skip
    context = Context(catalog=world.catalog, fingerprint=fingerprint, owner=world.owner)
    known = {fingerprint(value): value for value in world.vault.values()}
    listing = world.directory if directory is None else directory
    source = read(text, "gateway.yaml")
    return Compiler(source, present, listing, context, META, environ or {}, known, choices, again=again).compile()


def filled(sequence: list[Any]) -> World:
    world = World()
    sent = convert({"slug": "g1", "tenant_id": "t1", "entitlements": CAPS}, inputs.GatewayCreate)
    world.run(cmd.CreateGateway(META, GATEWAY, sent))
    for command in sequence:
        try:
            world.run(command)
        except DomainError:
            continue
    return world


def timeless(state: GatewayState) -> Any:
    """A state without versions, times and the places of secrets in the vault."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: bare(item) for name, item in value.items() if name not in ("created_at", "updated_at", "version")
            }
        return [bare(item) for item in value] if isinstance(value, list) else value

    return bare(secrets.replace(msgspec.to_builtins(state), lambda ref: ref["fp"]))


@settings(
    max_examples=25,
    phases=(Phase.explicit, Phase.generate),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(peopled())
def test_applying_an_export_is_a_no_op(sequence: list[Any]) -> None:
    world = filled(sequence)
    present = world.state(GATEWAY)
    if present.gateway is None:
        return
    wanted = compiled(yaml_of(named(document(present))), world, present)
    decision = world.run(cmd.ApplyGateway(META, GATEWAY, wanted.state, wanted.secrets))
    assert (decision.gateway, decision.directory, decision.forgotten) == ((), (), ())


@settings(
    max_examples=25,
    phases=(Phase.explicit, Phase.generate),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(peopled())
def test_what_is_decided_again_from_an_export_is_the_same(sequence: list[Any]) -> None:
    """Every object through its decider: the file leaves nothing out. Objects that the API of today would refuse as a
    whole (a consumer that lost what its body names) are refused here too, and with their place."""
    world = filled(sequence)
    present = world.state(GATEWAY)
    if present.gateway is None:
        return
    try:
        wanted = compiled(yaml_of(named(document(present))), world, present, again=True)
    except FileError as error:
        assert "gateway.yaml:" in str(error) and "[" in str(error)
        return
    changes = diff(present, replace(wanted.state, version=present.version))
    # A service account names its project when it is decided anew.
    assert [change for change in changes if change.path != "llm_target.provider_options"] == []
    assert not wanted.secrets


def test_an_export_builds_the_gateway_in_an_empty_installation() -> None:
    world = filled(peopled_fill())
    present = world.state(GATEWAY)
    empty = World()
    empty.vault = world.vault
    wanted = compiled(yaml_of(named(document(present))), empty, EMPTY, DirectoryState())
    other = World()
    other.run(cmd.ApplyGateway(META, GATEWAY, wanted.state, wanted.secrets))
    assert timeless(other.state(GATEWAY)) == timeless(present)
    assert other.directory.consumer_slugs == world.directory.consumer_slugs
    assert sorted(other.vault.values()) == sorted(wanted.secrets.values())


def peopled_fill() -> list[Any]:
    """The commands that fill a gateway, without the random ones."""
    from tests.domain.test_properties import AUTHS, CONSUMERS, POLICIES, REGISTRIES, ROLES, routed
    from tests.domain.world import OPENAI

    first = [
        cmd.CreateRegistry(META, GATEWAY, id_, convert({"name": f"r{index}", **OPENAI}, inputs.RegistryCreate))
        for index, id_ in enumerate(REGISTRIES[:3])
    ]
    body = convert({"name": "c0", **routed(REGISTRIES[:2]), "headers": {"x": "${y}"}}, inputs.ConsumerCreate)
    bounds = {"expires_at": "2027-01-01T00:00:00Z", "allowed_cidrs": ["10.0.0.0/8"]}
    auth = convert({"name": "key", "type": "api_key", **bounds}, inputs.AuthCreate)
    policy = convert({"name": "p", "slug": "caller", "settings": {"token": "token-secret-1"}}, inputs.PolicyCreate)
    role = convert({"name": "o"}, inputs.RoleCreate)
    return [
        *first,
        cmd.CreateConsumer(META, GATEWAY, CONSUMERS[0], body, ("seed0000",)),
        cmd.CreateAuth(META, GATEWAY, AUTHS[0], auth, "ag_key"),
        cmd.AttachAuth(META, GATEWAY, CONSUMERS[0], AUTHS[0]),
        cmd.CreatePolicy(META, GATEWAY, POLICIES[0], policy),
        cmd.AttachPolicy(META, GATEWAY, CONSUMERS[0], POLICIES[0]),
        cmd.CreateRole(META, GATEWAY, ROLES[0], role),
        cmd.AttachRoleRegistry(META, GATEWAY, ROLES[0], REGISTRIES[2]),
    ]


FILE = """\
trustgate: 1
gateway:
  slug: shop
  tenant_id: t1
registries:
  - name: main
    provider: openai
    auth: {type: api_key, api_key: {api_key: "${OPENAI_KEY}"}}
auths:
  - name: key
    type: api_key
    api_key: ${CLIENT_KEY}
consumers:
  - name: app
    registries: [{id: main}]
    auths: [key]
policies:
  - name: limit
    slug: limiter
    settings: {limit: 5}
    consumers: [app]
"""
ENVIRON = {"OPENAI_KEY": "sk-long-secret-0001", "CLIENT_KEY": "ag_client-key-0001"}


def test_a_file_written_by_hand_makes_a_gateway_with_names_for_ids_and_secrets_from_the_environment() -> None:
    wanted = compiled(FILE, World(), EMPTY, environ=ENVIRON)
    state = wanted.state
    (consumer,), (auth,), (policy,) = (
        tuple(getattr(state, kind).values()) for kind in ("consumers", "auths", "policies")
    )
    assert consumer.registry_ids == tuple(state.registries) and consumer.auth_ids == (auth.id,)
    assert auth.key_hash == hashlib.sha256(b"ag_client-key-0001").hexdigest()
    assert policy.consumer_ids == (consumer.id,)
    assert list(wanted.secrets.values()) == ["sk-long-secret-0001"]
    assert b"sk-long" not in msgspec.json.encode(state)


def test_what_a_file_does_not_hold_is_deleted_and_a_member_it_does_not_name_has_its_default() -> None:
    world = World()
    wanted = compiled(FILE, world, EMPTY, environ=ENVIRON)
    assert wanted.state.gateway is not None
    id_ = wanted.state.gateway.id
    world.run(cmd.ApplyGateway(META, id_, wanted.state, wanted.secrets))
    smaller = FILE[: FILE.index("policies:")].replace(
        "  - name: main\n", "  - name: main\n    description: now with a text\n"
    )
    wanted = compiled(smaller, world, world.state(id_), environ=ENVIRON)
    decision = world.run(cmd.ApplyGateway(META, id_, wanted.state, wanted.secrets))
    assert [type(event.data).__name__ for event in decision.gateway] == ["RegistryUpdated", "PolicyDeleted"]
    assert not wanted.secrets, "an unchanged secret keeps its place in the vault"
    wanted = compiled(FILE[: FILE.index("policies:")], world, world.state(id_), environ=ENVIRON)
    assert [registry.description for registry in wanted.state.registries.values()] == [""]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("trustgate: 1", "trustgate: 2", "gateway.yaml:1:1: trustgate: must be 1"),
        ("  slug: shop\n", "", "gateway.yaml:2:1: gateway: slug is required"),
        ("    provider: openai", "    providr: openai", "7:5: registries[0].providr: unknown member, did you mean"),
        ("settings: {limit: 5}", "settings: {limit: 0}", "gateway.yaml:18:5: policies[0]: limit: validation failed"),
        ("    provider: openai", "    provider: 5", "7:5: registries[0].provider: expected a text, found a number"),
        ("[{id: main}]", "[{id: other}]", "registries[0].id: the file has no 'other' among its registries"),
        ("auths: [key]", "auths: key", "consumers[0].auths: expected a list, found a text"),
        ("${OPENAI_KEY}", "${NOT_SET}", "auth.api_key.api_key: the environment has no variable NOT_SET"),
        ("${OPENAI_KEY}", "${secret:0123456789abcdef}", "no secret with the fingerprint 0123456789abcdef"),
        ("${OPENAI_KEY}", "${a b}", "is neither a variable nor secret:FINGERPRINT"),
        ("${OPENAI_KEY}", "***0001", "registries[0]: main:"),
        ("    api_key: ${CLIENT_KEY}\n", "", "auths[0]: an API key auth needs key_hash"),
        ("name: app", "name: app\n    name: again", "consumers[0].name: is there twice"),
        ("  - name: key", "  - name: ''", "auths[0]: name is required"),
        ("slug: shop", "slug: &a shop\n  domain: *a", "gateway.domain: YAML aliases are not supported"),
        ("slug: shop", "slug: [", "gateway.yaml:"),
        ("policies:", "---\npolicies:", "expected one YAML document, found 2"),
    ],
)  # fmt: skip
def test_a_faulty_file_is_refused_with_line_column_and_path(old: str, new: str, fault: str) -> None:
    assert old in FILE
    with pytest.raises(FileError) as refused:
        source = FILE.replace(old, new, 1)
        from trustgate.configfile.compiling import gateway_named

        gateway_named(read(source, "gateway.yaml"), DirectoryState())
        compiled(source, World(), EMPTY, environ=ENVIRON)
    assert fault in str(refused.value)
    assert "sk-long-secret" not in str(refused.value)
