"""The event store in PostgreSQL (spec 06 §3.3).

What lives here: the recorder of the `eventsourcing` library, its append, the listening connection. What must not:
threads, encryption, settings (`connection`). Imported only where PostgreSQL is used: the driver weighs 11 MB.

Order: an append takes the recorder's EXCLUSIVE lock on the log, so positions are given in the order of commits and a
reader that has seen position N never misses one below it. Reads do not wait for that lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg
from eventsourcing import persistence
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

from trustgate.store.audit_tables import AuditTables
from trustgate.store.connection import PostgresConfig
from trustgate.store.model import Appended, AuditRow, Recorded, Sealed, StreamWrite
from trustgate.store.sqlite import stored_events
from trustgate.store.tables import CREATE, EVENTS, PUT_PLANE, Dialect, recorded

EVENTS_CHANNEL = EVENTS
PLANES_CHANNEL = "tg_planes"
LOCK_TIMEOUT_S = 5
NOTIFY_HEAD = f"SELECT pg_notify('{EVENTS_CHANNEL}', MAX(notification_id)::text) FROM {EVENTS}".encode()
PIPELINE_BYTES = 32 * 1024
MIGRATION_LOCK = 0x7472_7573_7467
"""Key of the advisory lock under which tables are created: planes that start together must not collide."""

PUT_AUDIT_ROWS = (
    "INSERT INTO tg_audit SELECT * FROM unnest(?::bigint[], ?::text[], ?::bigint[], ?::text[], ?::bigint[], ?::text[],"
    " ?::text[], ?::text[], ?::text[]) ON CONFLICT DO NOTHING"
)

POSTGRES = Dialect(
    now="extract(epoch from clock_timestamp())::double precision",
    blob="BYTEA",
    real="DOUBLE PRECISION",
    placeholder="%s",
    key="BIGINT",
)


def small(writes: Sequence[StreamWrite], secrets: Sequence[Sealed]) -> bool:
    """Whether an append surely fits into the socket's buffer. The driver's pipeline waits for an answer before all of a
    larger one is sent, and so does the server, for ever."""
    if len(writes) > 2 or len(secrets) > 20:
        return False
    return sum(len(data) for write in writes for data in write.events) < PIPELINE_BYTES


class PostgresBackend(AuditTables[PostgresDatastore]):
    """The log and its tables in the schema `public` of one database. Synchronous."""

    dialect = POSTGRES
    position_column = "notification_id"
    failures: tuple[type[Exception], ...] = (persistence.PersistenceError, psycopg.Error, OSError)
    mistakes: tuple[type[Exception], ...] = (persistence.ProgrammingError, psycopg.ProgrammingError)

    def __init__(self, config: PostgresConfig) -> None:
        self.config = config

    def open(self) -> None:
        config = self.config
        with psycopg.connect(**config.arguments(), autocommit=True) as connection:
            # Held to the end of the block: another plane that starts now waits here.
            connection.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
            self.datastore = PostgresDatastore(
                config.dbname,
                config.host,
                config.port,
                config.user,
                config.password,
                connect_timeout=config.connect_timeout_s,
                idle_in_transaction_session_timeout=LOCK_TIMEOUT_S,
                pool_size=config.min_conns,
                max_overflow=max(0, config.max_conns - config.min_conns),
                conn_max_age=config.max_conn_lifetime_s,
                lock_timeout=LOCK_TIMEOUT_S,
                originator_id_type="text",
                pre_ping=True,
                get_password_func=config.password_source,
            )
            pool = self.datastore.pool
            assert isinstance(pool.kwargs, dict)
            pool.kwargs.update({name: value for name, value in config.arguments().items() if name != "password"})
            pool.max_idle = config.max_conn_idle_s
            # A longer back-off would keep us away from a server that is back; each caller starts a new attempt.
            pool.reconnect_timeout = 1.0
            self.recorder = PostgresApplicationRecorder(self.datastore, events_table_name=EVENTS)
            self.recorder.create_table()
            with self.datastore.transaction(commit=True) as cursor:
                for statement in CREATE:
                    cursor.execute(POSTGRES.sql(statement).encode())
            self.check_ledger()

    def close(self) -> None:
        with contextlib.suppress(AttributeError):
            self.datastore.close()

    def ping(self) -> None:
        self._read("SELECT 1")

    def listener(self) -> psycopg.Connection[Any]:
        """A connection of its own that hears of appends and of planes that moved."""
        connection = psycopg.connect(**self.config.arguments(), autocommit=True)
        connection.execute(f"LISTEN {EVENTS_CHANNEL}".encode())
        connection.execute(f"LISTEN {PLANES_CHANNEL}".encode())
        return connection

    def append(self, writes: Sequence[StreamWrite], secrets: Sequence[Sealed], forget: Sequence[str]) -> Appended:
        # Not `recorder.insert_events`: it retries, and after a commit whose answer was lost that looks like a conflict.
        recorder = self.recorder
        # What does not need an answer to what goes before is sent along with it: two round trips and the commit.
        with (
            self.datastore.get_connection() as connection,
            connection.pipeline() if small(writes, secrets) else contextlib.nullcontext() as pipeline,
            connection.transaction(),
            connection.cursor() as cursor,
        ):
            recorder._lock_table(cursor)
            cursor.execute(recorder.max_notification_id_statement)
            heads = [self.advance_stream(connection.cursor(), write) for write in writes]
            previous = (cursor.fetchone() or {}).get("max") or 0
            events = stored_events(writes, [predecessor() for predecessor in heads])
            super(PostgresApplicationRecorder, recorder)._insert_stored_events(cursor, events)
            self.write_secrets(connection.cursor(), secrets, forget)
            connection.execute(NOTIFY_HEAD)
            if pipeline is not None:
                pipeline.sync()
            positions = recorder._fetch_ids_after_insert_events(cursor, events) or ()
        return Appended(previous, tuple(sorted(positions)))

    def put_audit_rows(self, rows: Sequence[AuditRow]) -> None:
        columns = [list(column) for column in zip(*map(msgspec.structs.astuple, rows), strict=True)]
        self._write(PUT_AUDIT_ROWS, columns)

    def read(self, stream: str, after_version: int, limit: int | None) -> list[Recorded]:
        rows = self._read(
            f"SELECT * FROM {EVENTS} WHERE originator_id = ? AND originator_version > ?"
            " ORDER BY originator_version LIMIT ?",
            (stream, after_version, limit),
        )
        return [recorded(row, row["notification_id"]) for row in rows]

    def read_all(self, after_position: int, limit: int) -> list[Recorded]:
        rows = self._read(
            f"SELECT * FROM {EVENTS} WHERE notification_id > ? ORDER BY notification_id LIMIT ?",
            (after_position, limit),
        )
        return [recorded(row, row["notification_id"]) for row in rows]

    def head(self) -> int:
        return self._read(f"SELECT MAX(notification_id) AS head FROM {EVENTS}")[0]["head"] or 0

    def put_plane(self, plane_id: str, position: int, lease_s: float) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute(POSTGRES.sql(PUT_PLANE).encode(), (plane_id, position, lease_s))
            cursor.execute(f"NOTIFY {PLANES_CHANNEL}".encode())

    def _read(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        # Without the transaction that the shared form opens: one round trip.
        with self.datastore.get_connection() as connection:
            return connection.execute(POSTGRES.sql(statement).encode(), parameters, prepare=True).fetchall()
