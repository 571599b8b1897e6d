"""Memory and sockets over minutes of churn: new connections, clients that leave, streams, changes of configuration.

Run: `python ops/bench/churn.py [--minutes 10]`. Each cycle makes requests on new connections, streams, many connections
at once, clients that leave at every stage, and objects that are made, used and deleted. Printed are resident memory
and open descriptors after each minute, and the slope of memory over the last two thirds: what leaks, keeps growing.
Needs Go and taskset on the path.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from gateway import Running, gateway
from run import STREAM, Case, Side, build, free_port, measure, running, wait_for

LEAVING = 100
"""Clients a cycle that leave before their answer is complete."""


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def leave(url: str, headers: tuple[str, ...]) -> None:
    """One client that leaves: within the head, within the body, before the answer, or within a stream."""
    parts = urlsplit(url)
    body = STREAM.encode()
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}", *headers, "", ""]
    whole = "\r\n".join(lines).encode() + body
    with socket.create_connection((parts.hostname, parts.port), 5) as sock:
        stage = random.random()
        sock.sendall(whole[: int(len(whole) * min(1.0, stage * 2))])
        if stage > 0.75:
            sock.recv(64)


def change(found: Running) -> None:
    """A registry and a consumer of their own, made and deleted."""
    base, call = found.base, found.installation.call
    target = {"provider": "openai_compatible", "provider_options": {"base_url": "http://127.0.0.1:1/v1"}}
    auth = {"type": "api_key", "api_key": {"api_key": "secret"}}
    registry = call("POST", f"{base}/registries", {"name": f"r{time.time_ns()}", "auth": auth, **target})["id"]
    body = {"name": f"c{time.time_ns()}", "registries": [{"id": registry}]}
    consumer = call("POST", f"{base}/consumers", body)["id"]
    call("DELETE", f"{base}/consumers/{consumer}")
    call("DELETE", f"{base}/registries/{registry}")


def cycle(directory: Path, side: Side, found: Running) -> int:
    requests = 0
    for case in (
        Case("new connections", 32, fresh=True),
        Case("streams", 32, streamed=True),
        Case("many connections", 256),
        Case("100 kB", 8, padding=100_000),
    ):
        requests += int(measure(directory, side, case, 1)["n"])
    for _ in range(LEAVING):
        with contextlib.suppress(ConnectionError):
            leave(found.urls[1], found.headers[1])
    for _ in range(5):
        change(found)
    return requests


def slope(points: list[tuple[float, float]]) -> float:
    """MB a minute, by least squares over (seconds, MB)."""
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    over = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / over * 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        build(directory)
        mock, paced = free_port(), free_port()
        stack.enter_context(running(1, str(directory / "mock"), "-addr", f"127.0.0.1:{mock}"))
        stack.enter_context(running(1, str(directory / "mock"), "-addr", f"127.0.0.1:{paced}", "-gap", "20ms"))
        for port in (mock, paced):
            wait_for(port)
        urls = [f"http://127.0.0.1:{port}/v1" for port in (mock, paced)]
        found = stack.enter_context(gateway(directory / "gateway", urls))
        side = Side("gateway", found.urls[0], found.urls[1], str(found.pid), found.headers[0], found.headers[1])
        began, requests, next_line = time.monotonic(), 0, 0.0
        points: list[tuple[float, float]] = []
        while (elapsed := time.monotonic() - began) < options.minutes * 60:
            requests += cycle(directory, side, found)
            time.sleep(0.5)
            points.append((time.monotonic() - began, resident_mb(found.pid)))
            if elapsed >= next_line:
                next_line += 60
                print(
                    f"{elapsed / 60:4.1f} min  {points[-1][1]:6.1f} MB  {descriptors(found.pid):4} descriptors  "
                    f"{requests:8,} requests",
                    flush=True,
                )
        late = points[len(points) // 3 :]
        result = {"mb": round(points[-1][1], 1), "mb_a_minute": round(slope(late), 3), "requests": requests}
        print(json.dumps(result | {"descriptors": descriptors(found.pid), "cycles": len(points)}))


if __name__ == "__main__":
    sys.exit(main())
