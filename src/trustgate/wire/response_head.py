"""Response heads as the server writes them: status lines, header names in canonical MIME case, framing headers.

No Server, Date or default Content-Type is ever added.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

import msgspec

Field = tuple[bytes, bytes]

STATUS_LINES: Final[dict[int, bytes]] = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}
STATUS_LINES[413] = b"HTTP/1.1 413 Request Entity Too Large\r\n"

_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive"})
_MAX_KNOWN_NAMES: Final = 4096
_canonical: dict[bytes, bytes] = {}


class InvalidHeader(ValueError):
    """An application tried to send a header that would break the framing of the response."""


def canonical_name(name: bytes) -> bytes:
    """`x-ag-trace-id` -> `X-Ag-Trace-Id: `, separator included; remembered."""
    known = _canonical.get(name)
    if known is not None:
        return known
    if not name or any(byte <= 32 or byte >= 127 or byte == 58 for byte in name):
        raise InvalidHeader("invalid header name")
    spelled = b"-".join(part[:1].upper() + part[1:].lower() for part in name.split(b"-")) + b": "
    if len(_canonical) < _MAX_KNOWN_NAMES:
        _canonical[name] = spelled
    return spelled


def status_line(status: int) -> bytes:
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status


def header_lines(headers: Iterable[Field]) -> bytes:
    """The header block without its closing blank line; framing headers are left to the server."""
    lines: list[bytes] = []
    for name, value in headers:
        if 13 in value or 10 in value or 0 in value:  # CR, LF, NUL; bytes in bytes costs several times as much
            raise InvalidHeader("invalid header value")
        if name not in _FRAMING:
            lines.append(canonical_name(name) + value + b"\r\n")
    return b"".join(lines)


class HeaderBlock(msgspec.Struct, frozen=True):
    """Headers that many responses share, checked and spelled once: `HeaderBlock.of(fields)`."""

    lines: bytes

    @staticmethod
    def of(headers: Iterable[Field]) -> "HeaderBlock":
        return HeaderBlock(header_lines(headers))


def plain_text(status: int, text: str) -> bytes:
    """A complete transport-level answer that ends the connection."""
    body = text.encode()
    return (
        status_line(status) + b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
    )
