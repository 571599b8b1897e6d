"""The playground (spec 02 §13, 06 §13): a token of the console, and the complete event of its requests."""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import jwt
import pytest

from tests.e2e.installation import SECRET, Demo, Installation
from tests.e2e.upstream import TEXT, FaultyUpstream

CONTRACT = json.loads((Path(__file__).parents[1] / "vectors" / "admin-api.openapi.json").read_text())


@pytest.fixture(scope="module")
def demo(installation: Installation, upstream: FaultyUpstream) -> Demo:
    found = Demo(installation)
    found.registry("faulty", upstream.url("503"), provider="openai")
    found.registry("good", upstream.url("ok"), provider="openai")
    return found.open(model_policies=[{"registry_id": id_, "default": "gpt-4o"} for id_ in found.registries.values()])


def token(demo: Demo) -> str:
    claims = {"purpose": "playground", "consumer_slug": demo.slug, "user_id": "u1", "exp": time.time() + 300}
    return jwt.encode(claims, SECRET, algorithm="HS256")


def ask(demo: Demo, **members: Any) -> tuple[int, str, bytes]:
    """Status, trace id and body of a playground request."""
    where = urlsplit(demo.url)
    headers = {"X-AG-Gateway-Slug": demo.gateway_slug, "X-AG-Playground-Token": token(demo)}
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    body = json.dumps(
        {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "api_key": "s3cret"} | members
    )
    connection.request(
        "POST", where.path + "/v1/chat/completions", body, headers | {"Content-Type": "application/json"}
    )
    answer = connection.getresponse()
    found = answer.status, answer.getheader("X-AG-Trace-Id") or "", answer.read()
    connection.close()
    return found


def trace(demo: Demo, trace_id: str, tenant: str = "acme") -> Any:
    """The stored event, which appears shortly after the answer; None when it does not."""
    deadline = time.monotonic() + 5
    while True:
        try:
            return demo.installation.call("GET", f"/v1/playground/traces/{trace_id}", tenant=tenant)
        except AssertionError:
            if time.monotonic() > deadline or tenant != "acme":
                return None
        time.sleep(0.05)


def test_a_playground_request_leaves_its_complete_event(demo: Demo) -> None:
    status, trace_id, _ = ask(demo)
    event = trace(demo, trace_id)
    assert status == 200
    schema = {"$ref": "#/components/schemas/TraceEvent", "components": CONTRACT["components"]}
    jsonschema.validate(event, schema)
    assert event["trace_id"] == trace_id
    assert (event["tenant_id"], event["status"]) == ("acme", {"code": 200, "is_timeout": False, "outcome": "success"})
    assert [attempt["outcome"] for attempt in event["attempts"]] == ["retryable"] * 3 + ["success"]
    assert event["request"]["model"] == "m-up"
    assert event["request"]["temperature"] == 0
    assert '"api_key":"[REDACTED]"' in event["request"]["body"]
    assert event["request"]["headers"]["X-Ag-Playground-Token"] == ["[REDACTED]"]
    assert TEXT in event["response"]["body"]
    assert event["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    assert event["cost"]["currency"] == "USD"
    assert event["cost"]["total_usd"] == pytest.approx(event["cost"]["prompt_usd"] + event["cost"]["completion_usd"])
    latency = event["latency"]
    assert latency["total_ms"] >= latency["provider_ms"] == sum(found["latency_ms"] for found in event["attempts"])


def test_a_streamed_request_keeps_the_text_as_relayed(demo: Demo) -> None:
    _, trace_id, body = ask(demo, stream=True)
    event = trace(demo, trace_id)
    assert (event["request"]["stream"], event["response"]["streaming"]) == (True, True)
    assert event["response"]["body"] == body.decode()


def test_a_refused_request_has_an_event_with_its_reason(demo: Demo) -> None:
    status, trace_id, _ = ask(demo, model="pool:nothing")
    event = trace(demo, trace_id)
    assert (status, event["status"]["reason"], "attempts" in event) == (400, "invalid_model", False)


def test_another_tenant_does_not_see_the_event(demo: Demo) -> None:
    _, trace_id, _ = ask(demo)
    assert trace(demo, trace_id) is not None
    assert trace(demo, trace_id, tenant="other") is None
    assert trace(demo, "unknown", tenant="other") is None
