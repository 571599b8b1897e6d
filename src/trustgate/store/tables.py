"""The tables beside the log, and their SQL, once for both databases.

What lives here: stream heads, snapshots, the vault's ciphertext, planes, key/value, config-sync connections. What must
not: the log itself (the recorders of `sqlite` and `postgres`), encryption (`vault`), threads (`eventstore`).
Statements use `?` for parameters; where PostgreSQL differs from SQLite, the `Dialect` says how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from trustgate.store.chain import GENESIS, carried, link
from trustgate.store.errors import DamagedLog, NewerStore, VersionConflict
from trustgate.store.model import Head, Plane, Recorded, Sealed, Snapshot, StreamWrite, SyncConnection

EVENTS = "tg_events"
CHUNK = 500
"""Parameters of one `IN (...)`."""

T = TypeVar("T")


class Dialect(msgspec.Struct, frozen=True):
    now: str
    """Expression for the database's clock in epoch seconds."""
    blob: str
    real: str
    placeholder: str
    key: str
    """Type of a 64-bit primary key."""

    def sql(self, statement: str) -> str:
        statement = statement.replace("{now}", self.now).replace("{blob}", self.blob).replace("{real}", self.real)
        statement = statement.replace("{key}", self.key)
        return statement.replace("?", self.placeholder)


MIGRATIONS = ("0001_event_store", "0002_audit")
"""What this code has made of the tables, in order. A later change of a table is a new entry with its statements."""

LEDGER = "trustgate_py_migrations"

CREATE = (
    f"CREATE TABLE IF NOT EXISTS {LEDGER} (id TEXT PRIMARY KEY, applied_at {{real}} NOT NULL)",
    "CREATE TABLE IF NOT EXISTS tg_streams (stream TEXT PRIMARY KEY, version BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS tg_snapshots (stream TEXT PRIMARY KEY, version BIGINT NOT NULL,"
    " schema_version INTEGER NOT NULL, state {blob} NOT NULL)",
    "CREATE TABLE IF NOT EXISTS tg_vault (ref TEXT PRIMARY KEY, key_id TEXT NOT NULL, ciphertext {blob} NOT NULL)",
    "CREATE INDEX IF NOT EXISTS tg_vault_key_id_idx ON tg_vault (key_id)",
    "CREATE TABLE IF NOT EXISTS tg_planes (plane_id TEXT PRIMARY KEY, position BIGINT NOT NULL,"
    " expires_at {real} NOT NULL)",
    "CREATE TABLE IF NOT EXISTS tg_values (key TEXT PRIMARY KEY, value {blob} NOT NULL, expires_at {real})",
    "CREATE TABLE IF NOT EXISTS tg_sync_connections (scope TEXT NOT NULL, instance_id TEXT NOT NULL,"
    " state TEXT NOT NULL, applied_version TEXT NOT NULL, first_seen {real} NOT NULL, last_seen {real} NOT NULL,"
    " PRIMARY KEY (scope, instance_id))",
    # 0002_audit: the index of the audit trail and the states of long ago are derived from the log; checkpoints are not.
    "CREATE TABLE IF NOT EXISTS tg_audit (position {key} PRIMARY KEY, gateway_id TEXT NOT NULL,"
    " version BIGINT NOT NULL, tenant TEXT NOT NULL, at BIGINT NOT NULL, actor TEXT NOT NULL, event TEXT NOT NULL,"
    " object_id TEXT NOT NULL, related_id TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS tg_audit_gateway_idx ON tg_audit (gateway_id, position)",
    "CREATE INDEX IF NOT EXISTS tg_audit_time_idx ON tg_audit (gateway_id, at, version)",
    "CREATE INDEX IF NOT EXISTS tg_audit_tenant_idx ON tg_audit (tenant, position)",
    "CREATE INDEX IF NOT EXISTS tg_audit_actor_idx ON tg_audit (actor, position)",
    "CREATE INDEX IF NOT EXISTS tg_audit_event_idx ON tg_audit (event, position)",
    "CREATE INDEX IF NOT EXISTS tg_audit_tenant_event_idx ON tg_audit (tenant, event, position)",
    "CREATE INDEX IF NOT EXISTS tg_audit_object_idx ON tg_audit (object_id, position)",
    "CREATE INDEX IF NOT EXISTS tg_audit_related_idx ON tg_audit (related_id, position) WHERE related_id <> ''",
    "CREATE INDEX IF NOT EXISTS tg_audit_at_idx ON tg_audit (at, position)",
    "CREATE TABLE IF NOT EXISTS tg_checkpoints (number BIGINT PRIMARY KEY, position BIGINT NOT NULL,"
    " statement {blob} NOT NULL, signature {blob} NOT NULL)",
    "CREATE TABLE IF NOT EXISTS tg_milestones (stream TEXT NOT NULL, version BIGINT NOT NULL,"
    " schema_version INTEGER NOT NULL, state {blob} NOT NULL, PRIMARY KEY (stream, version))",
)

ADVANCE = (
    "UPDATE tg_streams SET version = ? WHERE stream = ? AND version = ? RETURNING"
    f" (SELECT topic FROM {EVENTS} WHERE originator_id = ? AND originator_version = ?) AS topic,"
    f" (SELECT state FROM {EVENTS} WHERE originator_id = ? AND originator_version = ?) AS state"
)

PUT_SECRET = (
    "INSERT INTO tg_vault (ref, key_id, ciphertext) VALUES (?, ?, ?) ON CONFLICT (ref) DO UPDATE"
    " SET key_id = excluded.key_id, ciphertext = excluded.ciphertext"
)

PUT_PLANE = (
    "INSERT INTO tg_planes (plane_id, position, expires_at) VALUES (?, ?, {now} + ?) ON CONFLICT (plane_id)"
    " DO UPDATE SET position = excluded.position, expires_at = excluded.expires_at"
)


class Datastore(Protocol):
    def transaction(self, *, commit: bool) -> AbstractContextManager[Any]: ...


D = TypeVar("D", bound=Datastore)


class Tables(Generic[D]):
    """Statements on the tables beside the log; `SQLiteBackend` and `PostgresBackend` inherit it."""

    dialect: Dialect
    datastore: D

    def _read(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self.datastore.transaction(commit=False) as cursor:
            cursor.execute(self.dialect.sql(statement), parameters)
            return cursor.fetchall()

    def _write(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute(self.dialect.sql(statement), parameters)

    def _write_returning(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute(self.dialect.sql(statement), parameters)
            return cursor.fetchall()

    # Parts of an append, inside its transaction.

    def advance_stream(self, cursor: Any, write: StreamWrite) -> Callable[[], str]:
        """Move a stream's head by the events of `write`. Call the result before the commit: it raises `VersionConflict`
        if the stream was not where expected, else it is the hash of the event that `write` follows."""
        version = write.expected_version + len(write.events)
        at = (write.stream, write.expected_version)
        if write.expected_version == 0:
            statement = (
                "INSERT INTO tg_streams (stream, version) VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING version"
            )
            cursor.execute(self.dialect.sql(statement), (write.stream, version))
        else:
            cursor.execute(self.dialect.sql(ADVANCE), (version, *at, *at, *at))

        def predecessor() -> str:
            row = cursor.fetchone()
            if row is None:
                raise VersionConflict(*at)
            return GENESIS if write.expected_version == 0 else self._hash_of(cursor, at, row)

        return predecessor

    def _hash_of(self, cursor: Any, at: tuple[str, int], row: Any) -> str:
        """The hash of the event at a place (stream, version), whose members `row` has."""
        if row["state"] is None:
            raise DamagedLog(*at)
        if previous := carried(row["topic"]):
            return link(previous, *at, previous, bytes(row["state"]))
        # From before the chain: the first append to such a stream pays for all of its past, once.
        cursor.execute(
            self.dialect.sql(
                f"SELECT originator_version AS version, topic, state FROM {EVENTS} WHERE originator_id = ?"
                " AND originator_version <= ? ORDER BY originator_version"
            ),
            at,
        )
        last = GENESIS
        for row in cursor.fetchall():
            last = link(last, at[0], row["version"], carried(row["topic"]), bytes(row["state"]))
        return last

    def write_secrets(self, cursor: Any, secrets: Sequence[Sealed], forget: Sequence[str]) -> None:
        for secret in secrets:
            cursor.execute(self.dialect.sql(PUT_SECRET), (secret.ref, secret.key_id, secret.ciphertext))
        for ref in forget:
            cursor.execute(self.dialect.sql("DELETE FROM tg_vault WHERE ref = ?"), (ref,))

    # The ledger of migrations

    def check_ledger(self) -> None:
        """Enter what was made of the tables. Raises `NewerStore` when newer code has been here."""
        for migration in MIGRATIONS:
            self._write(f"INSERT INTO {LEDGER} VALUES (?, {{now}}) ON CONFLICT DO NOTHING", (migration,))
        known = {row["id"] for row in self._read(f"SELECT id FROM {LEDGER}")}
        if unknown := sorted(known.difference(MIGRATIONS)):
            raise NewerStore(unknown)

    # Stream heads and snapshots

    def heads(self) -> list[Head]:
        rows = self._read(
            "SELECT s.stream AS stream, s.version AS version, COALESCE(p.version, 0) AS snapshot_version"
            " FROM tg_streams s LEFT JOIN tg_snapshots p ON p.stream = s.stream ORDER BY s.stream"
        )
        return [Head(row["stream"], row["version"], row["snapshot_version"]) for row in rows]

    def snapshots(self, streams: Sequence[str]) -> list[Snapshot]:
        found: list[Snapshot] = []
        for chunk in chunks(streams):
            rows = self._read(f"SELECT * FROM tg_snapshots WHERE stream IN ({marks(chunk)})", chunk)
            found += [
                Snapshot(row["stream"], row["version"], row["schema_version"], bytes(row["state"])) for row in rows
            ]
        return found

    def put_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot unless a newer one of the same schema is there."""
        self._write(
            "INSERT INTO tg_snapshots (stream, version, schema_version, state) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (stream) DO UPDATE SET version = excluded.version,"
            " schema_version = excluded.schema_version, state = excluded.state"
            " WHERE excluded.version >= tg_snapshots.version"
            " OR excluded.schema_version <> tg_snapshots.schema_version",
            (snapshot.stream, snapshot.version, snapshot.schema, snapshot.state),
        )

    # The vault's ciphertext

    def secrets(self, refs: Sequence[str]) -> list[Sealed]:
        found: list[Sealed] = []
        for chunk in chunks(refs):
            rows = self._read(f"SELECT * FROM tg_vault WHERE ref IN ({marks(chunk)})", chunk)
            found += [Sealed(row["ref"], row["key_id"], bytes(row["ciphertext"])) for row in rows]
        return found

    def put_secret(self, secret: Sealed) -> None:
        self._write(PUT_SECRET, (secret.ref, secret.key_id, secret.ciphertext))

    def put_secret_if_absent(self, secret: Sealed) -> None:
        self._write(
            "INSERT INTO tg_vault (ref, key_id, ciphertext) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (secret.ref, secret.key_id, secret.ciphertext),
        )

    def replace_secret(self, secret: Sealed, old_key_id: str) -> bool:
        """Put new ciphertext where the old key's still is; False when the secret is gone or was changed."""
        return bool(
            self._write_returning(
                "UPDATE tg_vault SET key_id = ?, ciphertext = ? WHERE ref = ? AND key_id = ? RETURNING ref",
                (secret.key_id, secret.ciphertext, secret.ref, old_key_id),
            )
        )

    def forget(self, refs: Sequence[str]) -> None:
        for chunk in chunks(refs):
            self._write(f"DELETE FROM tg_vault WHERE ref IN ({marks(chunk)})", chunk)

    def secrets_not_under(self, key_id: str, limit: int) -> list[Sealed]:
        rows = self._read("SELECT * FROM tg_vault WHERE key_id <> ? ORDER BY ref LIMIT ?", (key_id, limit))
        return [Sealed(row["ref"], row["key_id"], bytes(row["ciphertext"])) for row in rows]

    # Data planes: a lease each, and how far they are

    def put_plane(self, plane_id: str, position: int, lease_s: float) -> None:
        self._write(PUT_PLANE, (plane_id, position, lease_s))

    def remove_plane(self, plane_id: str) -> None:
        """Remove a plane, and those whose lease ended long ago."""
        self._write("DELETE FROM tg_planes WHERE plane_id = ? OR expires_at < {now} - 3600", (plane_id,))

    def planes(self) -> list[Plane]:
        rows = self._read("SELECT plane_id, position FROM tg_planes WHERE expires_at > {now} ORDER BY plane_id")
        return [Plane(row["plane_id"], row["position"]) for row in rows]

    # Key/value with an optional time to live

    def put_value(self, key: str, value: bytes, ttl_s: float | None) -> None:
        self._write(
            "INSERT INTO tg_values (key, value, expires_at) VALUES (?, ?, {now} + ?) ON CONFLICT (key)"
            " DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at",
            (key, value, ttl_s),
        )

    def put_value_if_absent(self, key: str, value: bytes, ttl_s: float | None) -> bool:
        """Set a value unless a live one is there; whether it was set."""
        return bool(
            self._write_returning(
                "INSERT INTO tg_values (key, value, expires_at) VALUES (?, ?, {now} + ?) ON CONFLICT (key)"
                " DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at"
                " WHERE tg_values.expires_at <= {now} RETURNING key",
                (key, value, ttl_s),
            )
        )

    def replace_value(self, key: str, old: bytes, new: bytes) -> bool:
        """Whether `old` was there still, and is `new` now."""
        statement = "UPDATE tg_values SET value = ? WHERE key = ? AND value = ? RETURNING key"
        return bool(self._write_returning(statement, (new, key, old)))

    def value(self, key: str) -> bytes | None:
        rows = self._read(
            "SELECT value FROM tg_values WHERE key = ? AND (expires_at IS NULL OR expires_at > {now})", (key,)
        )
        return bytes(rows[0]["value"]) if rows else None

    def take_value(self, key: str) -> bytes | None:
        """Read and delete in one step: of several callers one gets the value."""
        rows = self._write_returning(
            "DELETE FROM tg_values WHERE key = ? AND (expires_at IS NULL OR expires_at > {now}) RETURNING value", (key,)
        )
        return bytes(rows[0]["value"]) if rows else None

    def values_below(self, prefix: str) -> list[tuple[str, bytes]]:
        """Live values whose keys begin with `prefix`, by key."""
        rows = self._read(
            "SELECT key, value FROM tg_values WHERE substr(key, 1, ?) = ?"
            " AND (expires_at IS NULL OR expires_at > {now}) ORDER BY key",
            (len(prefix), prefix),
        )
        return [(row["key"], bytes(row["value"])) for row in rows]

    def delete_value(self, key: str) -> None:
        """Delete a value, and those that expired."""
        self._write("DELETE FROM tg_values WHERE key = ? OR expires_at <= {now}", (key,))

    # Connections of the configuration feed

    def put_sync_connection(self, scope: str, instance_id: str, state: str, applied_version: str) -> None:
        self._write(
            "INSERT INTO tg_sync_connections (scope, instance_id, state, applied_version, first_seen, last_seen)"
            " VALUES (?, ?, ?, ?, {now}, {now}) ON CONFLICT (scope, instance_id) DO UPDATE"
            " SET state = excluded.state, applied_version = excluded.applied_version, last_seen = excluded.last_seen",
            (scope, instance_id, state, applied_version),
        )

    def sync_connections(self, scope: str | None) -> list[SyncConnection]:
        rows = (
            self._read("SELECT * FROM tg_sync_connections ORDER BY scope, instance_id")
            if scope is None
            else self._read("SELECT * FROM tg_sync_connections WHERE scope = ? ORDER BY instance_id", (scope,))
        )
        return [
            SyncConnection(
                row["scope"],
                row["instance_id"],
                row["state"],
                row["applied_version"],
                float(row["first_seen"]),
                float(row["last_seen"]),
            )
            for row in rows
        ]


def recorded(row: Any, position: int) -> Recorded:
    return Recorded(
        position, row["originator_id"], row["originator_version"], bytes(row["state"]), carried(row["topic"])
    )


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def marks(items: Sequence[Any]) -> str:
    return ", ".join("?" * len(items))
