"""The record of one request, schema version 3 (spec 06 §9): from plain facts to the event in its wire order. Pure.

What lives here: the members, their presence, the latency arithmetic and the metadata view. What must not: where facts
come from, where events go.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from trustgate.telemetry.sanitize import body_text, header_map, redact

SCHEMA_VERSION = 3
FLAGGED = frozenset({"block", "blocked", "report", "reported", "throttle"})
TIMEOUTS = frozenset({408, 504})

Json = dict[str, Any]
Headers = Sequence[tuple[bytes, bytes]]


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    prompt: int
    completion: int
    total: int
    cached: int = 0
    reasoning: int = 0


class AttemptFacts(msgspec.Struct, frozen=True, kw_only=True):
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


class PolicyFacts(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    stage: str
    decision: str = ""
    latency_ms: float = 0.0
    status_code: int = 0
    error: bool = False
    score: float | None = None
    score_label: str = ""
    extras: Json | None = None

    @property
    def flagged(self) -> bool:
        return self.error or self.status_code >= 400 or self.decision in FLAGGED


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the event of an LLM request is made of. Times are Unix seconds and milliseconds."""

    trace_id: str
    gateway_id: str
    tenant_id: str
    started_unix: float
    total_ms: int
    consumer_id: str
    consumer_name: str
    session_id: str
    turn_id: str
    ip: str
    status: int
    reason: str
    method: str
    path: str
    requested_model: str
    sent_model: str
    provider_model: str
    model_label: str
    temperature: float | None
    max_tokens: int | None
    stream: bool
    streaming: bool
    finish_reason: str
    request_headers: Headers
    response_headers: Headers
    request_body: bytes
    response_body: bytes
    usage: Tokens | None
    cost: tuple[float, float] | None
    attempts: Sequence[AttemptFacts]
    policies: Sequence[PolicyFacts]
    config_version: int
    untranslated: Sequence[str]
    aborted: bool


def given(**members: Any) -> Json:
    """The members that are not empty or zero."""
    return {name: value for name, value in members.items() if value not in (None, "", 0, [], {}, ())}


def build(facts: Facts) -> Json:
    """The complete event, bodies included, secrets redacted."""
    last = facts.attempts[-1] if facts.attempts else None
    chain = [policy_entry(policy) for policy in facts.policies]
    flagged = [policy for policy in facts.policies if policy.flagged]
    labels = [policy.score_label for policy in flagged if policy.score_label]
    started = datetime.fromtimestamp(facts.started_unix, UTC)
    occurred_on = int(facts.started_unix * 1000)
    return (
        {"schema_version": SCHEMA_VERSION, "kind": "llm", "trace_id": facts.trace_id, "gateway_id": facts.gateway_id}
        | given(tenant_id=facts.tenant_id)
        | {
            "timestamp": started.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "occurred_on": occurred_on,
            "end_timestamp": occurred_on + facts.total_ms,
            "consumer": given(id=facts.consumer_id, name=facts.consumer_name),
        }
        | given(session_id=facts.session_id, turn_id=facts.turn_id, ip=facts.ip)
        | {
            "status": {"code": facts.status, "is_timeout": facts.status in TIMEOUTS}
            | given(outcome=last.outcome if last else "", reason=facts.reason),
            "is_flagged": bool(flagged),
        }
        | given(security=list(dict.fromkeys(labels)))
        | {"request": request_part(facts, last), "response": response_part(facts)}
        | given(usage=usage_part(facts.usage), cost=cost_part(facts.cost))
        | {"latency": latency_part(facts)}
        | given(attempts=[attempt_entry(attempt) for attempt in facts.attempts], policy_chain=chain)
        | given(config_version=facts.config_version, untranslated=list(facts.untranslated), aborted=facts.aborted)
    )


def request_part(facts: Facts, last: AttemptFacts | None) -> Json:
    part = given(
        method=facts.method,
        path=facts.path,
        provider=last.provider if last else "",
        registry_id=last.registry_id if last else "",
        model=facts.provider_model or facts.sent_model or facts.requested_model,
        requested_model=facts.requested_model,
        model_label=facts.model_label,
    )
    if facts.temperature is not None:
        part["temperature"] = facts.temperature  # kept if 0 was sent
    part |= given(max_tokens=facts.max_tokens)
    part["stream"] = facts.stream
    return part | given(
        prompt_tokens=facts.usage.prompt if facts.usage else 0,
        body=body_text(facts.request_body, content_type(facts.request_headers)),
        headers=header_map(facts.request_headers),
    )


def response_part(facts: Facts) -> Json:
    part: Json = {"status_code": facts.status, "latency_ms": facts.total_ms}
    part |= given(completion_tokens=facts.usage.completion if facts.usage else 0, finish_reason=facts.finish_reason)
    part |= {
        "streaming": facts.streaming,
        "body": body_text(facts.response_body, content_type(facts.response_headers)) or None,
    }
    return part | given(headers=header_map(facts.response_headers))


def content_type(headers: Headers) -> str:
    return next((value.decode("latin-1") for name, value in headers if name == b"content-type"), "")


def usage_part(usage: Tokens | None) -> Json | None:
    if usage is None:
        return None
    totals = {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion, "total_tokens": usage.total}
    return totals | given(cached_input_tokens=usage.cached, reasoning_output_tokens=usage.reasoning)


def cost_part(cost: tuple[float, float] | None) -> Json | None:
    if cost is None:
        return None
    prompt, completion = cost
    numbers = {"prompt_usd": prompt, "completion_usd": completion, "total_usd": prompt + completion}
    return {name: msgspec.Raw(plain(value).encode()) for name, value in numbers.items()} | {"currency": "USD"}


def plain(value: float) -> str:
    """A number without an exponent, as short as `repr` has it."""
    text = repr(value)
    if "e" not in text:
        return text
    return f"{value:.20f}".rstrip("0").rstrip(".") or "0"


def latency_part(facts: Facts) -> Json:
    """Spec 06 §9.3."""
    provider = sum(attempt.latency_ms for attempt in facts.attempts)
    policies = sum(policy.latency_ms for policy in facts.policies)
    late = sum(policy.latency_ms for policy in facts.policies if policy.stage == "post_response")
    return {
        "total_ms": facts.total_ms,
        "provider_ms": provider,
        "policies_ms": round(policies),
        "gateway_ms": max(0, round(facts.total_ms - provider - (policies - late))),
    }


def attempt_entry(attempt: AttemptFacts) -> Json:
    return (
        given(registry_id=attempt.registry_id, provider=attempt.provider)
        | {"attempt": attempt.attempt, "fallback": attempt.fallback, "pinned": attempt.pinned}
        | given(route=attempt.route, route_model=attempt.route_model, outcome=attempt.outcome)
        | {"status_code": attempt.status_code, "latency_ms": attempt.latency_ms}
    )


def policy_entry(policy: PolicyFacts) -> Json:
    entry = given(name=policy.name, stage=policy.stage, decision=policy.decision)
    entry["latency_ms"] = round(policy.latency_ms)
    entry |= given(status_code=policy.status_code)
    entry |= {"error": policy.error, "flagged": policy.flagged}
    if policy.score is not None:
        entry["score"] = policy.score
    entry |= given(score_label=policy.score_label)
    if policy.extras:
        entry["extras"] = redact(policy.extras)[0]
    return entry


def metadata_view(event: Json) -> Json:
    """The event without bodies, for exporters that must not see them."""
    request = {name: value for name, value in event["request"].items() if name != "body"}
    return event | {"request": request, "response": event["response"] | {"body": None}}
