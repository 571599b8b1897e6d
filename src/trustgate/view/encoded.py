"""A gateway's whole view as bytes, for comparing two ways to the same view.

What lives here: a canonical encoding of everything a view computes. What must not: secrets; references stand for them.
"""

from __future__ import annotations

import msgspec

from trustgate.domain.entities import GatewayState
from trustgate.view.gateway import GatewayView


def encoded(state: GatewayState) -> bytes:
    """Equal for equal views; empty for a gateway that was deleted. Every consumer's tables are computed."""
    if state.gateway is None:
        return b""
    view = GatewayView(state, lambda ref: ref)
    parts = (
        view.identity,
        view.registries,
        view.roles,
        view.policies,
        view.api_key_digests,
        {slug: view.consumer(slug) for slug in view.consumer_slugs},
    )
    return msgspec.json.encode(parts, order="deterministic")
