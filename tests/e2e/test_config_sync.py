"""Control planes and data planes without a database as real processes: changes, outages, the file, TLS, scopes."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jwt

from tests.e2e.installation import SECRET, START_S, Demo, Installation, environment, installed, until_healthy
from tests.e2e.upstream import TEXT, FaultyUpstream
from tests.ports import METRICS_OFFSET, free_port
from tests.wire.certificates import Authority

TOKEN = "feed-token-" + "t" * 32
LKG_KEY = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


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

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port + METRICS_OFFSET}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line.split()[1] for line in lines if line.split()[0] == name))

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
        assert list(ready) == ["config", "dependencies", "status", "time", "version"]
        assert ready["dependencies"] == {"snapshot": "ok"}
        assert 0 <= ready["config"]["age"] < 30
        demo = demo_of(control, upstream)
        until(lambda: proxy.chat(demo)[0] == 200)
        answer = proxy.chat(demo)[1]
        assert answer["choices"][0]["message"]["content"] == TEXT
        assert upstream.requests("ok")[-1].headers["authorization"] == "Bearer key-up-secret"

        row = connection_of(control, proxy)
        assert (row["state"], row["scope"]) == ("connected", "")
        until(lambda: connection_of(control, proxy)["applied_version"] == proxy.version)

        control.call("DELETE", f"{demo.base}/consumers/{demo.consumer_id}")
        until(lambda: proxy.chat(demo)[0] == 404)
        assert not (tmp_path / "proxy" / "trustgate.db").exists()
        assert proxy.stop() == 0
        until(lambda: connection_of(control, proxy)["state"] == "disconnected")
        assert control.stop() == [0]


def connection_of(control: Installation, plane: DataPlane) -> Any:
    items = control.call("GET", "/v1/config-sync/connections", tenant=None)["items"]
    return next(item for item in items if item["instance_id"] == plane.given["CONFIG_SYNC_INSTANCE_ID"])


def test_a_plane_goes_on_without_its_control_plane_and_starts_again_from_disk(
    tmp_path: pathlib.Path, upstream: FaultyUpstream
) -> None:
    port = free_port()
    with control_plane(tmp_path / "control", port, "run") as control:
        demo = demo_of(control, upstream)
        with data_plane("proxy", tmp_path / "proxy", port) as proxy:
            until(lambda: proxy.chat(demo)[0] == 200)
            until(lambda: proxy.version)  # told a moment after the snapshot is in use
            version = proxy.version
            assert proxy.metric("trustgate_config_sync_connected") == 1
            assert proxy.metric("trustgate_config_sync_applied_total") >= 1
            assert control.stop() == [0]  # although a data plane holds its stream open
            until(lambda: proxy.metric("trustgate_config_sync_connected") == 0)
            until(lambda: proxy.metric("trustgate_config_sync_age_seconds") > 1)
            assert proxy.chat(demo)[0] == 200
            assert proxy.readiness()[0] == 200
            proxy.kill()
            proxy.start()
            assert proxy.readiness()[0] == 200
            assert proxy.version == version
            assert proxy.chat(demo)[0] == 200
            with control_plane(tmp_path / "control", port) as again:
                again.call("DELETE", f"{demo.base}/consumers/{demo.consumer_id}")
                until(lambda: proxy.chat(demo)[0] == 404)


def test_a_file_that_was_tampered_with_is_refused(tmp_path: pathlib.Path, upstream: FaultyUpstream) -> None:
    port = free_port()
    with control_plane(tmp_path / "control", port) as control, data_plane("proxy", tmp_path / "proxy", port) as proxy:
        demo = demo_of(control, upstream)
        until(lambda: proxy.chat(demo)[0] == 200)
        assert (proxy.lkg.stat().st_mode & 0o777, proxy.lkg.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert b"key-up-secret" not in proxy.lkg.read_bytes()
        control.stop()
        proxy.kill()
        sealed = bytearray(proxy.lkg.read_bytes())
        sealed[40] ^= 1
        proxy.lkg.write_bytes(sealed)
        proxy.start()
        status, body = proxy.readiness()
        assert (status, body["status"]) == (503, "not_ready")
        assert proxy.chat(demo)[0] == 400
        assert "the last known good snapshot is not used" in proxy.log


def test_a_plane_with_a_wrong_token_lives_but_is_not_ready(tmp_path: pathlib.Path) -> None:
    port = free_port()
    with control_plane(tmp_path / "control", port) as control:
        with data_plane("proxy", tmp_path / "proxy", port, CONFIG_SYNC_TOKEN="w" * 40) as proxy:
            until(lambda: proxy.log.count("UNAUTHENTICATED") >= 2)
            assert ask(proxy.port, "GET", "/healthz")[0] == 200
            status, body = proxy.readiness()
            assert (status, body["status"], body["dependencies"]) == (503, "not_ready", {"snapshot": "unavailable"})
            assert body["config"] == {"version": None, "age": None}
            assert "wwww" not in proxy.log
            assert proxy.stop() == 0
        assert control.call("GET", "/v1/config-sync/connections", tenant=None) == {"items": []}


def test_a_plane_without_a_control_plane_is_not_ready_and_ends_at_once(tmp_path: pathlib.Path) -> None:
    with data_plane("mcp", tmp_path / "mcp", free_port()) as mcp:
        status, body = mcp.readiness()
        assert (status, body["dependencies"]) == (503, {"snapshot": "unavailable"})
        assert ask(mcp.port, "GET", "/healthz")[0] == 200
        assert mcp.stop() == 0


def test_a_signed_token_sees_its_gateway_until_that_is_deleted(
    tmp_path: pathlib.Path, upstream: FaultyUpstream
) -> None:
    port = free_port()
    signing = {
        "CONFIG_SYNC_AUTH_MODE": "composite",
        "CONFIG_SYNC_JWT_SECRET": SECRET,
        "CONFIG_SYNC_JWT_ISSUER": "cp",
        "CONFIG_SYNC_JWT_AUDIENCE": "dp",
    }
    with control_plane(tmp_path / "control", port, **signing) as control:
        mine, other = demo_of(control, upstream), demo_of(control, upstream)
        gateway_id = mine.base.rsplit("/", 1)[1]
        claims = {"iss": "cp", "aud": "dp", "exp": int(time.time()) + 600, "instance_id": gateway_id}
        token = jwt.encode(claims, SECRET, "HS256")
        with (
            data_plane("proxy", tmp_path / "scoped", port, CONFIG_SYNC_TOKEN=token) as scoped,
            data_plane("proxy", tmp_path / "whole", port) as whole,
        ):
            until(lambda: scoped.chat(mine)[0] == 200 and whole.chat(other)[0] == 200)
            assert whole.chat(mine)[0] == 200
            assert scoped.chat(other)[0] == 400
            assert connection_of(control, scoped)["scope"] == gateway_id
            rows = control.call("GET", f"/v1/config-sync/connections?scope={gateway_id}", tenant=None)["items"]
            assert [row["scope"] for row in rows] == [gateway_id]
            assert [row["scope"] for row in control.call("GET", "/v1/config-sync/connections")["items"]] == [gateway_id]
            assert control.call("GET", "/v1/config-sync/connections", tenant="other")["items"] == []
            remove(control, mine)
            until(lambda: scoped.chat(mine)[0] == 400)
            assert scoped.readiness()[0] == 200


def remove(control: Installation, demo: Demo) -> None:
    """Delete a gateway with everything in it."""
    control.call("DELETE", f"{demo.base}/consumers/{demo.consumer_id}")
    for kind in ("auths", "registries"):
        for item in control.call("GET", f"{demo.base}/{kind}")["items"]:
            control.call("DELETE", f"{demo.base}/{kind}/{item['id']}")
    control.call("DELETE", demo.base)


def test_the_feed_over_tls(tmp_path: pathlib.Path, upstream: FaultyUpstream) -> None:
    port, authority = free_port(), Authority(tmp_path)
    authority.server_context("cp.internal")
    both = (tmp_path / "cp.internal.pem").read_bytes()
    split = both.index(b"-----BEGIN CERTIFICATE")
    (tmp_path / "key.pem").write_bytes(both[:split])
    (tmp_path / "cert.pem").write_bytes(both[split:])
    control_tls = {
        "CONFIG_SYNC_GRPC_TLS_CERT": str(tmp_path / "cert.pem"),
        "CONFIG_SYNC_GRPC_TLS_KEY": str(tmp_path / "key.pem"),
    }
    plane_tls = {
        "CONFIG_SYNC_TLS_INSECURE": "false",
        "CONFIG_SYNC_TLS_CA": str(authority.file),
        "CONFIG_SYNC_TLS_SERVER_NAME": "cp.internal",
    }
    with control_plane(tmp_path / "control", port, **control_tls) as control:
        demo = demo_of(control, upstream)
        with (
            data_plane("proxy", tmp_path / "good", port, **plane_tls) as good,
            data_plane("proxy", tmp_path / "name", port, **(plane_tls | {"CONFIG_SYNC_TLS_SERVER_NAME": ""})) as name,
            data_plane("proxy", tmp_path / "ca", port, **(plane_tls | {"CONFIG_SYNC_TLS_CA": ""})) as ca,
        ):
            until(lambda: good.chat(demo)[0] == 200)
            until(lambda: "the feed is interrupted" in name.log and "the feed is interrupted" in ca.log)
            assert (name.readiness()[0], ca.readiness()[0]) == (503, 503)
            assert all(line.startswith("{") for line in (name.log + ca.log).splitlines())


def test_an_mcp_plane_without_a_database_answers_tools(tmp_path: pathlib.Path, upstream: FaultyUpstream) -> None:
    port = free_port()
    with control_plane(tmp_path / "control", port) as control, data_plane("mcp", tmp_path / "mcp", port) as mcp:
        mcp.until_ready()
        demo = Demo(control).open(type="MCP", registries=[])
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        headers = {"Accept": "application/json, text/event-stream"}

        def call() -> tuple[int, Any]:
            return ask(mcp.port, "POST", f"/{demo.slug}/mcp", ping, **(demo.headers | headers))

        until(lambda: call()[0] == 200)
        assert call()[1]["result"] == {}
        assert mcp.stop() == 0


def test_workers_of_one_plane_each_follow_the_feed(tmp_path: pathlib.Path, upstream: FaultyUpstream) -> None:
    port = free_port()
    with (
        control_plane(tmp_path / "control", port) as control,
        data_plane("proxy", tmp_path / "proxy", port, TRUSTGATE_WORKERS="2") as proxy,
    ):
        name = proxy.given["CONFIG_SYNC_INSTANCE_ID"]
        until(lambda: len(instances(control)) == 2)
        assert {instance.rpartition("-")[0] for instance in instances(control)} == {name}
        demo = demo_of(control, upstream)
        until(lambda: all(proxy.chat(demo)[0] == 200 for _ in range(20)))
        assert proxy.stop() == 0


def instances(control: Installation) -> list[str]:
    items = control.call("GET", "/v1/config-sync/connections", tenant=None)["items"]
    return [item["instance_id"] for item in items if item["state"] == "connected"]


def test_a_feed_whose_address_is_taken_is_told_and_the_plane_goes_on(tmp_path: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with control_plane(tmp_path, 0, CONFIG_SYNC_GRPC_LISTEN_ADDR=f"127.0.0.1:{port}") as control:
            assert control.call("GET", "/v1/config-sync/connections", tenant=None) == {"items": []}
            assert "the config-sync feed is not served" in (tmp_path / "admin.log").read_text()


def test_a_control_plane_without_a_token_warns_and_refuses(tmp_path: pathlib.Path) -> None:
    port = free_port()
    with control_plane(tmp_path / "control", port, CONFIG_SYNC_TOKEN=""):
        log = (tmp_path / "control" / "admin.log").read_text()
        assert any("config-sync auth is not configured" in line and "WARN" in line for line in log.splitlines())
        with data_plane("proxy", tmp_path / "proxy", port) as proxy:
            until(lambda: "config-sync auth is not configured" in proxy.log)
            assert proxy.readiness()[0] == 503
