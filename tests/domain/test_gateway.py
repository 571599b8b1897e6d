"""Gateways: checks in their order, plan, uniqueness (spec 01 §5)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.domain.world import CAPS, UNKNOWN, World, message, refusal
from trustgate.domain import commands as cmd

EXPORTER = {"name": "otlp", "settings": {"endpoint": "x:4317"}}

REFUSED_CREATES = [
    (
        {"entitlements": CAPS | {"tier": "gold"}},
        "gateway: entitlements.tier must be one of free, standard, enterprise: VF",
    ),
    (
        {"entitlements": {"tier": "free", "quota_per_month": 0}},
        "gateway: entitlements stamped limits must set burst_per_min, quota_per_month, and max_instances together: VF",
    ),
    ({"entitlements": CAPS | {"burst_per_min": 0}}, "gateway: entitlements.burst_per_min must be > 0: VF"),
    ({"entitlements": CAPS | {"quota_per_month": -1}}, "gateway: entitlements.quota_per_month must be >= 0: VF"),
    ({"entitlements": CAPS | {"max_instances": -1}}, "gateway: entitlements.max_instances must be >= 0: VF"),
    (
        {"entitlements": {"tier": "free"}},
        "gateway: entitlements must include burst_per_min, quota_per_month, and max_instances: VF",
    ),
    (
        {"slug": "-", "entitlements": CAPS | {"tier": "x"}},
        "gateway: entitlements.tier must be one of free, standard, enterprise: VF",
    ),
    ({"slug": "-a"}, "slug must be a lowercase DNS label: VF"),
    ({"slug": "a_b", "tenant_id": None}, "slug must be a lowercase DNS label: VF"),
    ({"slug": "x" * 64}, "slug must be a lowercase DNS label: VF"),
    ({"slug": "é"}, "slug must be a lowercase DNS label: VF"),
    ({"tenant_id": "  "}, "tenant_id is required: VF"),
    ({"tenant_id": "", "telemetry": {"exporters": [{"name": "zz"}]}}, "tenant_id is required: VF"),
    ({"telemetry": {"exporters": [EXPORTER, EXPORTER]}}, 'duplicate telemetry exporter "otlp": VF'),
    ({"telemetry": {"exporters": [{"name": "zz"}]}}, 'invalid telemetry exporter: unknown exporter "zz": VF'),
    (
        {"entitlements": None, "telemetry": {"exporters": [{"name": "zz"}]}},
        'invalid telemetry exporter: unknown exporter "zz": VF',
    ),
    ({"entitlements": None, "domain": "*.a"}, "entitlements are required for platform create: VF"),
    (
        {"domain": "https://a.b"},
        'gateway: invalid domain: VF: "https://a.b" must be a bare hostname (no scheme, port or path)',
    ),
    ({"domain": "a b"}, 'gateway: invalid domain: VF: "a b" must be a bare hostname (no scheme, port or path)'),
    ({"domain": "*.a.b"}, 'gateway: invalid domain: VF: "*.a.b" wildcard domains are not supported'),
    ({"domain": "a.b."}, 'gateway: invalid domain: VF: "a.b." must not start or end with a dot'),
    ({"domain": "a_b.c"}, 'gateway: invalid domain: VF: "a_b.c" contains invalid hostname characters'),
    ({"client_tls": {"a": [{"$secret": "x"}]}}, 'member name "$secret" is reserved: VF'),
    ({"metadata": {"$secret": "x"}}, 'member name "$secret" is reserved: VF'),
]


@pytest.mark.parametrize(("body", "expected"), REFUSED_CREATES)
def test_creation_is_refused_with_the_first_broken_rule(body, expected):
    assert message(World().gateway, **body) == expected


def test_a_created_gateway_has_normalised_members_and_defaults():
    gateway = World().gateway(
        " t-1 ", slug=" V-A ", domain=" LLM.Example ", metadata={"env": "prod", "tenant_id": "evil", "team_id": "x"}
    )
    assert (gateway.slug, gateway.domain, gateway.status) == ("v-a", "llm.example", "active")
    assert gateway.metadata == {"env": "prod", "tenant_id": "t-1"}
    assert gateway.session_config is not None and gateway.session_config.enabled is True
    assert gateway.created_at == gateway.updated_at
    assert gateway.telemetry is None


def test_unset_members_of_telemetry_are_kept_as_null_and_false():
    assert World().gateway(telemetry={"extra_params": {"a": "b"}}).telemetry == {
        "exporters": None,
        "extra_params": {"a": "b"},
        "enable_plugin_traces": False,
        "enable_request_traces": False,
        "header_mapping": None,
    }


@pytest.mark.parametrize("sent", [True, False])
def test_capture_bodies_is_kept_where_it_was_sent(sent: bool):
    telemetry = World().gateway(telemetry={"capture_bodies": sent}).telemetry
    assert telemetry is not None and telemetry["capture_bodies"] is sent


def test_a_blank_slug_takes_the_first_free_candidate():
    world = World()
    world.gateway(slug="taken")
    gateway_id = world.id()
    sent = cmd.CreateGateway(world.meta("t"), gateway_id, cmd.inputs.GatewayCreate(), ("taken", "free"))
    world.run(sent)
    assert world.directory.slugs["free"] == gateway_id


def test_slugs_and_domains_are_unique_across_gateways():
    world = World()
    first, second = world.gateway(slug="a", domain="a.example"), world.gateway(slug="b")
    taken = refusal(world.gateway, slug=" A ")
    assert (taken.status, taken.code) == (409, "already_exists")
    assert taken.message == "gateway: resource already exists: the slug is already taken"
    assert message(world.gateway, domain="A.example") == "gateway: resource already exists"
    assert message(world.put_gateway, second.id, slug="a") == taken.message
    assert message(world.put_gateway, second.id, domain="a.example") == "gateway: resource already exists"
    world.put_gateway(first.id, slug="c", domain="")
    assert world.gateway(slug="a", domain="a.example").slug == "a"


def test_a_tenant_creates_in_its_own_name_and_without_a_plan():
    world = World()
    assert world.gateway(as_tenant="t", tenant_id=" t ").tenant_id == "t"
    assert message(world.gateway, as_tenant="t", tenant_id="o") == "tenant_id does not match authenticated tenant: VF"
    expected = "entitlements may only be set by platform admins: VF"
    assert message(world.gateway, as_tenant="t", entitlements=CAPS) == expected
    gateway = world.gateway(as_tenant="t")
    assert message(world.put_gateway, gateway.id, "t", entitlements=CAPS) == expected


def test_a_free_gateway_inherits_the_whole_plan_of_its_tenants_highest_tier():
    world = World()
    world.gateway(entitlements=CAPS | {"tier": "enterprise", "burst_per_min": 1})
    newest = world.gateway(entitlements=CAPS | {"tier": "Enterprise ", "burst_per_min": 2})
    world.gateway(entitlements=CAPS | {"tier": "standard", "burst_per_min": 3})
    assert world.gateway().entitlements == newest.entitlements
    assert world.gateway(as_tenant="t").entitlements == newest.entitlements
    assert world.gateway(as_tenant="other").entitlements.burst_per_min is None


@pytest.mark.parametrize("as_tenant", [None, "t"])
def test_the_instance_cap_of_a_tenant_holds(as_tenant):
    world = World()
    plan = CAPS | {"tier": "standard", "max_instances": 1}
    first = world.gateway(entitlements=plan)
    reached = refusal(world.gateway, as_tenant=as_tenant)
    assert (reached.status, reached.code) == (409, "conflict")
    assert reached.message == "ratelimit: instance limit reached: resource conflict"
    world.put_gateway(first.id, entitlements=plan | {"max_instances": 2})
    world.gateway(as_tenant=as_tenant)
    assert message(world.put_gateway, first.id, entitlements=plan) == reached.message
    assert world.put_gateway(first.id, status="x").status == "x"


def test_without_rate_limiting_the_cap_is_not_counted():
    world = World(limits_enabled=False)
    plan = CAPS | {"tier": "standard", "max_instances": 1}
    assert world.gateway(entitlements=plan).id != world.gateway(entitlements=plan).id


REFUSED_PUTS = [
    ({"slug": " "}, "slug is required: VF"),
    ({"slug": "a_b"}, "slug must be a lowercase DNS label: VF"),
    (
        {"domain": "http://x"},
        'gateway: invalid domain: VF: "http://x" must be a bare hostname (no scheme, port or path)',
    ),
    ({"telemetry": {"exporters": [{"name": "zz"}]}}, 'invalid telemetry exporter: unknown exporter "zz": VF'),
]


@pytest.mark.parametrize(("body", "expected"), REFUSED_PUTS)
def test_a_put_is_refused_with_the_first_broken_rule(body, expected):
    world = World()
    assert message(world.put_gateway, world.gateway().id, **body) == expected


def test_a_put_replaces_what_it_names_and_keeps_the_rest():
    world = World()
    old = world.gateway(slug="a", domain="a.example", metadata={"a": "1"}, client_tls={"x": 1})
    empty = world.put_gateway(old.id)
    assert empty.updated_at > old.updated_at
    assert (empty.slug, empty.domain, empty.metadata, empty.client_tls) == ("a", "a.example", old.metadata, {"x": 1})
    new = world.put_gateway(old.id, status="", metadata={"b": "2"}, client_tls={}, session_config={"header_name": "X"})
    assert new.metadata == {"b": "2", "tenant_id": "t"}
    assert new.client_tls == {}
    assert new.session_config is not None and new.session_config.enabled is None
    assert world.put_gateway(old.id, metadata={}).metadata == {"tenant_id": "t"}


def test_an_unknown_gateway_is_not_found():
    world = World()
    assert refusal(world.put_gateway, UNKNOWN).status == 404
    assert refusal(world.run, cmd.DeleteGateway(world.meta(), UNKNOWN)).code == "not_found"


def test_a_deleted_gateway_frees_its_slugs_and_leaves_nothing():
    world = World()
    gateway = world.gateway(slug="a", domain="a.example")
    consumer = world.consumer(gateway.id)
    world.run(cmd.DeleteGateway(world.meta(), gateway.id))
    state = world.state(gateway.id)
    assert state.gateway is None and not state.consumers
    assert state.version == 3
    assert not world.directory.slugs and not world.directory.domains and not world.directory.gateways
    assert consumer.slug not in world.directory.consumer_slugs


def test_exporter_secrets_are_kept_in_the_vault_and_an_echoed_mask_keeps_them():
    world = World()
    secret = {"name": "otlp", "settings": {"endpoint": "x:1", "headers": {"authorization": "Bearer long-secret"}}}
    gateway = world.gateway(telemetry={"exporters": [secret]})
    assert list(world.vault.values()) == ["Bearer long-secret"]
    echo = {"name": "otlp", "settings": {"endpoint": "y:1", "headers": {"authorization": "***cret"}}}
    changed = world.put_gateway(gateway.id, telemetry={"exporters": [echo]})
    assert changed.telemetry is not None and gateway.telemetry is not None
    kept = changed.telemetry["exporters"][0]["settings"]
    assert kept["endpoint"] == "y:1"
    assert kept["headers"] == gateway.telemetry["exporters"][0]["settings"]["headers"]
    assert message(world.gateway, telemetry={"exporters": [echo]}) == (
        'invalid telemetry exporter: exporter "otlp": secret cannot be a masked value;'
        " omit the field to keep the stored value: VF"
    )


@pytest.mark.parametrize(
    ("extra", "member"),
    [
        ({"settings": {"dsn": "postgres://x"}}, "settings.dsn"),
        ({"settings": {"dsn_env": "HOME"}}, "settings.dsn_env"),
        ({"settings": {"tls": {"ca_file": "/etc/passwd"}}}, "settings.tls.ca_file"),
        ({"settings": {"path": "/etc/passwd"}}, "settings.path"),
        ({"settings": {"sasl": {"password_env": "HOME"}}}, "settings.sasl.password_env"),
        ({"class": "raw"}, "class"),
    ],
)
def test_a_tenant_may_echo_but_not_set_what_reaches_into_the_host(extra, member):
    world = World()
    exporters = {"exporters": [{"name": "otlp", "type": "otlp", **extra}]}
    assert message(world.gateway, as_tenant="t", telemetry=exporters) == (
        f'invalid telemetry exporter: exporter "otlp": {member} may only be set by platform admins: VF'
    )
    gateway = world.gateway(telemetry=exporters)
    echo = {"exporters": [{"name": "otlp", "type": "otlp", **extra}]}
    if "dsn" in extra.get("settings", {}):
        echo["exporters"][0]["settings"] = {"dsn": "***//x"}
    assert world.put_gateway(gateway.id, "t", telemetry=echo).telemetry == gateway.telemetry


def test_exporters_that_a_tenant_names_are_confined_and_stay_so_until_the_platform_sets_them():
    world = World()
    own = {"exporters": [{"name": "otlp", "type": "otlp", "settings": {"endpoint": "x:1"}}]}
    other = {"exporters": [{"name": "otlp", "type": "otlp", "settings": {"endpoint": "y:1"}}]}
    gateway = world.gateway(telemetry=own)

    def stored(as_tenant: str | None, telemetry: object) -> bool:
        changed = world.put_gateway(gateway.id, as_tenant, telemetry=telemetry).telemetry
        assert changed is not None
        return bool(changed["exporters"][0].get("confined"))

    assert not stored("t", own)  # an echo
    assert stored("t", other)
    assert stored("t", other)
    assert not stored(None, other)


def test_the_platforms_exporter_secret_does_not_follow_a_tenant_to_another_destination():
    world = World()
    exporter = {"name": "otlp", "settings": {"endpoint": "x:1", "headers": {"authorization": "Bearer long-secret"}}}
    gateway = world.gateway(telemetry={"exporters": [exporter]})
    stolen = {"name": "otlp", "settings": {"endpoint": "mine:1", "headers": {"authorization": "***cret"}}}
    refused = message(world.put_gateway, gateway.id, "t", telemetry={"exporters": [stolen]})
    assert "secret cannot be a masked value" in str(refused)


def test_an_imported_gateway_is_the_same_gateway():
    source = World()
    g = source.gateway(slug="a", domain="a.example").id
    registry = source.registry(g)
    role, auth, policy = (
        source.role(g),
        source.auth(g),
        source.policy(g, slug="caller", settings={"token": "secret-token"}),
    )
    consumer = source.consumer(g, registries=[{"id": registry.id}])
    source.run(cmd.AttachRoleRegistry(source.meta(), g, role.id, registry.id))
    source.run(cmd.AttachAuth(source.meta(), g, consumer.id, auth.id))
    source.run(cmd.AttachPolicy(source.meta(), g, consumer.id, policy.id))
    state = source.states[g]
    target = World()
    target.run(cmd.ImportGateway(target.meta(), g, state, dict(source.vault)))
    assert replace(target.states[g], version=state.version) == state
    assert target.vault == source.vault
    assert (target.directory.slugs, target.directory.domains) == (source.directory.slugs, source.directory.domains)
    assert target.directory.consumer_slugs == source.directory.consumer_slugs
    assert target.put_registry(g, registry.id, name="editable").name == "editable"


def test_an_import_is_refused_where_something_is_taken_or_missing():
    source = World()
    g = source.gateway(slug="a").id
    source.registry(g)
    consumer = source.consumer(g)
    state = source.states[g]

    def take(world: World, vault: dict[str, str] = source.vault) -> str:
        return message(world.run, cmd.ImportGateway(world.meta(), g, state, vault))

    assert take(source) == "gateway: resource already exists"
    other = World()
    other.gateway(slug="a", id_=UNKNOWN)
    assert take(other) == "gateway: resource already exists: the slug is already taken"
    other = World()
    elsewhere = other.gateway(id_=UNKNOWN).id
    other.run(
        cmd.CreateConsumer(other.meta(), elsewhere, UNKNOWN, cmd.inputs.ConsumerCreate(name="c"), (consumer.slug,))
    )
    assert take(other) == f'consumer: resource already exists: the slug "{consumer.slug}" is already taken'
    assert take(World(), {}).startswith('gateway: secret "') and take(World(), {}).endswith(
        " is missing from the import: VF"
    )
