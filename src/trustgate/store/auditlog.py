"""The audit trail's tables as Trio sees them: `EventStore.audit`.

What lives here: asynchronous access to the index of events, checkpoints, states of long ago. What must not: SQL
(`audit_tables`), the meaning of events (`actors.archive`), signatures (`actors.notary`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from trustgate.store.model import AuditFilter, AuditRow, Backend, Checkpoint, Recorded, Snapshot

Run = Callable[..., Awaitable[Any]]


class AuditLog:
    """All methods may raise `StoreUnavailable`. A cancelled read is abandoned; a write that has begun is not."""

    def __init__(self, backend: Backend, ask: Run, run: Run) -> None:
        self._backend = backend
        self._ask = ask
        self._run = run

    async def events(self, positions: Sequence[int]) -> dict[int, Recorded]:
        """The events at these positions; those that do not exist are absent."""
        if not positions:
            return {}
        found: list[Recorded] = await self._ask(self._backend.read_at, positions)
        return {event.position: event for event in found}

    async def held(self, refs: Sequence[str]) -> set[str]:
        """Those of these references whose secret the vault still holds."""
        return await self._ask(self._backend.held, refs)

    async def indexed(self) -> int:
        """Position up to which the index is complete."""
        return await self._ask(self._backend.indexed)

    async def put_rows(self, rows: Sequence[AuditRow]) -> None:
        """Extend the index. The rows must follow what is indexed without a gap; known ones are ignored."""
        await self._run(self._backend.put_audit_rows, rows)

    async def clear(self) -> None:
        """Empty the index, which is rebuilt from the log."""
        await self._run(self._backend.clear_audit)

    async def rows(
        self, wanted: AuditFilter, cursor: int | None = None, limit: int = 100, newest_first: bool = True
    ) -> list[AuditRow]:
        """Index rows that fit, beyond the position `cursor`."""
        return await self._ask(self._backend.audit_rows, wanted, cursor, limit, newest_first)

    async def before(self, places: Sequence[tuple[str, str, int]], depth: int) -> list[list[AuditRow]]:
        """For each (gateway id, object id, position), the object's last `depth` events before it, newest first."""
        return await self._ask(self._backend.audit_before, places, depth) if places else []

    async def owner(self, gateway_id: str) -> str | None:
        """The tenant of a gateway, also of a deleted one; None for a gateway that never was."""
        return await self._ask(self._backend.audit_owner, gateway_id)

    async def version_at(self, gateway_id: str, at: int) -> int:
        """The version of a gateway's latest change stamped at or before `at` (microseconds); 0 when there was none."""
        return await self._ask(self._backend.audit_version, gateway_id, at)

    async def gateways_at(self, at: int, tenant: str | None) -> list[AuditRow]:
        """Of each gateway (of a tenant), the last event about the gateway itself stamped at or before `at`."""
        return await self._ask(self._backend.audit_gateways, at, tenant)

    async def checkpoints(self, after_number: int = 0, limit: int = 1000) -> list[Checkpoint]:
        return await self._ask(self._backend.checkpoints, after_number, limit)

    async def last_checkpoint(self) -> Checkpoint | None:
        return await self._ask(self._backend.last_checkpoint)

    async def put_checkpoint(self, checkpoint: Checkpoint) -> bool:
        """Keep a checkpoint; False when another process has made one of that number."""
        return await self._run(self._backend.put_checkpoint, checkpoint)

    async def milestone(self, stream: str, version: int, schema: int) -> Snapshot | None:
        """The newest kept state of a stream at or before `version`, in that encoding."""
        return await self._ask(self._backend.milestone, stream, version, schema)

    async def drop_states(self, stream: str) -> None:
        """Delete the snapshot and the milestones of a stream; they are derived from the log."""
        await self._run(self._backend.drop_states, stream)

    async def milestones(self, schema: int) -> list[tuple[str, int]]:
        """Stream and version of every kept state in that encoding."""
        return await self._ask(self._backend.milestones, schema)

    async def put_milestone(self, snapshot: Snapshot) -> None:
        await self._run(self._backend.put_milestone, snapshot)
