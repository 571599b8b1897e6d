"""Records: their members, their presence and their arithmetic, and the schema that ships (spec 06 §9, §10)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import jsonschema
import msgspec
import pytest

from tests.telemetry.records import attempt, facts, full_facts, mark
from trustgate.telemetry.event import (
    Event,
    Facts,
    Mcp,
    bodies,
    build,
    complete,
    encode,
    metadata_view,
    number,
    raw_view,
)
from trustgate.telemetry.reference import kind, schema, table

VALIDATOR = jsonschema.Draft202012Validator(schema(), format_checker=jsonschema.FormatChecker())


def record(found: Facts) -> dict[str, Any]:
    """The metadata view as consumers read it, checked against the schema."""
    decoded = json.loads(encode(metadata_view(build(found))))
    VALIDATOR.validate(decoded)
    return decoded


def test_the_schema_and_the_structs_name_the_same_members_in_the_same_order() -> None:
    compare(Event, schema())


def compare(struct: Any, node: dict[str, Any]) -> None:
    members = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    assert list(members) == list(node["properties"]), struct
    required = {name for name, field in members.items() if field.required} | (
        {"currency"} if struct.__name__ == "Cost" else set()
    )
    assert set(node.get("required", ())) == required, struct
    hints = get_type_hints(struct)
    for name, member in node["properties"].items():
        inner = next((found for found in structs_in(hints[name])), None)
        if inner is not None:
            compare(inner, member.get("items", member))
        else:
            assert kind(member) and member["description"]


def structs_in(hint: Any) -> list[Any]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    return [found for part in get_args(hint) for found in structs_in(part)] if get_origin(hint) else []


def test_a_full_record_has_every_member_but_mcps() -> None:
    found = record(full_facts())
    assert set(schema()["properties"]) - set(found) == {"mcp"}
    assert list(found) == [name for name in schema()["properties"] if name != "mcp"]


def test_a_bare_record_has_the_required_members_only() -> None:
    bare = Facts(
        trace_id="4c1f0b7e-52a8-4d55-b6b5-0b1b2f7b0d5e", gateway_id="g", started_unix=0, total_ms=0, status=404
    )
    assert record(bare) == {
        "schema_version": 3,
        "kind": "llm",
        "trace_id": "4c1f0b7e-52a8-4d55-b6b5-0b1b2f7b0d5e",
        "gateway_id": "g",
        "timestamp": "1970-01-01T00:00:00Z",
        "occurred_on": 0,
        "end_timestamp": 0,
        "consumer": {},
        "status": {"code": 404, "is_timeout": False},
        "is_flagged": False,
        "request": {"stream": False},
        "response": {"status_code": 404, "latency_ms": 0, "streaming": False, "body": None},
        "latency": {"total_ms": 0, "provider_ms": 0, "policies_ms": 0, "gateway_ms": 0},
    }


def test_times_are_the_requests_own() -> None:
    found = record(facts(started_unix=1767323045.678, total_ms=123))
    times = found["timestamp"], found["occurred_on"], found["end_timestamp"]
    assert times == ("2026-01-02T03:04:05Z", 1767323045678, 1767323045801)


@pytest.mark.parametrize(("status", "timeout"), [(200, False), (408, True), (500, False), (504, True)])
def test_timeouts(status: int, timeout: bool) -> None:
    assert record(facts(status=status))["status"]["is_timeout"] is timeout


def test_the_last_attempt_names_provider_registry_and_outcome() -> None:
    tries = [attempt(outcome="retryable", status_code=503), attempt(attempt=2, provider="anthropic", registry_id="r2")]
    found = record(facts(attempts=tries))
    request = found["request"]
    assert (request["provider"], request["registry_id"], found["status"]["outcome"]) == ("anthropic", "r2", "success")


def test_the_model_is_the_one_that_the_upstream_named_else_the_requests() -> None:
    models = [
        record(facts(**names))["request"]["model"]
        for names in ({}, {"provider_model": ""}, {"provider_model": "", "sent_model": ""})
    ]
    assert models == ["gpt-4o-2024-08-06", "gpt-4o", "gpt-4o"]


def test_a_temperature_of_zero_is_kept_and_an_absent_one_is_absent() -> None:
    assert record(facts(temperature=0))["request"]["temperature"] == 0
    assert "temperature" not in record(facts())["request"]


LATENCIES = [
    # total, provider, policies (stage, ms), expected policies, expected gateway
    (100, 60, [], 0, 40),
    (100, 60, [("pre_request", 10)], 10, 30),
    (100, 60, [("pre_request", 10), ("pre_response", 5)], 15, 25),
    (100, 60, [("pre_request", 10), ("post_response", 500)], 510, 30),
    (100, 120, [("pre_request", 10)], 10, 0),
]


@pytest.mark.parametrize(("total", "provider", "policies", "in_policies", "in_gateway"), LATENCIES)
def test_latency_arithmetic(
    total: int, provider: int, policies: list[tuple[str, float]], in_policies: int, in_gateway: int
) -> None:
    marks = [mark(stage=stage, latency_ms=ms, decision="allowed") for stage, ms in policies]
    found = record(facts(total_ms=total, attempts=[attempt(latency_ms=provider)], policies=marks))
    assert found["latency"] == {
        "total_ms": total,
        "provider_ms": provider,
        "policies_ms": in_policies,
        "gateway_ms": in_gateway,
    }


def test_traces_that_are_switched_off_leave_the_arithmetic_and_the_flags() -> None:
    found = record(full_facts(show_attempts=False, show_policies=False))
    assert "attempts" not in found and "policy_chain" not in found
    assert found["latency"]["provider_ms"] == 40
    assert found["is_flagged"] is True
    assert found["request"]["provider"] == "openai"


FLAGS = [
    ({"decision": "block"}, True),
    ({"decision": "blocked"}, True),
    ({"decision": "report"}, True),
    ({"decision": "reported"}, True),
    ({"decision": "throttle"}, True),
    ({"decision": "observe"}, False),
    ({"decision": "allowed"}, False),
    ({"decision": "allowed", "status_code": 400}, True),
    ({"decision": "allowed", "status_code": 399}, False),
    ({"error": True}, True),
]


@pytest.mark.parametrize(("given", "flagged"), FLAGS)
def test_what_flags_a_policy(given: dict[str, Any], flagged: bool) -> None:
    found = record(facts(policies=[mark(**given)]))
    assert (found["is_flagged"], found["policy_chain"][0]["flagged"]) == (flagged, flagged)


def test_security_lists_the_labels_of_flagged_policies_once_in_order() -> None:
    labels = [("pii", "block"), ("jailbreak", "allowed"), ("toxic", "report"), ("pii", "block"), ("", "block")]
    marks = [mark(score_label=label, decision=decision) for label, decision in labels]
    assert record(facts(policies=marks))["security"] == ["pii", "toxic"]


def test_a_score_of_zero_is_kept() -> None:
    assert record(facts(policies=[mark(decision="allowed", score=0.0)]))["policy_chain"][0]["score"] == 0


def test_credentials_in_extras_are_redacted_and_evidence_stays_inside() -> None:
    findings = [{"signal": {"type": "pii"}, "evidence": "my card is 4111"}]
    given = full_facts(policies=[mark(decision="block", extras={"api_key": "k", "findings": findings})])
    outside = record(given)["policy_chain"][0]["extras"]
    assert outside == {"api_key": "[REDACTED]", "findings": [{"signal": {"type": "pii"}}]}
    inside = json.loads(encode(complete(build(given), *bodies(given))))
    assert inside["policy_chain"][0]["extras"]["findings"] == findings


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5e-7, "0.00000015"),
        (0.0, "0.0"),
        (1e-21, "0.000000000000000000001"),
        (12.5, "12.5"),
        (1e22, "1" + "0" * 22 + ".0"),
        (1.25e-7, "0.000000125"),
        (1.7999999999999997e-06, "0.0000017999999999999997"),
        (5e-324, "0." + "0" * 323 + "5"),
        (3.3e-5, "0.000033"),
    ],
)
def test_costs_have_no_exponent(value: float, text: str) -> None:
    assert bytes(number(value)).decode() == text
    assert json.loads(text) == pytest.approx(value)


def test_the_complete_record_has_bodies_without_secrets_and_satisfies_the_schema() -> None:
    given = full_facts()
    found = json.loads(encode(complete(build(given), *bodies(given))))
    VALIDATOR.validate(found)
    assert found["request"]["body"] == '{"api_key":"[REDACTED]","model":"gpt-4o"}'
    assert found["response"]["body"] == '{"id":"x"}'
    assert found["request"]["headers"]["Authorization"] == ["Bearer [REDACTED]"]


def test_the_metadata_view_has_no_bodies() -> None:
    found = record(full_facts())
    assert "body" not in found["request"]
    assert found["response"]["body"] is None


def test_the_raw_view_is_the_bodies_and_what_finds_them() -> None:
    given = facts(response_body=b"")
    view = raw_view(build(given), *bodies(given))
    assert msgspec.structs.asdict(view) == {
        "schema_version": 3,
        "trace_id": given.trace_id,
        "gateway_id": "g1",
        "tenant_id": "acme",
        "occurred_on": 1767323045500,
        "request_body": '{"api_key":"[REDACTED]","model":"gpt-4o"}',
        "response_body": None,
    }


@pytest.mark.parametrize(("logical", "code"), [(0, 200), (403, 403), (504, 504)])
def test_the_logical_status_of_a_call_overrides_the_http_one(logical: int, code: int) -> None:
    mcp = Mcp(method="tools/call", operation="tool", tool="t", upstream_status=logical)
    found = record(facts(kind="mcp", mcp=mcp, attempts=(), usage=None, cost=None, provider_ms=30))
    assert (found["status"]["code"], found["response"]["status_code"]) == (code, code)
    assert found["status"]["is_timeout"] is (code == 504)
    assert (found["latency"]["provider_ms"], found["latency"]["gateway_ms"]) == (30, 20)


def test_extras_that_json_does_not_know_are_written_as_text() -> None:
    assert record(facts(policies=[mark(extras={"at": complex(1, 2)})]))["policy_chain"][0]["extras"] == {"at": "(1+2j)"}


def test_the_documented_table_is_the_schemas() -> None:
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text(encoding="utf-8")
    assert table() in page
