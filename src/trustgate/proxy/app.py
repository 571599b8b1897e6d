"""The proxy plane as an ASGI application: probes, the pipeline, and the one place where answers are written.

What lives here: bytes in, bytes out, headers that every answer carries (spec 02 §1.1, §1.2), and the end of a request:
late policies and telemetry. What must not: decisions about the request (`pipeline`).
"""

from __future__ import annotations

from datetime import datetime
from time import perf_counter
from typing import Any

import msgspec
import structlog
import trio

from trustgate.proxy import cross_origin, pipeline
from trustgate.proxy.call import header_value
from trustgate.proxy.decoding import TooLarge
from trustgate.proxy.errors import Refusal, error_body
from trustgate.proxy.exchange import Exchange, HeaderList, Reply
from trustgate.proxy.guarding import after_answer, wire_headers
from trustgate.proxy.services import ProxyServices
from trustgate.wire.asgi import HSTS, JSON, SECURITY, SECURITY_BLOCK, Receive, Scope, Send, lifespan, read_body
from trustgate.wire.clients import client_address, forwarded_for
from trustgate.wire.ids import current_trace
from trustgate.wire.response_head import HeaderBlock, header_lines

LATE_POLICIES_S = 30.0
MAX_BLOCKS = 1024
PROBES = frozenset({"/healthz", "/health", "/readyz"})
OWN = frozenset(name for name, _ in (*SECURITY, HSTS))

log = structlog.get_logger(__name__)


class ProxyApp:
    """ASGI 3 application of the proxy plane."""

    def __init__(self, services: ProxyServices) -> None:
        self._services = services
        self._blocks: dict[tuple[tuple[bytes, bytes], ...], bytes] = {}
        self._late_running = 0
        self._settled: trio.Event | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await lifespan(scope, receive, send)
            return
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        if path in PROBES and scope["method"] in ("GET", "HEAD"):
            answer = self._probe(path)
            self._services.observer.probed(scope["method"], path, answer[0])
            await self._respond(scope, send, *answer, routed=False)
            return
        if scope["method"] == "OPTIONS":
            preflight = await cross_origin.preflight(path, scope["headers"], self._services)
            if preflight is not None:
                await self._respond(scope, send, preflight.status, wire_headers(preflight.headers), b"")
                return
        body = await read_body(scope, receive)
        client = scope.get("client")
        exchange = Exchange(
            scope["method"], path, scope["query_string"], scope["headers"], body, client[0] if client else ""
        )
        if trusted := self._services.config.trusted_proxies:
            exchange.client_ip = client_address(exchange.peer_ip, forwarded_for(exchange.headers), trusted)
        secure = scope.get("scheme") == "https"
        try:
            reply = await self._answer(exchange)
            exchange.reply_status, exchange.reply_headers = reply.status, reply.headers
            fast = (scope.get("extensions") or {}).get("trustgate")
            usual = exchange.run is None and exchange.trace_id and exchange.session_id and not secure
            plain = not exchange.session_supplied and b"origin" not in exchange.header_map
            if fast is not None and usual and plain:
                headers, block = [], self._block(exchange, reply)
            else:
                headers, block = self._headers(exchange, reply, secure), SECURITY_BLOCK
            if reply.stream is not None:
                await self._stream(exchange, reply, headers, block, fast, send)
            else:
                exchange.reply_body = reply.body
                exchange.first_byte_at = perf_counter()
                if fast is not None:
                    await fast["respond"](reply.status, headers, reply.body, block)
                else:
                    await self._respond(scope, send, reply.status, headers, reply.body)
        except BaseException:  # the client left, or the server goes down
            exchange.aborted = True
            raise
        finally:
            self._conclude(exchange)
            current_trace.set(...)

    async def _answer(self, exchange: Exchange) -> Reply:
        """The pipeline's reply, whatever happens in it."""
        try:
            return await pipeline.run(exchange, self._services)
        except Refusal as refusal:
            exchange.error_code, exchange.error_message = refusal.code, refusal.message
            return Reply(status=refusal.status, headers=[JSON], body=error_body(refusal.code, refusal.message))
        except TooLarge:
            text = (b"content-type", b"text/plain; charset=utf-8")
            return Reply(status=413, headers=[text], body=b"Request Entity Too Large")
        except Exception:  # anything unexpected below the pipeline (spec 02 §11 step 3)
            log.exception("request failed unexpectedly", path=exchange.path, trace_id=exchange.trace_id)
            return Reply(status=500, headers=[JSON], body=b'{"error":"Internal server error"}')

    def _headers(self, exchange: Exchange, reply: Reply, secure: bool) -> HeaderList:
        """Every header of the answer but the security block."""
        headers = [pair for pair in reply.headers if pair[0] not in OWN] if exchange.run else list(reply.headers)
        if exchange.session_id:
            headers.append((b"x-session-id", header_value(exchange.session_id)))
        if exchange.trace_id:
            headers.append((b"x-ag-trace-id", exchange.trace_id.encode()))
        if exchange.view is not None:
            headers.append((b"x-ag-config-version", b"%d" % exchange.view.version))
        if secure:
            headers.append(HSTS)
        if b"origin" in exchange.header_map:
            headers += wire_headers(cross_origin.answer_headers(exchange, self._services))
        return headers

    def _block(self, exchange: Exchange, reply: Reply) -> HeaderBlock:
        """The whole header block of an answer without policies, in the usual case: most of it is spelled only once."""
        key = tuple(reply.headers)
        lines = self._blocks.get(key)
        if lines is None:
            if len(self._blocks) >= MAX_BLOCKS:  # models are named by clients
                self._blocks.clear()
            lines = self._blocks[key] = header_lines(reply.headers) + SECURITY_BLOCK.lines
        version = exchange.view.version if exchange.view is not None else 0
        own = f"X-Session-Id: {exchange.session_id}\r\nX-Ag-Trace-Id: {exchange.trace_id}\r\n"
        return HeaderBlock(lines + f"{own}X-Ag-Config-Version: {version}\r\n".encode())

    async def _respond(
        self, scope: Scope, send: Send, status: int, headers: HeaderList, body: bytes, *, routed: bool = True
    ) -> None:
        """A whole answer: one write where the server offers it. Probes are not `routed` and carry no more headers."""
        fast = (scope.get("extensions") or {}).get("trustgate")
        if fast is not None:
            await fast["respond"](status, headers, body, SECURITY_BLOCK if routed else None)
            return
        sized = [*headers, *(SECURITY if routed else ()), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": sized})
        await send({"type": "http.response.body", "body": body})

    async def _stream(
        self,
        exchange: Exchange,
        reply: Reply,
        headers: HeaderList,
        block: HeaderBlock,
        fast: dict[str, Any] | None,
        send: Send,
    ) -> None:
        assert reply.stream is not None
        started = False

        async def write(data: bytes) -> None:
            nonlocal started
            if not started:
                started = True
                exchange.first_byte_at = perf_counter()
            await send({"type": "http.response.body", "body": data, "more_body": True})

        if fast is not None:
            fast["start"](reply.status, headers, block)
        else:
            await send({"type": "http.response.start", "status": reply.status, "headers": headers + SECURITY})
        rest = await reply.stream(write)
        if not started:
            exchange.first_byte_at = perf_counter()
        await send({"type": "http.response.body", "body": rest, "more_body": False})

    def _conclude(self, exchange: Exchange) -> None:
        """Hand the exchange to late policies and telemetry; nothing here waits."""
        exchange.ended_at = perf_counter()
        observer = self._services.observer
        if exchange.principal is None:
            observer.refused(exchange)
        elif exchange.run is not None:
            self._late_running += 1
            self._services.background.start_soon(self._late, exchange)
        else:
            self._save_session(exchange)
            observer.finished(exchange)

    async def _late(self, exchange: Exchange) -> None:
        """Late policies, at most 30 s, then the event."""
        try:
            try:
                with trio.move_on_after(LATE_POLICIES_S):
                    await after_answer(exchange)
            finally:
                self._save_session(exchange)
                self._services.observer.finished(exchange)
        except Exception:  # what fails after the answer reaches nobody but the log
            log.exception("late policies failed", trace_id=exchange.trace_id)
        finally:
            self._late_running -= 1
            if not self._late_running and self._settled is not None:
                self._settled.set()

    async def settle(self) -> None:
        """Wait until the late policies of all answered requests are over, so that their events are not lost."""
        if self._late_running:
            self._settled = trio.Event()
            await self._settled.wait()

    def _save_session(self, exchange: Exchange) -> None:
        """Keep the last turn after a 2xx that has a response id (spec 02 §5)."""
        turn, view, consumer = exchange.turn_id, exchange.view, exchange.consumer
        if not turn or not exchange.answered or not exchange.session_id or view is None or consumer is None:
            return
        if not turn.startswith("resp_") and not exchange.session_supplied:
            return
        provider = exchange.attempts[-1].provider if exchange.attempts else ""
        sessions = self._services.sessions
        self._services.background.start_soon(
            lambda: sessions.save(
                view.id,
                consumer.id,
                exchange.session_id,
                turn_id=turn,
                provider=provider,
                model=exchange.provider_model or exchange.sent_model,
            )
        )

    def _probe(self, path: str) -> tuple[int, HeaderList, bytes]:
        """`/healthz` and `/readyz` (spec 02 §1.1, spec 06 §5.1): no security headers here."""
        now = datetime.now().astimezone().isoformat(timespec="seconds").replace("+00:00", "Z")
        version = self._services.config.version
        if path != "/readyz":
            return 200, [JSON], msgspec.json.encode({"status": "healthy", "time": now, "version": version})
        readiness = self._services.readiness
        dependencies, configuration = readiness.now(), readiness.configuration()
        # Traffic fails open without Redis, and goes on from the last view without the store; a missing snapshot it is
        # not.
        ready = not readiness.draining and dependencies.get("snapshot", "ok") == "ok"
        answer = {
            **({} if configuration is None else {"config": configuration}),
            "dependencies": dependencies,
            "status": "ready" if ready else "not_ready",
            "time": now,
            "version": version,
        }
        return (200 if ready else 503), [JSON], msgspec.json.encode(answer)
