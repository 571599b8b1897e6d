"""Secrets of the current configuration, in clear, in the memory of a data plane.

What lives here: which references the states name, and their values. What must not: ciphertext, I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from trustgate.domain import secrets
from trustgate.domain.entities import GatewayState

LINGER_S = 900.0
"""How long a value outlives its last use in a state: requests may still run on views of older states."""


class SecretCache:
    """Values by reference. A value stays while the newest state of its gateway names it, and `LINGER_S` more."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._values: dict[str, str] = {}
        self._by_gateway: dict[str, frozenset[str]] = {}
        self._leaving: dict[str, float] = {}
        self._clock = clock

    def missing(self, refs: Iterable[str]) -> list[str]:
        return [ref for ref in refs if ref not in self._values]

    def add(self, values: Mapping[str, str]) -> None:
        self._values.update(values)

    def get(self, ref: str) -> str | None:
        return self._values.get(ref)

    def keep(self, gateway_id: str, refs: frozenset[str]) -> None:
        """The references that a gateway's newest state names; the others of that gateway will leave."""
        now = self._clock()
        for ref in self._by_gateway.get(gateway_id, frozenset()) - refs:
            self._leaving[ref] = now + LINGER_S
        for ref in refs:
            self._leaving.pop(ref, None)
        self._by_gateway[gateway_id] = refs
        for ref in [ref for ref, until in self._leaving.items() if until <= now]:
            del self._leaving[ref]
            self._values.pop(ref, None)


def references(state: GatewayState) -> frozenset[str]:
    """Every vault reference of a gateway's configuration."""
    found: set[str] = set()
    if state.gateway is not None:
        found.update(secrets.refs([state.gateway.telemetry, state.gateway.client_tls]))
    for registry in state.registries.values():
        if (llm := registry.llm_target) is not None:
            found.update(secrets.refs([llm.provider_options, llm.auth]))
            if llm.health_checks is not None:
                found.update(secrets.refs(llm.health_checks.headers))
        if (mcp := registry.mcp_target) is not None:
            found.update(secrets.refs([mcp.headers, mcp.auth]))
    for auth in state.auths.values():
        found.update(secrets.refs(auth.config))
    for policy in state.policies.values():
        found.update(secrets.refs(policy.settings))
    for consumer in state.consumers.values():
        found.update(secrets.refs(consumer.headers))
        if consumer.lb_config is not None and consumer.lb_config.embedding_config is not None:
            found.update(secrets.refs(msgspec.to_builtins(consumer.lb_config.embedding_config)))
    return frozenset(found)
