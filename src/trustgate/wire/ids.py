"""Identifiers that are made once a request: random and time-ordered UUIDs without a system call each."""

import os
import time
from contextvars import ContextVar
from types import EllipsisType
from typing import Final

from structlog.contextvars import STRUCTLOG_KEY_PREFIX

current_trace: Final[ContextVar[str | EllipsisType]] = ContextVar(STRUCTLOG_KEY_PREFIX + "trace_id", default=...)
"""The trace id of the request that this task works for; `...` outside of one.

Named so that structlog adds it to every line: binding through structlog itself costs twenty times as much.
"""

_POOL_BYTES: Final = 4096


class _Random:
    """Secure random bytes, asked of the kernel 4 KiB at a time: a system call a request would cost more than ids."""

    def __init__(self) -> None:
        self._left = b""
        self._at = 0
        os.register_at_fork(after_in_child=self._forget)  # a forked process must not repeat its parent

    def _forget(self) -> None:
        self._left, self._at = b"", 0

    def hex(self, size: int) -> str:
        if self._at + size > len(self._left):
            self._left, self._at = os.urandom(_POOL_BYTES), 0
        at = self._at
        self._at = at + size
        return self._left[at : at + size].hex()


_random = _Random()
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def uuid4() -> str:
    """A random UUID (RFC 9562 §5.4), lower-case."""
    text = _random.hex(16)
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:]}"


def uuid7() -> str:
    """A time-ordered UUID (RFC 9562 §5.7), lower-case."""
    stamp = f"{time.time_ns() // 1_000_000:012x}"
    text = _random.hex(10)
    return f"{stamp[:8]}-{stamp[8:]}-7{text[:3]}-{_VARIANT[text[3]]}{text[4:7]}-{text[7:19]}"
