"""What a deleted gateway must not leave behind, and what is not its own."""

from __future__ import annotations

import pathlib
import uuid
from datetime import UTC, datetime
from typing import Any, cast

import coredis
import pytest

from trustgate.app import leftovers
from trustgate.app.leftovers import Leftovers
from trustgate.domain.commands import DeleteGateway, DeleteRole, Meta
from trustgate.store import open_store

KEY = "k" * 32
META = Meta(time=datetime(2026, 1, 2, tzinfo=UTC))


async def test_accounts_and_shared_keys_of_a_deleted_gateway_are_gone_and_others_stay(
    tmp_path: pathlib.Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "SCANNED", 3)
    gone, stays = str(uuid.uuid4()), str(uuid.uuid4())
    async with (
        open_store(tmp_path / "log.db", KEY) as store,
        coredis.Redis.from_url(redis_url) as redis,
    ):
        for gateway in (gone, stays):
            await store.put_value(f"vault:{gateway}:user:github", b"{}")
            for key in (f"session:{gateway}:s", f"gt:rl:burst:{gateway}", *(f"x{n}:{gateway}" for n in range(9))):
                await redis.set(key, b"1")

        async def left(gateway: str) -> tuple[int, int]:
            return len(await store.values_below(f"vault:{gateway}:")), len(await redis.keys(f"*{gateway}*"))

        after = Leftovers(store, redis)
        await after(DeleteRole(META, gone, "r"), cast("Any", None))
        assert await left(gone) == (1, 11), "the gateway is still there"
        await after(DeleteGateway(META, gone), cast("Any", None))
        assert (await left(gone), await left(stays)) == ((0, 0), (1, 11))


async def test_a_deletion_does_not_fail_because_redis_does(tmp_path: pathlib.Path) -> None:
    async with open_store(tmp_path / "log.db", KEY) as store:
        await store.put_value("vault:g:user:github", b"{}")
        await Leftovers(store, object())(DeleteGateway(META, "g"), cast("Any", None))
        assert await store.values_below("vault:g:") == []
