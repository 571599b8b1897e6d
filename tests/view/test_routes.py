"""What a balancer holds: pool registries, or members with their models and weights (spec 02 §7.2, §7.4)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.views import consumer, registry, view
from trustgate.domain.entities import Fallback, LBConfig, LBMember, ModelPolicy
from trustgate.view.model import ConsumerView

POLICIES = {"a": ModelPolicy(("x", "y", "z"), "y"), "b": ModelPolicy()}
WEIGHTS = {"a": 7, "b": 3}


def compiled(**more: Any) -> ConsumerView:
    members = {"registry_ids": ("b", "a", "off"), "model_policies": POLICIES, "registry_weights": WEIGHTS}
    found = view(registry("a"), registry("b"), registry("off", enabled=False), consumer(**(members | more))).consumer(
        "AbCd1234"
    )
    assert found is not None
    return found


def rows(served: ConsumerView) -> list[tuple[str, str, tuple[str, ...] | None, str, int]]:
    return [
        (route.registry.id, route.model, route.allowance.allowed, route.allowance.default, route.weight)
        for route in served.routes
    ]


def balanced(*members: LBMember, **more: Any) -> dict[str, Any]:
    return {"lb_config": LBConfig(enabled=True, algorithm="random", members=members, **more)}


WHOLE_POOL = [("b", "", None, "", 3), ("a", "", ("x", "y", "z"), "y", 7)]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"lb_config": LBConfig(enabled=False, members=(LBMember(registry_id="a"),))},
        balanced(),
        balanced(LBMember(registry_id="off"), LBMember(registry_id="unbound")),
    ],
    ids=["absent", "disabled", "no members", "no member available"],
)
def test_without_usable_members_each_pool_registry_is_a_route_in_its_order(more: dict[str, Any]) -> None:
    assert rows(compiled(**more)) == WHOLE_POOL


@pytest.mark.parametrize(
    ("member", "row"),
    [
        (LBMember(registry_id="a"), ("a", "", ("x", "y", "z"), "y", 7)),
        (LBMember(registry_id="a", weight=5), ("a", "", ("x", "y", "z"), "y", 5)),
        (LBMember(registry_id="a", model=" x "), ("a", "x", ("x", "y", "z"), "x", 7)),
        (LBMember(registry_id="a", models=("z", "y")), ("a", "", ("z", "y"), "y", 7)),
        (LBMember(registry_id="a", models=("z", "x")), ("a", "", ("z", "x"), "z", 7)),
        (LBMember(registry_id="a", models=("z", "x"), model="x"), ("a", "x", ("z", "x"), "x", 7)),
        (LBMember(registry_id="b", model="m"), ("b", "m", None, "m", 3)),
    ],
)
def test_a_member_is_a_route(member: LBMember, row: tuple[Any, ...]) -> None:
    assert rows(compiled(**balanced(member))) == [row]


def test_one_registry_under_two_models_is_two_routes() -> None:
    served = compiled(**balanced(LBMember(registry_id="a", model="y"), LBMember(registry_id="a", model="x")))
    assert [route.key for route in served.routes] == [("a", "y"), ("a", "x")]
    assert served.algorithm == "random"


def test_members_may_be_of_the_chain() -> None:
    served = compiled(fallback=Fallback(enabled=True, chain=("a",)), **balanced(LBMember(registry_id="a")))
    assert ([r.id for r in served.pool], [r.id for r in served.chain], rows(served)[0][0]) == (["b"], ["a"], "a")


@pytest.mark.parametrize(
    ("fallback", "pool", "chain"),
    [
        (None, ["b", "a"], []),
        (Fallback(enabled=False, chain=("a",)), ["b", "a"], []),
        (Fallback(enabled=True), ["b", "a"], []),
        (Fallback(enabled=True, chain=("a", "off")), ["b"], ["a"]),
        (Fallback(enabled=True, chain=("a", "b")), ["b", "a"], ["a", "b"]),
    ],
)
def test_the_chain_leaves_the_pool_unless_that_would_be_empty(
    fallback: Fallback | None, pool: list[str], chain: list[str]
) -> None:
    served = compiled(fallback=fallback)
    assert ([r.id for r in served.pool], [r.id for r in served.chain]) == (pool, chain)
