"""Log formats, levels and redaction."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import structlog

from trustgate.telemetry.logs import Logging, access_log, configure, threshold, timestamp
from trustgate.telemetry.redaction import redact
from trustgate.wire.ids import current_trace

REDACTIONS = [
    ("Bearer abc.def", "Bearer [REDACTED]"),
    ("got BEARER xyz here", "got Bearer [REDACTED] here"),
    ("basic dXNlcjpwdw==", "Basic [REDACTED]"),
    ("forbearer x", "forbearer x"),
    ("Authorization: Bearer abc", "Authorization: Bearer [REDACTED]"),
    ("authorization: hunter2", "authorization: [REDACTED]"),
    ("X-AG-API-Key: hunter2 next", "X-AG-API-Key: [REDACTED] next"),
    ("x-api-key: hunter2", "x-api-key: [REDACTED]"),
    ("api-key: hunter2", "api-key: [REDACTED]"),
    ('{"api_key": "a\\"b", "n": 1}', '{"api_key": "[REDACTED]", "n": 1}'),
    ('{"apikey":"v"}', '{"apikey":"[REDACTED]"}'),
    ('{"Client_Secret":"v"}', '{"Client_Secret":"[REDACTED]"}'),
    ('{"private_key":"v","token_count":"7"}', '{"private_key":"[REDACTED]","token_count":"7"}'),
    ("key sk-proj_1234-abcd", "key [REDACTED]"),
    ("sk-short", "sk-short"),
    ("task-manager-1", "task-manager-1"),
    ("tgk_abcdefgh", "[REDACTED]"),
    ("used ag_BJpnk0123456789abcdef", "used [REDACTED]"),
    ("AKIAIOSFODNN7EXAMPLE", "[REDACTED]"),
    ("AIzaSyA1234567890abcdefghijklmnopqrstu", "[REDACTED]"),
    ("jwt eyJhbGciOi.eyJzdWIi.c2ln end", "jwt [REDACTED] end"),
    ("redis://user:hunter2@host:6379/3", "redis://user:[REDACTED]@host:6379/3"),
    ("postgres://:p@h", "postgres://:[REDACTED]@h"),
    ("https://host/path@x", "https://host/path@x"),
    ("nothing to hide", "nothing to hide"),
]


@pytest.mark.parametrize(("text", "expected"), REDACTIONS)
def test_credentials_are_taken_out_of_text(text: str, expected: str) -> None:
    assert redact(text) == expected


class Console(io.BytesIO):
    def lines(self) -> list[str]:
        return self.getvalue().decode().splitlines()

    def entries(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.lines()]


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def started(level: str = "INFO", format: str = "json", file: Path | None = None) -> tuple[Console, Logging]:
    console = Console()
    return console, configure(level, format, console=console, file=file)


def test_json_lines_have_time_level_message_and_attributes() -> None:
    console, _ = started()
    structlog.get_logger().info("server starting", addr=":8080", count=2, note="Bearer abc")
    (entry,) = console.entries()
    assert list(entry) == ["time", "level", "msg", "addr", "count", "note"]
    assert (entry["level"], entry["msg"], entry["count"]) == ("INFO", "server starting", 2)
    assert entry["note"] == "Bearer [REDACTED]"


@pytest.mark.parametrize("method", ["warning", "error"])
def test_warnings_and_errors_name_their_source(method: str) -> None:
    console, _ = started()
    getattr(structlog.get_logger(), method)("trouble")
    getattr(logging.getLogger("library"), method)("trouble")
    for entry in console.entries():
        source = entry["source"]
        assert isinstance(source, dict)
        assert source["function"] == "test_warnings_and_errors_name_their_source"
        assert source["file"].endswith("test_logs.py")


def test_credentials_in_nested_attributes_and_errors_are_redacted() -> None:
    console, _ = started()
    structlog.get_logger().info("x", headers={"a": ["Bearer abc"]}, error=ValueError("sk-abcdefghij"))
    try:
        raise RuntimeError("Bearer hunter2")
    except RuntimeError:
        logging.getLogger("library").exception("failed")
    assert "hunter2" not in console.getvalue().decode()
    entry = console.entries()[0]
    assert (entry["headers"], entry["error"]) == ({"a": ["Bearer [REDACTED]"]}, "ValueError: [REDACTED]")


def test_text_is_logfmt() -> None:
    console, _ = started(format="text")
    structlog.get_logger().info("two words", path="/a", empty="", flag=True)
    (line,) = console.lines()
    assert line.startswith("time=")
    assert line.endswith('level=INFO msg="two words" path=/a empty="" flag=true')


def test_colored_shows_the_clock_and_the_message_only() -> None:
    console, _ = started(format="colored")
    structlog.get_logger().info("hello", secret="attribute")
    (line,) = console.lines()
    assert " | hello" in line
    assert "attribute" not in line


LEVELS = [("DEBUG", 10), ("INFO", 20), ("INFO+2", 30), ("warn", 30), ("ERROR", 40), ("ERROR+4", 50), ("DEBUG-4", 10)]


@pytest.mark.parametrize(("level", "number"), LEVELS)
def test_a_level_is_the_lowest_that_passes(level: str, number: int) -> None:
    assert threshold(level) == number


def test_lines_below_the_level_are_not_written() -> None:
    console, logs = started("WARN")
    structlog.get_logger().info("no")
    logging.getLogger("library").info("no")
    logs.access.record(status=200, method="GET", path="/", duration_ns=1, request_id="", ip="127.0.0.1", bytes_out=0)
    assert console.lines() == []


def test_the_access_log_has_the_documented_fields() -> None:
    console, logs = started()
    logs.access.record(
        status=502,
        method="POST",
        path="/x?key=sk-abcdefghij",
        duration_ns=1_500_000,
        request_id="r-1",
        ip="10.0.0.1",
        bytes_out=-1,
        error="peer closed",
    )
    (entry,) = console.entries()
    del entry["time"]
    assert entry == {
        "level": "INFO",
        "msg": "http access",
        "status": 502,
        "method": "POST",
        "path": "/x?key=[REDACTED]",
        "duration": 1_500_000,
        "request_id": "r-1",
        "ip": "10.0.0.1",
        "bytes_out": -1,
        "error": "peer closed",
    }


def test_the_log_file_gets_json_and_is_private(tmp_path: Path) -> None:
    file = tmp_path / "var" / "log.log"
    for _ in range(2):
        _, logs = started(format="text", file=file)
        structlog.get_logger().info("kept")
        logs.close()
    assert [json.loads(line)["msg"] for line in file.read_text().splitlines()] == ["kept", "kept"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o750


def test_the_access_log_of_the_latest_set_up_is_found_from_anywhere() -> None:
    started()
    console, logs = started()
    assert access_log() is logs.access
    access_log().record(status=200, method="GET", path="/", duration_ns=1, request_id="", ip="127.0.0.1", bytes_out=0)
    assert len(console.lines()) == 1


def test_the_access_log_can_be_switched_off() -> None:
    console = Console()
    logging_ = configure("INFO", "json", console=console, access=False)
    assert not logging_.access.enabled
    structlog.get_logger().info("still here")
    assert [entry["msg"] for entry in console.entries()] == ["still here"]


def test_lines_of_a_request_name_its_trace_whoever_writes_them() -> None:
    console, _ = started()
    token = current_trace.set("t-1")
    structlog.get_logger().info("ours")
    logging.getLogger("library").warning("theirs")
    current_trace.reset(token)
    structlog.get_logger().info("after")
    assert [entry.get("trace_id") for entry in console.entries()] == ["t-1", "t-1", None]


def test_a_timestamp_is_now_with_microseconds_and_a_zone() -> None:
    before = datetime.now().astimezone()
    read = datetime.fromisoformat(timestamp())
    assert before - timedelta(milliseconds=1) <= read <= datetime.now().astimezone()
    assert read.tzinfo is not None
