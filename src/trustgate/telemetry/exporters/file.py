"""Exporter `file`: the metadata view as JSON lines, rotated by size. Several processes may write one file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trustgate.telemetry.outlet import Item, Manner, Metadata

MAX_BYTES = 100 * 1024 * 1024
MAX_FILES = 5
MANNER = Manner(form="encoded", capacity=10_000, max_batch=1_000, linger_s=0.2)

Json = dict[str, Any]


class FileSink:
    """Appends to `path`; a full file becomes `path.1`, older ones move up, the oldest is deleted."""

    def __init__(self, settings: Json) -> None:
        self._path = Path(settings["path"])
        self._max_bytes = int(settings.get("max_bytes") or MAX_BYTES)
        self._max_files = int(settings.get("max_files") or MAX_FILES)
        self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._fd = -1
        self._open()

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def publish(self, batch: Sequence[Item]) -> int:
        lines = b"".join(item.data + b"\n" for item in batch if isinstance(item, Metadata))
        self._follow()
        if os.fstat(self._fd).st_size + len(lines) > self._max_bytes and os.fstat(self._fd).st_size:
            self._rotate()
        left = memoryview(lines)
        while left:
            left = left[os.write(self._fd, left) :]
        return 0

    def _follow(self) -> None:
        """Go on in the current file when another process, or an administrator, has moved ours away."""
        try:
            moved = os.stat(self._path).st_ino != os.fstat(self._fd).st_ino
        except FileNotFoundError:
            moved = True
        if moved:
            os.close(self._fd)
            self._open()

    def _rotate(self) -> None:
        """Move the files up, one process at a time; the one that comes second finds a fresh file and leaves it."""
        lock = os.open(f"{self._path}.lock", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = os.fstat(self._fd).st_ino
            self._follow()
            if os.fstat(self._fd).st_ino != before:
                return
            for number in range(self._max_files - 1, 0, -1):
                source = self._path if number == 1 else Path(f"{self._path}.{number - 1}")
                if source.exists():
                    os.replace(source, f"{self._path}.{number}")
            if self._max_files == 1:
                self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._open()
        finally:
            os.close(lock)

    def close(self) -> None:
        os.close(self._fd)
