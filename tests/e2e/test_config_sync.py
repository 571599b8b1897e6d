"""Control planes and data planes without a database as real processes: changes, outages, the file on disk, TLS, scopes."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jwt
import pytest

from tests.e2e.installation import SECRET, START_S, Demo, Installation, environment, free_port, installed, until_healthy
from tests.e2e.upstream import TEXT, FaultyUpstream
from tests.wire.certificates import Authority

TOKEN = "feed-token-" + "t" * 32
LKG_KEY = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


@pytest.fixture(scope="module")
def upstream() -> Iterator[FaultyUpstream]:
    faulty = FaultyUpstream()
    yield faulty
    faulty.close()


def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> float:
    """Wait for the condition; how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, "it did not come true"
        time.sleep(0.02)
    return time.monotonic() - began


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        data = json.dumps(body).encode() if body is not None else None
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, data, {"Content-Type": "application/json"} | given)
        answer = connection.getresponse()
        raw = answer.read()
    finally:
        connection.close()
    with contextlib.suppress(ValueError):
        return answer.status, json.loads(raw)
    return answer.status, raw


class DataPlane:
    """A process without a database."""

    def __init__(self, plane: str, folder: pathlib.Path, grpc_port: int, **more: str) -> None:
        self.plane, self.folder, self.port = plane, folder, free_port()
        folder.mkdir(exist_ok=True)
        ports: Mapping[str, int] = {"proxy": 0, "mcp": 0} | {plane: self.port}
        self.given = environment(folder, 0, ports["proxy"], {}, ports["mcp"]) | {
            "CONFIG_SYNC_DATA_PLANE_ENABLED": "true",
            "CONFIG_SYNC_GRPC_ENDPOINT": f"localhost:{grpc_port}",
            "CONFIG_SYNC_TOKEN": TOKEN,
            "CONFIG_SYNC_LKG_KEY": LKG_KEY,
            "CONFIG_SYNC_LKG_PATH": str(folder / "lkg" / "snapshot.lkg"),
            "CONFIG_SYNC_TLS_INSECURE": "true",
            "CONFIG_SYNC_INSTANCE_ID": f"{plane}-{self.port}",
            "CONFIG_SYNC_GRPC_MIN_BACKOFF": "200ms",
            "CONFIG_SYNC_GRPC_MAX_BACKOFF": "1s",
            **more,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.folder / f"{self.plane}.log").read_text()

    @property
    def lkg(self) -> pathlib.Path:
        return pathlib.Path(self.given["CONFIG_SYNC_LKG_PATH"])

    def start(self) -> DataPlane:
        with (self.folder / f"{self.plane}.log").open("wb") as log:
            command = [sys.executable, "-m", "trustgate", self.plane]
            self._process = subprocess.Popen(command, cwd=self.folder, env=self.given, stdout=log, stderr=log)
        until_healthy(self.port, self._process)
        return self

    def stop(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(START_S)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def readiness(self) -> tuple[int, Any]:
        return ask(self.port, "GET", "/readyz")

    def until_ready(self) -> Any:
        until(lambda: self.readiness()[0] == 200)
        return self.readiness()[1]

    @property
    def version(self) -> str:
        return self.readiness()[1]["config"]["version"]

    def chat(self, demo: Demo, **headers: str) -> tuple[int, Any]:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        return ask(self.port, "POST", f"/{demo.slug}/v1/chat/completions", body, **(demo.headers | headers))


@contextlib.contextmanager
def data_plane(plane: str, folder: pathlib.Path, grpc_port: int, **more: str) -> Iterator[DataPlane]:
    running = DataPlane(plane, folder, grpc_port, **more)
    try:
        yield running.start()
    finally:
        running.kill()


@contextlib.contextmanager
def control_plane(folder: pathlib.Path, grpc_port: int, plane: str = "admin", **more: str) -> Iterator[Installation]:
    folder.mkdir(exist_ok=True)
    given = {"CONFIG_SYNC_GRPC_LISTEN_ADDR": f":{grpc_port}", "CONFIG_SYNC_TOKEN": TOKEN} | more
    with installed(folder, plane, **given) as running:
        yield running


def demo_of(installation: Installation, upstream: FaultyUpstream) -> Demo:
    demo = Demo(installation)
    demo.registry("up", upstream.url("ok"))
    return demo.open()


def test_a_change_reaches_a_proxy_without_a_database(tmp_path: pathlib.Path, upstream: FaultyUpstream) -> None:
    port = free_port()
    with control_plane(tmp_path / "control", port) as control, data_plane("proxy", tmp_path / "proxy", port) as proxy:
        ready = proxy.until_ready()
        assert ready["dependencies"] == {"snapshot": "ok"}
        demo = demo_of(control, upstream)
        took = until(lambda: proxy.chat(demo)[0] == 200)
        assert took < 10
        status, answer = proxy.chat(demo)
        assert answer["choices"][0]["message"]["content"] == TEXT
        assert upstream.requests("ok")[-1].headers["authorization"] == "Bearer key-up-secret"
        control.call("DELETE", f"{demo.base}/consumers/{demo.consumer_id}")
        until(lambda: proxy.chat(demo)[0] == 404)
        assert proxy.stop() == 0
