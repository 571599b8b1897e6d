"""From a gateway's state and one event to its next state.

What lives here: the fold of one gateway's stream. What must not: checks (an event is a fact and is never refused), the
directory (`directory`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from msgspec.structs import replace

from trustgate.domain import events as ev
from trustgate.domain.entities import GatewayState

T = TypeVar("T")

EMPTY = GatewayState(version=0)


def with_item(items: dict[str, T], id_: str, item: T) -> dict[str, T]:
    """A copy of `items` with one entry added or replaced."""
    return {**items, id_: item}


def without(items: dict[str, T], id_: str) -> dict[str, T]:
    """A copy of `items` without one entry."""
    return {key: item for key, item in items.items() if key != id_}


def inserted(ids: tuple[str, ...], id_: str) -> tuple[str, ...]:
    """Sorted ids with one more."""
    return ids if id_ in ids else tuple(sorted((*ids, id_)))


def removed(ids: tuple[str, ...], id_: str) -> tuple[str, ...]:
    return tuple(other for other in ids if other != id_)


def evolve(state: GatewayState, event: ev.Event) -> GatewayState:
    """`state` after `event`; the version counts every event of the stream."""
    return replace(_apply(state, event.data), version=state.version + 1)


def fold(events: Iterable[ev.Event], state: GatewayState = EMPTY) -> GatewayState:
    """`state` after all of `events`."""
    for event in events:
        state = evolve(state, event)
    return state


def _apply(state: GatewayState, fact: ev.Fact) -> GatewayState:
    match fact:
        case ev.GatewayCreated(gateway=gateway) | ev.GatewayUpdated(gateway=gateway):
            return replace(state, gateway=gateway)
        case ev.GatewayDeleted():
            return EMPTY if state.version == 0 else replace(EMPTY, version=state.version)
        case ev.RegistryCreated(registry=registry) | ev.RegistryUpdated(registry=registry):
            return replace(state, registries=with_item(state.registries, registry.id, registry))
        case ev.RegistryDeleted(registry_id=id_):
            return replace(state, registries=without(state.registries, id_))
        case ev.ConsumerCreated(consumer=consumer) | ev.ConsumerUpdated(consumer=consumer):
            return replace(state, consumers=with_item(state.consumers, consumer.id, consumer))
        case ev.ConsumerDeleted(consumer_id=id_):
            return replace(state, consumers=without(state.consumers, id_))
        case ev.AuthCreated(auth=auth) | ev.AuthUpdated(auth=auth):
            return replace(state, auths=with_item(state.auths, auth.id, auth))
        case ev.AuthDeleted(auth_id=id_):
            return replace(state, auths=without(state.auths, id_))
        case ev.PolicyCreated(policy=policy) | ev.PolicyUpdated(policy=policy):
            return replace(state, policies=with_item(state.policies, policy.id, policy))
        case ev.PolicyDeleted(policy_id=id_):
            return replace(state, policies=without(state.policies, id_))
        case ev.RoleCreated(role=role) | ev.RoleUpdated(role=role):
            return replace(state, roles=with_item(state.roles, role.id, role))
        case ev.RoleDeleted(role_id=id_):
            return replace(state, roles=without(state.roles, id_))
        case ev.GatewayListed() | ev.GatewayUnlisted() | ev.ConsumerListed() | ev.ConsumerUnlisted():
            return state
        case _:
            return _link(state, fact)


def _link(state: GatewayState, fact: ev.GatewayFact) -> GatewayState:
    match fact:
        case ev.RegistryAttached(consumer_id=id_, registry_id=registry_id, weight=weight):
            consumer = state.consumers[id_]
            ids = consumer.registry_ids
            consumer = replace(
                consumer,
                registry_ids=ids if registry_id in ids else (*ids, registry_id),
                registry_weights=with_item(consumer.registry_weights, registry_id, weight),
            )
        case ev.RegistryDetached(consumer_id=id_, registry_id=registry_id):
            consumer = state.consumers[id_]
            consumer = replace(
                consumer,
                registry_ids=removed(consumer.registry_ids, registry_id),
                registry_weights=without(consumer.registry_weights, registry_id),
            )
        case ev.RoleAttached(consumer_id=id_, role_id=role_id):
            consumer = state.consumers[id_]
            consumer = replace(consumer, role_ids=inserted(consumer.role_ids, role_id))
        case ev.RoleDetached(consumer_id=id_, role_id=role_id):
            consumer = state.consumers[id_]
            consumer = replace(consumer, role_ids=removed(consumer.role_ids, role_id))
        case ev.AuthAttached(consumer_id=id_, auth_id=auth_id):
            consumer = state.consumers[id_]
            consumer = replace(consumer, auth_ids=inserted(consumer.auth_ids, auth_id))
        case ev.AuthDetached(consumer_id=id_, auth_id=auth_id):
            consumer = state.consumers[id_]
            consumer = replace(consumer, auth_ids=removed(consumer.auth_ids, auth_id))
        case ev.PolicyAttached(consumer_id=consumer_id, policy_id=id_):
            policy = state.policies[id_]
            policy = replace(policy, consumer_ids=inserted(policy.consumer_ids, consumer_id))
            return replace(state, policies=with_item(state.policies, id_, policy))
        case ev.PolicyDetached(consumer_id=consumer_id, policy_id=id_):
            policy = state.policies[id_]
            policy = replace(policy, consumer_ids=removed(policy.consumer_ids, consumer_id))
            return replace(state, policies=with_item(state.policies, id_, policy))
        case ev.RoleRegistryAttached(role_id=id_, registry_id=registry_id):
            role = state.roles[id_]
            role = replace(role, registry_ids=inserted(role.registry_ids, registry_id))
            return replace(state, roles=with_item(state.roles, id_, role))
        case ev.RoleRegistryDetached(role_id=id_, registry_id=registry_id):
            role = state.roles[id_]
            role = replace(role, registry_ids=removed(role.registry_ids, registry_id))
            return replace(state, roles=with_item(state.roles, id_, role))
        case _:
            raise AssertionError(f"an event without a fold: {type(fact).__name__}")
    return replace(state, consumers=with_item(state.consumers, id_, consumer))
