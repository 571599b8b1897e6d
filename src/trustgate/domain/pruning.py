"""What a consumer looks like once one of its registries is gone (spec 01 §4, better row).

What lives here: the removal of a registry's id from every member that names it, such that the consumer stays valid.
"""

from __future__ import annotations

from msgspec.structs import replace

from trustgate.domain.entities import Consumer, Fallback, LBConfig, ToolkitEntry


def without_registry(consumer: Consumer, registry_id: str) -> Consumer:
    """The consumer without any reference to the registry; `updated_at` stays, as for a detachment."""
    return replace(
        consumer,
        registry_ids=tuple(id_ for id_ in consumer.registry_ids if id_ != registry_id),
        registry_weights={id_: weight for id_, weight in consumer.registry_weights.items() if id_ != registry_id},
        model_policies={id_: policy for id_, policy in consumer.model_policies.items() if id_ != registry_id},
        fallback=_fallback(consumer.fallback, registry_id),
        lb_config=_lb_config(consumer.lb_config, registry_id),
        toolkit=_toolkit(consumer, registry_id),
    )


def _fallback(fallback: Fallback | None, registry_id: str) -> Fallback | None:
    """An emptied chain has nothing to fall back to, so it is switched off."""
    if fallback is None or registry_id not in fallback.chain:
        return fallback
    chain = tuple(id_ for id_ in fallback.chain if id_ != registry_id)
    return replace(fallback, chain=chain, enabled=fallback.enabled and bool(chain))


def _lb_config(config: LBConfig | None, registry_id: str) -> LBConfig | None:
    """A pool that lost its last member, or its last tier, is switched off."""
    if config is None:
        return None
    members = tuple(member for member in config.members if member.registry_id != registry_id)
    smart = config.smart_routing
    if smart is not None:
        smart = replace(smart, tiers=tuple(tier for tier in smart.tiers if tier.registry_id != registry_id))
    if members == config.members and smart == config.smart_routing:
        return config
    usable = bool(members) and (smart is None or bool(smart.tiers))
    return replace(config, members=members, smart_routing=smart, enabled=config.enabled and usable)


def _toolkit(consumer: Consumer, registry_id: str) -> tuple[ToolkitEntry, ...] | None:
    """An emptied toolkit would expose every tool of the registries that remain, so while some do, its entries stay.

    Such entries select nothing, and later changes of the consumer overlook them (`decide_consumer`).
    """
    if not consumer.toolkit:
        return consumer.toolkit
    kept = tuple(entry for entry in consumer.toolkit if entry.registry_id != registry_id)
    remaining = any(id_ != registry_id for id_ in consumer.registry_ids)
    return kept or (consumer.toolkit if remaining else None)
