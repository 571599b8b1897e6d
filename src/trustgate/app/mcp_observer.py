"""From finished MCP requests to their access log line (and, once exporters want it, their event)."""

from __future__ import annotations

from trustgate.app.observer import EventObserver
from trustgate.mcp.exchange import Exchange
from trustgate.telemetry.logs import access_log


class McpObserver:
    """The observer of the MCP plane."""

    def __init__(self, events: EventObserver) -> None:
        self._events = events
        self._access = access_log()

    def finished(self, exchange: Exchange) -> None:
        if not self._access.enabled:
            return
        reply = exchange.reply
        self._access.record(
            status=reply.status if reply is not None else 0,
            method=exchange.method,
            path=exchange.path,
            duration_ns=round((exchange.ended_at - exchange.started_at) * 1e9),
            request_id=exchange.request_id,
            ip=exchange.client_ip,
            bytes_out=len(reply.body) if reply is not None else 0,
        )
