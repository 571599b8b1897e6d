"""What policies leave in the records of a running installation, on both planes (spec 04 §12)."""

from __future__ import annotations

import http.client
import http.server
import json
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.installation import Demo, Installation, installed
from tests.e2e.upstream import FaultyUpstream
from tests.mcp.upstream_server import Faulty, serving

Json = dict[str, Any]
PROMPT = "quite-private"
CHAT = {"model": "gpt-x", "messages": [{"role": "user", "content": PROMPT}]}
COLLECTOR = "3f2b8c1e-0000-4000-8000-000000000001"
SECRETS = ["sk-guard-secret-0001", "azure-secret-0001", "aws-secret-0001", "trustguard-secret-0001", PROMPT]
FINDING = {
    "source": {"plugin": "ipi", "detector_name": "Det"},
    "signal": {"type": "pi", "confidence": 0.875},
    "outcome": {"action": "block"},
    "evidence": {"quote": PROMPT},
}
PII = {"sensitiveInformationPolicy": {"piiEntities": [{"type": "EMAIL", "match": PROMPT, "action": "BLOCKED"}]}}
ANSWERS = {
    "/v1/token": {"access_token": "t", "expires_in": 3600},
    "/v1/evaluate": {"status": "block", "findings": [FINDING]},
    "/v1/moderations": {
        "results": [{"flagged": True, "categories": {"hate": True}, "category_scores": {"hate": 0.625}}]
    },
    "/azure": {"categoriesAnalysis": [{"category": "Hate", "severity": 7}]},
    "/guardrail/g/version/DRAFT/apply": {"outputs": [], "assessments": [PII]},
}


class Guards(http.server.BaseHTTPRequestHandler):
    """All guard services in one: each of them objects."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(ANSWERS[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def guards() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guards)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("records")


@pytest.fixture(scope="module")
def running(folder: pathlib.Path, guards: str) -> Iterator[Installation]:
    exporter = {"name": "file", "settings": {"path": str(folder / "records.jsonl")}}
    (folder / "exporters.yaml").write_text(json.dumps({"exporters": {"metadata": [exporter]}}))
    with installed(
        folder,
        "all",
        TELEMETRY_EXPORTERS_FILE=str(folder / "exporters.yaml"),
        TRUSTGUARD_BASE_URL=guards,
        TRUSTGUARD_CLIENT_SECRET="trustguard-secret-0001",
        OPENAI_MODERATION_BASE_URL=guards,
        AWS_ENDPOINT_URL_BEDROCK_RUNTIME=guards,
    ) as found:
        yield found


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.raw = response.read()

    @property
    def body(self) -> Json:
        return json.loads(self.raw)


def post(url: str, path: str, body: Json, headers: dict[str, str]) -> Answer:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    try:
        connection.request("POST", where.path + path, json.dumps(body), {"Content-Type": "application/json"} | headers)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def record(folder: pathlib.Path, answer: Answer) -> Json:
    """The record of an answer; it arrives shortly after it."""
    path, deadline = folder / "records.jsonl", time.monotonic() + 30
    while True:
        for line in path.read_text().splitlines() if path.exists() else []:
            found = json.loads(line) if line.endswith("}") else {}
            if found.get("trace_id") == answer.headers["x-ag-trace-id"]:
                return found
        assert time.monotonic() < deadline, "no record"
        time.sleep(0.02)


def chat(running: Installation, upstream: FaultyUpstream, slug: str, settings: Json, **more: Any) -> Demo:
    demo = Demo(running)
    demo.registry("ok", upstream.url("ok"), provider="openai")
    demo.open()
    demo.policy(slug, settings, **more)
    return demo


LIMITS = {"limit": 1, "window": "1h"}
ROUTES = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": CHAT | {"max_tokens": 5},
    "/v1/responses": {"model": "gpt-x", "input": PROMPT},
    "/v2/chat": CHAT,
    "/v1beta/models/gpt-x:generateContent": {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]},
    "/v1beta/models/gpt-x:streamGenerateContent": {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]},
}
BLOCKS = [
    # policy, settings, good requests before, status, body, headers of its own
    (
        "rate_limiter",
        LIMITS,
        1,
        429,
        {
            "error": "rate limit exceeded",
            "limit": 1,
            "message": "Request blocked: consumer rate limit exceeded. Retry after 3600s.",
            "reason": "consumer",
            "retry_after_seconds": 3600,
            "scope": "consumer",
            "window": "1h",
        },
        {"retry-after": "3600", "x-ratelimit-consumer-limit": "1", "x-ratelimit-consumer-remaining": "0"},
    ),
    (
        "token_rate_limiter",
        {"aggregate": {"max": 1, "time_window": "1h"}},
        1,
        429,
        {"error": {"scope": "consumer", "type": "token_budget_exceeded", "window": "1h"}},
        {
            "x-ratelimit-limit-tokens": "1",
            "x-ratelimit-remaining-tokens": "0",
            "x-budget-unit": "tokens",
            "x-budget-scope": "consumer",
            "x-budget-window": "1h",
        },
    ),
    (
        "model_allowlist",
        {"allowed_models": ["other"]},
        0,
        403,
        {"error": {"type": "model_not_allowed", "model": "gpt-x", "allowed": ["other"]}},
        {},
    ),
    (
        "openai_moderation",
        {"api_key": SECRETS[0], "block_on_flagged": True},
        0,
        403,
        {
            "error": {
                "type": "content_flagged",
                "message": "request blocked by content policy",
                "categories": [{"category": "hate", "score": 0.625}],
            }
        },
        {},
    ),
    (
        "azure_content_safety",
        {"api_key": SECRETS[1], "endpoint": "{guards}/azure", "category_severity": {"Hate": 2}},
        0,
        403,
        {
            "error": {
                "type": "content_flagged",
                "message": "request blocked by Azure Content Safety",
                "categories": [{"category": "Hate", "severity": 7, "threshold": 2}],
            }
        },
        {},
    ),
    (
        "bedrock_guardrail",
        {"guardrail_id": "g", "credentials": {"access_key_id": "AKIA0000TEST", "secret_access_key": SECRETS[2]}},
        0,
        403,
        {"error": {"type": "guardrail_blocked", "policy": "sensitive_information", "name": "EMAIL"}},
        {},
    ),
    (
        "trustguard",
        {"collector_id": COLLECTOR},
        0,
        403,
        {
            "status": "block",
            "message": "Request blocked by security policy: pi (Det).",
            "type": "trustguard_blocked",
            "reason": "pi",
            "plugin": "ipi",
            "detector_name": "Det",
        },
        {},
    ),
]


@pytest.mark.parametrize(
    ("slug", "settings", "before", "status", "body", "headers"), BLOCKS, ids=[b[0] for b in BLOCKS]
)
def test_a_block_is_the_same_in_every_dialect_and_is_recorded(
    running: Installation,
    upstream: FaultyUpstream,
    folder: pathlib.Path,
    guards: str,
    slug: str,
    settings: Json,
    before: int,
    status: int,
    body: Json,
    headers: dict[str, str],
) -> None:
    settings = json.loads(json.dumps(settings).replace("{guards}", guards))
    demo = chat(running, upstream, slug, settings)
    for _ in range(before):
        answer = post(demo.url, "/v1/chat/completions", CHAT, demo.headers)
        assert (answer.status, record(folder, answer)["is_flagged"]) == (200, False)
    for path, sent in ROUTES.items():
        answer = post(demo.url, path, sent, demo.headers)
        assert (answer.status, answer.body, answer.headers["content-type"]) == (status, body, "application/json"), path
        assert answer.headers | headers == answer.headers, path
        found = record(folder, answer)
        (entry,) = found["policy_chain"]
        assert (entry["name"], entry["stage"], entry["status_code"], entry["flagged"]) == (
            slug,
            "pre_request",
            status,
            True,
        )
        assert (found["status"], found["is_flagged"]) == ({"code": status, "is_timeout": False}, True)


def test_the_stages_of_a_budget_are_recorded(
    running: Installation, upstream: FaultyUpstream, folder: pathlib.Path
) -> None:
    demo = chat(running, upstream, "token_rate_limiter", {"aggregate": {"max": 100, "time_window": "1h"}})
    for stream in (False, True):
        found = record(folder, post(demo.url, "/v1/chat/completions", CHAT | {"stream": stream}, demo.headers))
        before, after = found["policy_chain"]
        assert (before["stage"], after["stage"]) == ("pre_request", "post_response")
        assert before["extras"]["tokens_consumed"] == 9 * stream
        assert (after["extras"]["tokens_actual"], after["extras"]["tokens_remaining"]) == (9, 91 - 9 * stream)
        assert set(after["extras"]) - set(before["extras"]) == {"tokens_actual"}


def agent(running: Installation, upstream: Faulty, slug: str, settings: Json, mode: str) -> tuple[str, str]:
    """The slug of a new MCP consumer with one policy, and its key."""
    demo = Demo(running)
    target = {"url": upstream.url, "transport": "streamable-http"}
    registry = running.call("POST", f"{demo.base}/registries", {"name": "t", "type": "MCP", "mcp_target": target})
    body = {"name": "agent", "type": "MCP", "registries": [{"id": registry["id"]}]}
    consumer = running.call("POST", f"{demo.base}/consumers", body)
    auth = running.call("POST", f"{demo.base}/auths", {"name": "key", "type": "api_key"})
    running.call("POST", f"{demo.base}/consumers/{consumer['id']}/auths/{auth['id']}")
    body = {"name": slug, "slug": slug, "enabled": True, "settings": settings, "mode": mode}
    policy = running.call("POST", f"{demo.base}/policies", body)
    running.call("POST", f"{demo.base}/consumers/{consumer['id']}/policies/{policy['id']}")
    return consumer["slug"], auth["api_key"]


TOOL_RULES = {"rules": [{"tool": "ec*", "windows": [{"duration": "1h", "max": 1}]}]}
SMALL = {"allowed_payload_size": 1, "size_unit": "bytes"}
CALLS = [
    # policy, settings, mode, code of the second call (None: passes), logical status, (stage, decision) of both calls
    ("rate_limiter", LIMITS, "enforce", -32004, 429, [("pre_request", None), ("pre_request", "block")]),
    ("rate_limiter", LIMITS, "observe", None, 200, [("pre_request", None), ("pre_request", "observe")]),
    ("rate_limiter", LIMITS, "throttle", None, 200, [("pre_request", None), ("pre_request", "throttle")]),
    ("per_tool_rate_limiter", TOOL_RULES, "enforce", -32004, 429, [("pre_response", None), ("pre_request", "block")]),
    ("request_size_limiter", SMALL, "enforce", -32001, 413, [("pre_request", "block")] * 2),
    ("request_size_limiter", SMALL, "observe", None, 200, [("pre_request", "observe")] * 2),
    ("trustguard", {"collector_id": COLLECTOR}, "enforce", -32001, 403, [("pre_request", "block")] * 2),
]


@pytest.mark.parametrize(("slug", "settings", "mode", "code", "status", "entries"), CALLS)
def test_a_tool_call_is_recorded_with_what_policies_said(
    running: Installation,
    folder: pathlib.Path,
    slug: str,
    settings: Json,
    mode: str,
    code: int | None,
    status: int,
    entries: list[tuple[str, str | None]],
) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {"q": PROMPT}}}
    with serving(Faulty()) as upstream:
        consumer, key = agent(running, upstream, slug, settings, mode)
        headers = {"X-AG-API-Key": key, "Accept": "application/json"}
        answers = [post(running.mcp, f"/{consumer}/mcp", call, headers) for _ in entries]
    found = [record(folder, answer) for answer in answers]
    chains = [[(entry["stage"], entry.get("decision")) for entry in one["policy_chain"]] for one in found]
    assert chains == [[entry] for entry in entries]
    assert answers[1].body.get("error", {}).get("code") == code
    assert (answers[1].status, found[1]["status"]["code"]) == (200, status)
    assert {entry["name"] for one in found for entry in one["policy_chain"]} == {slug}


def test_neither_records_nor_logs_hold_what_guards_were_shown(running: Installation, folder: pathlib.Path) -> None:
    texts = (folder / "records.jsonl").read_text() + (folder / "all.log").read_text()
    assert not [secret for secret in SECRETS if secret in texts]
