"""Where and how long an API key may be used (spec 05 §4.1; additions to the contract)."""

from __future__ import annotations

from functools import lru_cache

from trustgate.domain.entities import Auth
from trustgate.wire.clients import Networks, address_of, networks, within


def restricted(auth: Auth) -> bool:
    """Whether a key is bound to a time or to addresses; most are not."""
    return auth.expires_at is not None or bool(auth.allowed_cidrs)


def expired(auth: Auth, now: float) -> bool:
    return auth.expires_at is not None and auth.expires_at.timestamp() <= now


def serves(auth: Auth, now: float, client_ip: str) -> bool:
    """Whether a key may be used now, from this address. An address that can't be read is in no network."""
    if expired(auth, now):
        return False
    return not auth.allowed_cidrs or within(address_of(client_ip), allowed(auth.allowed_cidrs))


@lru_cache(maxsize=1024)
def allowed(cidrs: tuple[str, ...]) -> Networks:
    return networks(cidrs)
