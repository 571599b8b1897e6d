"""Our reading and writing of the feed's messages against the protobuf library's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sync import protos
from trustgate.sync import messages as wire
from trustgate.sync import protobuf as pb

WRITTEN: list[tuple[str, bytes, dict[str, Any]]] = [
    (
        "ClientMessage",
        wire.client_message(wire.Hello("dp-1", "v1")),
        {"hello": protos.make("Hello", instance_id="dp-1", last_applied_version="v1")},
    ),
    ("ClientMessage", wire.client_message(wire.Hello()), {"hello": protos.make("Hello")}),
    ("ClientMessage", wire.client_message(wire.Ack("v2")), {"ack": protos.make("Ack", applied_version="v2")}),
    ("ServerMessage", wire.notice("v3"), {"notice": protos.make("VersionNotice", version="v3")}),
    (
        "GetSnapshotRequest",
        wire.snapshot_request(wire.SnapshotRequest("v1", "ünïcode")),
        {"applied_version": "v1", "instance_id": "ünïcode"},
    ),
    (
        "SnapshotChunk",
        wire.header_chunk(wire.Header("v4", total_bytes=1 << 40)),
        {"header": protos.make("SnapshotHeader", version="v4", total_bytes=1 << 40)},
    ),
    (
        "SnapshotChunk",
        wire.header_chunk(wire.Header("v4", not_modified=True)),
        {"header": protos.make("SnapshotHeader", version="v4", not_modified=True)},
    ),
    ("SnapshotChunk", wire.data_chunk(b""), {"data": b""}),
    ("SnapshotChunk", wire.data_chunk(b"\0" * 300), {"data": b"\0" * 300}),
]


@pytest.mark.parametrize("name, data, members", WRITTEN)
def test_what_we_write_is_what_the_library_writes(name: str, data: bytes, members: dict[str, Any]) -> None:
    assert protos.read(name, data) == protos.make(name, **members)
    assert protos.make(name, **members).SerializeToString() == data


def test_what_the_library_writes_is_read() -> None:
    hello = protos.make("ClientMessage", hello=protos.make("Hello", instance_id="a", last_applied_version="b"))
    assert wire.read_client_message(hello.SerializeToString()) == wire.Hello("a", "b")
    ack = protos.make("ClientMessage", ack=protos.make("Ack", applied_version="c"))
    assert wire.read_client_message(ack.SerializeToString()) == wire.Ack("c")
    notice = protos.make("ServerMessage", notice=protos.make("VersionNotice", version="d"))
    assert wire.read_notice(notice.SerializeToString()) == "d"
    request = protos.make("GetSnapshotRequest", applied_version="e", instance_id="f")
    assert wire.read_snapshot_request(request.SerializeToString()) == wire.SnapshotRequest("e", "f")
    header = protos.make("SnapshotHeader", version="g", not_modified=True, total_bytes=7)
    chunk = protos.make("SnapshotChunk", header=header)
    assert wire.read_chunk(chunk.SerializeToString()) == wire.Header("g", True, 7)
    assert wire.read_chunk(protos.make("SnapshotChunk", data=b"x").SerializeToString()) == b"x"


def test_a_message_of_neither_kind_is_none() -> None:
    assert wire.read_client_message(b"") is None
    assert wire.read_notice(b"") == ""
    with pytest.raises(pb.Malformed):
        wire.read_chunk(b"")


def test_unknown_fields_are_skipped() -> None:
    strange = pb.number(99, 5) + bytes((98 << 3 & 0x7F | 0x80 | 1, 98 << 3 >> 7)) + b"8bytes.." + pb.text(97, "x")
    known = wire.client_message(wire.Ack("v"))
    assert wire.read_client_message(strange + known + strange) == wire.Ack("v")


def test_a_snapshot_is_the_concatenation_of_its_objects_in_any_order() -> None:
    items = [
        wire.Item("model", b'{"Slug":"m"}', "openai"),
        wire.Item("gateway", b'{"id":"1"}'),
        wire.Item("auth", b'{"id":"2"}', "hash"),
        wire.Item("provider", b"{}"),
        *(wire.Item(kind, b"{}") for kind in ("consumer", "registry", "policy", "role")),
    ]
    data = b"".join(map(wire.snapshot_item, items))
    assert wire.read_snapshot(data) == items
    found = protos.read("Snapshot", data)
    assert found.version == ""
    assert found.auths[0].key_hash == "hash"
    assert found.catalog_models[0].provider_code == "openai"
    assert [len(getattr(found, name)) for name in ("gateways", "consumers", "registries", "policies", "roles")] == [
        1
    ] * 5
    assert sorted(wire.read_snapshot(found.SerializeToString()), key=repr) == sorted(items, key=repr)


BROKEN = [b"\x0a", b"\x0a\x05ab", b"\x0b", b"\x00\x01", b"\xff" * 11, b"\x09abc", b"\x0a\x03\x0a\x01\xff"]


@pytest.mark.parametrize("data", BROKEN)
def test_bytes_that_are_no_message_are_malformed(data: bytes) -> None:
    with pytest.raises(pb.Malformed):
        wire.read_client_message(data)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_malformed(data: bytes) -> None:
    for read in (wire.read_client_message, wire.read_snapshot, wire.read_chunk, wire.read_notice):
        try:
            read(data)
        except pb.Malformed:
            pass
