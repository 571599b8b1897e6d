"""Decisions of planes in processes of their own, and the commands that read them from the data folder."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

from tests.e2e.installation import Demo, environment, installed
from tests.e2e.test_explain import chat
from tests.e2e.upstream import FaultyUpstream


def test_the_admin_plane_and_the_commands_explain_and_plan_what_other_processes_served(tmp_path: pathlib.Path) -> None:
    upstream = FaultyUpstream()
    given = environment(tmp_path, 0, 0, {})

    def run(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "trustgate", *words)
        return subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, input=text, timeout=60)

    with installed(tmp_path, "admin", "proxy", TRUSTGATE_WORKERS="2") as installation:
        demo = Demo(installation)
        demo.registry("one", upstream.url("ok"))
        demo.open()
        traces = [chat(demo)[1] for _ in range(8)]
        for trace_id in traces:
            told = installation.call("GET", f"/v1/requests/{trace_id}/explain")
            assert told["outcome"]["status"] == 200
        printed = run("explain", traces[0])
        assert printed.returncode == 0 and "answered by the upstream" in printed.stdout, printed.stderr
        assert json.loads(run("explain", traces[0], "--json").stdout)["trace_id"] == traces[0]
        unknown = run("explain", "00000000-0000-4000-8000-000000000000")
        assert unknown.returncode == 1 and "no decision of request" in unknown.stderr
        commands = json.dumps([{"method": "PUT", "path": f"/consumers/{demo.consumer_id}", "body": {"active": False}}])
        planned = run("plan", demo.gateway_slug, "-", "--json", text=commands)
        assert planned.returncode == 0, planned.stderr
        assert json.loads(planned.stdout)["decisions"]["denied"] == 8
        shown = run("plan", demo.gateway_slug, "-", text=commands)
        assert "denied 8" in shown.stdout and "no active consumer" in shown.stdout
        assert run("plan", demo.gateway_slug, "-", text="[{").returncode == 2
        refused = run("plan", demo.gateway_slug, "-", text='[{"method": "GET"}]')
        assert refused.returncode == 1 and "commands[0]" in refused.stderr
        assert installation.call("GET", f"{demo.base}/consumers/{demo.consumer_id}")["active"] is True
    upstream.close()
