"""A client of remote MCP servers over streamable HTTP (spec 05 §7.2): initialize, one request after another, goodbye.

What lives here: JSON-RPC over `wire`'s pool, answers as JSON or as an event stream. What must not: whose credentials
are used, and what results mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import msgspec

from trustgate.domain.entities import MCPTarget
from trustgate.wire.client import Deadlines, Origin, Pool, Response
from trustgate.wire.errors import WireError
from trustgate.wire.sse import EventParser

PROTOCOL_VERSION = "2025-11-25"
ACCEPTED_VERSIONS = frozenset({"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"})
CLIENT_INFO = {"name": "trustgate", "version": "1.0"}
MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_PAGES = 100
DEADLINES = Deadlines(connect_s=30.0, first_byte_s=30.0, between_s=30.0, total_s=60.0)

Json = dict[str, Any]


class Unavailable(Exception):
    """The server could not be reached or does not speak MCP; the text names no internal address."""


class RpcError(Exception):
    """The server answered a request with a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


class Session:
    """One session with a server; use as an async context manager. Requests go one at a time."""

    def __init__(self, pool: Pool, url: str, headers: Mapping[str, str]) -> None:
        self._pool = pool
        self._origin, self._target = Origin.parse(url)
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._session_id = b""
        self._version = ""
        self._last_id = 0
        self.server: Json = {}

    async def __aenter__(self) -> Session:
        """Initialize. Raises Unavailable."""
        params = {
            "protocolVersion": PROTOCOL_VERSION,
            "capabilities": {"roots": {"listChanged": True}},
            "clientInfo": CLIENT_INFO,
        }
        try:
            self.server = await self.request("initialize", params)
        except RpcError as error:
            raise Unavailable(f"initialize was refused: {error.message}") from error
        version = self.server.get("protocolVersion")
        if version not in ACCEPTED_VERSIONS:
            raise Unavailable(f"unsupported protocol version {version!r}")
        self._version = version
        await self._notify("notifications/initialized")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the session on the server where it gave one a name; a server that does not care is fine."""
        if self._session_id and kind is None:
            try:
                async with await self._send("DELETE", b"") as response:
                    await response.read(MAX_ANSWER_BYTES)
            except WireError:
                return

    async def request(self, method: str, params: Json | None = None) -> Json:
        """The result of a request. Raises RpcError, Unavailable."""
        self._last_id += 1
        message: Json = {"jsonrpc": "2.0", "id": self._last_id, "method": method}
        if params is not None:
            message["params"] = params
        try:
            async with await self._send("POST", msgspec.json.encode(message)) as response:
                if not 200 <= response.status < 300:
                    await response.read(MAX_ANSWER_BYTES)
                    raise Unavailable(f"the server answered status {response.status}")
                session_id = response.header(b"mcp-session-id")
                if method == "initialize" and session_id:
                    self._session_id = session_id
                answer = await self._answer(response, self._last_id)
        except WireError as error:
            raise Unavailable(type(error).__name__) from error
        failure = answer.get("error")
        if isinstance(failure, dict):
            raise RpcError(int(failure.get("code", -32603)), str(failure.get("message", "")), failure.get("data"))
        result = answer.get("result")
        return result if isinstance(result, dict) else {}

    async def list_all(self, method: str, member: str) -> list[Json]:
        """Every page of a list method. Raises as `request`."""
        found: list[Json] = []
        cursor: Any = None
        for _ in range(MAX_PAGES):
            page = await self.request(method, {"cursor": cursor} if cursor else {})
            found += [item for item in page.get(member) or [] if isinstance(item, dict)]
            cursor = page.get("nextCursor")
            if not cursor:
                break
        return found

    async def _notify(self, method: str) -> None:
        try:
            body = msgspec.json.encode({"jsonrpc": "2.0", "method": method})
            async with await self._send("POST", body) as response:
                await response.read(MAX_ANSWER_BYTES)
        except WireError as error:
            raise Unavailable(type(error).__name__) from error

    async def _send(self, method: str, body: bytes) -> Response:
        headers = [(b"accept", b"application/json, text/event-stream")]
        if body:
            headers.append((b"content-type", b"application/json"))
        if self._version:
            headers.append((b"mcp-protocol-version", self._version.encode()))
        if self._session_id:
            headers.append((b"mcp-session-id", self._session_id))
        return await self._pool.request(method, self._origin, self._target, headers + self._headers, body, DEADLINES)

    async def _answer(self, response: Response, wanted: int) -> Json:
        """The JSON-RPC response to request `wanted`, from a JSON body or an event stream."""
        kind = (response.header(b"content-type") or b"").split(b";")[0].strip().lower()
        if kind != b"text/event-stream":
            return read_message(await response.read(MAX_ANSWER_BYTES), wanted)
        parser, size = EventParser(), 0
        async for chunk in response.chunks():
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise Unavailable("the answer is too large")
            for event in parser.feed(chunk):
                try:
                    return read_message(event.data.encode(), wanted)
                except Unavailable:
                    continue  # a notification, or a request of the server's own
        raise Unavailable("the stream ended without an answer")


async def list_tools(pool: Pool, target: MCPTarget) -> list[Json]:
    """The tools of a server as it lists them now, with the static credential alone. Raises Unavailable, RpcError."""
    headers: dict[str, str] = dict(target.headers)
    if target.auth.get("mode") == "static":
        headers[target.auth["header"]] = target.auth["value"]
    async with Session(pool, target.url, headers) as session:
        return await session.list_all("tools/list", "tools")


def read_message(data: bytes, wanted: int) -> Json:
    """A JSON-RPC response with that id. Raises Unavailable for anything else."""
    try:
        message = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unavailable("the answer is not JSON") from error
    if not isinstance(message, dict) or message.get("id") != wanted or "method" in message:
        raise Unavailable("the answer is not the response to the request")
    return message
