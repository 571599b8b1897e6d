"""Secrets in clear, for the few calls that reach an upstream from the admin plane (connection tests, tool lists)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from trustgate.domain.errors import DomainError
from trustgate.domain.secrets import REF, refs, replace


async def revealed(value: Any, reveal: Callable[[str], Awaitable[str]]) -> Any:
    """A copy of `value` with every secret reference replaced by the secret; one vault read per reference.

    Raises `DomainError` (500) for a secret that the vault no longer has.
    """
    try:
        plain = {ref: await reveal(ref) for ref in set(refs(value))}
    except KeyError:
        raise DomainError(500, "internal_error") from None
    return replace(value, lambda secret: plain[secret[REF]])
