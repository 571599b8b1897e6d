"""Start planes: settings, logs, then `app.main`. Whatever prevents a start is one log line and exit code 1."""

import signal
import sys
from collections.abc import Iterable
from types import FrameType

import structlog

from trustgate.commands.boot import load_settings, with_server_key
from trustgate.settings import ConfigurationError, Settings, Warning
from trustgate.telemetry import logs

BOOT_FAILED = 1


def serve(planes: frozenset[str]) -> int:
    """Run `planes` until a signal; returns the exit code."""
    logs.configure(console=sys.stderr.buffer)
    _leave_quietly_while_starting()
    try:
        settings, _ = load_settings()
        logs.configure(settings.log.level, settings.log.format, console=sys.stderr.buffer)
        settings.check(planes)
        settings, notice = with_server_key(settings, planes)
        _warn(settings.warnings)
        started = _start_logs(settings)
    except ConfigurationError as error:
        structlog.get_logger().error(str(error))
        return BOOT_FAILED
    if notice is not None:
        _warn((notice,))
    try:
        from trustgate.app import main  # late: settings are refused without loading the planes

        return main(planes, settings)
    except ConfigurationError as error:
        structlog.get_logger().error(str(error))
        return BOOT_FAILED
    finally:
        started.close()


def _leave_quietly_while_starting() -> None:
    """A signal before the planes take over ends a process that has nothing to drain: exit 0, no traceback."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)


def _warn(warnings: Iterable[Warning]) -> None:
    log = structlog.get_logger()
    for warning in warnings:
        log.warning(warning.message, key=warning.key, **({"value": warning.value} if warning.value else {}))


def _start_logs(settings: Settings) -> logs.Logging:
    file = logs.LOG_FILE if settings.log.file_enabled else None
    try:
        return logs.configure(settings.log.level, settings.log.format, file=file, access=settings.log.access_enabled)
    except OSError as error:
        raise ConfigurationError.invalid(f"LOG_FILE_ENABLED is true, but {logs.LOG_FILE}: {error}") from error
