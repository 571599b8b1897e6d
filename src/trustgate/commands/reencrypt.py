"""`trustgate re-encrypt`: the end of a rotation of SERVER_SECRET_KEY, after which the previous one is not needed."""

from __future__ import annotations

import click

from trustgate.commands.opened import with_store
from trustgate.limits.shared import RedisState
from trustgate.oauth.cipher import TokenCipher
from trustgate.oauth.reseal import Resealed, reseal
from trustgate.oauth.state import StoreState
from trustgate.settings import Settings
from trustgate.store import EventStore


def re_encrypt() -> int:
    """Returns 0 when everything is under the current key, 1 when something cannot be read."""

    async def work(settings: Settings, store: EventStore) -> int:
        from trustgate.app.storage import open_shared

        cipher = TokenCipher(settings.secrets.server_key, settings.secrets.previous_keys)
        secrets = await store.reencrypt()
        found = [await reseal(StoreState(store), cipher)]
        if settings.redis.configured:
            async with open_shared(settings) as shared:
                found.append(await reseal(RedisState(shared.redis), cipher))
        return _report(secrets, found)

    return with_store(work)


def _report(secrets: int, found: list[Resealed]) -> int:
    written = sum(one.written for one in found)
    click.echo(f"{secrets} secrets and {written} linked accounts, sessions and keys were written under the current key")
    unreadable = [key for one in found for key in one.unreadable]
    for key in unreadable:
        click.echo(f"{key}: neither SERVER_SECRET_KEY nor SERVER_SECRET_KEY_PREVIOUS opens it", err=True)
    if unreadable:
        return 1
    click.echo("SERVER_SECRET_KEY_PREVIOUS is not needed any more")
    return 0
