"""What an event is about: the object it changed, and that object before and after.

What lives here: pure questions about single events, for the audit trail. What must not: the index (`store`), how
objects are shown (`admin`).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trustgate.domain import events as ev
from trustgate.domain.entities import Auth, Consumer, Gateway, GatewayState, Policy, Registry, Role
from trustgate.domain.evolve import EMPTY, evolve

Entity = Gateway | Registry | Consumer | Auth | Policy | Role

COLLECTION_OF = {
    "registry": "registries",
    "consumer": "consumers",
    "auth": "auths",
    "policy": "policies",
    "role": "roles",
}
"""Kind of an object to the member of the gateway's state that holds it."""

KINDS = ("gateway", *COLLECTION_OF)


class Subject(msgspec.Struct, frozen=True):
    """The object an event changed, and the other one of an event about a link."""

    kind: str
    id: str
    related_id: str = ""


def subject(fact: ev.Fact) -> Subject | None:
    """What an event of a gateway's stream is about; None for events of the directory."""
    match fact:
        case ev.GatewayCreated(gateway=gateway) | ev.GatewayUpdated(gateway=gateway):
            return Subject("gateway", gateway.id)
        case ev.GatewayDeleted(gateway_id=id_):
            return Subject("gateway", id_)
        case ev.RegistryCreated(registry=registry) | ev.RegistryUpdated(registry=registry):
            return Subject("registry", registry.id)
        case ev.RegistryDeleted(registry_id=id_):
            return Subject("registry", id_)
        case ev.ConsumerCreated(consumer=consumer) | ev.ConsumerUpdated(consumer=consumer):
            return Subject("consumer", consumer.id)
        case ev.ConsumerDeleted(consumer_id=id_):
            return Subject("consumer", id_)
        case ev.AuthCreated(auth=auth) | ev.AuthUpdated(auth=auth):
            return Subject("auth", auth.id)
        case ev.AuthDeleted(auth_id=id_):
            return Subject("auth", id_)
        case ev.PolicyCreated(policy=policy) | ev.PolicyUpdated(policy=policy):
            return Subject("policy", policy.id)
        case ev.PolicyDeleted(policy_id=id_):
            return Subject("policy", id_)
        case ev.RoleCreated(role=role) | ev.RoleUpdated(role=role):
            return Subject("role", role.id)
        case ev.RoleDeleted(role_id=id_):
            return Subject("role", id_)
        case ev.RegistryAttached(consumer_id=id_, registry_id=other):
            return Subject("consumer", id_, other)
        case ev.RegistryDetached(consumer_id=id_, registry_id=other):
            return Subject("consumer", id_, other)
        case ev.RoleAttached(consumer_id=id_, role_id=other) | ev.RoleDetached(consumer_id=id_, role_id=other):
            return Subject("consumer", id_, other)
        case ev.AuthAttached(consumer_id=id_, auth_id=other) | ev.AuthDetached(consumer_id=id_, auth_id=other):
            return Subject("consumer", id_, other)
        case ev.PolicyAttached(consumer_id=other, policy_id=id_) | ev.PolicyDetached(consumer_id=other, policy_id=id_):
            return Subject("policy", id_, other)
        case ev.RoleRegistryAttached(role_id=id_, registry_id=other):
            return Subject("role", id_, other)
        case ev.RoleRegistryDetached(role_id=id_, registry_id=other):
            return Subject("role", id_, other)
        case _:
            return None


def _kinds_of_events() -> dict[str, tuple[str, ...]]:
    links = {"consumer": ("Registry", "Role", "Auth"), "policy": ("Policy",), "role": ("RoleRegistry",)}
    return {
        kind: (
            *(f"{kind.title()}{what}" for what in ("Created", "Updated", "Deleted")),
            *(f"{link}{what}" for link in links.get(kind, ()) for what in ("Attached", "Detached")),
        )
        for kind in KINDS
    }


EVENTS_OF = _kinds_of_events()
"""Kind of an object to the names of the events that change such an object."""


def settles(event_name: str) -> bool:
    """Whether what an object is after such an event does not depend on what it was before."""
    return event_name.endswith(("Created", "Updated", "Deleted"))


def entity(state: GatewayState, kind: str, id_: str) -> Entity | None:
    """The object of that kind and id in a state."""
    if kind == "gateway":
        return state.gateway
    return getattr(state, COLLECTION_OF[kind]).get(id_)


def entity_after(events: Iterable[ev.Event], kind: str, id_: str) -> Entity | None:
    """What an object is after the events about it: oldest first, and the first of them `settles` it."""
    state = EMPTY
    for event in events:
        state = evolve(state, event)
    return entity(state, kind, id_)
