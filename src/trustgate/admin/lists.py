"""List queries: paging, search, sort and filters, and the order in which they are checked (spec 01 §3.2).

What lives here: reading of query parameters and their application to objects in memory. What must not: HTTP, rendering.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl

import msgspec

from trustgate.admin.errors import invalid_filter, invalid_page, invalid_size, invalid_sort

DEFAULT_SIZE = 20
MAX_SIZE = 200
MAX_INT = 2**63 - 1
MAX_DIGITS = 40
TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))

T = TypeVar("T")


class Query:
    """The query string's parameters; of a repeated one the first counts, unless all are asked for."""

    def __init__(self, query_string: bytes) -> None:
        self._pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, encoding="utf-8")

    def get(self, name: str) -> str:
        """The parameter's first value, empty when absent."""
        return next((value for key, value in self._pairs if key == name), "")

    def has(self, name: str) -> bool:
        return any(key == name for key, _ in self._pairs)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self._pairs if key == name]


class Page(msgspec.Struct, frozen=True):
    number: int
    size: int


def read_page(query: Query) -> Page:
    """`page` and `size`, in this order; a size above 200 silently becomes 200."""
    number = _positive(query.get("page"), 1)
    if number is None:
        raise invalid_page()
    size = _positive(query.get("size"), DEFAULT_SIZE)
    if size is None:
        raise invalid_size()
    return Page(number, min(size, MAX_SIZE))


def read_size(query: Query, default: int) -> int:
    """`size` where the usual bound does not hold."""
    size = _positive(query.get("size"), default)
    if size is None:
        raise invalid_size()
    return size


def read_number(query: Query, name: str) -> int:
    """A number from 0 on; 0 when absent."""
    text = query.get(name)
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise invalid_filter()
    return int(text)


def _positive(text: str, default: int) -> int | None:
    if not text:
        return default
    digits = text[1:] if text[0] in "+-" else text
    if not (digits.isascii() and digits.isdigit()) or text[0] == "-" or len(digits) > MAX_DIGITS:
        return None
    value = int(digits)
    return value if 0 < value <= MAX_INT else None


def read_sort(query: Query, allowed: Sequence[str]) -> tuple[str, bool]:
    """The sort field and whether it descends; without `sort` the newest come first."""
    field, order = query.get("sort").strip(), query.get("order").strip().lower()
    if not field:
        if order:
            raise invalid_sort()
        return "created_at", True
    if field not in allowed or order not in ("", "asc", "desc"):
        raise invalid_sort()
    return field, order == "desc"


def read_bool(query: Query, name: str) -> bool | None:
    """A boolean filter; None when absent or empty."""
    text = query.get(name)
    if not text:
        return None
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise invalid_filter()


def read_choice(query: Query, name: str, allowed: Iterable[str]) -> str | None:
    """A filter with a closed set of values, spelled exactly; None when absent or empty."""
    text = query.get(name)
    if not text:
        return None
    if text not in allowed:
        raise invalid_filter()
    return text


def read_search(query: Query) -> str:
    """`search`, or its alias `name` while `search` is empty; lower-cased."""
    return (query.get("search") or query.get("name")).lower()


def ordered(items: Iterable[T], field: str, descending: bool) -> list[T]:
    """Sorted by an attribute, ties by id ascending."""
    by_id = sorted(items, key=lambda item: item.id)  # type: ignore[attr-defined]
    return sorted(by_id, key=lambda item: _sort_key(getattr(item, field)), reverse=descending)


def _sort_key(value: Any) -> Any:
    # Text sorts like a database collation for people: letters before case.
    return (value.casefold(), value.swapcase()) if isinstance(value, str) else value


class Found(msgspec.Struct, Generic[T], frozen=True):
    """One page of the matches."""

    items: Sequence[T]
    page: Page
    total: int

    def envelope(self, render: Callable[[T], Any]) -> dict[str, Any]:
        rendered = [render(item) for item in self.items]
        return {"items": rendered, "page": self.page.number, "size": self.page.size, "total": self.total}


def paged(items: Sequence[T], page: Page) -> Found[T]:
    start = (page.number - 1) * page.size
    return Found(items[start : start + page.size], page, len(items))
