"""CPU microseconds a request with and without records and their exporters, of the same chat completion.

Run: python ops/bench/telemetry.py [--seconds 4] [--rounds 3] [--connections 32]
Starts one `trustgate run` for each case (embedded, pinned to core 0) in front of the mock (core 1), and asks them in
turn, so that a busy machine troubles all alike; the best round of each counts. Kafka is measured where
TEST_KAFKA_BOOTSTRAP names a broker. Needs Go and taskset.
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

from run import CHAT, HERE, free_port, wait_for

sys.path.insert(0, str(HERE.parent.parent))
from tests.e2e.installation import Demo, Installation, environment, until_healthy


def cases(directory: Path) -> dict[str, dict[str, str]]:
    file = json.dumps([{"name": "file", "settings": {"path": str(directory / "records.jsonl")}}])
    none: dict[str, str] = {"TELEMETRY_ENABLED": "false", "METRICS_ENABLED": "false", "ACCESS_LOG_ENABLED": "false"}
    found = {
        "no telemetry, no metrics, no access log": none,
        "metrics": none | {"METRICS_ENABLED": "true"},
        "records, no exporter": none | {"TELEMETRY_ENABLED": "true"},
        "records to a file": none | {"TELEMETRY_ENABLED": "true", "TELEMETRY_EXPORTERS_METADATA": file},
    }
    broker = os.environ.get("TEST_KAFKA_BOOTSTRAP", "")
    if broker:
        kafka = {"TELEMETRY_ENABLED": "true", "TELEMETRY_EXPORTERS_METADATA": "kafka", "KAFKA_BROKERS": broker}
        found["records to Kafka"] = none | kafka
    found["everything as by default, records to a file"] = {"TELEMETRY_EXPORTERS_METADATA": file, "LOG_LEVEL": "INFO"}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        for tool in ("mock", "load"):
            subprocess.run(["go", "build", "-o", str(directory / tool), f"./{tool}"], cwd=HERE, check=True)

        def start(core: int, *command: str, **more: Any) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(["taskset", "-c", str(core), *command], **more)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        mock = free_port()
        start(1, str(directory / "mock"), "-addr", f"127.0.0.1:{mock}")
        wait_for(mock)
        (directory / "request.json").write_text(CHAT)
        loads: dict[str, list[str]] = {}
        for number, (title, given) in enumerate(cases(directory).items()):
            home = directory / str(number)
            home.mkdir()
            admin, proxy = free_port(), free_port()
            log = stack.enter_context((home / "log").open("wb"))
            command = (sys.executable, "-m", "trustgate", "run")
            given = {"LOG_LEVEL": "WARN", "TELEMETRY_EXPORTERS_FILE": "", "METRICS_PORT": str(free_port())} | given
            variables = environment(home, admin, proxy, given) | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
            process = start(0, *command, cwd=home, env=variables, stdout=log, stderr=log)
            for port in (admin, proxy):
                until_healthy(port, process)
            demo = Demo(Installation(admin, proxy))
            demo.registry("mock", f"http://127.0.0.1:{mock}/v1")
            demo.open()
            load = ["taskset", "-c", "1", str(directory / "load"), "-url", f"{demo.url}/v1/chat/completions"]
            load += ["-c", str(options.connections), "-d", f"{options.seconds}s", "-pid", str(process.pid)]
            load += ["-body-file", str(directory / "request.json")]
            for header, value in demo.headers.items():
                load += ["-H", f"{header}: {value}"]
            loads[title] = load
        best: dict[str, dict[str, float]] = {}
        for _ in range(options.rounds):
            for title, load in loads.items():
                result = json.loads(subprocess.run(load, capture_output=True, text=True, check=True).stdout)
                if result["errors"]:
                    print(f"  errors: {result['errors']}", file=sys.stderr)
                if title not in best or result["cpu_us_per_req"] < best[title]["cpu_us_per_req"]:
                    best[title] = result
        base = min(result["cpu_us_per_req"] for result in best.values())
        print(f"{'case':46}{'us/req':>9}{'more':>7}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}")
        for title, result in best.items():
            cpu = result["cpu_us_per_req"]
            print(
                f"{title:46}{cpu:9.1f}{cpu - base:7.1f}{result['rps']:9.0f}"
                f"{result['p50_ms']:9.2f}{result['p99_ms']:9.2f}"
            )


if __name__ == "__main__":
    main()
