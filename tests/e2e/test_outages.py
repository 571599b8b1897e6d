"""What a running plane does while PostgreSQL or Redis is away, and how it ends with requests in flight."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.installation import Demo, Installation, admin_token, installed
from tests.e2e.test_faults import ask
from tests.e2e.test_many_processes import database_settings, redis_settings
from tests.e2e.upstream import BEHAVIOURS, STREAM, FaultyUpstream, Peer
from tests.ports import free_port

PATIENCE_S = 60.0


@pytest.fixture
def upstream() -> Iterator[FaultyUpstream]:
    with contextlib.closing(FaultyUpstream()) as found:
        yield found


def get(base: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, object]]:
    return call("GET", base, path, headers)


def call(
    method: str, base: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")
    finally:
        connection.close()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


class Gate:
    """A TCP relay to a service that can be shut: connections break and new ones are refused, at one address."""

    def __init__(self, host: str, port: int) -> None:
        self._target, self.port = (host, port), free_port()
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._pool = concurrent.futures.ThreadPoolExecutor(64)
        self.open()

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._pool.submit(self._accept, self._listener)

    def shut(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self._open.clear()

    def close(self) -> None:
        self.shut()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
                self._open += [near, far]
                self._pool.submit(self._pump, near, far)
                self._pool.submit(self._pump, far, near)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def dependencies(base: str) -> tuple[int, object]:
    status, answer = get(base, "/readyz")
    return status, answer["dependencies"]


def test_traffic_goes_on_while_the_store_and_redis_are_away(
    tmp_path: pathlib.Path, upstream: FaultyUpstream, postgres_dsn: str, redis_url: str
) -> None:
    database, redis = database_settings(postgres_dsn), redis_settings(redis_url)
    with (
        contextlib.closing(Gate(database["DB_HOST"], int(database["DB_PORT"]))) as store_gate,
        contextlib.closing(Gate(redis["REDIS_HOST"], int(redis["REDIS_PORT"]))) as redis_gate,
    ):
        database |= {"DB_HOST": "127.0.0.1", "DB_PORT": str(store_gate.port)}
        redis |= {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis_gate.port)}
        with installed(tmp_path, "admin", "proxy", **database, **redis) as running:
            demo = Demo(running)
            demo.registry("good", upstream.url("ok"))
            demo.open()
            assert ask(demo, model="m").status == 200
            healthy = {"database": "ok", "redis": "ok"}
            assert dependencies(running.proxy) == (200, healthy) == dependencies(running.admin)

            store_gate.shut()
            until(lambda: dependencies(running.proxy)[1] == healthy | {"database": "unavailable"}, "proxy notices")
            until(lambda: dependencies(running.admin)[0] == 503, "the admin plane is not ready without its store")
            assert dependencies(running.proxy)[0] == 200, "traffic goes on, so the proxy stays ready"
            assert [ask(demo, model="m").status for _ in range(5)] == [200] * 5
            token = {"Authorization": "Bearer " + admin_token()}
            assert get(running.admin, "/v1/gateways", token)[0] in (200, 503)
            status, answer = call(
                "POST", running.admin, "/v1/gateways", token | {"Content-Type": "application/json"}, b"{}"
            )
            assert (status, answer["error"]) == (503, "store_unavailable")

            redis_gate.shut()
            away = {"database": "unavailable", "redis": "unavailable"}
            until(lambda: dependencies(running.proxy) == (200, away), "proxy notices that Redis is away")
            assert [ask(demo, model="m").status for _ in range(5)] == [200] * 5

            store_gate.open()
            redis_gate.open()
            for base in (running.admin, running.proxy):
                until(lambda base=base: dependencies(base) == (200, healthy), f"{base} is whole again")
            second = Demo(running)
            second.registry("good", upstream.url("ok"))
            second.open()
            assert ask(second, model="m").status == 200, "a write after the outage is served without a restart"
            assert running.stop() == [0, 0]


def streaming(demo: Demo) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """A stream whose first bytes have arrived."""
    connection = http.client.HTTPConnection(demo.installation.proxy.removeprefix("http://"), timeout=60)
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi"}]})
    connection.request("POST", f"/{demo.slug}/v1/chat/completions", body, demo.headers)
    answer = connection.getresponse()
    assert answer.status == 200 and answer.readline()
    return connection, answer


def opened(installation: Installation, upstream: FaultyUpstream, behaviour: str) -> Demo:
    demo = Demo(installation)
    demo.registry("only", upstream.url(behaviour))
    return demo.open()


def test_a_stream_that_never_ends_is_cut_at_the_bound_and_the_exit_is_graceful(
    tmp_path: pathlib.Path, upstream: FaultyUpstream
) -> None:
    with installed(tmp_path, "run", SERVER_SHUTDOWN_TIMEOUT="500ms") as running:
        connection, answer = streaming(opened(running, upstream, "stream-stall"))
        with contextlib.closing(connection):
            assert running.stop() == [0]
            with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
                assert b"[DONE]" not in answer.read()


def test_a_running_stream_ends_as_it_would_after_new_connections_are_refused(
    tmp_path: pathlib.Path, upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def held(peer: Peer) -> None:
        peer.begin()
        peer.part(STREAM[0])
        assert released.wait(PATIENCE_S)
        for event in STREAM[1:]:
            peer.part(event)
        peer.end()

    monkeypatch.setitem(BEHAVIOURS, "held", held)
    with installed(tmp_path, "run") as running:
        connection, answer = streaming(opened(running, upstream, "held"))
        with contextlib.closing(connection), concurrent.futures.ThreadPoolExecutor(1) as pool:
            exits = pool.submit(running.stop)
            until(lambda: refused(running.proxy) and refused(running.admin), "the listeners are closed")
            released.set()
            assert b"[DONE]" in answer.read()
            assert exits.result(PATIENCE_S) == [0]
    assert "Traceback" not in (tmp_path / "run.log").read_text()


def refused(base: str) -> bool:
    try:
        get(base, "/healthz")
    except (OSError, http.client.HTTPException):
        return True
    return False
