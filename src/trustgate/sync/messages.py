"""The messages of the feed (`snapshot.proto`): values to bytes and back.

What lives here: one struct per message of the protocol, and the container of a snapshot. What must not: the JSON inside
a snapshot (`encode`, `decode`), transport.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trustgate.sync import protobuf as pb
from trustgate.sync.protobuf import Malformed

SYNC = "/snapshotpb.ConfigSync/Sync"
GET_SNAPSHOT = "/snapshotpb.ConfigSync/GetSnapshot"

Kind = Literal["gateway", "consumer", "registry", "policy", "auth", "role", "provider", "model"]
FIELDS: dict[Kind, int] = {
    "gateway": 2,
    "consumer": 3,
    "registry": 4,
    "policy": 5,
    "auth": 6,
    "role": 7,
    "provider": 8,
    "model": 9,
}
KINDS: dict[int, Kind] = {field: kind for kind, field in FIELDS.items()}


class Hello(msgspec.Struct, frozen=True):
    instance_id: str = ""
    last_applied_version: str = ""


class Ack(msgspec.Struct, frozen=True):
    applied_version: str = ""


class Header(msgspec.Struct, frozen=True):
    version: str = ""
    not_modified: bool = False
    total_bytes: int = 0


class SnapshotRequest(msgspec.Struct, frozen=True):
    applied_version: str = ""
    instance_id: str = ""


class Item(msgspec.Struct, frozen=True):
    """One object of a snapshot. `extra` is an auth's `key_hash`, a model's `provider_code`."""

    kind: Kind
    json: bytes
    extra: str = ""


# Client to server


def client_message(message: Hello | Ack) -> bytes:
    if isinstance(message, Hello):
        return pb.delimited(1, pb.text(1, message.instance_id) + pb.text(2, message.last_applied_version))
    return pb.delimited(2, pb.text(1, message.applied_version))


def read_client_message(data: bytes) -> Hello | Ack | None:
    """None for a message of neither kind. Of two in one, the last counts. Raises Malformed."""
    found: Hello | Ack | None = None
    for field, value in pb.fields(data):
        inner = pb.members(pb.as_bytes(value)) if field in (1, 2) else {}
        if field == 1:
            found = Hello(pb.as_text(inner.get(1)), pb.as_text(inner.get(2)))
        elif field == 2:
            found = Ack(pb.as_text(inner.get(1)))
    return found


def snapshot_request(request: SnapshotRequest) -> bytes:
    return pb.text(1, request.applied_version) + pb.text(2, request.instance_id)


def read_snapshot_request(data: bytes) -> SnapshotRequest:
    found = pb.members(data)
    return SnapshotRequest(pb.as_text(found.get(1)), pb.as_text(found.get(2)))


# Server to client


def notice(version: str) -> bytes:
    """A ServerMessage that names the present version."""
    return pb.delimited(1, pb.text(1, version))


def read_notice(data: bytes) -> str:
    """The version of a notice; empty for a message that is none. Raises Malformed."""
    return pb.as_text(pb.members(pb.as_bytes(pb.members(data).get(1))).get(1))


def header_chunk(header: Header) -> bytes:
    return pb.delimited(
        1, pb.text(1, header.version) + pb.number(2, int(header.not_modified)) + pb.number(3, header.total_bytes)
    )


def data_chunk(data: bytes) -> bytes:
    return pb.delimited(2, data)


def read_chunk(data: bytes) -> Header | bytes:
    """A chunk's header or data. Raises Malformed for a chunk that has neither."""
    found: Header | bytes | None = None
    for field, value in pb.fields(data):
        if field == 1:
            inner = pb.members(pb.as_bytes(value))
            found = Header(pb.as_text(inner.get(1)), bool(inner.get(2)), pb.as_int(inner.get(3)))
        elif field == 2:
            found = pb.as_bytes(value)
    if found is None:
        raise Malformed("a chunk has neither header nor data")
    return found


# The snapshot


def snapshot_item(item: Item) -> bytes:
    """The object as a field of a Snapshot: the concatenation of all of them is the message."""
    return pb.delimited(FIELDS[item.kind], pb.delimited(1, item.json) + pb.text(2, item.extra))


def read_snapshot(data: bytes) -> list[Item]:
    """The objects in the order of the bytes; what is unknown is skipped. Raises Malformed."""
    items: list[Item] = []
    for field, value in pb.fields(data):
        kind = KINDS.get(field)
        if kind is not None:
            inner = pb.members(pb.as_bytes(value))
            items.append(Item(kind, pb.as_bytes(inner.get(1)), pb.as_text(inner.get(2))))
    return items
