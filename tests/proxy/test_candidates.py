"""Which registries may serve a request, in which order, with which models (spec 02 §7.2, §7.3)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.views import consumer, later, registry, role, view
from trustgate.domain.entities import Fallback, LBConfig, LBMember, ModelPolicy
from trustgate.proxy.candidates import candidates_of
from trustgate.proxy.errors import Refusal
from trustgate.proxy.intent import intent_of
from trustgate.view.model import ConsumerView

CHAIN = Fallback(enabled=True, chain=("c",))
POLICIES = {"a": ModelPolicy(default="gpt"), "b": ModelPolicy(allowed=("claude", "m"), default="claude")}
POOL = LBConfig(
    enabled=True,
    pool_alias="Fast",
    members=(
        LBMember(registry_id="a", model=" x1 "),
        LBMember(registry_id="a", model="x2"),
        LBMember(registry_id="b", models=("m",)),
        LBMember(registry_id="off"),
    ),
)
ONLY_OFF = LBConfig(enabled=True, pool_alias="fast", members=(LBMember(registry_id="off"),))

Found = list[tuple[str, tuple[str, ...] | None, str, str]]


def inline(**more: Any) -> ConsumerView:
    """Pool a (openai), b (anthropic) and off (disabled), chain c (groq)."""
    members = {"registry_ids": ("a", "b", "off", "c"), "model_policies": POLICIES, "fallback": CHAIN}
    found = view(
        registry("a"),
        registry("b", "anthropic"),
        registry("c", "groq"),
        registry("off", enabled=False),
        consumer(**(members | more)),
    ).consumer("AbCd1234")
    assert found is not None
    return found


def found(served: ConsumerView, reference: str) -> Found:
    rows = candidates_of(served, intent_of(reference), served.roles)
    return [
        (row.registry.id, row.allowance.allowed, row.allowance.default, ",".join(row.sources)) for row in rows or []
    ]


A = ("a", None, "gpt", "consumer")
B = ("b", ("claude", "m"), "claude", "consumer")
C = ("c", None, "", "fallback")


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("auto", [A, B]),
        ("gpt", [A, C]),
        ("m", [A, B, C]),
        ("@anthropic/m", [B]),
        ("@Groq/anything", [C]),
    ],
)
def test_candidates_of_a_consumer_with_a_chain(reference: str, expected: Found) -> None:
    assert found(inline(), reference) == expected


def test_without_an_intent_candidates_are_not_computed() -> None:
    assert candidates_of(inline(), intent_of(""), ()) is None


def test_a_registry_in_pool_and_chain_is_one_candidate_of_both() -> None:
    both = inline(fallback=Fallback(enabled=True, chain=("c", "b", "a")), registry_ids=("a", "b", "c"))
    assert [(id_, source) for id_, _, _, source in found(both, "m")] == [
        ("a", "consumer,fallback"),
        ("b", "consumer,fallback"),
        ("c", "consumer,fallback"),
    ]


def test_a_disabled_fallback_leaves_its_chain_in_the_pool() -> None:
    assert found(inline(fallback=Fallback(enabled=False, chain=("c",))), "@groq/x") == [("c", None, "", "consumer")]


def test_without_a_default_the_first_pinned_model_of_a_member_fills_in() -> None:
    served = inline(model_policies={"b": POLICIES["b"]}, lb_config=POOL)
    assert found(served, "auto")[0] == ("a", None, "x1", "consumer")
    off = LBConfig(enabled=False, members=POOL.members)
    assert [row[0] for row in found(inline(model_policies={"b": POLICIES["b"]}, lb_config=off), "auto")] == ["b"]


@pytest.mark.parametrize("reference", ["pool:fast", "POOL:FAST", "pool: Fast "])
def test_an_alias_names_the_available_members_in_any_case(reference: str) -> None:
    # a: the policy's default, since its members list no models; b: the policy's is not listed, so the first listed is.
    expected = [("a", None, "x1", "pool:Fast"), ("b", ("m",), "m", "pool:Fast")]
    assert found(inline(lb_config=POOL), reference) == expected


NOT_ALLOWED = "routing: model denied: model "
NO_POOL = "routing: unknown pool alias: validation failed: pool "


@pytest.mark.parametrize(
    ("reference", "more", "status", "code", "message"),
    [
        (
            "auto",
            {"model_policies": {}},
            403,
            "model_not_allowed",
            "routing: model denied: auto routing requires at least one registry with a default model",
        ),
        ("@anthropic/x", {}, 403, "model_not_allowed", NOT_ALLOWED + '"x" is not allowed for provider "anthropic"'),
        (
            "@mistral/x",
            {},
            403,
            "model_not_allowed",
            'routing: model denied: provider "mistral" is not available for this consumer',
        ),
        (
            "Claude",
            {"registry_ids": ("b",), "fallback": None},
            403,
            "model_not_allowed",
            NOT_ALLOWED + '"Claude" is not allowed for this consumer',
        ),
        ("pool:fast", {}, 400, "invalid_model", NO_POOL + '"fast" is not configured for this consumer'),
        (
            "pool:fast",
            {"lb_config": LBConfig(enabled=False, pool_alias="fast", members=POOL.members)},
            400,
            "invalid_model",
            NO_POOL + '"fast" is not configured for this consumer',
        ),
        (
            "pool:slow",
            {"lb_config": POOL},
            400,
            "invalid_model",
            NO_POOL + '"slow" is not configured for this consumer',
        ),
        (
            "pool:fast",
            {"lb_config": ONLY_OFF},
            403,
            "model_not_allowed",
            'routing: model denied: pool "fast" has no resolvable members',
        ),
        (
            "x",
            {"registry_ids": ("off",), "fallback": None},
            403,
            "model_not_allowed",
            NOT_ALLOWED + '"x" is not allowed for this consumer',
        ),
    ],
)
def test_nobody_may_serve(reference: str, more: dict[str, Any], status: int, code: str, message: str) -> None:
    with pytest.raises(Refusal) as refused:
        found(inline(**more), reference)
    assert (refused.value.status, refused.value.code, refused.value.message) == (status, code, message)


def by_roles(**more: Any) -> ConsumerView:
    served = view(
        registry("a"),
        registry("b", "anthropic"),
        role("old", registry_ids=("b", "a"), model_policies={"a": ModelPolicy(("x",), "x"), "b": ModelPolicy(("m",))}),
        role("new", registry_ids=("a",), model_policies={"a": ModelPolicy(("y",), "y")}, created_at=later(5)),
        role("none", created_at=later(9)),
        consumer(**({"routing_mode": "role_based", "role_ids": ("old", "new", "none")} | more)),
    ).consumer("AbCd1234")
    assert served is not None
    return served


def test_roles_come_newest_first_and_their_policies_are_merged() -> None:
    assert found(by_roles(), "") == [("a", ("y", "x"), "y", "role:new,role:old"), ("b", ("m",), "", "role:old")]
    assert [row[0] for row in found(by_roles(), "m")] == ["b"]


@pytest.mark.parametrize(
    ("reference", "more", "status", "message"),
    [
        ("pool:x", {}, 400, NO_POOL + '"x" (pool aliases are not available for role-based consumers)'),
        ("", {"role_ids": ("none",)}, 503, "consumer has no registries in pool"),
        ("z", {}, 403, NOT_ALLOWED + '"z" is not allowed for this consumer'),
    ],
)
def test_roles_that_grant_nothing(reference: str, more: dict[str, Any], status: int, message: str) -> None:
    with pytest.raises(Refusal) as refused:
        found(by_roles(**more), reference)
    assert (refused.value.status, refused.value.message) == (status, message)
