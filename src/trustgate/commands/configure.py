"""`trustgate export` and `trustgate apply`: a gateway's configuration as a YAML file."""

from __future__ import annotations

import os
import pathlib
import sys
import time
from datetime import UTC, datetime
from typing import Any

import click
import trio
import yaml
from rich.progress import Progress

from trustgate.commands.history import author, confirmed, print_changes
from trustgate.commands.opened import console, guarded
from trustgate.commands.plan import show_decisions
from trustgate.configfile.compiling import gateway_named
from trustgate.configfile.document import document, named
from trustgate.configfile.reading import FileError, read
from trustgate.settings import Settings

HEADER = """\
# {slug} at version {version}. `trustgate apply -f FILE` makes the gateway what this file says.
# Secrets: ${{secret:FINGERPRINT}} is the stored one; ${{VARIABLE}} comes from the environment.
"""
DAY_S = 86400.0


class Dumper(yaml.SafeDumper):
    """YAML as people write it: lists indented, texts of several lines as blocks."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


Dumper.add_representer(str, _text)


def yaml_of(found: dict[str, Any]) -> str:
    return yaml.dump(found, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def export(gateway: str, output: str) -> int:
    """Write a gateway's file; returns the exit code."""

    async def work(settings: Settings) -> int:
        from trustgate.app.offline import offline

        async with offline(settings) as here:
            state = await here.gateway(gateway)
        assert state.gateway is not None
        text = HEADER.format(slug=state.gateway.slug, version=state.version) + yaml_of(named(document(state)))
        if output == "-":
            click.echo(text, nl=False)
        else:
            await trio.Path(output).write_text(text, encoding="utf-8")
        return 0

    return guarded(work)


def apply(file: str, *, yes: bool, dry_run: bool, reason: str, by: str, since_s: float = DAY_S) -> int:
    """Show what a file would change and mean, then make it so in one append; returns the exit code."""
    try:
        text = sys.stdin.read() if file == "-" else pathlib.Path(file).read_text(encoding="utf-8")
        source = read(text, "stdin" if file == "-" else file)
    except (OSError, UnicodeDecodeError, FileError) as error:
        click.echo(str(error), err=True)
        return 1

    async def work(settings: Settings) -> int:
        from trustgate.app.applying import compiled
        from trustgate.app.offline import offline
        from trustgate.domain.commands import ApplyGateway, Meta

        async with offline(settings) as here:
            known = gateway_named(source, await here.control.directory())
            present = await here.control.state(known) if known is not None else None
            version = present.version if present is not None else None
            meta = Meta(
                time=datetime.now(UTC),
                actor=by or author(),
                source="cli",
                reason=reason,
                expected_versions=None if version is None else (version,),
            )
            try:
                wanted = await compiled(here, source, present, meta, os.environ)
            except FileError as error:
                click.echo(str(error), err=True)
                return 1
            assert wanted.state.gateway is not None
            command = ApplyGateway(meta, wanted.state.gateway.id, wanted.state, wanted.secrets)
            planned = await here.control.preview(command)
            slug = wanted.state.gateway.slug
            events = planned.after.version - planned.before.version
            changes = here.difference(planned.before, planned.after)
            print_changes(changes, f"{slug}: {events} events after version {planned.before.version}")
            if not events:
                return 0
            if present is not None:
                now = time.time()
                with Progress(console=console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
                    task = bar.add_task("recorded decisions", total=None)

                    def told(done: int, total: int) -> None:
                        bar.update(task, advance=done, total=total)

                    decisions = await here.forecast(planned.before, planned.after, now - since_s, now, told)
                show_decisions(decisions, "a day ago", "now")
            if dry_run:
                return 0
            if not yes and not confirmed():
                return 1
            done = await here.control.execute(command)
        late = "" if done.applied else " (not every live plane has it yet)"
        click.echo(f"{slug} is at version {done.after.version}{late}")
        return 0

    return guarded(work, must_exist=False)
