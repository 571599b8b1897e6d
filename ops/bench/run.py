"""Measure nginx `proxy_pass`, a bare relay on our wire and a gateway side by side, with the same mock upstream.

Run: `python ops/bench/run.py [--rounds 3] [--seconds 2] [--only PART] [--growth] [--json FILE]`.
The gateway is one of this checkout; with `--url URL --pid PIDS [-H "Name: value"]...` it is a running one whose
upstream is the mock at `--mock-port`. `--growth` adds a gateway whose store holds 1,000 others of 100 consumers each.
`--json` keeps the results, which `plot.py` draws.

CPU time a request, of all processes of a side, is the figure to trust on a shared machine, and of several rounds the
least: the ratio to nginx in the same run is what travels between machines. All sides are pinned to core 0, mock and
load generator to core 1. Needs Go, taskset and nginx on the path.
"""

import argparse
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gateway import gateway

HERE = Path(__file__).parent
CHAT = '{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello, how are you today?"}]}'
STREAM = '{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"Hello, how are you today?"}]}'


class Case(NamedTuple):
    """`padding`: bytes in the prompt. `paced`: 20 ms between events. `fresh`: a new connection for every request."""

    title: str
    connections: int
    padding: int = 0
    streamed: bool = False
    paced: bool = False
    fresh: bool = False


CASES = [
    Case("chat, 1 connection", 1),
    Case("chat, 32 connections", 32),
    Case("chat, 256 connections", 256),
    Case("chat, a new connection each, 32 at once", 32, fresh=True),
    Case("chat, 100 kB body, 32 connections", 32, 100_000),
    Case("chat, 5 MB body, 4 connections", 4, 5_000_000),
    Case("34 events, 32 connections", 32, streamed=True),
    Case("34 events paced, 512 connections", 512, streamed=True, paced=True),
]


class Side(NamedTuple):
    """What is measured: URLs to the plain and to the paced mock, process ids, headers for each URL."""

    name: str
    url: str
    paced_url: str
    pids: str
    headers: Sequence[str] = ()
    paced_headers: Sequence[str] = ()


NGINX = """
worker_processes 1; daemon off; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; client_max_body_size 20m; client_body_buffer_size 8m;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  upstream plain {{ server 127.0.0.1:{mock}; keepalive 1024; keepalive_requests 1000000000; }}
  upstream paced {{ server 127.0.0.1:{paced}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port};
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    location / {{ proxy_pass http://plain; }}
    location /paced/ {{ proxy_pass http://paced; }} }}
}}
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def build(directory: Path) -> None:
    for name in ("mock", "load"):
        subprocess.run(["go", "build", "-o", str(directory / name), f"./{name}"], cwd=HERE, check=True)


@contextlib.contextmanager
def running(core: int, *command: str) -> Iterator[int]:
    """A pinned process, stopped at the end; yields its pid (taskset execs, so it is the program's own)."""
    process = subprocess.Popen(["taskset", "-c", str(core), *command], stdout=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def measure(directory: Path, side: Side, case: Case, seconds: int) -> dict[str, Any]:
    body = (STREAM if case.streamed else CHAT).replace("today?", "today?" + "x" * case.padding)
    path = directory / "request.json"
    path.write_text(body)
    command = ["taskset", "-c", "1", str(directory / "load"), "-url", side.paced_url if case.paced else side.url]
    command += ["-c", str(case.connections), "-d", f"{seconds}s", "-pid", side.pids, "-body-file", str(path)]
    for header in side.paced_headers if case.paced else side.headers:
        command += ["-H", header]
    if case.streamed:
        command += ["-want", "[DONE]"]
    if case.fresh:
        command.append("-fresh")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    if result["errors"]:
        print(f"  {side.name}: errors: {result['errors']} {done.stderr[:300]}", file=sys.stderr)
    return result


def compare(directory: Path, sides: list[Side], case: Case, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The cheapest round of each side; rounds alternate, so that a busy machine is unfair to all of them."""
    rounds = [
        {side.name: measure(directory, side, case, options.seconds) for side in sides} for _ in range(options.rounds)
    ]
    return {side.name: min((round_[side.name] for round_ in rounds), key=cost) for side in sides}


def cost(result: dict[str, Any]) -> float:
    return float(result["cpu_us_per_req"])


def start_sides(directory: Path, stack: contextlib.ExitStack, options: argparse.Namespace) -> list[Side]:
    """nginx, the relay, and the gateways, in front of two mocks."""
    mock, paced, nginx = options.mock_port or free_port(), options.paced_port or free_port(), free_port()
    stack.enter_context(running(1, str(directory / "mock"), "-addr", f"127.0.0.1:{mock}"))
    stack.enter_context(running(1, str(directory / "mock"), "-addr", f"127.0.0.1:{paced}", "-gap", "20ms"))
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(dir=directory, mock=mock, paced=paced, port=nginx))
    pid = stack.enter_context(running(0, "nginx", "-e", f"{directory}/nginx.log", "-c", str(config)))
    path, here = "/v1/chat/completions", "http://127.0.0.1"
    sides = [Side("nginx", f"{here}:{nginx}{path}", f"{here}:{nginx}/paced{path}", str(pid))]
    ports = [free_port(), free_port()]
    relays = [
        stack.enter_context(running(0, sys.executable, str(HERE / "relay.py"), str(port), f"{here}:{upstream}{path}"))
        for port, upstream in zip(ports, (mock, paced), strict=True)
    ]
    sides.append(Side("relay", f"{here}:{ports[0]}/", f"{here}:{ports[1]}/", f"{relays[0]},{relays[1]}"))
    for port in (mock, paced, nginx, *ports):
        wait_for(port)
    if options.url:
        headers = options.headers
        return [*sides, Side("gateway", options.url, options.paced_url, options.pid, headers, headers)]
    sizes = {"gateway": (0, 0)} | ({"gateway, 100,000 consumers": (1000, 100)} if options.growth else {})
    for name, (gateways, consumers) in sizes.items():
        upstreams = [f"{here}:{mock}/v1", f"{here}:{paced}/v1"]
        folder = directory / str(gateways)
        found = stack.enter_context(gateway(folder, upstreams, gateways=gateways, consumers=consumers))
        sides.append(Side(name, found.urls[0], found.urls[1], str(found.pid), found.headers[0], found.headers[1]))
    return sides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="chat completions URL of a running gateway; default: one of this checkout")
    parser.add_argument("--paced-url", default="", help="the same through a registry whose upstream is the paced mock")
    parser.add_argument("--pid", default="", help="comma-separated pids of that gateway")
    parser.add_argument("-H", dest="headers", action="append", default=[], help='header "Name: value", repeatable')
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement, after one of warm-up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--growth", action="store_true", help="also a gateway among 1,000 of 100 consumers")
    parser.add_argument("--json", type=Path, help="where the results are kept")
    parser.add_argument("--mock-port", type=int, default=0, help="default: a free port")
    parser.add_argument("--paced-port", type=int, default=0)
    options = parser.parse_args()
    for tool in ("go", "taskset", "nginx"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is needed")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)
        build(directory)
        sides = start_sides(directory, stack, options)
        results: dict[str, dict[str, dict[str, Any]]] = {}
        print("CPU us a request (p50 ms, p99 ms, requests/s)")
        for case in CASES:
            if options.only not in case.title:
                continue
            usable = [side for side in sides if not case.paced or side.paced_url]
            results[case.title] = compare(directory, usable, case, options)
            print(case.title)
            for side, found in results[case.title].items():
                ratio = cost(found) / (cost(results[case.title]["nginx"]) or float("nan"))
                rest = f"({found['p50_ms']:.2f}, {found['p99_ms']:.2f}, {found['rps']:.0f})"
                print(f"  {side:28}{cost(found):9.1f}{ratio:6.1f} x nginx  {rest}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
