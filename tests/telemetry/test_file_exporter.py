"""The file exporter: JSON lines, rotated, several writers."""

from __future__ import annotations

import json
import pathlib
import stat
import threading

from tests.telemetry.records import metadata
from trustgate.telemetry.exporters.file import FileSink


def lines(path: pathlib.Path) -> list[str]:
    return [json.loads(line)["trace_id"] for line in path.read_text().splitlines()]


def test_records_are_lines_of_a_private_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "records.jsonl"
    items = [metadata() for _ in range(3)]
    sink = FileSink({"path": str(path)})
    sink.publish(items[:2])
    sink.publish(items[2:])
    sink.close()
    assert lines(path) == [item.event.trace_id for item in items]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_full_file_is_rotated_and_the_oldest_deleted(tmp_path: pathlib.Path) -> None:
    path, item = tmp_path / "records.jsonl", metadata()
    sink = FileSink({"path": str(path), "max_bytes": len(item.data) * 2 + 10, "max_files": 3})
    items = [metadata() for _ in range(10)]
    for one in items:
        sink.publish([one])
    sink.close()
    names = sorted(found.name for found in tmp_path.iterdir() if found.suffix != ".lock")
    assert names == ["records.jsonl", "records.jsonl.1", "records.jsonl.2"]
    kept = [trace for name in reversed(names) for trace in lines(tmp_path / name)]
    assert kept == [one.event.trace_id for one in items][-len(kept) :]


def test_writers_of_one_file_lose_nothing_over_its_rotations(tmp_path: pathlib.Path) -> None:
    path, size = tmp_path / "records.jsonl", len(metadata().data)
    written: list[list[str]] = [[], [], []]

    def write(traces: list[str]) -> None:
        sink = FileSink({"path": str(path), "max_bytes": size * 20, "max_files": 100})
        for _ in range(100):
            item = metadata()
            sink.publish([item])
            traces.append(item.event.trace_id)
        sink.close()

    threads = [threading.Thread(target=write, args=(traces,)) for traces in written]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [trace for file in tmp_path.glob("records.jsonl*") if file.suffix != ".lock" for trace in lines(file)]
    assert sorted(found) == sorted(trace for traces in written for trace in traces)


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "records.jsonl"
    first, second = metadata(), metadata()
    sink = FileSink({"path": str(path)})
    sink.publish([first])
    path.rename(tmp_path / "moved")
    sink.publish([second])
    sink.close()
    assert (lines(tmp_path / "moved"), lines(path)) == ([first.event.trace_id], [second.event.trace_id])
