"""CPU microseconds a request of the MCP plane, beside nginx and a bare relay that pass the same request to an upstream.

Run: python ops/bench/mcp.py [--seconds 2] [--rounds 3] [--connections 32] [--only PART]
Starts `trustgate all` (embedded, on core 0) and its `mcpmock` upstreams, creates the virtual servers by the Admin
API, and measures with `load` from core 1; the least of the rounds counts. nginx and the relay are measured in the same
rounds, since a shared machine is never equally busy twice. Needs Go, taskset and nginx.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from run import HERE, NGINX, free_port, wait_for

sys.path.insert(0, str(HERE.parent.parent))
from tests.e2e.installation import Installation, environment, until_healthy

LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def call(tool: str) -> dict[str, Any]:
    params = {"name": tool, "arguments": {"q": "the quick brown fox"}}
    return {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}


# name, upstreams, tools of each, request, policies
CASES: list[tuple[str, int, int, dict[str, Any], list[tuple[str, dict[str, Any]]]]] = [
    ("ping", 1, 20, {"jsonrpc": "2.0", "id": 1, "method": "ping"}, []),
    ("tools/list, 20 tools", 1, 20, LIST, []),
    ("tools/list, 10 upstreams of 50 tools", 10, 50, LIST, []),
    ("tools/call", 1, 20, call("tool_3"), []),
    ("tools/call, 10 upstreams of 50 tools", 10, 50, call("up0_tool_3"), []),
    ("tools/call, rate_limiter", 1, 20, call("tool_3"), [("rate_limiter", {"limit": 10**9, "window": "1m"})]),
]


def virtual_server(at: Installation, urls: list[str], policies: list[tuple[str, dict[str, Any]]]) -> tuple[str, str]:
    """The slug and key of a new MCP consumer over these upstreams."""
    base = f"/v1/gateways/{at.call('POST', '/v1/gateways', {})['id']}"
    registries = [
        at.call("POST", f"{base}/registries", {"type": "mcp", "name": f"up{n}", "mcp_target": {"url": url}})["id"]
        for n, url in enumerate(urls)
    ]
    body = {"name": "tools", "type": "MCP", "registries": [{"id": id_} for id_ in registries]}
    consumer = at.call("POST", f"{base}/consumers", body)
    key = at.call("POST", f"{base}/auths", {"name": "key", "type": "api_key"})
    at.call("POST", f"{base}/consumers/{consumer['id']}/auths/{key['id']}")
    for slug, settings in policies:
        policy = at.call(
            "POST", f"{base}/policies", {"name": slug, "slug": slug, "enabled": True, "settings": settings}
        )
        at.call("POST", f"{base}/consumers/{consumer['id']}/policies/{policy['id']}")
    return consumer["slug"], key["api_key"]


class Subject:
    """A process under load, and the best round so far."""

    def __init__(self, title: str, url: str, pid: int, body: Path, key: str = "") -> None:
        self.title, self.best = title, {"cpu_us_per_req": float("inf")}
        self._load = ["-url", url, "-pid", str(pid), "-body-file", str(body), "-want", '"result":']
        self._load += ["-H", f"X-AG-API-Key: {key}"] if key else []

    def measure(self, load: Path, connections: int, seconds: int) -> None:
        command = ["taskset", "-c", "1", str(load), "-c", str(connections), "-d", f"{seconds}s", *self._load]
        result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        if result["errors"]:
            sys.exit(f"{self.title}: {result['errors']} requests failed")
        self.best = min(self.best, result, key=lambda one: one["cpu_us_per_req"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)  # nginx's worker is another user
        for tool in ("mcpmock", "load"):
            subprocess.run(["go", "build", "-o", str(directory / tool), f"./{tool}"], cwd=HERE, check=True)

        def start(core: int, *command: str, **more: Any) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(["taskset", "-c", str(core), *command], **more)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        ports: dict[int, list[int]] = {20: [free_port()], 50: [free_port() for _ in range(10)]}
        for tools, found in ports.items():
            for port in found:
                start(1, str(directory / "mcpmock"), "-addr", f"127.0.0.1:{port}", "-tools", str(tools))
                wait_for(port)
        mock, front, relay = ports[20][0], free_port(), free_port()
        config = directory / "nginx.conf"
        config.write_text(NGINX.format(dir=name, mock=mock, paced=mock, port=front))
        nginx = start(0, "nginx", "-e", f"{name}/nginx.log", "-c", str(config))
        bare = start(0, sys.executable, str(HERE / "relay.py"), str(relay), f"http://127.0.0.1:{mock}/")
        admin, proxy, mcp = free_port(), free_port(), free_port()
        given = environment(directory, admin, proxy, {"LOG_LEVEL": "WARN"}, mcp)
        given["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
        log = stack.enter_context((directory / "all.log").open("wb"))
        process = start(0, sys.executable, "-m", "trustgate", "all", cwd=directory, env=given, stdout=log, stderr=log)
        for port in (admin, mcp):
            until_healthy(port, process)
        for port in (front, relay):
            wait_for(port)
        at = Installation(admin, proxy, mcp)

        def body(request: dict[str, Any]) -> Path:
            path = directory / f"{len(list(directory.glob('*.json')))}.json"
            path.write_text(json.dumps(request, separators=(",", ":")))
            return path

        straight = body(call("tool_3"))
        subjects = [
            Subject("nginx, tools/call", f"http://127.0.0.1:{front}/", nginx.pid, straight),
            Subject("bare relay, tools/call", f"http://127.0.0.1:{relay}/", bare.pid, straight),
        ]
        for title, upstreams, tools, request, policies in CASES:
            if options.only in title:
                urls = [f"http://127.0.0.1:{port}/" for port in ports[tools][:upstreams]]
                slug, key = virtual_server(at, urls, policies)
                subjects.append(Subject(title, f"{at.mcp}/{slug}/mcp", process.pid, body(request), key))
        for _ in range(options.rounds):
            for subject in subjects:
                subject.measure(directory / "load", options.connections, options.seconds)
        print(f"{'case':40}{'us/req':>9}{'x nginx':>9}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}")
        base = subjects[0].best["cpu_us_per_req"]
        for subject in subjects:
            best = subject.best
            print(
                f"{subject.title:40}{best['cpu_us_per_req']:9.1f}{best['cpu_us_per_req'] / base:9.1f}"
                f"{best['rps']:9.0f}{best['p50_ms']:9.2f}{best['p99_ms']:9.2f}"
            )


if __name__ == "__main__":
    main()
