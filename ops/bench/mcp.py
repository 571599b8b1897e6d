"""CPU microseconds a request of the MCP plane: a running installation of ours in front of `mcpmock` upstreams.

Run: python ops/bench/mcp.py [--seconds 4] [--connections 32] [--only PART]
Starts `trustgate all` (embedded, pinned to core 0) and its upstreams, creates the virtual servers by the Admin API, and
measures with `load` from core 1. Needs Go and taskset.
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

from run import HERE, free_port, wait_for

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
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
        admin, proxy, mcp = free_port(), free_port(), free_port()
        given = environment(directory, admin, proxy, {"LOG_LEVEL": "WARN"}, mcp)
        log = stack.enter_context((directory / "all.log").open("wb"))
        command = (sys.executable, "-m", "trustgate", "all")
        process = start(0, *command, cwd=directory, env=given | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")},
                        stdout=log, stderr=log)  # fmt: skip
        for port in (admin, mcp):
            until_healthy(port, process)
        at = Installation(admin, proxy, mcp)
        print(f"{'case':40}{'us/req':>9}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}")
        for title, upstreams, tools, request, policies in CASES:
            if options.only not in title:
                continue
            urls = [f"http://127.0.0.1:{port}/" for port in ports[tools][:upstreams]]
            slug, key = virtual_server(at, urls, policies)
            body = directory / "request.json"
            body.write_text(json.dumps(request, separators=(",", ":")))
            load = ["taskset", "-c", "1", str(directory / "load"), "-url", f"{at.mcp}/{slug}/mcp"]
            load += ["-c", str(options.connections), "-d", f"{options.seconds}s", "-pid", str(process.pid)]
            load += ["-body-file", str(body), "-H", f"X-AG-API-Key: {key}", "-want", '"result":']
            result = json.loads(subprocess.run(load, capture_output=True, text=True, check=True).stdout)
            if result["errors"]:
                print(f"  errors: {result['errors']}", file=sys.stderr)
            print(
                f"{title:40}{result['cpu_us_per_req']:9.1f}{result['rps']:9.0f}"
                f"{result['p50_ms']:9.2f}{result['p99_ms']:9.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
