"""Explain and plan on a running installation: requests on the wire, then what is told of them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.installation import Demo, Installation, admin_token
from tests.e2e.upstream import FaultyUpstream


@pytest.fixture(scope="module")
def upstream() -> Iterator[FaultyUpstream]:
    found = FaultyUpstream()
    yield found
    found.close()


def chat(demo: Demo, model: str | None = None, key: str | None = None) -> tuple[int, str]:
    """Status and trace id of a completion."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]} | ({"model": model} if model else {})
    address = urlsplit(demo.installation.proxy)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    headers = demo.headers | {"Content-Type": "application/json"} | ({"X-AG-API-Key": key} if key else {})
    connection.request("POST", f"/{demo.slug}/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.getheader("X-AG-Trace-Id") or ""


def asked(
    installation: Installation, method: str, path: str, body: Any = None, tenant: str = "acme"
) -> tuple[int, Any]:
    """Status and JSON of an Admin API call that may be refused."""
    address = urlsplit(installation.admin)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    headers = {"Authorization": f"Bearer {admin_token(tenant)}", "Content-Type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    raw = answer.read()
    connection.close()
    return answer.status, json.loads(raw) if raw else None


def test_an_answered_request_is_explained_from_gateway_to_price(
    installation: Installation, upstream: FaultyUpstream
) -> None:
    demo = Demo(installation)
    first = demo.registry("first", upstream.url("ok"), provider="openai")
    second = demo.registry("second", upstream.url("ok"))
    spare = demo.registry("spare", upstream.url("ok"), enabled=False)
    demo.open(model_policies=[{"registry_id": first, "allowed": ["gpt-4o-mini"], "default": "gpt-4o-mini"}])
    limit = demo.policy("rate_limiter", {"limit": 100, "window": "1m"})
    status, trace_id = chat(demo, "gpt-4o-mini")
    assert status == 200
    told = installation.call("GET", f"/v1/requests/{trace_id}/explain")
    assert told["gateway_slug"] == demo.gateway_slug
    assert told["consumer"]["slug"] == demo.slug
    assert told["credential"]["method"] == "api_key" and told["credential"]["name"] == "key"
    assert told["outcome"] == {"status": 200, "answered_by": "upstream", "aborted": False}
    assert [stage["stage"] for stage in told["stages"] if stage["verdict"] != "passed"] == ["call_upstream"]
    assert told["stages"][-1] == {"stage": "call_upstream", "verdict": "answered", "detail": "1 attempt"}
    kept = {entry["registry_id"]: (entry["kept"], entry["reason"]) for entry in told["candidates"]}
    assert kept == {
        first: (True, "may serve gpt-4o-mini"),
        second: (True, "may serve gpt-4o-mini"),
        spare: (False, "is disabled"),
    }
    assert [(entry["registry_id"], entry["outcome"]) for entry in told["attempts"]] == [(first, "success")]
    assert told["balancer"]["balanced"] is False
    assert [(entry["id"], entry["settings"]["limit"], len(entry["runs"])) for entry in told["policies"]] == [
        (limit, 100, 1)
    ]
    assert told["usage"]["total_tokens"] == 9
    price = told["price"]
    assert price["cost_usd"] == pytest.approx(5 * price["input_usd_per_token"] + 4 * price["output_usd_per_token"])


def test_the_explanation_is_of_the_version_that_governed_the_request(
    installation: Installation, upstream: FaultyUpstream
) -> None:
    demo = Demo(installation)
    registry = demo.registry("then", upstream.url("ok"))
    demo.open()
    _, trace_id = chat(demo)
    installation.call("PUT", f"{demo.base}/registries/{registry}", {"name": "now", "enabled": False})
    told = installation.call("GET", f"/v1/requests/{trace_id}/explain")
    assert [(entry["name"], entry["kept"]) for entry in told["candidates"]] == [("then", True)]


def test_a_refused_request_names_the_stage_and_why_each_registry_was_dropped(
    installation: Installation, upstream: FaultyUpstream
) -> None:
    demo = Demo(installation)
    one = demo.registry("one", upstream.url("ok"))
    two = demo.registry("two", upstream.url("ok"), provider="anthropic")
    demo.open(model_policies=[{"registry_id": one, "allowed": ["a"]}, {"registry_id": two, "allowed": ["b"]}])
    status, trace_id = chat(demo, "@anthropic/a")
    assert status == 403
    told = installation.call("GET", f"/v1/requests/{trace_id}/explain")
    assert told["outcome"]["error"] == "model_not_allowed"
    refused = next(stage for stage in told["stages"] if stage["verdict"] == "refused")
    assert refused["stage"] == "choose_candidates" and "not allowed for provider" in refused["detail"]
    assert told["stages"][-1] == {"stage": "call_upstream", "verdict": "not reached"}
    assert {entry["name"]: entry["reason"] for entry in told["candidates"]} == {
        "one": "is of provider openai_compatible, not anthropic",
        "two": "its allow-list does not hold a",
    }
    assert told["balancer"] is None and told["attempts"] == []


def test_fallback_and_a_policy_s_refusal_are_told(installation: Installation, upstream: FaultyUpstream) -> None:
    demo = Demo(installation)
    bad = demo.registry("bad", upstream.url("503"))
    good = demo.registry("good", upstream.url("ok"))
    demo.open(fallback={"enabled": True, "triggers": ["http_5xx"], "chain": [good]})
    status, trace_id = chat(demo)
    told = installation.call("GET", f"/v1/requests/{trace_id}/explain")
    assert status == 200
    assert told["attempts"][-1]["registry_id"] == good and told["attempts"][-1]["outcome"] == "success"
    assert [(entry["registry_id"], entry["picked"]) for entry in told["balancer"]["routes"]] == [(bad, True)]
    assert {entry["registry_id"]: entry["sources"] for entry in told["candidates"]}[good] == ["fallback"]
    demo.policy("rate_limiter", {"limit": 1, "window": "1h"})
    chat(demo)
    status, trace_id = chat(demo)
    assert status == 429
    told = installation.call("GET", f"/v1/requests/{trace_id}/explain")
    assert told["outcome"]["answered_by"] == "policy"
    assert told["policies"][0]["runs"][0] | {"latency_ms": 0} == {
        "stage": "pre_request", "decision": "block", "status_code": 429, "error": True, "latency_ms": 0,
    }  # fmt: skip


def test_another_tenant_and_unknown_ids_get_the_same_404(installation: Installation, upstream: FaultyUpstream) -> None:
    demo = Demo(installation)
    demo.registry("r", upstream.url("ok"))
    demo.open()
    _, trace_id = chat(demo)
    mine, _ = asked(installation, "GET", f"/v1/requests/{trace_id}/explain")
    other, foreign = asked(installation, "GET", f"/v1/requests/{trace_id}/explain", tenant="globex")
    unknown, missing = asked(installation, "GET", "/v1/requests/00000000-0000-4000-8000-000000000000/explain")
    assert (mine, other, unknown) == (200, 404, 404)
    assert foreign == missing == {"error": "not_found", "message": "no decision of this request is kept here"}


def test_a_plan_tells_what_would_change_and_who_would_be_hit_and_changes_nothing(
    installation: Installation, upstream: FaultyUpstream
) -> None:
    demo = Demo(installation)
    one = demo.registry("one", upstream.url("ok"), provider="openai")
    demo.open(model_policies=[{"registry_id": one, "default": "gpt-4o"}])
    traces = [chat(demo, model)[1] for model in ("gpt-4o", "gpt-4o-mini", None)]
    installation.call("GET", f"/v1/requests/{traces[-1]}/explain")
    before = installation.call("GET", demo.base)
    secret = "sk-a-new-secret-of-the-plan"
    commands = [
        {
            "method": "POST", "path": "/registries", "as": "two",
            "body": {"name": "two", "provider": "anthropic",
                     "auth": {"type": "api_key", "api_key": {"api_key": secret}}},
        },
        {
            "method": "PUT", "path": f"/consumers/{demo.consumer_id}",
            "body": {
                "registries": [{"id": one}, {"id": "${two.id}"}],
                "model_policies": [{"registry_id": one, "allowed": ["gpt-4o"], "default": "gpt-4o"},
                                   {"registry_id": "${two.id}", "allowed": ["claude"], "default": "claude"}],
            },
        },
    ]  # fmt: skip
    status, told = asked(installation, "POST", f"{demo.base}/plan", {"commands": commands})
    assert status == 200, told
    assert told["events"] == 2
    assert ("registry", "created", "two") in {
        (change["object_type"], change["change"], change["object_name"]) for change in told["changes"]
    }
    assert secret not in json.dumps(told)
    decisions = told["decisions"]
    assert decisions["considered"] == 3
    assert (decisions["denied"], decisions["may_route"], decisions["routed"]) == (1, 1, 0)
    denied = next(group for group in decisions["groups"] if group["kind"] == "denied")
    assert denied["model"] == "gpt-4o-mini" and denied["after"].startswith("403 model_not_allowed")
    assert denied["examples"][0]["trace_id"] == traces[1]
    assert installation.call("GET", demo.base) == before
    assert [entry["name"] for entry in installation.call("GET", f"{demo.base}/registries")["items"]] == ["one"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 422, "plan: commands are required"),
        ({"commands": [{"method": "GET", "path": "/registries"}]}, 422, "commands[0]: method must be one of"),
        ({"commands": [{"method": "POST", "path": "/nothing"}]}, 422, "commands[0]: path must be one of"),
        ({"commands": [{"method": "POST", "path": "/registries/test-connection"}]}, 422, "path must be one of"),
        ({"commands": [{"method": "PUT", "path": "/registries"}]}, 422, "is not a write of the Admin API"),
        ({"commands": [{"method": "POST", "path": "/registries", "body": {}}]}, 422, "commands[0]: name is required"),
        (
            {"commands": [{"method": "DELETE", "path": "/roles/00000000-0000-4000-8000-000000000000"}]},
            404,
            "commands[0]: not_found",
        ),
        (
            {"commands": [{"method": "DELETE", "path": "/roles/${x.id}"}]}, 422, 'no earlier command is named "x"',
        ),
        ({"commands": [{"method": "PUT", "body": {}}], "from": "yesterday"}, 422, "from is not an RFC 3339 time"),
        ({"commands": [{"method": "PUT", "body": {}}], "from": "2026-01-01T00:00:00"}, 422, "from needs an offset"),
        (
            {"commands": [{"method": "PUT", "body": {}}], "from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"},
            422,
            "from must be before to",
        ),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_made_says_why(
    installation: Installation, body: dict[str, Any], status: int, message: str
) -> None:
    demo = Demo(installation)
    found, told = asked(installation, "POST", f"{demo.base}/plan", body)
    assert found == status and message in told["message"], told
    assert installation.call("GET", f"{demo.base}/versions")["total"] == 1


def test_a_plan_for_another_tenant_s_gateway_is_not_found(installation: Installation) -> None:
    demo = Demo(installation)
    commands = {"commands": [{"method": "PUT", "body": {"domain": "shop.example"}}]}
    assert asked(installation, "POST", f"{demo.base}/plan", commands)[0] == 200
    assert asked(installation, "POST", f"{demo.base}/plan", commands, tenant="globex")[0] == 404
