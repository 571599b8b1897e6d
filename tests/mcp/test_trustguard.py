"""TrustGuard on the MCP plane of a running installation: tools, resources and prompts against a guard service."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from mcp.server import MCPServer

from tests.e2e.guards import GuardServices, until
from tests.e2e.installation import Installation, installed
from tests.ports import free_port

COLLECTOR = "3f2b8c1e-0000-4000-8000-000000000001"
BLOCK = "Request blocked by security policy: prompt_injection (Det)."


def server() -> MCPServer:
    """Says again what it was told, without `~`, so that words reach the guard in answers only."""
    found = MCPServer("echo")

    @found.tool()
    def echo(text: str) -> str:
        """Says it again."""
        return text.replace("~", "")

    @found.resource("note://{name}")
    def note(name: str) -> str:
        return f"the note {name}".replace("~", "")

    @found.prompt()
    def ask(name: str) -> str:
        return f"Ask {name}".replace("~", "")

    return found


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    port = free_port()
    running = uvicorn.Server(uvicorn.Config(server().streamable_http_app(), port=port, log_level="error"))
    threading.Thread(target=running.run, daemon=True).start()
    until(lambda: running.started)
    yield f"http://127.0.0.1:{port}/mcp"
    running.should_exit = True


@pytest.fixture(scope="module")
def guards() -> Iterator[GuardServices]:
    with contextlib.closing(GuardServices()) as found:
        yield found


@pytest.fixture(scope="module")
def running(guards: GuardServices, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    settings = {"TRUSTGUARD_BASE_URL": guards.url, "TRUSTGUARD_TIMEOUT": "2s"}
    with installed(tmp_path_factory.mktemp("installation"), "all", **settings) as found:
        yield found


class Server:
    """A virtual MCP server behind TrustGuard."""

    def __init__(self, at: Installation, upstream: str, mode: str, settings: dict[str, Any]) -> None:
        base = f"/v1/gateways/{at.call('POST', '/v1/gateways', {})['id']}"
        target = {"type": "mcp", "name": "Echo", "mcp_target": {"url": upstream}}
        registry = at.call("POST", f"{base}/registries", target)["id"]
        body = {"name": "tools", "type": "MCP", "registries": [{"id": registry}]}
        consumer = at.call("POST", f"{base}/consumers", body)
        key = at.call("POST", f"{base}/auths", {"name": "key", "type": "api_key"})
        at.call("POST", f"{base}/consumers/{consumer['id']}/auths/{key['id']}")
        policy = {"name": "guard", "slug": "trustguard", "enabled": True, "mode": mode, "settings": settings}
        made = at.call("POST", f"{base}/policies", policy)["id"]
        at.call("POST", f"{base}/consumers/{consumer['id']}/policies/{made}")
        self._url, self._key = f"{at.mcp}/{consumer['slug']}/mcp", key["api_key"]

    def rpc(self, method: str, params: Any) -> tuple[Any, httpx.Headers]:
        """The result, or the error; and the headers of the answer, whose status is always 200."""
        message = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        headers = {"X-AG-API-Key": self._key, "Accept": "application/json, text/event-stream"}
        answer = httpx.post(self._url, json=message, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        text = answer.text
        if answer.headers["content-type"].startswith("text/event-stream"):
            text = next(line[5:] for line in text.splitlines() if line.startswith("data:"))
        found = json.loads(text)
        return found.get("result", found.get("error")), answer.headers

    def call(self, kind: str, text: str) -> Any:
        return self.rpc(*CALLS[kind](text))[0]


CALLS: dict[str, Any] = {
    "tool": lambda text: ("tools/call", {"name": "echo", "arguments": {"text": text}}),
    "resource": lambda text: ("resources/read", {"uri": f"note://{text}"}),
    "prompt": lambda text: ("prompts/get", {"name": "ask", "arguments": {"name": text}}),
}


@pytest.fixture(scope="module")
def servers(running: Installation, upstream: str) -> Any:
    made: dict[str, Server] = {}

    def server(mode: str = "enforce", **settings: Any) -> Server:
        key = json.dumps([mode, settings], sort_keys=True)
        if key not in made:
            made[key] = Server(running, upstream, mode, {"collector_id": COLLECTOR} | settings)
        return made[key]

    return server


@pytest.mark.parametrize("word", ["BLOCKME", "B~LOCKME"])
@pytest.mark.parametrize("kind", CALLS)
def test_calls_and_answers_pass_are_blocked_and_are_only_watched(kind: str, word: str, servers: Any) -> None:
    assert "quiet" in json.dumps(servers().call(kind, "quiet"))
    error = servers().call(kind, word)
    assert (error["code"], error["message"]) == (-32001, BLOCK)
    assert (error["data"]["type"], error["data"]["reason"]) == ("trustguard_blocked", "prompt_injection")
    assert "BLOCKME" in json.dumps(servers("observe").call(kind, word))


@pytest.mark.parametrize("kind", CALLS)
def test_answers_are_masked(kind: str, servers: Any) -> None:
    told = json.dumps(servers().call(kind, "M~ASKME"))
    assert "***" in told and "MASKME" not in told


@pytest.mark.parametrize("kind", ["tool", "prompt"])
def test_arguments_are_masked_before_the_upstream_sees_them(kind: str, servers: Any) -> None:
    told = json.dumps(servers(inspect="request").call(kind, "MASKME"))
    assert "***" in told and "MASKME" not in told


def test_what_the_service_is_shown(servers: Any, guards: GuardServices) -> None:
    for kind, (method, params) in ((kind, call("shown")) for kind, call in CALLS.items()):
        seen = len(guards.shown("/v1/evaluate"))
        servers().call(kind, "shown")
        asked, answered = guards.shown("/v1/evaluate")[seen:]
        assert (asked["direction"], asked["protocol"], asked["session_id"]) == ("input", "mcp", "")
        assert asked["payload"] == {"id": 1, "jsonrpc": "2.0", "method": method, "params": params}
        assert (answered["direction"], set(answered["payload"])) == ("output", {"id", "jsonrpc", "result"})
        assert "shown" in json.dumps(answered["payload"]["result"])
        assert asked["attributes"] == {"content_type": "application/json", "model": {}}


TROUBLE = ["GIVE500", "BADJSON", "HANGUP", "HALFBODY", "HUGEBODY", "STALL"]


@pytest.mark.parametrize("failure", TROUBLE)
def test_a_failing_service_lets_calls_pass_or_denies_them(failure: str, servers: Any) -> None:
    assert failure in json.dumps(servers(inspect="request").call("tool", failure))
    error = servers(inspect="request", on_error="fail_closed").call("tool", failure)
    data = {"error": "trustguard_error", "message": "trustguard unavailable"}
    assert error == {"code": -32001, "message": "trustguard unavailable", "data": data}


@pytest.mark.parametrize("mode", ["enforce", "observe"])
@pytest.mark.parametrize("kind", CALLS)
def test_refusals_of_the_service_deny_in_every_mode(kind: str, mode: str, servers: Any) -> None:
    limited = servers(mode).call(kind, "GIVE429")
    assert (limited["code"], limited["message"]) == (-32004, "rate limit exceeded")
    assert limited["data"] == {"message": "UPSTREAM DETAIL"}
    for status in (401, 403):
        denied = servers(mode).call(kind, f"GIVE{status}")
        assert (denied["code"], denied["data"]["error"]) == (-32001, "trustguard_unauthorized")
        assert denied["data"]["upstream_status"] == status
    gone = servers(mode).call(kind, "GIVE503")
    assert (gone["code"], gone["data"]) == (-32005, {"message": "UPSTREAM DETAIL"})


def test_lists_are_judged(servers: Any, guards: GuardServices) -> None:
    listed = servers().rpc("tools/list", {})[0]
    assert [tool["name"] for tool in listed["tools"]] == ["echo"]
    payload = guards.shown("/v1/evaluate")[-1]["payload"]
    assert payload["result"]["tools"] == listed["tools"]
