"""What becomes of a finished MCP request: its access log line and its record (spec 05 §15, spec 06 §9)."""

from __future__ import annotations

from functools import partial

from trustgate.app.mcp_meter import McpMeter
from trustgate.app.observer import PLAYGROUND_HEADER, EventObserver
from trustgate.mcp.app import JSON, common_headers
from trustgate.mcp.errors import HeaderList
from trustgate.mcp.exchange import Exchange, Reply
from trustgate.telemetry.event import Facts, Mcp
from trustgate.telemetry.logs import access_log
from trustgate.telemetry.metrics import Metrics


class McpObserver:
    """The observer of the MCP plane. `policies`: whether records tell what each policy did."""

    def __init__(self, events: EventObserver, metrics: Metrics, *, policies: bool) -> None:
        self._events = events
        self._policies = policies
        self._meter = McpMeter(metrics)
        self._access = access_log()

    def finished(self, exchange: Exchange) -> None:
        self._meter.finished(exchange)
        if self._access.enabled:
            self._log(exchange)
        caller = exchange.caller
        if exchange.facts is None or caller is None:
            return
        size = len(exchange.body) + (len(exchange.reply.body) if exchange.reply is not None else 0)
        facts = partial(facts_of, exchange, policies=self._policies)
        playground = bool(exchange.header_map.get(PLAYGROUND_HEADER))
        self._events.record(caller.view, facts, size, playground=playground)

    def probed(self, method: str, path: str, status: int) -> None:
        self._meter.probed(method, path, status)

    def _log(self, exchange: Exchange) -> None:
        reply = exchange.reply
        self._access.record(
            status=reply.status if reply is not None else 0,
            method=exchange.method,
            path=exchange.path,
            duration_ns=round((exchange.ended_at - exchange.started_at) * 1e9),
            request_id=exchange.request_id,
            ip=exchange.client_ip,
            bytes_out=bytes_of(reply) if reply is not None else 0,
            trace_id=exchange.trace_id,
        )


def bytes_of(reply: Reply) -> int:
    """What the access log says of an answer's size: -1 of streams."""
    for name, value in reply.headers:
        if name == b"content-type" and value.startswith(b"text/event-stream"):
            return -1
        if name == b"content-length":
            return int(value)
    return len(reply.body)


def typed(headers: HeaderList) -> HeaderList:
    """An answer is JSON where nothing else is said."""
    return headers if any(name == b"content-type" for name, _ in headers) else [*headers, JSON]


def facts_of(exchange: Exchange, *, policies: bool) -> Facts:
    """Everything the record of a dispatched call is made of; called after the answer, by another thread."""
    caller, runtime, reply, call = exchange.caller, exchange.runtime, exchange.reply, exchange.facts
    assert caller is not None and runtime is not None and call is not None, "only dispatched calls have records"
    view, consumer = caller.view, runtime.consumer
    marks = [mark for mark in exchange.run.marks if mark.telling] if exchange.run is not None else []
    return Facts(
        kind="mcp",
        trace_id=exchange.trace_id,
        gateway_id=view.id,
        tenant_id=view.identity.tenant_id,
        started_unix=exchange.started_unix,
        total_ms=round((exchange.ended_at - exchange.started_at) * 1000),
        consumer_id=consumer.id,
        consumer_name=consumer.name,
        ip=exchange.client_ip,
        status=reply.status if reply is not None else 0,
        method=exchange.method,
        path=exchange.path,
        request_headers=exchange.headers,
        response_headers=[*typed(reply.headers), *common_headers(exchange)] if reply is not None else (),
        request_body=exchange.body,
        response_body=reply.body if reply is not None else b"",
        policies=marks,
        show_policies=policies,
        provider_ms=call.upstream_latency_ms or exchange.dispatch_ms,
        mcp=Mcp(
            method=call.method,
            operation=call.operation,
            server_name=call.server_name,
            registry_id=call.registry_id,
            host=call.host,
            catalog_code=call.catalog_code,
            transport=call.transport,
            tool=call.tool,
            upstream_tool=call.upstream_tool,
            prompt=call.prompt,
            resource_uri=call.resource_uri,
            targets=exchange.targets,
            upstream_status=call.upstream_status,
            upstream_latency_ms=call.upstream_latency_ms,
            rpc_error_code=call.rpc_error_code,
        ),
        config_version=view.version,
        aborted=exchange.aborted,
    )
