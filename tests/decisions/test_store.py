"""The file of decisions: found again, bounded in time and size, shared by processes."""

from __future__ import annotations

import pathlib
import sqlite3
import subprocess
import sys

from tests.explain.records import decided
from trustgate.decisions.store import DecisionFile


def file_in(folder: pathlib.Path, retention_s: float = 1e9, max_bytes: int = 1 << 30) -> DecisionFile:
    return DecisionFile(folder / "decisions.db", retention_s, max_bytes)


def test_a_record_comes_back_as_it_was_written(tmp_path: pathlib.Path) -> None:
    file = file_in(tmp_path)
    records = [decided(trace_id=f"t-{number}") for number in range(5)]
    file.write(records)
    assert [file.find(f"t-{number}") for number in range(5)] == records
    assert file.find("t-9") is None


def test_a_file_that_is_not_there_answers_nothing_and_is_not_made(tmp_path: pathlib.Path) -> None:
    file = file_in(tmp_path)
    assert file.find("t") is None and list(file.between("gw-1", 0, 10**15)) == [] and file.count(0, 10**15) == 0
    assert not file.path.exists()


def test_only_its_owner_may_read_the_file(tmp_path: pathlib.Path) -> None:
    file = file_in(tmp_path)
    file.write([decided()])
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_a_time_range_is_half_open_and_of_one_gateway(tmp_path: pathlib.Path) -> None:
    file = file_in(tmp_path)
    file.write([decided(at_ms=at) for at in (100, 200, 300)] + [decided(at_ms=200, gateway_id="other")])
    found = [record.at_ms for batch in file.between("gw-1", 100, 300) for record in batch]
    assert found == [100, 200]


def test_what_is_older_than_the_retention_goes(tmp_path: pathlib.Path) -> None:
    file_in(tmp_path, 60).write([decided(trace_id="old", at_ms=1_000_000)])
    late = file_in(tmp_path, 60)
    late.write([decided(trace_id="new", at_ms=1_000_000 + 61_000)])
    assert late.find("old") is None and late.find("new") is not None


def test_the_oldest_go_when_there_is_too_much(tmp_path: pathlib.Path) -> None:
    for number in range(20):
        file_in(tmp_path, max_bytes=2000).write([decided(trace_id=f"t-{number}", at_ms=1_000_000 + number)])
    file = file_in(tmp_path)
    assert file.statistics()["bytes"] <= 2000
    assert file.find("t-0") is None and file.find("t-19") is not None


def test_several_processes_write_the_same_file(tmp_path: pathlib.Path) -> None:
    script = (
        "import pathlib, sys\n"
        "from tests.explain.records import decided\n"
        "from trustgate.decisions.store import DecisionFile\n"
        "file = DecisionFile(pathlib.Path(sys.argv[1]), 1e9, 1 << 30)\n"
        "for number in range(20):\n"
        "    file.write([decided(trace_id=f'{sys.argv[2]}-{number}')])\n"
    )
    path = tmp_path / "decisions.db"
    running = [subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in ("a", "b", "c")]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    file = file_in(tmp_path)
    assert file.statistics()["records"] == 60
    assert all(file.find(f"{name}-19") is not None for name in "abc")


def test_a_file_of_another_schema_is_emptied_by_the_writer_and_not_read(tmp_path: pathlib.Path) -> None:
    file = file_in(tmp_path)
    file.write([decided(trace_id="old")])
    file.close()
    with sqlite3.connect(file.path) as other:
        other.execute("PRAGMA user_version = 99")
    assert file.find("old") is None
    file.write([decided(trace_id="new")])
    assert file.find("new") is not None and file.statistics()["records"] == 1


def test_a_damaged_batch_is_skipped(tmp_path: pathlib.Path) -> None:
    file = file_in(tmp_path)
    file.write([decided(trace_id="bad")])
    file.write([decided(trace_id="good")])
    with sqlite3.connect(file.path) as other:
        other.execute("UPDATE batches SET data = ? WHERE id = 1", (b"\xc1 bad",))
    assert file.find("bad") is None and file.find("good") is not None
