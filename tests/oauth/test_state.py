"""Records of the authorization server as they lie in shared state."""

from __future__ import annotations

import json
import secrets

import msgspec
import pytest
import trio

from trustgate.oauth.cipher import TokenCipher
from trustgate.oauth.locks import Locks
from trustgate.oauth.state import Code, OAuthState, Session, Ticket, UpstreamClient
from trustgate.oauth.vault import Tokens, Vault, key_of


class Shared:
    """`SharedValues` without lifetimes."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    async def put(self, key: str, value: bytes, ttl_s: float | None) -> None:
        self.values[key] = value

    async def put_if_absent(self, key: str, value: bytes, ttl_s: float | None) -> bool:
        return self.values.setdefault(key, value) is value

    async def take(self, key: str) -> bytes | None:
        return self.values.pop(key, None)

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)


TICKET = Ticket("g", "alice", "/AbCd1234/mcp")


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.fixture
def state(shared: Shared) -> OAuthState:
    return OAuthState(shared, TokenCipher("s" * 32))


async def test_who_reads_the_keys_cannot_present_them(shared: Shared, state: OAuthState) -> None:
    secret = secrets.token_hex(32)
    await state.put("connect:ticket", secret, TICKET, 900)
    (key,) = shared.values
    assert secret not in key
    for end in range(1, len(key.split(":")) + 1):
        presented = ":".join(key.split(":")[-end:])
        assert await state.get("connect:ticket", presented, Ticket) is None
        assert await state.take("connect:ticket", presented, Ticket) is None
    assert await state.get("connect:ticket", secret, Ticket) == TICKET


async def test_records_of_the_existing_system_are_found_and_taken_once(shared: Shared, state: OAuthState) -> None:
    session = Session(subject="alice", gateway_id="g", auth_id="a")
    shared.values["oauth:session:gwrt_1"] = msgspec.json.encode(session)
    assert await state.session("gwrt_1") == session
    await state.delete("session", "gwrt_1")
    assert shared.values == {}
    shared.values["oauth:code:c1"] = b'{"client_id":"x","redirect_uri":"https://x","code_challenge":"y","later":1}'
    assert await state.take("code", "c1", Code) == Code(client_id="x", redirect_uri="https://x", code_challenge="y")
    assert await state.take("code", "c1", Code) is None


async def test_codes_are_encrypted_and_damaged_ones_are_as_good_as_expired(shared: Shared, state: OAuthState) -> None:
    await state.put("code", "c1", Code(token={"access_token": "at-secret"}), 300, secret=True)
    (key,) = shared.values
    assert b"at-secret" not in shared.values[key]
    shared.values[key] = shared.values[key][:-8] + b"AAAAAAA="
    assert await state.take("code", "c1", Code) is None


async def test_a_rotated_session_of_the_existing_system_ends_with_its_minute(shared: Shared, state: OAuthState) -> None:
    session = Session(subject="alice", gateway_id="g", auth_id="a")
    shared.values["oauth:session:gwrt_1"] = msgspec.json.encode(session)
    await state.rotate("gwrt_1", session)
    (key,) = shared.values  # the one with a minute to live
    assert key.startswith("oauth:session:sha256:")
    rotated = await state.session("gwrt_1")
    assert rotated is not None and rotated.rotated


async def test_of_two_first_registrations_at_an_upstream_the_earlier_stays(shared: Shared, state: OAuthState) -> None:
    first, second = UpstreamClient("a", "https://h/cb"), UpstreamClient("b", "https://h/cb")
    assert await state.keep_upstream_client("g|r", first) == first
    assert await state.keep_upstream_client("g|r", second) == first
    moved = UpstreamClient("c", "https://other/cb")
    assert await state.keep_upstream_client("g|r", moved) == moved == await state.upstream_client("g|r")
    assert list(shared.values) == ["oauth:dcr:client:g|r"]


def test_no_users_name_ends_in_the_beginning_of_a_provider() -> None:
    assert key_of("g", "alice", "notes") == "vault:g:alice:notes"
    assert key_of("g", "alice:notes", "x") != key_of("g", "alice", "notes:x")
    assert key_of("g", "alice", "notes%3Ax") != key_of("g", "alice", "notes:x")


@pytest.mark.parametrize("provider", ["github", "acme/notes", "urn:acme:notes", "50%"])
async def test_links_of_the_existing_system_are_found_and_stay_one(shared: Shared, provider: str) -> None:
    cipher = TokenCipher("s" * 32)
    vault = Vault(shared, cipher, lambda: 1_800_000_000.0)
    record = {
        "id": "0c5a7d7e-0000-4000-8000-000000000000",
        "gateway_id": "g",
        "principal_sub": "alice",
        "provider": provider,
        "account_ref": "",
        "access_token": cipher.encrypt("at"),
        "refresh_token": "",
        "scopes": None,
        "expires_at": "2030-01-02T03:04:05.123456789Z",
        "created_at": "2026-01-02T03:04:05.12345Z",
        "updated_at": "2026-01-02T03:04:05Z",
    }
    before = f"vault:g:alice:{provider}"
    shared.values[before] = json.dumps(record).encode()
    found = await vault.get("g", "alice", provider)
    assert found is not None and vault.open(found).access_token == "at" and vault.state(found) == "linked"
    renewed = await vault.put("g", "alice", provider, Tokens(access_token="new"))
    assert (renewed.id, renewed.created_at) == (found.id, found.created_at)
    assert list(shared.values) == [key_of("g", "alice", provider)]
    shared.values[before] = json.dumps(record).encode()
    assert await vault.delete("g", "alice", provider) is not None


async def test_a_link_that_lies_under_two_readings_of_one_key_is_its_owners(shared: Shared) -> None:
    vault = Vault(shared, TokenCipher("s" * 32), lambda: 0.0)
    await vault.put("g", "alice:notes", "x", Tokens(access_token="hers"))
    assert await vault.get("g", "alice", "notes:x") is None
    assert await vault.delete("g", "alice", "notes:x") is None
    assert await vault.get("g", "alice:notes", "x") is not None


async def test_a_renewal_that_was_begun_is_ended_though_its_client_left() -> None:
    locks, done = Locks(), list[str]()

    async def renew() -> None:
        started.set()
        await trio.sleep(0.05)
        done.append("kept")

    started = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: locks.run("user", renew, whole=True))
        await started.wait()
        nursery.cancel_scope.cancel()
    assert done == ["kept"]
