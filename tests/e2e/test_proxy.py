"""The proxy plane as its clients see it: routes and methods, headers both ways, sessions, limits (spec 02 §1-§6)."""

from __future__ import annotations

import copy
import functools
import gzip
import http.client
import json
import pathlib
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.installation import Demo, Installation, installed
from tests.e2e.test_faults import Answer, single
from tests.e2e.upstream import FaultyUpstream

CHAT = "/v1/chat/completions"
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
BODY = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'
SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-site",
}


pytestmark = pytest.mark.usefixtures("nothing_received")


@pytest.fixture(scope="module")
def demo(installation: Installation, upstream: FaultyUpstream) -> Demo:
    return single(installation, upstream, "ok")


def send(
    demo: Demo,
    path: str = CHAT,
    method: str = "POST",
    body: bytes | None = BODY,
    keep: bool = True,
    at: str = "",
    **headers: str | None,
) -> Answer:
    """A request below the consumer's slug (a path that begins with `!` is taken as it is)."""
    where = urlsplit(at or demo.url)
    given: dict[str, Any] = (demo.headers if keep else {}) | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    try:
        target = path[1:] if path.startswith("!") else where.path + path
        connection.request(method, target, body, {name: value for name, value in given.items() if value is not None})
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


NOT_FOUND = {"error": "not_found"}
UNAUTHENTICATED = {"error": "unauthenticated", "message": "unauthenticated"}


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "POST"])
def test_the_method_is_not_checked_and_the_upstream_call_is_a_post(
    method: str, demo: Demo, upstream: FaultyUpstream
) -> None:
    assert send(demo, CHAT + "?foo=bar", method).status == 200
    received = upstream.requests("ok")[0]
    assert (received.method, received.path, received.body) == ("POST", "/ok/v1/chat/completions", BODY)


def test_head_runs_the_pipeline_and_returns_headers_only(demo: Demo, upstream: FaultyUpstream) -> None:
    answer = send(demo, CHAT, "HEAD")
    assert (answer.status, answer.body, len(upstream.requests("ok"))) == (200, b"", 1)
    assert int(answer.headers["content-length"]) > 100


def test_a_preflight_is_a_request_like_others(demo: Demo) -> None:
    answer = send(
        demo, CHAT, "OPTIONS", X_AG_API_Key=None, Origin="https://a.example", Access_Control_Request_Method="POST"
    )
    assert (answer.status, answer.json) == (401, UNAUTHENTICATED)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("path", "headers", "status", "error"),
    [
        ("/v1/nope", {"X_AG_Gateway_Slug": "nope"}, 400, 'invalid auth request: gateway "nope" is unknown'),
        (
            "/v1/nope",
            {"X_AG_Gateway_Slug": None},
            400,
            "invalid auth request: host must match {slug}.llm.neuraltrust.ai",
        ),
        ("/v1/nope", {"X_AG_API_Key": "wrong"}, 404, None),
        ("!/nobody" + CHAT, {"X_AG_API_Key": "wrong"}, 404, None),
        (CHAT, {"X_AG_API_Key": None}, 401, "unauthenticated"),
        (CHAT, {"X_AG_API_Key": None, "Authorization": "Basic eA=="}, 400, None),
        (CHAT, {"X_AG_API_Key": None, "Authorization": "Bearer sk-1"}, 403, "forbidden"),
    ],
)
def test_a_bad_gateway_comes_before_a_bad_path_and_that_before_a_bad_key(
    path: str, headers: dict[str, str | None], status: int, error: str | None, demo: Demo, upstream: FaultyUpstream
) -> None:
    answer = send(demo, path, **headers)
    assert answer.status == status
    if error is not None:
        assert answer.json["message"] == error
    if status == 404:
        assert answer.json == NOT_FOUND
    assert upstream.requests("ok") == []
    assert not {"x-session-id", "x-ag-trace-id", "www-authenticate"} & answer.headers.keys()
    assert SECURITY.items() <= answer.headers.items()


def test_what_every_answer_carries_and_does_not(demo: Demo) -> None:
    answer = send(demo, X_Request_Id="mine", X_AG_Trace_Id="mine")
    assert SECURITY.items() <= answer.headers.items()
    assert answer.headers["content-length"] == str(len(answer.body))
    assert len(answer.headers["x-ag-trace-id"]) == len(answer.headers["x-session-id"]) == 36
    assert not {"server", "date", "x-request-id", "strict-transport-security"} & answer.headers.keys()


@pytest.mark.parametrize("path", ["/healthz", "/health", "/readyz"])
def test_probes_carry_no_more_than_their_body(path: str, demo: Demo) -> None:
    answer = send(demo, "!" + path, "GET", None)
    assert (answer.status, set(answer.headers)) == (200, {"content-type", "content-length"})
    assert send(demo, "!" + path, "POST").json == NOT_FOUND
    assert send(demo, f"!{path}/", "GET", None).json == NOT_FOUND


def test_no_client_header_reaches_the_upstream(demo: Demo, upstream: FaultyUpstream) -> None:
    sent = {"Cookie": "a=b", "anthropic_beta": "x", "OpenAI_Organization": "o", "X_Forwarded_For": "1.2.3.4"}
    assert send(demo, **sent, traceparent="00-1", Authorization="Bearer sk-mine").status == 200
    received = upstream.requests("ok")[0].headers
    assert set(received) == {"host", "content-type", "authorization", "content-length"}
    assert received["authorization"] == "Bearer key-only-secret"


def test_no_upstream_header_reaches_the_client_but_retry_after_of_an_error(
    installation: Installation, upstream: FaultyUpstream
) -> None:
    own = {*SECURITY, "content-type", "content-length", "x-selected-provider", "x-selected-model"}
    own |= {"x-session-id", "x-ag-trace-id", "x-ag-config-version"}
    answer = send(single(installation, upstream, "extra"))
    assert (answer.status, set(answer.headers)) == (200, own), "any success is 200"
    answer = send(single(installation, upstream, "extra-400"))
    assert (answer.status, set(answer.headers)) == (400, own | {"retry-after"})
    assert (answer.headers["retry-after"], answer.headers["content-type"]) == ("7", "application/json")


def test_a_redirect_is_relayed_and_not_followed(installation: Installation, upstream: FaultyUpstream) -> None:
    answer = send(single(installation, upstream, "302"))
    assert (answer.status, answer.json, len(upstream.requests("302"))) == (302, {"moved": True}, 1)
    assert "location" not in answer.headers


@pytest.mark.parametrize(
    ("query", "members", "streamed"),
    [
        ("", {"stream": True}, True),
        ("", {"stream": False}, False),
        ("", {"stream": 1}, False),
        ("", {"stream": "true"}, False),
        ("", {"stream": None}, False),
        ("?alt=sse", {"stream": False}, True),
        ("?alt=json&alt=sse", {}, False),
        ("?alt=&alt=sse", {}, False),
        ("?alt=SSE", {}, False),
    ],
)
def test_what_makes_a_stream(query: str, members: dict[str, Any], streamed: bool, demo: Demo) -> None:
    answer = send(demo, CHAT + query, body=json.dumps(json.loads(BODY) | members).encode())
    kind = "text/event-stream" if streamed else "application/json"
    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    if streamed:
        assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
        assert answer.body.endswith(b"data: [DONE]\n\n")


def test_a_body_that_cannot_be_decoded_is_refused_with_session_and_trace(demo: Demo, upstream: FaultyUpstream) -> None:
    answer = send(demo, body=b"junk", Content_Encoding="gzip", X_Session_Id="s1")
    message = "invalid request payload: the body is not valid gzip"
    assert (answer.status, answer.json) == (400, {"error": "invalid_request", "message": message})
    assert answer.headers["x-session-id"] == "s1"
    assert "x-ag-trace-id" in answer.headers
    assert send(demo, body=gzip.compress(BODY), Content_Encoding="gzip").status == 200
    assert [request.body for request in upstream.requests("ok")] == [BODY]


def test_the_models_a_consumer_may_name(installation: Installation, upstream: FaultyUpstream) -> None:
    demo = Demo(installation)
    a, b = demo.registry("a", upstream.url("ok")), demo.registry("b", upstream.url("ok"), "mistral")
    c = demo.registry("c", upstream.url("ok"), "groq")
    members = [{"registry_id": a, "model": "x1"}, {"registry_id": a, "model": "x2"}]
    demo.open(
        model_policies=[
            {"registry_id": a},
            {"registry_id": b, "allowed": ["b2", "b1"], "default": "b1"},
            {"registry_id": c, "default": "c1"},
        ],
        fallback={"enabled": True, "chain": [c], "triggers": ["http_5xx"]},
        lb_config={"enabled": True, "pool_alias": "fast", "members": members},
    )
    listed = send(demo, "/v1/models", "GET", None).json
    owners = {row["id"]: row["owned_by"] for row in listed["data"]}
    expected = {"x1": "openai_compatible", "b2": "mistral", "b1": "mistral", "c1": "groq", "x2": "openai_compatible"}
    assert list(owners.items()) == [*expected.items(), ("pool:fast", "trustgate")]
    assert (listed["object"], {row["object"] for row in listed["data"]}) == ("list", {"model"})
    assert {send(demo, CHAT, body=json.dumps({"model": name}).encode()).status for name in owners} == {200}
    listed = send(demo, "/v1/models", "GET", None, anthropic_version="2023-06-01").json
    assert ([row["id"] for row in listed["data"]], listed["has_more"]) == (list(owners), False)
    assert (listed["first_id"], listed["last_id"]) == ("x1", "pool:fast")
    assert send(demo, "/v1/models").json == send(demo, "/v1/models/x1", "GET", None).json == NOT_FOUND
    assert send(demo, "/v1/models", "GET", None, X_AG_API_Key=None).json == UNAUTHENTICATED


# -- sessions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "headers", "members", "session"),
    [
        ({}, {"X_Session_Id": " abc "}, {}, "abc"),
        ({}, {"X_Session_Id": ""}, {}, None),
        ({}, {}, {"session": "b"}, None),
        ({"header_name": "X-Talk", "body_param_name": "session"}, {"X_Talk": "h"}, {"session": "b"}, "h"),
        ({"header_name": "X-Talk", "body_param_name": "session"}, {"X_Session_Id": "h"}, {"session": "b"}, "b"),
        ({"body_param_name": "session"}, {}, {"session": 5}, None),
        ({"body_param_name": "session"}, {}, {"session": ""}, None),
    ],
)
def test_the_session_is_the_headers_else_the_bodys_else_new(
    config: dict[str, Any],
    headers: dict[str, str],
    members: dict[str, Any],
    session: str | None,
    installation: Installation,
    upstream: FaultyUpstream,
) -> None:
    demo = single(installation, upstream, "ok")
    installation.call("PUT", demo.base, {"session_config": {"enabled": True} | config})
    body = json.dumps(json.loads(BODY) | members).encode()
    found = send(demo, body=body, **headers).headers["x-session-id"]
    assert found == session if session is not None else len(found) == 36
    assert upstream.requests("ok")[-1].body == body, "the member stays in the body"


def test_a_session_id_comes_back_as_the_bytes_it_was(demo: Demo) -> None:
    sent = "séance".encode().decode("latin-1")
    assert send(demo, X_Session_Id=sent).headers["x-session-id"] == sent


def test_disabled_sessions_have_no_header(installation: Installation, upstream: FaultyUpstream) -> None:
    demo = single(installation, upstream, "ok")
    installation.call("PUT", demo.base, {"session_config": {"enabled": False}})
    assert "x-session-id" not in send(demo, X_Session_Id="abc").headers


def test_the_last_response_of_a_session_is_continued_by_its_own_consumer_only(
    installation: Installation, upstream: FaultyUpstream
) -> None:
    demo = Demo(installation)
    only = demo.registry("only", upstream.url("responses"), "openai")
    demo.open()
    other = installation.call("POST", f"{demo.base}/consumers", {"name": "other", "registries": [{"id": only}]})
    key = installation.call("POST", f"{demo.base}/auths", {"name": "other", "type": "api_key"})
    installation.call("POST", f"{demo.base}/consumers/{other['id']}/auths/{key['id']}")

    def turn(path: str = "/v1/responses", session: str | None = "s1", **more: Any) -> tuple[str, Any]:
        headers = {"X_AG_API_Key": key["api_key"]} if path.startswith("!") else {}
        body = json.dumps({"model": "m", "input": "Hi"} | more).encode()
        answer = send(demo, path, body=body, X_Session_Id=session, **headers)
        assert answer.status == 200
        return answer.json["id"], upstream.requests("responses")[-1].json.get("previous_response_id")

    first, continued = turn()
    assert continued is None
    # The record is written after the answer: wait for it as a client would, by asking again.
    for _ in range(100):
        before = first
        first, continued = turn()
        if continued == before:
            break
    assert continued == before
    assert turn(previous_response_id="resp_mine")[1] == "resp_mine"
    assert turn(previous_response_id=None)[1] is None
    assert turn(session="s2")[1] is None
    assert turn(session=None)[1] is None
    assert turn(f"!/{other['slug']}/v1/responses")[1] is None


# -- the plan of the gateway -------------------------------------------------------------------------------------------


def test_the_plan_counts_every_authenticated_request(installation: Installation, upstream: FaultyUpstream) -> None:
    planned = copy.copy(installation)
    planned.call = functools.partial(
        installation.call, tenant="planned"
    )  # later gateways of a tenant take its caps over
    demo = single(planned, upstream, "ok")
    caps = {"tier": "enterprise", "burst_per_min": 2, "quota_per_month": 3, "max_instances": 100_000}
    installation.call("PUT", demo.base, {"entitlements": caps}, tenant=None)
    assert send(demo, X_AG_API_Key="wrong").status == 401
    assert [send(demo, body=b'{"modelId":1}').status, send(demo).status] == [400, 200]
    refused = send(demo)
    wait = refused.json["retry_after_seconds"]
    assert 1 <= wait <= 60
    assert (refused.status, refused.json) == (
        429,
        {
            "error": "rate limit exceeded",
            "limit": 2,
            "message": f"Request blocked: gateway burst rate limit exceeded. Retry after {wait}s.",
            "reason": "burst",
            "retry_after_seconds": wait,
        },
    )
    expected = {"retry-after": str(wait), "x-ratelimit-limit": "2", "x-ratelimit-remaining": "0"}
    assert (expected | {"x-ratelimit-reason": "burst"}).items() <= refused.headers.items()
    assert {"x-session-id", "x-ag-trace-id"} <= refused.headers.keys()
    installation.call("PUT", demo.base, {"entitlements": caps | {"burst_per_min": 100}}, tenant=None)
    assert send(demo).status == 200, "refused by the burst, it did not count for the month"
    refused = send(demo, "/v1/models", "GET", None)
    wait = refused.json["retry_after_seconds"]
    assert refused.json["message"] == f"Request blocked: monthly request quota exceeded. Retry after {wait}s."
    assert (refused.status, refused.json["limit"], refused.headers["x-ratelimit-reason"]) == (429, 3, "quota")
    assert len(upstream.requests("ok")) == 2


def test_a_trusted_proxy_names_the_client_of_a_key_that_is_bound_to_networks(
    tmp_path: pathlib.Path, upstream: FaultyUpstream
) -> None:
    with installed(tmp_path, "all", TRUSTED_PROXY_CIDRS="127.0.0.1,10.9.0.0/16") as running:
        demo = single(running, upstream, "ok")
        (auth,) = running.call("GET", f"{demo.base}/auths")["items"]
        running.call("PUT", f"{demo.base}/auths/{auth['id']}", {"allowed_cidrs": ["10.0.0.0/8"]})
        named = {"10.1.1.1": 200, "11.0.0.1": 401, "10.1.1.1, 11.0.0.1": 401, "11.0.0.1, 10.1.1.1, 10.9.0.1": 200}
        for address, status in named.items():
            assert send(demo, X_Forwarded_For=address).status == status, address
        assert send(demo).status == 401, "the proxy itself is in none of them"
        agent = running.call("POST", f"{demo.base}/consumers", {"name": "agent", "type": "MCP"})
        running.call("POST", f"{demo.base}/consumers/{agent['id']}/auths/{auth['id']}")
        for address, status in named.items():
            target = f"!/{agent['slug']}/mcp"
            ping = send(
                demo, target, body=PING, at=running.mcp, X_Forwarded_For=address, Content_Type="application/json"
            )
            assert ping.status == status, address


def test_nobody_is_trusted_to_name_clients_by_default(installation: Installation, upstream: FaultyUpstream) -> None:
    demo = single(installation, upstream, "ok")
    (auth,) = installation.call("GET", f"{demo.base}/auths")["items"]
    installation.call("PUT", f"{demo.base}/auths/{auth['id']}", {"allowed_cidrs": ["10.0.0.0/8"]})
    assert send(demo, X_Forwarded_For="10.1.1.1").status == 401
