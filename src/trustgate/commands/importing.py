"""`trustgate import --from postgres://…`: move an existing installation's gateways into this one."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import click
import psycopg
import trio
from psycopg.rows import dict_row
from rich.progress import Progress

from trustgate.commands.explain import table
from trustgate.commands.history import author, confirmed
from trustgate.commands.opened import console, guarded
from trustgate.configfile.importing import LEDGER_LAST, Left, Tables, carried, gateway_of
from trustgate.domain.commands import ImportGateway, Meta
from trustgate.domain.errors import DomainError
from trustgate.domain.evolve import EMPTY
from trustgate.settings import ConfigurationError, Settings

OBJECTS = ("gateways", "registries", "auths", "roles", "consumers", "policies")
LINKS = ("consumer_registry", "consumer_auth", "consumer_policy", "consumer_role", "role_registry")
CONNECT_S = 10

Json = dict[str, Any]


def import_from(dsn: str, *, secret_key: str, slugs: tuple[str, ...], dry_run: bool, yes: bool) -> int:
    """Carry the gateways over; 0 when nothing was left behind, 1 otherwise."""

    async def work(settings: Settings) -> int:
        from trustgate.app.applying import CHOICES
        from trustgate.app.offline import offline
        from trustgate.configfile.compiling import Compiler

        key = secret_key or settings.secrets.server_key
        tables, others = await trio.to_thread.run_sync(read_tables, dsn)
        rows = [row for row in tables.rows["gateways"] if not slugs or row["slug"] in slugs]
        for slug in sorted(set(slugs) - {row["slug"] for row in rows}):
            raise ConfigurationError(f"the database has no gateway {slug!r}")
        if not rows:
            click.echo("the database has no gateways", err=True)
            return 0
        left: list[Left] = [Left("", what, why) for what, why in others]
        done: list[Json] = []
        async with offline(settings) as here:
            if not dry_run and not yes:
                click.echo(f"{len(rows)} gateways will be carried over", err=True)
                if not confirmed():
                    return 1
            with Progress(console=console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
                for row in bar.track(rows, description="gateways"):
                    meta = Meta(time=datetime.now(UTC), actor=author(), source="import")
                    directory = await here.control.directory()
                    found = gateway_of(row, tables, key)

                    def compiled(source: Any, meta: Meta = meta, directory: Any = directory) -> Any:
                        return Compiler(source, EMPTY, directory, here.control.context, meta, {}, {}, CHOICES).compile()

                    wanted = carried(found, compiled)
                    left += found.left
                    if wanted is None:
                        continue
                    command = ImportGateway(meta, found.id, wanted.state, wanted.secrets)
                    try:
                        executed = await (here.control.preview(command) if dry_run else here.control.execute(command))
                    except DomainError as refusal:
                        left.append(Left(found.slug, "the gateway", refusal.message or refusal.code))
                        continue
                    state = executed.after
                    counts = {name: len(getattr(state, name)) for name in OBJECTS[1:]}
                    done.append({"gateway": found.slug, **counts})
        report(done, left, dry_run=dry_run)
        return 1 if left else 0

    return guarded(work, must_exist=False)


def report(done: list[Json], left: list[Left], *, dry_run: bool) -> None:
    """What was carried, and what was not."""
    out = console()
    out.print(table("would be carried over" if dry_run else "carried over", ("gateway", *OBJECTS[1:]), done))
    if left:
        rows = [{"gateway": one.gateway, "what": one.what, "why": one.why} for one in left]
        out.print(table("left behind", ("gateway", "what", "why"), rows))
    else:
        out.print("nothing was left behind")


def read_tables(dsn: str) -> tuple[Tables, list[tuple[str, str]]]:
    """All rows in one snapshot, read only; and what has no place here, with the reason. Raises ConfigurationError."""
    try:
        with psycopg.Connection[Json].connect(dsn, connect_timeout=CONNECT_S, row_factory=dict_row) as connection:
            connection.read_only = True
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            check_ledger(connection)
            rows = {name: rows_of(connection, name) for name in (*OBJECTS, *LINKS)}
            return Tables(rows), others_of(connection)
    except psycopg.Error as error:
        raise ConfigurationError(f"the database cannot be read: {str(error).strip()}") from None


def check_ledger(connection: Any) -> None:
    if connection.execute("SELECT to_regclass('public.migration_version') AS found").fetchone()["found"] is None:
        raise ConfigurationError("the database holds no installation: there is no table migration_version")
    ids = {row["id"] for row in connection.execute("SELECT id FROM public.migration_version")}
    if LEDGER_LAST not in ids:
        raise ConfigurationError(
            f"the installation is not current ({LEDGER_LAST} is missing): start its latest release once, then import"
        )


def rows_of(connection: Any, name: str) -> list[Json]:
    order = "created_at, id" if name in OBJECTS else "1, 2"
    found = connection.execute(f"SELECT * FROM public.{name} ORDER BY {order}")  # a name of our own
    return [
        {column: str(value) if column == "id" or column.endswith("_id") else value for column, value in row.items()}
        for row in found
    ]


def others_of(connection: Any) -> list[tuple[str, str]]:
    asked = (
        ("vault_credentials", "TRUE", "accounts connected to MCP servers", "their users connect them again"),
        (
            "models_catalog",
            "source = 'manual'",
            "models added by hand",
            "the catalog here is the shipped one and models.dev's",
        ),
    )
    found: list[tuple[str, str]] = []
    for name, condition, what, why in asked:
        if connection.execute("SELECT to_regclass(%s) AS found", (f"public.{name}",)).fetchone()["found"] is None:
            continue
        count = connection.execute(f"SELECT count(*) AS n FROM public.{name} WHERE {condition}").fetchone()["n"]
        if count:
            found.append((f"{count} {what}", why))
    return found
