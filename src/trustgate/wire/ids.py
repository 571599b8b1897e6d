"""Identifiers that are made once a request: random and time-ordered UUIDs without a system call each."""

import os
import time
from contextvars import ContextVar
from functools import lru_cache
from types import EllipsisType
from typing import Final

from structlog.contextvars import STRUCTLOG_KEY_PREFIX

current_trace: Final[ContextVar[str | EllipsisType]] = ContextVar(STRUCTLOG_KEY_PREFIX + "trace_id", default=...)
"""The trace id of the request that this task works for; `...` outside of one.

Named so that structlog adds it to every line: binding through structlog itself costs twenty times as much.
"""

_BATCH: Final = 128
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}

# Random UUIDs made ahead: a batch costs one system call, and little more than a slice or two for each.
_ready: list[str] = []
os.register_at_fork(after_in_child=_ready.clear)  # a forked process must not repeat its parent


def _prepare() -> None:
    digits = os.urandom(16 * _BATCH).hex()
    _ready.extend(
        f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:]}"
        for text in (digits[at : at + 32] for at in range(0, 32 * _BATCH, 32))
    )


def uuid4() -> str:
    """A random UUID (RFC 9562 §5.4), lower-case."""
    try:
        return _ready.pop()
    except IndexError:
        _prepare()
        return _ready.pop()


def uuid7() -> str:
    """A time-ordered UUID (RFC 9562 §5.7), lower-case."""
    return _stamp(time.time_ns() // 1_000_000) + uuid4()[15:]


@lru_cache(2)
def _stamp(unix_ms: int) -> str:
    digits = f"{unix_ms:012x}"
    return f"{digits[:8]}-{digits[8:]}-7"
