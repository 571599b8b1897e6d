"""The MCP plane as an ASGI application: routes in the order of spec 05 §1, and the one place where answers are written.

What lives here: bytes in, bytes out, headers that every answer carries, and the end of a request. What must not: who
may call (`gate`), what methods do (`methods`).
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from time import perf_counter
from typing import Any

import msgspec
import structlog

from trustgate.mcp import events, gate, in_session, jsonrpc, methods, session_routes, streaming
from trustgate.mcp.call import STREAMED, Call, progress_token
from trustgate.mcp.errors import HttpFailure
from trustgate.mcp.exchange import Exchange, Reply
from trustgate.mcp.jsonrpc import Message
from trustgate.mcp.methods import METHODS, Handlers
from trustgate.mcp.services import McpServices
from trustgate.mcp.streaming import Streamed, accepts
from trustgate.policies.model import Headers
from trustgate.wire.asgi import (
    HSTS,
    JSON,
    SECURITY,
    SECURITY_BLOCK,
    TEXT,
    EntityTooLarge,
    HeaderList,
    Receive,
    Scope,
    Send,
    lifespan,
    read_body,
)
from trustgate.wire.clients import client_address, forwarded_for
from trustgate.wire.ids import current_trace
from trustgate.wire.response_head import HeaderBlock
from trustgate.wire.tls import peer_certificate

PROBES = frozenset({"/healthz", "/health", "/readyz"})
READS = frozenset({"GET", "HEAD", "DELETE"})
USUAL_LINES = b"Content-Type: application/json\r\n" + SECURITY_BLOCK.lines

log = structlog.get_logger(__name__)


class McpApp:
    """ASGI 3 application of the MCP plane."""

    def __init__(self, services: McpServices) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await lifespan(scope, receive, send)
            return
        method, path = scope["method"], (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        if method in ("GET", "HEAD") and (probe := path.lower().rstrip("/")) in PROBES:
            answer = self._probe(probe)
            self._services.observer.probed(method, probe, answer[0])
            await respond(scope, send, *answer)
            return
        exchange = Exchange(method, path, scope["headers"], b"", (scope.get("client") or ("",))[0])
        scheme = "https" if scope.get("scheme") == "https" else "http"
        exchange.base_url = self._services.base_urls.of(exchange.headers, exchange.header_map, exchange.peer_ip, scheme)
        if trusted := self._services.trusted_proxies:
            exchange.client_ip = client_address(exchange.peer_ip, forwarded_for(exchange.headers), trusted)
        exchange.client_certificate = peer_certificate.get() if scheme == "https" else None
        exchange.secure = exchange.base_url.startswith("https:")
        allowed = self._services.allowed_hosts
        if allowed is not None and allowed.refuses(exchange.header_map, exchange.base_url):
            exchange.reply = Reply(status=403, body=b"host not allowed", headers=[TEXT])
            try:
                await self._write(exchange, exchange.reply, scope, send)
            finally:
                self._finished(exchange)
            return
        if (cors := self._services.cors) is not None and b"origin" in exchange.header_map:
            preflight = cors.preflight(method.encode(), exchange.headers)
            if preflight is not None:
                headers = [*wire_headers(preflight.headers), *common_headers(exchange), *SECURITY]
                await respond(scope, send, preflight.status, headers, b"")
                return
            exchange.cors = wire_headers(cors.answer_headers(exchange.headers))
        pages = self._services.pages
        if pages is not None and pages.wants(method, path):
            # Without the one-write extension, so that every answer passes by here.
            plain = scope | {"extensions": {}}
            try:
                await pages(plain, receive, with_headers(exchange, send))
            finally:
                self._finished(exchange)
            return
        try:
            reply = await self._answer(exchange, scope, receive)
            if isinstance(reply, Streamed):
                await self._stream(exchange, reply, scope, send)
            else:
                exchange.reply = reply
                await self._write(exchange, reply, scope, send)
        except BaseException:  # the client left, or the server goes down
            exchange.aborted = True
            raise
        finally:
            if not exchange.detached:
                self._finished(exchange)

    def _finished(self, exchange: Exchange) -> None:
        exchange.ended_at = perf_counter()
        self._services.observer.finished(exchange)
        current_trace.set(...)

    async def _answer(self, exchange: Exchange, scope: Scope, receive: Receive) -> Reply | Streamed:
        """The reply, whatever happens."""
        try:
            if exchange.method in READS:
                if exchange.method != "HEAD" and session_routes.named(exchange, self._services):
                    return await session_routes.serve(exchange, self._services)
                return Reply(status=405, body=b"Method Not Allowed", headers=[TEXT, (b"allow", b"POST")])
            exchange.body = await read_body(scope, receive, self._services.config.max_body_bytes)
            return await self._serve(exchange)
        except HttpFailure as failure:
            headers: HeaderList = [TEXT, gate.challenge(exchange)] if failure.challenge else [TEXT]
            return Reply(status=failure.status, body=failure.text.encode(), headers=headers)
        except EntityTooLarge:
            return Reply(status=413, body=b"Request Entity Too Large", headers=[TEXT])
        except Exception:
            log.exception("request failed unexpectedly", path=exchange.path, trace_id=exchange.trace_id)
            return Reply(status=500, body=b'{"error":"Internal server error"}', headers=[JSON])

    async def _serve(self, exchange: Exchange) -> Reply | Streamed:
        """Authenticate, admit, parse, dispatch."""
        services = self._services
        await gate.identify(exchange, self._services)
        if exchange.method != "POST":
            allow = (b"allow", b"GET, HEAD, POST, DELETE")
            return Reply(status=405, body=b"Method Not Allowed", headers=[TEXT, allow])
        gate.admit(exchange, services)
        await session_routes.find(exchange, services)
        try:
            message = jsonrpc.read_request(exchange.body)
        except jsonrpc.Malformed as bad:
            if await session_routes.answered(exchange, services):
                return Reply(status=202, body=b"Accepted")
            return Reply(status=200, body=jsonrpc.error(bad.id, jsonrpc.error_object(bad.code, bad.message)))
        if message.is_notification:
            await session_routes.notified(exchange, message, services)
            return Reply(status=202, body=b"Accepted")
        accept = exchange.header_map.get(b"accept", b"")
        if b"text/event-stream" not in accept.lower():
            return await methods.dispatch(exchange, message, services, self._handlers(exchange))
        return await self._serve_streamable(exchange, message, json=accepts(accept)[0])

    async def _serve_streamable(self, exchange: Exchange, message: Message, *, json: bool) -> Reply | Streamed:
        """The same for a client that accepts event streams: it may have a session, and an answer in parts.

        `json`: whether an answer that needs no stream may come as JSON.
        """
        services = self._services
        if message.method == "initialize":
            await session_routes.offer(exchange, message, services)
        run = partial(methods.dispatch, exchange, message, services, self._handlers(exchange))
        if message.method in STREAMED and (exchange.session is not None or progress_token(message) or not json):
            call = exchange.listener = Call(exchange, message, services.hub)
            services.background.start_soon(call.run, run, self._finished)
            return await streaming.answer(call, always=not json)
        reply = await run()
        if message.method == "initialize" and exchange.session is not None:
            reply.headers.append((b"mcp-session-id", exchange.session.id.encode()))
        if not json:
            reply.body = events.encode(reply.body)
            reply.headers += streaming.STREAM_HEADERS
        return reply

    def _handlers(self, exchange: Exchange) -> Handlers:
        if exchange.session is not None:
            return in_session.HANDLERS
        named = b"mcp-session-id" in exchange.header_map and session_routes.named(exchange, self._services)
        return in_session.WITHOUT_STATE if named else METHODS

    async def _stream(self, exchange: Exchange, streamed: Streamed, scope: Scope, send: Send) -> None:
        try:
            await streamed.write(send, [*common_headers(exchange), *SECURITY])
        finally:
            exchange.reply = streamed.reply

    async def _write(self, exchange: Exchange, reply: Reply, scope: Scope, send: Send) -> None:
        fast = (scope.get("extensions") or {}).get("trustgate")
        if fast is not None and reply.status == 200 and not (reply.headers or exchange.secure or exchange.cors):
            # The usual answer: its block is spelled at once.
            await fast["respond"](200, (), reply.body, HeaderBlock(USUAL_LINES + own_lines(exchange)))
            return
        headers = [*reply.headers, *common_headers(exchange), *SECURITY]
        if reply.status == 200 and not any(name == b"content-type" for name, _ in reply.headers):
            headers.append(JSON)
        await respond(scope, send, reply.status, headers, reply.body)

    def _probe(self, path: str) -> tuple[int, HeaderList, bytes]:
        """`/healthz` and `/readyz` (spec 06 §5.1): no security headers here."""
        now = datetime.now().astimezone().isoformat(timespec="seconds").replace("+00:00", "Z")
        version, readiness = self._services.config.version, self._services.readiness
        if path != "/readyz":
            return 200, [JSON], msgspec.json.encode({"status": "healthy", "time": now, "version": version})
        dependencies, configuration = readiness.now(), readiness.configuration()
        # Sign-in and sessions need what planes share; without the store it goes on from the last view.
        ready = not readiness.draining and "unavailable" not in (
            dependencies.get("snapshot"),
            dependencies.get("redis"),
        )
        answer: dict[str, Any] = {} if configuration is None else {"config": configuration}
        answer |= {"dependencies": dependencies, "status": "ready" if ready else "not_ready"}
        return (200 if ready else 503), [JSON], msgspec.json.encode(answer | {"time": now, "version": version})


def own_lines(exchange: Exchange) -> bytes:
    """What no two answers share, as header lines. The request id was checked when its header was parsed."""
    lines = f"X-Request-Id: {exchange.request_id}\r\n"
    if exchange.trace_id:
        assert exchange.caller is not None
        lines += f"X-Ag-Trace-Id: {exchange.trace_id}\r\nX-Ag-Config-Version: {exchange.caller.view.version}\r\n"
    return lines.encode("latin-1")


def common_headers(exchange: Exchange) -> HeaderList:
    """The same as pairs, and what https adds."""
    headers: HeaderList = [(b"x-request-id", exchange.request_id.encode("latin-1")), *exchange.cors]
    if exchange.trace_id:
        assert exchange.caller is not None
        headers.append((b"x-ag-trace-id", exchange.trace_id.encode()))
        headers.append((b"x-ag-config-version", b"%d" % exchange.caller.view.version))
    if exchange.secure:
        headers.append(HSTS)
    return headers


def wire_headers(headers: Headers) -> HeaderList:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]


def with_headers(exchange: Exchange, send: Send) -> Send:
    """A `send` that adds the headers of every answer, and remembers its head for logs and metrics."""
    headers = [*common_headers(exchange), *SECURITY]

    async def sending(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = list(message.get("headers", ()))
            exchange.reply = Reply(status=message["status"], body=b"", headers=own)
            message = message | {"headers": [*own, *headers]}
        await send(message)

    return sending


async def respond(scope: Scope, send: Send, status: int, headers: HeaderList, body: bytes) -> None:
    """A whole answer: one write where the server offers it."""
    fast = (scope.get("extensions") or {}).get("trustgate")
    if fast is not None:
        await fast["respond"](status, headers, body)
        return
    await send(
        {"type": "http.response.start", "status": status, "headers": [*headers, (b"content-length", b"%d" % len(body))]}
    )
    await send({"type": "http.response.body", "body": body})
