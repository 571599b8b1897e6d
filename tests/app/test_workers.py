"""`TRUSTGATE_WORKERS`: proxy processes on one port, restarted and drained by their supervisor, with one count."""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from tests.ports import free_port

SECRET = "0123456789abcdef0123456789abcdef"


class Installation:
    """`trustgate run` with two workers, embedded."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.admin, self.proxy = free_port(), free_port()
        names = ("PATH", "HOME", "LANG")
        self.environment = {name: os.environ[name] for name in names if name in os.environ} | {
            "TRUSTGATE_DATA_DIR": str(folder),
            "TRUSTGATE_WORKERS": "2",
            "SERVER_SECRET_KEY": SECRET,
            "SERVER_ADMIN_PORT": str(self.admin),
            "SERVER_PROXY_PORT": str(self.proxy),
            "MODELS_DEV_BASE_URL": "http://127.0.0.1:1",
            "METRICS_PORT": "0",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trustgate", "run"], cwd=folder, env=self.environment, stdout=subprocess.DEVNULL
        )

    def workers(self) -> list[int]:
        """Process ids of the supervisor's children."""
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return sorted(int(pid) for task in tasks for pid in task.read_text().split())

    def call(self, port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if port == self.admin:
            token = jwt.encode({"tenant_id": "acme", "exp": int(time.time()) + 600}, SECRET, algorithm="HS256")
            given["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, given | {"Content-Type": "application/json"})
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        return answer.status, json.loads(raw) if raw else None


def until(seconds: float, check: Any) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = check()
        except OSError:
            found = None
        if found or time.monotonic() > deadline:
            assert found, "it did not happen in time"
            return found
        time.sleep(0.05)


@pytest.fixture
def installation(tmp_path: pathlib.Path) -> Iterator[Installation]:
    running = Installation(tmp_path)
    try:
        until(30, lambda: running.call(running.admin, "GET", "/healthz")[0] == 200)
        until(30, lambda: running.call(running.proxy, "GET", "/healthz")[0] == 200)
        until(30, lambda: len(running.workers()) == 2)
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def demo(running: Installation) -> tuple[str, str]:
    """A gateway with one consumer whose limit is 5 requests a minute; its slug and key."""

    def post(path: str, body: Any = None) -> Any:
        status, answer = running.call(running.admin, "POST", path, body)
        assert status in (201, 204), answer
        return answer

    gateway = post("/v1/gateways", {"slug": "workers"})["id"]
    base = f"/v1/gateways/{gateway}"
    auth = {"type": "api_key", "api_key": {"api_key": "k"}}
    options = {"base_url": "http://127.0.0.1:1/v1"}
    registry = {"name": "r", "provider": "openai_compatible", "provider_options": options, "auth": auth}
    found = post(f"{base}/registries", registry)["id"]
    consumer = post(f"{base}/consumers", {"name": "c", "registries": [{"id": found}]})
    key = post(f"{base}/auths", {"name": "k", "type": "api_key"})
    post(f"{base}/consumers/{consumer['id']}/auths/{key['id']}")
    limit = {"name": "l", "slug": "rate_limiter", "enabled": True, "settings": {"limit": 5, "window": "60s"}}
    policy = post(f"{base}/policies", limit)["id"]
    post(f"{base}/consumers/{consumer['id']}/policies/{policy}")
    return consumer["slug"], key["api_key"]


def test_workers_share_one_count_survive_a_crash_and_drain(installation: Installation) -> None:
    slug, key = demo(installation)

    def ask() -> int:
        body = {"model": "m", "messages": []}
        headers = {"X_AG_Gateway_Slug": "workers", "X_AG_API_Key": key}
        return installation.call(installation.proxy, "POST", f"/{slug}/v1/chat/completions", body, **headers)[0]

    # Each call is a connection of its own, so both workers get some; the upstream is closed, the limit is not.
    statuses = [ask() for _ in range(12)]
    assert statuses == [502] * 5 + [429] * 7

    first, second = installation.workers()
    os.kill(first, signal.SIGKILL)
    until(20, lambda: len(installation.workers()) == 2 and first not in installation.workers())
    assert second in installation.workers()
    until(20, lambda: installation.call(installation.proxy, "GET", "/healthz")[0] == 200)
    assert ask() == 429

    installation.process.send_signal(signal.SIGTERM)
    assert installation.process.wait(30) == 0
