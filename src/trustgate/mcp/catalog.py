"""The curated catalog of public MCP servers that `GET /v1/mcp-servers-catalog` shows (spec 05 §14).

What lives here: reading the list that the package ships, in answer order. What must not: anything about a live server.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

Json = dict[str, Any]


@cache
def servers() -> list[Json]:
    """All entries, by relevance descending, then display name and code in byte order. Raises on a damaged package."""
    found: list[Json] = msgspec.json.decode((files("trustgate.mcp") / "servers.json").read_bytes(), type=list[Json])
    codes = [entry["code"] for entry in found]
    if len(set(codes)) != len(codes) or not all(codes):
        raise ValueError("the catalog of MCP servers has empty or repeated codes")
    return sorted(
        found, key=lambda entry: (-entry["relevance"], entry["display_name"].encode(), entry["code"].encode())
    )


@cache
def by_code() -> dict[str, Json]:
    return {entry["code"]: entry for entry in servers()}
