"""`trustgate check`: the properties of a configuration, tried on the proxy's own pipeline. Made for CI."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

import click
import msgspec
import trio
from rich.progress import Progress

from trustgate.commands.boot import load_settings
from trustgate.commands.opened import console, guarded
from trustgate.configfile.compiling import Compiler
from trustgate.configfile.reading import FileError, read
from trustgate.domain.entities import GatewayState
from trustgate.domain.evolve import EMPTY
from trustgate.settings import ConfigurationError, Settings
from trustgate.telemetry import logs

STAND_IN = "https://placeholder.invalid"
"""Stands for secrets and variables that are not set: a check needs none of them."""


class StandIns(dict[str, str]):
    """A mapping that has everything."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> str:
        return STAND_IN


def check(gateway: str | None, file: str | None, *, strict: bool, as_json: bool) -> int:
    """Print the findings; returns the exit code."""
    if file is not None:
        return check_file(file, strict=strict, as_json=as_json)

    async def work(settings: Settings) -> int:
        from trustgate.app.offline import offline

        async with offline(settings) as here:
            state = await here.gateway(gateway or "")
        return await tried(state, strict=strict, as_json=as_json)

    return guarded(work)


def check_file(file: str, *, strict: bool, as_json: bool) -> int:
    logs.configure("ERROR", console=sys.stderr.buffer)
    try:
        text = sys.stdin.read() if file == "-" else pathlib.Path(file).read_text(encoding="utf-8")
        settings, _ = load_settings()
        state = state_of(text, "stdin" if file == "-" else file, settings, os.environ)
    except (OSError, UnicodeDecodeError, FileError, ConfigurationError) as error:
        click.echo(str(error), err=True)
        return 1

    async def work() -> int:
        return await tried(state, strict=strict, as_json=as_json)

    return trio.run(work)


def state_of(text: str, name: str, settings: Settings, environ: Mapping[str, str]) -> GatewayState:
    """The state that a file asks for, made from nothing. Raises `FileError`."""
    from trustgate.app.applying import CHOICES
    from trustgate.app.catalog import Catalog
    from trustgate.app.parts import policy_environment
    from trustgate.domain.commands import Meta
    from trustgate.domain.decision import Context
    from trustgate.domain.directory import DirectoryState
    from trustgate.mcp.catalog import by_code
    from trustgate.telemetry.exporter_settings import validate_exporter

    catalog = Catalog(policy_environment(settings), lambda entry: validate_exporter(entry, environ), by_code())
    context = Context(catalog=catalog, fingerprint=lambda text: "0" * 16)
    meta = Meta(time=datetime.now(UTC))
    given = StandIns(environ)
    return (
        Compiler(read(text, name), EMPTY, DirectoryState(), context, meta, given, StandIns(), CHOICES).compile().state
    )


async def tried(state: GatewayState, *, strict: bool, as_json: bool) -> int:
    from trustgate.check.findings import check as run

    logs.configure("ERROR", console=sys.stderr.buffer)  # failing upstreams are the point
    with Progress(console=console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("requests", total=None)
        report = await run(state, lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        out = console()
        for finding in report.findings:
            also = f" (and {finding.also} more)" if finding.also else ""
            out.print(f"{finding.level}: {finding.subject} {finding.text}", markup=False, soft_wrap=True)
            if finding.example:
                out.print(f"    {finding.example}{also}", markup=False, soft_wrap=True)
        for note in report.notes:
            out.print(f"note: {note}", markup=False, soft_wrap=True)
        warnings = len(report.findings) - report.errors
        out.print(f"{report.gateway}: {report.requests} requests tried, {report.errors} errors, {warnings} warnings")
    return 1 if report.errors or (strict and report.findings) else 0
