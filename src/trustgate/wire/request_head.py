"""Request heads, sans-IO: the strict grammar of RFC 9112 as two regular expressions, and the framing rules of its §6.

Strict by construction: bare LF, obs-fold, space before the colon, control bytes and unknown versions do not match.
Refusals carry one of a few fixed texts and never a byte of the input. Nothing here reads bodies.
"""

import re
from typing import Final

import msgspec

METHODS: Final = frozenset(
    {b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE", b"QUERY"}
)

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb"++) ([\x21-\x7e\x80-\xff]++) HTTP/1\.([01])")
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"++):([\t\x20-\x7e\x80-\xff]*+)")
_VERSION_LINE: Final = re.compile(_TOKEN + rb"++ [\x21-\x7e\x80-\xff]++ HTTP/\d(?:\.\d)?")
_PLAUSIBLE_START: Final = re.compile(_TOKEN + rb"++(?: |\Z)")
_SINGLE: Final = (b"host", b"content-length", b"transfer-encoding")

# Lines that clients repeat with every request are parsed once. Never a header that may carry a credential.
_REPEATED: Final = frozenset(
    {b"host", b"user-agent", b"accept", b"accept-encoding", b"connection", b"content-type", b"content-length"}
)
_MAX_KNOWN_LINES: Final = 4096
_known_lines: dict[bytes, tuple[bytes, bytes]] = {}
_known_starts: dict[bytes, tuple[bytes, bytes, bool]] = {}
"""Request lines without a query, which may carry a credential: method, target in origin form, whether HTTP/1.0."""

Field = tuple[bytes, bytes]


class Refused(Exception):
    """The request is answered with `status` and the fixed `text`, then the connection is closed."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class RequestHead(msgspec.Struct, gc=False):
    """One parsed head. `length` is the declared body length; None means chunked."""

    method: bytes
    target: bytes
    http_10: bool
    headers: list[Field]
    length: int | None
    keep_alive: bool
    expects_continue: bool


def bad_request(text: str = "Bad Request") -> Refused:
    return Refused(400, text)


def check_incomplete(data: bytes, checked: int) -> None:
    """Refuse early what can never become a valid head, so that garbage does not wait for a timeout.

    `checked` bytes have been looked at by an earlier call.
    """
    if checked == 0 and not _PLAUSIBLE_START.match(data):
        raise bad_request()
    fresh = data[max(0, checked - 1) :]
    if fresh.count(b"\n") != fresh.count(b"\r\n") + fresh.startswith(b"\n"):
        raise bad_request()


def parse(data: bytes, end: int) -> RequestHead:
    """Parse the head at the start of `data`; `end` is the offset of the CRLF CRLF that ends it."""
    lines = data[:end].split(b"\r\n")
    method, target, http_10 = _known_starts.get(lines[0]) or _request_line(lines[0])
    known = _known_lines
    headers = [known.get(line) or _field(line) for line in lines[1:]]
    fields = dict(headers)
    if len(fields) != len(headers):
        _check_duplicates(headers)
    if b"host" not in fields and not http_10:
        raise bad_request("Missing Host header")
    if target[0] != 47 and target != b"*" and method != b"CONNECT":
        target = _origin_form(target, headers)
    connection = fields.get(b"connection")
    return RequestHead(
        method=method,
        target=target,
        http_10=http_10,
        headers=headers,
        length=_body_length(fields, http_10),
        keep_alive=not http_10 and (connection is None or b"close" not in connection.lower()),
        expects_continue=b"expect" in fields and _expects_continue(fields[b"expect"], http_10),
    )


def _request_line(line: bytes) -> tuple[bytes, bytes, bool]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        version = _VERSION_LINE.fullmatch(line)
        if version is not None and b" HTTP/1." not in version[0]:
            raise Refused(505, "HTTP Version Not Supported")
        raise bad_request()
    method, target, minor = match.groups()
    if method not in METHODS:
        raise bad_request("Invalid http method")
    start = (method, target, minor == b"0")
    if target[0] == 47 and 63 not in target and len(line) < 128 and len(_known_starts) < _MAX_KNOWN_LINES:
        _known_starts[line] = start
    return start


def _field(line: bytes) -> Field:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise bad_request()
    field = (match[1].lower(), match[2].strip(b" \t"))
    if field[0] in _REPEATED and len(line) < 128 and len(_known_lines) < _MAX_KNOWN_LINES:
        _known_lines[line] = field
    return field


def _check_duplicates(headers: list[Field]) -> None:
    # RFC 9112 §3.2 (Host) and §6.3 (framing): a recipient that guesses which one counts can be smuggled through.
    names = [name for name, _ in headers]
    if any(names.count(name) > 1 for name in _SINGLE):
        raise bad_request()


def _body_length(fields: dict[bytes, bytes], http_10: bool) -> int | None:
    length = fields.get(b"content-length")
    encoding = fields.get(b"transfer-encoding")
    if encoding is not None:
        if length is not None or http_10:
            raise bad_request()
        if encoding.lower() != b"chunked":
            raise Refused(501, "Not Implemented")
        return None
    if length is None:
        return 0
    if not length.isdigit() or len(length) > 18:
        raise bad_request("Invalid Content-Length")
    return int(length)


def _expects_continue(value: bytes, http_10: bool) -> bool:
    if value.lower() != b"100-continue":
        raise Refused(417, "Expectation Failed")
    return not http_10  # RFC 9110 §10.1.1: ignored from an HTTP/1.0 client


def _origin_form(target: bytes, headers: list[Field]) -> bytes:
    """Absolute-form: its authority replaces Host (RFC 9112 §3.2.2), the rest is the target."""
    scheme, mark, rest = target.partition(b"://")
    if not mark or scheme.lower() not in (b"http", b"https"):
        raise bad_request()
    cut = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
    authority, path = rest[:cut], rest[cut:]
    if not authority or b"@" in authority:
        raise bad_request()
    for index, (name, _) in enumerate(headers):
        if name == b"host":
            headers[index] = (name, authority)
    return path if path.startswith(b"/") else b"/" + path
