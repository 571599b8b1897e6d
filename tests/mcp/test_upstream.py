"""The client of remote MCP servers: JSON and event-stream answers, sessions, pages, faults; and the curated catalog."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from trustgate.domain.entities import MCPTarget
from trustgate.mcp.answers import RpcError, Unavailable
from trustgate.mcp.catalog import by_code, servers
from trustgate.mcp.upstream import Session, list_tools
from trustgate.wire.client import Pool

TOOLS = [{"name": f"t{number}", "inputSchema": {"type": "object"}, "x-extra": number} for number in range(5)]


class Server:
    """An MCP server; `mode` says how it answers and misbehaves."""

    def __init__(self, mode: str = "json") -> None:
        self.mode = mode
        self.seen: list[tuple[str, str, dict[str, str]]] = []

    def result(self, message: Any) -> Any:
        if message["method"] == "initialize":
            version = "1999-01-01" if self.mode == "old" else message["params"]["protocolVersion"]
            return {"protocolVersion": version, "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}
        start = int(message["params"].get("cursor") or 0)
        page: dict[str, Any] = {"tools": TOOLS[start : start + 2]}
        return page | ({"nextCursor": str(start + 2)} if start + 2 < len(TOOLS) else {})

    def answer(self, message: Any) -> bytes:
        listing = message["method"] == "tools/list"
        if listing and self.mode == "error":
            return json.dumps(
                {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32000, "message": "no"}}
            ).encode()
        if listing and self.mode == "garbage":
            return b"{broken"
        wanted = message["id"] + (7 if listing and self.mode == "wrong-id" else 0)
        return json.dumps({"jsonrpc": "2.0", "id": wanted, "result": self.result(message)}).encode()


@contextmanager
def serving(server: Server) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_DELETE(self) -> None:
            server.seen.append(("DELETE", "", {k.lower(): v for k, v in self.headers.items()}))
            self.reply(200, b"", "application/json")

        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["content-length"])))
            server.seen.append(("POST", message["method"], {k.lower(): v for k, v in self.headers.items()}))
            if "id" not in message:
                self.reply(202, b"", "application/json")
            elif server.mode == "down":
                self.reply(503, b"{}", "application/json")
            elif server.mode == "sse":
                note = b'event: message\ndata: {"jsonrpc":"2.0","method":"notifications/progress"}\n\n'
                self.reply(200, note + b"data: " + server.answer(message) + b"\n\n", "text/event-stream")
            elif server.mode == "cut-sse" and message["method"] == "tools/list":
                self.reply(200, b'data: {"jsonrpc"', "text/event-stream")
            else:
                self.reply(200, server.answer(message), "application/json")

        def reply(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Mcp-Session-Id", "s-1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return None

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/mcp"
    finally:
        listening.shutdown()
        listening.server_close()


@pytest.mark.parametrize("mode", ["json", "sse"])
async def test_all_pages_of_tools_are_listed_unchanged(mode: str) -> None:
    server = Server(mode)
    auth = {"mode": "static", "header": "Authorization", "value": "Bearer x"}
    with serving(server) as url:
        async with Pool() as pool:
            assert await list_tools(pool, MCPTarget(url, headers={"X-Team": "t"}, auth=auth)) == TOOLS
    methods = [f"{method} {name}".strip() for method, name, _ in server.seen]
    listing = ["POST tools/list"] * 3
    assert methods == ["POST initialize", "POST notifications/initialized", *listing, "DELETE"]
    first, *later = [headers for _, _, headers in server.seen]
    assert "mcp-session-id" not in first
    assert {headers["mcp-session-id"] for headers in later} == {"s-1"}
    assert {headers["mcp-protocol-version"] for headers in later} == {"2025-11-25"}
    assert (first["authorization"], first["x-team"]) == ("Bearer x", "t")


@pytest.mark.parametrize("mode", ["down", "old", "garbage", "wrong-id", "cut-sse"])
async def test_a_server_that_does_not_speak_mcp_is_unavailable(mode: str) -> None:
    with serving(Server(mode)) as url:
        async with Pool() as pool:
            with pytest.raises(Unavailable):
                await list_tools(pool, MCPTarget(url))


async def test_errors_of_the_server_keep_their_code() -> None:
    with serving(Server("error")) as url:
        async with Pool() as pool:
            session = Session(pool, url, [])
            await session.open()
            with pytest.raises(RpcError) as refused:
                await session.request("tools/list", b"{}")
    assert (refused.value.code, refused.value.message) == (-32000, "no")


async def test_a_closed_port_is_unavailable_without_naming_it() -> None:
    async with Pool() as pool:
        with pytest.raises(Unavailable) as refused:
            await list_tools(pool, MCPTarget("http://127.0.0.1:1/mcp"))
    assert "127.0.0.1" not in str(refused.value)


def test_the_catalog_is_complete_and_ordered() -> None:
    found = servers()
    assert len(found) == len(by_code()) == 193
    keys = [(-entry["relevance"], entry["display_name"].encode(), entry["code"].encode()) for entry in found]
    assert keys == sorted(keys)
    for entry in found:
        static, oauth = bool(entry.get("auth_headers")), entry.get("oauth")
        assert entry["auth_hint"] in ("none", "static", "oauth")
        assert (entry["auth_hint"] == "oauth") is (oauth is not None)
        assert entry["requires_auth"] or not static
