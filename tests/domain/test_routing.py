"""Fallback, model policies, load balancing and toolkits of a consumer (spec 01 §7.1, rules 5 to 8)."""

from __future__ import annotations

import pytest

from tests.domain.test_consumer import Scene
from tests.domain.world import NIL

FALLBACK = "consumer: invalid fallback: VF: "
CHAIN = FALLBACK + "invalid chain: registry: invalid registry_id: VF: "
ON = {"enabled": True, "triggers": ["timeout"], "chain": ["A"]}

FALLBACKS = [
    (ON | {"triggers": []}, FALLBACK + "at least one trigger is required when enabled"),
    (ON | {"triggers": ["timeout", "http_4xx"]}, FALLBACK + 'unknown trigger "http_4xx"'),
    (ON | {"budget": {"max_attempts": -1}}, FALLBACK + "budget.max_attempts cannot be negative"),
    (ON | {"budget": {"max_total_latency_ms": -1}}, FALLBACK + "budget.max_total_latency cannot be negative"),
    (ON | {"chain": []}, FALLBACK + "chain requires at least one backend when enabled"),
    (ON | {"chain": ["A", "A"]}, CHAIN + "duplicate registry A"),
    (ON | {"chain": [NIL]}, CHAIN + "nil uuid"),
    (
        ON | {"chain": ["B"]},
        "registry: invalid registry_id: VF: fallback chain registry B is not associated with the consumer",
    ),
    (
        {"chain": ["B"]},
        "registry: invalid registry_id: VF: fallback chain registry B is not associated with the consumer",
    ),
    ({"pinned": "zz"}, FALLBACK + 'unknown pinned "zz" (never, same_model or any)'),
]


@pytest.mark.parametrize(("fallback", "expected"), FALLBACKS)
def test_a_fallback_is_refused_with_the_first_broken_rule(fallback, expected):
    scene = Scene()
    assert scene.refused(scene.create, registries=[{"id": "A"}], fallback=fallback) == expected


def test_a_disabled_fallback_is_kept_unchecked():
    scene = Scene()
    sent = {
        "enabled": False,
        "triggers": ["zz"],
        "budget": {"max_attempts": -5},
        "chain": ["A"],
        "pinned": "same_model",
    }
    stored = scene.create(registries=[{"id": "A"}], fallback=sent).fallback
    assert (stored.triggers, stored.budget.max_attempts, stored.pinned) == (("zz",), -5, "same_model")
    assert scene.create(registries=[{"id": "A"}], fallback=ON).fallback.pinned == "never"


POLICY = "consumer: invalid model policy: VF: "
POLICIES = [
    ([{"registry_id": NIL}], POLICY + "nil registry_id"),
    ([{"registry_id": "B"}], POLICY + "backend B is not in pool or fallback chain"),
    (
        [{"registry_id": "A", "allowed": []}],
        POLICY + "empty allow-list for backend A (omit allowed to permit all models)",
    ),
    ([{"registry_id": "A", "allowed": ["m", ""]}], POLICY + "empty model in allow-list for backend A"),
    ([{"registry_id": "A", "allowed": ["m", "m"]}], POLICY + 'duplicate model "m" for backend A'),
    (
        [{"registry_id": "A", "allowed": ["m"], "default": "z"}],
        POLICY + 'default model "z" not in allow-list for backend A',
    ),
]


@pytest.mark.parametrize(("policies", "expected"), POLICIES)
def test_model_policies_are_refused_with_the_first_broken_rule(policies, expected):
    scene = Scene()
    assert scene.refused(scene.create, registries=[{"id": "A"}], model_policies=policies) == expected


def test_an_open_model_policy_takes_any_default_and_a_blank_is_a_model_name():
    scene = Scene()
    open_ = scene.create(registries=[{"id": "A"}], model_policies=[{"registry_id": "A", "default": "any"}])
    assert open_.model_policies[scene.ids["A"]].default == "any"
    blank = scene.create(registries=[{"id": "A"}], model_policies=[{"registry_id": "A", "allowed": [" "]}])
    assert blank.model_policies[scene.ids["A"]].allowed == (" ",)


LB = "consumer: invalid lb_config: VF: "
EMBEDDING = LB + "registry: invalid embedding config: VF: "
SMART = LB + "registry: invalid smart routing config: VF: "
A, B = {"registry_id": "A"}, {"registry_id": "B"}
TWO = [A | {"model": "m1"}, A | {"model": "m2"}]
VECTOR = {"provider": "openai", "model": "e", "auth": {"api_key": "embedding-secret-1"}}


def member(**changes):
    return {"members": [A | changes]}


def semantic(**changes):
    return {"algorithm": "semantic", "embedding_config": VECTOR | changes}


def smart(*tiers, members=(A,)):
    return {"algorithm": "smart-routing", "members": list(members), "smart_routing": {"tiers": list(tiers)}}


CONFIGS = [
    ({"balance_pinned": "zz", "enabled": False}, LB + 'unknown balance_pinned "zz" (never, same_model or any)'),
    ({"algorithm": "ip-hash"}, LB + 'invalid algorithm "ip-hash"'),
    ({"members": []}, LB + "members are required when enabled"),
    (member(registry_id=NIL), LB + "members[0].registry_id is required"),
    (member(registry_id="M"), LB + "members[0].registry_id M is not in model_policies"),
    (member(weight=101), LB + "members[0].weight 101 is out of range [1,100]"),
    (member(weight=-1), LB + "members[0].weight -1 is out of range [1,100]"),
    (member(models=[""]), LB + "members[0].models contains empty model"),
    (member(models=["m1", "m1"]), LB + 'members[0].models duplicate "m1"'),
    (member(models=["zz"]), LB + 'members[0].model "zz" is not allowed by model_policies'),
    (member(registry_id="B", models=["m1"]), LB + 'members[0].model "m1" is not allowed by model_policies'),
    (member(model=" "), LB + "members[0].model is blank"),
    (member(models=["m1"], model="m2"), LB + 'members[0].model "m2" is not listed in members[0].models'),
    (member(model="zz"), LB + 'members[0].model "zz" is not allowed by model_policies'),
    (
        {"members": [A | {"model": "m1"}, A]},
        LB + "members[1] repeats registry A without a model; every member sharing a registry must declare one",
    ),
    (
        {"members": [A, A | {"model": "m1"}]},
        LB + "members[1] repeats registry A without a model; every member sharing a registry must declare one",
    ),
    ({"members": [TWO[0], B, TWO[0]]}, LB + "members[2] duplicates route A/m1"),
    ({"algorithm": "semantic"}, LB + "embedding_config required for semantic algorithm"),
    ({"embedding_config": VECTOR}, LB + "embedding_config is only valid for the semantic algorithm"),
    ({"algorithm": "smart-routing"}, LB + "smart_routing required for smart-routing algorithm"),
    ({"smart_routing": {"tiers": []}}, LB + "smart_routing is only valid for the smart-routing algorithm"),
    (semantic(model=""), EMBEDDING + "model is required"),
    (semantic(auth=None), EMBEDDING + "auth is required"),
    (
        semantic(auth={"param_value": "***"}),
        EMBEDDING + "secret cannot be a masked value; omit it to keep the stored value",
    ),
    (semantic(auth={}), EMBEDDING + "header_name is required when api_key is empty"),
    (semantic(auth={"header_name": "X"}), EMBEDDING + "header_value is required when api_key is empty"),
    (smart(), SMART + "at least one tier is required"),
    (smart(A | {"min_score": 1.5}), SMART + "tiers[0].min_score must be in [0,1]"),
    (smart(A | {"min_score": 0.5}, A | {"min_score": 0.5}), SMART + "tiers[1].min_score 0.5 is duplicated"),
    (smart(A | {"min_score": 1}, A | {"min_score": 1.0}), SMART + "tiers[1].min_score 1 is duplicated"),
    (smart({"registry_id": NIL}), SMART + "tiers[0].registry_id is required"),
    (smart(B), LB + "smart_routing.tiers[0].registry_id B is not a pool member"),
    (smart(A, members=TWO), LB + "smart_routing.tiers[0] targets registry A, which has 2 routes; declare a model"),
    (smart(A | {"model": "zz"}, members=TWO), LB + 'smart_routing.tiers[0].model "zz" is not a route of registry A'),
]


def balanced(scene, config):
    return scene.create(
        registries=[{"id": "A"}, {"id": "B"}],
        model_policies=[{"registry_id": "A", "allowed": ["m1", "m2"]}, {"registry_id": "B"}],
        lb_config={"enabled": True, "members": [A], **config},
    )


@pytest.mark.parametrize(("config", "expected"), CONFIGS)
def test_load_balancing_is_refused_with_the_first_broken_rule(config, expected):
    scene = Scene()
    assert scene.refused(balanced, scene, config) == expected


ACCEPTED = [
    {"members": [A | {"models": ["m1"], "model": "m1", "weight": 100}, B]},
    {"algorithm": "random", "members": [*TWO, B | {"model": "whatever"}]},
    {"algorithm": "weighted-round-robin", "balance_pinned": "any"},
    {"algorithm": "least-connections", "pool_alias": "pool"},
    semantic(),
    semantic(auth={"header_name": "X", "header_value": "header-secret"}),
    smart(A | {"min_score": 0, "model": "m1"}, B | {"min_score": 0.5}, members=[*TWO, B]),
]


@pytest.mark.parametrize("config", ACCEPTED)
def test_valid_load_balancing_is_kept(config):
    stored = balanced(Scene(), config).lb_config
    assert stored.algorithm == config.get("algorithm", "round-robin")
    assert stored.balance_pinned == config.get("balance_pinned", "never")
    assert len(stored.members) == len(config.get("members", [A]))


def test_disabled_load_balancing_is_checked_for_association_only():
    scene = Scene()
    stored = balanced(scene, {"enabled": False, "algorithm": "zz", "members": [A | {"weight": 999}]}).lb_config
    assert (stored.algorithm, stored.members[0].weight) == ("zz", 999)
    sent = {"enabled": False, "members": [{"registry_id": "M"}]}
    assert scene.refused(balanced, scene, sent) == (
        "registry: invalid registry_id: VF: lb_config member registry M is not associated with the consumer"
    )
    masked = {"enabled": False, "embedding_config": {"auth": {"api_key": "***abcd", "header_name": "X"}}}
    assert balanced(Scene(), masked).lb_config.embedding_config.auth == {"header_name": "X"}


TOOLKIT = "consumer: invalid toolkit: VF: "
ONE_OF = TOOLKIT + 'exactly one of tool, prompt, or resource is required per entry (use "*" for all)'
TOOLKITS = [
    ([{"registry_id": NIL, "tool": "a"}], TOOLKIT + "nil registry_id"),
    ([{"registry_id": "A", "tool": "a"}], TOOLKIT + "registry A is not attached to the consumer"),
    ([{"tool": "a", "expose_as": " "}], TOOLKIT + "expose_as cannot be blank"),
    ([{}], ONE_OF),
    ([{"tool": " "}], ONE_OF),
    ([{"tool": "a", "prompt": "b"}], ONE_OF),
    (
        [{"resource": "file:///*/a"}],
        TOOLKIT + 'resource pattern "file:///*/a" is unsupported (only a trailing * wildcard is allowed)',
    ),
    ([{"tool": "a"}, {"tool": " a "}], TOOLKIT + 'duplicate tool "a" for registry M'),
    ([{"prompt": "a"}, {"prompt": "a"}], TOOLKIT + 'duplicate prompt "a" for registry M'),
    ([{"resource": "a"}, {"resource": "a"}], TOOLKIT + 'duplicate resource "a" for registry M'),
    (
        [{"resource": "a", "expose_as": "b"}],
        TOOLKIT + "expose_as is not valid on resource entries (resources are URI-addressed)",
    ),
    ([{"tool": "*", "expose_as": "b"}], TOOLKIT + 'expose_as is not valid with the "*" wildcard'),
    ([{"tool": "a", "expose_as": "z"}, {"tool": "b", "expose_as": "z"}], TOOLKIT + 'duplicate expose_as alias "z"'),
    (
        [{"tool": "a", "expose_as": "b"}, {"tool": "b"}],
        TOOLKIT + 'expose_as alias "b" collides with another tool entry of the same name',
    ),
    (
        [{"prompt": "a", "expose_as": "b"}, {"prompt": "b"}],
        TOOLKIT + 'expose_as alias "b" collides with another prompt entry of the same name',
    ),
]


def equipped(scene, toolkit, **body):
    entries = [{"registry_id": "M", **entry} for entry in toolkit]
    return scene.create(type="MCP", registries=[{"id": "M"}], toolkit=entries, **body)


@pytest.mark.parametrize(("toolkit", "expected"), TOOLKITS)
def test_a_toolkit_is_refused_with_the_first_broken_rule(toolkit, expected):
    scene = Scene()
    assert scene.refused(equipped, scene, toolkit) == expected


def test_fail_mode_comes_before_the_toolkit():
    scene = Scene()
    assert scene.refused(equipped, scene, [{}], fail_mode="half") == 'consumer: invalid fail_mode: VF: "half"'


def test_toolkit_values_are_stored_trimmed_and_an_empty_toolkit_is_none():
    scene = Scene()
    stored = equipped(
        scene, [{"tool": " a ", "expose_as": " b "}, {"prompt": "*"}, {"resource": "file:///a/*"}]
    ).toolkit
    assert (stored[0].tool, stored[0].expose_as) == ("a", "b")
    empty = equipped(scene, [])
    assert (empty.toolkit, empty.fail_mode) == (None, "open")
    shared = equipped(scene, [{"tool": "a", "expose_as": "z"}, {"prompt": "a", "expose_as": "z"}])
    assert len(shared.toolkit) == 2
