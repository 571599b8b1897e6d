"""Limits over several proxy processes on one Redis: under load, when a process is killed, when Redis is away."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.installation import Demo, Installation, environment, free_port, installed, until_healthy
from tests.e2e.test_many_processes import redis_settings
from tests.e2e.test_outages import Gate, until
from tests.e2e.upstream import FaultyUpstream

HI = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


class Fleet:
    """Proxy processes beside an installation, on its data and its Redis; each can be killed."""

    def __init__(self, running: Installation, processes: list[subprocess.Popen[bytes]], urls: list[str]) -> None:
        self.running, self.processes, self.urls = running, processes, urls

    def kill(self, index: int) -> None:
        self.processes[index].kill()
        self.processes[index].wait()


@contextlib.contextmanager
def fleet(folder: pathlib.Path, count: int, settings: dict[str, str]) -> Iterator[Fleet]:
    with installed(folder, "admin", **settings) as running, contextlib.ExitStack() as stack:
        processes: list[subprocess.Popen[bytes]] = []
        urls: list[str] = []
        for number in range(count):
            port = free_port()
            log = stack.enter_context((folder / f"proxy-{number}.log").open("wb"))
            given = environment(folder, free_port(), port, settings)
            process = subprocess.Popen(
                [sys.executable, "-m", "trustgate", "proxy"], cwd=folder, env=given, stdout=log, stderr=log
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            until_healthy(port, process)
            processes.append(process)
            urls.append(f"http://127.0.0.1:{port}")
        yield Fleet(running, processes, urls)


def demo_of(found: Fleet, upstream: FaultyUpstream, name: str) -> Demo:
    demo = Demo(found.running)
    demo.registry("only", upstream.url(name))
    return demo.open()


class Client:
    """One kept connection; status 0 stands for a process that is not there."""

    def __init__(self, url: str, demo: Demo) -> None:
        self._where, self._path = urlsplit(url).netloc, f"/{demo.slug}/v1/chat/completions"
        self._headers = demo.headers | {"Content-Type": "application/json"}
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, **members: Any) -> tuple[int, Any]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._where, timeout=60)
        try:
            self._connection.request("POST", self._path, json.dumps(HI | members), self._headers)
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = None
            return 0, b""


def load(urls: list[str], demo: Demo, requests: int, rate: float, during: Any = None, **members: Any) -> Counter[int]:
    """Statuses of so many requests, started at that rate and spread over the processes."""
    local = threading.local()
    started = time.monotonic()

    def one(number: int) -> int:
        clients: dict[str, Client] = local.__dict__.setdefault("clients", {})
        url = urls[number % len(urls)]
        client = clients.get(url) or clients.setdefault(url, Client(url, demo))
        time.sleep(max(0.0, started + number / rate - time.monotonic()))
        return client.ask(**members)[0]

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        answers = [pool.submit(one, number) for number in range(requests)]
        if during is not None:
            during()
        return Counter(answer.result() for answer in answers)


def test_three_processes_admit_exactly_the_limit_at_300_requests_a_second(
    tmp_path: pathlib.Path, upstream: FaultyUpstream, redis_url: str
) -> None:
    upstream.forget()
    with fleet(tmp_path, 3, redis_settings(redis_url)) as found:
        demo = demo_of(found, upstream, "ok")
        demo.policy("rate_limiter", {"limit": 500, "window": "5m"})
        statuses = load(found.urls, demo, 1200, 300)
    assert statuses == {200: 500, 429: 700}
    assert len(upstream.requests("ok")) == 500


class Counters:
    """What a Redis holds of budgets, asked in its own protocol."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._sock = socket.create_connection((parts.hostname, parts.port))
        self._file = self._sock.makefile("rb")
        self.call("SELECT", parts.path.strip("/") or "0")

    def close(self) -> None:
        self._file.close()
        self._sock.close()

    def call(self, *words: str) -> Any:
        sent = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        self._sock.sendall(f"*{len(words)}\r\n{sent}".encode())
        return self._read()

    def _read(self) -> Any:
        line = self._file.readline().decode().rstrip()
        kind, value = line[0], line[1:]
        if kind == "*":
            return [self._read() for _ in range(int(value))]
        if kind == "$":
            return None if value == "-1" else self._file.read(int(value) + 2)[:-2].decode()
        assert kind != "-", value
        return int(value) if kind == ":" else value

    @property
    def spent(self) -> int:
        """What is charged to all budgets."""
        return sum(int(self.call("GET", key) or 0) for key in self.call("KEYS", "trl:*") if not key.endswith(":held"))

    @property
    def holds(self) -> int:
        return sum(self.call("HLEN", key) for key in self.call("KEYS", "trl:*:held"))

    def lapse(self) -> None:
        """Turn the clock of what is on hold to its end."""
        for key in self.call("KEYS", "trl:*:held"):
            kept = self.call("HGETALL", key)
            for token, value in zip(kept[::2], kept[1::2], strict=True):
                self.call("HSET", key, token, value.partition(":")[0] + ":1")


@pytest.fixture
def counters(redis_url: str) -> Iterator[Counters]:
    """Of budgets that other tests left nothing in."""
    found = Counters(redis_url)
    for key in found.call("KEYS", "trl:*"):
        found.call("DEL", key)
    yield found
    found.close()


def test_what_a_killed_process_had_reserved_stays_taken_until_it_lapses(
    tmp_path: pathlib.Path, upstream: FaultyUpstream, redis_url: str, counters: Counters
) -> None:
    with fleet(tmp_path, 2, redis_settings(redis_url)) as found:
        demo = demo_of(found, upstream, "slow")
        demo.policy("token_rate_limiter", {"aggregate": {"max": 1200, "time_window": "1h"}, "reserve": True})
        ask: Any = {"stream": True, "max_tokens": 400}
        first, second = found.urls
        where = f"/{demo.slug}/v1/chat/completions"
        open_: list[http.client.HTTPConnection] = []
        for _ in range(2):  # each holds its 400 tokens and a little for the prompt
            connection = http.client.HTTPConnection(urlsplit(first).netloc, timeout=60)
            connection.request("POST", where, json.dumps(HI | ask), demo.headers)
            assert connection.getresponse().status == 200
            open_.append(connection)
        assert counters.holds == 2
        assert Client(second, demo).ask(**ask)[0] == 429
        found.kill(0)
        assert Client(second, demo).ask(max_tokens=400)[0] == 429, "nobody knows what the killed process has spent"
        assert counters.holds == 2
        counters.lapse()
        body = {"provider_options": {"base_url": upstream.url("ok")}}
        found.running.call("PUT", f"{demo.base}/registries/{demo.registries['only']}", body)
        client = Client(second, demo)
        until(lambda: client.ask(max_tokens=400)[0] == 200, "what lapsed is free again")
        until(lambda: counters.holds == 0, "nothing stays on hold")
        assert counters.spent == 9
        for connection in open_:
            connection.close()


def test_a_kill_under_load_never_lets_a_budget_be_overspent(
    tmp_path: pathlib.Path, upstream: FaultyUpstream, redis_url: str, counters: Counters
) -> None:
    """Three processes, a budget of 3000 tokens, nine tokens a request; one process is killed half way."""
    upstream.forget()
    with fleet(tmp_path, 3, redis_settings(redis_url)) as found:
        demo = demo_of(found, upstream, "ok")
        demo.policy("token_rate_limiter", {"aggregate": {"max": 3000, "time_window": "1h"}, "reserve": True})
        demo.policy("rate_limiter", {"limit": 250, "window": "5m"})

        def kill() -> None:
            until(lambda: len(upstream.requests("ok")) > 60, "traffic flows")
            found.kill(0)

        statuses = load(found.urls, demo, 900, 150, kill, max_tokens=20)
        served = len(upstream.requests("ok"))
        assert statuses[0] > 0 and statuses[200] > 0 and statuses[429] > 0
        assert set(statuses) == {0, 200, 429}
        assert statuses[200] <= served <= 250, "a killed process may have admitted what it never answered"
        # The killed process had no time to charge what it answered last: that stays on hold.
        charged = "all that was answered is charged, or on hold"
        until(lambda: 9 * statuses[200] <= counters.spent + 9 * counters.holds, charged)
        assert counters.spent <= 9 * served <= 3000
        counters.lapse()
        Client(found.urls[1], demo).ask(max_tokens=20)
        until(lambda: counters.holds == 0, "nothing stays on hold")


def test_redis_that_comes_and_goes_never_lets_more_than_the_limit_through(
    tmp_path: pathlib.Path, upstream: FaultyUpstream, redis_url: str, counters: Counters
) -> None:
    """While it is away a limit cannot be judged: 502. What was counted is still counted afterwards."""
    settings = redis_settings(redis_url)
    upstream.forget()
    with contextlib.closing(Gate(settings["REDIS_HOST"], int(settings["REDIS_PORT"]))) as gate:
        settings |= {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(gate.port)}
        with fleet(tmp_path, 2, settings) as found:
            demo = demo_of(found, upstream, "ok")
            demo.policy("rate_limiter", {"limit": 200, "window": "5m"})

            def shake() -> None:
                for bound in (20, 50):
                    until(lambda bound=bound: len(upstream.requests("ok")) > bound, "traffic flows")
                    gate.shut()
                    time.sleep(0.7)
                    gate.open()

            statuses = load(found.urls, demo, 1200, 120, shake)
            assert set(statuses) <= {200, 429, 502}
            assert statuses[502] > 0
            clients = [Client(url, demo) for url in found.urls]
            until(lambda: all(client.ask()[0] == 429 for client in clients), "the limit is reached in the end")
    assert len(upstream.requests("ok")) <= 200
