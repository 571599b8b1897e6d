"""How deep the objects and lists of a JSON text stand inside each other, told without descending into them.

Decoders descend on the stack, and stacks differ: what one reader of a text can still read, the next one, called from
further down, cannot. Who must not be evaded by that asks here first.
"""

from __future__ import annotations

MOST_NESTED = 400
"""Less than any reader's stack has room for, and far more than any client needs."""

_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
_OPENING = frozenset(b"[{")


def too_deep(body: bytes, most: int = MOST_NESTED) -> bool:
    """Whether a JSON text is nested deeper than `most`. For bytes that are no JSON the answer means nothing."""
    if body.count(b"[") + body.count(b"{") <= most:
        return False
    # Escaped backslashes first, so that the quotes that are left are those around strings. Two neighbouring quotes say
    # nothing about the brackets around them.
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_STRUCTURE).replace(b'""', b"")
    depth = 0
    for bracket in b"".join(bare.split(b'"')[::2]):
        if bracket in _OPENING:
            depth += 1
            if depth > most:
                return True
        else:
            depth -= 1
    return False
