"""A data plane holds the secrets that its states name, and lets go of the others after a while."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from trustgate.actors.secretcache import LINGER_S, SecretCache, references
from trustgate.domain.entities import (
    Auth,
    Consumer,
    EmbeddingConfig,
    Gateway,
    GatewayState,
    HealthChecks,
    LBConfig,
    LLMTarget,
    MCPTarget,
    Policy,
    Registry,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TIMES = {"created_at": NOW, "updated_at": NOW}


def secret(ref: str) -> dict[str, str]:
    return {"$secret": ref, "fp": "", "mask": "***"}


@pytest.mark.parametrize(
    ("entity", "refs"),
    [
        (Gateway(id="g", slug="g", telemetry={"exporters": [{"settings": {"dsn": secret("1")}}]}, **TIMES), ("1",)),
        (
            Registry(
                id="r",
                gateway_id="g",
                name="r",
                llm_target=LLMTarget(
                    "openai",
                    {"x": secret("1")},
                    {"type": "api_key", "api_key": {"api_key": secret("2")}},
                    HealthChecks(headers={"a": secret("3")}),  # type: ignore[dict-item]
                ),
                **TIMES,
            ),
            ("1", "2", "3"),
        ),
        (
            Registry(
                id="r",
                gateway_id="g",
                name="r",
                mcp_target=MCPTarget("u", headers={"a": secret("1")}, auth={"mode": secret("2")}),  # type: ignore[dict-item]
                **TIMES,
            ),
            ("1", "2"),
        ),
        (Auth(id="a", gateway_id="g", name="a", type="oauth2", config={"o": [secret("1")]}, **TIMES), ("1",)),
        (Policy(id="p", gateway_id="g", name="p", slug="s", settings={"k": secret("1")}, **TIMES), ("1",)),
        (
            Consumer(
                id="c",
                gateway_id="g",
                name="c",
                slug="c",
                lb_config=LBConfig(embedding_config=EmbeddingConfig("openai", "m", {"api_key": secret("1")})),
                **TIMES,
            ),
            ("1",),
        ),
        (Consumer(id="c", gateway_id="g", name="c", slug="c", **TIMES), ()),
    ],
)
def test_references_are_found_in_every_kind_of_entity(entity: object, refs: tuple[str, ...]) -> None:
    assert references(entity) == refs  # type: ignore[arg-type]


def test_a_value_lingers_after_its_last_use_and_is_then_gone() -> None:
    now = [0.0]
    cache = SecretCache(lambda: now[0])
    policy = Policy(id="p", gateway_id="g", name="p", slug="s", settings={"k": secret("old")}, **TIMES)
    state = GatewayState(version=1, policies={"p": policy})
    named = cache.named("g", state)
    assert cache.missing(named.refs) == ["old"]
    cache.add({"old": "o", "new": "n"})
    cache.keep("g", named)
    changed = GatewayState(version=2, policies={"p": replace(policy, settings={"k": secret("new")})})
    cache.keep("g", cache.named("g", changed))
    now[0] = LINGER_S - 1
    cache.keep("g", cache.named("g", changed))
    assert cache.get("old") == "o"
    now[0] = LINGER_S + 1
    cache.keep("g", cache.named("g", changed))
    assert cache.get("old") is None
    assert cache.get("new") == "n"
    cache.keep("g", cache.named("g", GatewayState(version=3)))
    now[0] *= 3
    cache.keep("other", cache.named("other", GatewayState(version=1)))
    assert cache.get("new") is None
