"""What is wrong with a configuration: each finding with the smallest request and failure that shows it.

What lives here: which requests are tried, the properties, and the static looks at what can never take effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import trio

from trustgate.check.simulation import ASKS_A_SERVICE, FAILURES, Answered, Asked, Simulation
from trustgate.domain.entities import Consumer, GatewayState, Policy
from trustgate.policies.engine import effective_stages
from trustgate.policies.registry import PLUGINS
from trustgate.providers.services import Services as ProviderServices
from trustgate.proxy.errors import STATUS
from trustgate.view.model import ConsumerView

MAX_MODELS = 20
"""Models tried of one consumer; of long allow-lists the first ones."""


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """`level` is `error` (a broken promise) or `warning` (a weakness, or something without effect)."""

    level: str
    kind: str
    subject: str
    text: str
    example: str = ""
    also: int = 0
    """How many more requests show the same."""


class Report(msgspec.Struct):
    gateway: str
    requests: int = 0
    findings: list[Finding] = []
    notes: list[str] = []

    @property
    def errors(self) -> int:
        return sum(finding.level == "error" for finding in self.findings)


Told = Callable[[int, int], None]


async def check(state: GatewayState, told: Told = lambda done, total: None) -> Report:
    """Try every consumer's requests, with all upstreams well and with each of them failing in each way."""
    assert state.gateway is not None
    report = Report(state.gateway.slug)
    async with ProviderServices.open({}) as providers, trio.open_nursery() as nursery:
        simulation = Simulation(state, nursery, providers)
        trials = [trial for slug in simulation.view.consumer_slugs for trial in trials_of(state, simulation, slug)]
        weak: dict[str, list[tuple[Asked, str, Answered]]] = {}
        for number, asked in enumerate(trials):
            await try_one(simulation, asked, report, weak)
            told(number + 1, len(trials))
        nursery.cancel_scope.cancel()
    report.findings += [weakness(state, registry_id, shown) for registry_id, shown in weak.items()]
    report.findings += [finding for consumer in state.consumers.values() for finding in unreachable(state, consumer)]
    report.findings += [finding for policy in state.policies.values() if (finding := never_fires(state, policy))]
    report.findings += unused(state)
    report.findings.sort(key=lambda finding: (finding.level, finding.kind, finding.subject))
    left_out = sorted({policy.slug for policy in state.policies.values() if policy.slug in ASKS_A_SERVICE})
    if left_out:
        report.notes.append(f"not tried, since they ask services of their own: {', '.join(left_out)}")
    others = sum(consumer.type != "LLM" for consumer in state.consumers.values())
    if others:
        report.notes.append(f"{others} consumers of other types than LLM were not tried")
    return report


def trials_of(state: GatewayState, simulation: Simulation, slug: str) -> Iterator[Asked]:
    """The requests worth trying: every way to name a model that the configuration speaks of, for every role."""
    consumer = simulation.view.consumer(slug)
    if consumer is None or consumer.type != "LLM":
        return
    if consumer.role_based:
        for role in consumer.roles:
            for model in models_of(consumer, role.model_policies.values()):
                yield Asked(slug, model, (role.id,))
        return
    for model in models_of(consumer, consumer.model_policies.values()):
        yield Asked(slug, model)
    if consumer.pool_alias:
        yield Asked(slug, f"pool:{consumer.pool_alias}")


def models_of(consumer: ConsumerView, policies: object) -> list[str]:
    """No model at all where something fills in for it (or nothing is restricted), then every model that is named."""
    found: dict[str, None] = {}
    named: list[str] = []
    restricted = True
    for policy in policies:  # type: ignore[attr-defined]
        named += [*(policy.allowed or ()), *([policy.default] if policy.default else ())]
        restricted = restricted and bool(policy.allowed) and not policy.default
    unlisted = any(registry.id not in consumer.model_policies for registry in consumer.pool)
    if not restricted or unlisted or not named:
        found[""] = None
    found |= dict.fromkeys(named)
    return list(found)[:MAX_MODELS]


async def try_one(
    simulation: Simulation, asked: Asked, report: Report, weak: dict[str, list[tuple[Asked, str, Answered]]]
) -> None:
    """One request in all single-failure worlds. Only registries that can be reached by it are made to fail."""
    report.requests += 1
    well = await simulation.ask(asked, {})
    judge(asked, {}, well, report)
    if not 200 <= well.status < 300:
        report.findings.append(
            Finding(
                "error", "no_answer", asked.consumer, "is refused while every upstream is well", shown(asked, {}, well)
            )
        )
        return
    consumer = simulation.view.consumer(asked.consumer)
    assert consumer is not None
    reachable = {registry.id for registry in (*consumer.pool, *consumer.chain)}
    reachable |= {registry.id for role in consumer.roles if role.id in asked.roles for registry in role.registries}
    for registry_id in sorted(reachable):
        for failure in FAILURES:
            report.requests += 1
            answer = await simulation.ask(asked, {registry_id: failure})
            judge(asked, {registry_id: failure}, answer, report)
            if not 200 <= answer.status < 300:
                weak.setdefault(registry_id, []).append((asked, failure, answer))


def judge(asked: Asked, outcomes: dict[str, str], answer: Answered, report: Report) -> None:
    """An answer is a success, an upstream's own, or an error of the table that the proxy documents."""
    ok = 200 <= answer.status < 300 or answer.relayed or STATUS.get(answer.code) is not None or answer.status == 429
    if not ok:
        text = f"gets an answer that is not documented ({answer.status} {answer.code})"
        report.findings.append(Finding("error", "undocumented", asked.consumer, text, shown(asked, outcomes, answer)))


def shown(asked: Asked, outcomes: dict[str, str], answer: Answered) -> str:
    """A counterexample in one line."""
    model = f"model {asked.model}" if asked.model else "no model"
    roles = f", roles {', '.join(asked.roles)}" if asked.roles else ""
    world = "; ".join(f"{registry} {failure}" for registry, failure in outcomes.items()) or "all upstreams well"
    result = " ".join(filter(None, (str(answer.status), answer.code, answer.message)))
    return f"POST /{asked.consumer}/v1/chat/completions, {model}{roles}; {world} -> {result}"


def weakness(state: GatewayState, registry_id: str, shows: list[tuple[Asked, str, Answered]]) -> Finding:
    """A registry whose failure somebody feels. The example is the shortest request of them."""
    asked, failure, answer = min(
        shows, key=lambda show: (len(show[0].model), FAILURES.index(show[1]), show[0].consumer)
    )
    consumers = sorted({show[0].consumer for show in shows})
    failures = [failure for failure in FAILURES if any(show[1] == failure for show in shows)]
    registry = state.registries[registry_id]
    text = f"is a single point of failure of {', '.join(consumers)} ({', '.join(failures)})"
    example = shown(asked, {registry.name: failure}, answer)
    return Finding("warning", "single_point_of_failure", registry.name, text, example, len(shows) - 1)


def unreachable(state: GatewayState, consumer: Consumer) -> Iterator[Finding]:
    """What a consumer has and can never use."""
    name = consumer.name
    if consumer.active and consumer.type == "LLM" and not consumer.auth_ids:
        yield Finding("warning", "nobody_may_call", name, "is active, but has no credential: nobody can call it")
    elif consumer.active and consumer.auth_ids and not any(state.auths[id_].enabled for id_ in consumer.auth_ids):
        yield Finding("error", "nobody_may_call", name, "is active, but all its credentials are disabled")
    fallback = consumer.fallback
    if fallback is not None and fallback.chain and not fallback.enabled:
        yield Finding("warning", "chain_never_used", name, "has a fallback chain, but fallback is disabled")
    elif fallback is not None and fallback.enabled and fallback.chain and not fallback.triggers:
        yield Finding("warning", "chain_never_used", name, "has a fallback chain without triggers")


def never_fires(state: GatewayState, policy: Policy) -> Finding | None:
    """Why a policy can never run, or None."""
    why = reason_never(state, policy)
    return None if why is None else Finding("warning", "policy_never_fires", policy.name, why)


def reason_never(state: GatewayState, policy: Policy) -> str | None:
    if not policy.enabled:
        return "is disabled"
    plugin = PLUGINS.get(policy.slug)
    if plugin is None:
        return f"its plugin {policy.slug} is not known"
    if not effective_stages(plugin, policy.stages):
        return "has no stage to run at"
    if policy.global_:
        reach = list(state.consumers.values())
    else:
        reach = [state.consumers[id_] for id_ in policy.consumer_ids if id_ in state.consumers]
        if not reach:
            return "is attached to no consumer and not global"
    reach = [consumer for consumer in reach if consumer.active]
    if not reach:
        return "none of its consumers is active"
    reach = [consumer for consumer in reach if consumer.type in plugin.protocols]
    if not reach:
        return f"its plugin supports {', '.join(plugin.protocols)} only, and none of its consumers is of that type"
    own = [
        consumer
        for consumer in reach
        if any(
            other.slug == policy.slug and not other.global_ and consumer.id in other.consumer_ids
            for other in state.policies.values()
        )
    ]
    if policy.global_ and len(own) == len(reach):
        return f"every consumer has a {policy.slug} of its own, which replaces it"
    return None


def unused(state: GatewayState) -> Iterator[Finding]:
    """Objects that nothing leads to."""
    bound = {id_ for consumer in state.consumers.values() for id_ in consumer.registry_ids}
    bound |= {id_ for role in state.roles.values() for id_ in role.registry_ids}
    for registry in state.registries.values():
        if registry.id not in bound:
            yield Finding("warning", "unused", registry.name, "is a registry that no consumer and no role uses")
        elif not registry.enabled:
            yield Finding("warning", "unused", registry.name, "is a registry that is used, but disabled")
    attached = {id_ for consumer in state.consumers.values() for id_ in consumer.auth_ids}
    for auth in state.auths.values():
        if auth.id not in attached:
            yield Finding("warning", "unused", auth.name, "is a credential that no consumer has")
    assigned = {id_ for consumer in state.consumers.values() for id_ in consumer.role_ids}
    for role in state.roles.values():
        if role.id not in assigned:
            yield Finding("warning", "unused", role.name, "is a role that no consumer has")
