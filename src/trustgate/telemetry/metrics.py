"""The metrics of a process, by name: what each counts, with which labels, and on which plane's port it is shown.

What lives here: the table, and the closed sets of label values. What must not: how numbers are kept (`instruments`), or
who tells them (`app.meter`, the planes). Names under `http_`, `agentgateway_`, `trustguard_` and
`trustgate_ratelimit_` are those that dashboards of the existing system know (spec 06 §8).
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from typing import TypeVar

from trustgate.telemetry.instruments import OTHER, Counter, Family, Gauge, Histogram, Instrument

_T = TypeVar("_T", bound=Instrument)

HTTP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
POLICY_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1, 5)

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"})
STATUSES = {number: str(number) for number in range(100, 600)}
CLASSES = {1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}


def method_label(method: str) -> str:
    return method if method in METHODS else "OTHER"


def status_label(status: int) -> str:
    return STATUSES.get(status, OTHER)


def class_label(status: int) -> str:
    """`2xx` to `5xx`, else `other` (spec 06 §8)."""
    return CLASSES[status // 100] if 200 <= status < 600 else OTHER


def outcome_of(status: int) -> str:
    """The outcome that a status means where nothing better is known (spec 06 §8)."""
    if status == 401:
        return "denied_auth"
    if status == 403:
        return "denied_forbidden"
    if status == 429:
        return "denied_throttled"
    if status >= 500:
        return "server_error"
    return "client_error" if status >= 400 else "allowed"


class Metrics:
    """Every metric of this process. Owned by the event loop; `snapshot` is taken between two of its steps."""

    def __init__(self, version: str, *, ops: bool = False) -> None:
        self.ops = ops
        """Whether the two HTTP metrics of spec 06 §8 are recorded (`OPS_METRICS_ENABLED`)."""
        self._all: list[Instrument] = []
        add = self.add
        self.http_duration = add(
            Histogram(
                "http_server_request_duration_seconds",
                "Time to answer an HTTP request.",
                ("http_request_method", "http_route", "http_response_status_class"),
                HTTP_BUCKETS,
            )
        )
        self.outcomes = add(
            Counter(
                "agentgateway_request_outcome_total",
                "HTTP requests by what became of them.",
                ("plane", "route", "outcome"),
            )
        )
        self.fail_open = add(
            Counter(
                "trustgate_ratelimit_fail_open_total",
                "Requests that passed because the plan limit could not be counted.",
                ("reason",),
            )
        )
        self.trustguard_failures = add(
            Counter("trustguard_evaluate_failures_total", "TrustGuard evaluations that failed.", ("reason",))
        )
        self.requests = add(
            Counter(
                "trustgate_requests_total",
                "Requests to consumers, by the status the client got; a client that left early counts as 499.",
                ("gateway", "consumer", "route", "status"),
                plane="proxy",
            )
        )
        self.duration = add(
            Histogram(
                "trustgate_request_duration_seconds",
                "Time from the request to the end of its answer.",
                ("gateway", "consumer", "route"),
                LATENCY_BUCKETS,
                plane="proxy",
            )
        )
        self.first_token = add(
            Histogram(
                "trustgate_time_to_first_token_seconds",
                "Time from the request to the first bytes of a streamed answer.",
                ("gateway", "consumer", "route"),
                LATENCY_BUCKETS,
                plane="proxy",
            )
        )
        self.attempts = add(
            Counter(
                "trustgate_upstream_attempts_total",
                "Calls of upstreams, by outcome.",
                ("gateway", "registry", "provider", "outcome"),
                plane="proxy",
            )
        )
        self.attempt_duration = add(
            Histogram(
                "trustgate_upstream_duration_seconds",
                "Time of one upstream call; of a stream, until its end.",
                ("provider", "outcome"),
                LATENCY_BUCKETS,
                plane="proxy",
            )
        )
        self.retries = add(
            Counter(
                "trustgate_upstream_retries_total",
                "Upstream calls that repeated a call to the same registry.",
                ("gateway", "registry"),
                plane="proxy",
            )
        )
        self.fallbacks = add(
            Counter(
                "trustgate_fallbacks_total",
                "Upstream calls to a registry of the fallback chain.",
                ("gateway", "registry"),
                plane="proxy",
            )
        )
        self.tokens = add(
            Counter(
                "trustgate_tokens_total",
                "Tokens as upstreams counted them; cached and reasoning tokens are parts of input and output.",
                ("gateway", "consumer", "kind"),
                plane="proxy",
            )
        )
        self.cost = add(
            Counter(
                "trustgate_cost_usd_total",
                "Cost of answers in US dollars, by the catalog's prices.",
                ("gateway", "consumer"),
                plane="proxy",
            )
        )
        self.policies = add(
            Counter(
                "trustgate_policy_runs_total",
                "Runs of policies, by verdict.",
                ("policy", "stage", "verdict"),
            )
        )
        self.policy_duration = add(
            Histogram("trustgate_policy_duration_seconds", "Time of one policy run.", ("policy",), POLICY_BUCKETS)
        )
        self.cache = add(
            Counter(
                "trustgate_semantic_cache_total",
                "Requests that asked the semantic cache.",
                ("result",),
                plane="proxy",
            )
        )
        self.cache_degraded = add(
            Counter(
                "trustgate_semantic_cache_degraded_total",
                "Times the semantic cache went without its store or an embedding.",
                ("store", "reason"),
                plane="proxy",
            )
        )
        self.plan_rejections = add(
            Counter(
                "trustgate_plan_limit_rejections_total",
                "Requests over a gateway's plan.",
                ("gateway", "reason"),
            )
        )
        self.mcp_requests = add(
            Counter(
                "trustgate_mcp_requests_total",
                "JSON-RPC requests of MCP clients, by outcome.",
                ("gateway", "consumer", "method", "outcome"),
                plane="mcp",
            )
        )
        self.mcp_duration = add(
            Histogram(
                "trustgate_mcp_request_duration_seconds",
                "Time to answer a JSON-RPC request.",
                ("method",),
                LATENCY_BUCKETS,
                plane="mcp",
            )
        )
        self.mcp_upstream = add(
            Counter(
                "trustgate_mcp_upstream_requests_total",
                "Requests to upstream MCP servers, by outcome.",
                ("gateway", "registry", "outcome"),
                plane="mcp",
            )
        )
        told = (self.fail_open, self.trustguard_failures, self.cache_degraded)
        self._told_by_name = {counter.name: counter for counter in told}
        started = time.time()
        add(
            Gauge(
                "trustgate_build_info",
                "Always 1; the labels tell what runs.",
                lambda: [((version, platform.python_version()), 1.0)],
                ("version", "python"),
                highest=True,
            )
        )
        add(
            Gauge(
                "trustgate_start_time_seconds",
                "When the process started, in seconds since the epoch.",
                lambda: [((), started)],
                highest=True,
            )
        )

    def add(self, instrument: _T) -> _T:
        """Make an instrument part of what is shown."""
        self._all.append(instrument)
        return instrument

    def snapshot(self) -> list[Family]:
        return [instrument.snapshot() for instrument in self._all]

    def count(self, name: str, labels: dict[str, str]) -> None:
        """Add one to a counter by its name: what policies and the pipeline do, who know no instruments."""
        counter = self._told_by_name.get(name)
        if counter is not None:
            counter.of(*(labels[label] for label in counter.labels)).value += 1

    def http(
        self, plane: str, route: str, template: str, method: str, status: int, seconds: float, outcome: str = ""
    ) -> None:
        """One answered HTTP request, by the route table of spec 06 §8; nothing unless `ops`.

        An `outcome` overrides the one that the status means.
        """
        if not self.ops:
            return
        self.http_duration.of(method_label(method), template, class_label(status)).observe(seconds)
        outcome = outcome or ("probe" if route == "health" else outcome_of(status))
        self.outcomes.of(plane, route, outcome).value += 1


def names(families: Sequence[Family]) -> set[str]:
    """Metric names, without the suffixes of histograms."""
    return {family.name for family in families}
