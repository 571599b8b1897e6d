"""The event store in one SQLite file, for embedded installations and tests.

What lives here: the recorder of the `eventsourcing` library with the settings this project needs, and its append. What
must not: threads, encryption. One writer at a time; readers never wait (write-ahead log).

Durability: a commit is flushed to the disk before it is acknowledged (synchronous = FULL), so that an answered command
survives a power failure and not only the end of the process. Leases of data planes alone are written without a flush
(NORMAL): losing them loses nothing.
"""

from __future__ import annotations

import pathlib
import sqlite3
from collections.abc import Sequence

import msgspec
from eventsourcing import persistence
from eventsourcing.persistence import StoredEvent
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteConnection, SQLiteConnectionPool, SQLiteDatastore

from trustgate.store.audit_tables import AuditTables
from trustgate.store.chain import link
from trustgate.store.model import Appended, AuditRow, Recorded, Sealed, StreamWrite
from trustgate.store.tables import CREATE, EVENTS, PUT_PLANE, Dialect, recorded

PUT_AUDIT_ROW = "INSERT INTO tg_audit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
LOCK_TIMEOUT_S = 5
POOL_SIZE = 4

SQLITE = Dialect(
    now="((julianday('now') - 2440587.5) * 86400.0)", blob="BLOB", real="REAL", placeholder="?", key="INTEGER"
)


class FilePool(SQLiteConnectionPool):
    synchronous = "FULL"

    def _create_connection(self) -> SQLiteConnection:
        connection = super()._create_connection()
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA synchronous = {self.synchronous}")
        cursor.execute("PRAGMA wal_autocheckpoint = 1000")
        cursor.execute("PRAGMA secure_delete = ON")  # A forgotten secret's ciphertext does not stay in free pages.
        return connection


class FileDatastore(SQLiteDatastore):
    def __init__(self, path: str, synchronous: str = "FULL") -> None:
        super().__init__(path, lock_timeout=LOCK_TIMEOUT_S, originator_id_type="text")
        self.pool.close()
        self.pool = FilePool(
            db_name=path, lock_timeout=LOCK_TIMEOUT_S, pool_size=POOL_SIZE, max_overflow=POOL_SIZE, pool_timeout=5.0
        )
        self.pool.synchronous = synchronous


class LogRecorder(SQLiteApplicationRecorder):
    """The library's recorder with an explicit position: VACUUM may renumber an implicit rowid."""

    def __init__(self, datastore: SQLiteDatastore) -> None:
        super().__init__(datastore, EVENTS)
        self.insert_events_statement = (
            f"INSERT INTO {EVENTS} (originator_id, originator_version, topic, state) VALUES (?, ?, ?, ?)"
        )

    def construct_create_table_statements(self) -> list[str]:
        return [
            f"CREATE TABLE IF NOT EXISTS {EVENTS} (rowid INTEGER PRIMARY KEY AUTOINCREMENT,"
            " originator_id TEXT NOT NULL, originator_version INTEGER NOT NULL, topic TEXT, state BLOB,"
            " UNIQUE (originator_id, originator_version))",
            *(SQLITE.sql(statement) for statement in CREATE),
        ]


class SQLiteBackend(AuditTables[FileDatastore]):
    """`<data_dir>/trustgate.db`. Synchronous; every method may wait up to 5 s for another writer."""

    dialect = SQLITE
    position_column = "rowid"
    failures: tuple[type[Exception], ...] = (persistence.PersistenceError, sqlite3.Error, OSError)
    mistakes: tuple[type[Exception], ...] = (persistence.ProgrammingError, sqlite3.ProgrammingError)

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def open(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.touch(mode=0o600)
        uri = self.path.resolve().as_uri()
        self.datastore = FileDatastore(uri)
        self._leases = FileDatastore(uri, "NORMAL")
        self.recorder = LogRecorder(self.datastore)
        self.recorder.create_table()
        self.check_ledger()

    def close(self) -> None:
        self.datastore.close()
        self._leases.close()

    def put_plane(self, plane_id: str, position: int, lease_s: float) -> None:
        with self._leases.transaction(commit=True) as cursor:
            cursor.execute(SQLITE.sql(PUT_PLANE), (plane_id, position, lease_s))

    def ping(self) -> None:
        self._read("SELECT 1")

    def watcher(self) -> sqlite3.Connection:
        """A connection for `PRAGMA data_version`, which changes when any other connection commits."""
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=0)
        connection.execute("PRAGMA data_version").fetchone()
        return connection

    def head_on(self, connection: sqlite3.Connection) -> int:
        return connection.execute(f"SELECT MAX(rowid) FROM {EVENTS}").fetchone()[0] or 0

    def append(self, writes: Sequence[StreamWrite], secrets: Sequence[Sealed], forget: Sequence[str]) -> Appended:
        with self.datastore.transaction(commit=True) as cursor:
            # The heads come first: the first statement must be a write, so that the transaction starts as the writer.
            heads = [self.advance_stream(cursor, write)() for write in writes]
            previous = self.recorder._max_notification_id(cursor) or 0
            positions = self.recorder._insert_events(cursor, stored_events(writes, heads)) or ()
            self.write_secrets(cursor, secrets, forget)
        return Appended(previous, tuple(positions))

    def put_audit_rows(self, rows: Sequence[AuditRow]) -> None:
        # The index is derived: it need not survive a power failure, so it need not wait for the disk.
        with self._leases.transaction(commit=True) as cursor:
            cursor.executemany(PUT_AUDIT_ROW, [msgspec.structs.astuple(row) for row in rows])

    def read(self, stream: str, after_version: int, limit: int | None) -> list[Recorded]:
        rows = self._read(
            f"SELECT * FROM {EVENTS} WHERE originator_id = ? AND originator_version > ?"
            " ORDER BY originator_version LIMIT ?",
            (stream, after_version, -1 if limit is None else limit),
        )
        return [recorded(row, row["rowid"]) for row in rows]

    def read_all(self, after_position: int, limit: int) -> list[Recorded]:
        rows = self._read(f"SELECT * FROM {EVENTS} WHERE rowid > ? ORDER BY rowid LIMIT ?", (after_position, limit))
        return [recorded(row, row["rowid"]) for row in rows]

    def head(self) -> int:
        return self.recorder.max_notification_id() or 0


def stored_events(writes: Sequence[StreamWrite], previous: Sequence[str]) -> list[StoredEvent]:
    """The library's form of `writes`; the topic holds the hash of the predecessor, which `previous` begins with.

    Events from before the chain have the kind of their stream there.
    """
    events: list[StoredEvent] = []
    for write, last in zip(writes, previous, strict=True):
        for version, data in enumerate(write.events, write.expected_version + 1):
            events.append(StoredEvent(originator_id=write.stream, originator_version=version, topic=last, state=data))
            last = link(last, write.stream, version, last, data)
    return events
