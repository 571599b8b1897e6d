"""The hash chain of a stream: each event carries the hash of its predecessor, so that no past event can be changed,
removed or moved without every later one saying so.

What lives here: the hash of an event, pure. What must not: reading of events, signatures (`actors.notary`).
`trustgate.audit_verify` has the same arithmetic once more on purpose: it must not depend on what it verifies.

    hash(n) = SHA-256( hash(n-1) LF stream LF version LF carried LF data )        hash(0) = 64 zeros

`carried` is the predecessor's hash as the event itself holds it. Events written before the chain was introduced carry
nothing; they have a hash all the same, so the first event that carries one vouches for all of them.
"""

from __future__ import annotations

import hashlib

GENESIS = "0" * 64
"""What the first event of a stream carries."""

HASH_CHARS = 64


def carried(column: str | None) -> str:
    """The predecessor's hash in the column of an event; empty for events from before the chain."""
    return column if column is not None and len(column) == HASH_CHARS else ""


def link(before: str, stream: str, version: int, previous: str, data: bytes) -> str:
    """The hash of an event (hex): `before` is its predecessor's, `previous` what it carries of that (or nothing)."""
    return hashlib.sha256(f"{before}\n{stream}\n{version}\n{previous}\n".encode() + data).hexdigest()
