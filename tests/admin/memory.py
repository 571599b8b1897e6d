"""A control plane in a dictionary: the real domain, no store. Fast, and enough for everything but durability."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import msgspec

from trustgate.domain.commands import Command, gateway_of
from trustgate.domain.decide import decide
from trustgate.domain.decision import Catalog, Context
from trustgate.domain.directory import DirectoryState, evolve_directory
from trustgate.domain.entities import GatewayState
from trustgate.domain.evolve import EMPTY

COLLECTIONS = {"registry": "registries", "consumer": "consumers", "auth": "auths", "policy": "policies"}


class Executed(msgspec.Struct, frozen=True):
    before: GatewayState
    after: GatewayState
    position: int
    applied: bool


class MemoryControl:
    """`execute` is atomic because it never awaits."""

    def __init__(self, catalog: Catalog, *, limits_enabled: bool = True) -> None:
        self.gateways: dict[str, GatewayState] = {}
        self.listing = DirectoryState()
        self.vault: dict[str, str] = {}
        self.commands: list[Command] = []
        self.failure: Exception | None = None
        self.all_applied = True
        self.context = Context(
            catalog=catalog, fingerprint=_fingerprint, limits_enabled=limits_enabled, owner=self._owner
        )

    async def execute(self, command: Any) -> Executed:
        if self.failure is not None:
            raise self.failure
        gateway_id = gateway_of(command)
        before = self.gateways.get(gateway_id, EMPTY)
        decision = decide(before, self.listing, command, self.context)
        self.gateways[gateway_id] = decision.state
        for event in decision.directory:
            self.listing = evolve_directory(self.listing, event)
        self.vault.update(decision.secrets)
        self.commands.append(command)
        return Executed(before, decision.state, len(self.commands), self.all_applied)

    async def state(self, gateway_id: str) -> GatewayState | None:
        if self.failure is not None:
            raise self.failure
        return self.gateways.get(gateway_id)

    async def directory(self) -> DirectoryState:
        return self.listing

    async def states(self) -> Mapping[str, GatewayState]:
        return self.gateways

    async def reveal(self, ref: str) -> str:
        return self.vault[ref]

    def _owner(self, kind: str, id_: str) -> str | None:
        return next(
            (gateway for gateway, state in self.gateways.items() if id_ in getattr(state, COLLECTIONS[kind])), None
        )


def _fingerprint(secret: str) -> str:
    return hmac.new(b"tests", secret.encode(), hashlib.sha256).hexdigest()[:16]
