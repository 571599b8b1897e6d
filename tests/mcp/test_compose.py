"""Naming, collisions, toolkits and roles: from upstream lists to what a consumer sees. Pure."""

from __future__ import annotations

import json

import pytest

from tests.mcp.world import registry as registry_of
from tests.views import consumer, later, role
from tests.views import view as view_of
from trustgate.domain.entities import MCPPolicies, ToolkitEntry
from trustgate.mcp.compose import Item, Listing, compose, expose, permits_uri, prefix_of
from trustgate.mcp.surface import inline_surface, rfc3339, role_surface
from trustgate.view.model import RegistryView

IDS = ("aaaaaaaa-1", "bbbbbbbb-2", "cccccccc-3")


def registries(*names: str) -> list[RegistryView]:
    found = view_of(*[registry_of(id_, "http://up.example/mcp", name) for id_, name in zip(IDS, names, strict=False)])
    return [found.registries[id_] for id_ in IDS[: len(names)]]


def listing(*names: str) -> Listing:
    return Listing(tuple(Item(name, json.dumps({"name": name, "x": 1.50}).encode()) for name in names))


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("Up A!", "Up_A"),
        ("plain-name_1", "plain-name_1"),
        ("  é/é  ", "reg_aaaaaaaa"),
        ("__x__", "x"),
        ("a.b..c", "a_b_c"),
    ],
)
def test_the_prefix_is_made_of_the_registry_name(name: str, prefix: str) -> None:
    assert prefix_of(registries(name)[0]) == prefix


# registry names, candidates (name, index of registry), exposed names
COLLISIONS: list[tuple[list[str], list[tuple[str, int]], list[str]]] = [
    (["A", "B"], [("x", 0), ("y", 1)], ["x", "y"]),
    (["A", "B"], [("x", 0), ("x", 1), ("y", 1)], ["A_x", "B_x", "y"]),
    (["A", "A"], [("x", 0), ("x", 1)], ["A_x", "A_bbbbbbbb_x"]),
    (["A", "B"], [("x", 0), ("x", 1), ("A_x", 1)], ["A_aaaaaaaa_x", "B_x", "A_x"]),
    (
        ["A", "B"],
        [("x", 0), ("x", 1), ("A_x", 1), ("A_aaaaaaaa_x", 1)],
        ["A_aaaaaaaa_x_2", "B_x", "A_x", "A_aaaaaaaa_x"],
    ),
    (["A", "B", "C"], [("x", 0), ("x", 1), ("x", 2)], ["A_x", "B_x", "C_x"]),
]


@pytest.mark.parametrize(("names", "candidates", "expected"), COLLISIONS)
def test_a_name_wanted_more_than_once_is_kept_by_nobody(
    names: list[str], candidates: list[tuple[str, int]], expected: list[str]
) -> None:
    found = registries(*names)
    assert expose([(name, found[index]) for name, index in candidates]) == expected


def tool(registry: int, name: str, expose_as: str = "") -> ToolkitEntry:
    return ToolkitEntry(IDS[registry], tool=name, expose_as=expose_as)


# toolkit, exposed names of two registries that list (a, b, c) and (c, d), names that are kept back
TOOLKITS: list[tuple[tuple[ToolkitEntry, ...] | None, list[str], set[str]]] = [
    (None, ["a", "b", "A_c", "B_c", "d"], set()),
    ((tool(0, "*"),), ["a", "b", "c"], {"d"}),
    ((tool(0, "b"), tool(0, "a"), tool(0, "missing")), ["b", "a"], {"c", "d"}),
    ((tool(0, "b", "best"), tool(0, "*")), ["best", "a", "c"], {"d"}),
    ((tool(0, "c", "one"), tool(1, "c", "two")), ["one", "two"], {"a", "b", "d"}),
    ((tool(0, "c"), tool(0, "c", "again")), ["c"], {"a", "b", "d"}),
    ((tool(0, "a", "c"), tool(1, "c")), ["A_c", "B_c"], {"b", "c", "d"}),
    ((ToolkitEntry(IDS[0], prompt="*"),), [], {"a", "b", "c", "d"}),
]


@pytest.mark.parametrize(("toolkit", "names", "kept_back"), TOOLKITS)
def test_a_toolkit_selects_renames_and_orders(
    toolkit: tuple[ToolkitEntry, ...] | None, names: list[str], kept_back: set[str]
) -> None:
    found = registries("A", "B")
    lists = [listing("a", "b", "c"), listing("c", "d")]

    def entries(registry: RegistryView) -> tuple[ToolkitEntry, ...] | None:
        if toolkit is None:
            return None
        return tuple(entry for entry in toolkit if entry.registry_id == registry.id and entry.tool)

    made = compose([(one, items, entries(one)) for one, items in zip(found, lists, strict=True)], "tool", "tools")
    assert list(made.by_name) == names
    assert made.excluded == kept_back
    assert [one["name"] for one in json.loads(made.result)["tools"]] == names


def test_an_object_is_passed_on_as_it_came_and_a_renamed_one_differs_in_its_name_alone() -> None:
    raw = b'{"name": "a", "new-member": {"z":1.50, "a":1e3}, "inputSchema":{}}'
    one, two = registries("A", "B")
    alone = compose([(one, Listing((Item("a", raw),)), None)], "tool", "tools")
    assert alone.result == b'{"tools":[' + raw + b"]}"
    both = compose([(one, Listing((Item("a", raw),)), None), (two, listing("a"), None)], "tool", "tools")
    assert b'{"name":"A_a","new-member":{"z":1.50,"a":1e3},"inputSchema":{}}' in both.result


def test_an_upstream_that_repeats_a_name_is_heard_once() -> None:
    made = compose([(registries("A")[0], listing("a", "a", "b"), None)], "tool", "tools")
    assert list(made.by_name) == ["a", "b"]


@pytest.mark.parametrize(
    ("pattern", "uri", "granted"),
    [
        ("*", "file:///x", True),
        ("file:///x", "file:///x", True),
        ("file:///x", "file:///x/y", False),
        ("file:///x/*", "file:///x/y", True),
        ("file:///x/*", "file:///y", False),
    ],
)
def test_resources_are_granted_by_uri(pattern: str, uri: str, granted: bool) -> None:
    assert permits_uri((ToolkitEntry("r", resource=pattern),), uri) is granted
    assert permits_uri(None, uri)
    assert not permits_uri((), uri)


def test_an_empty_toolkit_of_an_inline_consumer_allows_everything() -> None:
    found = view_of(
        registry_of("r-1", "http://up/"), consumer("AbCd1234", type="MCP", registry_ids=("r-1",), toolkit=())
    )
    one = found.consumer("AbCd1234")
    assert one is not None
    surface = inline_surface(one)
    assert (surface.toolkit, surface.closed, surface.entries("r-1", "tool")) == (None, False, None)


def test_the_surface_of_roles_is_their_union() -> None:
    """Role order is newest first; a role without policies grants its registries, and makes the surface closed."""
    entities = [registry_of(id_, "http://up/", id_) for id_ in ("r-1", "r-2", "r-3")]
    llm = registry_of("r-4", "http://up/", enabled=False)
    granted = MCPPolicies((ToolkitEntry("r-2", tool="x"), ToolkitEntry("r-3", tool="dropped: not bound")), "open")
    old = role("old", registry_ids=("r-2", "r-4"), mcp_policies=granted, created_at=later(0))
    new = role("new", registry_ids=("r-3", "r-2"), mcp_policies=MCPPolicies((), "open"), created_at=later(5))
    full = role("full", registry_ids=("r-1",), created_at=later(1))
    found = {one.id: one for one in view_of(*entities, llm, old, new, full).roles}

    both = role_surface((found["new"], found["old"]))
    assert [one.id for one in both.registries] == ["r-2", "r-3"]
    assert both.toolkit == (ToolkitEntry("r-2", tool="x"),)
    assert not both.closed

    assert role_surface((found["new"],)).toolkit == ()  # an empty toolkit grants nothing
    everything = role_surface((found["full"], found["old"]))
    assert [one.id for one in everything.registries] == ["r-1", "r-2"]
    assert everything.toolkit is not None
    assert everything.entries("r-1", "resource") == (ToolkitEntry("r-1", resource="*"),)
    assert everything.closed


def test_times_in_the_version_have_no_trailing_zeros() -> None:
    assert [rfc3339(later(seconds)) for seconds in (0, 0.5, 0.123456)] == [
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05.5Z",
        "2026-01-02T03:04:05.123456Z",
    ]
