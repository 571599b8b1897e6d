"""`trustgate re-encrypt`: after it, and only after it, the previous server secret is not needed."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import coredis
import pytest
from tests.cli.test_commands import trustgate

from trustgate.limits.shared import RedisState
from trustgate.oauth.cipher import TokenCipher
from trustgate.oauth.state import OAuthState, Session, StoreState, UpstreamClient
from trustgate.oauth.vault import Tokens, Vault
from trustgate.store import StreamWrite, WrongSecretKey, open_store

OLD, NEW = "o" * 40, "n" * 40
CLIENT = UpstreamClient("id", "http://127.0.0.1/callback", "client-secret")


async def test_everything_is_under_the_new_key_afterwards(tmp_path: Path, redis_url: str) -> None:
    folder, name, at = tmp_path / "data", str(uuid.uuid4()), urlsplit(redis_url)
    old, new = TokenCipher(OLD), TokenCipher(NEW)
    redis_settings = {
        "REDIS_HOST": at.hostname or "",
        "REDIS_PORT": str(at.port),
        "REDIS_DB": at.path.strip("/") or "0",
    }
    settings = {"TRUSTGATE_DATA_DIR": str(folder), "SERVER_SECRET_KEY": NEW, **redis_settings}
    async with open_store(folder / "trustgate.db", OLD) as store, coredis.Redis.from_url(redis_url) as redis:
        await store.append([StreamWrite("gateway:a", 0, [b"1"])], {"a/key@1": "provider-key"})
        values, shared = StoreState(store), RedisState(redis)
        links = Vault(values, old, time.time)
        await links.put("g", "alice", "github", Tokens(access_token="access", refresh_token="refresh"))
        await links.put("g", "bob", "github", Tokens(access_token="only-access"))
        await values.put("sts:signing-key", old.encrypt("pem").encode(), None)
        await OAuthState(values, old).put("session", "token", Session("alice", "g", "a"), 60)  # without secrets: plain
        await OAuthState(shared, old).put("dcr:client", name, CLIENT, 60, secret=True)

        done = trustgate("re-encrypt", cwd=tmp_path, **settings)
        assert (done.returncode, done.stdout) == (1, "")
        assert "SERVER_SECRET_KEY_PREVIOUS" in done.stderr

        done = trustgate("re-encrypt", cwd=tmp_path, **settings, SERVER_SECRET_KEY_PREVIOUS=OLD)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1] == "SERVER_SECRET_KEY_PREVIOUS is not needed any more"
        assert done.stdout.startswith("2 secrets and 4 linked accounts")

        assert await OAuthState(shared, new).get("dcr:client", name, UpstreamClient) == CLIENT
        await shared.delete(f"oauth:dcr:client:{name}")
    with pytest.raises(WrongSecretKey):
        async with open_store(folder / "trustgate.db", OLD):
            pass
    async with open_store(folder / "trustgate.db", NEW) as store:
        values = StoreState(store)
        assert await store.reveal(["a/key@1"]) == {"a/key@1": "provider-key"}
        links = Vault(values, new, time.time)
        alice, bob = await links.get("g", "alice", "github"), await links.get("g", "bob", "github")
        assert alice is not None and links.open(alice) == Tokens(access_token="access", refresh_token="refresh")
        assert bob is not None and links.open(bob) == Tokens(access_token="only-access")
        assert new.decrypt((await values.get("sts:signing-key") or b"").decode()) == "pem"
        assert await OAuthState(values, new).get("session", "token", Session) == Session("alice", "g", "a")


async def test_a_link_that_neither_secret_opens_is_named_and_stays(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    settings = {"TRUSTGATE_DATA_DIR": str(folder), "SERVER_SECRET_KEY": NEW, "SERVER_SECRET_KEY_PREVIOUS": OLD}
    async with open_store(folder / "trustgate.db", OLD) as store:
        for user, secret in (("alice", OLD), ("bob", "x" * 40)):
            await Vault(StoreState(store), TokenCipher(secret), time.time).put("g", user, "p", Tokens(access_token="t"))
        before = await store.value("vault:g:bob:p")
        for written in (1, 0):
            done = trustgate("re-encrypt", cwd=tmp_path, **settings)
            assert done.returncode == 1
            assert f" secrets and {written} linked" in done.stdout and "not needed" not in done.stdout
            assert done.stderr == ("vault:g:bob:p: neither SERVER_SECRET_KEY nor SERVER_SECRET_KEY_PREVIOUS opens it\n")
        assert await store.value("vault:g:bob:p") == before
