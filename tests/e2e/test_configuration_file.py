"""A gateway as a file, by the commands, beside a running installation that serves it."""

from __future__ import annotations

import pathlib
import subprocess
import sys

from tests.e2e.installation import Demo, environment, installed
from tests.e2e.test_explain import chat
from tests.e2e.upstream import FaultyUpstream


def test_export_and_apply_beside_a_running_installation(tmp_path: pathlib.Path) -> None:
    upstream = FaultyUpstream()
    given = environment(tmp_path, 0, 0, {"NEW_SECRET": "sk-from-the-environment"})

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "trustgate", *words)
        return subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=60)

    with installed(tmp_path, "run") as installation:
        demo = Demo(installation)
        demo.registry("one", upstream.url("ok"))
        demo.open()
        limit = demo.policy("rate_limiter", {"limit": 100, "window": "1m"})
        assert chat(demo)[0] == 200
        file = tmp_path / "gateway.yaml"
        assert run("export", demo.gateway_slug, "-o", str(file)).returncode == 0
        text = file.read_text()
        assert "key-one-secret" not in text and "${secret:" in text and demo.key not in text
        unchanged = run("apply", "-f", str(file), "--yes")
        assert unchanged.returncode == 0 and "nothing differs" in unchanged.stdout, unchanged.stderr
        versions = installation.call("GET", f"{demo.base}/versions")["total"]

        file.write_text(text.replace("limit: 100", "limit: 1"))
        planned = run("apply", "-f", str(file), "--dry-run")
        assert planned.returncode == 0 and "settings.limit" in planned.stdout, planned.stderr
        assert installation.call("GET", f"{demo.base}/versions")["total"] == versions
        asked = run("apply", "-f", str(file))
        assert asked.returncode == 1 and installation.call("GET", f"{demo.base}/versions")["total"] == versions
        applied = run("apply", "-f", str(file), "--yes", "--reason", "too many", "--author", "ann")
        assert applied.returncode == 0, applied.stderr
        assert installation.call("GET", f"{demo.base}/policies/{limit}")["settings"]["limit"] == 1
        (entry,) = installation.call("GET", f"{demo.base}/audit?object_id={limit}")["items"][:1]
        assert (entry["actor"], entry["source"], entry["reason"]) == ("ann", "cli", "too many")
        assert [chat(demo)[0] for _ in range(3)][-1] == 429

        start = text.index("${secret:", text.index("registries:"))
        secret = text[start : text.index("}", start) + 1]
        file.write_text(text.replace(secret, "${NEW_SECRET}"))
        assert run("apply", "-f", str(file), "--yes").returncode == 0
        assert chat(demo)[0] == 200
        assert upstream.requests("ok")[-1].headers["authorization"] == "Bearer sk-from-the-environment"
        assert run("apply", "-f", str(file), "--yes").stdout.strip().endswith("nothing differs")

        file.write_text(text.replace("registries:", "registrys:"))
        refused = run("apply", "-f", str(file), "--yes")
        assert refused.returncode == 1 and "registrys: unknown member, did you mean registries?" in refused.stderr
    upstream.close()
