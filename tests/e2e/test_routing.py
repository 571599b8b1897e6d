"""Where balanced requests go, and when they go on: algorithms, triggers, budgets (spec 02 §7, §8, §15)."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import pathlib
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest

from tests.e2e.installation import Demo, Installation, installed
from tests.e2e.test_faults import ask
from tests.e2e.upstream import TEXT, FaultyUpstream

FIREWALL_SECRET = "firewall-secret-of-32-characters"
COLLECTOR = "3f2b8c1e-0000-4000-8000-000000000001"


class Outside(http.server.BaseHTTPRequestHandler):
    """The scorer, whose score is what the prompt says, and a guard that blocks answers with TEXT."""

    asked: list[tuple[str, dict[str, str], Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        status, answer = 200, dict[str, Any]()
        if self.path == "/v1/complexity":
            status, answer = (500, {}) if body["input"] == "down" else (200, {"score": float(body["input"])})
        elif self.path == "/v1/token":
            answer = {"access_token": "t", "expires_in": 3600}
        elif body["direction"] == "output" and TEXT in json.dumps(body["payload"]):
            answer = {"status": "block"}
        else:
            answer = {"status": "allow"}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def outside() -> Iterator[http.server.ThreadingHTTPServer]:
    Outside.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Outside)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


pytestmark = pytest.mark.usefixtures("nothing_received")


@pytest.fixture(scope="module")
def running(
    outside: http.server.ThreadingHTTPServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    folder: pathlib.Path = tmp_path_factory.mktemp("routing")
    base = f"http://127.0.0.1:{outside.server_port}"
    more = {"TRUSTGUARD_BASE_URL": base, "FIREWALL_BASE_URL": base, "FIREWALL_SECRET_KEY": FIREWALL_SECRET}
    more |= {"PROVIDER_RETRY_BASE_DELAY": "0", "PROVIDER_FORWARD_HEADERS": "Anthropic-Beta, traceparent"}
    with installed(folder, "run", **more) as found:
        yield found


class Trio(Demo):
    """Registries A (openai_compatible), B (mistral) and C (groq) in front of a behaviour each."""

    def __init__(self, running: Installation, upstream: FaultyUpstream, a: str, b: str, c: str = "gzip") -> None:
        super().__init__(running)
        self._upstream = upstream
        self.registry("A", upstream.url(a))
        self.registry("B", upstream.url(b), "mistral")
        self.registry("C", upstream.url(c), "groq")

    def defaults(self, *, claude_only: bool = True) -> dict[str, Any]:
        b: dict[str, Any] = {"default": "claude-x"} | ({"allowed": ["claude-x"]} if claude_only else {})
        rows = [("A", {"default": "gpt-4o-mini"}), ("B", b), ("C", {"default": "llama-3"})]
        return {"model_policies": [{"registry_id": self.registries[name]} | more for name, more in rows]}

    def fallback(self, *triggers: str, **budget: int) -> dict[str, Any]:
        return {
            "fallback": {
                "enabled": True,
                "chain": [self.registries["C"]],
                "triggers": list(triggers),
                "budget": budget,
            }
        }

    def pool(self, algorithm: str, *members: dict[str, Any], **more: Any) -> dict[str, Any]:
        rows = [row | {"registry_id": self.registries[row["registry_id"]]} for row in members]
        return {"lb_config": {"enabled": True, "algorithm": algorithm, "members": rows} | more}

    def sent(self) -> list[tuple[str, Any]]:
        """Behaviour and model of every upstream call so far, then forgotten."""
        found = [(name, request.json.get("model")) for name, request in self._upstream.received()]
        self._upstream.forget()
        return found


def tries(name: str, model: str | None, count: int = 3) -> list[tuple[str, Any]]:
    return [(name, model)] * count


# -- the worked example ------------------------------------------------------------------------------------------------

A, B, C = "gpt-4o-mini", "claude-x", "llama-3"


@pytest.mark.parametrize(
    ("a", "b", "model", "status", "sent", "selected"),
    [
        ("500", "tools", None, 200, tries("500", A) + tries("tools", B, 1), ("mistral", B)),
        ("429", "529", None, 529, tries("429", A) + tries("529", B, 2), ("mistral", B)),
        ("500", "tools", "gpt-4o", 500, tries("500", "gpt-4o"), ("openai_compatible", "gpt-4o")),
        ("ok", "tools", "claude-x", 200, tries("ok", B, 1), ("openai_compatible", B)),
        ("ok", "tools", "@Mistral/claude-x", 200, tries("tools", B, 1), ("mistral", B)),
        ("ok", "tools", "@groq/llama-3", 200, tries("gzip", C, 1), ("groq", C)),
        ("ok", "tools", " AUTO ", 200, tries("ok", A, 1), ("openai_compatible", A)),
        ("ok", "tools", "pool:fast", 400, [], None),
        ("ok", "tools", "", 200, tries("ok", "", 1), ("openai_compatible", A)),
        ("ok", "tools", "  gpt ", 200, tries("ok", "  gpt ", 1), ("openai_compatible", "gpt")),
    ],
)
def test_the_worked_example(
    a: str,
    b: str,
    model: str | None,
    status: int,
    sent: list[tuple[str, Any]],
    selected: tuple[str, str] | None,
    running: Installation,
    upstream: FaultyUpstream,
) -> None:
    demo = Trio(running, upstream, a, b)
    demo.open(**demo.defaults(), **demo.fallback("http_5xx", "timeout", max_attempts=5))
    answer = ask(demo) if model is None else ask(demo, model=model)
    assert (answer.status, demo.sent()) == (status, sent)
    if selected is not None:
        assert (answer.headers["x-selected-provider"], answer.headers["x-selected-model"].strip()) == selected


# -- triggers and budgets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("b", "triggers", "reached"),
    [
        ("500", ("http_5xx",), True),
        ("529", ("http_5xx",), True),
        ("drop", ("http_5xx",), True),
        ("500", ("http_429", "timeout", "provider_error"), False),
        ("429", ("http_429",), True),
        ("429", ("http_5xx", "timeout"), False),
        ("408", ("timeout",), True),
        ("408", ("http_5xx",), False),
        ("error-inside", ("provider_error",), True),
    ],
)
def test_the_chain_is_tried_when_the_last_failure_is_a_trigger(
    b: str, triggers: tuple[str, ...], reached: bool, running: Installation, upstream: FaultyUpstream
) -> None:
    demo = Trio(running, upstream, "503", b)
    demo.open(**demo.fallback(*triggers))
    answer = ask(demo)
    last = [("gzip", None)] if reached else []
    assert demo.sent() == tries("503", None) + tries(b, None) + last
    if reached:
        assert answer.status == 200
    else:
        assert answer.status == int(b)


def test_of_many_failures_the_last_is_told(running: Installation, upstream: FaultyUpstream) -> None:
    demo = Trio(running, upstream, "500", "drop", "400").open()
    assert ask(demo).status == 400, "a terminal answer of the third"
    demo = Trio(running, upstream, "500", "503", "drop").open()
    answer = ask(demo)
    assert (answer.status, answer.json) == (502, {"error": "backend_error"})
    assert "x-selected-provider" not in answer.headers


@pytest.mark.parametrize(
    ("budget", "sent"),
    [
        ({"max_attempts": 1}, tries("500-late", None, 1)),
        ({"max_attempts": 4}, [*tries("500-late", None), ("503", None)]),
        ({"max_total_latency_ms": 100}, tries("500-late", None, 1)),
    ],
)
def test_a_budget_is_looked_at_between_tries(
    budget: dict[str, int], sent: list[tuple[str, Any]], running: Installation, upstream: FaultyUpstream
) -> None:
    demo = Trio(running, upstream, "500-late", "503")
    demo.open(**demo.fallback("http_5xx", **budget))
    assert (ask(demo).status, demo.sent()) == (int(sent[-1][0][:3]), sent)


def test_without_fallback_there_is_no_budget(running: Installation, upstream: FaultyUpstream) -> None:
    demo = Trio(running, upstream, "500", "503")
    off = demo.fallback("http_5xx", max_attempts=1)
    off["fallback"]["enabled"] = False
    demo.open(**off)
    assert (ask(demo).status, len(demo.sent())) == (200, 7)


@pytest.mark.parametrize("trigger", ["plugin_rejection", "http_5xx"])
def test_a_blocked_answer_goes_on_only_with_its_trigger(
    trigger: str, running: Installation, upstream: FaultyUpstream
) -> None:
    demo = Trio(running, upstream, "ok", "tools")
    demo.open(**demo.fallback(trigger))
    demo.policy("trustguard", {"collector_id": COLLECTOR, "inspect": "response"})
    answer = ask(demo)
    if trigger == "http_5xx":
        assert (answer.status, answer.json["type"], demo.sent()) == (403, "trustguard_blocked", tries("ok", None, 1))
    else:
        assert (answer.status, demo.sent()) == (200, tries("ok", None, 1) + tries("tools", None, 1))


def test_when_every_answer_is_blocked_the_last_block_is_told(running: Installation, upstream: FaultyUpstream) -> None:
    demo = Trio(running, upstream, "ok", "ok")
    demo.open(**demo.fallback("plugin_rejection"))
    demo.policy("trustguard", {"collector_id": COLLECTOR, "inspect": "response"})
    answer = ask(demo)
    assert (answer.status, answer.json["type"]) == (403, "trustguard_blocked")
    assert demo.sent() == [*tries("ok", None, 2), ("gzip", None)]
    assert "x-selected-provider" not in answer.headers


def test_a_target_that_may_not_carry_the_model_is_skipped(running: Installation, upstream: FaultyUpstream) -> None:
    demo = Trio(running, upstream, "500", "tools")
    only = {"model_policies": [{"registry_id": demo.registries["B"], "allowed": ["claude-x"]}]}
    demo.open(**only)
    answer = ask(demo)
    assert (answer.status, demo.sent()) == (200, [*tries("500", None), ("gzip", None)])


def test_headers_that_the_operator_names_reach_the_provider(running: Installation, upstream: FaultyUpstream) -> None:
    demo = Demo(running)
    demo.registry("only", upstream.url("ok"), "anthropic")
    demo.open()
    where = urlsplit(demo.url)
    client = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    sent = {"anthropic-beta": "b1", "traceparent": "00-1", "openai-beta": "o", "Cookie": "c"}
    client.request("POST", where.path + "/v1/messages", b'{"model":"m","messages":[]}', demo.headers | sent)
    assert client.getresponse().status == 200
    client.close()
    (received,) = upstream.requests("ok")
    names = {
        "host",
        "content-length",
        "content-type",
        "x-api-key",
        "anthropic-version",
        "anthropic-beta",
        "traceparent",
    }
    assert (set(received.headers), received.headers["anthropic-beta"]) == (names, "b1")


# -- the algorithms ----------------------------------------------------------------------------------------------------


def test_a_weighted_rotation_begins_anew_with_a_change(running: Installation, upstream: FaultyUpstream) -> None:
    demo = Trio(running, upstream, "ok", "tools")
    weights = [{"registry_id": "A", "weight": 3}, {"registry_id": "B", "weight": 1}, {"registry_id": "C", "weight": 2}]
    demo.open(**demo.defaults(), **demo.pool("weighted-round-robin", *weights))
    expected = [{"A": "ok", "B": "tools", "C": "gzip"}[name] for name in "BCAACABCAACABC"]

    def drawn() -> list[str]:
        for _ in expected:
            ask(demo)
        return [name for name, _ in demo.sent()]

    assert drawn() == expected
    running.call("PUT", demo.base, {"metadata": {"changed": "yes"}})
    assert drawn() == expected


def test_one_registry_under_two_models_and_an_alias_of_its_own(running: Installation, upstream: FaultyUpstream) -> None:
    demo = Trio(running, upstream, "ok", "tools")
    members = [
        {"registry_id": "A", "model": "x1"},
        {"registry_id": "A", "model": "x2"},
        {"registry_id": "B", "models": ["claude-x"]},
    ]
    demo.open(**demo.defaults(), **demo.pool("round-robin", *members, pool_alias="Fast"))
    expected = [("ok", "x1"), ("ok", "x2"), ("tools", "claude-x")]
    for model in (None, "pool:fast", "POOL: Fast", "auto"):
        for _ in range(3):
            assert (ask(demo, model=model) if model else ask(demo)).status == 200
        assert demo.sent() == expected, model
    running.call("PUT", f"{demo.base}/registries/{demo.registries['A']}", {"enabled": False})
    assert [ask(demo, model="pool:fast").status for _ in range(2)] == [200, 200]
    assert demo.sent() == [("tools", "claude-x")] * 2


@contextlib.contextmanager
def held_open(demo: Demo) -> Iterator[None]:
    """A streamed request that goes on."""
    where = urlsplit(demo.url)
    body = b'{"stream":true,"messages":[]}'
    fields = "".join(f"{name}: {value}\r\n" for name, value in demo.headers.items())
    head = f"POST {where.path}/v1/chat/completions HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=30) as client:
        client.sendall(head.encode() + body)
        assert client.recv(1)
        yield


def test_least_connections_counts_streams_until_their_end(running: Installation, upstream: FaultyUpstream) -> None:
    demo = Trio(running, upstream, "slow", "ok")
    members = [{"registry_id": "A"}, {"registry_id": "B"}]
    demo.open(**demo.defaults(), **demo.pool("least-connections", *members, pool_alias="fast"))
    with held_open(demo):
        assert [ask(demo).status for _ in range(3)] == [200] * 3
        assert [ask(demo, model="pool:fast").status for _ in range(3)] == [200] * 3
        assert [name for name, _ in demo.sent()] == ["slow"] + ["ok"] * 6


def test_smart_routing_takes_the_tier_of_the_score(running: Installation, upstream: FaultyUpstream) -> None:
    demo = smart(running, upstream, "ok")
    Outside.asked.clear()
    assert [first_of(demo, prompt) for prompt in ("0.2", "0.49", "0.5", "0.99")] == ["tools", "tools", "gzip", "ok"]
    _, headers, body = Outside.asked[0]
    claims = jwt.decode(headers["token"], FIREWALL_SECRET, algorithms=["HS256"])
    assert (claims["purpose"], claims["exp"] - claims["iat"]) == ("firewall", 3600)
    assert set(body) == {"input", "conversation_id", "tenant_id"}
    assert len({asked[1]["token"] for asked in Outside.asked}) == 1
    # No tier reached, or no score: in turn, over all routes.
    assert [first_of(demo, prompt) for prompt in ("0.1", "down", "0", "0.1")] == ["ok", "tools", "gzip", "ok"]


def test_smart_routing_asks_once_although_the_request_goes_on(running: Installation, upstream: FaultyUpstream) -> None:
    demo = smart(running, upstream, "500")
    Outside.asked.clear()
    assert ask(demo, messages=[{"role": "user", "content": "0.9"}]).status == 200
    assert demo.sent() == [*tries("500", A), ("tools", B)]
    assert [path for path, _, _ in Outside.asked] == ["/v1/complexity"]


def smart(running: Installation, upstream: FaultyUpstream, a: str) -> Trio:
    demo = Trio(running, upstream, a, "tools")
    tiers = [
        {"min_score": 0.8, "registry_id": demo.registries["A"]},
        {"min_score": 0.2, "registry_id": demo.registries["B"]},
        {"min_score": 0.5, "registry_id": demo.registries["C"]},
    ]
    members = [{"registry_id": name} for name in "ABC"]
    demo.open(**demo.defaults(), **demo.pool("smart-routing", *members, smart_routing={"tiers": tiers}))
    return demo


def first_of(demo: Trio, prompt: str) -> str:
    """The behaviour that a prompt was sent to first."""
    assert ask(demo, messages=[{"role": "user", "content": prompt}]).status == 200
    return demo.sent()[0][0]
