"""From records to OpenTelemetry: the log record contract that collectors route on, and spans (spec 06 §11.3).

Loaded by the `otlp` exporter only. What must not be here: connections.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from trustgate.telemetry.event import Event, RawView

SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.0"
SCOPE = InstrumentationScope("github.com/NeuralTrust/TrustGate/pkg/infra/telemetry/otlp")
RESOURCE = Resource({"service.name": "trustgate"}, SCHEMA_URL)
METADATA, RAW = "trustgate.3.metadata", "trustgate.3.raw"
NO_CONTEXT = Context()

Attributes = dict[str, Any]
_encode = msgspec.json.Encoder(enc_hook=str).encode


def severity(status: int) -> SeverityNumber:
    if status < 400:
        return SeverityNumber.INFO
    return SeverityNumber.WARN if status < 500 else SeverityNumber.ERROR


def metadata_record(event: Event, limit: int) -> ReadableLogRecord:
    """`limit`: bytes of the longest string attribute."""
    attributes = cut(metadata_attributes(event), limit)
    return log_record(METADATA, event.occurred_on, severity(event.status.code), attributes)


def raw_record(view: RawView, limit: int) -> ReadableLogRecord:
    attributes = given(
        {
            "trustgate.trace_id": view.trace_id,
            "trustgate.gateway_id": view.gateway_id,
            "trustgate.tenant_id": view.tenant_id,
            "trustgate.request.body": view.request_body,
            "trustgate.response.body": view.response_body,
        }
    )
    attributes["trustgate.schema_version"] = view.schema_version
    return log_record(RAW, view.occurred_on, None, cut(attributes, limit))


def log_record(name: str, occurred_on: int, number: SeverityNumber | None, attributes: Attributes) -> ReadableLogRecord:
    record = LogRecord(
        timestamp=occurred_on * 1_000_000,
        observed_timestamp=time.time_ns(),
        context=NO_CONTEXT,
        severity_number=number,
        attributes=attributes,
        event_name=name,
    )
    return ReadableLogRecord(record, RESOURCE, SCOPE)


def given(attributes: Attributes) -> Attributes:
    """The attributes that are not empty."""
    return {name: value for name, value in attributes.items() if value not in (None, "", 0, [])}


def cut(attributes: Attributes, limit: int) -> Attributes:
    for name, value in attributes.items():
        if isinstance(value, str) and len(value) * 4 > limit and len(raw := value.encode()) > limit:
            attributes[name] = raw[:limit].decode("utf-8", "ignore")
    return attributes


def metadata_attributes(event: Event) -> Attributes:
    request, response, status, usage, latency = (
        event.request,
        event.response,
        event.status,
        event.usage,
        event.latency,
    )
    attributes: Attributes = {
        "http.response.status_code": response.status_code,
        "gen_ai.request.stream": request.stream or response.streaming,
        "trustgate.schema_version": event.schema_version,
        "trustgate.is_flagged": event.is_flagged,
        "trustgate.latency.total_ms": latency.total_ms,
        "trustgate.latency.provider_ms": latency.provider_ms,
        "trustgate.latency.policies_ms": latency.policies_ms,
        "trustgate.latency.gateway_ms": latency.gateway_ms,
    }
    if usage is not None:
        attributes["gen_ai.usage.input_tokens"] = usage.prompt_tokens
        attributes["gen_ai.usage.output_tokens"] = usage.completion_tokens
        attributes["trustgate.usage.total_tokens"] = usage.total_tokens
    optional: Attributes = {
        "http.request.method": request.method,
        "url.path": request.path,
        "gen_ai.provider.name": request.provider,
        "gen_ai.request.model": request.model,
        "gen_ai.response.finish_reasons": [response.finish_reason] if response.finish_reason else [],
        "trustgate.usage.cached_input_tokens": usage.cached_input_tokens if usage is not None else 0,
        "trustgate.usage.reasoning_output_tokens": usage.reasoning_output_tokens if usage is not None else 0,
        "trustgate.kind": event.kind,
        "trustgate.trace_id": event.trace_id,
        "trustgate.gateway_id": event.gateway_id,
        "trustgate.tenant_id": event.tenant_id,
        "trustgate.consumer.id": event.consumer.id,
        "trustgate.consumer.name": event.consumer.name,
        "trustgate.session_id": event.session_id,
        "trustgate.turn_id": event.turn_id,
        "trustgate.ip": event.ip,
        "trustgate.requested_model": request.requested_model,
        "trustgate.model_label": request.model_label,
        "trustgate.status.outcome": status.outcome,
        "trustgate.status.reason": status.reason,
        "trustgate.security": list(event.security),
        "trustgate.policy_chain": _encode(event.policy_chain).decode() if event.policy_chain else "",
        "trustgate.attempts": _encode(event.attempts).decode() if event.attempts else "",
        "trustgate.attempts.count": len(event.attempts),
    }
    attributes |= given(optional)
    if status.is_timeout:
        attributes["trustgate.status.is_timeout"] = True
    if event.cost is not None:
        cost = event.cost
        for name, number in (
            ("total", cost.total_usd),
            ("prompt", cost.prompt_usd),
            ("completion", cost.completion_usd),
        ):
            attributes[f"trustgate.cost.{name}_usd"] = float(bytes(number))
        attributes["trustgate.cost.currency"] = cost.currency
    if event.mcp is not None:
        members = msgspec.structs.asdict(event.mcp)
        attributes |= given({f"trustgate.mcp.{name}": value for name, value in members.items()})
    return attributes


def spans(event: Event) -> Iterator[ReadableSpan]:
    """The request as a server span whose trace id is the record's, each attempt and policy as its children.

    The record keeps durations, not instants: attempts are laid one after the other before the end of the request,
    policies before them, in their order.
    """
    trace = int(hashlib.sha256(event.trace_id.encode()).hexdigest()[:32], 16)
    hexadecimal = event.trace_id.replace("-", "")
    if len(hexadecimal) == 32:
        trace = int(hexadecimal, 16)
    root = span_context(trace, "request")
    start, end = event.occurred_on * 1_000_000, event.end_timestamp * 1_000_000
    failed = event.status.code >= 500
    yield ReadableSpan(
        name=f"{event.request.method} {event.request.path}".strip(),
        context=root,
        resource=RESOURCE,
        attributes=metadata_attributes(event),
        kind=SpanKind.SERVER,
        instrumentation_scope=SCOPE,
        status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
        start_time=start,
        end_time=end,
    )
    at = start
    for index, entry in enumerate(event.policy_chain):
        until = at + entry.latency_ms * 1_000_000
        attributes = given({"trustgate.policy.stage": entry.stage, "trustgate.policy.decision": entry.decision})
        yield child(trace, root, f"policy {entry.name}", f"policy{index}", (at, until), attributes, entry.error)
        at = until if entry.stage == "pre_request" else at
    for attempt in event.attempts:
        until = at + attempt.latency_ms * 1_000_000
        attributes = given(
            {
                "gen_ai.provider.name": attempt.provider,
                "trustgate.registry_id": attempt.registry_id,
                "trustgate.attempt.outcome": attempt.outcome,
                "http.response.status_code": attempt.status_code,
            }
        )
        failed = attempt.outcome not in ("success", "")
        name = f"attempt {attempt.attempt}"
        yield child(trace, root, name, name, (at, until), attributes, failed, SpanKind.CLIENT)
        at = until


def span_context(trace: int, name: str) -> SpanContext:
    span = int.from_bytes(hashlib.sha256(f"{trace}/{name}".encode()).digest()[:8], "big") or 1
    return SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def child(
    trace: int,
    parent: SpanContext,
    name: str,
    key: str,
    times: tuple[int, int],
    attributes: Attributes,
    failed: bool,
    kind: SpanKind = SpanKind.INTERNAL,
) -> ReadableSpan:
    return ReadableSpan(
        name=name,
        context=span_context(trace, key),
        parent=parent,
        resource=RESOURCE,
        attributes=attributes,
        kind=kind,
        instrumentation_scope=SCOPE,
        status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
        start_time=times[0],
        end_time=times[1],
    )
