"""Answers of the semantic cache in PostgreSQL; vectors through the extension `vector` (spec 04 §14.5).

What lives here: the two tables, the few connections, the threads that block on them. What must not: how to connect.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import psycopg
import trio
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types import TypeInfo

from trustgate.policies.answer_store import DIMENSIONS, RETRY_VECTORS_S, TIMEOUT_S, Outage, StoreError, Vector

CONNECTIONS = 4
MAX_LIFETIME_S = 3600.0
RETRY_S = 1.0
"""How long a database that did not answer is left alone."""

SWEEP_EVERY_S = 60.0
SWEEP_ROWS = 500

CREATION_LOCK = 0x7472_7573_7363
"""Key of the advisory lock under which tables are created: processes that start together must not collide."""

EXACT, ENTRIES = "semantic_cache_exact", "semantic_cache_entries"
LISTS = 100

CREATE_EXACT = (
    f"CREATE TABLE {EXACT} (rule_id TEXT NOT NULL, key TEXT NOT NULL, response TEXT NOT NULL,"
    " expires_at TIMESTAMPTZ NOT NULL, created_at TIMESTAMPTZ NOT NULL DEFAULT now(), PRIMARY KEY (rule_id, key))",
    f"CREATE INDEX ON {EXACT} (expires_at)",
)
CREATE_ENTRIES = (
    "CREATE EXTENSION IF NOT EXISTS vector",
    f"CREATE TABLE {ENTRIES} (id BIGSERIAL PRIMARY KEY, rule_id TEXT NOT NULL, embedding vector({DIMENSIONS}) NOT NULL,"
    " response TEXT NOT NULL, expires_at TIMESTAMPTZ NOT NULL, created_at TIMESTAMPTZ NOT NULL DEFAULT now())",
    f"CREATE INDEX ON {ENTRIES} (rule_id)",
    f"CREATE INDEX ON {ENTRIES} (expires_at)",
    f"CREATE INDEX ON {ENTRIES} USING ivfflat (embedding vector_cosine_ops) WITH (lists = {LISTS})",
)
SESSION = "SELECT set_config('statement_timeout', %s, false), set_config('client_encoding', 'UTF8', false)"
GET = f"SELECT response FROM {EXACT} WHERE rule_id = %s AND key = %s AND expires_at > now()"
PUT = (
    f"INSERT INTO {EXACT} (rule_id, key, response, expires_at, created_at)"
    " VALUES (%s, %s, %s, now() + make_interval(secs => %s), now()) ON CONFLICT (rule_id, key) DO UPDATE"
    " SET response = excluded.response, expires_at = excluded.expires_at, created_at = excluded.created_at"
)
NEAREST = (
    f"SELECT 1 - (embedding <=> %(vector)s), response FROM {ENTRIES} WHERE rule_id = %(rule)s AND expires_at > now()"
    " ORDER BY embedding <=> %(vector)s LIMIT 1"
)
ADD = (
    f"INSERT INTO {ENTRIES} (rule_id, embedding, response, expires_at, created_at)"
    " VALUES (%s, %s, %s, now() + make_interval(secs => %s), now())"
)
SWEEP = (
    "DELETE FROM {table} WHERE ctid = ANY(ARRAY("
    "SELECT ctid FROM {table} WHERE expires_at <= now() LIMIT %s FOR UPDATE SKIP LOCKED))"
)

T = TypeVar("T")


class _Embedding(tuple[float, ...]):
    """A parameter of the SQL type `vector`."""

    __slots__ = ()


class _EmbeddingDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: _Embedding) -> bytes:
        return struct.pack(f">HH{len(obj)}f", len(obj), 0, *obj)


class _Link:
    """A connection of ours; `vectors` once it knows the type."""

    __slots__ = ("connection", "expires", "vectors")

    def __init__(self, connection: psycopg.Connection[Any], expires: float) -> None:
        self.connection = connection
        self.expires = expires
        self.vectors = False


class PgvectorAnswers:
    """`AnswerStore` in PostgreSQL, in tables made on first use. Without the extension only exact entries work.

    `connect` opens a connection; it blocks. An async context manager: leaving it closes the connections. On
    cancellation a statement is left to its thread, which the server's own limit ends; at most `connections` run.

    Mutable state: `_idle` and `_closed` under `_lock`; `_made`, the tables known to exist, and `_sweep_at`, which
    threads may set at the same time without harm.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        connections: int = CONNECTIONS,
        max_lifetime_s: float = MAX_LIFETIME_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._max_lifetime_s = max_lifetime_s
        self._monotonic = monotonic
        self._limiter = trio.CapacityLimiter(connections)
        self._lock = threading.Lock()
        self._idle: list[_Link] = []
        self._closed = False
        self._made: frozenset[str] = frozenset()
        self._sweep_at = monotonic() + SWEEP_EVERY_S
        self._away = Outage("semantic cache: PostgreSQL cannot be used", RETRY_S, monotonic)
        message = "semantic cache: PostgreSQL has no vectors, so that only equal prompts are answered from the cache"
        self._no_vectors = Outage(message, RETRY_VECTORS_S, monotonic)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for link in idle:
            link.connection.close()

    async def get(self, rule: str, key: str) -> bytes | None:
        def work(link: _Link) -> bytes | None:
            self._make(link, EXACT, CREATE_EXACT)
            row = link.connection.execute(GET.encode(), (rule, key)).fetchone()
            return row[0].encode() if row is not None else None

        return await self._run(work, "exact_store_failed")

    async def put(self, rule: str, key: str, answer: bytes, ttl_s: int) -> None:
        text = _text(answer, "exact_store_failed")

        def work(link: _Link) -> None:
            self._make(link, EXACT, CREATE_EXACT)
            link.connection.execute(PUT.encode(), (rule, key, text, ttl_s))
            self._sweep(link)

        await self._run(work, "exact_store_failed")

    async def ready(self) -> None:
        if self._no_vectors.lasts:
            raise StoreError("index_unavailable")
        if ENTRIES not in self._made:
            await self._run(self._make_vectors, "index_unavailable")

    async def nearest(self, rule: str, vector: Vector) -> tuple[float, bytes] | None:
        if len(vector) != DIMENSIONS:
            return None
        await self.ready()

        def work(link: _Link) -> tuple[float, bytes] | None:
            self._make_vectors(link)
            row = link.connection.execute(NEAREST.encode(), {"rule": rule, "vector": _Embedding(vector)}).fetchone()
            return (row[0], row[1].encode()) if row is not None else None

        return await self._run(work, "index_unavailable")

    async def add(self, rule: str, vector: Vector, answer: bytes, ttl_s: int) -> None:
        if len(vector) != DIMENSIONS:
            raise StoreError("store_failed")
        text = _text(answer, "store_failed")
        await self.ready()

        def work(link: _Link) -> None:
            self._make_vectors(link)
            link.connection.execute(ADD.encode(), (rule, _Embedding(vector), text, ttl_s))
            self._sweep(link)

        await self._run(work, "store_failed")

    async def _run(self, work: Callable[[_Link], T], reason: str) -> T:
        if self._away.lasts:
            raise StoreError(reason)
        try:
            with trio.fail_after(TIMEOUT_S):
                result = await trio.to_thread.run_sync(self._use, work, limiter=self._limiter, abandon_on_cancel=True)
        except psycopg.DataError:
            raise StoreError(reason) from None
        except trio.TooSlowError:
            self._away.begin(f"no answer within {TIMEOUT_S:g} s")
            raise StoreError(reason) from None
        except (psycopg.Error, OSError) as error:
            self._made = frozenset()  # a table may have been dropped
            self._away.begin(error)
            raise StoreError(reason) from None
        self._away.end()
        return result

    # What follows runs in threads.

    def _use(self, work: Callable[[_Link], T]) -> T:
        with self._lock:
            link = self._idle.pop() if self._idle else None
        if link is not None:
            try:
                if link.expires > self._monotonic():
                    return work(link)
            except psycopg.OperationalError:
                if not link.connection.broken:
                    raise
            finally:
                self._put_back(link)
        link = self._open()
        try:
            return work(link)
        finally:
            self._put_back(link)

    def _open(self) -> _Link:
        link = _Link(self._connect(), self._monotonic() + self._max_lifetime_s)
        try:
            link.connection.autocommit = True
            link.connection.execute(SESSION.encode(), (f"{TIMEOUT_S:g}s",))
        except BaseException:
            link.connection.close()
            raise
        return link

    def _put_back(self, link: _Link) -> None:
        with self._lock:
            if not (self._closed or link.connection.closed or link.expires <= self._monotonic()):
                self._idle.append(link)
                return
        link.connection.close()

    def _make(self, link: _Link, table: str, statements: Sequence[str]) -> None:
        """See that the table is there. One that is, is taken as it is: the role may not be allowed to create any."""
        if table in self._made:
            return
        with link.connection.transaction():
            link.connection.execute(b"SELECT pg_advisory_xact_lock(%s)", (CREATION_LOCK,))
            found = link.connection.execute(b"SELECT to_regclass(%s)", (table,)).fetchone()
            if found is None or found[0] is None:
                for statement in statements:
                    link.connection.execute(statement.encode())
        self._made |= {table}

    def _make_vectors(self, link: _Link) -> None:
        try:
            self._make(link, ENTRIES, CREATE_ENTRIES)
        except psycopg.Error as error:
            if _of_the_connection(error):
                raise
            self._no_vectors.begin(error)
            raise StoreError("index_unavailable") from None
        self._no_vectors.end()
        if link.vectors:
            return
        known = TypeInfo.fetch(link.connection, "vector")
        if known is None:
            raise psycopg.ProgrammingError("type vector does not exist")
        dumper = type("_ConnectionDumper", (_EmbeddingDumper,), {"oid": known.oid})
        link.connection.adapters.register_dumper(_Embedding, dumper)
        # All lists, so that the index, should the planner use it, finds what is there.
        link.connection.execute(f"SET ivfflat.probes = {LISTS}".encode())
        link.vectors = True

    def _sweep(self, link: _Link) -> None:
        """After a write, now and then, delete expired rows: a bounded number, and soon again while more are left."""
        if self._monotonic() < self._sweep_at:
            return
        self._sweep_at = self._monotonic() + SWEEP_EVERY_S
        for table in self._made:
            done = link.connection.execute(SWEEP.format(table=table).encode(), (SWEEP_ROWS,)).rowcount
            if done >= SWEEP_ROWS:
                self._sweep_at = self._monotonic()


def _text(answer: bytes, reason: str) -> str:
    try:
        return answer.decode()
    except UnicodeDecodeError:
        raise StoreError(reason) from None


def _of_the_connection(error: psycopg.Error) -> bool:
    """Whether the server or the way to it failed (SQLSTATE classes 08, 53, 57), rather than the statement."""
    return error.sqlstate is None or error.sqlstate[:2] in ("08", "53", "57")
