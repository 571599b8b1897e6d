"""Users' own accounts at upstream servers: one credential per gateway, user and provider (spec 05 §10).

Tokens are encrypted; the record around them is not. Two registries of one provider share an account.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

import msgspec

from trustgate.limits.shared import SharedValues
from trustgate.oauth import records
from trustgate.oauth.cipher import TokenCipher, Undecryptable

EXPIRY_MARGIN_S = 60.0


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """A link as it is stored: `access_token` and `refresh_token` are ciphertext. Times are RFC 3339 in UTC."""

    id: str
    gateway_id: str
    principal_sub: str
    provider: str
    account_ref: str = ""
    access_token: str = ""
    refresh_token: str = ""
    scopes: list[str] = []
    expires_at: datetime | None = None
    created_at: datetime
    updated_at: datetime


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """What an authorization server handed out, in clear. `expires_at`: epoch seconds, None for ever."""

    access_token: str
    refresh_token: str = ""
    scopes: list[str] = []
    expires_at: float | None = None


def prefix(gateway_id: str) -> str:
    """How the keys of all links of a gateway's users begin."""
    return f"vault:{gateway_id}:"


def key_of(gateway_id: str, subject: str, provider: str) -> str:
    """A provider's colons are escaped, so that no user's name can end in the beginning of a provider's."""
    return f"{prefix(gateway_id)}{subject}:{provider.replace('%', '%25').replace(':', '%3A')}"


def keys_of(gateway_id: str, subject: str, provider: str) -> list[str]:
    """Where a link may be: under its own key, or as the existing system wrote it, with the provider as it is."""
    return list(dict.fromkeys((key_of(gateway_id, subject, provider), f"{prefix(gateway_id)}{subject}:{provider}")))


class ListedValues(SharedValues, Protocol):
    """Values that can be listed."""

    async def below(self, prefix: str) -> list[tuple[str, bytes]]:
        """Keys and values of all keys that begin with `prefix`."""
        ...


class Vault:
    """Raises what `values` raises when it cannot be reached."""

    def __init__(self, values: SharedValues, cipher: TokenCipher, now: Callable[[], float]) -> None:
        self._values, self._cipher, self._now = values, cipher, now

    async def get(self, gateway_id: str, subject: str, provider: str) -> Credential | None:
        return (await self._find(gateway_id, subject, provider))[1]

    async def _find(self, gateway_id: str, subject: str, provider: str) -> tuple[str, Credential | None]:
        """Where the link is, and the link. What lies there of somebody else is not theirs."""
        for key in keys_of(gateway_id, subject, provider):
            found = read(await self._values.get(key))
            if found is not None and (found.principal_sub, found.provider) == (subject, provider):
                return key, found
        return "", None

    def open(self, credential: Credential) -> Tokens:
        """The tokens in clear. Raises Undecryptable."""
        expires = credential.expires_at
        return Tokens(
            access_token=self._cipher.decrypt(credential.access_token),
            refresh_token=self._cipher.decrypt(credential.refresh_token),
            scopes=credential.scopes,
            expires_at=None if expires is None else expires.timestamp(),
        )

    async def put(self, gateway_id: str, subject: str, provider: str, tokens: Tokens) -> Credential:
        """Link, or renew a link: an answer without a refresh token keeps the one there is."""
        where, old = await self._find(gateway_id, subject, provider)
        moment = datetime.fromtimestamp(self._now(), UTC)
        refresh = self._cipher.encrypt(tokens.refresh_token)
        if not refresh and old is not None:
            refresh = old.refresh_token
        expires = None if tokens.expires_at is None else datetime.fromtimestamp(tokens.expires_at, UTC)
        record = Credential(
            id=old.id if old is not None else str(uuid.uuid4()),
            gateway_id=gateway_id,
            principal_sub=subject,
            provider=provider,
            account_ref=old.account_ref if old is not None else "",
            access_token=self._cipher.encrypt(tokens.access_token),
            refresh_token=refresh,
            scopes=tokens.scopes,
            expires_at=expires,
            created_at=old.created_at if old is not None else moment,
            updated_at=moment,
        )
        key = key_of(gateway_id, subject, provider)
        await self._values.put(key, msgspec.json.encode(record), None)
        if where not in ("", key):
            await self._values.delete(where)
        return record

    async def delete(self, gateway_id: str, subject: str, provider: str) -> Credential | None:
        """The link that is gone now; None when there was none."""
        key, found = await self._find(gateway_id, subject, provider)
        return read(await self._values.take(key)) if found is not None else None

    def state(self, credential: Credential | None) -> str:
        """`none`, `linked`, or `expired`: it cannot be read, or ends and cannot be renewed."""
        if credential is None:
            return "none"
        try:
            tokens = self.open(credential)
        except Undecryptable:
            return "expired"
        return "expired" if self.ends(tokens) and not tokens.refresh_token else "linked"

    def ends(self, tokens: Tokens) -> bool:
        """Whether the access token is over, or will be within a minute."""
        return tokens.expires_at is not None and tokens.expires_at - EXPIRY_MARGIN_S <= self._now()


async def links(values: ListedValues, gateway_id: str) -> list[Credential]:
    """All links of a gateway's users, by user and provider."""
    found = (read(data) for _, data in await values.below(prefix(gateway_id)))
    return sorted(filter(None, found), key=lambda one: (one.principal_sub, one.provider))


def read(data: bytes | None) -> Credential | None:
    """None for what is not there, or cannot be read."""
    try:
        return records.decode(data, Credential) if data is not None else None
    except msgspec.DecodeError:
        return None


def lifetime(seconds: object, default_s: float) -> timedelta:
    """`expires_in` of a token answer (RFC 6749 §5.1), which some servers send as text."""
    try:
        value = float(str(seconds))
    except ValueError:
        value = 0.0
    return timedelta(seconds=value if 0 < value < 10 * 365 * 86400 else default_s)
