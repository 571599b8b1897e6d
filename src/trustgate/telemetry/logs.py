"""Logs of the process: structlog and the standard library's `logging` through one pipeline to stdout (and a file).

Formats are json, text (logfmt) and colored; every message and string attribute is redacted. The access log has its
own short path, because it runs once per request. Nothing here chooses what is worth logging.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import structlog
from structlog.processors import CallsiteParameter, CallsiteParameterAdder

from trustgate.telemetry.redaction import redact, redact_value

LOG_FILE = Path("var/log.log")

_WORDS = {"debug": "DEBUG", "info": "INFO", "warn": "WARN", "warning": "WARN", "error": "ERROR", "critical": "ERROR"}
_WORDS |= {"exception": "ERROR", "fatal": "ERROR"}
_SLOG_STEPS = {"DEBUG": -4, "INFO": 0, "WARN": 4, "ERROR": 8}
_COLORS = {"DEBUG": "\x1b[90m", "INFO": "\x1b[36m", "WARN": "\x1b[33m", "ERROR": "\x1b[31m"}
# Libraries that log every request or connection at INFO or DEBUG.
_CHATTY = (
    *("httpx", "httpcore", "hpack", "hypercorn.access", "aiokafka", "botocore", "urllib3", "asyncio"),
    "coredis",
)
_STANDARD_ATTRIBUTES = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {"message", "taskName"}

Render = Callable[[dict[str, Any]], bytes]


def threshold(level: str) -> int:
    """The standard library's level for `WARN`, `INFO+2`...: the lowest of its levels that is at or above it."""
    for word, step in _SLOG_STEPS.items():
        if level.upper().startswith(word):
            offset = level[len(word) :]
            number = 20 + (step + (int(offset) if offset else 0)) * 2.5
            return next((known for known in (10, 20, 30, 40) if known >= number), 50)
    return 20


_second: tuple[int, str, str] = (-1, "", "")  # the last second formatted: lines come many to a second


def timestamp() -> str:
    """Local time, RFC 3339 with fractions of a second."""
    global _second
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    if _second[0] != seconds:
        text = datetime.fromtimestamp(seconds).astimezone().isoformat()
        _second = (seconds, text[:19], text[19:].replace("+00:00", "Z"))
    return f"{_second[1]}.{nanoseconds // 1000:06d}{_second[2]}"


class Sink:
    """Where lines go. A line is one write, so lines of threads and processes do not mix."""

    def __init__(self, console: BinaryIO, render: Render, file: BinaryIO | None) -> None:
        self._console = console
        self._render = render
        self._file = file
        self._lock = threading.Lock()

    def emit(self, entry: dict[str, Any]) -> None:
        line = self._render(entry)
        with self._lock:
            _write(self._console, line)
            if self._file is not None:
                _write(self._file, line if self._render is render_json else render_json(entry))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _write(stream: BinaryIO, line: bytes) -> None:
    try:
        stream.write(line)
        stream.flush()
    except (BrokenPipeError, ValueError):
        return  # the reader of the console is gone (or closed at exit): serving goes on without it


def render_json(entry: dict[str, Any]) -> bytes:
    return msgspec.json.encode(entry, enc_hook=str) + b"\n"


def render_text(entry: dict[str, Any]) -> bytes:
    return (" ".join(f"{key}={_logfmt(value)}" for key, value in entry.items()) + "\n").encode()


def render_colored(entry: dict[str, Any]) -> bytes:
    color = _COLORS.get(entry["level"], "")
    return f"{color}{entry['time'][11:19]} | {entry['msg']}\x1b[0m\n".encode()


def _logfmt(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
    if text and not any(character <= " " or character in '="\\' for character in text):
        return text
    return msgspec.json.encode(text).decode()


RENDERERS: dict[str, Render] = {"json": render_json, "text": render_text, "colored": render_colored}

_callsite = CallsiteParameterAdder(
    [CallsiteParameter.FUNC_NAME, CallsiteParameter.PATHNAME, CallsiteParameter.LINENO],
    additional_ignores=[__name__],
)


def _entry(
    level: str, message: str, attributes: MutableMapping[str, Any], source: dict[str, Any] | None
) -> dict[str, Any]:
    entry: dict[str, Any] = {"time": timestamp(), "level": level, "msg": redact(message)}
    if source is not None:
        entry["source"] = source
    for key, value in attributes.items():
        entry[key] = redact_value(value)
    return entry


class _Pipeline:
    """Last structlog processor: event dict in, line out."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        level = _WORDS.get(method, "INFO")
        source = None
        if level in ("WARN", "ERROR"):
            event = _callsite(logger, method, event)
            source = {"function": event.pop("func_name"), "file": event.pop("pathname"), "line": event.pop("lineno")}
        message = event.pop("event", "")
        self._sink.emit(_entry(level, str(message), event, source))
        raise structlog.DropEvent


class _Bridge(logging.Handler):
    """The standard library's records through the same pipeline."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        level = "DEBUG" if record.levelno < 20 else "INFO" if record.levelno < 30 else "WARN"
        if record.levelno >= 40:
            level = "ERROR"
        attributes = structlog.contextvars.get_contextvars()
        attributes |= {key: value for key, value in record.__dict__.items() if key not in _STANDARD_ATTRIBUTES}
        if record.exc_info:
            attributes["exception"] = logging.Formatter().formatException(record.exc_info)
        source = None
        if level in ("WARN", "ERROR"):
            source = {"function": record.funcName, "file": record.pathname, "line": record.lineno}
        self._sink.emit(_entry(level, record.getMessage(), attributes, source))


class Logging:
    """What `configure` set up. `close` ends the file; `access` is the access log."""

    def __init__(self, sink: Sink, minimum: int, access: bool) -> None:
        self._sink = sink
        self.access = AccessLog(sink if access and minimum <= logging.INFO else None)

    def close(self) -> None:
        self._sink.close()


_current: list[Logging] = []


def configure(
    level: str = "INFO",
    format: str = "json",
    *,
    file: Path | None = None,
    console: BinaryIO | None = None,
    access: bool = True,
) -> Logging:
    """Point structlog and `logging` at stdout in `format` (json, text, colored), and at `file` as JSON (0600).

    `access` switches the access log, which LOG_LEVEL above INFO silences as well.

    Raises OSError when the file cannot be opened. Calling it again replaces the earlier set-up.
    """
    stream: BinaryIO | None = None
    if file is not None:
        file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        stream = os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
    sink = Sink(console or sys.stdout.buffer, RENDERERS.get(format, render_json), stream)
    minimum = threshold(level)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            _Pipeline(sink),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(minimum),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [_Bridge(sink)]
    root.setLevel(minimum)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(minimum, logging.WARNING))
    _current.append(Logging(sink, minimum, access))
    del _current[:-1]
    return _current[0]


def access_log() -> "AccessLog":
    """The access log of the latest `configure`; silent before there was one."""
    return _current[0].access if _current else AccessLog(None)


class AccessLog:
    """One INFO line per request, after its response head is decided. Costs a few microseconds."""

    def __init__(self, sink: Sink | None) -> None:
        self._sink = sink
        self.enabled = sink is not None

    def record(
        self,
        *,
        status: int,
        method: str,
        path: str,
        duration_ns: int,
        request_id: str,
        ip: str,
        bytes_out: int,
        error: str = "",
        trace_id: str = "",
    ) -> None:
        """`bytes_out` is -1 for streams; `error` is the handler's failure, `trace_id` the record's, if any."""
        if self._sink is None:
            return
        entry: dict[str, Any] = {
            "time": timestamp(),
            "level": "INFO",
            "msg": "http access",
            "status": status,
            "method": method,
            "path": redact(path),
            "duration": duration_ns,
            "request_id": redact(request_id),
            "ip": ip,
            "bytes_out": bytes_out,
        }
        if trace_id:
            entry["trace_id"] = trace_id
        if error:
            entry["error"] = redact(error)
        self._sink.emit(entry)
