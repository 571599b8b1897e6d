"""`trustgate plan`: what a set of Admin API writes would do, on this machine's store and decisions."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import click
import msgspec
import yaml
from rich.progress import Progress

from trustgate.commands.explain import table
from trustgate.commands.history import author, print_changes
from trustgate.commands.opened import console, guarded
from trustgate.settings import Settings

Json = dict[str, Any]


def plan(gateway: str, file: str, since: str, until: str, *, as_json: bool) -> int:
    """Print the plan; returns the exit code."""

    async def work(settings: Settings) -> int:
        from trustgate.app.offline import plan_of

        request = read_commands(file)
        with Progress(console=console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("recorded decisions", total=None)

            def progress(done: int, total: int) -> None:
                bar.update(task, advance=done, total=total)

            told = await plan_of(settings, gateway, request | span(since, until), author(), progress)
        if as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())
            return 0
        print_changes(told.changes, f"{gateway}: {told.events} events after version {told.version}")
        show_decisions(told.decisions, told.from_, told.to)
        return 0

    return guarded(work)


def read_commands(file: str) -> Json:
    """The commands of a JSON or YAML file (`-`: standard input): a list, or an object with `commands`."""
    try:
        text = sys.stdin.read() if file == "-" else pathlib.Path(file).read_text(encoding="utf-8")
        found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise click.UsageError(f"{file}: {error}") from None
    if isinstance(found, list):
        return {"commands": found}
    if isinstance(found, dict) and isinstance(found.get("commands"), list):
        return {"commands": found["commands"]}
    raise click.UsageError(f"{file}: expected a list of commands, or an object with `commands`")


def span(since: str, until: str) -> Json:
    return ({"from": since} if since else {}) | ({"to": until} if until else {})


def show_decisions(told: Json, since: str, until: str) -> None:
    """What recorded requests would have met."""
    out = console()
    out.print(f"{told['considered']} recorded requests from {since} to {until}")
    counts = ("denied", "allowed", "routed", "may_route", "priced", "uncertain")
    out.print(", ".join(f"{name.replace('_', ' ')} {told.get(name, 0)}" for name in counts))
    if told.get("considered"):
        out.print(f"cost ${told['cost_before_usd']:.6f} -> ${told['cost_after_usd']:.6f}")
    if told.get("groups"):
        out.print(
            table(
                "requests that would differ", ("kind", "count", "consumer", "model", "before", "after"), told["groups"]
            )
        )
