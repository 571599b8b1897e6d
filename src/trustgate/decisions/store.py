"""The file of decisions: batches of records in SQLite, bounded in time and size, shared by all processes of a machine.

What lives here: writing, finding and pruning; synchronous, to be called in a thread. What must not: what records mean.

Why batches: a row a request with an index on a random trace id costs more than the request may; a batch of a thousand
is one row. A trace id stands as plain text in the batch's bytes, so that finding one is a search over bytes.
"""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
from collections.abc import Iterator

import msgspec
import structlog

from trustgate.decisions.record import Decided, batch_of, decode, encode

FILE = "decisions.db"
SCHEMA = 1
"""Raised with every change of `Decided`: a file of another schema is emptied, as decisions may be lost."""

BUSY_S = 5.0
PRUNE_EVERY = 64
PAGE_BYTES = 16384
"""Batches are long rows: fewer, larger pages cost half of SQLite's usual ones."""

TABLES = """
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    count INTEGER NOT NULL,
    size INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS batches_last_ms ON batches (last_ms);
CREATE INDEX IF NOT EXISTS batches_size ON batches (size);
"""

log = structlog.get_logger("trustgate.decisions")


class DecisionFile:
    """One process's access to the file. Methods may raise `sqlite3.Error`."""

    def __init__(self, path: pathlib.Path, retention_s: float, max_bytes: int) -> None:
        self.path = path
        self._retention_ms = int(retention_s * 1000)
        self._max_bytes = max_bytes
        self._writer: sqlite3.Connection | None = None
        self._writes = 0

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write(self, records: list[Decided]) -> None:
        """Append records, and drop what is too old or too much."""
        if records:
            times = [record.at_ms for record in records]
            self.write_encoded([encode(record) for record in records], min(times), max(times))

    def write_encoded(self, records: list[bytes], first_ms: int, last_ms: int) -> None:
        """As `write`, for records that are bytes already; their times lie between the two given."""
        writer = self._writer or self._open()
        data = batch_of(records)
        row = (first_ms, last_ms, len(records), len(data), data)
        with writer:
            writer.execute("INSERT INTO batches (first_ms, last_ms, count, size, data) VALUES (?, ?, ?, ?, ?)", row)
            if self._writes % PRUNE_EVERY == 0:
                self._prune(writer, last_ms)
        self._writes += 1

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        writer = sqlite3.connect(self.path, timeout=BUSY_S, check_same_thread=False)
        self.path.chmod(0o600)
        writer.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA synchronous = NORMAL")
        if writer.execute("PRAGMA user_version").fetchone()[0] not in (0, SCHEMA):
            writer.execute("DROP TABLE IF EXISTS batches")
        writer.executescript(TABLES)
        writer.execute(f"PRAGMA user_version = {SCHEMA}")
        self._writer = writer
        return writer

    def _prune(self, writer: sqlite3.Connection, now_ms: int) -> None:
        writer.execute("DELETE FROM batches WHERE last_ms < ?", (now_ms - self._retention_ms,))
        total: int = writer.execute("SELECT coalesce(sum(size), 0) FROM batches").fetchone()[0]
        if total <= self._max_bytes:
            return
        for id_, size in writer.execute("SELECT id, size FROM batches ORDER BY id").fetchall():
            writer.execute("DELETE FROM batches WHERE id = ?", (id_,))
            total -= size
            if total <= self._max_bytes * 9 // 10:
                return

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        if not self.path.exists():
            yield None
            return
        with contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=BUSY_S)) as reader:
            known = reader.execute("PRAGMA user_version").fetchone()[0] == SCHEMA
            yield reader if known else None

    def find(self, trace_id: str) -> Decided | None:
        """The record of a request, the newest batches first."""
        wanted = trace_id.encode()
        with self._reading() as reader:
            if reader is None:
                return None
            for (data,) in reader.execute("SELECT data FROM batches ORDER BY id DESC"):
                if wanted in data:
                    found = next((record for record in _decoded(data) if record.trace_id == trace_id), None)
                    if found is not None:
                        return found
        return None

    def count(self, from_ms: int, to_ms: int) -> int:
        """How many records the batches that touch a time range hold; an upper bound, for progress."""
        with self._reading() as reader:
            if reader is None:
                return 0
            sql = "SELECT coalesce(sum(count), 0) FROM batches WHERE last_ms >= ? AND first_ms < ?"
            return reader.execute(sql, (from_ms, to_ms)).fetchone()[0]

    def between(self, gateway_id: str, from_ms: int, to_ms: int) -> Iterator[list[Decided]]:
        """The gateway's records of a time range, batch by batch, in the order in which they were written."""
        with self._reading() as reader:
            if reader is None:
                return
            sql = "SELECT data FROM batches WHERE last_ms >= ? AND first_ms < ? ORDER BY id"
            for (data,) in reader.execute(sql, (from_ms, to_ms)):
                yield [
                    record
                    for record in _decoded(data)
                    if record.gateway_id == gateway_id and from_ms <= record.at_ms < to_ms
                ]

    def statistics(self) -> dict[str, int]:
        """Batches, records, bytes of records, and the oldest one's time (Unix ms)."""
        with self._reading() as reader:
            if reader is None:
                return {"batches": 0, "records": 0, "bytes": 0, "oldest_ms": 0}
            sql = (
                "SELECT count(*), coalesce(sum(count), 0), coalesce(sum(size), 0), coalesce(min(first_ms), 0)"
                " FROM batches"
            )
            names = ("batches", "records", "bytes", "oldest_ms")
            return dict(zip(names, reader.execute(sql).fetchone(), strict=True))


def _decoded(data: bytes) -> list[Decided]:
    try:
        return decode(data)
    except msgspec.DecodeError as error:
        log.warning("a batch of decisions cannot be read", error=str(error))
        return []
