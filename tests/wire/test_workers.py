"""The supervisor with real processes: shared port, restart of a crashed worker, drain, and its own death."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.wire.peers import RawClient
from trustgate.app.listeners import BACKLOG, bind
from trustgate.wire.sockets import listening
from trustgate.wire.workers import Supervisor, WorkerPlan, WorkersFailed

WORKER = (sys.executable, "-m", "tests.wire.worker")


@pytest.fixture
def port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def ask(port: int, path: str = "/") -> tuple[int, int]:
    """The number and pid of the worker that answered."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        client = RawClient(stream)
        await client.send(b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % path.encode())
        number, pid = (await client.to_the_end()).partition(b"\r\n\r\n")[2].split()
        return int(number), int(pid)


async def workers_answering(port: int, wanted: int, *, without: int = 0) -> dict[int, int]:
    """Ask until `wanted` different workers have answered; number -> pid."""
    seen: dict[int, int] = {}
    with trio.fail_after(20):
        while len(seen) < wanted:
            try:
                number, pid = await ask(port)
            except (OSError, ValueError):
                await trio.sleep(0.02)
                continue
            if pid != without:
                seen[number] = pid
    return seen


def start_supervisor(port: int, count: int) -> subprocess.Popen[bytes]:
    plan = f"WorkerPlan({(*WORKER, str(port))!r}, {count})"
    code = f"import trio; from trustgate.wire.workers import *; trio.run(Supervisor({plan}).run_until_signal)"
    return subprocess.Popen([sys.executable, "-c", code])


async def test_workers_share_a_port_a_crashed_one_is_restarted_and_all_drain(port: int) -> None:
    supervisor = Supervisor(WorkerPlan((*WORKER, str(port)), 2))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        before = await workers_answering(port, 2)
        assert set(before) == {0, 1}
        with pytest.raises(ValueError):
            await ask(port, "/crash")
        with trio.fail_after(20):
            while supervisor.statistics().restarts == 0 or supervisor.statistics().running < 2:  # noqa: ASYNC110
                await trio.sleep(0.01)
        gone = (set(before.values()) - set(supervisor.statistics().pids)).pop()
        after = await workers_answering(port, 2, without=gone)
        assert set(after) == {0, 1}
        assert len(set(after.values()) & set(before.values())) == 1
        assert supervisor.statistics().restarts == 1

        async def slow() -> None:
            assert (await ask(port, "/slow"))[0] in (0, 1)

        async with trio.open_nursery() as asking:
            asking.start_soon(slow)
            await trio.sleep(0.15)
            supervisor.stop()
    assert supervisor.statistics().running == 0


async def test_workers_that_cannot_start_end_the_supervisor() -> None:
    supervisor = Supervisor(WorkerPlan((*WORKER, "fail"), 1, max_failed_starts=2))
    with trio.fail_after(20), pytest.raises(WorkersFailed):
        await supervisor.run()


async def test_a_worker_that_ignores_the_drain_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    supervisor = Supervisor(WorkerPlan((*WORKER, "stubborn", str(ready)), 1, drain_timeout_s=0.3))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        with trio.fail_after(20):
            while not ready.exists():  # noqa: ASYNC110
                await trio.sleep(0.01)
            stopped_at = trio.current_time()
            supervisor.stop()
    assert trio.current_time() - stopped_at >= 0.3
    assert supervisor.statistics().running == 0


async def test_workers_end_when_their_supervisor_is_killed(port: int) -> None:
    process = start_supervisor(port, 1)
    try:
        (pid,) = (await workers_answering(port, 1)).values()
    finally:
        process.kill()
        process.wait()
    with trio.fail_after(10):
        while True:
            try:
                os.kill(pid, 0)
                with open(f"/proc/{pid}/stat") as stat:  # noqa: ASYNC230
                    if stat.read().split()[2] == "Z":
                        break
            except OSError:
                break
            await trio.sleep(0.02)


async def test_a_signal_stops_supervisor_and_workers(port: int) -> None:
    process = start_supervisor(port, 2)
    try:
        await workers_answering(port, 2)
        process.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(process.wait, 10) == 0
    finally:
        process.kill()
    with pytest.raises(OSError):
        await trio.open_tcp_stream("127.0.0.1", port)


async def test_listeners_on_all_interfaces_share_one_port_and_report_plain_addresses() -> None:
    listeners = listening(bind(0), BACKLOG)
    ports = {listener.socket.getsockname()[1] for listener in listeners}
    assert len(ports) == 1
    async with await trio.open_tcp_stream("127.0.0.1", ports.pop()):
        ipv4 = next(listener for listener in listeners if listener.socket.family == socket.AF_INET)
        _, address = await ipv4.socket.accept()
        assert address[0] == "127.0.0.1"
    for listener in listeners:
        await listener.aclose()
