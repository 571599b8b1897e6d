"""The record of one request, schema version 3 (spec 06 §9): its shape in wire order, and its making from plain facts.

What lives here: members and their presence, the latency arithmetic, the metadata and raw views. What must not: where
facts come from, where records go, I/O. `event.schema.json` beside this file is the same contract for readers.

A member with a default is absent when it has that value; one without is always there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from trustgate.telemetry.sanitize import body_text, header_map, redact

SCHEMA_VERSION = 3
FLAGGED = frozenset({"block", "blocked", "report", "reported", "throttle"})
TIMEOUTS = frozenset({408, 504})

Json = dict[str, Any]
Headers = Sequence[tuple[bytes, bytes]]


class Party(Struct, omit_defaults=True):
    id: str = ""
    name: str = ""


class Status(Struct, omit_defaults=True):
    code: int
    is_timeout: bool
    outcome: str = ""
    reason: str = ""


class Request(Struct, omit_defaults=True, kw_only=True):
    method: str = ""
    path: str = ""
    provider: str = ""
    registry_id: str = ""
    model: str = ""
    requested_model: str = ""
    model_label: str = ""
    temperature: float | None = None
    max_tokens: int = 0
    stream: bool
    prompt_tokens: int = 0
    body: str = ""
    headers: dict[str, list[str]] = {}


class Response(Struct, omit_defaults=True, kw_only=True):
    status_code: int
    latency_ms: int
    completion_tokens: int = 0
    finish_reason: str = ""
    streaming: bool
    body: str | None
    headers: dict[str, list[str]] = {}


class Tokens(Struct, omit_defaults=True):
    """Usage as the served attempt reported it."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_input_tokens: int = 0
    reasoning_output_tokens: int = 0


class Cost(Struct):
    """JSON numbers without an exponent, whatever their size."""

    prompt_usd: Raw
    completion_usd: Raw
    total_usd: Raw
    currency: str = "USD"


class Latency(Struct):
    total_ms: int
    provider_ms: int
    policies_ms: int
    gateway_ms: int


class AttemptEntry(Struct, omit_defaults=True, kw_only=True):
    registry_id: str = ""
    provider: str = ""
    attempt: int
    fallback: bool
    pinned: bool
    route: str = ""
    route_model: str = ""
    outcome: str = ""
    status_code: int
    latency_ms: int


class PolicyEntry(Struct, omit_defaults=True, kw_only=True):
    name: str = ""
    stage: str = ""
    decision: str = ""
    latency_ms: int
    status_code: int = 0
    error: bool
    flagged: bool
    score: float | UnsetType = UNSET
    score_label: str = ""
    extras: Json = {}


class Mcp(Struct, omit_defaults=True, kw_only=True):
    """The MCP part of a call. `upstream_status` is the logical status, which overrides the HTTP one when not 0."""

    method: str
    operation: str = ""
    server_name: str = ""
    registry_id: str = ""
    host: str = ""
    catalog_code: str = ""
    transport: str = ""
    tool: str = ""
    upstream_tool: str = ""
    prompt: str = ""
    resource_uri: str = ""
    targets: int = 0
    upstream_status: int = 0
    upstream_latency_ms: int = 0
    rpc_error_code: int = 0


class ReservationEntry(Struct, omit_defaults=True, kw_only=True):
    """What a budget put on hold before the call, and what it charged in the end (0: given back)."""

    policy_id: str
    unit: str
    reserved: int
    charged: int | UnsetType = UNSET


class Event(Struct, omit_defaults=True, kw_only=True):
    schema_version: int
    kind: str
    trace_id: str
    gateway_id: str
    tenant_id: str = ""
    timestamp: str
    occurred_on: int
    end_timestamp: int
    consumer: Party
    session_id: str = ""
    turn_id: str = ""
    ip: str = ""
    status: Status
    is_flagged: bool
    security: list[str] = []
    request: Request
    response: Response
    usage: Tokens | None = None
    cost: Cost | None = None
    latency: Latency
    attempts: list[AttemptEntry] = []
    policy_chain: list[PolicyEntry] = []
    mcp: Mcp | None = None
    config_version: int = 0
    reservations: list[ReservationEntry] = []
    untranslated: list[str] = []
    aborted: bool = False


class RawView(Struct, frozen=True, kw_only=True):
    """What raw exporters get: the bodies and what finds them again."""

    schema_version: int = SCHEMA_VERSION
    trace_id: str
    gateway_id: str
    tenant_id: str
    occurred_on: int
    request_body: str
    response_body: str | None


class Attempt(Protocol):
    """One upstream try, as the proxy keeps it."""

    registry_id: str
    provider: str
    attempt: int
    fallback: bool
    pinned: bool
    route: str
    route_model: str
    outcome: str
    status_code: int
    latency_ms: int


class Mark(Protocol):
    """One run of a policy, as the engine keeps it."""

    name: str
    stage: str
    decision: str
    latency_ms: float
    status_code: int
    error: bool
    score: float | None
    score_label: str
    extras: Json | None

    @property
    def flagged(self) -> bool: ...


class Reservation(Protocol):
    """A hold of a budget, as the policies keep it; `charged` None: neither settled nor given back."""

    policy_id: str
    unit: str
    reserved: int
    charged: int | None


class Facts(Struct, kw_only=True):
    """Everything a record is made of. Times are Unix seconds and milliseconds, cost is USD (prompt, completion).

    `provider_ms` None: the sum of the attempts. `policies` are those that left a mark. `own_headers` are those of the
    answer that the plane adds, by canonical name.
    """

    kind: str = "llm"
    trace_id: str
    gateway_id: str
    tenant_id: str = ""
    started_unix: float
    total_ms: int
    consumer_id: str = ""
    consumer_name: str = ""
    session_id: str = ""
    turn_id: str = ""
    ip: str = ""
    status: int
    reason: str = ""
    method: str = ""
    path: str = ""
    requested_model: str = ""
    sent_model: str = ""
    provider_model: str = ""
    model_label: str = ""
    temperature: float | None = None
    max_tokens: int = 0
    stream: bool = False
    streaming: bool = False
    finish_reason: str = ""
    request_headers: Headers = ()
    response_headers: Headers = ()
    own_headers: dict[str, list[str]] = {}
    request_body: bytes = b""
    response_body: bytes = b""
    usage: Tokens | None = None
    cost: tuple[float, float] | None = None
    attempts: Sequence[Attempt] = ()
    policies: Sequence[Mark] = ()
    reservations: Sequence[Reservation] = ()
    show_attempts: bool = True
    show_policies: bool = True
    provider_ms: int | None = None
    mcp: Mcp | None = None
    config_version: int = 0
    untranslated: Sequence[str] = ()
    aborted: bool = False


def build(facts: Facts) -> Event:
    """The record without bodies, secrets redacted."""
    attempts, policies, mcp, usage = facts.attempts, facts.policies, facts.mcp, facts.usage
    last = attempts[-1] if attempts else None
    code = mcp.upstream_status if mcp is not None and mcp.upstream_status else facts.status
    flagged = [policy for policy in policies if policy.flagged] if policies else []
    occurred_on = int(facts.started_unix * 1000)
    return Event(
        schema_version=SCHEMA_VERSION,
        kind=facts.kind,
        trace_id=facts.trace_id,
        gateway_id=facts.gateway_id,
        tenant_id=facts.tenant_id,
        timestamp=timestamp(int(facts.started_unix)),
        occurred_on=occurred_on,
        end_timestamp=occurred_on + facts.total_ms,
        consumer=Party(facts.consumer_id, facts.consumer_name),
        session_id=facts.session_id,
        turn_id=facts.turn_id,
        ip=facts.ip,
        status=Status(code, code in TIMEOUTS, last.outcome if last is not None else "", facts.reason),
        is_flagged=bool(flagged),
        security=labels(flagged) if flagged else [],
        request=Request(
            method=facts.method,
            path=facts.path,
            provider=last.provider if last is not None else "",
            registry_id=last.registry_id if last is not None else "",
            model=facts.provider_model or facts.sent_model or facts.requested_model,
            requested_model=facts.requested_model,
            model_label=facts.model_label,
            temperature=facts.temperature,
            max_tokens=facts.max_tokens,
            stream=facts.stream,
            prompt_tokens=usage.prompt_tokens if usage is not None else 0,
            headers=header_map(facts.request_headers),
        ),
        response=Response(
            status_code=code,
            latency_ms=facts.total_ms,
            completion_tokens=usage.completion_tokens if usage is not None else 0,
            finish_reason=facts.finish_reason,
            streaming=facts.streaming,
            body=None,
            headers=header_map(facts.response_headers) | facts.own_headers,
        ),
        usage=usage,
        cost=cost_part(*facts.cost) if facts.cost is not None else None,
        latency=latency(facts),
        attempts=[attempt_entry(attempt) for attempt in attempts] if attempts and facts.show_attempts else [],
        policy_chain=[policy_entry(policy) for policy in policies] if policies and facts.show_policies else [],
        mcp=mcp,
        config_version=facts.config_version,
        reservations=[reservation_entry(held) for held in facts.reservations] if facts.reservations else [],
        untranslated=list(facts.untranslated) if facts.untranslated else [],
        aborted=facts.aborted,
    )


def labels(flagged: Sequence[Mark]) -> list[str]:
    """The distinct score labels, in order."""
    return list(dict.fromkeys(policy.score_label for policy in flagged if policy.score_label))


_second: tuple[int, str] = (-1, "")  # the last second spelled: records come many to a second


def timestamp(seconds: int) -> str:
    """UTC, RFC 3339 to the second."""
    global _second
    found, text = _second
    if found != seconds:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        _second = (seconds, text)
    return text


def latency(facts: Facts) -> Latency:
    """Spec 06 §9.3: late policies do not count as the gateway's time, since the client has its answer by then."""
    provider = facts.provider_ms
    if provider is None:
        provider = 0
        for attempt in facts.attempts:
            provider += attempt.latency_ms
    if not facts.policies:
        return Latency(facts.total_ms, provider, 0, max(0, facts.total_ms - provider))
    policies = sum(policy.latency_ms for policy in facts.policies)
    late = sum(policy.latency_ms for policy in facts.policies if policy.stage == "post_response")
    gateway = max(0, round(facts.total_ms - provider - (policies - late)))
    return Latency(facts.total_ms, provider, round(policies), gateway)


def cost_part(prompt: float, completion: float) -> Cost:
    return Cost(number(prompt), number(completion), number(prompt + completion))


def number(value: float) -> Raw:
    """A JSON number that reads as `value`, without an exponent and as short as that can be."""
    text = _encode(value)  # several times as fast as `repr`
    end = text.find(b"e")
    if end < 0:
        return Raw(text)
    digits, places = text[:end].replace(b".", b""), int(text[end + 1 :])
    return Raw(b"0." + b"0" * (-places - 1) + digits if places < 0 else b"%d.0" % int(value))


def attempt_entry(attempt: Attempt) -> AttemptEntry:
    return AttemptEntry(
        registry_id=attempt.registry_id,
        provider=attempt.provider,
        attempt=attempt.attempt,
        fallback=attempt.fallback,
        pinned=attempt.pinned,
        route=attempt.route,
        route_model=attempt.route_model,
        outcome=attempt.outcome,
        status_code=attempt.status_code,
        latency_ms=attempt.latency_ms,
    )


def policy_entry(policy: Mark) -> PolicyEntry:
    return PolicyEntry(
        name=policy.name,
        stage=policy.stage,
        decision=policy.decision,
        latency_ms=round(policy.latency_ms),
        status_code=policy.status_code,
        error=policy.error,
        flagged=policy.flagged,
        score=UNSET if policy.score is None else policy.score,
        score_label=policy.score_label,
        extras=redact(policy.extras)[0] if policy.extras else {},
    )


def reservation_entry(held: Reservation) -> ReservationEntry:
    return ReservationEntry(
        policy_id=held.policy_id,
        unit=held.unit,
        reserved=held.reserved,
        charged=UNSET if held.charged is None else held.charged,
    )


def content_type(headers: Headers) -> str:
    return next((value.decode("latin-1") for name, value in headers if name == b"content-type"), "")


def bodies(facts: Facts) -> tuple[str, str | None]:
    """The two bodies as they may leave: secrets redacted, bounded; the second None when there was none."""
    sent = body_text(facts.request_body, content_type(facts.request_headers))
    return sent, body_text(facts.response_body, content_type(facts.response_headers)) or None


def complete(event: Event, sent: str, answered: str | None) -> Event:
    """The record with its bodies."""
    return replace(event, request=replace(event.request, body=sent), response=replace(event.response, body=answered))


def raw_view(event: Event, sent: str, answered: str | None) -> RawView:
    return RawView(
        trace_id=event.trace_id,
        gateway_id=event.gateway_id,
        tenant_id=event.tenant_id,
        occurred_on=event.occurred_on,
        request_body=sent,
        response_body=answered,
    )


def metadata_view(event: Event) -> Event:
    """The record that leaves without bodies: also without the evidence of guards, which quotes them."""
    if not event.policy_chain or not any("findings" in entry.extras for entry in event.policy_chain):
        return event
    chain = [
        replace(entry, extras=without_evidence(entry.extras)) if "findings" in entry.extras else entry
        for entry in event.policy_chain
    ]
    return replace(event, policy_chain=chain)


def without_evidence(value: Any) -> Any:
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value)
        return {name: without_evidence(item) for name, item in members.items() if name != "evidence"}
    if isinstance(value, list):
        return [without_evidence(item) for item in cast("list[Any]", value)]
    return value


def encode(event: Event) -> bytes:
    return _encode(event)


_encode = msgspec.json.Encoder(enc_hook=str).encode  # extras hold whatever a policy put there
