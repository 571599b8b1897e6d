"""`trustgate audit`: exports that can be verified offline, checkpoints, and the key to verify with."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click
from rich.progress import Progress
from rich.table import Table

from trustgate import audit_verify
from trustgate.actors import evidence
from trustgate.actors.notary import Notary, checkpoint_id
from trustgate.commands.gateways import gateway_id_of
from trustgate.commands.opened import console, with_store
from trustgate.settings import Settings
from trustgate.store import Checkpoint, EventStore


def export(gateways: Sequence[str], output: str, *, seal: bool) -> int:
    """Write the export to a file, or to stdout for `-`."""

    async def work(settings: Settings, store: EventStore) -> int:
        ids = [await gateway_id_of(store, gateway) for gateway in gateways]
        notary = Notary(store)
        with (
            click.open_file(output, "wb") as file,
            Progress(console=console(stderr=True), transient=True) as progress,
        ):
            task = progress.add_task("exporting", total=None)
            async for line in evidence.export(
                store, notary, ids, seal=seal, told=lambda count: progress.update(task, completed=count)
            ):
                file.write(line)
        last = await store.audit.last_checkpoint()
        click.echo(f"key: {await notary.public_key()}", err=True)
        if last is not None:
            click.echo(f"last checkpoint: {last.number}, id {checkpoint_id(last)}", err=True)
        return 0

    return with_store(work)


def checkpoint() -> int:
    """Make a checkpoint now and print it."""

    async def work(settings: Settings, store: EventStore) -> int:
        _print([await Notary(store).checkpoint()])
        return 0

    return with_store(work)


def checkpoints() -> int:
    """List the checkpoints."""

    async def work(settings: Settings, store: EventStore) -> int:
        found: list[Checkpoint] = []
        while more := await store.audit.checkpoints(found[-1].number if found else 0):
            found += more
        _print(found)
        return 0

    return with_store(work)


def key() -> int:
    """Print the public key."""

    async def work(settings: Settings, store: EventStore) -> int:
        click.echo(await Notary(store).public_key())
        return 0

    return with_store(work)


def verify(arguments: Sequence[str]) -> int:
    """Run the stand-alone verifier."""
    return audit_verify.main(list(arguments))


def verifier_source() -> int:
    """Print the verifier itself, to be kept and read."""
    with open(audit_verify.__file__, encoding="utf-8") as file:
        sys.stdout.write(file.read())
    return 0


def _print(found: Sequence[Checkpoint]) -> None:
    table = Table("number", "time", "position", "new events", "id")
    for one in found:
        statement = json.loads(one.statement)
        row = (one.number, statement["time"], one.position, statement["events"], checkpoint_id(one))
        table.add_row(*map(str, row))
    console().print(table)
