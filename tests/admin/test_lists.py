"""Paging, sort and filters of lists (spec 01 §3.2)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trustgate.admin import lists
from trustgate.admin.lists import Page, Query
from trustgate.domain.errors import DomainError


def query(text: str) -> Query:
    return Query(text.encode())


def outcome(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except DomainError as refusal:
        return refusal.code, refusal.message


PAGE = ("invalid_pagination", "invalid page parameter")
SIZE = ("invalid_pagination", "invalid size parameter")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Page(1, 20)),
        ("page=&size=", Page(1, 20)),
        ("page=3&size=7", Page(3, 7)),
        ("page=%2B2", Page(2, 20)),
        ("page=007", Page(7, 20)),
        ("size=200", Page(1, 200)),
        ("size=201", Page(1, 200)),
        ("page=9223372036854775807", Page(2**63 - 1, 20)),
        ("page=9223372036854775808", PAGE),
        ("page=0", PAGE),
        ("page=-1", PAGE),
        ("page=1.5", PAGE),
        ("page=x", PAGE),
        ("page=+2", PAGE),
        ("page=%D9%A1", PAGE),
        ("page=1_0", PAGE),
        ("size=0", SIZE),
        ("size=x", SIZE),
        ("page=x&size=x", PAGE),
    ],
)
def test_page_and_size(text: str, expected: Any) -> None:
    assert outcome(lists.read_page, query(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("created_at", True)),
        ("sort=&order=", ("created_at", True)),
        ("sort=name", ("name", False)),
        ("sort=%20name%20", ("name", False)),
        ("sort=name&order=DESC", ("name", True)),
        ("sort=name&order=asc", ("name", False)),
        ("sort=NAME", ("invalid_sort", "invalid sort parameter")),
        ("sort=slug", ("invalid_sort", "invalid sort parameter")),
        ("sort=name&order=up", ("invalid_sort", "invalid sort parameter")),
        ("order=asc", ("invalid_sort", "invalid sort parameter")),
    ],
)
def test_sort_and_order(text: str, expected: Any) -> None:
    assert outcome(lists.read_sort, query(text), ("name", "created_at")) == expected


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_true_is_spelled_in_six_ways(text: str) -> None:
    assert lists.read_bool(query(f"active={text}"), "active") is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_false_is_spelled_in_six_ways(text: str) -> None:
    assert lists.read_bool(query(f"active={text}"), "active") is False


@pytest.mark.parametrize("text", ["yes", "tRUE", "2", " true"])
def test_other_booleans_are_refused(text: str) -> None:
    assert outcome(lists.read_bool, query(f"active={text}"), "active") == ("invalid_filter", "invalid filter parameter")


def test_search_wins_over_its_alias() -> None:
    assert lists.read_search(query("search=A&name=B")) == "a"
    assert lists.read_search(query("search=&name=B")) == "b"


class Item(msgspec.Struct):
    id: str
    name: str
    rank: int


ITEMS = [Item("3", "beta", 1), Item("1", "Alpha", 2), Item("2", "alpha", 2)]


@pytest.mark.parametrize(
    ("field", "descending", "ids"),
    [("rank", False, ["3", "1", "2"]), ("rank", True, ["1", "2", "3"]), ("name", False, ["2", "1", "3"])],
)
def test_ties_are_broken_by_id_ascending_in_either_direction(field: str, descending: bool, ids: list[str]) -> None:
    assert [item.id for item in lists.ordered(ITEMS, field, descending)] == ids


def test_a_page_beyond_the_end_is_empty_and_keeps_the_total() -> None:
    found = lists.paged(ITEMS, Page(2**63 - 1, 200))
    assert found.envelope(lambda item: item.id) == {"items": [], "page": 2**63 - 1, "size": 200, "total": 3}
