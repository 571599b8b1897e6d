"""Secrets of the current configuration, in clear, in the memory of a data plane.

What lives here: which references the states name, and their values. What must not: ciphertext, I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from trustgate.domain import secrets
from trustgate.domain.entities import Auth, Consumer, Gateway, GatewayState, Policy, Registry

LINGER_S = 900.0
"""How long a value outlives its last use in a state: requests may still run on views of older states."""

Entity = Gateway | Registry | Consumer | Auth | Policy


class Named(msgspec.Struct, frozen=True):
    """The references that a gateway's state names, in all and by each of its entities that names any or none."""

    refs: frozenset[str]
    entities: dict[str, tuple[Entity, tuple[str, ...]]]


NOTHING = Named(frozenset(), {})


class SecretCache:
    """Values by reference. A value stays while the newest state of its gateway names it, and `LINGER_S` more."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._values: dict[str, str] = {}
        self._named: dict[str, Named] = {}
        self._leaving: dict[str, float] = {}
        self._clock = clock

    def named(self, gateway_id: str, state: GatewayState) -> Named:
        """What `state` names; entities that did not change since the gateway's newest state are not searched again."""
        known = self._named.get(gateway_id, NOTHING).entities
        entities: dict[str, tuple[Entity, tuple[str, ...]]] = {}
        for entity in holders(state):
            old = known.get(entity.id)
            entities[entity.id] = old if old is not None and old[0] is entity else (entity, references(entity))
        return Named(frozenset(ref for _, refs in entities.values() for ref in refs), entities)

    def missing(self, refs: Iterable[str]) -> list[str]:
        return [ref for ref in refs if ref not in self._values]

    def add(self, values: Mapping[str, str]) -> None:
        self._values.update(values)

    def get(self, ref: str) -> str | None:
        return self._values.get(ref)

    def keep(self, gateway_id: str, named: Named) -> None:
        """What a gateway's newest state names; what only its former one named will leave."""
        now = self._clock()
        for ref in self._named.get(gateway_id, NOTHING).refs - named.refs:
            self._leaving[ref] = now + LINGER_S
        for ref in named.refs if self._leaving else ():
            self._leaving.pop(ref, None)
        if named.entities:
            self._named[gateway_id] = named
        else:
            self._named.pop(gateway_id, None)
        for ref in [ref for ref, until in self._leaving.items() if until <= now]:
            del self._leaving[ref]
            self._values.pop(ref, None)


def holders(state: GatewayState) -> Iterable[Entity]:
    """The entities of a gateway that may hold secrets."""
    if state.gateway is not None:
        yield state.gateway
    yield from state.registries.values()
    yield from state.auths.values()
    yield from state.policies.values()
    yield from state.consumers.values()


def references(entity: Entity) -> tuple[str, ...]:
    """Every vault reference of an entity."""
    match entity:
        case Gateway():
            parts: list[object] = [entity.telemetry, entity.client_tls]
        case Registry():
            llm, mcp = entity.llm_target, entity.mcp_target
            parts = [llm.provider_options, llm.auth] if llm else []
            parts += [llm.health_checks.headers] if llm and llm.health_checks else []
            parts += [mcp.headers, mcp.auth] if mcp else []
        case Auth():
            parts = [entity.config]
        case Policy():
            parts = [entity.settings]
        case Consumer():
            embedding = entity.lb_config.embedding_config if entity.lb_config else None
            parts = [entity.headers, embedding.auth if embedding else None]
    return tuple(secrets.refs(parts))
