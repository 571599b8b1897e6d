"""From finished requests of the MCP plane to the process's metrics."""

from __future__ import annotations

from trustgate.mcp.exchange import CallFacts, Exchange
from trustgate.telemetry.instruments import OTHER
from trustgate.telemetry.metrics import Metrics, outcome_of

METHODS = frozenset(
    {
        "initialize",
        "ping",
        "tools/list",
        "tools/call",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "prompts/list",
        "prompts/get",
        "logging/setLevel",
        "completion/complete",
    }
)
OUTCOMES = {
    0: "allowed",
    -32001: "denied_policy",
    -32002: "client_error",
    -32003: "client_error",
    -32004: "denied_throttled",
    -32600: "client_error",
    -32601: "client_error",
    -32602: "client_error",
    -32700: "client_error",
}
"""What JSON-RPC codes mean, since they ride on HTTP 200 (spec 06 §8); all others are the server's."""


class McpMeter:
    """Counts each request once. Owned by the event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def finished(self, exchange: Exchange) -> None:
        metrics, facts = self._metrics, exchange.facts
        status = exchange.reply.status if exchange.reply is not None else 499
        outcome = outcome_of(status)
        if facts is not None:
            outcome = OUTCOMES.get(facts.rpc_error_code, "server_error") if status < 400 else outcome
            self._call(exchange, facts, outcome)
        metrics.http("mcp", route_of(exchange.path), template_of(exchange.path), exchange.method, status,
                     exchange.ended_at - exchange.started_at, outcome)  # fmt: skip

    def probed(self, method: str, path: str, status: int) -> None:
        self._metrics.http("mcp", "health", path, method, status, 0.0)

    def _call(self, exchange: Exchange, facts: CallFacts, outcome: str) -> None:
        metrics = self._metrics
        gateway = consumer = "unknown"
        if exchange.caller is not None:
            gateway = exchange.caller.view.identity.slug
        if exchange.runtime is not None:
            consumer = exchange.runtime.consumer.slug
        method = facts.method if facts.method in METHODS else OTHER
        metrics.mcp_requests.of(gateway, consumer, method, outcome).value += 1
        metrics.mcp_duration.of(method).observe(exchange.ended_at - exchange.started_at)
        if facts.registry_id:  # an upstream was asked
            metrics.mcp_upstream.of(gateway, facts.server_name or facts.registry_id, outcome).value += 1


def route_of(path: str) -> str:
    """`mcp.oauth` for sign-in and connect pages, else `mcp.rpc`."""
    lowered = path.lower()
    oauth = lowered.startswith(("/oauth/", "/.well-known/")) or lowered.rstrip("/").endswith("/connect")
    return "mcp.oauth" if oauth else "mcp.rpc"


def template_of(path: str) -> str:
    if route_of(path) == "mcp.rpc":
        return "/{consumer}/mcp"
    return "/{consumer}/connect" if path.rstrip("/").lower().endswith("/connect") else "/oauth"
