# ruff: noqa: E501 - queries are read better on one line
"""Writes the Grafana dashboards of this folder: `python ops/grafana/make.py`.

A dashboard is a list of rows of panels, each a title, a unit and queries; everything else is the same for all.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

HERE = pathlib.Path(__file__).parent / "dashboards"
SOURCE = {"type": "prometheus", "uid": "${source}"}
RATE = "[$__rate_interval]"

Query = tuple[str, str]
Panel = tuple[str, str, list[Query]]


def quantile(q: float, metric: str, by: str, where: str = "") -> str:
    return f"histogram_quantile({q}, sum by (le, {by}) (rate({metric}_bucket{{{where}}}{RATE})))"


GATEWAY = 'gateway=~"$gateway"'
DASHBOARDS: dict[str, tuple[str, list[tuple[str, list[Panel]]]]] = {
    "traffic": (
        "TrustGate: traffic",
        [
            ("Requests", [
                ("Requests by status", "reqps", [(f"sum by (status) (rate(trustgate_requests_total{{{GATEWAY}}}{RATE}))", "{{status}}")]),
                ("Busiest consumers", "reqps", [(f"topk(10, sum by (consumer) (rate(trustgate_requests_total{{{GATEWAY}}}{RATE})))", "{{consumer}}")]),
                ("Share of 5xx", "percentunit", [(f'sum(rate(trustgate_requests_total{{{GATEWAY},status=~"5.."}}{RATE})) / sum(rate(trustgate_requests_total{{{GATEWAY}}}{RATE}))', "5xx")]),
            ]),
            ("Time", [
                ("Duration", "s", [(quantile(q, "trustgate_request_duration_seconds", "route", GATEWAY), f"p{int(q * 100)} {{{{route}}}}") for q in (0.5, 0.95, 0.99)]),
                ("Time to first token", "s", [(quantile(q, "trustgate_time_to_first_token_seconds", "route", GATEWAY), f"p{int(q * 100)} {{{{route}}}}") for q in (0.5, 0.95)]),
                ("Upstream calls", "s", [(quantile(0.95, "trustgate_upstream_duration_seconds", "provider"), "p95 {{provider}}")]),
            ]),
            ("Use", [
                ("Tokens", "short", [(f"sum by (kind) (rate(trustgate_tokens_total{{{GATEWAY}}}{RATE}))", "{{kind}}")]),
                ("Cost, US dollars an hour", "currencyUSD", [(f"sum by (consumer) (rate(trustgate_cost_usd_total{{{GATEWAY}}}{RATE})) * 3600", "{{consumer}}")]),
                ("Semantic cache", "reqps", [
                    (f"sum by (result) (rate(trustgate_semantic_cache_total{RATE}))", "{{result}}"),
                    (f"sum by (store, reason) (rate(trustgate_semantic_cache_degraded_total{RATE}))", "{{store}} {{reason}}"),
                ]),
            ]),
        ],
    ),
    "upstreams": (
        "TrustGate: upstreams and policies",
        [
            ("Upstreams", [
                ("Calls by outcome", "reqps", [(f"sum by (registry, outcome) (rate(trustgate_upstream_attempts_total{{{GATEWAY}}}{RATE}))", "{{registry}} {{outcome}}")]),
                ("Retries and fallbacks", "reqps", [
                    (f"sum by (registry) (rate(trustgate_upstream_retries_total{{{GATEWAY}}}{RATE}))", "retry {{registry}}"),
                    (f"sum by (registry) (rate(trustgate_fallbacks_total{{{GATEWAY}}}{RATE}))", "fallback {{registry}}"),
                ]),
                ("Avoided registries", "short", [(f"max by (gateway, registry) (trustgate_registry_unhealthy{{{GATEWAY}}})", "{{gateway}} {{registry}}")]),
            ]),
            ("Connections", [
                ("Upstream connections", "short", [("sum by (state) (trustgate_upstream_connections)", "{{state}}"), ("sum(trustgate_upstream_waiting)", "waiting")]),
                ("How they were had", "ops", [(f"sum by (how) (rate(trustgate_upstream_connections_total{RATE}))", "{{how}}")]),
                ("Client connections", "short", [("sum by (state) (trustgate_proxy_connections)", "proxy {{state}}"), ("sum by (state) (trustgate_mcp_connections)", "mcp {{state}}")]),
            ]),
            ("Policies", [
                ("Verdicts", "reqps", [(f"sum by (policy, verdict) (rate(trustgate_policy_runs_total{RATE}))", "{{policy}} {{verdict}}")]),
                ("Time", "s", [(quantile(0.95, "trustgate_policy_duration_seconds", "policy"), "p95 {{policy}}")]),
                ("Plan limits", "reqps", [
                    (f"sum by (gateway, reason) (rate(trustgate_plan_limit_rejections_total{{{GATEWAY}}}{RATE}))", "{{gateway}} {{reason}}"),
                    (f"sum by (reason) (rate(trustgate_ratelimit_fail_open_total{RATE}))", "not counted: {{reason}}"),
                ]),
            ]),
        ],
    ),
    "platform": (
        "TrustGate: MCP and the platform",
        [
            ("MCP", [
                ("Requests by outcome", "reqps", [(f"sum by (method, outcome) (rate(trustgate_mcp_requests_total{{{GATEWAY}}}{RATE}))", "{{method}} {{outcome}}")]),
                ("Duration", "s", [(quantile(0.95, "trustgate_mcp_request_duration_seconds", "method"), "p95 {{method}}")]),
                ("Upstream servers", "reqps", [(f"sum by (registry, outcome) (rate(trustgate_mcp_upstream_requests_total{{{GATEWAY}}}{RATE}))", "{{registry}} {{outcome}}")]),
            ]),
            ("Configuration", [
                ("Events behind", "short", [("max by (instance) (trustgate_config_lag_events)", "{{instance}}")]),
                ("Store silent", "s", [("max by (instance) (trustgate_store_silent_seconds)", "{{instance}}")]),
                ("Actor restarts", "ops", [(f"sum by (actor) (rate(trustgate_actor_restarts_total{RATE}))", "{{actor}}")]),
            ]),
            ("Telemetry", [
                ("Records", "ops", [(f"sum by (result) (rate(trustgate_telemetry_records_total{RATE}))", "{{result}}"), (f"sum by (exporter, result) (rate(trustgate_exporter_records_total{RATE}))", "{{exporter}} {{result}}")]),
                ("Waiting", "short", [("sum by (type, exporter) (trustgate_telemetry_queue)", "{{type}} {{exporter}}")]),
                ("Exporters reached", "short", [("min by (type, exporter) (trustgate_exporter_up)", "{{type}} {{exporter}}")]),
            ]),
        ],
    ),
}  # fmt: skip


def panel(number: int, at: tuple[int, int], made: Panel) -> dict[str, Any]:
    title, unit, queries = made
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"x": at[0] * 8, "y": at[1], "w": 8, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 8}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(65 + n), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for n, (query, legend) in enumerate(queries)
        ],
    }


def dashboard(name: str, title: str, rows: list[tuple[str, list[Panel]]]) -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for row, made in rows:
        panels.append({"id": len(panels) + 1, "type": "row", "title": row, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})  # fmt: skip
        panels += [panel(len(panels) + 1 + n, (n, y + 1), one) for n, one in enumerate(made)]
        y += 9
    every = {"query": "label_values(trustgate_requests_total, gateway)", "refId": "gateway"}
    variables = [
        {"name": "source", "type": "datasource", "query": "prometheus", "label": "Data source"},
        {"name": "gateway", "type": "query", "datasource": SOURCE, "query": every, "definition": every["query"],
         "includeAll": True, "multi": True, "allValue": ".*", "refresh": 2, "current": {"text": "All", "value": "$__all"}},
    ]  # fmt: skip
    return {
        "uid": f"trustgate-{name}",
        "title": title,
        "tags": ["trustgate"],
        "schemaVersion": 39,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": variables},
        "panels": panels,
    }


def main() -> None:
    HERE.mkdir(exist_ok=True)
    for name, (title, rows) in DASHBOARDS.items():
        text = json.dumps(dashboard(name, title, rows), indent=1) + "\n"
        (HERE / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
