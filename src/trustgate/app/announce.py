"""Telling other programs of a configuration change: Redis channel `gateway_events` (spec 01 §13, spec 06 §15).

Our own planes follow the log and do not need it; planes and tools of an existing installation do.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.actors.control import Executed
from trustgate.domain import commands
from trustgate.domain.commands import Command, gateway_of

# Commands that nothing can have cached yet announce only that a new snapshot is due.
FRESH = (commands.CreateGateway, commands.CreateRegistry, commands.CreatePolicy, commands.DuplicatePolicy)
REGISTRY = (commands.UpdateRegistry, commands.DeleteRegistry)


def notices(command: Command) -> list[bytes]:
    """The messages of a command, in order."""
    gateway_id = gateway_of(command)
    found: list[dict[str, Any]] = []
    if isinstance(command, REGISTRY):
        event = {"gateway_id": gateway_id, "registry_id": command.id}
        found.append({"type": "InvalidateRegistryCacheEvent", "event": event})
    elif not isinstance(command, FRESH):
        found.append({"type": "InvalidateGatewayDataEvent", "event": {"gateway_id": gateway_id}})
    found.append({"type": "SnapshotDirtyEvent", "event": {}})
    return [msgspec.json.encode(notice) for notice in found]


class Announcer:
    """Publishes after each commit; a publication that fails is the caller's to log, never the client's trouble."""

    def __init__(self, redis: Any, channel: str) -> None:
        self._redis = redis
        self._channel = channel

    async def __call__(self, command: Command, executed: Executed) -> None:
        for notice in notices(command):
            await self._redis.publish(self._channel, notice)
