"""Measure a gateway and nginx `proxy_pass` side by side, with the same mock upstream, and print one table.

Run: `python ops/bench/run.py [--relay | --url URL --pid PIDS] [-H "Name: value"]... [--seconds 4] [--only PART]`.
`--relay` (the default) measures `relay.py`, what the wire alone costs; with `--url` it measures a running gateway whose
upstream is the mock at `--mock-port`. CPU time a request, of all processes named and their children, is the figure to
trust on a shared machine; the ratio to nginx in the same run is what travels between machines.

Gateway and nginx are pinned to core 0, mock and load generator to core 1. Needs Go, taskset and nginx on the path.
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
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
CHAT = '{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello, how are you today?"}]}'
STREAM = '{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"Hello, how are you today?"}]}'

# name, concurrency, bytes of padding in the prompt, streamed, paced (20 ms between events, from the second mock)
CASES = [
    ("chat, 1 connection", 1, 0, False, False),
    ("chat, 32 connections", 32, 0, False, False),
    ("chat, 256 connections", 256, 0, False, False),
    ("chat, 100 kB body, 32 connections", 32, 100_000, False, False),
    ("chat, 5 MB body, 4 connections", 4, 5_000_000, False, False),
    ("34 events, 32 connections", 32, 0, True, False),
    ("34 events paced, 512 connections", 512, 0, True, True),
]

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


def measure(directory: Path, url: str, pids: str, case: tuple[str, int, int, bool, bool], options: argparse.Namespace,
            headers: list[str]) -> dict[str, float]:  # fmt: skip
    _, connections, padding, streamed, _ = case
    body = (STREAM if streamed else CHAT).replace("today?", "today?" + "x" * padding)
    path = directory / "request.json"
    path.write_text(body)
    command = ["taskset", "-c", "1", str(directory / "load"), "-url", url, "-c", str(connections)]
    command += ["-d", f"{options.seconds}s", "-pid", pids, "-body-file", str(path)]
    for header in headers:
        command += ["-H", header]
    if streamed:
        command += ["-want", "[DONE]"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    if result["errors"]:
        print(f"  errors: {result['errors']} {done.stderr[:300]}", file=sys.stderr)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="chat completions URL of a running gateway; default: the bare relay")
    parser.add_argument("--paced-url", help="the same through a registry whose upstream is the paced mock")
    parser.add_argument("--pid", default="", help="comma-separated pids of that gateway")
    parser.add_argument("-H", dest="headers", action="append", default=[], help='header "Name: value", repeatable')
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--mock-port", type=int, default=9900)
    parser.add_argument("--paced-port", type=int, default=9901)
    options = parser.parse_args()
    for tool in ("go", "taskset", "nginx"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is needed")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)
        build(directory)
        nginx_port = free_port()
        mock, paced = options.mock_port, options.paced_port
        stack.enter_context(running(1, str(directory / "mock"), "-addr", f"127.0.0.1:{mock}"))
        stack.enter_context(running(1, str(directory / "mock"), "-addr", f"127.0.0.1:{paced}", "-gap", "20ms"))
        config = directory / "nginx.conf"
        config.write_text(NGINX.format(dir=name, mock=mock, paced=paced, port=nginx_port))
        nginx_pid = stack.enter_context(running(0, "nginx", "-e", f"{name}/nginx.log", "-c", str(config)))
        url, paced_url, pids = options.url, options.paced_url, options.pid
        if url is None:
            port, paced_port = free_port(), free_port()
            relay = (sys.executable, str(HERE / "relay.py"))
            upstream = "/v1/chat/completions"
            one = stack.enter_context(running(0, *relay, str(port), f"http://127.0.0.1:{mock}{upstream}"))
            two = stack.enter_context(running(0, *relay, str(paced_port), f"http://127.0.0.1:{paced}{upstream}"))
            url, paced_url, pids = f"http://127.0.0.1:{port}/", f"http://127.0.0.1:{paced_port}/", f"{one},{two}"
            wait_for(port)
            wait_for(paced_port)
        wait_for(nginx_port)
        print(
            f"{'case':36}{'us/req':>9}{'nginx':>8}{'ratio':>7}{'req/s':>9}{'p50 ms':>9}{'nginx':>8}"
            f"{'p99 ms':>9}{'nginx':>8}"
        )
        for case in CASES:
            title, *_, is_paced = case
            target = paced_url if is_paced else url
            if options.only not in title or not target:
                continue
            theirs = f"http://127.0.0.1:{nginx_port}/{'paced/' if is_paced else ''}v1/chat/completions"
            base = measure(directory, theirs, str(nginx_pid), case, options, [])
            ours = measure(directory, target, pids, case, options, options.headers)
            ratio = ours["cpu_us_per_req"] / base["cpu_us_per_req"] if base["cpu_us_per_req"] else float("nan")
            print(
                f"{title:36}{ours['cpu_us_per_req']:9.1f}{base['cpu_us_per_req']:8.1f}{ratio:7.1f}{ours['rps']:9.0f}"
                f"{ours['p50_ms']:9.2f}{base['p50_ms']:8.2f}{ours['p99_ms']:9.2f}{base['p99_ms']:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
