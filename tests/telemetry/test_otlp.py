"""The OTLP exporter against receivers made of the collector's own protocol, over gRPC and HTTP (spec 06 §11.3)."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.telemetry.receivers import Received, attributes, grpc_receiver, http_receiver
from tests.telemetry.records import attempt, certificate, full_facts, mark, metadata, raw
from trustgate.telemetry.event import Mcp, build, encode, metadata_view
from trustgate.telemetry.exporter_config import ExporterConfig
from trustgate.telemetry.exporters import TYPES, Environment, otlp_target
from trustgate.telemetry.networks import AddressRefused, Fence
from trustgate.telemetry.outlet import Item, Metadata

SCOPE = "github.com/NeuralTrust/TrustGate/pkg/infra/telemetry/otlp"


@pytest.fixture(params=["grpc", "http/protobuf"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Received]:
    with grpc_receiver() if request.param == "grpc" else http_receiver() as received:
        yield received


def protocol(receiver: Received) -> str:
    return "http/protobuf" if receiver.endpoint.startswith("http") else "grpc"


def publish(receiver: Received, items: list[Item], *, confined: bool = False, fence: Fence | None = None, **more: Any):
    settings = {"endpoint": receiver.endpoint, "protocol": protocol(receiver), "insecure": True} | more
    if "tls" in more:
        del settings["insecure"]
    config = ExporterConfig(name="o", type="otlp", raw=False, settings=settings, confined=confined)
    sink = TYPES["otlp"].open(config, Environment(fence=fence or Fence()))
    try:
        return sink.publish(items)
    finally:
        sink.close()


def test_a_metadata_record_is_the_contract_to_the_attribute(receiver: Received) -> None:
    event = metadata_view(build(full_facts()))
    assert publish(receiver, [Metadata(event)], headers={"X-Collector-Key": "k"}) == 0
    (record,), (resource,) = receiver.logs, receiver.resources
    assert receiver.headers[0]["x-collector-key"] == "k"
    assert [(pair.key, pair.value.string_value) for pair in resource.resource.attributes] == [
        ("service.name", "trustgate")
    ]
    assert resource.schema_url == "https://opentelemetry.io/schemas/1.41.0"
    assert (resource.scope_logs[0].scope.name, resource.scope_logs[0].scope.version) == (SCOPE, "")
    assert record.event_name == "trustgate.3.metadata"
    assert (record.severity_number, record.severity_text) == (9, "")
    assert record.body.WhichOneof("value") is None
    assert (record.trace_id, record.span_id) == (b"", b"")
    assert record.time_unix_nano == event.occurred_on * 1_000_000
    assert record.observed_time_unix_nano > record.time_unix_nano
    found = attributes(record)
    chain, tries = json.loads(found.pop("trustgate.policy_chain")), json.loads(found.pop("trustgate.attempts"))
    assert [entry["name"] for entry in chain] == ["rate_limiter", "trustguard"]
    assert chain[0]["extras"] == {"limit": 5, "token": "[REDACTED]"}
    assert [entry["outcome"] for entry in tries] == ["retryable", "success"]
    assert found == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": "/app/v1/chat/completions",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-2024-08-06",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "trustgate.usage.total_tokens": 15,
        "trustgate.usage.cached_input_tokens": 2,
        "trustgate.usage.reasoning_output_tokens": 1,
        "trustgate.schema_version": 3,
        "trustgate.kind": "llm",
        "trustgate.trace_id": event.trace_id,
        "trustgate.gateway_id": "g1",
        "trustgate.tenant_id": "acme",
        "trustgate.consumer.id": "c1",
        "trustgate.consumer.name": "app",
        "trustgate.session_id": "s1",
        "trustgate.turn_id": "t1",
        "trustgate.ip": "10.0.0.9",
        "trustgate.requested_model": "gpt-4o",
        "trustgate.model_label": "GPT-4o",
        "trustgate.status.outcome": "success",
        "trustgate.status.reason": "plugin_rejected",
        "trustgate.cost.total_usd": 4.5e-6,
        "trustgate.cost.prompt_usd": 1.5e-6,
        "trustgate.cost.completion_usd": 3e-6,
        "trustgate.cost.currency": "USD",
        "trustgate.latency.total_ms": 50,
        "trustgate.latency.provider_ms": 40,
        "trustgate.latency.policies_ms": 8,
        "trustgate.latency.gateway_ms": 9,
        "trustgate.is_flagged": True,
        "trustgate.security": ["pii"],
        "trustgate.attempts.count": 2,
    }


def test_what_is_empty_is_absent_and_what_is_required_is_there(receiver: Received) -> None:
    publish(receiver, [metadata(attempts=(), usage=None, cost=None, tenant_id="", status=408)])
    found = attributes(receiver.logs[0])
    assert found["trustgate.status.is_timeout"] is True
    assert (found["trustgate.is_flagged"], found["gen_ai.request.stream"]) == (False, False)
    assert found["trustgate.latency.policies_ms"] == 0
    absent = ("trustgate.tenant_id", "trustgate.attempts", "trustgate.attempts.count", "gen_ai.usage.input_tokens")
    assert not set(absent) & set(found)


def test_severity_follows_the_status(receiver: Received) -> None:
    publish(receiver, [metadata(status=status) for status in (399, 400, 499, 500)])
    assert [record.severity_number for record in receiver.logs] == [9, 13, 13, 17]


def test_mcp_members_and_their_status_are_exported(receiver: Received) -> None:
    mcp = Mcp(
        method="tools/call", operation="tool", tool="search", targets=2, upstream_status=403, rpc_error_code=-32003
    )
    publish(receiver, [metadata(kind="mcp", attempts=(), mcp=mcp, provider_ms=7)])
    found = attributes(receiver.logs[0])
    named = {name: item for name, item in found.items() if name.startswith("trustgate.mcp.")}
    assert named == {
        "trustgate.mcp.method": "tools/call",
        "trustgate.mcp.operation": "tool",
        "trustgate.mcp.tool": "search",
        "trustgate.mcp.targets": 2,
        "trustgate.mcp.upstream_status": 403,
        "trustgate.mcp.rpc_error_code": -32003,
    }
    assert (found["http.response.status_code"], found["trustgate.latency.provider_ms"]) == (403, 7)


def test_a_raw_record_has_the_bodies_and_what_finds_them(receiver: Received) -> None:
    item = raw()
    publish(receiver, [item])
    (record,) = receiver.logs
    assert (record.event_name, record.severity_number) == ("trustgate.3.raw", 0)
    assert attributes(record) == {
        "trustgate.schema_version": 3,
        "trustgate.trace_id": item.view.trace_id,
        "trustgate.gateway_id": "g1",
        "trustgate.tenant_id": "acme",
        "trustgate.request.body": '{"api_key":"[REDACTED]","model":"gpt-4o"}',
        "trustgate.response.body": '{"id":"x"}',
    }


def test_strings_are_cut_to_max_body_bytes(receiver: Received) -> None:
    bodies = [b"x" * 5000, "ü".encode() * 501, b"x" * 1000]
    publish(receiver, [raw(response_body=body, response_headers=[]) for body in bodies], max_body_bytes=1000)
    told = [attributes(log)["trustgate.response.body"] for log in receiver.logs]
    assert told == ["x" * 1000, "ü" * 500, "x" * 1000]


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_compression_is_as_asked(receiver: Received, compression: str) -> None:
    publish(receiver, [metadata()], compression=compression)
    headers = receiver.headers[0]
    if protocol(receiver) == "http/protobuf":
        assert headers.get("content-encoding", "none") == compression
    assert len(receiver.logs) == 1


def test_an_unavailable_collector_is_asked_again_and_a_dead_one_is_an_error(receiver: Received) -> None:
    receiver.failures = 1
    publish(receiver, [metadata()])
    assert (receiver.refused, len(receiver.logs)) == (1, 1)
    receiver.failures = 1000
    with pytest.raises(ConnectionError):
        publish(receiver, [metadata()], timeout=200)


def test_spans_are_sent_where_they_are_asked_for(receiver: Received) -> None:
    policies = [mark(decision="block"), mark(stage="post_response", decision="block")]
    item = metadata(policies=policies, attempts=[attempt(outcome="retryable", status_code=503), attempt(attempt=2)])
    publish(receiver, [item], traces=True)
    root, *children = receiver.spans
    assert root.trace_id.hex() == item.event.trace_id.replace("-", "")
    assert (root.name, root.kind) == ("POST /app/v1/chat/completions", 2)
    assert root.end_time_unix_nano - root.start_time_unix_nano == 50_000_000
    names = ["policy rate_limiter", "policy rate_limiter", "attempt 1", "attempt 2"]
    assert [span.name for span in children] == names
    assert {span.parent_span_id for span in children} == {root.span_id}
    assert len({span.span_id for span in receiver.spans}) == 5
    assert [span.status.code for span in children[2:]] == [2, 0]
    assert len(receiver.logs) == 1


def test_a_tenants_exporter_stays_outside_the_fence(receiver: Received) -> None:
    with pytest.raises((AddressRefused, ConnectionError)):
        publish(receiver, [metadata()], confined=True, timeout=500)
    assert not receiver.logs
    publish(receiver, [metadata()], confined=True, fence=Fence(("127.0.0.0/8",)))
    assert len(receiver.logs) == 1


@pytest.mark.parametrize("named", [True, False])
def test_the_installations_credentials_go_to_its_own_collector_only(
    receiver: Received, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=ours")
    settings = {"protocol": protocol(receiver), "insecure": True} | ({"endpoint": receiver.endpoint} if named else {})
    config = ExporterConfig(name="o", type="otlp", raw=False, settings=settings, confined=True)
    environment = Environment(
        otlp_endpoint=receiver.endpoint,
        otlp_headers={"x-token": "ours"},
        fence=Fence(("127.0.0.0/8",)) if named else Fence(),
    )
    sink = TYPES["otlp"].open(config, environment)
    sink.publish([metadata()])
    sink.close()
    assert receiver.headers[0].get("x-token") == (None if named else "ours")


def test_tls_to_a_grpc_collector_with_its_authority_or_without_verification(tmp_path: pathlib.Path) -> None:
    key, chain = certificate()
    authority = tmp_path / "ca.pem"
    authority.write_bytes(chain)
    with grpc_receiver((key, chain)) as receiver:
        publish(receiver, [metadata()], tls={"ca_file": str(authority)})
        publish(receiver, [metadata()], tls={"skip_verify": True})
        assert len(receiver.logs) == 2
        with pytest.raises(ConnectionError):
            publish(receiver, [metadata()], tls={}, timeout=500)


def test_tls_to_an_http_collector_with_its_authority_or_without_verification(tmp_path: pathlib.Path) -> None:
    key, chain = certificate()
    authority, both = tmp_path / "ca.pem", tmp_path / "server.pem"
    authority.write_bytes(chain)
    both.write_bytes(key + chain)
    with http_receiver(both) as receiver:
        publish(receiver, [metadata()], tls={"ca_file": str(authority)})
        publish(receiver, [metadata()], tls={"skip_verify": True})
        assert len(receiver.logs) == 2
        with pytest.raises(ConnectionError):
            publish(receiver, [metadata()], tls={}, timeout=500)


@pytest.mark.parametrize(
    ("settings", "environment", "protocol", "url", "insecure"),
    [
        ({"endpoint": "c:4317"}, {}, "grpc", "c:4317", False),
        ({"endpoint": "c:4317", "insecure": True}, {}, "grpc", "c:4317", True),
        ({"endpoint": "http://c:4317"}, {}, "grpc", "c:4317", True),
        ({"endpoint": "c:4318"}, {}, "http/protobuf", "https://c:4318", False),
        ({"endpoint": "c:4318", "insecure": True}, {}, "http/protobuf", "http://c:4318", True),
        ({"endpoint": "c:9"}, {"otlp_insecure": True}, "http/protobuf", "http://c:9", True),
        ({"endpoint": "c:9"}, {"otlp_protocol": "grpc"}, "grpc", "c:9", False),
        ({"endpoint": "http://c:4317/v1/logs"}, {}, "http/protobuf", "http://c:4317/v1/logs", False),
        ({}, {"otlp_endpoint": "http://c:4318/v1/logs"}, "http/protobuf", "http://c:4318/v1/logs", False),
    ],
)
def test_settings_beat_environment_beat_inference(
    settings: dict[str, Any], environment: dict[str, Any], protocol: str, url: str, insecure: bool
) -> None:
    target = otlp_target(settings, Environment(**environment))
    assert (target.protocol, target.url, target.insecure) == (protocol, url, insecure)


def test_timeouts_are_milliseconds_or_durations() -> None:
    times = [
        otlp_target({"endpoint": "c:1", "timeout": value}, Environment()).timeout_s
        for value in (250, "250", "1.5s", None)
    ]
    assert times == [0.25, 0.25, 1.5, 10.0]


def test_the_encoded_record_is_what_the_attributes_were_made_of() -> None:
    item = metadata()
    assert json.loads(item.data)["trace_id"] == item.event.trace_id
    assert encode(item.event) == item.data
