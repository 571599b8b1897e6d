"""The admin plane on a real port, in a thread of its own, for tests that speak HTTP to it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jwt
import trio

from trustgate.admin.app import create_app
from trustgate.admin.server import ServeSettings, serve
from trustgate.admin.services import AdminServices

SECRET = "a-secret-for-the-tests-of-the-admin-plane"


@contextmanager
def running(control: Any, services: AdminServices) -> Iterator[int]:
    """Serves until the block ends; yields the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    started, stop = threading.Event(), trio.Event()
    token: list[trio.lowlevel.TrioToken] = []
    failures: list[BaseException] = []

    async def main() -> None:
        token.append(trio.lowlevel.current_trio_token())
        async with trio.open_nursery() as nursery:
            settings = ServeSettings(drain_timeout_s=1)

            async def run(task_status: trio.TaskStatus[None]) -> None:
                app = create_app(control, services)
                await serve(app, [listener], settings, shutdown=stop.wait, task_status=task_status)

            await nursery.start(run)
            started.set()

    def thread() -> None:
        try:
            trio.run(main)
        except BaseException as failure:
            failures.append(failure)
        finally:
            started.set()

    worker = threading.Thread(target=thread, daemon=True)
    worker.start()
    started.wait(10)
    if failures:
        raise failures[0]
    try:
        yield port
    finally:
        token[0].run_sync_soon(stop.set)
        worker.join(10)
        assert not worker.is_alive(), "the server did not stop"
        if failures:
            raise failures[0]


class Answer:
    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers}
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def console_token(**claims: Any) -> str:
    return jwt.encode({"sub": "admin", **claims}, SECRET, algorithm="HS256")


class Client:
    """A caller of the plane with one token; by default the platform's."""

    def __init__(self, port: int, token: str | None = None) -> None:
        self.port = port
        self.token = console_token() if token is None else token

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: dict[str, Any] | None = None,
    ) -> Answer:
        sent: dict[str, Any] = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if body is not None:
            raw = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, raw, {**sent, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def gateway(self, slug: str, tenant: str = "t-1") -> str:
        """A new gateway's id."""
        plan = {"tier": "free", "burst_per_min": 60, "quota_per_month": 0, "max_instances": 0}
        answer = self("POST", "/v1/gateways", {"slug": slug, "tenant_id": tenant, "entitlements": plan})
        assert answer.status == 201, answer.body
        return answer.json["id"]
