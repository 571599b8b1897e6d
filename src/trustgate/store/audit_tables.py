"""The tables of the audit trail, and their SQL, once for both databases.

What lives here: the index of events (derived from the log), signed checkpoints, states of long ago, and which secrets
the vault still holds. What must not: the meaning of events (`domain.audit`), signatures (`actors.notary`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trustgate.store.model import AuditFilter, AuditRow, Checkpoint, Recorded, Snapshot
from trustgate.store.tables import EVENTS, D, Tables, chunks, marks, recorded

Term = tuple[str, tuple[Any, ...]]
"""A condition and the values of its parameters."""

SKEW_US = 600_000_000
"""The clocks of processes that write are taken to differ by less: 10 minutes. It bounds a search by time."""


class AuditTables(Tables[D]):
    """What both backends have beside the log for the sake of audit and time travel."""

    position_column: str

    def read_at(self, positions: Sequence[int]) -> list[Recorded]:
        """The events at these positions, in any order; those that do not exist are left out."""
        found: list[Recorded] = []
        for chunk in chunks(positions):
            rows = self._read(
                f"SELECT {EVENTS}.*, {self.position_column} AS position FROM {EVENTS}"
                f" WHERE {self.position_column} IN ({marks(chunk)})",
                chunk,
            )
            found += [recorded(row, row["position"]) for row in rows]
        return found

    def held(self, refs: Sequence[str]) -> set[str]:
        """Those of `refs` whose ciphertext is there."""
        found: set[str] = set()
        for chunk in chunks(refs):
            found |= {
                row["ref"] for row in self._read(f"SELECT ref FROM tg_vault WHERE ref IN ({marks(chunk)})", chunk)
            }
        return found

    # The index

    def indexed(self) -> int:
        """Position of the last event in the index; all events of gateways below it are there too."""
        return self._read("SELECT MAX(position) AS last FROM tg_audit")[0]["last"] or 0

    def clear_audit(self) -> None:
        self._write("DELETE FROM tg_audit")

    def audit_rows(self, wanted: AuditFilter, cursor: int | None, limit: int, newest_first: bool) -> list[AuditRow]:
        """The rows that fit, in the order of the log or against it, beyond position `cursor`."""
        order, beyond = ("DESC", "position < ?") if newest_first else ("ASC", "position > ?")
        shared = self._times(wanted)
        if cursor is not None:
            shared.append((beyond, (cursor,)))
        parts: list[str] = []
        values: list[Any] = []
        for terms in branches(wanted):
            every = [*terms, *shared]
            where = f" WHERE {' AND '.join(text for text, _ in every)}" if every else ""
            parts.append(f"SELECT * FROM (SELECT * FROM tg_audit{where} ORDER BY position {order} LIMIT ?) AS part")
            values += [*(value for _, some in every for value in some), limit]
        # Each part walks one index in the order of the answer, and stops at the limit.
        statement = f"SELECT * FROM ({' UNION ALL '.join(parts)}) AS found ORDER BY position {order} LIMIT ?"
        return [audit_row(row) for row in self._read(statement, (*values, limit))]

    def _times(self, wanted: AuditFilter) -> list[Term]:
        """Conditions on the time, and on the position to spare the search what is certainly outside."""
        terms: list[Term] = []
        bounds = (
            (wanted.since, "at >= ?", -SKEW_US, "at < ? ORDER BY at DESC", "position > ?"),
            (wanted.until, "at < ?", SKEW_US, "at > ? ORDER BY at", "position < ?"),
        )
        for at, exact, skew, outside, limit in bounds:
            if at is None:
                continue
            terms.append((exact, (at,)))
            for row in self._read(f"SELECT position FROM tg_audit WHERE {outside} LIMIT 1", (at + skew,)):
                terms.append((limit, (row["position"],)))
        return terms

    def audit_before(self, places: Sequence[tuple[str, str, int]], depth: int) -> list[list[AuditRow]]:
        """For each (gateway id, object id, position), the object's last `depth` events before it, newest first."""
        found: dict[int, list[AuditRow]] = {number: [] for number in range(len(places))}
        # A database allows only so many members of one UNION.
        for chunk in chunks([(number, *place) for number, place in enumerate(places)]):
            one = (
                "SELECT * FROM (SELECT CAST(? AS INTEGER) AS place, tg_audit.* FROM tg_audit WHERE object_id = ?"
                " AND gateway_id = ? AND position < ? ORDER BY position DESC LIMIT ?) AS part"
            )
            values = [
                value
                for number, gateway_id, object_id, position in chunk
                for value in (number, object_id, gateway_id, position, depth)
            ]
            for row in self._read(" UNION ALL ".join([one] * len(chunk)), values):
                found[row["place"]].append(audit_row(row))
        return [sorted(rows, key=lambda row: -row.position) for rows in found.values()]

    def audit_owner(self, gateway_id: str) -> str | None:
        """The tenant of a gateway, also of a deleted one; None for a gateway that never was."""
        rows = self._read(
            "SELECT tenant FROM tg_audit WHERE gateway_id = ? ORDER BY position DESC LIMIT 1", (gateway_id,)
        )
        return rows[0]["tenant"] if rows else None

    def audit_version(self, gateway_id: str, at: int) -> int:
        """The version of the latest change stamped at or before a time; 0 when there was none."""
        rows = self._read(
            "SELECT version FROM tg_audit WHERE gateway_id = ? AND at <= ? ORDER BY at DESC, version DESC LIMIT 1",
            (gateway_id, at),
        )
        return rows[0]["version"] if rows else 0

    def audit_gateways(self, at: int, tenant: str | None) -> list[AuditRow]:
        """Of each gateway, the last event about the gateway itself that is stamped at or before a time."""
        rows = self._read(
            "SELECT a.* FROM tg_audit a JOIN (SELECT MAX(position) AS last FROM tg_audit WHERE event IN"
            " ('GatewayCreated', 'GatewayUpdated', 'GatewayDeleted') AND at <= ? GROUP BY gateway_id) b"
            f" ON a.position = b.last{'' if tenant is None else ' WHERE a.tenant = ?'} ORDER BY a.position",
            (at,) if tenant is None else (at, tenant),
        )
        return [audit_row(row) for row in rows]

    # Signed checkpoints

    def checkpoints(self, after_number: int, limit: int) -> list[Checkpoint]:
        rows = self._read(
            "SELECT * FROM tg_checkpoints WHERE number > ? ORDER BY number LIMIT ?", (after_number, limit)
        )
        return [checkpoint_of(row) for row in rows]

    def last_checkpoint(self) -> Checkpoint | None:
        rows = self._read("SELECT * FROM tg_checkpoints ORDER BY number DESC LIMIT 1")
        return checkpoint_of(rows[0]) if rows else None

    def put_checkpoint(self, checkpoint: Checkpoint) -> bool:
        """Keep a checkpoint; False when there is one of that number, made by another process."""
        return bool(
            self._write_returning(
                "INSERT INTO tg_checkpoints (number, position, statement, signature) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING RETURNING number",
                (checkpoint.number, checkpoint.position, checkpoint.statement, checkpoint.signature),
            )
        )

    # States of long ago

    def milestone(self, stream: str, version: int, schema: int) -> Snapshot | None:
        """The newest kept state of a stream at or before `version`, in this encoding."""
        rows = self._read(
            "SELECT * FROM tg_milestones WHERE stream = ? AND version <= ? AND schema_version = ?"
            " ORDER BY version DESC LIMIT 1",
            (stream, version, schema),
        )
        return (
            Snapshot(rows[0]["stream"], rows[0]["version"], rows[0]["schema_version"], bytes(rows[0]["state"]))
            if rows
            else None
        )

    def drop_states(self, stream: str) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            for table in ("tg_snapshots", "tg_milestones"):
                cursor.execute(self.dialect.sql(f"DELETE FROM {table} WHERE stream = ?"), (stream,))

    def milestones(self, schema: int) -> list[tuple[str, int]]:
        rows = self._read("SELECT stream, version FROM tg_milestones WHERE schema_version = ?", (schema,))
        return [(row["stream"], row["version"]) for row in rows]

    def put_milestone(self, snapshot: Snapshot) -> None:
        self._write(
            "INSERT INTO tg_milestones (stream, version, schema_version, state) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (stream, version) DO UPDATE SET schema_version = excluded.schema_version,"
            " state = excluded.state",
            (snapshot.stream, snapshot.version, snapshot.schema, snapshot.state),
        )


def branches(wanted: AuditFilter) -> list[list[Term]]:
    """The conditions of `wanted`, as alternatives that exclude each other and walk one index each.

    The databases cannot know which condition is the rarest; here it is known. `column || ''` keeps the others away from
    an index of their own.
    """
    events = tuple(dict.fromkeys(wanted.events))
    tenant: list[Term] = [("tenant = ?", (wanted.tenant,))] if wanted.tenant is not None else []
    checks: dict[str, Term] = {}
    if wanted.tenant is not None:
        checks["tenant"] = ("tenant || '' = ?", (wanted.tenant,))
    if wanted.gateway_id is not None:
        checks["gateway"] = ("gateway_id || '' = ?", (wanted.gateway_id,))
    if wanted.actor:
        checks["actor"] = ("actor || '' = ?", (wanted.actor,))
    if events:
        checks["event"] = (f"event || '' IN ({marks(events)})", events)
    walked: list[list[Term]] = [tenant]
    done = ("tenant",)
    if wanted.object_id:
        walked = [
            [("object_id = ?", (wanted.object_id,))],
            [("related_id = ? AND related_id <> ''", (wanted.object_id,))],
        ]
        done = ()
    elif wanted.gateway_id is not None:
        walked, done = [[("gateway_id = ?", (wanted.gateway_id,))]], ("gateway",)
    elif events:
        walked, done = [[*tenant, ("event = ?", (event,))] for event in events], ("tenant", "event")
    elif wanted.actor:
        walked, done = [[("actor = ?", (wanted.actor,))]], ("actor",)
    others = [term for name, term in checks.items() if name not in done]
    return [[*terms, *others] for terms in walked]


def audit_row(row: Any) -> AuditRow:
    return AuditRow(
        row["position"],
        row["gateway_id"],
        row["version"],
        row["tenant"],
        row["at"],
        row["actor"],
        row["event"],
        row["object_id"],
        row["related_id"],
    )


def checkpoint_of(row: Any) -> Checkpoint:
    return Checkpoint(row["number"], row["position"], bytes(row["statement"]), bytes(row["signature"]))
