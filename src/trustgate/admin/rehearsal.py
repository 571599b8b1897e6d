"""A control plane that decides and changes nothing: commands are folded onto a copy of the gateway's state.

What lives here: the `ControlPlane` that handlers are given when a plan is made. What must not: rules (`domain`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from trustgate.admin.exchange import ControlPlane, Executed
from trustgate.domain.commands import Command, gateway_of
from trustgate.domain.decide import decide
from trustgate.domain.decision import Context
from trustgate.domain.directory import DirectoryState, evolve_directory
from trustgate.domain.entities import GatewayState


class Rehearsed(msgspec.Struct, frozen=True):
    before: GatewayState
    after: GatewayState
    applied: bool = True


class Rehearsal:
    """One gateway, and commands that are decided against it one after another. `state_now` is what they lead to."""

    def __init__(self, control: ControlPlane, state: GatewayState, directory: DirectoryState) -> None:
        assert state.gateway is not None, "only existing gateways are planned for"
        self._control = control
        self._id = state.gateway.id
        self._directory = directory
        self._secrets: dict[str, str] = {}
        self.state_now = state
        self.commands: list[Command] = []

    @property
    def keeps_present_secrets(self) -> bool:
        return self._control.keeps_present_secrets

    @property
    def context(self) -> Context:
        return self._control.context

    async def execute(self, command: Any) -> Executed:
        """Decide, and remember. Raises `DomainError` for a refusal."""
        if gateway_of(command) != self._id:
            raise ValueError("a plan is about one gateway")
        before = self.state_now
        decision = decide(before, self._directory, command, self.context)
        for event in decision.directory:
            self._directory = evolve_directory(self._directory, event)
        self._secrets.update(decision.secrets)
        self.state_now = decision.state
        self.commands.append(command)
        return Rehearsed(before, decision.state)

    async def preview(self, command: Any) -> Executed:
        """Decide, and forget."""
        decision = decide(self.state_now, self._directory, command, self.context)
        return Rehearsed(self.state_now, decision.state)

    async def state(self, gateway_id: str) -> GatewayState | None:
        if gateway_id != self._id:
            return await self._control.state(gateway_id)
        return self.state_now if self.state_now.gateway is not None else None

    async def directory(self) -> DirectoryState:
        return self._directory

    async def states(self) -> Mapping[str, GatewayState]:
        return {**await self._control.states(), self._id: self.state_now}

    async def reveal(self, ref: str) -> str:
        return self._secrets[ref] if ref in self._secrets else await self._control.reveal(ref)
