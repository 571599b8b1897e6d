"""Rules about what a consumer or a role names: fallback, model policies, load balancing, toolkits (spec 01 §7.1, §8).

What lives here: validation of complete values, in the order the spec gives, each raising the first rule broken. What
must not: reading of bodies (`consumer_body`), the order of the groups of checks (`decide_consumer`, `decide_role`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from trustgate.domain.credentials import is_masked
from trustgate.domain.entities import (
    Consumer,
    EmbeddingConfig,
    Fallback,
    LBConfig,
    LBMember,
    ModelPolicy,
    SmartRouting,
    ToolkitEntry,
)
from trustgate.domain.errors import FAILED, DomainError, invalid_member, quoted
from trustgate.domain.values import NIL_UUID

TRIGGERS = frozenset({"http_5xx", "http_429", "timeout", "provider_error", "plugin_rejection"})
ALGORITHMS = frozenset(
    {"round-robin", "random", "weighted-round-robin", "least-connections", "semantic", "smart-routing"}
)
PINNED = frozenset({"never", "same_model", "any"})
FAIL_MODES = frozenset({"open", "closed"})
KINDS = ("tool", "prompt", "resource")
ASSOCIATION = "registry: invalid registry_id"


def check_ids(ids: Iterable[str], subject: str, kind: str) -> None:
    """No nil id and none twice."""
    seen = set[str]()
    for id_ in ids:
        if id_ == NIL_UUID:
            raise invalid_member(subject, "nil uuid")
        if id_ in seen:
            raise invalid_member(subject, f"duplicate {kind} {id_}")
        seen.add(id_)


def _fallback(detail: str) -> DomainError:
    return invalid_member("consumer: invalid fallback", detail)


def check_fallback(fallback: Fallback) -> None:
    if fallback.pinned not in PINNED:
        raise _fallback(f"unknown pinned {quoted(fallback.pinned)} (never, same_model or any)")
    if not fallback.enabled:
        return
    if not fallback.triggers:
        raise _fallback("at least one trigger is required when enabled")
    for trigger in fallback.triggers:
        if trigger not in TRIGGERS:
            raise _fallback(f"unknown trigger {quoted(trigger)}")
    if fallback.budget.max_attempts < 0:
        raise _fallback("budget.max_attempts cannot be negative")
    if fallback.budget.max_total_latency_ms < 0:
        raise _fallback("budget.max_total_latency cannot be negative")
    if not fallback.chain:
        raise _fallback("chain requires at least one backend when enabled")
    check_ids(fallback.chain, f"consumer: invalid fallback: {FAILED}: invalid chain: {ASSOCIATION}", "registry")


def check_allowance(policy: ModelPolicy, subject: str, whom: str) -> None:
    """The allow-list and default of one model policy; `whom` names the registry in the message."""
    if policy.allowed is None:
        return
    if not policy.allowed:
        raise invalid_member(subject, f"empty allow-list for {whom} (omit allowed to permit all models)")
    seen = set[str]()
    for model in policy.allowed:
        if not model:
            raise invalid_member(subject, f"empty model in allow-list for {whom}")
        if model in seen:
            raise invalid_member(subject, f"duplicate model {quoted(model)} for {whom}")
        seen.add(model)
    if policy.default and policy.default not in seen:
        raise invalid_member(subject, f"default model {quoted(policy.default)} not in allow-list for {whom}")


def check_model_policies(consumer: Consumer) -> None:
    subject = "consumer: invalid model policy"
    known = {*consumer.registry_ids, *(consumer.fallback.chain if consumer.fallback else ())}
    for id_, policy in consumer.model_policies.items():
        if id_ == NIL_UUID:
            raise invalid_member(subject, "nil registry_id")
        if id_ not in known:
            raise invalid_member(subject, f"backend {id_} is not in pool or fallback chain")
        check_allowance(policy, subject, f"backend {id_}")


def _lb(detail: str) -> DomainError:
    return invalid_member("consumer: invalid lb_config", detail)


def check_lb_config(config: LBConfig, policies: Mapping[str, ModelPolicy]) -> None:
    if config.balance_pinned not in PINNED:
        raise _lb(f"unknown balance_pinned {quoted(config.balance_pinned)} (never, same_model or any)")
    if not config.enabled:
        return
    if config.algorithm not in ALGORITHMS:
        raise _lb(f"invalid algorithm {quoted(config.algorithm)}")
    if not config.members:
        raise _lb("members are required when enabled")
    for index, member in enumerate(config.members):
        _check_member(member, f"members[{index}]", policies)
    _check_routes(config.members)
    if config.algorithm == "semantic" and config.embedding_config is None:
        raise _lb("embedding_config required for semantic algorithm")
    if config.algorithm != "semantic" and config.embedding_config is not None:
        raise _lb("embedding_config is only valid for the semantic algorithm")
    if config.algorithm == "smart-routing" and config.smart_routing is None:
        raise _lb("smart_routing required for smart-routing algorithm")
    if config.algorithm != "smart-routing" and config.smart_routing is not None:
        raise _lb("smart_routing is only valid for the smart-routing algorithm")
    if config.embedding_config is not None:
        _check_embedding(config.embedding_config)
    if config.smart_routing is not None:
        _check_tiers(config.smart_routing, config.members)


def _check_member(member: LBMember, at: str, policies: Mapping[str, ModelPolicy]) -> None:
    if member.registry_id == NIL_UUID:
        raise _lb(f"{at}.registry_id is required")
    policy = policies.get(member.registry_id)
    if policy is None:
        raise _lb(f"{at}.registry_id {member.registry_id} is not in model_policies")
    if member.weight != 0 and not 1 <= member.weight <= 100:
        raise _lb(f"{at}.weight {member.weight} is out of range [1,100]")
    seen = set[str]()
    for model in member.models:
        if not model:
            raise _lb(f"{at}.models contains empty model")
        if model in seen:
            raise _lb(f"{at}.models duplicate {quoted(model)}")
        seen.add(model)
        if model not in (policy.allowed or ()):
            raise _lb(f"{at}.model {quoted(model)} is not allowed by model_policies")
    if member.model:
        if not member.model.strip():
            raise _lb(f"{at}.model is blank")
        if seen and member.model not in seen:
            raise _lb(f"{at}.model {quoted(member.model)} is not listed in {at}.models")
        if policy.allowed and member.model not in policy.allowed:
            raise _lb(f"{at}.model {quoted(member.model)} is not allowed by model_policies")


def _check_routes(members: tuple[LBMember, ...]) -> None:
    """Members that share a registry each declare another model."""
    earlier: dict[str, set[str]] = {}
    for index, member in enumerate(members):
        models = earlier.setdefault(member.registry_id, set())
        if models and (not member.model or "" in models):
            raise _lb(
                f"members[{index}] repeats registry {member.registry_id} without a model;"
                " every member sharing a registry must declare one"
            )
        if member.model and member.model in models:
            raise _lb(f"members[{index}] duplicates route {member.registry_id}/{member.model}")
        models.add(member.model)


def _check_embedding(config: EmbeddingConfig) -> None:
    def refuse(detail: str) -> DomainError:
        return _lb(f"registry: invalid embedding config: {FAILED}: {detail}")

    if not config.model.strip():
        raise refuse("model is required")
    if config.auth is None:
        raise refuse("auth is required")
    if any(is_masked(config.auth.get(name)) for name in ("api_key", "header_value", "param_value")):
        raise refuse("secret cannot be a masked value; omit it to keep the stored value")
    if not config.auth.get("api_key"):
        for name in ("header_name", "header_value"):
            if not config.auth.get(name):
                raise refuse(f"{name} is required when api_key is empty")


def _check_tiers(config: SmartRouting, members: tuple[LBMember, ...]) -> None:
    def refuse(detail: str) -> DomainError:
        return _lb(f"registry: invalid smart routing config: {FAILED}: {detail}")

    if not config.tiers:
        raise refuse("at least one tier is required")
    scores = set[float]()
    for index, tier in enumerate(config.tiers):
        if not 0 <= tier.min_score <= 1:
            raise refuse(f"tiers[{index}].min_score must be in [0,1]")
        if tier.min_score in scores:
            raise refuse(f"tiers[{index}].min_score {shortest(tier.min_score)} is duplicated")
        scores.add(tier.min_score)
        if tier.registry_id == NIL_UUID:
            raise refuse(f"tiers[{index}].registry_id is required")
    routes = Counter(member.registry_id for member in members)
    models = {(member.registry_id, member.model) for member in members}
    for index, tier in enumerate(config.tiers):
        at, id_ = f"smart_routing.tiers[{index}]", tier.registry_id
        if id_ not in routes:
            raise _lb(f"{at}.registry_id {id_} is not a pool member")
        if not tier.model and routes[id_] > 1:
            raise _lb(f"{at} targets registry {id_}, which has {routes[id_]} routes; declare a model")
        if tier.model and (id_, tier.model) not in models:
            raise _lb(f"{at}.model {quoted(tier.model)} is not a route of registry {id_}")


def shortest(number: float) -> str:
    """The shortest text of a number: `1`, `0.5`."""
    return str(int(number)) if number == int(number) else repr(number)


def _toolkit(detail: str) -> DomainError:
    return invalid_member("consumer: invalid toolkit", detail)


def check_fail_mode(fail_mode: str) -> None:
    if fail_mode not in FAIL_MODES:
        raise invalid_member("consumer: invalid fail_mode", quoted(fail_mode))


def check_toolkit(entries: Iterable[ToolkitEntry], registry_ids: Iterable[str]) -> tuple[ToolkitEntry, ...]:
    """The entries with trimmed values; used for consumers and roles alike."""
    attached = set(registry_ids)
    stored: list[ToolkitEntry] = []
    taken = set[tuple[str, str, str]]()
    for entry in entries:
        trimmed, kind, value = _check_entry(entry, attached)
        if (entry.registry_id, kind, value) in taken:
            raise _toolkit(f"duplicate {kind} {quoted(value)} for registry {entry.registry_id}")
        taken.add((entry.registry_id, kind, value))
        if trimmed.expose_as and kind == "resource":
            raise _toolkit("expose_as is not valid on resource entries (resources are URI-addressed)")
        if trimmed.expose_as and value == "*":
            raise _toolkit('expose_as is not valid with the "*" wildcard')
        stored.append(trimmed)
    _check_aliases(stored)
    return tuple(stored)


def _check_entry(entry: ToolkitEntry, attached: set[str]) -> tuple[ToolkitEntry, str, str]:
    if entry.registry_id == NIL_UUID:
        raise _toolkit("nil registry_id")
    if entry.registry_id not in attached:
        raise _toolkit(f"registry {entry.registry_id} is not attached to the consumer")
    if entry.expose_as and not entry.expose_as.strip():
        raise _toolkit("expose_as cannot be blank")
    trimmed = ToolkitEntry(
        registry_id=entry.registry_id,
        tool=entry.tool.strip(),
        prompt=entry.prompt.strip(),
        resource=entry.resource.strip(),
        expose_as=entry.expose_as.strip(),
    )
    selected = [(kind, value) for kind in KINDS if (value := getattr(trimmed, kind))]
    if len(selected) != 1:
        raise _toolkit('exactly one of tool, prompt, or resource is required per entry (use "*" for all)')
    kind, value = selected[0]
    if kind == "resource" and "*" in value[:-1]:
        raise _toolkit(f"resource pattern {quoted(value)} is unsupported (only a trailing * wildcard is allowed)")
    return trimmed, kind, value


def _check_aliases(entries: Iterable[ToolkitEntry]) -> None:
    entries = tuple(entries)
    aliases = set[tuple[str, str]]()
    names: dict[tuple[str, str], list[ToolkitEntry]] = {}
    for entry in entries:
        for kind in ("tool", "prompt"):
            if value := getattr(entry, kind):
                names.setdefault((kind, value), []).append(entry)
    for entry in entries:
        kind = "tool" if entry.tool else "prompt"
        if not entry.expose_as:
            continue
        if (kind, entry.expose_as) in aliases:
            raise _toolkit(f"duplicate expose_as alias {quoted(entry.expose_as)}")
        aliases.add((kind, entry.expose_as))
        others = [
            other for other in names.get((kind, entry.expose_as), ()) if other is not entry and not other.expose_as
        ]
        if others:
            raise _toolkit(
                f"expose_as alias {quoted(entry.expose_as)} collides with another {kind} entry of the same name"
            )


def check_associated(consumer: Consumer, gone: frozenset[str] = frozenset()) -> None:
    """Every registry that an inline consumer names is bound to it; toolkits may also name those that are `gone`."""
    bound = set(consumer.registry_ids)

    def require(what: str, ids: Iterable[str]) -> None:
        for id_ in ids:
            if id_ not in bound:
                raise invalid_member(ASSOCIATION, f"{what} registry {id_} is not associated with the consumer")

    require("fallback chain", consumer.fallback.chain if consumer.fallback else ())
    require("model_policies", consumer.model_policies)
    require("lb_config member", (member.registry_id for member in (consumer.lb_config or LBConfig()).members))
    require("toolkit", (entry.registry_id for entry in consumer.toolkit or () if entry.registry_id not in gone))
