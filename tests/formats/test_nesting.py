"""Depth of JSON texts, told without a stack."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustgate.formats.nesting import MOST_NESTED, too_deep

WORDS = st.text(alphabet='[]{}"\\ab\n', max_size=6)
VALUES = st.recursive(
    WORDS | st.none(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3)
)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(VALUES)
def test_the_depth_is_that_of_the_value(value: Any) -> None:
    text = json.dumps(value).encode()
    assert not too_deep(text, depth(value))
    assert too_deep(text, depth(value) - 1) is (depth(value) > 0)


@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a\\\\":', "}")])
def test_texts_of_any_depth_are_judged(left: str, right: str) -> None:
    for levels, deep in ((MOST_NESTED, False), (MOST_NESTED + 1, True), (100_000, True)):
        assert too_deep((left * levels + "1" + right * levels).encode()) is deep
