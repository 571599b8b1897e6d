"""The OpenTelemetry instruments of spec 06 §8, as a collector receives them."""

from __future__ import annotations

import contextlib
import json
import pathlib
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.e2e.installation import Demo, installed
from tests.e2e.upstream import FaultyUpstream
from tests.telemetry.receivers import Received, attributes, grpc_receiver, http_receiver
from trustgate.app.otel_push import target_of
from trustgate.settings import Settings
from trustgate.telemetry.metrics import HTTP_BUCKETS, Metrics

RECEIVERS = {"grpc": grpc_receiver, "http/protobuf": http_receiver}


def pushed(metrics: Metrics, protocol: str) -> tuple[Received, dict[str, Any]]:
    """What a collector has of one push, by instrument name."""
    from trustgate.telemetry.exporters.otlp import Target
    from trustgate.telemetry.exporters.otlp_metrics import MetricsSink, metrics_data

    with RECEIVERS[protocol]() as received:
        sink = MetricsSink(Target(protocol=protocol, url=received.endpoint, insecure=True))
        sink.push(metrics_data(metrics.snapshot(), 1_000, 2_000))
        return received, by_name(received)


def by_name(received: Received) -> dict[str, Any]:
    (resource,) = received.metrics[-1]
    return {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}


@pytest.mark.parametrize("protocol", RECEIVERS)
def test_the_documented_instruments_have_their_names_units_and_attributes(protocol: str) -> None:
    metrics = Metrics("1.0", ops=True)
    metrics.http("proxy", "proxy.forward", "/{consumer}/v1/chat/completions", "POST", 403, 0.03, "denied_policy")
    metrics.http("admin", "admin.gateways", "/v1/gateways", "TRACE", 204, 20.0)
    metrics.count("trustgate_ratelimit_fail_open_total", {"reason": "burst_incr"})
    metrics.count("trustguard_evaluate_failures_total", {"reason": "transport"})
    received, found = pushed(metrics, protocol)
    (resource,) = received.metrics[-1]
    assert attributes(resource.resource) == {"service.name": "trustgate"}
    assert sorted(found) == [
        "agentgateway.request.outcome_total",
        "http.server.request.duration",
        "trustgate.ratelimit.fail_open",
        "trustguard_evaluate_failures_total",
    ]
    duration = found["http.server.request.duration"]
    assert duration.unit == "s"
    assert duration.histogram.aggregation_temporality == 2  # cumulative
    first, second = duration.histogram.data_points
    assert attributes(first) == {
        "http.request.method": "POST",
        "http.route": "/{consumer}/v1/chat/completions",
        "http.response.status_class": "4xx",
    }
    assert attributes(second)["http.request.method"] == "OTHER"
    assert tuple(first.explicit_bounds) == HTTP_BUCKETS
    assert (first.count, first.sum, list(first.bucket_counts)) == (1, 0.03, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    assert list(second.bucket_counts)[-1] == 1
    assert (first.start_time_unix_nano, first.time_unix_nano, len(first.exemplars)) == (1_000, 2_000, 0)
    outcomes = found["agentgateway.request.outcome_total"]
    assert outcomes.unit == "{request}"
    assert outcomes.sum.is_monotonic
    assert [(attributes(point), point.as_int) for point in outcomes.sum.data_points] == [
        ({"plane": "proxy", "route": "proxy.forward", "outcome": "denied_policy"}, 1),
        ({"plane": "admin", "route": "admin.gateways", "outcome": "allowed"}, 1),
    ]
    assert attributes(found["trustgate.ratelimit.fail_open"].sum.data_points[0]) == {"reason": "burst_incr"}
    assert attributes(found["trustguard_evaluate_failures_total"].sum.data_points[0]) == {"reason": "transport"}


def test_a_collector_that_is_away_is_an_error() -> None:
    from trustgate.telemetry.exporters.otlp import Target
    from trustgate.telemetry.exporters.otlp_metrics import MetricsSink, metrics_data

    metrics = Metrics("1.0", ops=True)
    metrics.http("admin", "health", "/healthz", "GET", 200, 0.0)
    sink = MetricsSink(Target(protocol="http/protobuf", url="http://127.0.0.1:1", insecure=True, timeout_s=0.2))
    with pytest.raises(ConnectionError, match="did not take the metrics"):
        sink.push(metrics_data(metrics.snapshot(), 1, 2))


OPS = {"OPS_METRICS_ENABLED": "true"}


@pytest.mark.parametrize(
    ("variables", "protocol", "url"),
    [
        ({}, "", ""),
        (OPS, "", ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "", ""),
        (OPS | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http/protobuf", "http://c:4318"),
        (OPS | {"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317"}, "grpc", "c:4317"),
        (OPS | {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m/x"}, "http/protobuf", "http://m/x"),
        (OPS | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "none"}, "", ""),
    ],
)
def test_instruments_are_pushed_where_operators_metrics_are_on_and_a_collector_is_known(
    variables: dict[str, str], protocol: str, url: str
) -> None:
    found = target_of(Settings.load(variables))
    assert (found.protocol, found.url) == (protocol, url) if found is not None else not protocol


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_running_installation_pushes_what_it_counted_also_when_it_ends(tmp_path: pathlib.Path, workers: str) -> None:
    with http_receiver() as received, contextlib.closing(FaultyUpstream()) as upstream:
        variables = {
            "TRUSTGATE_WORKERS": workers,
            "OPS_METRICS_ENABLED": "true",
            "OPS_METRICS_PORT": "0",
            "METRICS_ENABLED": "false",
            "OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint + "/v1/logs",
            "OTEL_METRIC_EXPORT_INTERVAL": "1h",
        }
        with installed(tmp_path, "run", **variables) as running:
            demo = Demo(running)
            demo.registry("good", upstream.url("ok"))
            demo.open()
            for _ in range(7):
                body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
                headers = demo.headers | {"Content-Type": "application/json"}
                call = urllib.request.Request(f"{demo.url}/v1/chat/completions", body, headers)
                with urllib.request.urlopen(call, timeout=30) as answer:
                    assert answer.status == 200
            assert received.metrics == []
            assert running.stop() == [0]
        points = by_name(received)["agentgateway.request.outcome_total"].sum.data_points
        told = {tuple(attributes(point).values()): point.as_int for point in points}
        assert told["proxy", "proxy.forward", "allowed"] == 7
