"""Requests and replies of the OAuth2 routes, as small values: query, form, JSON, redirects, errors.

What must not live here: any route.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec

HeaderList = list[tuple[bytes, bytes]]

JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
TEXT: tuple[bytes, bytes] = (b"content-type", b"text/plain; charset=utf-8")
HTML: tuple[bytes, bytes] = (b"content-type", b"text/html; charset=utf-8")
NO_STORE: tuple[bytes, bytes] = (b"cache-control", b"no-store")
FORM = b"application/x-www-form-urlencoded"
MAX_FIELDS = 64


class BadForm(Exception):
    """A form that cannot be decoded."""


LISTS = frozenset({b"x-forwarded-for"})
"""Headers of several lines that mean one list: a proxy may add a line of its own."""


def header_map(fields: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """First values by lower-case name; lists whole."""
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in LISTS and name in found:
            found[name] += b"," + value
        else:
            found.setdefault(name, value)
    return found


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """`headers` are those of `header_map`; `base_url` is how absolute URLs to this plane begin."""

    method: str
    path: str
    query_string: bytes
    headers: Mapping[bytes, bytes]
    body: bytes
    peer_ip: str
    base_url: str

    @property
    def query(self) -> dict[str, str]:
        """First values of the query's fields."""
        return first_values(self.query_fields)

    @property
    def query_fields(self) -> list[tuple[str, str]]:
        """The query's fields in order; those that are no UTF-8 are read with replacement characters."""
        return parse_qsl(self.query_string.decode("utf-8", "replace"), keep_blank_values=True)

    @property
    def content_type(self) -> bytes:
        return (self.headers.get(b"content-type") or b"").split(b";")[0].strip().lower()

    def form(self) -> dict[str, str]:
        """First values of a urlencoded body. Raises BadForm."""
        try:
            text = self.body.decode()
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
        except (UnicodeDecodeError, ValueError) as error:
            raise BadForm from error
        if "%" in text and any(not is_escape(part) for part in text.split("%")[1:]):
            raise BadForm
        return first_values(pairs)


def is_escape(text: str) -> bool:
    return len(text) >= 2 and all(char in "0123456789abcdefABCDEF" for char in text[:2])


def first_values(pairs: list[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    return found


class Reply(msgspec.Struct, kw_only=True):
    status: int
    headers: HeaderList = []
    body: bytes = b""


def json_reply(value: Any, status: int = 200, *headers: tuple[bytes, bytes]) -> Reply:
    return Reply(status=status, headers=[JSON, *headers], body=msgspec.json.encode(value))


def text_reply(text: str, status: int = 200, *headers: tuple[bytes, bytes]) -> Reply:
    return Reply(status=status, headers=[TEXT, *headers], body=text.encode())


def redirect(url: str, status: int = 302, *headers: tuple[bytes, bytes]) -> Reply:
    return Reply(status=status, headers=[(b"location", header_text(url)), *headers])


def header_text(value: str) -> bytes:
    """A header value without line ends; other controls cannot come out of percent-encoded URLs. Letters beyond ASCII
    go out as they came, so that they name the same place."""
    return value.replace("\r", "").replace("\n", "").encode("utf-8", "replace")


def with_query(url: str, fields: Mapping[str, str]) -> str:
    """`url` with more query fields, after those it has."""
    if not fields:
        return url
    return url + ("&" if "?" in url else "?") + urlencode(fields)


class OAuthError(Exception):
    """An error in the form of RFC 6749 §5.2, shown as JSON."""

    def __init__(self, code: str, description: str = "", status: int = 400, *more: tuple[bytes, bytes]) -> None:
        super().__init__(code)
        self.code, self.description, self.status, self.headers = code, description, status, more

    @property
    def members(self) -> dict[str, str]:
        found = {"error": self.code}
        if self.description:
            found["error_description"] = self.description
        return found

    def reply(self) -> Reply:
        return json_reply(self.members, self.status, NO_STORE, *self.headers)
