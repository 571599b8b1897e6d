"""A running installation for tests that speak to it as clients do: processes on free ports, and an admin client."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jwt

from tests.ports import free_port

SECRET = "0123456789abcdef0123456789abcdef"
START_S = 60.0
MACHINE_KEY = (pathlib.Path(__file__).parent.parent / "vectors" / "README.md").read_text(encoding="utf-8")


def admin_token(tenant: str | None = "acme") -> str:
    claims: dict[str, Any] = {"sub": "tests", "exp": int(time.time()) + 600}
    if tenant is not None:
        claims["tenant_id"] = tenant
    return jwt.encode(claims, SECRET, algorithm="HS256")


class Installation:
    """Addresses of a running installation, and calls of its Admin API with a platform token."""

    def __init__(self, admin: int, proxy: int, mcp: int = 0, processes: Sequence[subprocess.Popen[bytes]] = ()) -> None:
        self._processes = processes
        self.admin = f"http://127.0.0.1:{admin}"
        self.proxy = f"http://127.0.0.1:{proxy}"
        self.mcp = f"http://127.0.0.1:{mcp}"
        self._admin_port = admin

    def stop(self) -> list[int]:
        """End all processes gracefully; their exit codes."""
        for process in self._processes:
            process.terminate()
        return [process.wait(START_S) for process in self._processes]

    def call(self, method: str, path: str, body: Any = None, *, tenant: str | None = "acme") -> Any:
        """The JSON answer of an Admin API call that must succeed; without a tenant as the platform."""
        headers = {"Authorization": "Bearer " + admin_token(tenant)}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body), "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self._admin_port, timeout=30)
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        assert 200 <= answer.status < 300, (answer.status, raw)
        return json.loads(raw) if raw else None


class Demo:
    """A gateway of its own with one consumer; registries are added by name, in order."""

    def __init__(self, installation: Installation, **consumer: Any) -> None:
        self.installation = installation
        gateway = installation.call("POST", "/v1/gateways", {})
        self.gateway_slug, self.base = gateway["slug"], f"/v1/gateways/{gateway['id']}"
        self._consumer = consumer
        self.registries: dict[str, str] = {}
        self.consumer_id = self.slug = self.key = ""

    def registry(self, name: str, base_url: str, provider: str = "openai_compatible", **more: Any) -> str:
        body = {
            "name": name,
            "provider": provider,
            "provider_options": {"base_url": base_url},
            "auth": {"type": "api_key", "api_key": {"api_key": f"key-{name}-secret"}},
        }
        found = self.installation.call("POST", f"{self.base}/registries", body | more)
        self.registries[name] = found["id"]
        return found["id"]

    def open(self, **consumer: Any) -> Demo:
        """Create the consumer over all registries so far, with a key."""
        body = {"name": "app", "registries": [{"id": id_} for id_ in self.registries.values()]} | consumer
        found = self.installation.call("POST", f"{self.base}/consumers", body)
        self.consumer_id, self.slug = found["id"], found["slug"]
        auth = self.installation.call("POST", f"{self.base}/auths", {"name": "key", "type": "api_key"})
        self.key = auth["api_key"]
        self.installation.call("POST", f"{self.base}/consumers/{self.consumer_id}/auths/{auth['id']}")
        return self

    def policy(self, slug: str, settings: dict[str, Any], **more: Any) -> str:
        body = {"name": slug, "slug": slug, "enabled": True, "settings": settings} | more
        found = self.installation.call("POST", f"{self.base}/policies", body)["id"]
        self.installation.call("POST", f"{self.base}/consumers/{self.consumer_id}/policies/{found}")
        return found

    @property
    def headers(self) -> dict[str, str]:
        return {"X-AG-Gateway-Slug": self.gateway_slug, "X-AG-API-Key": self.key}

    @property
    def url(self) -> str:
        return f"{self.installation.proxy}/{self.slug}"


def environment(folder: pathlib.Path, admin: int, proxy: int, more: Mapping[str, str], mcp: int = 0) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
    public_key = MACHINE_KEY[
        MACHINE_KEY.index("-----BEGIN PUBLIC") : MACHINE_KEY.index("-----END PUBLIC KEY-----") + 24
    ]
    return kept | {
        "TRUSTGATE_DATA_DIR": str(folder),
        "SERVER_SECRET_KEY": SECRET,
        "SERVER_ADMIN_PORT": str(admin),
        "SERVER_PROXY_PORT": str(proxy),
        "SERVER_MCP_PORT": str(mcp or free_port()),
        "CONFIG_SYNC_GRPC_LISTEN_ADDR": f"127.0.0.1:{free_port()}",
        "MODELS_DEV_BASE_URL": "http://127.0.0.1:1",
        "TRUSTGUARD_CLIENT_ID": "id",
        "TRUSTGUARD_CLIENT_SECRET": "secret",
        "ADMIN_M2M_ISSUER": "https://machines.example",
        "ADMIN_M2M_PUBLIC_KEYS": public_key,
        **more,
    }


def until_healthy(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while True:
        assert process.poll() is None, f"the process ended with {process.returncode}"
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        assert time.monotonic() < deadline, f"port {port} does not answer"
        time.sleep(0.05)


@contextlib.contextmanager
def installed(folder: pathlib.Path, *planes: str, **more: str) -> Iterator[Installation]:
    """Run the planes as processes, one for each name given (`run` or `all`, or `admin`, `proxy` and `mcp`)."""
    admin, proxy, mcp = free_port(), free_port(), free_port()
    given = environment(folder, admin, proxy, more, mcp)
    ports = {"run": (admin, proxy), "all": (admin, proxy, mcp), "admin": (admin,), "proxy": (proxy,), "mcp": (mcp,)}
    processes: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        for plane in planes:
            log = stack.enter_context((folder / f"{plane}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", "trustgate", plane], cwd=folder, env=given, stdout=log, stderr=log
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            for port in ports[plane]:
                until_healthy(port, process)
            processes.append(process)
        yield Installation(admin, proxy, mcp, processes)
