"""The raw store against a real PostgreSQL: its tables, its ledger, its rows (spec 06 §11.3)."""

from __future__ import annotations

import concurrent.futures

import psycopg
import pytest

from tests.telemetry.records import raw
from trustgate.telemetry.exporter_config import ExporterConfig
from trustgate.telemetry.exporters import TYPES, Environment
from trustgate.telemetry.exporters.postgres import PostgresSink
from trustgate.telemetry.networks import AddressRefused, Fence

COLUMNS = [
    ("trace_id", "text", "NO"),
    ("gateway_id", "text", "NO"),
    ("tenant_id", "text", "YES"),
    ("occurred_on", "bigint", "NO"),
    ("schema_version", "integer", "NO"),
    ("request_body", "text", "YES"),
    ("response_body", "text", "YES"),
    ("created_at", "timestamp with time zone", "NO"),
]


def query(dsn: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(sql.encode()).fetchall()


def test_the_tables_are_those_of_the_contract_also_when_several_start_at_once(postgres_database: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        sinks = list(pool.map(lambda _: PostgresSink({"conninfo": postgres_database}), range(4)))
    for sink in sinks:
        sink.close()
    found = query(
        postgres_database,
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns"
        " WHERE table_name = 'trustgate_data' ORDER BY ordinal_position",
    )
    assert found == COLUMNS
    indexes = query(postgres_database, "SELECT indexdef FROM pg_indexes WHERE tablename = 'trustgate_data' ORDER BY 1")
    assert [str(row[0]).split(" USING ")[1] for row in indexes] == [
        "btree (gateway_id, occurred_on)",
        "btree (trace_id)",
    ]
    ledger = query(postgres_database, "SELECT id, name FROM trustgate_migration_versions")
    assert ledger == [("0001", "create_trustgate_data")]


def test_an_older_ledger_is_renamed(postgres_database: str) -> None:
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        connection.execute("CREATE TABLE migration_versions (id text PRIMARY KEY, name text, applied_at timestamptz)")
        connection.execute("INSERT INTO migration_versions VALUES ('0001', 'create_trustgate_data', now())")
    PostgresSink({"conninfo": postgres_database}).close()
    assert query(postgres_database, "SELECT to_regclass('migration_versions')::text") == [(None,)]
    assert query(postgres_database, "SELECT count(*) FROM trustgate_migration_versions") == [(1,)]


def test_rows_hold_the_bodies_once_and_without_secrets(postgres_database: str) -> None:
    sink = PostgresSink({"conninfo": postgres_database})
    item = raw(response_body=b"a\x00b", response_headers=[(b"content-type", b"text/plain")])
    bare = raw(tenant_id="", request_body=b"", response_body=b"")
    assert sink.publish([item, item, bare]) == 0
    assert sink.publish([item]) == 0
    sink.close()
    rows = query(
        postgres_database,
        "SELECT trace_id, gateway_id, tenant_id, occurred_on, schema_version, request_body, response_body"
        " FROM trustgate_data ORDER BY tenant_id NULLS LAST",
    )
    redacted = '{"api_key":"[REDACTED]","model":"gpt-4o"}'
    assert rows == [
        (item.view.trace_id, "g1", "acme", 1767323045500, 2, redacted, "a\N{REPLACEMENT CHARACTER}b"),
        (bare.view.trace_id, "g1", None, 1767323045500, 2, "", None),
    ]


def test_rows_older_than_the_retention_are_deleted(postgres_database: str) -> None:
    PostgresSink({"conninfo": postgres_database}).close()
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO trustgate_data (trace_id, gateway_id, occurred_on, schema_version, created_at)"
            " VALUES ('old', 'g', 0, 2, now() - interval '8 days'), ('new', 'g', 0, 2, now() - interval '6 days')"
        )
    sink = PostgresSink({"conninfo": postgres_database}, retention_days=7)
    item = raw()
    sink.publish([item])
    sink.close()
    kept = {row[0] for row in query(postgres_database, "SELECT trace_id FROM trustgate_data")}
    assert kept == {"new", item.view.trace_id}


def opened(settings: dict[str, object], environment: Environment, confined: bool = False) -> None:
    config = ExporterConfig(name="p", type="postgres", raw=True, settings=settings, confined=confined)
    TYPES["postgres"].open(config, environment).close()


def test_the_dsn_is_the_settings_then_the_named_variable_then_the_default_then_the_service_database(
    postgres_database: str,
) -> None:
    variables = {"BODIES": postgres_database}
    opened({"dsn": postgres_database, "dsn_env": "NOT_SET"}, Environment())
    opened({"dsn_env": "BODIES"}, Environment(raw_dsn="postgresql://nowhere.invalid/x", variables=variables))
    opened({}, Environment(raw_dsn=postgres_database))
    opened({}, Environment(database=lambda: {"conninfo": postgres_database}))
    with pytest.raises(LookupError, match="NOT_SET"):
        opened({"dsn_env": "NOT_SET"}, Environment(raw_dsn=postgres_database))
    with pytest.raises(LookupError, match="no dsn"):
        opened({}, Environment())


def test_a_tenants_database_is_behind_the_fence(postgres_database: str) -> None:
    with pytest.raises(AddressRefused):
        opened({"dsn": postgres_database}, Environment(fence=Fence()), confined=True)
    opened({"dsn": postgres_database}, Environment(fence=Fence(("127.0.0.1/32",))), confined=True)
