"""Events as bytes: envelope, upcasting, newer and broken events; the directory's fold."""

from __future__ import annotations

import msgspec
import pytest

from tests.domain.world import World
from trustgate.domain import commands as cmd
from trustgate.domain import events as ev
from trustgate.domain.directory import DirectoryState, evolve_directory, fold_directory
from trustgate.domain.evolve import EMPTY, evolve, fold


def sample() -> ev.Event:
    world = World()
    world.gateway()
    return world.log[0]


def altered(**members: object) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(ev.encode(sample())) | members)


def test_an_event_says_who_when_from_where_why_and_by_which_command():
    stored = msgspec.json.decode(ev.encode(sample()))
    assert stored["v"] == ev.SCHEMA_VERSION
    assert stored["command"] == "CreateGateway"
    assert stored["data"]["type"] == "GatewayCreated"
    meta = stored["meta"]
    assert (meta["actor"], meta["request_id"], meta["source"], meta["reason"]) == ("u1", "r1", "127.0.0.1", "why")
    assert meta["time"] == "2026-01-01T00:00:01Z"


def test_a_newer_event_names_its_position_and_how_to_go_on():
    with pytest.raises(ev.UnknownEvent) as caught:
        ev.decode(altered(v=ev.SCHEMA_VERSION + 1), position=17)
    assert caught.value.position == 17
    assert "position 17" in str(caught.value)
    assert f"schema version {ev.SCHEMA_VERSION + 1}" in str(caught.value)
    assert "newer version" in str(caught.value) and "nothing was changed" in str(caught.value)


def test_an_unknown_kind_of_the_current_schema_is_a_newer_event_too():
    with pytest.raises(ev.UnknownEvent, match="position 3 has the kind 'GatewayPainted'"):
        ev.decode(altered(data={"type": "GatewayPainted"}), position=3)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"v":"1"}', altered(v=0), altered(data={"type": "GatewayCreated"})]
)
def test_bytes_that_are_no_event_are_corrupt(data):
    with pytest.raises(ev.CorruptEvent, match="position 5"):
        ev.decode(data, position=5)


def test_an_older_event_is_brought_up_to_the_current_schema_step_by_step(monkeypatch):
    event = sample()
    older = msgspec.json.decode(ev.encode(event))
    gateway = older["data"]["gateway"]
    older["data"]["gate"] = {**gateway, "label": gateway.pop("slug")}
    del older["data"]["gateway"]
    older["v"] = ev.SCHEMA_VERSION - 2

    def rename_member(raw):
        raw["data"]["gateway"] = raw["data"].pop("gate")
        return raw

    def rename_slug(raw):
        raw["data"]["gateway"]["slug"] = raw["data"]["gateway"].pop("label")
        return raw

    monkeypatch.setitem(ev.UPCASTS, ev.SCHEMA_VERSION - 2, rename_member)
    monkeypatch.setitem(ev.UPCASTS, ev.SCHEMA_VERSION - 1, rename_slug)
    assert ev.decode(msgspec.json.encode(older)) == event


def test_the_version_counts_every_event_and_survives_deletion():
    world = World()
    g = world.gateway().id
    world.registry(g)
    state = world.states[g]
    assert state.version == 2
    event = sample()
    deleted = evolve(state, ev.Event(meta=event.meta, command="DeleteGateway", data=ev.GatewayDeleted(g)))
    assert (deleted.version, deleted.gateway, deleted.registries) == (3, None, {})
    assert evolve(EMPTY, event).version == 1


def test_the_log_of_a_gateway_folds_to_its_state_and_that_of_the_directory_likewise():
    world = World()
    g = world.gateway(domain="a.example").id
    world.put_gateway(g, slug="other", domain="b.example")
    consumer = world.consumer(g)
    world.consumer(g)
    world.run(cmd.DeleteConsumer(world.meta(), g, consumer.id))
    shared = [event for event in world.log if isinstance(event.data, ev.DirectoryFact)]
    own = [event for event in world.log if not isinstance(event.data, ev.DirectoryFact)]
    assert fold(own) == world.states[g]
    assert fold_directory(shared) == world.directory
    state = DirectoryState()
    for event in shared:
        state = evolve_directory(state, event)
    assert state == world.directory
    assert (state.slugs, state.domains) == ({"other": g}, {"b.example": g})
    assert state.version == len(shared) == 5


def test_a_change_that_the_directory_does_not_show_leads_to_no_directory_event():
    world = World()
    g = world.gateway().id
    body = cmd.inputs.GatewayUpdate(status="x")
    assert world.run(cmd.UpdateGateway(world.meta(), g, body)).directory == ()
