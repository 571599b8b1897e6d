"""The chunked transfer coding of RFC 9112 §7.1 for request bodies, sans-IO and strict.

Chunk extensions and trailers are bounded and dropped. Lines end in CRLF, nothing else.
"""

import re
from typing import Final

from trustgate.wire.request_head import Refused, bad_request

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
MAX_LINE_BYTES: Final = 4096
MAX_OVERHEAD_BYTES: Final = 65536
"""Bound on extensions and trailers of one body beyond the plain size lines."""


class ChunkedDecoder:
    """Feed bytes until `done`; `body()` is the payload, `rest` what follows the message."""

    def __init__(self, max_body_bytes: int) -> None:
        self._max = max_body_bytes
        self._buffer = bytearray()
        self._parts: list[bytes] = []
        self._size = 0
        self._missing = 0  # payload bytes of the current chunk still to come
        self._state = "size"
        self._overhead = 0
        self.done = False

    @property
    def rest(self) -> bytes:
        return bytes(self._buffer)

    def body(self) -> bytes:
        return b"".join(self._parts)

    def feed(self, data: bytes) -> None:
        """Raises `Refused`: 400 for a malformed coding, 413 when the payload exceeds the limit."""
        self._buffer += data
        while not self.done:
            if self._state == "data":
                if not self._take_data():
                    return
            else:
                line = self._take_line()
                if line is None:
                    return
                self._take(line)

    def _take_data(self) -> bool:
        if not self._buffer:
            return False
        part = bytes(self._buffer[: self._missing])
        del self._buffer[: len(part)]
        self._parts.append(part)
        self._missing -= len(part)
        if self._missing == 0:
            self._state = "after"
        return True

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise bad_request()
            return None
        if end == 0 or self._buffer[end - 1] != 13 or end > MAX_LINE_BYTES:
            raise bad_request()
        line = bytes(self._buffer[: end - 1])
        del self._buffer[: end + 1]
        return line

    def _take(self, line: bytes) -> None:
        if self._state == "after":
            if line:
                raise bad_request()
            self._state = "size"
        elif self._state == "size":
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                raise bad_request()
            self._spend(len(line) - len(match[1]))
            self._missing = int(match[1], 16)
            self._size += self._missing
            if self._size > self._max:
                raise Refused(413, "Request Entity Too Large")
            self._state = "data" if self._missing else "trailer"
        elif line:
            if not _TRAILER.fullmatch(line):
                raise bad_request()
            self._spend(len(line))
        else:
            self.done = True

    def _spend(self, overhead: int) -> None:
        self._overhead += overhead
        if self._overhead > MAX_OVERHEAD_BYTES:
            raise bad_request()
