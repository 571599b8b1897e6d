"""The event store: the log of configuration, snapshots, secrets, and news of appends.

What lives here: storage on the `eventsourcing` library's recorders (SQLite, PostgreSQL). What must not: the meaning of
events; they are bytes in this room.
"""

from trustgate.store.auditlog import AuditLog
from trustgate.store.connection import PostgresConfig, aws_password_source, aws_region
from trustgate.store.errors import DamagedLog, NewerStore, StoreError, StoreUnavailable, VersionConflict, WrongSecretKey
from trustgate.store.eventstore import EventStore, News, open_store
from trustgate.store.model import (
    DIRECTORY,
    Appended,
    AuditFilter,
    AuditRow,
    Checkpoint,
    Head,
    Plane,
    Recorded,
    Snapshot,
    StreamWrite,
    SyncConnection,
    gateway_of,
    gateway_stream,
)

__all__ = [
    "DIRECTORY",
    "Appended",
    "AuditFilter",
    "AuditLog",
    "AuditRow",
    "Checkpoint",
    "DamagedLog",
    "EventStore",
    "Head",
    "NewerStore",
    "News",
    "Plane",
    "PostgresConfig",
    "Recorded",
    "Snapshot",
    "StoreError",
    "StoreUnavailable",
    "StreamWrite",
    "SyncConnection",
    "VersionConflict",
    "WrongSecretKey",
    "aws_password_source",
    "aws_region",
    "gateway_of",
    "gateway_stream",
    "open_store",
]
