"""Differences between two states of a gateway."""

from __future__ import annotations

from tests.domain.world import World
from trustgate.domain import commands as cmd
from trustgate.domain.difference import diff
from trustgate.domain.evolve import EMPTY


def test_objects_that_come_and_go_show_as_a_whole():
    world = World()
    g = world.gateway().id
    before = world.states[g]
    role = world.role(g)
    after = world.states[g]
    assert [(c.kind, c.id, c.path, c.before) for c in diff(before, after)] == [("roles", role.id, "", None)]
    assert [(c.kind, c.path, c.after) for c in diff(after, before)] == [("roles", "", None)]
    assert [c.kind for c in diff(EMPTY, after)] == ["gateway", "roles"]
    assert diff(after, after) == []


def test_changes_name_the_member_and_its_values():
    world = World()
    g = world.gateway(metadata={"a": "1", "b": "2"}).id
    before = world.states[g]
    world.put_gateway(g, metadata={"a": "1", "b": "3"}, status="x")
    changes = {c.path: (c.before, c.after) for c in diff(before, world.states[g])}
    assert changes.pop("updated_at")
    assert changes == {"metadata.b": ("2", "3"), "status": (None, "x")}


def test_a_replaced_secret_shows_as_mask_and_fingerprint_only():
    world = World()
    g = world.gateway().id
    id_ = world.registry(g).id
    before = world.states[g]
    world.put_registry(g, id_, auth={"type": "api_key", "api_key": {"api_key": "second-secret-2"}})
    (change,) = [c for c in diff(before, world.states[g]) if c.path != "updated_at"]
    assert change.path == "llm_target.auth.api_key.api_key"
    assert (change.before["mask"], change.after["mask"]) == ("***0001", "***et-2")
    assert change.before["fp"] != change.after["fp"]
    assert "second-secret-2" not in repr(change)


def test_associations_show_on_the_object_that_holds_them():
    world = World()
    g = world.gateway().id
    consumer, auth = world.consumer(g), world.auth(g)
    before = world.states[g]
    world.run(cmd.AttachAuth(world.meta(), g, consumer.id, auth.id))
    (change,) = diff(before, world.states[g])
    assert (change.kind, change.path, list(change.after)) == ("consumers", "auth_ids", [auth.id])
