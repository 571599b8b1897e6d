"""The messages of `snapshot.proto` as the protobuf library makes them: an oracle for our own reading and writing."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "bool": _Field.TYPE_BOOL,
    "int64": _Field.TYPE_INT64,
}
FIELD = re.compile(r"^(repeated )?(\w+) (\w+) = (\d+);$")


def _file() -> descriptor_pb2.FileDescriptorProto:
    text = resources.files("trustgate.sync").joinpath("snapshot.proto").read_text()
    file = descriptor_pb2.FileDescriptorProto(name="snapshot.proto", package="snapshotpb", syntax="proto3")
    message: Any = None
    oneof = False
    for line in (line.split("//")[0].strip() for line in text.splitlines()):
        if found := re.match(r"^message (\w+) {$", line):
            message = file.message_type.add(name=found[1])
        elif found := re.match(r"^oneof (\w+) {$", line):
            message.oneof_decl.add(name=found[1])
            oneof = True
        elif line == "}":
            message, oneof = (message, False) if oneof else (None, False)
        elif message is not None and (found := FIELD.match(line)):
            repeated, kind, name, number = found.groups()
            field = message.field.add(name=name, number=int(number))
            field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if kind in SCALARS:
                field.type = SCALARS[kind]
            else:
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".snapshotpb.{kind}"
            if oneof:
                field.oneof_index = 0
    return file


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())
_classes = message_factory.GetMessageClassesForFiles(["snapshot.proto"], _pool)


def make(name: str, **members: Any) -> Any:
    """A message of that name."""
    return _classes[f"snapshotpb.{name}"](**members)


def read(name: str, data: bytes) -> Any:
    return _classes[f"snapshotpb.{name}"].FromString(data)
