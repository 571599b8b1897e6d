"""Policies run again over recorded requests: those whose verdict follows from what a record holds.

What lives here: the plugins' own code on counters and a clock of the past. What must not: policies that read what
people wrote or ask a service; bodies are not recorded, so their verdict is not known (`rehearsable`).
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import msgspec

from trustgate.decisions.record import Decided
from trustgate.domain.entities import Policy
from trustgate.limits.memory import MemoryLimits
from trustgate.policies import registry
from trustgate.policies.engine import effective_stages
from trustgate.policies.model import Effect, Mark, PolicyRequest, PolicyResponse, Run, TokenUsage
from trustgate.policies.plugin import Binding, PolicyError, Price, Services
from trustgate.policies.settings import SettingsError
from trustgate.providers.prices import PriceBook
from trustgate.proxy.errors import Refusal
from trustgate.proxy.intent import NONE, intent_of
from trustgate.view.model import ConsumerView, GatewayIdentity

REHEARSABLE = frozenset({"rate_limiter", "request_size_limiter", "model_allowlist", "token_rate_limiter"})
BLOCKING_MODES = frozenset({"enforce"})


def rehearsable(policy: Policy) -> bool:
    """Whether a record says enough to know the policy's verdict. Counters by header value need the header."""
    return (
        policy.slug in REHEARSABLE
        and not policy.settings.get("group_by_header")
        and policy.mode in BLOCKING_MODES
        and policy.enabled
    )


def never_denies(policy: Policy) -> bool:
    """A policy that only looks or only slows down."""
    return not policy.enabled or policy.mode not in BLOCKING_MODES


class PolicyRehearsal:
    """Some policies of one consumer. Mutable: counters of their own, and the time of the last record."""

    def __init__(
        self, policies: list[Policy], consumer: ConsumerView, gateway: GatewayIdentity, prices: PriceBook
    ) -> None:
        self._now = 0.0
        self._consumer = consumer
        self._gateway = gateway
        services = Services(
            limits=MemoryLimits(lambda: self._now),
            clock=lambda: self._now,
            price=lambda provider, model: price_of(prices, provider, model),
        )
        ordered = sorted(policies, key=lambda policy: (policy.priority, policy.slug.encode(), policy.id))
        self._runners = [
            (policy, runner) for policy in ordered if (runner := self._compiled(policy, services)) is not None
        ]

    def _compiled(self, policy: Policy, services: Services) -> Any:
        plugin = registry.PLUGINS[policy.slug]
        is_global = self._consumer.policy_scopes.get(policy.id) == "global"
        binding = Binding(
            policy_id=policy.id,
            mode=policy.mode,
            dimension="global" if is_global else "consumer",
            subject=self._gateway.id if is_global else self._consumer.id,
            gateway_id=self._gateway.id,
            consumer_id=self._consumer.id,
            stages=effective_stages(plugin, policy.stages),
            plane="LLM",
            services=services,
        )
        try:
            return plugin.build(registry.decode_settings(plugin, policy.settings), binding)
        except (SettingsError, PolicyError):
            return None

    def run(self, record: Decided, registry_id: str, provider: str) -> tuple[int, str, str] | None:
        """Status, code and message of a denial, or None. Charges what the request used."""
        self._now = record.at_ms / 1000
        request = self._request(record, registry_id, provider)
        run = Run()
        for policy, runner in self._runners:
            effect: Effect | None = straight(
                runner.pre_request(request, run, Mark(name=policy.slug, stage="pre_request"))
            )
            if effect is None:
                continue
            if effect.outcome is not None:
                self._release(run)
                code = "plugin_rejected" if effect.outcome.kind == "reject" else "answered_by_policy"
                return (
                    effect.outcome.status,
                    code,
                    f"{policy.slug} {policy.name}: {effect.outcome.message}".rstrip(": "),
                )
            if effect.body is not None:
                request.body = effect.body
        usage = record.usage
        response = PolicyResponse(
            status=record.status,
            usage=TokenUsage(usage.input, usage.output, usage.total) if usage is not None else None,
            model=record.provider_model,
        )
        for policy, runner in self._runners:
            if usage is not None and hasattr(runner, "post_response"):
                mark = Mark(name=policy.slug, stage="post_response")
                straight(runner.post_response(request, response, run, mark))
        self._release(run)
        return None

    def _release(self, run: Run) -> None:
        for hold in run.holds:
            straight(hold.release())
        run.holds.clear()

    def _request(self, record: Decided, registry_id: str, provider: str) -> PolicyRequest:
        body = body_of(record)
        return PolicyRequest(
            body=body,
            method="POST",
            path="/",
            query="",
            headers=[(b"content-length", b"%d" % len(body))],
            gateway_id=record.gateway_id,
            consumer_id=record.consumer_id,
            consumer_type="LLM",
            tenant_id=self._gateway.tenant_id,
            session_id="",
            source_format=record.format,
            requested_model=record.reference,
            registry_id=registry_id,
            provider=provider,
            client_ip="",
            trace_id=record.trace_id,
        )


def price_of(prices: PriceBook, provider: str, model: str) -> Price | None:
    found = prices.exact(provider, model)
    return None if found is None else Price(input=found.input, output=found.output)


def body_of(record: Decided) -> bytes:
    """A body of the recorded size, with the model as policies see it: what the reference comes to."""
    try:
        intent = intent_of(record.reference)
    except Refusal:
        intent = NONE
    start = b'{"model":' + msgspec.json.encode(intent.model) + b',"x":"' if intent.pinned else b'{"x":"'
    return start + b"x" * max(0, record.body_bytes - len(start) - 2) + b'"}'


def straight(call: Awaitable[Any]) -> Any:
    """The result of an awaitable that never waits: in-process counters do not."""
    try:
        call.__await__().send(None)  # type: ignore[union-attr]
    except StopIteration as done:
        return done.value
    raise PolicyError("a rehearsed policy must not wait")
