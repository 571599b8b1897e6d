"""The public conformance suite against our endpoint, with a server that offers everything behind it.

`python -m tests.mcp.test_conformance` writes the results table of docs/mcp-conformance.md.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from tests.e2e.installation import Demo, installed
from tests.mcp import nodejs

VERSIONS = {
    "2024-11-05": "2025-06-18",
    "2025-03-26": "2025-06-18",
    "2025-06-18": "2025-06-18",
    "2025-11-25": "2025-11-25",
}
"""Versions that are spoken, and whose scenarios are run: the suite has none for the two older ones."""

EXPECTED_FAILURES: dict[str, str] = {}
"""Scenarios that fail by design, with the reason."""

LINE = re.compile(r"^[✓✗]\s+([\w-]+):\s+(\d+) passed, (\d+) failed", re.MULTILINE)


def scenarios(version: str, folder: pathlib.Path) -> dict[str, bool]:
    """Each scenario for that version, pending ones too, and whether all of its checks passed."""
    with (
        nodejs.serving("everything.mjs") as upstream,
        installed(folder, "all", MCP_ALLOWED_HOSTS="127.0.0.1,localhost") as running,
    ):
        demo = Demo(running)
        target = {"name": "everything", "type": "mcp", "mcp_target": {"url": f"{upstream}/mcp"}}
        demo.registries["everything"] = running.call("POST", f"{demo.base}/registries", target)["id"]
        demo.open(type="MCP")
        endpoint = f"{running.mcp}/{demo.slug}/mcp"
        with nodejs.serving("relay.mjs", endpoint, demo.key, version) as relay:
            command = [
                nodejs.NODE,
                str(nodejs.CONFORMANCE),
                "server",
                "--url",
                f"{relay}/mcp",
                "--suite",
                "all",
                "--spec-version",
                VERSIONS[version],
            ]
            found = subprocess.run(command, capture_output=True, text=True, timeout=110, cwd=folder)
    return {name: failed == "0" for name, _, failed in LINE.findall(found.stdout)}


@pytest.fixture(scope="module", autouse=True)
def packages() -> Iterator[None]:
    nodejs.check_installed()
    yield


@pytest.mark.parametrize("version", VERSIONS)
def test_the_conformance_suite_passes(version: str, tmp_path: pathlib.Path) -> None:
    results = scenarios(version, tmp_path)
    assert len(results) > 20, results
    failed = {name for name, passed in results.items() if not passed}
    assert failed == {name for name in EXPECTED_FAILURES if name in results}


def main() -> None:
    columns = {}
    for version in VERSIONS:
        with tempfile.TemporaryDirectory() as folder:
            columns[version] = scenarios(version, pathlib.Path(folder))
    print("| scenario | " + " | ".join(VERSIONS) + " |\n|" + " --- |" * (len(VERSIONS) + 1))
    for name in dict.fromkeys(name for column in columns.values() for name in column):
        reason = EXPECTED_FAILURES.get(name, "")
        shown = {True: "passes", False: f"no: {reason}", None: "–"}
        marks = [shown[columns[version].get(name)] for version in VERSIONS]
        print(f"| `{name}` | " + " | ".join(marks) + " |")


if __name__ == "__main__":
    main()
