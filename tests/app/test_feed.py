"""What a data plane without a database says of the Redis that its users' accounts live in, and how they lie there."""

from __future__ import annotations

import json
import uuid
from typing import Any

import coredis
import pytest
import structlog.testing

from trustgate.app.feed import forgetting, warn_of_forgetting
from trustgate.limits.shared import RedisState
from trustgate.oauth.cipher import TokenCipher
from trustgate.oauth.vault import Tokens, Vault

ROWS: list[tuple[dict[str, str], list[str]]] = [
    ({"maxmemory-policy": "noeviction", "appendonly": "no", "save": "3600 1"}, []),
    ({"maxmemory-policy": "volatile-lru", "appendonly": "yes", "save": ""}, []),
    ({"maxmemory-policy": "allkeys-lru", "appendonly": "yes", "save": ""}, ["maxmemory-policy is allkeys-lru"]),
    ({"maxmemory-policy": "noeviction", "appendonly": "no", "save": ""}, ["neither AOF nor RDB is on"]),
    ({}, []),
]


@pytest.mark.parametrize("configuration, reasons", ROWS)
def test_a_redis_that_evicts_or_keeps_nothing_may_lose_accounts(
    configuration: dict[str, str], reasons: list[str]
) -> None:
    assert forgetting(configuration) == reasons


async def test_it_is_asked_and_told(redis_url: str) -> None:
    async with coredis.Redis.from_url(redis_url) as redis:
        before = await redis.config_get(["maxmemory-policy"])
        try:
            await redis.config_set({"maxmemory-policy": "allkeys-lfu"})
            with structlog.testing.capture_logs() as lines:
                await warn_of_forgetting(redis)
        finally:
            await redis.config_set({"maxmemory-policy": next(iter(before.values()))})
    assert "maxmemory-policy is allkeys-lfu" in [line.get("reason") for line in lines if line["log_level"] == "warning"]


async def test_without_redis_or_its_leave_to_ask_the_start_goes_on() -> None:
    with structlog.testing.capture_logs() as lines:
        await warn_of_forgetting(None)
        await warn_of_forgetting(object())
    assert [line["log_level"] for line in lines] == ["warning", "info"]


async def test_a_linked_account_lies_under_its_documented_key(redis_url: str) -> None:
    gateway = str(uuid.uuid4())
    async with coredis.Redis.from_url(redis_url) as redis:
        vault = Vault(RedisState(redis), TokenCipher("k" * 32, []), lambda: 1_700_000_000.0)
        await vault.put(gateway, "user-1", "github", Tokens(access_token="at-clear", refresh_token="rt-clear"))
        raw: Any = await redis.get(f"vault:{gateway}:user-1:github")
        assert await redis.ttl(f"vault:{gateway}:user-1:github") == -1
        record = json.loads(raw)
        assert record.keys() == {
            *("id", "gateway_id", "principal_sub", "provider", "account_ref", "access_token", "refresh_token"),
            *("scopes", "expires_at", "created_at", "updated_at"),
        }
        assert record["expires_at"] is None
        assert "clear" not in str(record)
        assert await vault.delete(gateway, "user-1", "github") is not None
        assert await vault.get(gateway, "user-1", "github") is None
