"""From the body of a consumer or role request to entities: syntax, and ids in their canonical form (spec 01 §7.1).

What lives here: everything that can be said about a body without looking at state. What must not: rules (`routing`).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trustgate.domain import inputs
from trustgate.domain.credentials import inherit
from trustgate.domain.entities import (
    Budget,
    EmbeddingConfig,
    Fallback,
    LBConfig,
    LBMember,
    ModelPolicy,
    SmartRouting,
    Tier,
    ToolkitEntry,
)
from trustgate.domain.errors import invalid, quoted
from trustgate.domain.inputs import BindingIn, LBMemberIn, ModelPolicyIn, TierIn, ToolkitEntryIn
from trustgate.domain.values import parse_uuid, strings

EMBEDDING_SECRETS = ("api_key", "header_value", "param_value")


class Bindings(msgspec.Struct, frozen=True):
    """The `registries` of a body: ids in order, weights, and the model policies declared inside."""

    ids: tuple[str, ...]
    weights: dict[str, int]
    policies: dict[str, ModelPolicy]


def registry_id(text: str | None, at: str) -> str:
    id_ = parse_uuid(text or "")
    if id_ is None:
        raise invalid(f"{at}: invalid registry_id {quoted(text or '')}")
    return id_


def uuids(sent: Iterable[str | None], at: str) -> tuple[str, ...]:
    """A list of ids."""
    ids: list[str] = []
    for index, text in enumerate(sent):
        id_ = parse_uuid(text or "")
        if id_ is None:
            raise invalid(f"{at}[{index}]: invalid uuid {quoted(text or '')}")
        ids.append(id_)
    return tuple(ids)


def fallback(sent: inputs.FallbackIn) -> Fallback:
    budget = sent.budget or inputs.BudgetIn()
    return Fallback(
        enabled=bool(sent.enabled),
        triggers=strings(sent.triggers),
        budget=Budget(budget.max_attempts or 0, budget.max_total_latency_ms or 0),
        chain=uuids(sent.chain or (), "fallback.chain"),
        pinned=sent.pinned or "never",
    )


def toolkit(sent: Iterable[ToolkitEntryIn | None], at: str) -> tuple[ToolkitEntry, ...]:
    entries: list[ToolkitEntry] = []
    for index, item in enumerate(sent):
        item = item or ToolkitEntryIn()
        entries.append(
            ToolkitEntry(
                registry_id=registry_id(item.registry_id, f"{at}[{index}]"),
                tool=item.tool or "",
                prompt=item.prompt or "",
                resource=item.resource or "",
                expose_as=item.expose_as or "",
            )
        )
    return tuple(entries)


def lb_config(sent: inputs.LBConfigIn, stored: LBConfig | None) -> LBConfig:
    """The load balancing of a body; blank secrets are those of `stored`, new ones are still in clear."""
    members: list[LBMember] = []
    for index, member in enumerate(sent.members or ()):
        member = member or LBMemberIn()
        members.append(
            LBMember(
                registry_id=registry_id(member.registry_id, f"lb_config.members[{index}]"),
                models=strings(member.models),
                model=member.model or "",
                weight=member.weight or 0,
            )
        )
    return LBConfig(
        enabled=bool(sent.enabled),
        algorithm=sent.algorithm or ("round-robin" if sent.enabled else ""),
        pool_alias=sent.pool_alias or "",
        members=tuple(members),
        embedding_config=embedding(sent.embedding_config, stored.embedding_config if stored else None),
        smart_routing=smart_routing(sent.smart_routing),
        balance_pinned=sent.balance_pinned or "never",
    )


def embedding(sent: inputs.EmbeddingIn | None, stored: EmbeddingConfig | None) -> EmbeddingConfig | None:
    if sent is None:
        return None
    auth = None
    if sent.auth is not None:
        auth = {name: value for name, value in msgspec.to_builtins(sent.auth).items() if value}
        for name in EMBEDDING_SECRETS:
            value = inherit(auth.get(name), ((stored.auth if stored else None) or {}).get(name))
            if value:
                auth[name] = value
    return EmbeddingConfig(sent.provider or "", sent.model or "", auth)


def smart_routing(sent: inputs.SmartRoutingIn | None) -> SmartRouting | None:
    if sent is None:
        return None
    tiers: list[Tier] = []
    for index, tier in enumerate(sent.tiers or ()):
        tier = tier or TierIn()
        id_ = registry_id(tier.registry_id, f"lb_config.smart_routing.tiers[{index}]")
        tiers.append(Tier(min_score=tier.min_score or 0, registry_id=id_, model=tier.model or ""))
    return SmartRouting(tuple(tiers))


def allowance(sent: ModelPolicyIn | inputs.BindingPolicyIn) -> ModelPolicy:
    return ModelPolicy(None if sent.allowed is None else strings(sent.allowed), sent.default or "")


def model_policies(sent: Iterable[ModelPolicyIn | None]) -> dict[str, ModelPolicy]:
    policies: dict[str, ModelPolicy] = {}
    for index, item in enumerate(sent):
        item = item or ModelPolicyIn()
        id_ = registry_id(item.registry_id, f"model_policies[{index}]")
        if id_ in policies:
            raise invalid(f"model_policies[{index}]: duplicate registry_id {quoted(item.registry_id or '')}")
        policies[id_] = allowance(item)
    return policies


def bindings(sent: Iterable[BindingIn | None], declared: Iterable[str]) -> Bindings:
    """`declared` are the registries that already have a model policy in the same body."""
    weights: dict[str, int] = {}
    policies: dict[str, ModelPolicy] = {}
    taken = set(declared)
    for index, item in enumerate(sent):
        item = item or BindingIn()
        at, id_ = f"registries[{index}]", parse_uuid(item.id or "")
        if id_ is None:
            raise invalid(f"{at}: invalid id {quoted(item.id or '')}")
        if id_ in weights:
            raise invalid(f"{at}: duplicate id {quoted(item.id or '')}")
        weights[id_] = check_weight(item.weight, f"{at}: ")
        if item.model_policies is not None:
            if id_ in taken:
                raise invalid(f"{at}: model policy for {quoted(item.id or '')} already declared in model_policies")
            policies[id_] = allowance(item.model_policies)
    return Bindings(tuple(weights), weights, policies)


def check_weight(weight: int | None, prefix: str = "") -> int:
    if weight is not None and not 1 <= weight <= 100:
        raise invalid(f"{prefix}weight must be between 1 and 100")
    return 1 if weight is None else weight
