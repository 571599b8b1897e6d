"""The OpenTelemetry instruments of spec 06 §8, pushed to a collector under their documented names.

What is counted is kept once, for Prometheus; this spells snapshots of it the OpenTelemetry way. What must not be here:
when to push (`app.otel_push`). Loaded only where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)

from trustgate.telemetry.exporters.otlp import METRICS_PATH, SOURCE, Target, grpc_arguments, http_arguments, not_taken
from trustgate.telemetry.exporters.otlp_records import RESOURCE, SCHEMA_URL, SCOPE
from trustgate.telemetry.instruments import Family

CUMULATIVE = AggregationTemporality.CUMULATIVE


class Named(Struct, frozen=True):
    """What a metric is called here; `attributes` follow the order of its labels."""

    name: str
    attributes: tuple[str, ...]
    unit: str = ""


INSTRUMENTS = {
    "http_server_request_duration_seconds": Named(
        "http.server.request.duration",
        ("http.request.method", "http.route", "http.response.status_class"),
        "s",
    ),
    "agentgateway_request_outcome_total": Named(
        "agentgateway.request.outcome_total", ("plane", "route", "outcome"), "{request}"
    ),
    "trustgate_ratelimit_fail_open_total": Named("trustgate.ratelimit.fail_open", ("reason",)),
    "trustguard_evaluate_failures_total": Named("trustguard_evaluate_failures_total", ("reason",)),
}


def metrics_data(families: Sequence[Family], started_ns: int, now_ns: int) -> MetricsData:
    """The documented instruments among `families`, as counted since `started_ns`; those without a count are absent."""
    found = [
        Metric(named.name, family.help, named.unit, _data(family, named, started_ns, now_ns))
        for family in families
        if family.series and (named := INSTRUMENTS.get(family.name)) is not None
    ]
    return MetricsData([ResourceMetrics(RESOURCE, [ScopeMetrics(SCOPE, found, "")], SCHEMA_URL)])


def _data(family: Family, named: Named, started_ns: int, now_ns: int) -> Sum | Histogram:
    if family.kind == "histogram":
        points = [
            HistogramDataPoint(
                attributes=dict(zip(named.attributes, series.labels, strict=True)),
                start_time_unix_nano=started_ns,
                time_unix_nano=now_ns,
                count=sum(counts := [int(count) for count in series.values[:-1]]),
                sum=series.values[-1],
                bucket_counts=counts,
                explicit_bounds=family.bounds,
                min=None,  # pyright: ignore[reportArgumentType] # not kept, and optional in the protocol
                max=None,  # pyright: ignore[reportArgumentType]
            )
            for series in family.series
        ]
        return Histogram(points, CUMULATIVE)
    numbers = [
        NumberDataPoint(
            attributes=dict(zip(named.attributes, series.labels, strict=True)),
            start_time_unix_nano=started_ns,
            time_unix_nano=now_ns,
            value=int(series.values[0]),
        )
        for series in family.series
    ]
    return Sum(numbers, CUMULATIVE, is_monotonic=True)


class MetricsSink:
    """One collector."""

    def __init__(self, target: Target) -> None:
        if not target.headers:
            target = replace(target, headers=SOURCE)
        self._timeout_ms = target.timeout_s * 1000
        self._exporter = self._grpc(target) if target.protocol == "grpc" else self._http(target)

    @staticmethod
    def _grpc(target: Target) -> Any:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

        return OTLPMetricExporter(**grpc_arguments(target, None))

    @staticmethod
    def _http(target: Target) -> Any:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        return OTLPMetricExporter(**http_arguments(target, METRICS_PATH, None))

    def push(self, data: MetricsData) -> None:
        """Blocks, at most for the timeout. Raises ConnectionError when the collector did not take it."""
        if self._exporter.export(data, self._timeout_ms).name != "SUCCESS":
            raise not_taken("metrics")
