"""What is unique or counted across gateways: slugs, domains, consumer slugs, a tenant's gateways and their plan.

What lives here: `DirectoryState` and its fold. What must not: anything about the inside of a gateway.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from trustgate.domain import events as ev
from trustgate.domain.entities import Entitlements, Gateway

TIER_RANK = {"free": 0, "standard": 1, "enterprise": 2}


class Listing(msgspec.Struct, frozen=True):
    gateway_id: str
    slug: str
    domain: str
    tenant_id: str
    entitlements: Entitlements
    created_at: datetime


class DirectoryState(msgspec.Struct, frozen=True, kw_only=True):
    """All gateways at one `version` (the number of events in the directory's stream)."""

    version: int = 0
    gateways: dict[str, Listing] = {}
    slugs: dict[str, str] = {}
    """Gateway slug to gateway id."""
    domains: dict[str, str] = {}
    """Gateway domain to gateway id."""
    consumer_slugs: dict[str, str] = {}
    """Consumer slug to gateway id."""

    def of_tenant(self, tenant_id: str) -> list[Listing]:
        return [listing for listing in self.gateways.values() if listing.tenant_id == tenant_id]


def fold_directory(events: Iterable[ev.Event], state: DirectoryState | None = None) -> DirectoryState:
    """`state` after `events`. A map is copied once per call, when first changed, so replay in large batches."""
    state = state or DirectoryState()
    version = state.version
    gateways, slugs, domains = dict(state.gateways), dict(state.slugs), dict(state.domains)
    consumer_slugs, shared = state.consumer_slugs, True

    def unlist(gateway_id: str) -> None:
        old = gateways.pop(gateway_id, None)
        if old is not None:
            slugs.pop(old.slug, None)
            domains.pop(old.domain, None)

    for event in events:
        version += 1
        fact = event.data
        if shared and isinstance(fact, ev.GatewayUnlisted | ev.ConsumerListed | ev.ConsumerUnlisted):
            consumer_slugs, shared = consumer_slugs.copy(), False
        match fact:
            case ev.GatewayListed():
                unlist(fact.gateway_id)
                gateways[fact.gateway_id] = Listing(
                    fact.gateway_id, fact.slug, fact.domain, fact.tenant_id, fact.entitlements, fact.created_at
                )
                slugs[fact.slug] = fact.gateway_id
                if fact.domain:
                    domains[fact.domain] = fact.gateway_id
            case ev.GatewayUnlisted(gateway_id=gateway_id, consumer_slugs=freed):
                unlist(gateway_id)
                for slug in freed:
                    consumer_slugs.pop(slug, None)
            case ev.ConsumerListed(slug=slug, gateway_id=gateway_id):
                consumer_slugs[slug] = gateway_id
            case ev.ConsumerUnlisted(slug=slug):
                consumer_slugs.pop(slug, None)
            case _:
                pass
    return DirectoryState(
        version=version, gateways=gateways, slugs=slugs, domains=domains, consumer_slugs=consumer_slugs
    )


def evolve_directory(state: DirectoryState, event: ev.Event) -> DirectoryState:
    """`state` after one event."""
    return fold_directory((event,), state)


def listed(gateway: Gateway) -> ev.GatewayListed:
    """The directory's entry of a gateway."""
    return ev.GatewayListed(
        gateway_id=gateway.id,
        slug=gateway.slug,
        domain=gateway.domain,
        tenant_id=gateway.tenant_id,
        entitlements=gateway.entitlements,
        created_at=gateway.created_at,
    )
