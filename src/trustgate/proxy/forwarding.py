"""Client headers that an operator lets through to providers (spec 02 §8.4): of a short, safe list, none by default."""

from __future__ import annotations

from collections.abc import Collection, Sequence

Header = tuple[bytes, bytes]

FORWARDABLE = {
    b"anthropic-beta": "anthropic",
    b"anthropic-version": "anthropic",
    b"openai-beta": "openai",
    b"traceparent": "",
}
"""Names that may be let through, and how the wire formats begin that they mean something to."""


def let_through(names: Collection[bytes], client: Sequence[Header], own: Sequence[Header], wire: str) -> list[Header]:
    """`own` headers of an upstream call with those of the client among `names` in place of the same-named; empty when
    the client sent none. Repeated ones become one list (RFC 9110 §5.3)."""
    given: dict[bytes, bytes] = {}
    for name, value in client:
        if name in names and value and wire.startswith(FORWARDABLE[name]):
            given[name] = given[name] + b", " + value if name in given else value
    return [*(header for header in own if header[0] not in given), *given.items()] if given else []
