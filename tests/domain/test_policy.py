"""Policies: checks in order, secrets of settings, copies, global (spec 01 §10)."""

from __future__ import annotations

import pytest

from tests.domain.world import UNKNOWN, World, message, refusal
from trustgate.domain import commands as cmd
from trustgate.domain import secrets
from trustgate.domain.decide_policy import copy_name

LONG = "d" * 1001
REFUSED = [
    ({"name": " ", "description": LONG}, "name is required: VF"),
    ({"name": "x" * 256}, "name too long (max 255): VF"),
    ({"description": LONG, "slug": ""}, "description too long (max 1000): VF"),
    ({"slug": "", "mode": "x"}, "slug is required: VF"),
    ({"mode": "x", "priority": -1}, 'invalid mode "x": VF'),
    ({"priority": -1, "stages": ["zz"]}, "policy: invalid priority: VF: priority cannot be negative"),
    ({"stages": ["pre_request", "now"], "slug": "nope"}, 'policy: invalid stage: VF: "now"'),
    ({"slug": "nope"}, "VF\nplugin: unknown plugin: nope"),
    ({"settings": {}}, "VF\nlimiter: limit must be positive"),
    ({"settings": {"limit": {"$secret": "x"}}}, 'member name "$secret" is reserved: VF'),
    (
        {"slug": "caller", "settings": {"token": "***abcd"}},
        "policy: invalid settings: VF: secret cannot be a masked value; omit the field to keep the stored value",
    ),
]


@pytest.mark.parametrize(("body", "expected"), REFUSED)
def test_creation_is_refused_with_the_first_broken_rule(body, expected):
    world = World()
    assert message(world.policy, world.gateway().id, **{"name": "p", **body}) == expected


def test_a_minimal_policy_has_its_defaults():
    world = World()
    policy = world.policy(world.gateway().id, " p ", mode="")
    assert (policy.name, policy.enabled, policy.parallel, policy.priority, policy.mode) == (
        " p ",
        False,
        True,
        0,
        "enforce",
    )
    assert (policy.global_, policy.stages, policy.consumer_ids) == (False, (), ())


def test_names_are_unique_and_the_gateway_must_exist():
    world = World()
    g = world.gateway().id
    world.policy(g, "p")
    other = world.policy(g, "q")
    assert message(world.policy, g, "p") == "policy: resource already exists"
    assert message(world.put_policy, g, other.id, name="p") == "policy: resource already exists"
    assert message(world.policy, UNKNOWN) == "policy: invalid gateway_id: VF"


def test_a_put_checks_fields_then_existence_then_the_merged_policy():
    world = World()
    g, other = world.gateway().id, world.gateway().id
    policy = world.policy(g)
    assert message(world.put_policy, g, UNKNOWN, mode="zz") == 'invalid mode "zz": VF'
    assert message(world.put_policy, g, UNKNOWN, slug=" ") == "slug is required: VF"
    assert refusal(world.put_policy, g, UNKNOWN, priority=-1).status == 404
    assert message(world.put_policy, other, policy.id, name="z") == "policy: invalid gateway_id: VF"
    assert message(world.put_policy, g, policy.id, slug="caller") == "VF\ncaller: token is required"
    assert message(world.put_policy, g, policy.id, settings={"window": 1}) == "VF\nlimiter: limit must be positive"


def test_a_put_replaces_what_it_names_and_keeps_the_rest():
    world = World()
    g = world.gateway().id
    old = world.policy(g, description="d", enabled=True, priority=3, stages=["pre_request"])
    empty = world.put_policy(g, old.id)
    assert empty.updated_at > old.updated_at
    assert (empty.settings, empty.stages, empty.priority) == (old.settings, old.stages, 3)
    new = world.put_policy(
        g, old.id, description="", enabled=False, priority=0, parallel=False, stages=[], settings={"limit": 2**70}
    )
    assert (new.description, new.enabled, new.priority, new.parallel, new.stages) == ("", False, 0, False, ())
    assert new.settings == {"limit": 2**70}


def test_secret_settings_are_kept_in_the_vault_and_an_echoed_mask_keeps_them():
    world = World()
    g = world.gateway().id
    settings = {"token": "long-secret-1", "hooks": [{"key": "hook-secret-2", "url": "u"}], "plain": "***"}
    policy = world.policy(g, slug="caller", settings=settings)
    assert sorted(world.vault.values()) == ["hook-secret-2", "long-secret-1"]
    shown = secrets.masked(policy.settings)
    assert shown == {"token": "***et-1", "hooks": [{"key": "***et-2", "url": "u"}], "plain": "***"}
    kept = world.put_policy(g, policy.id, settings=shown | {"plain": "new"})
    assert kept.settings["token"] == policy.settings["token"]
    assert kept.settings["hooks"][0]["key"] == policy.settings["hooks"][0]["key"]
    assert world.put_policy(g, policy.id, enabled=True).settings == kept.settings
    world.put_policy(g, policy.id, settings={"token": "long-secret-3"})
    assert list(world.vault.values()) == ["long-secret-3"]


def test_secret_settings_are_known_by_their_name_in_any_case():
    world = World()
    g = world.gateway().id
    settings = {"token": "long-secret-1", "Hooks": [{"KEY": "hook-secret-2"}], "Token": "long-secret-3"}
    policy = world.policy(g, slug="caller", settings=settings)
    assert sorted(world.vault.values()) == ["hook-secret-2", "long-secret-1", "long-secret-3"]
    shown = secrets.masked(policy.settings)
    assert shown == {"token": "***et-1", "Hooks": [{"KEY": "***et-2"}], "Token": "***et-3"}
    assert world.put_policy(g, policy.id, settings=shown).settings == policy.settings


def test_a_copy_shares_its_sources_secrets_until_the_source_changes():
    world = World()
    g = world.gateway().id
    source = world.policy(g, "p", slug="caller", settings={"token": "long-secret-1"}, enabled=True, priority=4)
    world.run(cmd.SetPolicyGlobal(world.meta(), g, source.id, True))
    id_ = world.id()
    world.run(cmd.DuplicatePolicy(world.meta(), g, source.id, id_))
    copy = world.states[g].policies[id_]
    assert (copy.name, copy.global_, copy.consumer_ids, copy.enabled, copy.priority) == ("p 2", False, (), True, 4)
    world.put_policy(g, source.id, settings={"token": "long-secret-2"})
    assert sorted(world.vault.values()) == ["long-secret-1", "long-secret-2"]
    world.run(cmd.DeletePolicy(world.meta(), g, id_))
    assert list(world.vault.values()) == ["long-secret-2"]


@pytest.mark.parametrize(
    ("name", "taken", "expected"),
    [
        ("limit", [], "limit 2"),
        ("limit", ["limit 2", "limit 3"], "limit 4"),
        ("limit 2", [], "limit 3"),
        ("v 1", [], "v 2"),
        ("x 9", [], "x 10"),
        ("42", [], "42 2"),
        ("  sp  ", [], "sp 2"),
        ("a  7", [], "a 8"),
        ("v2", [], "v2 2"),
        ("é" * 127, [], "é" * 126 + " 2"),
    ],
)
def test_a_copy_takes_the_first_free_numbered_name(name, taken, expected):
    assert copy_name(name, set(taken)) == expected
    assert len(expected.encode()) <= 255


def test_global_on_and_off_are_idempotent_and_keep_attachments():
    world = World()
    g = world.gateway().id
    policy, consumer = world.policy(g), world.consumer(g)
    world.run(cmd.AttachPolicy(world.meta(), g, consumer.id, policy.id))
    for switch, count in ((True, 1), (True, 0), (False, 1), (False, 0)):
        assert len(world.run(cmd.SetPolicyGlobal(world.meta(), g, policy.id, switch)).gateway) == count
        stored = world.states[g].policies[policy.id]
        assert (stored.global_, stored.consumer_ids) == (switch, (consumer.id,))
    assert stored.updated_at > policy.updated_at


def test_calls_on_an_unknown_policy_are_404():
    world = World()
    g = world.gateway().id
    for command in (
        cmd.DeletePolicy(world.meta(), g, UNKNOWN),
        cmd.SetPolicyGlobal(world.meta(), g, UNKNOWN, True),
        cmd.DuplicatePolicy(world.meta(), g, UNKNOWN, world.id()),
    ):
        assert refusal(world.run, command).code == "not_found"
