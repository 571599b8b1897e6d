"""`GET /{slug}/v1/models`, an addition: the models that this consumer may name, in the caller's own shape."""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.proxy.candidates import Candidate, inline_candidates, role_candidates
from trustgate.proxy.exchange import Exchange, Reply


def usable(exchange: Exchange) -> list[tuple[str, str]]:
    """(model, provider) pairs from allow-lists and defaults in candidate order, and those that pool members pin; open
    allow-lists name no models."""
    consumer, principal = exchange.consumer, exchange.principal
    assert consumer is not None and principal is not None
    found: dict[str, str] = {}
    candidates: list[Candidate] = (
        role_candidates(principal.roles) if consumer.role_based else inline_candidates(consumer)
    )
    for candidate in candidates:
        allowance = candidate.allowance
        for model in (*(allowance.allowed or ()), allowance.default):
            if model:
                found.setdefault(model, candidate.registry.provider)
    if not consumer.role_based:
        for route in consumer.routes:
            if route.model:
                found.setdefault(route.model, route.registry.provider)
    if consumer.pool_alias:
        found.setdefault(f"pool:{consumer.pool_alias}", "trustgate")
    return list(found.items())


def listing(exchange: Exchange) -> Reply:
    """OpenAI's list shape, or Anthropic's when the request carries `anthropic-version`."""
    assert exchange.consumer is not None
    created = exchange.consumer.entity.created_at
    rows: list[dict[str, Any]]
    if b"anthropic-version" in exchange.header_map:
        stamp = created.isoformat().replace("+00:00", "Z")
        rows = [
            {"type": "model", "id": model, "display_name": model, "created_at": stamp} for model, _ in usable(exchange)
        ]
        body: dict[str, Any] = {
            "data": rows,
            "has_more": False,
            "first_id": rows[0]["id"] if rows else None,
            "last_id": rows[-1]["id"] if rows else None,
        }
    else:
        at = int(created.timestamp())
        rows = [
            {"id": model, "object": "model", "created": at, "owned_by": provider}
            for model, provider in usable(exchange)
        ]
        body = {"object": "list", "data": rows}
    return Reply(status=200, headers=[(b"content-type", b"application/json")], body=msgspec.json.encode(body))
