"""Event streams to clients: the bytes of an event, and the log of a stream that another instance can replay.

What lives here: ids, encoding, bounds. What must not: HTTP, who listens. A stream's log keeps its last events, at most
`MAX_EVENTS` and about `MAX_BYTES`, for `KEPT_S` after the last of them; what was dropped cannot be resumed.
"""

from __future__ import annotations

import re
from collections import deque

import structlog
import trio

from trustgate.limits.shared import SharedState

MAX_EVENTS = 256
MAX_BYTES = 1024 * 1024
KEPT_S = 600.0
STATE_S = 2.0
"""Shared state that does not answer in time is down: events then go out without an id."""
RETRY_MS = 1000
MAIN = "main"
"""The stream of a session that belongs to no request."""
EVENT_ID = re.compile(r"(main|[0-9a-f]{8}-[0-9a-f]{1,12})\.([0-9]{1,19}(?:-[0-9]{1,19})?)")
PREFIX = "trustgate:mcp:stream:"
OPEN, LAST = b"+", b"."
"""How a kept entry begins: whether more follow."""

log = structlog.get_logger(__name__)


def encode(data: bytes, id: str = "") -> bytes:
    """One event. JSON has line breaks only between its tokens, where a space does as well."""
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\r", b" ").replace(b"\n", b" ")
    return b"id: %b\ndata: %b\n\n" % (id.encode(), data) if id else b"data: %b\n\n" % data


def prime(id: str) -> bytes:
    """An event without data: from here a client can resume, and this long it should wait before (SEP-1699)."""
    return b"id: %b\nretry: %d\ndata: \n\n" % (id.encode(), RETRY_MS)


def key_of(session_id: str, stream: str) -> str:
    return f"{PREFIX}{session_id}:{stream}"


class Journal:
    """A writer of the log of one stream. Mutable: the sizes of what it wrote, which bound what is kept."""

    def __init__(self, state: SharedState, session_id: str, stream: str) -> None:
        self.stream = stream
        self.key = key_of(session_id, stream)
        self._state = state
        self._sizes: deque[int] = deque(maxlen=MAX_EVENTS)

    async def add(self, data: bytes, *, last: bool = False) -> str:
        """Keep a message; the id of its event, empty when it cannot be kept."""
        self._sizes.append(len(data))
        keep = MAX_EVENTS
        while len(self._sizes) > 1 and sum(self._sizes) > MAX_BYTES:
            self._sizes.popleft()
            keep = len(self._sizes)
        try:
            with trio.fail_after(STATE_S):
                entry = (LAST if last else OPEN) + data
                position = await self._state.append(self.key, entry, keep, KEPT_S)
        except Exception as error:
            log.warning("an event cannot be resumed: shared state failed", error=str(error))
            return ""
        return f"{self.stream}.{position}"
