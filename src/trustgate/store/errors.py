"""What can go wrong in the event store, as exceptions.

What lives here: the errors of this room and how errors of the databases map to them. What must not: HTTP.
Events that cannot be read are `domain.events.CorruptEvent` and `domain.events.UnknownEvent`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class StoreError(Exception):
    """Any failure of the event store."""


class StoreUnavailable(StoreError):
    """The database cannot be used now: unreachable, locked, full, read-only. What was asked may or may not be done when
    the connection broke during a commit; otherwise nothing was changed."""


class VersionConflict(StoreError):
    """Somebody else appended to the stream since `expected_version`. Nothing was written."""

    def __init__(self, stream: str, expected_version: int) -> None:
        super().__init__(f"{stream} is not at version {expected_version}")
        self.stream = stream
        self.expected_version = expected_version


class DamagedLog(StoreError):
    """The log lacks an event that it must hold, so nothing can be linked to it."""

    def __init__(self, stream: str, version: int) -> None:
        super().__init__(f"event {version} of {stream} is missing: restore the event store from a backup")


class WrongSecretKey(StoreError):
    """Secrets of this store were encrypted with another SERVER_SECRET_KEY than those given."""


class NewerStore(StoreError):
    """The tables were changed by a newer version of TrustGate."""

    def __init__(self, migrations: list[str]) -> None:
        super().__init__(
            f"this event store was upgraded by a newer version of TrustGate ({', '.join(migrations)}): start that"
            " version, or restore a backup from before the upgrade; nothing was changed"
        )


class Fallible(Protocol):
    """What a database raises: `failures` of its own, and among them our `mistakes` (bad SQL)."""

    failures: tuple[type[Exception], ...]
    mistakes: tuple[type[Exception], ...]


@contextmanager
def translated(database: Fallible) -> Iterator[None]:
    """Failures of the database come out as `StoreUnavailable`, mistakes as they are."""
    try:
        yield
    except database.mistakes:
        raise
    except database.failures as error:
        raise StoreUnavailable(f"the event store is unavailable: {error}") from error
