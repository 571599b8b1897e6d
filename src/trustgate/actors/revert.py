"""Carrying out a revert: the state to go back to, what the vault still holds of it, the command, once more on a race.

What lives here: the one loop that the Admin API and the command line share. What must not: rules (`domain`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import msgspec

from trustgate.actors.archive import Archive
from trustgate.domain.commands import Meta, RevertGateway
from trustgate.domain.decide_revert import Gone, missing, settled
from trustgate.domain.entities import GatewayState
from trustgate.domain.errors import DomainError, not_found

ATTEMPTS = 5
E = TypeVar("E")


class Control(Protocol):
    """As much of the control plane as this needs."""

    @property
    def keeps_present_secrets(self) -> bool: ...
    async def state(self, gateway_id: str) -> GatewayState | None: ...


async def revert(
    control: Control,
    archive: Archive,
    carry_out: Callable[[Any], Awaitable[E]],
    meta: Meta,
    gateway_id: str,
    then: GatewayState,
    *,
    restore_keys: bool = False,
) -> tuple[E, tuple[Gone, ...]]:
    """Lead a gateway back to `then`: what `carry_out` (execute or preview) made of the command, and the secrets that do
    not come back. Raises `DomainError`; 412 only when `meta` asks for a version, or when others never stop writing."""
    for attempt in range(ATTEMPTS):
        now = await control.state(gateway_id)
        if now is None:
            raise not_found()
        held = await archive.held(missing(then, now))
        # What the vault holds is only known to hold for this version, so the command is made for it alone.
        expected = meta.expected_versions if meta.expected_versions is not None else (now.version,)
        made_for = msgspec.structs.replace(meta, expected_versions=expected)
        command = RevertGateway(made_for, gateway_id, then.version, then, held, restore_keys)
        try:
            done = await carry_out(command)
        except DomainError as error:
            if error.status == 412 and meta.expected_versions is None and attempt + 1 < ATTEMPTS:
                continue
            raise
        kept = control.keeps_present_secrets
        return done, settled(then, now, held, restore_keys=restore_keys, keep_present=kept)[1]
    raise AssertionError("the last attempt returns or raises")
