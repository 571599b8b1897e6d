"""Spec 02 §4.3 and spec 05 §5.1: `oidc_mapping` against claims."""

from __future__ import annotations

from typing import Any

import pytest

from trustgate.identity.roles import BadMapping, matches

CLAIMS: dict[str, Any] = {
    "groups": ["eng", "ops", 7],
    "team": "eng",
    "empty": [],
    "scope": "read write",
    "nested": {"roles": ["admin"], "scp": "a b"},
    "https://x.example/roles": ["literal"],
    "number": 5,
    "yes": True,
}


def mapping(*claims: tuple[str, str, list[Any]], match: str = "all") -> dict[str, Any]:
    return {"match": match, "claims": [{"path": p, "op": o, "values": v} for p, o, v in claims]}


@pytest.mark.parametrize(
    ("path", "op", "values", "expected"),
    [
        ("groups", "contains_any", ["ops", "x"], True),
        ("groups", "contains_any", ["x"], False),
        ("groups", "contains_all", ["ops", "eng"], True),
        ("groups", "contains_all", ["ops", "x"], False),
        ("groups", "equals", ["eng"], False),
        ("team", "equals", ["x", "eng"], True),
        ("team", "equals", [" eng ", ""], True),
        ("team", "contains_any", ["ENG"], False),
        ("empty", "contains_any", ["x"], False),
        ("scope", "contains_all", ["write", "read"], True),
        ("nested.roles", "equals", ["admin"], True),
        ("nested.scp", "contains_any", ["b"], True),
        ("https://x.example/roles", "equals", ["literal"], True),
        ("number", "equals", ["5"], False),
        ("yes", "equals", ["true"], False),
        ("absent.deep", "equals", ["x"], False),
        ("groups.eng", "equals", ["x"], False),
    ],
)
def test_one_condition(path: str, op: str, values: list[Any], expected: bool) -> None:
    assert matches(mapping((path, op, values)), CLAIMS) is expected


@pytest.mark.parametrize(("match", "expected"), [("any", True), ("all", False)])
def test_any_and_all(match: str, expected: bool) -> None:
    both = (("team", "equals", ["eng"]), ("team", "equals", ["ops"]))
    assert matches(mapping(*both, match=match), CLAIMS) is expected


@pytest.mark.parametrize(
    "broken",
    [
        {"match": "most", "claims": [{"path": "a", "op": "equals", "values": ["x"]}]},
        {"match": "any", "claims": []},
        {"match": "any"},
        {"match": "any", "claims": ["x"]},
        {"match": "any", "claims": [{"path": "", "op": "equals", "values": ["x"]}]},
        {"match": "any", "claims": [{"path": "a", "op": "like", "values": ["x"]}]},
        {"match": "any", "claims": [{"path": "a", "op": "equals", "values": "x"}]},
    ],
)
def test_unreadable_mappings_are_errors(broken: dict[str, Any]) -> None:
    with pytest.raises(BadMapping):
        matches(broken, CLAIMS)
