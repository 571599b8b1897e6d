"""What the authorization server and the connect pages remember between two requests, under the documented keys.

What lives here: the records of spec 05 §11, their lifetimes, and where they are kept: Redis where it is configured,
else the event store's database, so that every process of an installation knows them and a restart loses none. What must
not: what they are for.

Keys contain the SHA-256 of the secret that names a record, never the secret, behind a colon that no secret has: who
reads keys cannot present one as a secret. A record that the existing system wrote under the plain secret is found, too.
Records that hold tokens or client secrets are encrypted.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import msgspec

from trustgate.limits.shared import SharedValues
from trustgate.oauth import records
from trustgate.oauth.cipher import TokenCipher, Undecryptable
from trustgate.store import EventStore

PENDING_S = 600.0
CODE_S = 300.0
CLIENT_S = 30 * 86400.0
SESSION_S = 30 * 86400.0
ROTATED_S = 60.0
TICKET_S = 900.0
CONNECT_STATE_S = 600.0
PUBLIC_NAMES = frozenset({"dcr:client"})
"""Kinds whose names are no secrets."""

Json = dict[str, Any]
T = TypeVar("T", bound=msgspec.Struct)


class Pending(msgspec.Struct, omit_defaults=True):
    """An authorization request while the user is at the identity provider."""

    client_id: str = ""
    redirect_uri: str = ""
    state: str = ""
    code_challenge: str = ""
    code_challenge_method: str = "S256"
    scope: str = ""
    code_verifier: str = ""
    resource: str = ""
    auth_id: str = ""
    gateway_id: str = ""


class Code(msgspec.Struct, omit_defaults=True):
    """An authorization code that a client may redeem once. `token` is the identity provider's answer, kept only where
    the client gets it as it is; `path` is the MCP server it is for, `idp_claims` are those that roles read."""

    client_id: str = ""
    redirect_uri: str = ""
    code_challenge: str = ""
    token: Json | None = None
    subject: str = ""
    auth_id: str = ""
    gateway_id: str = ""
    audiences: list[str] = []
    scopes: list[str] = []
    session_mode: bool = False
    path: str = ""
    idp_claims: Json = {}
    login_id: str = ""


class Client(msgspec.Struct, omit_defaults=True):
    """A client that registered itself (RFC 7591)."""

    client_id: str
    redirect_uris: list[str]
    client_name: str = ""


class Session(msgspec.Struct, omit_defaults=True):
    """What a refresh token of this gateway stands for. `rotated`: its successor is out, it lives a moment longer.
    `before` is the hash of the token that this one succeeds."""

    subject: str
    gateway_id: str
    auth_id: str
    scopes: list[str] = []
    audiences: list[str] = []
    client_id: str = ""
    path: str = ""
    idp_claims: Json = {}
    login_id: str = ""
    rotated: bool = False
    before: str = ""


class Login(msgspec.Struct, omit_defaults=True):
    """The identity provider's own tokens behind a session (`logins`). `expires_at` is in epoch seconds."""

    gateway_id: str
    auth_id: str
    subject: str
    access_token: str
    refresh_token: str = ""
    expires_at: float = 0.0


class Ticket(msgspec.Struct, omit_defaults=True):
    """Leave to manage one user's links. The last three are there when an API key was shown for it."""

    gateway_id: str
    principal_sub: str
    consumer_path: str
    resume_url: str = ""
    consumer_id: str = ""
    auth_id: str = ""
    providers: list[str] | None = None


class ConnectState(msgspec.Struct, omit_defaults=True):
    """A user who is away at an upstream's authorization server."""

    ticket: Ticket
    ticket_id: str
    provider: str
    verifier: str = ""
    redirect_uri: str = ""
    registry_id: str = ""


class UpstreamClient(msgspec.Struct, omit_defaults=True):
    """This gateway's own registration at an upstream's authorization server."""

    client_id: str
    redirect_uri: str
    client_secret: str = ""


class StoreState:
    """`SharedValues` in the event store's database."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def get(self, key: str) -> bytes | None:
        return await self._store.value(key)

    async def put(self, key: str, value: bytes, ttl_s: float | None) -> None:
        await self._store.put_value(key, value, ttl_s)

    async def put_if_absent(self, key: str, value: bytes, ttl_s: float | None) -> bool:
        return await self._store.put_value_if_absent(key, value, ttl_s)

    async def take(self, key: str) -> bytes | None:
        return await self._store.take_value(key)

    async def delete(self, key: str) -> None:
        await self._store.delete_value(key)

    async def below(self, prefix: str) -> list[tuple[str, bytes]]:
        return await self._store.values_below(prefix)

    async def replace(self, key: str, old: bytes, new: bytes) -> bool:
        return await self._store.replace_value(key, old, new)


def hashed(secret: str) -> str:
    return "sha256:" + hashlib.sha256(secret.encode()).hexdigest()


def key_of(kind: str, name: str) -> str:
    return f"oauth:{kind}:{name if kind in PUBLIC_NAMES else hashed(name)}"


def keys_of(kind: str, name: str) -> list[str]:
    """Where a record may be: under the hash of its name, or as the existing system wrote it, under the name itself."""
    legacy = [] if ":" in name else [f"oauth:{kind}:{name}"]
    return [f"oauth:{kind}:{hashed(name)}", *legacy]


class OAuthState:
    """Typed access to the records. Raises what the backend raises when it cannot be reached."""

    def __init__(self, shared: SharedValues, cipher: TokenCipher) -> None:
        self._shared = shared
        self._cipher = cipher

    # in general

    async def put(
        self, kind: str, name: str, record: msgspec.Struct, ttl_s: float | None, *, secret: bool = False
    ) -> None:
        await self._shared.put(key_of(kind, name), self._data(record, secret=secret), ttl_s)

    def _data(self, record: msgspec.Struct, *, secret: bool) -> bytes:
        data = msgspec.json.encode(record)
        return self._cipher.encrypt(data.decode()).encode() if secret else data

    async def get(self, kind: str, name: str, type_: type[T]) -> T | None:
        for key in keys_of(kind, name):
            found = self._read(await self._shared.get(key), type_)
            if found is not None:
                return found
        return None

    async def take(self, kind: str, name: str, type_: type[T]) -> T | None:
        for key in keys_of(kind, name):
            found = self._read(await self._shared.take(key), type_)
            if found is not None:
                return found
        return None

    async def delete(self, kind: str, name: str) -> None:
        for key in keys_of(kind, name):
            await self._shared.delete(key)

    def _read(self, data: bytes | None, type_: type[T]) -> T | None:
        """A record, encrypted or plain; None for what cannot be read, which is as good as expired."""
        if data is None:
            return None
        try:
            text = data if data[:1] == b"{" else self._cipher.decrypt(data.decode()).encode()
            return records.decode(text, type_)
        except (msgspec.DecodeError, UnicodeDecodeError, Undecryptable):
            return None

    # this gateway at upstreams' authorization servers

    async def upstream_client(self, name: str) -> UpstreamClient | None:
        return await self.get("dcr:client", name, UpstreamClient)

    async def keep_upstream_client(self, name: str, made: UpstreamClient) -> UpstreamClient:
        """Remember a registration; of several for one redirect URI the first one stays. The one that is kept."""
        key, data = key_of("dcr:client", name), self._data(made, secret=True)
        if await self._shared.put_if_absent(key, data, None):
            return made
        known = await self.upstream_client(name)
        if known is not None and known.redirect_uri == made.redirect_uri:
            return known
        await self._shared.put(key, data, None)
        return made

    # clients stay as long as they are used

    async def client(self, client_id: str) -> Client | None:
        found = await self.get("gwclient", client_id, Client)
        if found is not None:
            await self.put("gwclient", client_id, found, CLIENT_S)
        return found

    async def session(self, refresh_token: str) -> Session | None:
        return await self.get("session", refresh_token, Session)

    async def end_session(self, refresh_token: str, session: Session | None) -> None:
        """The token ends, and the one before it, if it still has a moment to live."""
        await self.delete("session", refresh_token)
        if session is not None and session.before:
            await self._shared.delete(f"oauth:session:{session.before}")

    async def rotate(self, refresh_token: str, session: Session) -> None:
        """The old token lives one minute more, counted from its first rotation, wherever it was kept."""
        if not session.rotated:
            record = msgspec.structs.replace(session, rotated=True)
            await self.put("session", refresh_token, record, ROTATED_S)
            for key in keys_of("session", refresh_token)[1:]:
                await self._shared.delete(key)
