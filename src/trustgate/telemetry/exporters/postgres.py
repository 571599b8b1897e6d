"""Exporter `postgres`: bodies into the table `trustgate_data` (spec 06 §11.3). Raw view only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from trustgate.telemetry.networks import AddressRefused, Fence
from trustgate.telemetry.outlet import Bodies, Item, Manner

MANNER = Manner(form="raw", capacity=2_048, max_batch=128, linger_s=0.1)
STORAGE_SCHEMA = 2
LOCK = 942020
MIGRATE_TIMEOUT_MS, INSERT_TIMEOUT_MS = 30_000, 10_000
CONNECT_TIMEOUT_S = 5
PRUNE_EVERY_S = 3600.0

DDL = (
    """DO $$ BEGIN
      IF to_regclass('trustgate_migration_versions') IS NULL AND to_regclass('migration_versions') IS NOT NULL THEN
        ALTER TABLE migration_versions RENAME TO trustgate_migration_versions;
      END IF;
    END $$""",
    """CREATE TABLE IF NOT EXISTS trustgate_migration_versions (
      id text PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())""",
    """CREATE TABLE IF NOT EXISTS trustgate_data (
      trace_id text PRIMARY KEY, gateway_id text NOT NULL, tenant_id text, occurred_on bigint NOT NULL,
      schema_version int NOT NULL, request_body text, response_body text,
      created_at timestamptz NOT NULL DEFAULT now())""",
    "CREATE INDEX IF NOT EXISTS idx_trustgate_data_gateway_time ON trustgate_data (gateway_id, occurred_on)",
    """INSERT INTO trustgate_migration_versions (id, name) VALUES ('0001', 'create_trustgate_data')
      ON CONFLICT (id) DO NOTHING""",
)
INSERT = """INSERT INTO trustgate_data
  (trace_id, gateway_id, tenant_id, occurred_on, schema_version, request_body, response_body)
  VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (trace_id) DO NOTHING"""
PRUNE = "DELETE FROM trustgate_data WHERE created_at < now() - make_interval(days => %s)"

Json = dict[str, Any]


def storable(text: str | None) -> str | None:
    """PostgreSQL's text holds every character but NUL."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}") if text and "\x00" in text else text


def row(item: Bodies) -> tuple[Any, ...]:
    view = item.view
    return (
        view.trace_id,
        view.gateway_id,
        view.tenant_id or None,
        view.occurred_on,
        STORAGE_SCHEMA,
        storable(view.request_body),
        storable(view.response_body),
    )


class PostgresSink:
    """One connection. `arguments` are psycopg's, `retention_days` 0 keeps rows for ever."""

    def __init__(self, arguments: Json, retention_days: int = 0, fence: Fence | None = None) -> None:
        import psycopg  # loaded when an exporter is used

        self._retention_days = retention_days
        self._pruned_at = float("-inf")
        options: Json = {"connect_timeout": CONNECT_TIMEOUT_S} | arguments | {"autocommit": True}
        if fence is not None:
            options |= fenced(options, fence)
        self._connection = psycopg.connect(**options)
        try:
            self._migrate()
        except BaseException:
            self._connection.close()
            raise

    def _migrate(self) -> None:
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {MIGRATE_TIMEOUT_MS}".encode())
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            for statement in DDL:
                cursor.execute(statement.encode())
        self._connection.execute(f"SET statement_timeout = {INSERT_TIMEOUT_MS}".encode())

    def publish(self, batch: Sequence[Item]) -> int:
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(INSERT, [row(item) for item in batch if isinstance(item, Bodies)])
        now = time.monotonic()
        if self._retention_days and now - self._pruned_at >= PRUNE_EVERY_S:
            self._connection.execute(PRUNE, (self._retention_days,))
            self._pruned_at = now
        return 0

    def close(self) -> None:
        self._connection.close()


def fenced(options: Json, fence: Fence) -> Json:
    """Pin the server's address to one that was checked. Raises AddressRefused."""
    import socket

    from psycopg.conninfo import conninfo_to_dict

    given = conninfo_to_dict(options.get("conninfo", ""))
    host = str(given.get("host") or options.get("host") or "")
    if not host or host.startswith("/") or "," in host or given.get("hostaddr"):
        raise AddressRefused("a tenant's DSN must name one host")
    address = str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    fence.check(address)
    return {"hostaddr": address}
