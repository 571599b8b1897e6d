"""Client headers on their way to a provider: only those that are let through, and only where they mean something."""

from __future__ import annotations

import pytest

from trustgate.proxy.forwarding import FORWARDABLE, let_through

OWN = [(b"content-type", b"application/json"), (b"anthropic-version", b"2023-06-01"), (b"x-api-key", b"k")]
CLIENT = [
    (b"anthropic-beta", b"a"),
    (b"anthropic-version", b"2024-01-01"),
    (b"openai-beta", b"o"),
    (b"traceparent", b"00-1"),
    (b"x-api-key", b"ag_client"),
    (b"cookie", b"c"),
    (b"anthropic-beta", b"b"),
]


@pytest.mark.parametrize(
    ("names", "wire", "added"),
    [
        ({b"anthropic-beta"}, "anthropic", {b"anthropic-beta": b"a, b"}),
        ({b"anthropic-version"}, "anthropic", {b"anthropic-version": b"2024-01-01"}),
        ({b"openai-beta", b"anthropic-beta"}, "openai_responses", {b"openai-beta": b"o"}),
        ({b"traceparent"}, "bedrock", {b"traceparent": b"00-1"}),
        (set(FORWARDABLE), "openai", {b"openai-beta": b"o", b"traceparent": b"00-1"}),
    ],
)
def test_a_header_that_is_let_through_takes_the_place_of_ours(
    names: set[bytes], wire: str, added: dict[bytes, bytes]
) -> None:
    found = let_through(names, CLIENT, OWN, wire)
    assert dict(found) == dict(OWN) | added
    assert len(found) == len(dict(found))


def test_without_one_nothing_changes() -> None:
    assert let_through({b"anthropic-beta"}, CLIENT, OWN, "google") == []
    assert let_through({b"anthropic-beta"}, [(b"anthropic-beta", b"")], OWN, "anthropic") == []
