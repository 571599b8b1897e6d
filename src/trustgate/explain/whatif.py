"""Which recorded requests would have gone otherwise: two states of a gateway, compared request by request.

What lives here: the comparison and its summary. What must not: predictions (`forecast`), storage of decisions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from trustgate.decisions.record import Decided
from trustgate.domain.entities import GatewayState, Policy
from trustgate.explain.explanation import time_of
from trustgate.explain.forecast import Denial, Forecaster, Prediction
from trustgate.explain.rehearsal import never_denies, rehearsable
from trustgate.providers.prices import PriceBook
from trustgate.view.compile import applicable_policies, policy_order

Json = dict[str, Any]

MAX_GROUPS = 100
EXAMPLES = 3
SAME_USD = 1e-12

DENIED, ALLOWED, ROUTED, MAY_ROUTE, PRICED, UNCERTAIN = (
    "denied",
    "allowed",
    "routed",
    "may_route",
    "priced",
    "uncertain",
)
KINDS = (DENIED, ALLOWED, ROUTED, MAY_ROUTE, PRICED, UNCERTAIN)
READS_CONTENT = "policy {} changes and judges what is not recorded"


class Group(msgspec.Struct):
    """Requests that change in the same way."""

    kind: str
    consumer: str
    model: str
    before: str
    after: str
    count: int = 0
    examples: list[Json] = []


class Comparison:
    """Feed it records in the order of their times, then ask for the `summary`."""

    def __init__(self, before: GatewayState, after: GatewayState, prices: PriceBook) -> None:
        keys = {auth.id: auth.key_hash for auth in before.auths.values()}
        self._unsure = unsure(before, after)
        changed = changed_policies(before, after)
        self._before_state, self._after_state = before, after
        self._before = Forecaster(before, prices, keys, changed)
        self._after = Forecaster(after, prices, keys, changed)
        self._groups: dict[tuple[str, ...], Group] = {}
        self._counts: dict[str, int] = dict.fromkeys(KINDS, 0)
        self._texts: dict[int, str] = {}
        self._usd_before = self._usd_after = 0.0
        self.considered = 0

    def add(self, records: Iterable[Decided]) -> None:
        for record in records:
            self._compare(record)

    def _compare(self, record: Decided) -> None:
        self.considered += 1
        before, after = self._before.predict(record), self._after.predict(record)
        kinds: list[str] = []
        if before.denial is None and after.denial is not None:
            kinds.append(DENIED)
        elif before.denial is not None and after.denial is None:
            kinds.append(ALLOWED)
        elif before is not after and before.denial is None and before.routes != after.routes:
            kind = moved(record, before, after)
            if kind:
                kinds.append(kind)
        if after.denial is None and before.denial is None:
            old, new = self._before.cost_usd(record), self._after.cost_usd(record)
            if old is not None:
                self._usd_before += old
            if new is not None:
                self._usd_after += new
            if old is not None and new is not None and abs(old - new) > SAME_USD:
                kinds.append(PRICED)
        elif before.denial is None:
            self._usd_before += self._before.cost_usd(record) or 0.0
        elif after.denial is None:
            self._usd_after += self._after.cost_usd(record) or 0.0
        for kind in kinds:
            self._count(kind, record, self._told(before, self._before_state), self._told(after, self._after_state))
        if self._unsure and not kinds:
            reason = self._unsure.get(("consumer", record.consumer_id)) or self._unsure.get(("auth", record.auth_id))
            if reason:
                self._count(UNCERTAIN, record, "", reason)

    def _count(self, kind: str, record: Decided, before: str, after: str) -> None:
        self._counts[kind] += 1
        key = (kind, record.consumer_slug, record.reference, before, after)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(*key)
        group.count += 1
        if len(group.examples) < EXAMPLES:
            group.examples.append({"trace_id": record.trace_id, "time": time_of(record.at_ms)})

    def _told(self, prediction: Prediction, state: GatewayState) -> str:
        denial = prediction.denial
        if denial is not None:
            return told_denial(denial)
        if not prediction.routes:
            return "answered"
        parts: list[str] = []
        for route in prediction.routes:
            registry = state.registries.get(route.registry_id)
            name = registry.name if registry is not None else route.registry_id
            share = f" {route.share:.0%}" if len(prediction.routes) > 1 else ""
            parts.append(f"{name}{f' ({route.model})' if route.model else ''}{share}")
        return ", ".join(parts)

    def summary(self) -> Json:
        """Counts by kind, the change in cost, and the largest groups."""
        groups = sorted(self._groups.values(), key=lambda group: (KINDS.index(group.kind), -group.count))
        return {
            "considered": self.considered,
            **self._counts,
            "cost_before_usd": round(self._usd_before, 9),
            "cost_after_usd": round(self._usd_after, 9),
            "groups": [msgspec.to_builtins(group) for group in groups[:MAX_GROUPS]],
            "groups_left_out": max(0, len(groups) - MAX_GROUPS),
        }


def told_denial(denial: Denial) -> str:
    return " ".join(filter(None, (str(denial.status), denial.code, denial.message)))


def moved(record: Decided, before: Prediction, after: Prediction) -> str:
    """Whether a request surely goes elsewhere, may do so, or only spreads otherwise (which is a change of share)."""
    if before.keys == after.keys:
        return MAY_ROUTE
    served = record.served
    if served is not None and served.registry_id in {route.registry_id for route in after.routes}:
        same = {route.key for route in after.routes if route.registry_id == served.registry_id}
        if any(key in before.keys for key in same):
            return MAY_ROUTE
    return MAY_ROUTE if served is None and before.keys & after.keys else ROUTED


def applied_to(state: GatewayState, consumer_id: str) -> dict[str, Policy]:
    applied, _ = applicable_policies(consumer_id, policy_order(state.policies))
    return {policy.id: policy for policy in applied}


def changed_policies(before: GatewayState, after: GatewayState) -> dict[str, frozenset[str]]:
    """By consumer: the policies that begin, cease or change for it, and can be rehearsed in either state."""
    found: dict[str, frozenset[str]] = {}
    for consumer_id in before.consumers.keys() | after.consumers.keys():
        ids = {policy.id for policy in differing(before, after, consumer_id) if rehearsable(policy)}
        if ids:
            found[consumer_id] = frozenset(ids)
    return found


def differing(before: GatewayState, after: GatewayState, consumer_id: str) -> list[Policy]:
    """The policies of a consumer that are not the same in both states, as each state has them."""
    old, new = applied_to(before, consumer_id), applied_to(after, consumer_id)
    differ = [id_ for id_ in old.keys() | new.keys() if effect_of(old.get(id_)) != effect_of(new.get(id_))]
    return [policy for id_ in differ for policy in (old.get(id_), new.get(id_)) if policy is not None]


def effect_of(policy: Policy | None) -> Any:
    return policy and (policy.slug, policy.settings, policy.stages, policy.mode, policy.priority, policy.global_)


def unsure(before: GatewayState, after: GatewayState) -> dict[tuple[str, str], str]:
    """Why nothing certain can be said of some requests: by ("consumer" | "auth", id)."""
    found: dict[tuple[str, str], str] = {}
    for consumer_id in before.consumers.keys() & after.consumers.keys():
        for policy in differing(before, after, consumer_id):
            if not rehearsable(policy) and not never_denies(policy):
                found["consumer", consumer_id] = READS_CONTENT.format(policy.name)
    for id_, auth in before.auths.items():
        other = after.auths.get(id_)
        if other is not None and auth.type != "api_key" and (auth.config != other.config or auth.type != other.type):
            found["auth", id_] = f"what auth {auth.name} accepts changes, and tokens are not recorded"
    mappings = {id_: role.oidc_mapping for id_, role in before.roles.items()}
    for id_, role in after.roles.items():
        if id_ in mappings and mappings[id_] != role.oidc_mapping:
            for consumer in before.consumers.values():
                if id_ in consumer.role_ids:
                    found["consumer", consumer.id] = f"the claims that give role {role.name} change"
    return found
