"""The recorded exchanges of the existing TrustGate on the proxy plane, against a running installation."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.installation import SECRET, Installation

VECTORS = Path(__file__).parents[1] / "vectors"
sys.path.insert(0, str(VECTORS))

from replay import Replay  # type: ignore[import-not-found]  # noqa: E402  (a script beside its vectors)

BETTER = {("Cohere client, OpenAI-compatible upstream", "streamed text cut by length")}
"""The recording ends this stream twice, the second time as COMPLETE; we end it once, and say that it was cut."""


def scenarios() -> Iterator[Any]:
    for name in ("proxy.jsonl", "policies.jsonl", "translation.jsonl"):
        lines: dict[str, list[str]] = {}
        setup: list[str] = []
        for line in (VECTORS / name).read_text(encoding="utf-8").splitlines():
            vector = json.loads(line)
            if "setup" in vector:
                setup.append(line)
            elif (vector["scenario"], vector["name"]) not in BETTER:
                lines.setdefault(vector["scenario"], []).append(line)
        for scenario, vectors in lines.items():
            yield pytest.param([*setup, *vectors], id=f"{name.split('.')[0]}: {scenario}")


@pytest.fixture(scope="module")
def replay(installation: Installation) -> Replay:
    return Replay({"admin": installation.admin, "proxy": installation.proxy}, SECRET)


@pytest.mark.parametrize("lines", scenarios())
def test_recorded_exchanges_replay_without_a_difference(
    lines: list[str], replay: Replay, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "scenario.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    passed, failed = replay.file(file, "", False)
    assert not failed, capsys.readouterr().out
    assert passed
