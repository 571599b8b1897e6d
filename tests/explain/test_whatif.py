"""What recorded requests would meet under another configuration, kind by kind."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tests import views
from tests.explain.records import decided
from trustgate.decisions.record import Decided
from trustgate.domain.entities import Fallback, GatewayState, LBConfig, LBMember, ModelPolicy
from trustgate.explain.whatif import Comparison
from trustgate.providers.prices import Price, PriceBook

PRICES = PriceBook(
    {
        "openai": {"gpt-4o": Price(1e-6, 2e-6, label="gpt-4o"), "gpt-4o-mini": Price(1e-7, 2e-7, label="gpt-4o-mini")},
        "anthropic": {"gpt-4o": Price(3e-6, 6e-6, label="gpt-4o")},
    }
)


def state(*more: Any, **consumer: Any) -> GatewayState:
    app = views.consumer("app", id="c-app", auth_ids=("a",), **({"registry_ids": ("one",)} | consumer))
    key = views.auth("a", "api_key", key_hash="00")
    return views.state(views.registry("one"), views.registry("two", "anthropic"), key, app, *more)


def told(before: GatewayState, after: GatewayState, *records: Decided) -> dict[str, Any]:
    comparison = Comparison(before, after, PRICES)
    comparison.add(records or (decided(),))
    return comparison.summary()


def kinds(summary: dict[str, Any]) -> dict[str, int]:
    names = ("denied", "allowed", "routed", "may_route", "priced", "uncertain")
    return {name: summary[name] for name in names if summary[name]}


def app_of(base: GatewayState, **changes: Any) -> GatewayState:
    return replace(base, consumers={"c-app": replace(base.consumers["c-app"], **changes)})


def test_the_same_configuration_changes_nothing() -> None:
    assert kinds(told(state(), state())) == {}


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (app_of(state(), active=False), "404 not_found"),
        (app_of(state(), auth_ids=()), "401 unauthenticated"),
        (replace(state(), auths={"a": views.auth("a", "api_key", key_hash="00", enabled=False)}), "401"),
        (replace(state(), auths={"a": views.auth("a", "api_key", key_hash="11")}), "401"),
        (app_of(state(), model_policies={"one": ModelPolicy(("other",))}), "403 model_not_allowed"),
        (app_of(state(), registry_ids=()), "403 model_not_allowed"),
        (replace(state(), gateway=None), "404 not_found the gateway is gone"),
    ],
)
def test_what_would_be_denied(after: GatewayState, why: str) -> None:
    summary = told(state(), after)
    assert kinds(summary) == {"denied": 1} and why in summary["groups"][0]["after"]


def test_what_was_denied_may_be_allowed() -> None:
    assert kinds(told(app_of(state(), model_policies={"one": ModelPolicy(("other",))}), state())) == {"allowed": 1}


def test_another_registry_is_another_route_and_another_price() -> None:
    summary = told(state(), app_of(state(), registry_ids=("two",)))
    assert kinds(summary) == {"routed": 1, "priced": 1}
    assert (summary["groups"][0]["before"], summary["groups"][0]["after"]) == ("one (gpt-4o)", "two (gpt-4o)")
    assert summary["cost_before_usd"] == pytest.approx(100e-6 + 50 * 2e-6)
    assert summary["cost_after_usd"] == pytest.approx(3 * summary["cost_before_usd"])


def test_a_second_registry_in_the_pool_may_take_it() -> None:
    record = decided(reference="", sent_model="")
    before = state()
    summary = told(before, app_of(before, registry_ids=("one", "two")), record)
    assert kinds(summary) == {"may_route": 1} and summary["groups"][0]["after"] == "one 50%, two 50%"


def test_weights_are_shares() -> None:
    members = (LBMember("one", model="gpt-4o", weight=3), LBMember("two", model="gpt-4o", weight=1))
    config = LBConfig(enabled=True, algorithm="weighted-round-robin", members=members)
    before = app_of(state(), registry_ids=("one", "two"), lb_config=config)
    lighter = replace(config, members=(members[0], replace(members[1], weight=3)))
    summary = told(before, app_of(before, lb_config=lighter), decided(reference="", sent_model=""))
    assert kinds(summary) == {"may_route": 1, "priced": 1}
    assert "75%" in summary["groups"][0]["before"] and "50%" in summary["groups"][0]["after"]


def test_a_default_model_decides_the_price_of_requests_that_name_none() -> None:
    before = app_of(state(), model_policies={"one": ModelPolicy(None, "gpt-4o")})
    after = app_of(state(), model_policies={"one": ModelPolicy(None, "gpt-4o-mini")})
    summary = told(before, after, decided(reference="", sent_model="gpt-4o"))
    assert kinds(summary) == {"routed": 1, "priced": 1}
    assert summary["cost_after_usd"] == pytest.approx(summary["cost_before_usd"] / 10)


def test_a_lower_rate_limit_denies_those_that_come_too_fast() -> None:
    def limited(limit: int) -> GatewayState:
        settings = {"limit": limit, "window": "1m"}
        return state(views.policy("p", "rate_limiter", settings=settings, consumer_ids=("c-app",)))

    records = [decided(trace_id=f"t{number}", at_ms=1_000_000 + number * 1000) for number in range(10)]
    summary = told(limited(100), limited(4), *records)
    assert kinds(summary) == {"denied": 6}
    assert "429" in summary["groups"][0]["after"] and "rate limit" in summary["groups"][0]["after"]
    spread = [decided(trace_id=f"t{number}", at_ms=1_000_000 + number * 20_000) for number in range(10)]
    assert kinds(told(limited(100), limited(4), *spread)) == {}


def test_a_smaller_body_limit_denies_the_larger_bodies() -> None:
    limit = views.policy(
        "p", "request_size_limiter", settings={"allowed_payload_size": 1, "size_unit": "kilobytes"}, global_=True
    )
    summary = told(state(), state(limit), decided(body_bytes=1024), decided(body_bytes=1025))
    assert kinds(summary) == {"denied": 1} and "413" in summary["groups"][0]["after"]


def test_a_token_budget_is_charged_with_the_recorded_tokens() -> None:
    settings = {"aggregate": {"max": 300, "time_window": "1h"}}
    budget = views.policy("p", "token_rate_limiter", settings=settings, consumer_ids=("c-app",))
    records = [decided(trace_id=f"t{number}", at_ms=1_000_000 + number * 1000) for number in range(5)]
    assert kinds(told(state(), state(budget), *records)) == {"denied": 3}


def test_a_guard_that_reads_what_people_wrote_makes_the_outcome_uncertain() -> None:
    settings = {"target": "request", "rules": [{"pattern": "x", "action": "block"}]}
    guard = views.policy("p", "regex_replace", settings=settings, global_=True, stages=("pre_request",))
    summary = told(state(), state(guard))
    assert kinds(summary) == {"uncertain": 1} and "judges what is not recorded" in summary["groups"][0]["after"]


def test_a_request_that_was_refused_then_and_now_counts_for_nothing() -> None:
    record = decided(reference="nope", status=403, code="model_not_allowed", attempts=(), usage=None, price=None)
    closed = app_of(state(), model_policies={"one": ModelPolicy(("gpt-4o",))})
    assert kinds(told(closed, app_of(closed, model_policies={"one": ModelPolicy(("gpt-4.1",))}), record)) == {}


def test_the_chain_serves_when_the_pool_is_empty() -> None:
    chain = Fallback(enabled=True, triggers=("http_5xx",), chain=("two",))
    before = app_of(state(), registry_ids=("one", "two"), fallback=chain)
    after = replace(before, registries={**before.registries, "one": views.registry("one", enabled=False)})
    summary = told(before, after)
    assert kinds(summary) == {"routed": 1, "priced": 1} and summary["groups"][0]["after"] == "two (gpt-4o)"
