"""`trustgate history`: the audit trail, past states, differences and the way back, in the terminal.

Works on the store itself; running planes follow a revert like any other change.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.table import Table
from rich.text import Text

from trustgate.actors.archive import Archive, Entry, microseconds
from trustgate.actors.control import ControlPlane
from trustgate.actors.revert import revert as lead_back
from trustgate.admin import answers, trail
from trustgate.admin.past import Past, read_point, read_time
from trustgate.admin.rendering import GatewayRenderer
from trustgate.commands.gateways import gateway_id_of
from trustgate.commands.opened import console, with_store
from trustgate.domain import audit
from trustgate.domain.commands import Meta
from trustgate.domain.errors import DomainError
from trustgate.settings import Settings
from trustgate.store import AuditFilter, EventStore

PAGE = 200
SHORT = 60
COLOUR = {"created": "green", "updated": "yellow", "deleted": "red"}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What `history log` is restricted to."""

    gateway: str | None = None
    object_id: str = ""
    object_type: str = ""
    actor: str = ""
    since: str = ""
    until: str = ""
    limit: int = 20


def log(asked: Asked, format_: str) -> int:
    """List events, newest first."""

    async def work(settings: Settings, store: EventStore) -> int:
        archive, shower = Archive(store), _trail(settings, store)
        await archive.catch_up(None)
        wanted = AuditFilter(
            gateway_id=await gateway_id_of(store, asked.gateway) if asked.gateway else None,
            object_id=asked.object_id,
            actor=asked.actor,
            events=audit.EVENTS_OF[asked.object_type] if asked.object_type else (),
            since=microseconds(read_time(asked.since, "--since")) if asked.since else None,
            until=microseconds(read_time(asked.until, "--until")) if asked.until else None,
        )
        table = _log_table()
        count, cursor = 0, None
        while count < asked.limit or not asked.limit:
            part = min(PAGE, asked.limit - count) if asked.limit else PAGE
            entries = await archive.entries(wanted, cursor, part)
            shown = [shower.entry(entry) for entry in entries]
            if format_ == "jsonl":
                sys.stdout.buffer.write(trail.json_lines(shown))
            elif format_ == "csv":
                text = trail.csv_lines(shown)
                sys.stdout.buffer.write(text if cursor is None else text.partition(b"\r\n")[2])
            else:
                for entry, row in zip(entries, shown, strict=True):
                    table.add_row(*_log_row(entry, row))
            count += len(entries)
            if len(entries) < part:
                break
            cursor = entries[-1].recorded.position
        if format_ == "table":
            console().print(table)
        return 0

    return with_store(work)


def _log_table() -> Table:
    table = Table(expand=False)
    for name in ("version", "time", "who", "what", "object", "changes", "reason"):
        table.add_column(name, overflow="fold", no_wrap=name in ("version", "time"))
    return table


def _log_row(entry: Entry, row: answers.AuditEntry) -> tuple[Any, ...]:
    paths = [change.path for change in row.changes if change.path and change.path != "updated_at"]
    who = row.actor_email or row.actor or "-"
    name = f"{row.object_type} {row.object_name or row.object_id}"
    return str(row.version), row.time[:19] + "Z", who, row.event, name, ", ".join(paths) or "-", row.reason or "-"


def show(gateway: str, as_of: str, *, as_json: bool) -> int:
    """Print the objects of a gateway, now or at a point in its past."""

    async def work(settings: Settings, store: EventStore) -> int:
        id_, past = await gateway_id_of(store, gateway), _past(store)
        version = await _version(past, id_, as_of, "--as-of")
        state = await past.archive.state_at(id_, version)
        shower = _trail(settings, store)
        objects = {
            kind: [shower.shown(one) for _, one in sorted(trail.objects(state, kind).items())] for kind in audit.KINDS
        }
        if as_json:
            click.echo(json.dumps({"version": version, **objects}, indent=2, ensure_ascii=False))
            return 0
        table = Table("kind", "id", "name", "details", title=f"{gateway} at version {version}")
        for kind, shown in objects.items():
            for one in filter(None, shown):
                table.add_row(kind, one["id"], one.get("name") or one.get("slug", ""), _details(one))
        console().print(table)
        return 0

    return with_store(work)


def diff(gateway: str, since: str, until: str) -> int:
    """Print what differs between two points."""

    async def work(settings: Settings, store: EventStore) -> int:
        id_, past = await gateway_id_of(store, gateway), _past(store)
        first, last = await _version(past, id_, since, "FROM"), await _version(past, id_, until, "TO")
        before, after = await past.archive.state_at(id_, first), await past.archive.state_at(id_, last)
        print_changes(_trail(settings, store).difference(before, after), f"{gateway}: version {first} to {last}")
        return 0

    return with_store(work)


def revert(gateway: str, to: str, *, dry_run: bool, yes: bool, reason: str, restore_keys: bool) -> int:
    """Lead a gateway back to an earlier state, after showing what that changes."""

    async def work(settings: Settings, store: EventStore) -> int:
        from trustgate.app.catalog import Catalog
        from trustgate.app.parts import policy_environment
        from trustgate.mcp.catalog import by_code
        from trustgate.telemetry.exporter_settings import validate_exporter

        catalog = Catalog(policy_environment(settings), lambda entry: validate_exporter(entry, os.environ), by_code())
        id_, past, shower = await gateway_id_of(store, gateway), _past(store), _trail(settings, store)
        then = await past.archive.state_at(id_, await _version(past, id_, to, "TO"))
        if then.gateway is None:
            raise DomainError(422, "invalid_as_of", f"the gateway was deleted in version {then.version}")
        meta = Meta(time=datetime.now(UTC), actor=author(), source="cli", address=socket.gethostname(), reason=reason)
        async with ControlPlane(store, catalog).running() as control:

            async def carry_out(run: Any) -> Any:
                return await lead_back(control, past.archive, run, meta, id_, then, restore_keys=restore_keys)

            planned, gone = await carry_out(control.preview)
            changes = shower.difference(planned.before, planned.after)
            print_changes(changes, f"{gateway}: back to version {then.version}")
            for secret in gone:
                kept = "the present one is kept" if secret.kept else "it has none now"
                click.echo(f"gone: {secret.path} of {secret.kind} {secret.id}; {kept}", err=True)
            if dry_run or not changes:
                return 0
            if not yes and not confirmed():
                return 1
            done, _ = await carry_out(control.execute)
        applied = "" if done.applied else " (not every live plane has it yet)"
        click.echo(f"{gateway} is at version {done.after.version}{applied}", err=True)
        return 0

    return with_store(work)


def confirmed() -> bool:
    try:
        return click.confirm("Carry this out?", err=True)
    except click.Abort:
        return False


def author() -> str:
    """Who carries this out, as far as the operating system knows."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"cli:{os.getuid()}"


def _past(store: EventStore) -> Past:
    return Past(Archive(store), lambda: datetime.now(UTC))


def _trail(settings: Settings, store: EventStore) -> trail.Trail:
    server = settings.server
    renderer = GatewayRenderer(settings.app.version, server.gateway_base_domain, server.mcp_base_domain)
    return trail.Trail(renderer, store.fingerprint)


async def _version(past: Past, gateway_id: str, text: str, name: str) -> int:
    """The version that a point means; without one, the newest."""
    await past.archive.catch_up(None)
    await past.check_owner(gateway_id)
    if not text:
        return await past.archive.newest(gateway_id)
    return await past.version(gateway_id, read_point(text, name), name)


def _details(one: dict[str, Any]) -> str:
    hidden = {"id", "gateway_id", "name", "slug", "created_at", "updated_at", "hidden"}
    parts = [
        f"{name}={_short(value)}" for name, value in one.items() if name not in hidden and value not in ("", [], {})
    ]
    return " ".join(parts)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


def print_changes(changes: Sequence[answers.ObjectChange], title: str) -> None:
    if not changes:
        click.echo(f"{title}: nothing differs")
        return
    table = Table(title=title)
    for name in ("object", "change", "member", "before", "after"):
        table.add_column(name, overflow="fold")
    for change in changes:
        what = Text(change.change, style=COLOUR[change.change])
        for number, field in enumerate(change.fields):
            name = f"{change.object_type} {change.object_name or change.object_id}" if number == 0 else ""
            values = (field.before, field.after) if field.path else (field.before or {}, field.after or {})
            before, after = ("" if value is None or value == {} else _short(value) for value in values)
            table.add_row(name, what if number == 0 else "", field.path, before, after)
        table.add_section()
    console().print(table)
