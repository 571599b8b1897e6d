"""After a rotation of SERVER_SECRET_KEY: what lies encrypted beside the event store's own vault, under the new key.

What lives here: which values hold ciphertext (users' accounts, records of the authorization server, the signing key),
and writing them anew. What must not: where they are kept.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from trustgate.oauth import vault
from trustgate.oauth.cipher import TokenCipher, Undecryptable

PREFIXES = ("vault:", "oauth:", "sts:")
"""How the keys begin under which this package and its plane keep ciphertext."""


class KeptValues(Protocol):
    """Values that can be listed, and exchanged where they have not changed meanwhile."""

    async def below(self, prefix: str) -> list[tuple[str, bytes]]: ...

    async def replace(self, key: str, old: bytes, new: bytes) -> bool:
        """Put `new` in the place of `old`, whose time to live stays; False where something else is by now."""
        ...


class Resealed(msgspec.Struct, frozen=True):
    """How many values were written anew, and the keys of those that neither secret opens."""

    written: int
    unreadable: list[str]


async def reseal(values: KeptValues, cipher: TokenCipher) -> Resealed:
    """Write everything under the current key that an earlier one wrote. Who writes at the same time wins.

    Raises what `values` raises when it cannot be reached.
    """
    written, unreadable = 0, list[str]()
    for prefix in PREFIXES:
        for key, old in await values.below(prefix):
            try:
                new = _account(old, cipher) if prefix == "vault:" else _text(old, cipher)
            except Undecryptable:
                unreadable.append(key)
                continue
            if new is not None and await values.replace(key, old, new):
                written += 1
    return Resealed(written, unreadable)


def _account(data: bytes, cipher: TokenCipher) -> bytes | None:
    record = vault.read(data)
    if record is None:
        raise Undecryptable
    access, refresh = cipher.renewed(record.access_token), cipher.renewed(record.refresh_token)
    if access is None and refresh is None:
        return None
    changed = msgspec.structs.replace(
        record,
        access_token=record.access_token if access is None else access,
        refresh_token=record.refresh_token if refresh is None else refresh,
    )
    return msgspec.json.encode(changed)


def _text(data: bytes, cipher: TokenCipher) -> bytes | None:
    """Ciphertext as a whole; records without secrets are JSON objects."""
    if data[:1] == b"{":
        return None
    try:
        renewed = cipher.renewed(data.decode("ascii"))
    except UnicodeDecodeError:
        raise Undecryptable from None
    return None if renewed is None else renewed.encode()
