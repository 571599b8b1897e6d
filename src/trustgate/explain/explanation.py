"""From a recorded decision and the configuration version that governed it to a complete explanation.

What lives here: the document of `GET /v1/requests/{trace_id}/explain`. The record holds what happened; everything that
follows from configuration (candidates, settings, names) is worked out again from the state of that version, with
secrets as their masks. What must not: I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from trustgate.decisions.record import Decided
from trustgate.domain.entities import Auth, Consumer, GatewayState
from trustgate.domain.secrets import masked
from trustgate.explain.routing import Routing, reasons, routing_of
from trustgate.proxy.pipeline import STAGES
from trustgate.view.gateway import GatewayView
from trustgate.view.model import ConsumerView, RoleView

Json = dict[str, Any]

STAGE_NAMES = tuple(stage.__name__ for stage in STAGES)


def hidden(ref: str) -> str:
    """Stands for secrets in views that are only looked at."""
    return ""


def explain(record: Decided, state: GatewayState) -> Json:
    """The whole explanation; `state` is the gateway at the record's version."""
    view = GatewayView(state, hidden)
    entity = state.consumers.get(record.consumer_id)
    consumer = view.consumer(entity.slug) if entity is not None else None
    roles = tuple(role for role in view.roles if role.id in record.roles)
    routing = routing_of(consumer, roles, record.reference) if consumer is not None else None
    return {
        "trace_id": record.trace_id,
        "gateway_id": record.gateway_id,
        "gateway_slug": view.identity.slug,
        "config_version": record.version,
        "time": time_of(record.at_ms),
        "duration_ms": round(record.duration_ms, 3),
        "request": {
            "capability": record.capability,
            "format": record.format,
            "model": record.reference,
            "stream": record.streaming,
            "body_bytes": record.body_bytes,
        },
        "consumer": consumer_part(record, entity),
        "credential": credential_part(record, state.auths.get(record.auth_id)),
        "roles": [{"id": role.id, "name": role.name} for role in roles],
        "outcome": outcome_part(record),
        "stages": list(stages_part(record, view, routing)),
        "candidates": candidates_part(state, consumer, roles, routing),
        "balancer": balancer_part(record, state, consumer, routing),
        "attempts": [attempt_part(record, index, state) for index in range(len(record.attempts))],
        "policies": policies_part(record, state, consumer),
        "usage": usage_part(record),
        "price": price_part(record),
    }


def time_of(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def consumer_part(record: Decided, entity: Consumer | None) -> Json:
    if entity is None:
        return {"id": record.consumer_id, "slug": record.consumer_slug}
    return {
        "id": entity.id,
        "name": entity.name,
        "slug": entity.slug,
        "type": entity.type,
        "routing_mode": entity.routing_mode,
    }


def credential_part(record: Decided, auth: Auth | None) -> Json:
    """The credential that matched; a playground token has no id."""
    found: Json = {"id": record.auth_id, "method": record.method}
    if auth is not None:
        found |= {"name": auth.name, "type": auth.type}
    return found


def outcome_part(record: Decided) -> Json:
    if record.stage == "run_pre_request" or (record.code == "plugin_rejected"):
        by = "policy"
    elif record.code or record.stage:
        by = "gateway"
    else:
        by = "upstream" if record.answered else "policy"
    found: Json = {"status": record.status, "answered_by": by}
    if record.code:
        found["error"] = record.code
    if record.message:
        found["message"] = record.message
    return found | {"aborted": record.aborted}


def stages_part(record: Decided, view: GatewayView, routing: Routing | None) -> Iterator[Json]:
    """Each stage of the pipeline in order: `passed`, `refused`, `answered` or `not reached`, with what it found."""
    ended = record.stage or "call_upstream"
    reached = True
    for name in STAGE_NAMES:
        if not reached:
            yield {"stage": name, "verdict": "not reached"}
            continue
        verdict = "passed"
        if name == ended:
            reached = False
            verdict = "refused" if record.code else "answered"
        entry = {"stage": name, "verdict": verdict}
        detail = record.message or record.code if verdict == "refused" else detail_of(name, record, view, routing)
        yield entry | ({"detail": detail} if detail else {})


def detail_of(stage: str, record: Decided, view: GatewayView, routing: Routing | None) -> str:
    match stage:
        case "find_gateway":
            return f"{view.identity.slug} at version {record.version}"
        case "find_consumer":
            return record.consumer_slug
        case "authenticate_caller":
            return f"{record.method} {record.auth_id}".strip()
        case "check_plan":
            return "metered" if view.identity.metered else "not metered"
        case "read_model_reference":
            return record.reference or "the request names no model"
        case "choose_candidates" if routing is not None:
            count = len(routing.candidates)
            return f"{count} candidate{'' if count == 1 else 's'}" if count else "not narrowed"
        case "pick_route" if record.pick is not None:
            return " ".join(filter(None, (record.pick.registry_id, record.pick.model)))
        case "run_pre_request":
            runs = [run for run in record.policies if run.stage == "pre_request"]
            return f"{len(runs)} polic{'y' if len(runs) == 1 else 'ies'}" if runs else "no policies"
        case "call_upstream":
            return f"{len(record.attempts)} attempt{'' if len(record.attempts) == 1 else 's'}"
        case _:
            return ""


def candidates_part(
    state: GatewayState, consumer: ConsumerView | None, roles: tuple[RoleView, ...], routing: Routing | None
) -> list[Json]:
    if consumer is None or routing is None:
        return []
    found: list[Json] = []
    for reason in reasons(state, consumer, roles, routing):
        entry: Json = {"registry_id": reason.registry_id, **naming(state, reason.registry_id)}
        entry |= {"sources": list(reason.sources), "kept": reason.kept, "reason": reason.reason}
        if reason.allowed is not None:
            entry["allowed_models"] = list(reason.allowed)
        if reason.default:
            entry["default_model"] = reason.default
        found.append(entry)
    return found


def naming(state: GatewayState, registry_id: str) -> Json:
    registry = state.registries.get(registry_id)
    if registry is None:
        return {}
    provider = registry.llm_target.provider if registry.llm_target is not None else ""
    return {"name": registry.name, "provider": provider}


def balancer_part(
    record: Decided, state: GatewayState, consumer: ConsumerView | None, routing: Routing | None
) -> Json | None:
    """What the first pick chose from; None where the request ended before, or is not of this plane."""
    pick = record.pick
    if pick is None or consumer is None or routing is None:
        return None
    busy = {(registry_id, model): count for registry_id, model, count in pick.in_flight}
    routes: list[Json] = []
    for route in (*routing.routes, *routing.excluded):
        excluded = route in routing.excluded
        entry: Json = {"registry_id": route.registry.id, **naming(state, route.registry.id), "model": route.model}
        entry |= {
            "weight": route.weight,
            "in_flight": busy.get(route.key, 0),
            "healthy": route.registry.id not in pick.unhealthy,
            "usable": not excluded,
            "picked": route.key == (pick.registry_id, pick.model),
        }
        routes.append(entry)
    found: Json = {"algorithm": consumer.algorithm, "balanced": routing.balanced, "routes": routes}
    if pick.ranking:
        found["semantic_ranking"] = list(pick.ranking)
    if pick.score is not None:
        found["complexity_score"] = pick.score
    return found


def attempt_part(record: Decided, index: int, state: GatewayState) -> Json:
    attempt = record.attempts[index]
    found: Json = {
        "attempt": attempt.number,
        "registry_id": attempt.registry_id,
        **naming(state, attempt.registry_id),
        "source": attempt.source,
        "route_model": attempt.route_model,
        "fallback": attempt.fallback,
        "outcome": attempt.outcome,
        "status_code": attempt.status,
        "latency_ms": attempt.latency_ms,
    }
    return found | ({"failure": attempt.kind} if attempt.kind else {})


def policies_part(record: Decided, state: GatewayState, consumer: ConsumerView | None) -> list[Json]:
    """The policies that applied, with their settings at that version, and what each run said."""
    if consumer is None:
        return []
    found: list[Json] = []
    for applied in consumer.policies:
        policy = state.policies[applied.id]
        found.append(
            {
                "id": policy.id,
                "name": policy.name,
                "slug": policy.slug,
                "scope": consumer.policy_scopes.get(policy.id, "consumer"),
                "mode": policy.mode,
                "priority": policy.priority,
                "stages": list(policy.stages),
                "settings": masked(policy.settings),
                "runs": [
                    {
                        "stage": run.stage,
                        "decision": run.decision,
                        "status_code": run.status,
                        "error": run.error,
                        "latency_ms": round(run.latency_ms, 3),
                    }
                    for run in record.policies
                    if run.policy_id == policy.id
                ],
            }
        )
    return found


def usage_part(record: Decided) -> Json | None:
    usage = record.usage
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "cached_input_tokens": usage.cached,
        "reasoning_output_tokens": usage.reasoning,
    }


def price_part(record: Decided) -> Json | None:
    if record.price is None:
        return None
    return {
        "model": record.price.model,
        "input_usd_per_token": record.price.input,
        "output_usd_per_token": record.price.output,
        "cost_usd": record.cost_usd,
        "sent_model": record.sent_model,
        "reported_model": record.provider_model,
    }
