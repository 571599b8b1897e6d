"""What events are about; and reverting, as far as it is pure."""

from __future__ import annotations

import msgspec
import pytest

from trustgate.domain import audit, decide_revert
from trustgate.domain import events as ev
from trustgate.domain.entities import GatewayState


def test_every_event_of_a_gateway_belongs_to_one_kind_of_object() -> None:
    facts = {fact.__name__ for fact in ev.GatewayFact.__args__}
    named = [name for names in audit.EVENTS_OF.values() for name in names]
    assert sorted(named) == sorted(facts)


def test_every_collection_of_a_gateway_is_audited_and_reverted() -> None:
    members = {field.name for field in msgspec.structs.fields(GatewayState)} - {"version", "gateway"}
    assert set(audit.COLLECTION_OF.values()) == members
    assert set(decide_revert.ORDER) == set(audit.COLLECTION_OF)


@pytest.mark.parametrize(
    ("fact", "subject"),
    [
        (ev.GatewayDeleted("g"), audit.Subject("gateway", "g")),
        (ev.RegistryDeleted("r"), audit.Subject("registry", "r")),
        (ev.RegistryAttached("c", "r", 1), audit.Subject("consumer", "c", "r")),
        (ev.RegistryDetached("c", "r"), audit.Subject("consumer", "c", "r")),
        (ev.RoleAttached("c", "o"), audit.Subject("consumer", "c", "o")),
        (ev.AuthDetached("c", "a"), audit.Subject("consumer", "c", "a")),
        (ev.PolicyAttached("c", "p"), audit.Subject("policy", "p", "c")),
        (ev.PolicyDetached("c", "p"), audit.Subject("policy", "p", "c")),
        (ev.RoleRegistryAttached("o", "r"), audit.Subject("role", "o", "r")),
        (ev.ConsumerListed("slug", "g"), None),
    ],
)
def test_the_subject_is_the_object_that_changed(fact: ev.Fact, subject: audit.Subject | None) -> None:
    assert audit.subject(fact) == subject
