"""`trustgate replay`: build everything that is derived from the log once more, and compare."""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from trustgate.actors import replay as rp
from trustgate.commands.opened import console, with_store
from trustgate.settings import Settings
from trustgate.store import EventStore
from trustgate.view.encoded import encoded

SHOWN = 20
T = TypeVar("T")


def replay(*, from_snapshots: bool, repair: bool, as_json: bool) -> int:
    """Returns 0 when everything is as the log says (or was repaired), 1 otherwise."""

    async def work(settings: Settings, store: EventStore) -> int:
        gc.disable()  # states have no cycles, and looking for some takes a third of the time
        started = time.perf_counter()
        if from_snapshots:
            digests = await _with_progress(lambda told: rp.load_all(store, told))
            _print_digests(digests, as_json)
            console(stderr=True).print(f"{len(digests)} streams in {time.perf_counter() - started:.1f} s")
            return 0
        found = await _with_progress(lambda told: rp.replay(store, told, encoded))
        seconds = time.perf_counter() - started
        _print_digests(found.digests, as_json)
        _report(found, seconds)
        if found.mismatches and repair:
            await rp.repair(store, found)
            console(stderr=True).print("derived data was dropped and is made from the log again; restart the planes")
            return 0
        return 1 if found.mismatches else 0

    return with_store(work)


async def _with_progress(run: Callable[[rp.Told], Awaitable[T]]) -> T:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def told(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        return await run(told)


def _print_digests(digests: dict[str, str], as_json: bool) -> None:
    if as_json:
        text = msgspec.json.encode({"digest": rp.combined(digests), "streams": dict(sorted(digests.items()))})
        console().print(text.decode(), soft_wrap=True)
        return
    table = Table("stream", "SHA-256 of its state", title=None)
    for stream, digest in sorted(digests.items())[:SHOWN]:
        table.add_row(stream, digest)
    if len(digests) > SHOWN:
        table.add_row(f"… {len(digests) - SHOWN} more", "(--json lists all)")
    table.add_section()
    table.add_row("all", rp.combined(digests))
    console().print(table)


def _report(found: rp.Replayed, seconds: float) -> None:
    out = console(stderr=True)
    out.print(
        f"{found.events} events of {len(found.digests)} streams replayed in {seconds:.1f} s;"
        f" compared {len(found.digests)} live states, {found.views} views, {found.snapshots} snapshots,"
        f" {found.milestones} milestones, {found.index_rows} rows of the audit index"
    )
    if found.unchecked:
        out.print(f"{found.unchecked} snapshots were written by other code and are not used")
    if not found.mismatches:
        out.print("everything is, byte for byte, what the log says")
        return
    table = Table("what differs", "stream", "version", style="red")
    for one in found.mismatches[:SHOWN]:
        table.add_row(one.what, one.stream, str(one.version))
    out.print(table)
    out.print(f"{len(found.mismatches)} differ from the log: --repair derives them from it again")
