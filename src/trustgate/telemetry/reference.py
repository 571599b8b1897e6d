"""The shipped JSON schema of records, and the table of members in the documentation that is made from it.

`python -m trustgate.telemetry.reference` prints the table for `docs/telemetry.md`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

Json = dict[str, Any]


def schema() -> Json:
    """The JSON schema (2020-12) that every record satisfies."""
    return json.loads((files("trustgate.telemetry") / "event.schema.json").read_text(encoding="utf-8"))


def rows(node: Json, prefix: str = "") -> Iterator[tuple[str, str, bool, str]]:
    """Path, type, whether always there, and meaning of every member, in wire order."""
    required = set(node.get("required", ()))
    for name, member in node.get("properties", {}).items():
        yield prefix + name, kind(member), name in required, member["description"]
        items = member.get("items", {})
        if "properties" in items:
            yield from rows(items, f"{prefix}{name}[].")
        yield from rows(member, f"{prefix}{name}.")


def kind(member: Json) -> str:
    if "$ref" in member:
        return "object of lists"
    if "const" in member:
        return (
            type(member["const"]).__name__.replace("bool", "boolean").replace("int", "integer").replace("str", "string")
        )
    if "enum" in member:
        return "string"
    found = member["type"]
    return " or ".join(found) if isinstance(found, list) else found


def table() -> str:
    lines = ["| member | type | always | meaning |", "| --- | --- | --- | --- |"]
    for path, type_, always, meaning in rows(schema()):
        lines.append(f"| `{path}` | {type_} | {'yes' if always else ''} | {meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
