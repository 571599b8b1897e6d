"""Running installations whose clients have sessions: one process, or MCP processes on one PostgreSQL and one Redis.

The upstream is an everything-server on the official TypeScript SDK.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import httpx

from tests.e2e.installation import Demo, Installation, environment, until_healthy
from tests.ports import free_port

BOTH = "application/json, text/event-stream"
WAIT_S = 30.0


class Setup:
    """A consumer over the everything-server, and what calls to it are made of."""

    def __init__(self, installation: Installation, endpoints: list[str], upstream: str) -> None:
        self.upstream = upstream
        self.demo = Demo(installation)
        self.registry = installation.call(
            "POST",
            f"{self.demo.base}/registries",
            {"name": "everything", "type": "mcp", "mcp_target": {"url": f"{upstream}/mcp"}},
        )["id"]
        self.demo.registries["everything"] = self.registry
        self.demo.open(type="MCP")
        self.urls = [f"{endpoint}/{self.demo.slug}/mcp" for endpoint in endpoints]

    def headers(self, session: str = "", accept: str = BOTH, **more: str) -> dict[str, str]:
        found = {"X-AG-API-Key": self.demo.key, "Accept": accept} | more
        return found | ({"Mcp-Session-Id": session} if session else {})

    def release(self, key: str) -> None:
        urllib.request.urlopen(f"{self.upstream}/release/{key}").close()

    def touch(self) -> int:
        """Change the watched resource; how many sessions of the upstream have subscribed to it."""
        with urllib.request.urlopen(f"{self.upstream}/touch") as answer:
            return int(answer.read())


class Cluster:
    """MCP processes on one PostgreSQL and one Redis, which tests kill and start."""

    def __init__(self, folder: pathlib.Path, more: dict[str, str]) -> None:
        self.folder, self.more = folder, more
        self.processes: list[subprocess.Popen[bytes]] = []
        self.endpoints: list[str] = []

    def start(self) -> int:
        """A new process; its number."""
        port, number = free_port(), len(self.processes)
        with (self.folder / f"mcp-{number}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "trustgate", "mcp"],
                cwd=self.folder,
                env=environment(self.folder, free_port(), free_port(), self.more, port),
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        until_healthy(port, process)
        self.endpoints.append(f"http://127.0.0.1:{port}")
        return number

    def kill(self, number: int) -> None:
        os.kill(self.processes[number].pid, signal.SIGKILL)
        self.processes[number].wait()


def request(method: str, params: Any = None, id: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": {} if params is None else params}


def initialize(version: str = "2025-11-25", **capabilities: Any) -> dict[str, Any]:
    info = {"name": "tests", "version": "1"}
    return request("initialize", {"protocolVersion": version, "capabilities": capabilities, "clientInfo": info})


def call(tool: str, arguments: Any = None, *, token: Any = None, id: Any = 1) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments or {}}
    return request("tools/call", params | ({"_meta": {"progressToken": token}} if token is not None else {}), id)


def opened(setup: Setup, at: int = 0, **headers: str) -> str:
    """A new session's id."""
    answer = httpx.post(setup.urls[at], json=initialize(), headers=setup.headers(**headers))
    assert answer.status_code == 200, answer.text
    return answer.headers["mcp-session-id"]


class Event:
    def __init__(self, lines: list[str]) -> None:
        self.id = next((line[4:] for line in lines if line.startswith("id: ")), "")
        data = "\n".join(line[6:] for line in lines if line.startswith("data: "))
        self.message: Any = json.loads(data) if data.strip() else None


async def events(response: httpx.Response) -> AsyncIterator[Event]:
    lines: list[str] = []
    async for line in response.aiter_lines():
        if line:
            lines.append(line)
        elif lines:
            found, lines = lines, []
            if any(not one.startswith(":") for one in found):
                yield Event(found)


def run(scenario: Any) -> None:
    """asyncio, because httpx's streams are used from several tasks; bounded."""
    asyncio.run(asyncio.wait_for(scenario, WAIT_S))


@contextlib.asynccontextmanager
async def streaming(
    client: httpx.AsyncClient, method: str, url: str, **more: Any
) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[Event]]]:
    async with client.stream(method, url, **more) as response:
        assert response.status_code == 200, await response.aread()
        yield response, events(response)
