"""What an idle process does not pay for."""

from __future__ import annotations

import json
import subprocess
import sys

CLIENTS = ("aiokafka", "opentelemetry", "grpc", "requests", "urllib3", "yaml", "psycopg", "cramjam")


def test_clients_of_exporters_are_loaded_by_the_exporters_that_use_them() -> None:
    code = "import sys, json, trustgate.app.main, trustgate.app.proxy_plane, trustgate.app.mcp_plane;"
    code += f"print(json.dumps([name for name in {CLIENTS!r} if name in sys.modules]))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == []
