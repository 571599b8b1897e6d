"""A running installation with two workers; the official Python SDK is its client and its upstream servers."""

from __future__ import annotations

import http.client
import pathlib
import threading
import time
from collections.abc import Iterator

import httpx2
import pytest
import uvicorn
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer

from mcp import ClientSession
from tests.e2e.installation import Installation, installed
from tests.ports import free_port


def notes() -> MCPServer:
    server = MCPServer("notes")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    @server.tool()
    def fail() -> str:
        """Fails."""
        raise ValueError("on purpose")

    @server.resource("note://{name}")
    def note(name: str) -> str:
        return f"the note {name}"

    @server.resource("data://fixed")
    def fixed() -> str:
        return "fixed"

    return server


def greeter() -> MCPServer:
    server = MCPServer("greeter")

    @server.tool()
    def add(a: str, b: str) -> str:
        """Joins."""
        return a + b

    @server.prompt()
    def hello(name: str) -> str:
        return f"Say hello to {name}"

    return server


@pytest.fixture(scope="module")
def upstreams() -> Iterator[dict[str, str]]:
    """One server that answers in streams, one that answers in JSON without sessions."""
    apps = {
        "Notes": notes().streamable_http_app(),
        "Greeter": greeter().streamable_http_app(json_response=True, stateless_http=True),
    }
    servers: dict[str, uvicorn.Server] = {}
    urls: dict[str, str] = {}
    for name, app in apps.items():
        port = free_port()
        servers[name] = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
        threading.Thread(target=servers[name].run, daemon=True).start()
        urls[name] = f"http://127.0.0.1:{port}/mcp"
    deadline = time.monotonic() + 20
    while not all(server.started for server in servers.values()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield urls
    for server in servers.values():
        server.should_exit = True


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder: pathlib.Path = tmp_path_factory.mktemp("installation")
    with installed(folder, "all", TRUSTGATE_WORKERS="2", LOG_FORMAT="text") as found:
        yield found


class Tools:
    """A virtual MCP server of its own over these upstreams."""

    def __init__(self, at: Installation, urls: dict[str, str]) -> None:
        base = f"/v1/gateways/{at.call('POST', '/v1/gateways', {})['id']}"
        ids = [
            at.call("POST", f"{base}/registries", {"type": "mcp", "name": name, "mcp_target": {"url": url}})["id"]
            for name, url in urls.items()
        ]
        body = {"name": "tools", "type": "MCP", "registries": [{"id": id_} for id_ in ids]}
        consumer = at.call("POST", f"{base}/consumers", body)
        key = at.call("POST", f"{base}/auths", {"name": "key", "type": "api_key"})
        at.call("POST", f"{base}/consumers/{consumer['id']}/auths/{key['id']}")
        self.url, self.key = f"{at.mcp}/{consumer['slug']}/mcp", key["api_key"]


@pytest.fixture(scope="module")
def tools(running: Installation, upstreams: dict[str, str]) -> Tools:
    return Tools(running, upstreams)


async def test_the_python_sdk_uses_two_servers_as_one(tools: Tools) -> None:
    async with (
        httpx2.AsyncClient(headers={"X-AG-API-Key": tools.key}, timeout=30) as http_client,
        streamable_http_client(tools.url, http_client=http_client) as streams,
        ClientSession(*streams[:2]) as session,
    ):
        greeting = await session.initialize()
        listed = await session.list_tools()
        summed = await session.call_tool("Notes_add", {"a": 2, "b": 3})
        joined = await session.call_tool("Greeter_add", {"a": "2", "b": "3"})
        failed = await session.call_tool("fail", {})
        templates = await session.list_resource_templates()
        resources = await session.list_resources()
        note = await session.read_resource("note://one")  # listed by nobody, found by asking
        prompts = await session.list_prompts()
        prompt = await session.get_prompt("hello", {"name": "Ada"})
    assert greeting.server_info.name == "trustgate"
    assert [one.name for one in listed.tools] == ["Notes_add", "fail", "Greeter_add"]
    assert (summed.structured_content, joined.structured_content) == ({"result": 5}, {"result": "23"})
    assert failed.is_error
    assert [one.uri_template for one in templates.resource_templates] == ["note://{name}"]
    assert [str(one.uri) for one in resources.resources] == ["data://fixed"]
    assert [getattr(one, "text", None) for one in note.contents] == ["the note one"]
    assert [one.name for one in prompts.prompts] == ["hello"]
    assert getattr(prompt.messages[0].content, "text", None) == "Say hello to Ada"


def test_every_worker_serves_the_endpoint(tools: Tools) -> None:
    host, _, path = tools.url.removeprefix("http://").partition("/")
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"Notes_add","arguments":{"a":1,"b":1}}}'
    answers: list[tuple[int, bool]] = []
    for _ in range(12):  # a new connection each: the kernel picks the worker
        connection = http.client.HTTPConnection(host, timeout=30)
        connection.request("POST", f"/{path}", body, {"X-AG-API-Key": tools.key})
        answer = connection.getresponse()
        answers.append((answer.status, b'"structuredContent":{"result":2}' in answer.read()))
        connection.close()
    assert answers == [(200, True)] * 12
