"""A script never needs a sleep: six objects through the Admin API, then the proxy at once, in other processes.

What lives here: real admin and proxy processes on one store, and a client that writes and calls without a pause.
`python -m properties.scripts sqlite|postgres [REPETITIONS]`. Each round creates a gateway, a registry, a consumer and a
key, attaches the key and calls; then it disables the key and calls again, and deletes the consumer and calls again. Any
answer that shows an older configuration ends the run with an error.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import httpx
from tests import services
from tests.ports import free_port

from trustgate import loopback
from trustgate.quickstart import Demo, hello, loopback_upstream, mint_token
from trustgate.store import PostgresConfig

ROOT = pathlib.Path(__file__).resolve().parents[1]
KEY = "0123456789abcdef" * 3


@contextlib.contextmanager
def plane(name: str, environment: dict[str, str], log: pathlib.Path) -> Iterator[None]:
    """A process of `trustgate NAME`, ready."""
    port = environment["SERVER_ADMIN_PORT" if name == "admin" else "SERVER_PROXY_PORT"]
    with log.open("wb") as out:
        command = [sys.executable, "-m", "trustgate", name]
        process = subprocess.Popen(command, cwd=log.parent, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        services.wait_until(lambda: ready(port), process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ready(port: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def environment(backend: str, home: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith(("DB_", "REDIS_", "SERVER_"))}
    found |= {
        "PYTHONPATH": str(ROOT / "src"),
        "SERVER_SECRET_KEY": KEY,
        "TRUSTGATE_DATA_DIR": str(home),
        "SERVER_ADMIN_PORT": str(free_port()),
        "SERVER_PROXY_PORT": str(free_port()),
        "CONFIG_SYNC_GRPC_LISTEN_ADDR": f"127.0.0.1:{free_port()}",
    }
    if backend == "postgres":
        config = PostgresConfig.of_dsn(stack.enter_context(services.run_postgres()))
        found |= {"DB_HOST": config.host, "DB_PORT": str(config.port), "DB_USER": config.user, "DB_NAME": config.dbname}
    return found


class Script:
    """The client: keep-alive connections to both planes, and no pause anywhere."""

    def __init__(self, admin: str, proxy: str, model: str) -> None:
        self._client = httpx.Client(timeout=30, trust_env=False)
        self._admin, self._proxy = admin, proxy
        self._upstream = loopback_upstream(model)
        token = mint_token(KEY, tenant="scripts", ttl_s=3600 * 10)
        self._headers = {"Authorization": f"Bearer {token}"}
        self.write_s: list[float] = []

    def write(self, method: str, path: str, body: object = None) -> dict[str, str]:
        started = time.monotonic()
        response = self._client.request(method, self._admin + path, headers=self._headers, json=body)
        self.write_s.append(time.monotonic() - started)
        assert response.status_code in (200, 201, 204), f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else {}

    def call(self, demo: Demo) -> int:
        return self._client.post(
            f"{self._proxy}/{demo.consumer_slug}/v1/chat/completions",
            headers={"X-AG-Gateway-Slug": demo.gateway_slug, "X-AG-API-Key": demo.api_key},
            json=hello(demo.model),
        ).status_code

    def round(self, number: int) -> list[int]:
        """Statuses of the calls after the six writes, after the key is disabled, and after the consumer is gone."""
        upstream = self._upstream
        gateway = self.write("POST", "/v1/gateways", {"slug": f"g-{number}-{secrets.token_hex(3)}"})
        scope = f"/v1/gateways/{gateway['id']}"
        registry = self.write(
            "POST",
            f"{scope}/registries",
            {
                "name": "r",
                "provider": upstream.provider,
                "provider_options": upstream.options,
                "auth": {"type": "api_key", "api_key": {"api_key": upstream.api_key}},
            },
        )
        consumer = self.write("POST", f"{scope}/consumers", {"name": "c"})
        auth = self.write("POST", f"{scope}/auths", {"name": "k", "type": "api_key"})
        self.write("POST", f"{scope}/consumers/{consumer['id']}/registries/{registry['id']}")
        self.write("POST", f"{scope}/consumers/{consumer['id']}/auths/{auth['id']}")
        demo = Demo(self._proxy, gateway["id"], gateway["slug"], consumer["slug"], auth["api_key"], upstream.model)
        statuses = [self.call(demo)]
        self.write("PUT", f"{scope}/auths/{auth['id']}", {"enabled": False})
        statuses.append(self.call(demo))
        self.write("DELETE", f"{scope}/consumers/{consumer['id']}")
        statuses.append(self.call(demo))
        return statuses


def run(backend: str, repetitions: int) -> str:
    """Raises AssertionError at the first stale answer."""
    with contextlib.ExitStack() as stack:
        home = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = environment(backend, home, stack)
        model = stack.enter_context(loopback.running())
        stack.enter_context(plane("admin", settings, home / "admin.log"))
        stack.enter_context(plane("proxy", settings, home / "proxy.log"))
        script = Script(
            f"http://127.0.0.1:{settings['SERVER_ADMIN_PORT']}",
            f"http://127.0.0.1:{settings['SERVER_PROXY_PORT']}",
            model,
        )
        for number in range(repetitions):
            statuses = script.round(number)
            assert statuses[0] == 200 and set(statuses[1:]) <= {401, 403, 404}, f"round {number}: {statuses}"
        ordered = sorted(script.write_s)
        p50, p99 = (ordered[len(ordered) * part // 100] * 1000 for part in (50, 99))
        return f"{repetitions} rounds on {backend} held; Admin writes p50 {p50:.1f} ms, p99 {p99:.1f} ms"


if __name__ == "__main__":
    print(run(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1000))
