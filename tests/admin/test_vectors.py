"""The recorded exchanges of the existing TrustGate, against the admin plane over the real domain on a real port.

Every answer's body is also held against the contract's OpenAPI document and against our own.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.admin.catalog import plugin_catalog, services
from tests.admin.contract import Contract
from tests.admin.memory import MemoryControl
from tests.admin.serving import SECRET, running
from trustgate.admin.openapi import document

VECTORS = Path(__file__).parents[1] / "vectors"
sys.path.insert(0, str(VECTORS))

from replay import Replay  # type: ignore[import-not-found]  # noqa: E402  (a script beside its vectors)

CONTRACTS = (Contract(json.loads((VECTORS / "admin-api.openapi.json").read_text())), Contract(document()))

UNCHECKED = re.compile(r"\$\.(fallback\.triggers\[\d+\]|lb_config\.algorithm):")
"""Members that are stored unchecked while their configuration is disabled, whatever the contract's enums say."""


def scenarios() -> Iterator[Any]:
    for name in ("admin.jsonl", "admin-machine.jsonl"):
        lines: dict[str, list[str]] = {}
        setup = []
        for line in (VECTORS / name).read_text(encoding="utf-8").splitlines():
            vector = json.loads(line)
            if "setup" in vector:
                setup.append(line)
            else:
                lines.setdefault(vector["scenario"], []).append(line)
        for scenario, vectors in lines.items():
            yield pytest.param([*setup, *vectors], id=scenario)


class CheckedReplay(Replay):  # type: ignore[misc]
    """Replays, and keeps what the contracts say about each answer."""

    def send(self, plane: str, request: dict[str, Any]) -> tuple[int, dict[str, str], str]:
        status, headers, raw = super().send(plane, request)
        for contract in CONTRACTS:
            self.problems += contract.check(request["method"], request["path"], status, raw.encode())
        return status, headers, raw


@pytest.fixture(scope="module")
def replay() -> Iterator[CheckedReplay]:
    with running(MemoryControl(plugin_catalog()), services()) as port:
        yield CheckedReplay({"admin": f"http://127.0.0.1:{port}"}, SECRET)


@pytest.mark.parametrize("lines", scenarios())
def test_recorded_exchanges_replay_without_a_difference(
    lines: list[str], replay: CheckedReplay, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replay.problems = []
    file = tmp_path / "scenario.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    replay.file(file, "", False)
    printed = capsys.readouterr().out
    scenario = json.loads(lines[-1])["scenario"]
    failed = re.findall(rf"^FAIL {re.escape(scenario)} / (.*)  \(.*\)$", printed, re.MULTILINE)
    assert failed == [], printed
    assert [problem for problem in replay.problems if not UNCHECKED.search(problem)] == []
