"""Server-sent events, sans-IO: a line reader, an event parser and a writer (WHATWG HTML §9.2).

Any chunking is accepted, including UTF-8 sequences and CRLF pairs split across chunks. Everything is bounded.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

MAX_LINE_BYTES: Final = 2 * 1024 * 1024
MAX_EVENT_BYTES: Final = 8 * 1024 * 1024
_BOM: Final = b"\xef\xbb\xbf"


class LineTooLong(ValueError):
    """A line (or the data of one event) exceeds its limit."""


class LineReader:
    """Splits at LF and drops a CR before it, as a relay of lines needs it; a lone CR is data."""

    __slots__ = ("_max", "_parts", "_size")

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_line_bytes
        self._parts: list[bytes] = []  # the unfinished line; joined once, so that a huge line stays linear
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines completed by `data`, without their ends. Raises LineTooLong."""
        lines = data.split(b"\n")
        last = lines.pop()
        if lines and self._parts:
            self._parts.append(lines[0])
            lines[0] = b"".join(self._parts)
            self._parts = []
            self._size = 0
        if last:
            self._parts.append(last)
            self._size += len(last)
            if self._size > self._max + 1:
                raise LineTooLong("line too long")
        for index, line in enumerate(lines):
            if line.endswith(b"\r"):
                lines[index] = line = line[:-1]
            if len(line) > self._max:
                raise LineTooLong("line too long")
        return lines

    def end(self) -> bytes | None:
        """The last, unterminated line; None when there is none. Resets the reader."""
        if not self._parts:
            return None
        line = b"".join(self._parts)
        self._parts = []
        self._size = 0
        if line.endswith(b"\r"):
            line = line[:-1]
        if len(line) > self._max:
            raise LineTooLong("line too long")
        return line


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event. `data` holds its lines joined by LF; `event` is "" for the default type; `id` is the last id seen."""

    data: str
    event: str = ""
    id: str = ""
    retry: int | None = None


class EventParser:
    """Parses a stream as a browser does: LF, CR and CRLF end lines; comments and unknown fields are skipped; an event
    without data is not dispatched; an unfinished last event is dropped."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event = max_event_bytes
        self._lines = LineReader(max_line_bytes)
        self._after_cr = False
        self._start = b""
        self._begun = False
        self._data: list[bytes] = []
        self._size = 0
        self._event = b""
        self._retry: int | None = None
        self.last_id = ""

    def feed(self, data: bytes) -> list[Event]:
        """Events completed by `data`. Raises LineTooLong."""
        if not self._begun:
            data = self._start + data
            if len(data) < 3 and _BOM.startswith(data):
                self._start = data
                return []
            self._begun = True
            data = data.removeprefix(_BOM)
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if not data:
            return []
        self._after_cr = data.endswith(b"\r")
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        events: list[Event] = []
        for line in self._lines.feed(data):
            if line:
                self._field(line)
            else:
                self._dispatch(events)
        return events

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if name == b"data":
            self._size += len(value) + 1
            if self._size > self._max_event:
                raise LineTooLong("event too long")
            self._data.append(value)
        elif name == b"event":
            self._event = value
        elif name == b"id":
            if b"\0" not in value:
                self.last_id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < 16:
            self._retry = int(value)

    def _dispatch(self, events: list[Event]) -> None:
        if self._data:
            data = b"\n".join(self._data).decode("utf-8", "replace")
            events.append(Event(data, self._event.decode("utf-8", "replace"), self.last_id, self._retry))
        self._data = []
        self._size = 0
        self._event = b""
        self._retry = None


def encode(event: Event) -> bytes:
    """One event with its closing blank line. Raises ValueError for a line break in `event` or `id`."""
    if any(mark in text for mark in "\r\n\0" for text in (event.event, event.id)):
        raise ValueError("line break in an event name or id")
    lines: list[str] = []
    if event.event:
        lines.append(f"event: {event.event}\n")
    if event.id:
        lines.append(f"id: {event.id}\n")
    if event.retry is not None:
        lines.append(f"retry: {event.retry}\n")
    data = event.data.replace("\r\n", "\n").replace("\r", "\n")
    lines.extend(f"data: {line}\n" for line in data.split("\n"))
    return ("".join(lines) + "\n").encode()


def encode_all(events: Sequence[Event]) -> bytes:
    """Events that arrived together leave in one write."""
    return b"".join(map(encode, events))
