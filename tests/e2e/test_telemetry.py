"""The records of a running installation, read where exporters put them: Kafka, OTLP, PostgreSQL, a file.

Every record that arrives is checked against the schema that ships; nothing that was sent as a secret may arrive
anywhere.
"""

from __future__ import annotations

import http.client
import json
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import psycopg
import pytest

from tests.e2e.installation import SECRET, Demo, Installation, installed
from tests.e2e.upstream import TEXT, FaultyUpstream
from tests.ports import free_port
from tests.services import KafkaBroker
from tests.telemetry.receivers import attributes, grpc_receiver
from tests.telemetry.test_kafka import consume
from trustgate.telemetry.reference import schema

Json = dict[str, Any]
VALIDATOR = jsonschema.Draft202012Validator(schema(), format_checker=jsonschema.FormatChecker())
MARK = "sensitive-"
"""Every secret that these tests send contains it."""
SECRETS = [
    *(MARK + name for name in ("member", "header", "cookie", "collector", "spare")),
    f"ag_{MARK}wrong",
    f"key-{MARK}ok-secret",  # of the upstream
    SECRET,
]
HI = {"messages": [{"role": "user", "content": "Hi"}], "api_key": f"{MARK}member", "temperature": 0, "max_tokens": 9}


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.trace = self.headers.get("x-ag-trace-id", "")
        self.body = response.read()


def ask(demo: Demo, body: Any = HI, path: str = "/v1/chat/completions", **headers: str) -> Answer:
    where = urlsplit(demo.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    given = {"Content-Type": "application/json", "X-Acme-Api-Key": f"{MARK}header", "Cookie": f"s={MARK}cookie"}
    try:
        connection.request("POST", where.path + path, json.dumps(body), given | demo.headers | headers)
        return Answer(connection.getresponse())
    finally:
        connection.close()


class Records:
    """The records of a file exporter, by trace id."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def all(self) -> dict[str, Json]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return {found["trace_id"]: found for found in map(json.loads, lines)}

    def __getitem__(self, trace_id: str) -> Json:
        """The record, checked; it arrives shortly after the answer."""
        deadline = time.monotonic() + 30
        while (found := self.all().get(trace_id)) is None:
            assert time.monotonic() < deadline, f"no record {trace_id}"
            time.sleep(0.02)
        VALIDATOR.validate(found)
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("telemetry")


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def running(folder: pathlib.Path, kafka_bootstrap: str, postgres_dsn: str, metrics_port: int) -> Iterator[Installation]:
    exporters = {
        "metadata": [
            {"name": "file", "settings": {"path": str(folder / "records.jsonl")}},
            {"name": "kafka", "settings": {"topic": "all-records", "compression": "zstd"}},
        ],
        "raw": [{"name": "bodies", "type": "postgres", "settings": {"dsn_env": "SENSIBLE_PG_DSN"}}],
    }
    (folder / "exporters.yaml").write_text(json.dumps({"exporters": exporters}))
    with installed(
        folder,
        "all",
        TELEMETRY_EXPORTERS_FILE=str(folder / "exporters.yaml"),
        KAFKA_BROKERS=kafka_bootstrap,
        SENSIBLE_PG_DSN=postgres_dsn,
        LOG_LEVEL="DEBUG",
        METRICS_PORT=str(metrics_port),
    ) as found:
        yield found


@pytest.fixture(scope="module")
def records(folder: pathlib.Path, running: Installation) -> Records:
    return Records(folder / "records.jsonl")


def demo_of(running: Installation, upstream: FaultyUpstream, *behaviours: str, **consumer: Any) -> Demo:
    demo = Demo(running)
    for name in behaviours:
        demo.registry(f"{MARK}{name}" if name == "ok" else name, upstream.url(name), provider="openai")
    policies = [{"registry_id": id_, "default": "gpt-4o"} for id_ in demo.registries.values()]
    return demo.open(**({"model_policies": policies} | consumer))


@pytest.fixture(scope="module")
def demo(running: Installation, upstream: FaultyUpstream) -> Demo:
    return demo_of(running, upstream, "ok")


def test_a_success(demo: Demo, records: Records) -> None:
    answer = ask(demo, HI | {"model": "gpt-4o"}, **{"X-Session-Id": "s-1"})
    found = records[answer.trace]
    assert answer.status == 200
    assert found["kind"] == "llm"
    assert (found["tenant_id"], found["consumer"]["name"], found["session_id"]) == ("acme", "app", "s-1")
    assert found["status"] == {"code": 200, "is_timeout": False, "outcome": "success"}
    assert (found["ip"], found["turn_id"]) == ("127.0.0.1", "chatcmpl-1")
    request = found["request"]
    assert (request["method"], request["path"]) == ("POST", f"/{demo.slug}/v1/chat/completions")
    assert (request["model"], request["requested_model"]) == ("m-up", "gpt-4o")
    assert (request["temperature"], request["max_tokens"], request["stream"]) == (0, 9, False)
    assert (request["prompt_tokens"], found["response"]["completion_tokens"]) == (5, 4)
    assert found["response"]["finish_reason"] == "stop"
    assert found["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    assert found["cost"]["total_usd"] == pytest.approx(found["cost"]["prompt_usd"] + found["cost"]["completion_usd"])
    assert request["model_label"]
    (attempt,) = found["attempts"]
    assert (attempt["pinned"], attempt["fallback"], attempt["route"], attempt["status_code"]) == (
        True, False, "consumer", 200,
    )  # fmt: skip
    assert found["config_version"] == int(answer.headers["x-ag-config-version"])
    assert request["headers"]["X-Acme-Api-Key"] == ["[REDACTED]"]
    sent = {name: values[0] for name, values in found["response"]["headers"].items()}
    assert sent["X-Ag-Trace-Id"] == answer.trace
    assert sent["X-Selected-Provider"] == answer.headers["x-selected-provider"]
    assert "X-Frame-Options" not in sent
    latency = found["latency"]
    assert latency["total_ms"] == found["end_timestamp"] - found["occurred_on"] == found["response"]["latency_ms"]
    assert latency["provider_ms"] == attempt["latency_ms"]


def test_a_stream(demo: Demo, records: Records) -> None:
    answer = ask(demo, HI | {"stream": True})
    found = records[answer.trace]
    assert (found["request"]["stream"], found["response"]["streaming"]) == (True, True)
    assert found["usage"]["total_tokens"] == 9
    assert (found["turn_id"], found["response"]["finish_reason"]) == ("chatcmpl-1", "stop")
    assert "X-Ag-Trace-Id" not in found["response"]["headers"]
    assert found["attempts"][0]["outcome"] == "success"
    assert "requested_model" not in found["request"]


def test_a_failover_lists_every_try(running: Installation, upstream: FaultyUpstream, records: Records) -> None:
    demo = demo_of(running, upstream, "503", "ok")
    found = records[ask(demo).trace]
    assert [attempt["outcome"] for attempt in found["attempts"]] == ["retryable"] * 3 + ["success"]
    assert [attempt["attempt"] for attempt in found["attempts"]] == [1, 2, 3, 4]
    assert found["request"]["registry_id"] == list(demo.registries.values())[1]
    assert found["latency"]["provider_ms"] == sum(attempt["latency_ms"] for attempt in found["attempts"])


def test_a_fallback_says_so(running: Installation, upstream: FaultyUpstream, records: Records) -> None:
    demo = Demo(running)
    demo.registry("bad", upstream.url("500"), provider="openai")
    spare = running.call(
        "POST",
        f"{demo.base}/registries",
        {
            "name": "spare",
            "provider": "openai",
            "provider_options": {"base_url": upstream.url("ok")},
            "auth": {"type": "api_key", "api_key": {"api_key": f"{MARK}spare"}},
        },
    )["id"]
    demo.open(
        registries=[{"id": id_} for id_ in (*demo.registries.values(), spare)],
        lb_config={"enabled": True, "members": [{"registry_id": demo.registries["bad"]}]},
        fallback={"enabled": True, "triggers": ["http_5xx"], "chain": [spare]},
        model_policies=[{"registry_id": id_, "default": "gpt-4o"} for id_ in (*demo.registries.values(), spare)],
    )
    found = records[ask(demo).trace]
    assert [attempt["fallback"] for attempt in found["attempts"]][-1] is True
    assert found["status"]["outcome"] == "success"


def test_an_upstream_error(running: Installation, upstream: FaultyUpstream, records: Records) -> None:
    found = records[ask(demo_of(running, upstream, "400")).trace]
    assert found["status"] == {"code": 400, "is_timeout": False, "outcome": "terminal"}
    assert "usage" not in found and "cost" not in found


def test_an_upstream_that_is_not_there(running: Installation, upstream: FaultyUpstream, records: Records) -> None:
    found = records[ask(demo_of(running, upstream, "drop")).trace]
    assert (found["status"]["code"], found["status"]["reason"]) == (502, "backend_error")
    assert {attempt["status_code"] for attempt in found["attempts"]} == {0}


def test_a_refusal_of_the_gateway_names_its_code(demo: Demo, records: Records) -> None:
    found = records[ask(demo, HI | {"model": "pool:nothing"}).trace]
    assert (found["status"]["code"], found["status"]["reason"]) == (400, "invalid_model")
    assert "attempts" not in found and "outcome" not in found["status"]


def test_an_unauthenticated_request_has_no_record(demo: Demo, records: Records) -> None:
    before = len(records.all())
    answer = ask(demo, **{"X-AG-API-Key": f"ag_{MARK}wrong"})
    assert (answer.status, answer.trace) == (401, "")
    records[ask(demo).trace]  # whatever came before it has arrived
    assert len(records.all()) == before + 1


def test_a_policy_that_blocks(running: Installation, upstream: FaultyUpstream, records: Records) -> None:
    demo = demo_of(running, upstream, "ok")
    demo.policy("model_allowlist", {"allowed_models": ["other"], "behavior_on_disallowed": "reject"})
    answer = ask(demo, HI | {"model": "gpt-4o"})
    found = records[answer.trace]
    assert found["status"]["code"] == answer.status == 403
    assert found["is_flagged"] is True
    (entry,) = found["policy_chain"]
    assert (entry["name"], entry["stage"], entry["flagged"]) == ("model_allowlist", "pre_request", True)
    assert entry["extras"]["requested_model"] == "gpt-4o"
    assert "attempts" not in found


def test_a_reservation_is_told_with_what_became_of_it(
    running: Installation, upstream: FaultyUpstream, records: Records
) -> None:
    demo = demo_of(running, upstream, "ok")
    budget = {"aggregate": {"max": 10_000, "time_window": "1h"}, "reserve": True}
    policy = demo.policy("token_rate_limiter", budget)
    (held,) = records[ask(demo).trace]["reservations"]
    assert (held["policy_id"], held["unit"], held["charged"]) == (policy, "tokens", 9)
    assert held["reserved"] > 9


def test_members_that_the_upstream_cannot_understand_are_listed(
    running: Installation, upstream: FaultyUpstream, records: Records
) -> None:
    demo = Demo(running)
    demo.registry("claude", upstream.url("400"), provider="anthropic")
    demo.open(model_policies=[{"registry_id": id_, "default": "claude-sonnet-4"} for id_ in demo.registries.values()])
    assert "logit_bias" in records[ask(demo, HI | {"logit_bias": {"1": 1}}).trace]["untranslated"]


def test_a_client_that_leaves_a_stream(running: Installation, upstream: FaultyUpstream, records: Records) -> None:
    demo = demo_of(running, upstream, "slow")
    where = urlsplit(demo.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    body = json.dumps(HI | {"stream": True})
    connection.request(
        "POST", where.path + "/v1/chat/completions", body, demo.headers | {"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    trace = response.getheader("X-AG-Trace-Id") or ""
    response.read(10)
    response.close()
    connection.close()
    found = records[trace]
    assert found["aborted"] is True
    assert (found["status"]["code"], found["response"]["streaming"]) == (200, True)
    assert found["attempts"][0]["latency_ms"] > 0


def test_a_plan_limit_has_no_reason(running: Installation, upstream: FaultyUpstream, records: Records) -> None:
    demo = demo_of(running, upstream, "ok")
    plan = {"tier": "standard", "burst_per_min": 1, "quota_per_month": 0, "max_instances": 0}
    running.call("PUT", demo.base, {"entitlements": plan}, tenant=None)
    assert ask(demo).status == 200
    answer = ask(demo)
    found = records[answer.trace]
    assert (answer.status, found["status"]) == (429, {"code": 429, "is_timeout": False})


def agent_of(running: Installation) -> tuple[str, str]:
    """The slug of a new MCP consumer, and its key."""
    demo = Demo(running)
    target = {"url": "http://127.0.0.1:1/mcp", "transport": "streamable-http"}
    body = {"name": "tools", "type": "MCP", "mcp_target": target}
    registry = running.call("POST", f"{demo.base}/registries", body)["id"]
    body = {"name": "agent", "type": "MCP", "registries": [{"id": registry}]}
    consumer = running.call("POST", f"{demo.base}/consumers", body)
    auth = running.call("POST", f"{demo.base}/auths", {"name": "key", "type": "api_key"})
    running.call("POST", f"{demo.base}/consumers/{consumer['id']}/auths/{auth['id']}")
    return consumer["slug"], auth["api_key"]


def initialize(running: Installation, slug: str, **headers: str) -> http.client.HTTPResponse:
    where = urlsplit(running.mcp)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    connection.request("POST", f"/{slug}/mcp", json.dumps(call), {"Content-Type": "application/json"} | headers)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    return response


@pytest.mark.parametrize(
    ("accept", "sent", "size"),
    [("application/json", "application/json", 1), ("text/event-stream", "text/event-stream", -1)],
)
def test_an_mcp_call(
    running: Installation, records: Records, folder: pathlib.Path, accept: str, sent: str, size: int
) -> None:
    slug, key = agent_of(running)
    response = initialize(running, slug, **{"X-AG-API-Key": key, "Accept": accept})
    trace = response.getheader("X-AG-Trace-Id") or ""
    found = records[trace]
    assert (found["kind"], found["consumer"]["name"], found["mcp"]["method"]) == ("mcp", "agent", "initialize")
    assert found["mcp"]["operation"] == "initialize"
    assert found["response"]["headers"]["Content-Type"] == [sent]
    line = eventually(lambda: access_line(folder, trace))
    assert (line["status"], line["method"], line["path"]) == (200, "POST", f"/{slug}/mcp")
    assert (line["request_id"], line["bytes_out"] >= 0) == (response.getheader("X-Request-Id"), size > 0)


def test_an_mcp_call_of_the_playground_leaves_its_complete_event(running: Installation) -> None:
    slug, key = agent_of(running)
    response = initialize(running, slug, **{"X-AG-API-Key": key, "X-AG-Playground-Token": f"{MARK}play"})
    answer = response.read().decode()
    path = f"/v1/playground/traces/{response.getheader('X-AG-Trace-Id')}"

    def kept() -> Json | None:
        try:
            return running.call("GET", path)
        except AssertionError:  # not written yet
            return None

    found = eventually(kept)
    assert (found["kind"], found["response"]["body"]) == ("mcp", answer)
    assert json.loads(found["request"]["body"])["method"] == "initialize"
    assert found["request"]["headers"]["X-Ag-Playground-Token"] == ["[REDACTED]"]


def test_bodies_are_in_the_raw_store_and_nowhere_else(demo: Demo, records: Records, postgres_dsn: str) -> None:
    answer = ask(demo, HI | {"stream": True})
    found = records[answer.trace]
    assert found["response"]["body"] is None and "body" not in found["request"]
    row = eventually(lambda: raw_row(postgres_dsn, answer.trace))
    assert '"api_key":"[REDACTED]"' in row[0] and '"content":"Hi"' in row[0]
    assert row[1] == answer.body.decode()
    plain = ask(demo)
    assert TEXT in eventually(lambda: raw_row(postgres_dsn, plain.trace))[1]


def test_a_gateway_can_keep_its_bodies_inside(
    running: Installation, upstream: FaultyUpstream, demo: Demo, postgres_dsn: str
) -> None:
    private = demo_of(running, upstream, "ok")
    shown = running.call("PUT", private.base, {"telemetry": {"capture_bodies": False}})
    assert shown["telemetry"]["capture_bodies"] is False
    kept = ask(private).trace
    other = ask(demo).trace
    eventually(lambda: raw_row(postgres_dsn, other))
    assert raw_row(postgres_dsn, kept) is None


def raw_row(dsn: str, trace_id: str) -> Any:
    with psycopg.connect(dsn) as connection:
        if connection.execute("SELECT to_regclass('trustgate_data')").fetchone() == (None,):
            return None
        select = "SELECT request_body, response_body FROM trustgate_data WHERE trace_id = %s"
        return connection.execute(select, (trace_id,)).fetchone()


def eventually(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_a_gateway_has_exporters_of_its_own_until_they_are_taken_away(
    running: Installation, upstream: FaultyUpstream, records: Records
) -> None:
    demo = demo_of(running, upstream, "ok")
    with grpc_receiver() as collector:
        headers = {"authorization": f"Bearer {MARK}collector"}
        settings = {"endpoint": collector.endpoint, "protocol": "grpc", "insecure": True, "headers": headers}
        exporters = [{"name": "mine", "type": "otlp", "settings": settings}]
        shown = running.call("PUT", demo.base, {"telemetry": {"exporters": exporters}})
        masked = shown["telemetry"]["exporters"][0]
        assert masked["settings"]["headers"] == {"authorization": "***ctor"}
        assert "confined" not in masked
        first = ask(demo).trace
        (received,) = eventually(lambda: collector.logs)
        assert attributes(received)["trustgate.trace_id"] == first
        assert collector.headers[0]["authorization"] == headers["authorization"]
        running.call("PUT", demo.base, {"telemetry": {"exporters": []}})
        records[ask(demo).trace]
        assert len(collector.logs) == 1


def test_a_tenant_may_not_point_an_exporter_at_the_metadata_service(running: Installation) -> None:
    demo = Demo(running)
    settings = {"endpoint": "http://169.254.169.254/v1/logs"}
    with pytest.raises(AssertionError, match="is not an address that tenants may export to"):
        running.call("PUT", demo.base, {"telemetry": {"exporters": [{"name": "otlp", "settings": settings}]}})


def access_line(folder: pathlib.Path, trace: str) -> Json | None:
    lines = (json.loads(text) for text in (folder / "all.log").read_text().splitlines() if text.startswith("{"))
    return next((found for found in lines if found.get("trace_id") == trace and found["msg"] == "http access"), None)


def test_the_access_log_names_the_trace(demo: Demo, folder: pathlib.Path) -> None:
    trace = ask(demo).trace
    assert eventually(lambda: access_line(folder, trace))["status"] == 200


def test_every_line_of_a_request_names_its_trace(
    running: Installation, upstream: FaultyUpstream, folder: pathlib.Path
) -> None:
    trace = ask(demo_of(running, upstream, "stream-cut"), HI | {"stream": True}).trace

    def cut() -> list[Json]:
        lines = (json.loads(text) for text in (folder / "all.log").read_text().splitlines() if text.startswith("{"))
        return [found for found in lines if found["msg"] == "upstream stream terminated unexpectedly"]

    assert [found["trace_id"] for found in eventually(cut)] == [trace]


def test_kafka_has_every_record_of_the_file(kafka_bootstrap: str, demo: Demo, records: Records) -> None:
    records[ask(demo).trace]
    expected = records.all()
    found = consume(
        kafka_bootstrap, "all-records", lambda found: set(expected) <= {message.key.decode() for message in found}
    )
    arrived = {message.key.decode(): json.loads(message.value) for message in found}
    for record in arrived.values():
        VALIDATOR.validate(record)
    assert {trace: arrived[trace] for trace in expected} == expected


def test_no_secret_comes_back_in_an_error_or_a_metric(demo: Demo, running: Installation, metrics_port: int) -> None:
    answers = [
        ask(demo, **{"X-AG-API-Key": f"ag_{MARK}wrong"}),
        ask(demo, HI | {"model": "pool:nothing"}),
        ask(demo, {"model": 5, "api_key": f"{MARK}member"}),
    ]
    connection = http.client.HTTPConnection("127.0.0.1", metrics_port, timeout=30)
    connection.request("GET", "/metrics")
    scraped = connection.getresponse().read()
    assert [answer.status for answer in answers[:2]] == [401, 400]
    assert b"trustgate_exporter_records_total" in scraped
    seen = (b"".join(answer.body for answer in answers) + scraped).decode()
    assert [secret for secret in (*SECRETS, demo.key) if secret in seen] == []


def test_no_secret_arrives_anywhere(
    demo: Demo, records: Records, folder: pathlib.Path, postgres_dsn: str, kafka_bootstrap: str
) -> None:
    trace = ask(demo).trace
    records[trace]
    eventually(lambda: raw_row(postgres_dsn, trace))
    seen = (folder / "records.jsonl").read_text() + (folder / "all.log").read_text()
    with psycopg.connect(postgres_dsn) as connection:
        seen += str(connection.execute("SELECT * FROM trustgate_data").fetchall())
    seen += "".join(m.value.decode() for m in consume(kafka_bootstrap, "all-records", lambda found: len(found) > 0))
    assert demo.slug in seen and trace in seen
    assert [secret for secret in (*SECRETS, demo.key) if secret in seen] == []


def test_what_is_queued_when_the_process_stops_still_arrives(
    tmp_path: pathlib.Path, upstream: FaultyUpstream, kafka_bootstrap: str
) -> None:
    topic = f"stop-{tmp_path.name}"
    exporters = json.dumps([{"name": "kafka", "settings": {"topic": topic}}])
    environment = {"TELEMETRY_EXPORTERS_METADATA": exporters, "KAFKA_BROKERS": kafka_bootstrap}
    with installed(tmp_path, "run", TELEMETRY_EXPORTERS_FILE="", **environment) as running:
        demo = demo_of(running, upstream, "ok")
        demo.policy("token_rate_limiter", {"aggregate": {"max": 1_000_000, "time_window": "1h"}})
        traces = {ask(demo).trace for _ in range(20)}
        assert running.stop() == [0]
    found = consume(kafka_bootstrap, topic, lambda found: len(found) >= len(traces))
    assert {message.key.decode() for message in found} == traces


def test_a_broker_that_dies_fails_no_request(
    tmp_path: pathlib.Path, upstream: FaultyUpstream, broker: KafkaBroker
) -> None:
    """Every request under load is answered, with the broker there, away and back; every record arrives in the end."""
    exporters = json.dumps([{"name": "kafka", "settings": {"topic": "t"}}])
    environment = {"TELEMETRY_EXPORTERS_METADATA": exporters, "KAFKA_BROKERS": broker.bootstrap}
    with installed(tmp_path, "run", TELEMETRY_EXPORTERS_FILE="", **environment) as running:
        demo = demo_of(running, upstream, "ok")
        answers: list[Answer] = []
        over = threading.Event()

        def load() -> None:
            while not over.is_set():
                answers.append(ask(demo))

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: len(answers) > 100)
            broker.kill()
            away = len(answers)
            eventually(lambda: len(answers) > away + 300)
            broker.start()
            back = len(answers)
            eventually(lambda: len(answers) > back + 100)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert {answer.status for answer in answers} == {200}
        traces = {answer.trace for answer in answers}
        found = consume(broker.bootstrap, "t", lambda found: traces <= {message.key.decode() for message in found})
        assert {message.key.decode() for message in found} == traces


def test_default_exporters_that_cannot_be_used_stop_the_start(tmp_path: pathlib.Path) -> None:
    with (
        pytest.raises(AssertionError, match="ended with 1"),
        installed(tmp_path, "proxy", TELEMETRY_EXPORTERS_METADATA="nats"),
    ):
        pass
    assert (
        'invalid configuration: invalid telemetry exporter: unknown exporter \\"nats\\"'
        in (tmp_path / "proxy.log").read_text()
    )
