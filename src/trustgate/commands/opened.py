"""What the commands on the log share: the store that this environment names, opened; failures as one line on stderr."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Awaitable, Callable

import click
import trio
from rich.console import Console

from trustgate.actors.projection import LogGap
from trustgate.commands.boot import load_settings, with_server_key
from trustgate.domain.errors import DomainError
from trustgate.domain.events import CorruptEvent, UnknownEvent
from trustgate.settings import ConfigurationError, Settings, check_length
from trustgate.store import EventStore, StoreError
from trustgate.telemetry import logs

CONTROL_PLANE = frozenset({"admin"})
PLAIN_WIDTH = 200
"""Columns of a table that goes into a file or a pipe."""

Work = Callable[[Settings, EventStore], Awaitable[int]]


def console(*, stderr: bool = False) -> Console:
    """Where results (or progress, on stderr) go; as wide as the terminal."""
    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)


def with_store(work: Work) -> int:
    """Run `work` on the store of this environment; returns its exit code, or 1 for what it cannot start or finish."""

    async def run(settings: Settings) -> int:
        from trustgate.app.storage import store_of

        async with store_of(settings, CONTROL_PLANE, settings.secrets.server_key) as store:
            return await work(settings, store)

    return guarded(run)


def guarded(work: Callable[[Settings], Awaitable[int]], *, must_exist: bool = True) -> int:
    """Run `work` with the settings of this environment; returns its exit code, or 1 for what it cannot do.

    Without `must_exist`, an embedded store that is not there yet is made.
    """
    logs.configure("WARN", console=sys.stderr.buffer)  # stdout is for results
    try:
        settings, _ = load_settings()
        settings.check(CONTROL_PLANE)
        if must_exist and settings.embedded(CONTROL_PLANE):
            _check_exists(settings)
        settings, _ = with_server_key(settings, CONTROL_PLANE)
        check_length(settings.secrets.server_key)
        return trio.run(work, settings)
    except* (ConfigurationError, StoreError, DomainError, UnknownEvent, CorruptEvent, LogGap, OSError) as group:
        for error in _leaves(group):
            click.echo(_text(error), err=True)
    return 1


def _check_exists(settings: Settings) -> None:
    from trustgate.app.storage import STORE_FILE

    file = pathlib.Path(settings.app.data_dir) / STORE_FILE
    if not file.exists():
        raise ConfigurationError(f"there is no event store at {file}: set TRUSTGATE_DATA_DIR, or DB_HOST and the like")


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _text(error: BaseException) -> str:
    if isinstance(error, DomainError):
        return f"{error.code}: {error.message}" if error.message else error.code
    return str(error)
