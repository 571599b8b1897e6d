"""Metrics as a scraper sees them: exact counts, over worker processes too, closed label sets, taken ports."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import pathlib
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.installation import Demo, installed
from tests.e2e.upstream import FaultyUpstream
from tests.ports import free_port
from tests.views import registry, view
from trustgate.app.gauges import registries_avoided
from trustgate.app.metrics_plane import places
from trustgate.balance.health import HealthStatus
from trustgate.settings import Settings
from trustgate.telemetry.instruments import MAX_SERIES, OTHER, Counter, Gauge, Histogram, added, counted, exposition
from trustgate.telemetry.metrics import Metrics

Sample = dict[tuple[tuple[str, str], ...], float]


def scrape(port: int) -> dict[str, Sample]:
    """Samples by name, each by its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, Sample] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def total(samples: dict[str, Sample], name: str, **labels: str) -> float:
    wanted = labels.items()
    return sum(value for key, value in samples.get(name, {}).items() if wanted <= dict(key).items())


@pytest.fixture
def upstream() -> Iterator[FaultyUpstream]:
    with contextlib.closing(FaultyUpstream()) as found:
        yield found


def call(demo: Demo, body: dict[str, Any], key: str = "") -> int:
    headers = demo.headers | ({"X-AG-API-Key": key} if key else {}) | {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{demo.url}/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        error.read()
        return error.code


CHAT = {"model": "m-up", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("workers", ["1", "3"])
def test_a_scrape_tells_exactly_what_clients_counted(
    tmp_path: pathlib.Path, upstream: FaultyUpstream, workers: str
) -> None:
    port = free_port()
    variables = {"TRUSTGATE_WORKERS": workers, "METRICS_PORT": str(port), "OPS_METRICS_ENABLED": "true",
                 "OPS_METRICS_PORT": str(free_port())}  # fmt: skip
    with installed(tmp_path, "run", **variables) as installation:
        demo = Demo(installation)
        demo.registry("good", upstream.url("ok"))
        demo.registry("bad", upstream.url("503"))
        fallback = {
            "enabled": True,
            "triggers": ["http_5xx"],
            "pinned": "same_model",
            "chain": [demo.registries["good"]],
        }
        demo.open(registries=[{"id": demo.registries["bad"]}, {"id": demo.registries["good"]}], fallback=fallback)
        plan = [CHAT] * 40 + [CHAT | {"stream": True}] * 20
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda body: call(demo, body), plan))
            refused = list(pool.map(lambda body: call(demo, body, "ag_wrong"), [CHAT] * 15))
        assert set(statuses) == {200} and set(refused) == {401}
        seen = scrape(port)
    mine = {"gateway": demo.gateway_slug, "consumer": demo.slug, "route": "chat_completions"}
    assert total(seen, "trustgate_requests_total", status="200", **mine) == 60
    assert total(seen, "trustgate_requests_total", status="401", **mine) == 15
    assert total(seen, "trustgate_request_duration_seconds_count", **mine) == 75
    assert total(seen, "trustgate_time_to_first_token_seconds_count", **mine) == 20
    assert total(seen, "trustgate_upstream_attempts_total", registry="good") == 60
    bad = len(upstream.requests("503"))
    assert total(seen, "trustgate_upstream_attempts_total", registry="bad") == bad > 0
    assert total(seen, "trustgate_upstream_retries_total", registry="bad") == bad * 2 / 3
    assert total(seen, "trustgate_fallbacks_total", registry="good") + bad / 3 >= 60
    assert total(seen, "trustgate_tokens_total", kind="input", gateway=demo.gateway_slug) == 60 * 5
    assert total(seen, "trustgate_tokens_total", kind="output", gateway=demo.gateway_slug) == 60 * 4
    outcomes = "agentgateway_request_outcome_total"
    assert total(seen, outcomes, plane="proxy", route="proxy.forward", outcome="allowed") == 60
    assert total(seen, outcomes, plane="proxy", route="proxy.forward", outcome="denied_auth") == 15
    assert total(seen, outcomes, plane="admin", route="admin.gateways", outcome="allowed") >= 5
    duration = "http_server_request_duration_seconds_count"
    assert total(seen, duration, http_route="/{consumer}/v1/chat/completions") == 75
    assert total(seen, "trustgate_build_info") == 1
    assert total(seen, "trustgate_config_position") > 0


def test_every_plane_has_a_port_and_a_taken_one_stops_nothing(tmp_path: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, installed(tmp_path / "", "run", METRICS_PORT=str(
        taken.getsockname()[1]
    )) as installation:  # fmt: skip
        assert installation.call("GET", "/v1/gateways")["total"] == 0
    assert "metrics are not served" in (tmp_path / "run.log").read_text()


def test_clients_cannot_make_labels_without_end() -> None:
    counter = Counter("trustgate_x_total", "x", ("model",))
    for number in range(MAX_SERIES + 500):
        counter.of(f"m{number}").value += 1
    series = counter.snapshot().series
    assert len(series) == MAX_SERIES + 1
    assert sum(one.values[0] for one in series) == MAX_SERIES + 500
    assert next(one for one in series if one.labels == (OTHER,)).values == [500]


def test_ten_thousand_invented_paths_and_models_make_no_series(
    tmp_path: pathlib.Path, upstream: FaultyUpstream
) -> None:
    port, strangers = free_port(), 10_000
    with installed(tmp_path, "run", METRICS_PORT=str(port), OPS_METRICS_ENABLED="true",
                   OPS_METRICS_PORT=str(free_port())) as installation:  # fmt: skip
        demo = Demo(installation)
        demo.registry("good", upstream.url("ok"))
        demo.open()
        assert {call(demo, CHAT | {"model": f"m-{number}"}) for number in range(100)} == {200}
        invented = [
            f"POST /nobody-{number}/v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n"
            f"X-AG-Gateway-Slug: {demo.gateway_slug}\r\nX-AG-API-Key: {demo.key}\r\n\r\n".encode()
            for number in range(strangers)
        ]
        with socket.create_connection(("127.0.0.1", int(demo.installation.proxy.rpartition(":")[2])), 60) as peer:
            for start in range(0, strangers, 50):
                peer.sendall(b"".join(invented[start : start + 50]))
                got = b""
                while got.count(b"HTTP/1.1 404 ") < 50:
                    got += (data := peer.recv(65536))
                    assert data, got
        seen = scrape(port)
    assert total(seen, "trustgate_requests_total", status="404", gateway=demo.gateway_slug) == strangers
    assert total(seen, "trustgate_requests_total", status="200", gateway=demo.gateway_slug) == 100
    assert all(len(samples) < 100 for samples in seen.values())
    assert not any("nobody-" in value or "m-9" in value for found in seen.values() for key in found for _, value in key)


def test_snapshots_add_up_and_the_dead_leave_their_counts() -> None:
    counter = Counter("trustgate_x_total", "x")
    histogram = Histogram("trustgate_x_seconds", "x", (), (1.0, 2.0))
    gauge, position = (
        Gauge(f"trustgate_{name}", "x", lambda: [((), 4.0)], highest=name == "position")
        for name in ("busy", "position")
    )
    counter.add(3)
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.of().observe(value)
    one = [instrument.snapshot() for instrument in (counter, histogram, gauge, position)]
    both = added([one, one])
    assert {family.name: family.series[0].values for family in both} == {
        "trustgate_x_total": [6],
        "trustgate_x_seconds": [4, 2, 2, 24.0],
        "trustgate_busy": [8],
        "trustgate_position": [4],
    }
    assert [family.name for family in counted(both)] == ["trustgate_x_total", "trustgate_x_seconds"]
    text = exposition(both, "")[0].decode()
    assert 'trustgate_x_seconds_bucket{le="2.0"} 6.0' in text and "trustgate_x_seconds_count 8.0" in text


def test_a_plane_shows_its_own_metrics_and_those_of_the_process() -> None:
    metrics = Metrics("1")
    metrics.requests.add(1, "g", "c", "r", "200")
    metrics.mcp_requests.add(1, "g", "c", "ping", "allowed")
    families = metrics.snapshot()
    proxy, mcp = (exposition(families, plane)[0].decode() for plane in ("proxy", "mcp"))
    assert "trustgate_requests_total{" in proxy and "trustgate_mcp_requests_total{" not in proxy
    assert "trustgate_requests_total{" not in mcp and "trustgate_mcp_requests_total{" in mcp
    assert "trustgate_build_info" in proxy and "trustgate_build_info" in mcp


@pytest.mark.parametrize(("port", "where"), [("8081", 9091), ("0", 0), ("64525", 65535), ("64526", 0), ("65535", 0)])
def test_the_metrics_of_a_plane_are_on_a_port_that_there_is(port: str, where: int) -> None:
    settings = Settings.load({"SERVER_PROXY_PORT": port})
    assert [place.port for place in places(settings, frozenset({"proxy"}))] == [where]


def test_a_registry_that_is_gone_alarms_nobody() -> None:
    statuses = [
        HealthStatus(registry_id=id_, healthy=id_ == "recovered", failures=1, last_check=0.0)
        for id_ in ("failing", "recovered", "deleted")
    ]
    served = view(registry("failing"), registry("recovered"), registry("fine"))
    slug = served.identity.slug
    told = dict(registries_avoided(statuses, [served]))
    assert told == {(slug, "failing"): 1.0, (slug, "recovered"): 0.0}


def test_the_exposition_follows_what_the_scraper_accepts() -> None:
    text, kind = exposition(Metrics("1").snapshot(), "", "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text") and text.endswith(b"# EOF\n")


NAME = re.compile(r"\b(?:trustgate|trustguard|agentgateway|http_server)_[a-z_]+\b")
ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_dashboards_alerts_and_docs_name_what_there_is(tmp_path: pathlib.Path) -> None:
    port = free_port()
    with (
        installed(tmp_path, "all", METRICS_PORT=str(port)),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer,
    ):
        text = answer.read().decode()
    known = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    fed = set(NAME.findall((ROOT / "docs/config-sync.md").read_text()))  # of planes that a control plane feeds
    spelled = known | fed | {name + suffix for name in known for suffix in ("_bucket", "_sum", "_count")}
    for file in (*(ROOT / "ops/grafana/dashboards").glob("*.json"), ROOT / "ops/alerts.yaml"):
        used = set(NAME.findall(file.read_text()))
        assert used and used <= spelled, f"{file.name}: {used - spelled}"
    assert set(NAME.findall((ROOT / "docs/metrics.md").read_text())) == known
    runbook = (ROOT / "docs/runbook.md").read_text()
    rules = yaml.safe_load((ROOT / "ops/alerts.yaml").read_text())["groups"][0]["rules"]
    assert rules and all(f"### {rule['alert']}\n" in runbook for rule in rules)


def test_the_dashboards_are_those_of_their_source(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("make", ROOT / "ops/grafana/make.py")
    assert spec is not None and spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    monkeypatch.setattr(make, "HERE", tmp_path / "d")
    make.main()
    for made in (tmp_path / "d").iterdir():
        assert made.read_text() == (ROOT / "ops/grafana/dashboards" / made.name).read_text()
