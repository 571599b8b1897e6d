"""How planes end: readiness while they drain, what is in flight, workers, and starts that fail."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.e2e.installation import Demo, Installation, environment, installed, until_healthy
from tests.e2e.test_faults import ask
from tests.e2e.test_outages import PATIENCE_S, get, opened, refused, streaming, until
from tests.e2e.upstream import BEHAVIOURS, STREAM, FaultyUpstream, Peer
from tests.ports import free_port


@pytest.fixture
def upstream() -> Iterator[FaultyUpstream]:
    with contextlib.closing(FaultyUpstream()) as found:
        yield found


class Held:
    """An upstream's behaviour that answers once it is released; a stream has begun before."""

    def __init__(self) -> None:
        self.asked, self.released = threading.Event(), threading.Event()

    def __call__(self, peer: Peer) -> None:
        if not peer.streamed:
            self.asked.set()
            assert self.released.wait(PATIENCE_S)
            BEHAVIOURS["ok"](peer)
            return
        peer.begin()
        peer.part(STREAM[0])
        self.asked.set()
        assert self.released.wait(PATIENCE_S)
        for event in STREAM[1:]:
            peer.part(event)
        peer.end()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    found = Held()
    monkeypatch.setitem(BEHAVIOURS, "held", found)
    yield found
    found.released.set()


def leader(running: Installation) -> subprocess.Popen[bytes]:
    (process,) = running._processes
    return process


def children(pid: int) -> list[int]:
    tasks = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for task in tasks for child in task.read_text().split())


def runs(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_while_planes_drain_they_are_not_ready_and_go_on_serving(
    tmp_path: pathlib.Path, upstream: FaultyUpstream
) -> None:
    with installed(tmp_path, "all", SERVER_DRAIN_DELAY="1h") as running:
        demo = opened(running, upstream, "ok")
        bases = (running.admin, running.proxy, running.mcp)
        assert [get(base, "/readyz")[0] for base in bases] == [200] * 3
        leader(running).terminate()
        for base in bases:
            until(lambda base=base: get(base, "/readyz")[0] == 503, f"{base} is not ready")
            assert get(base, "/readyz")[1]["status"] == "not_ready"
            assert get(base, "/healthz")[0] == 200, "it is alive"
        assert ask(demo, model="m").status == 200, "load balancers have not noticed yet"
        assert Demo(running).gateway_slug
        leader(running).terminate()
        assert leader(running).wait(PATIENCE_S) == 1, "a second signal does not wait"


def test_the_listeners_close_after_the_drain_delay(tmp_path: pathlib.Path) -> None:
    with installed(tmp_path, "run", SERVER_DRAIN_DELAY="300ms") as running:
        begun = time.monotonic()
        assert running.stop() == [0]
        assert time.monotonic() - begun >= 0.3


def test_a_request_in_flight_is_answered_after_the_listeners_are_closed(
    tmp_path: pathlib.Path, upstream: FaultyUpstream, held: Held
) -> None:
    with installed(tmp_path, "run") as running, concurrent.futures.ThreadPoolExecutor(2) as pool:
        demo = opened(running, upstream, "held")
        answer = pool.submit(ask, demo, model="m")
        assert held.asked.wait(PATIENCE_S)
        exits = pool.submit(running.stop)
        until(lambda: refused(running.proxy) and refused(running.admin), "the listeners are closed")
        held.released.set()
        assert answer.result(PATIENCE_S).status == 200
        assert exits.result(PATIENCE_S) == [0]


def test_a_request_without_an_answer_is_cut_at_the_bound(
    tmp_path: pathlib.Path, upstream: FaultyUpstream, held: Held
) -> None:
    with installed(tmp_path, "run", SERVER_SHUTDOWN_TIMEOUT="300ms") as running:
        demo = opened(running, upstream, "held")
        connection = http.client.HTTPConnection(running.proxy.removeprefix("http://"), timeout=PATIENCE_S)
        with contextlib.closing(connection):
            body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
            connection.request("POST", f"/{demo.slug}/v1/chat/completions", body, demo.headers)
            assert held.asked.wait(PATIENCE_S)
            assert running.stop() == [0]
            with pytest.raises((http.client.HTTPException, ConnectionError)):
                connection.getresponse()


@contextlib.contextmanager
def working(folder: pathlib.Path) -> Iterator[Installation]:
    """`trustgate run` with two workers in a process group of its own, whose members are all gone afterwards."""
    admin, proxy = free_port(), free_port()
    given = environment(folder, admin, proxy, {"TRUSTGATE_WORKERS": "2", "METRICS_PORT": "0"})
    with (folder / "run.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "trustgate", "run"], cwd=folder, env=given, stdout=log, stderr=log, process_group=0
        )
    try:
        for port in (admin, proxy):
            until_healthy(port, process)
        yield Installation(admin, proxy, 0, [process])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def told_twice(log: pathlib.Path) -> set[int]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    return {line["pid"] for line in lines if line["msg"] == "shutting down already"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_lets_the_workers_streams_end(
    tmp_path: pathlib.Path, upstream: FaultyUpstream, held: Held, number: signal.Signals
) -> None:
    """What Ctrl-C in a terminal and service managers send: a worker gets it, and its supervisor's SIGTERM after it."""
    with working(tmp_path) as running:
        connection, answer = streaming(opened(running, upstream, "held"))
        with contextlib.closing(connection):
            workers = children(leader(running).pid)
            os.killpg(leader(running).pid, number)
            until(lambda: refused(running.proxy), "the listeners are closed")
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):  # the one without the stream may have ended
                    os.kill(pid, signal.SIGTERM)  # the supervisor's may have been merged with the group's
            until(
                lambda: set(filter(runs, workers)) <= told_twice(tmp_path / "run.log"),
                "all workers that run were told twice",
            )
            assert any(map(runs, workers)), "the stream keeps its worker"
            held.released.set()
            assert b"[DONE]" in answer.read()
            assert leader(running).wait(PATIENCE_S) == 0


def test_a_second_signal_to_the_supervisor_ends_its_workers_too(
    tmp_path: pathlib.Path, upstream: FaultyUpstream, held: Held
) -> None:
    with working(tmp_path) as running:
        connection, _ = streaming(opened(running, upstream, "held"))
        with contextlib.closing(connection):
            workers = children(leader(running).pid)
            leader(running).terminate()
            until(lambda: refused(running.proxy), "the workers drain")
            leader(running).terminate()
            assert leader(running).wait(PATIENCE_S) == 1
            until(lambda: not any(map(runs, workers)), "no worker is left behind")
            assert not held.released.is_set()


@pytest.mark.parametrize("service", ["DB", "REDIS"])
def test_a_plane_whose_dependency_is_away_does_not_start(tmp_path: pathlib.Path, service: str) -> None:
    away = {f"{service}_HOST": "127.0.0.1", f"{service}_PORT": str(free_port()), "DB_PASSWORD": "never shown"}
    if service == "REDIS":
        del away["DB_PASSWORD"]
    given = environment(tmp_path, free_port(), free_port(), away)
    done = subprocess.run(
        [sys.executable, "-m", "trustgate", "run"], cwd=tmp_path, env=given, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "server failed" in said and "Traceback" not in said and "never shown" not in said, said
    assert f"{service}_HOST" in said and "Retry" not in said, said
