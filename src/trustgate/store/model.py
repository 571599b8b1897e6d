"""The values that go into and come out of the event store.

What lives here: plain data. What must not: I/O, meaning of events (they are bytes here).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from trustgate.store.errors import Fallible

DIRECTORY = "directory"
"""The stream of what is unique across gateways."""

GATEWAY_PREFIX = "gateway:"


def gateway_stream(gateway_id: str) -> str:
    return GATEWAY_PREFIX + gateway_id


def gateway_of(stream: str) -> str | None:
    """The gateway id of a gateway's stream; None for other streams."""
    return stream[len(GATEWAY_PREFIX) :] if stream.startswith(GATEWAY_PREFIX) else None


class StreamWrite(msgspec.Struct, frozen=True):
    """Events to append to one stream that must be at `expected_version` (0: must not exist)."""

    stream: str
    expected_version: int
    events: Sequence[bytes]


class Recorded(msgspec.Struct, frozen=True):
    """One event of the log. `position` orders all streams; `version` counts from 1 in its stream.

    `previous` is the hash of its predecessor in the stream as the event carries it (`chain`); empty before the chain.
    """

    position: int
    stream: str
    version: int
    data: bytes
    previous: str = ""


class Plane(msgspec.Struct, frozen=True):
    """A live data plane and the log position up to which it has applied the configuration."""

    plane_id: str
    position: int


class Appended(msgspec.Struct, frozen=True):
    """Where an append went: `positions` of its events in the order of the writes, `previous` the log's head before.

    `planes` are the data planes that lived just after the commit; None when they are not known.
    """

    previous: int
    positions: tuple[int, ...]
    planes: tuple[Plane, ...] | None = None

    @property
    def position(self) -> int:
        return self.positions[-1]


class Head(msgspec.Struct, frozen=True):
    """The newest version of a stream, and the version of its snapshot (0: none)."""

    stream: str
    version: int
    snapshot_version: int


class Snapshot(msgspec.Struct, frozen=True):
    """A stream's fold at `version`, in the encoding named by `schema`. A cache: losing it loses nothing."""

    stream: str
    version: int
    schema: int
    state: bytes


class Sealed(msgspec.Struct, frozen=True):
    """An encrypted secret and the id of the key that opens it."""

    ref: str
    key_id: str
    ciphertext: bytes


class SyncConnection(msgspec.Struct, frozen=True):
    """One DB-less data plane's connection to the configuration feed (spec 06 §17.3). Times are epoch seconds."""

    scope: str
    instance_id: str
    state: str
    applied_version: str
    first_seen: float
    last_seen: float


class AuditRow(msgspec.Struct, frozen=True):
    """What the audit index knows of one event of a gateway. `at` is in microseconds since 1970; `related_id` is the
    other object of an event about a link."""

    position: int
    gateway_id: str
    version: int
    tenant: str
    at: int
    actor: str
    event: str
    object_id: str
    related_id: str = ""


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are wanted; None and empty ask for nothing. `since` (included) and `until` (excluded) as `at`."""

    tenant: str | None = None
    gateway_id: str | None = None
    object_id: str = ""
    actor: str = ""
    events: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None


class Checkpoint(msgspec.Struct, frozen=True):
    """A signed statement about the log up to `position` (`actors.notary`); `number` counts from 1."""

    number: int
    position: int
    statement: bytes
    signature: bytes


class Backend(Fallible, Protocol):
    """One database, synchronous. Raises database errors as they are (see `errors.translated`) and `VersionConflict`."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def ping(self) -> None: ...
    def append(self, writes: Sequence[StreamWrite], secrets: Sequence[Sealed], forget: Sequence[str]) -> Appended: ...
    def read(self, stream: str, after_version: int, limit: int | None) -> list[Recorded]: ...
    def read_all(self, after_position: int, limit: int) -> list[Recorded]: ...
    def read_at(self, positions: Sequence[int]) -> list[Recorded]: ...
    def head(self) -> int: ...
    def heads(self) -> list[Head]: ...
    def snapshots(self, streams: Sequence[str]) -> list[Snapshot]: ...
    def put_snapshot(self, snapshot: Snapshot) -> None: ...
    def secrets(self, refs: Sequence[str]) -> list[Sealed]: ...
    def put_secret(self, secret: Sealed) -> None: ...
    def put_secret_if_absent(self, secret: Sealed) -> None: ...
    def replace_secret(self, secret: Sealed, old_key_id: str) -> bool: ...
    def forget(self, refs: Sequence[str]) -> None: ...
    def secrets_not_under(self, key_id: str, limit: int) -> list[Sealed]: ...
    def put_plane(self, plane_id: str, position: int, lease_s: float) -> None: ...
    def remove_plane(self, plane_id: str) -> None: ...
    def planes(self) -> list[Plane]: ...
    def put_value(self, key: str, value: bytes, ttl_s: float | None) -> None: ...
    def put_value_if_absent(self, key: str, value: bytes, ttl_s: float | None) -> bool: ...
    def replace_value(self, key: str, old: bytes, new: bytes) -> bool: ...
    def value(self, key: str) -> bytes | None: ...
    def take_value(self, key: str) -> bytes | None: ...
    def values_below(self, prefix: str) -> list[tuple[str, bytes]]: ...
    def delete_value(self, key: str) -> None: ...
    def put_sync_connection(self, scope: str, instance_id: str, state: str, applied_version: str) -> None: ...
    def sync_connections(self, scope: str | None) -> list[SyncConnection]: ...
    def held(self, refs: Sequence[str]) -> set[str]: ...
    def indexed(self) -> int: ...
    def put_audit_rows(self, rows: Sequence[AuditRow]) -> None: ...
    def clear_audit(self) -> None: ...
    def audit_rows(self, wanted: AuditFilter, cursor: int | None, limit: int, newest_first: bool) -> list[AuditRow]: ...
    def audit_before(self, places: Sequence[tuple[str, str, int]], depth: int) -> list[list[AuditRow]]: ...
    def audit_owner(self, gateway_id: str) -> str | None: ...
    def audit_version(self, gateway_id: str, at: int) -> int: ...
    def audit_gateways(self, at: int, tenant: str | None) -> list[AuditRow]: ...
    def checkpoints(self, after_number: int, limit: int) -> list[Checkpoint]: ...
    def last_checkpoint(self) -> Checkpoint | None: ...
    def put_checkpoint(self, checkpoint: Checkpoint) -> bool: ...
    def milestone(self, stream: str, version: int, schema: int) -> Snapshot | None: ...
    def put_milestone(self, snapshot: Snapshot) -> None: ...
    def drop_states(self, stream: str) -> None: ...
    def milestones(self, schema: int) -> list[tuple[str, int]]: ...
