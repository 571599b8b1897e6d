"""Policy `token_rate_limiter`, shown as "LLM Budget": spending in tokens or USD, and price ceilings (spec 04 §14.2).

Keys: `trl:<policy>:<dimension>:<subject>[:hdr:<value>][:model:<pattern>]`. By default a request is admitted while its
counters are below their ceilings and charged afterwards, so concurrent requests may overshoot. With `reserve` the
worst case is put on hold first, settled by the answer, and given back when there is none.
"""

from __future__ import annotations

import uuid

import msgspec

from trustgate.limits import Charge, Charged, Limits, Peek, Peeked, Reply, Reserve, Reserved, Settle, Window
from trustgate.policies import cost_cap
from trustgate.policies.bodies import body_model, output_bound, with_model
from trustgate.policies.model import (
    Effect,
    Extras,
    Headers,
    Mark,
    PolicyRequest,
    PolicyResponse,
    Reservation,
    Run,
    TokenUsage,
    header_text,
)
from trustgate.policies.plugin import REQUEST_BODY, Binding, Plugin, PolicyError, Price
from trustgate.policies.pricing import find_price, micro_usd, plain
from trustgate.policies.token_budgets import Budget, Budgets, Level
from trustgate.policies.token_rate_limiter_settings import Settings, check
from trustgate.policies.usage import usage_of
from trustgate.wire.secret_headers import is_secret_header

HOLD_MS = 15 * 60 * 1000
"""How long a reservation outlives a crash: longer than any upstream call is allowed to take."""


class Held(msgspec.Struct):
    """A reservation on the windows of one request."""

    limits: Limits
    windows: tuple[Window, ...]
    token: str
    shown: Reservation

    async def release(self) -> None:
        self.shown.charged = 0
        await self.limits.run((Settle(self.windows, self.token, 0),))


class BudgetExtras(Extras, kw_only=True):
    stage: str
    counter_key: str
    provider: str = ""
    model: str = ""
    window_unit: str
    window_max: int
    tokens_consumed: int
    tokens_actual: int = 0
    tokens_remaining: int
    limit_exceeded: bool
    unit: str = ""
    cost_micro_usd: int = 0
    consumed_micro_usd: int = 0
    unpriced: bool = False
    cost_cap_violation: bool = False
    unknown_model: bool = False
    input_price_per_1k: float = 0
    output_price_per_1k: float = 0
    max_input_per_1k: float = 0
    max_output_per_1k: float = 0


class TokenBudget:
    """One policy's budgets and price ceilings."""

    def __init__(self, settings: Settings, binding: Binding) -> None:
        check(settings)
        self._binding = binding
        self._limits = binding.services.limits
        self._settings = settings
        self._dollars = settings.unit == "dollars"
        self._base = f"trl:{binding.policy_id}:{binding.dimension}:{binding.subject}"
        self._header = settings.group_by_header.lower().encode()
        self._veiled = is_secret_header(settings.group_by_header.lower())
        self._custom = {model: Price(price.input, price.output) for model, price in settings.custom_pricing.items()}
        self._budgets = Budgets(settings, binding.dimension)
        cap = settings.cost_cap
        self._cap = cap if cap is not None and cap.enabled else None
        self.waits = self._limits.waits

    def _group(self, request: PolicyRequest) -> str:
        value = request.header(self._header) if self._header else ""
        return f"{self._base}:hdr:{value}" if value else self._base

    def _shown(self, key: str, budget: Budget) -> str:
        """A key as records may show it: without the value of a header that holds credentials."""
        grouped = f"{self._base}:hdr:"
        return f"{grouped}[REDACTED]{budget.suffix}" if self._veiled and key.startswith(grouped) else key

    def _price(self, request: PolicyRequest, *models: str) -> Price | None:
        return find_price(request.provider, models, self._custom, self._binding.services.price)

    def _extras(self, mark: Mark, request: PolicyRequest, model: str) -> BudgetExtras:
        return BudgetExtras(
            stage=mark.stage,
            counter_key="",
            provider=request.provider,
            model=model,
            window_unit=self._budgets.legacy_unit,
            window_max=0,
            tokens_consumed=0,
            tokens_remaining=0,
            limit_exceeded=False,
        )

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        if not request.provider:
            return None
        self._binding.owner()
        model = body_model(request.body) or request.requested_model
        extras = self._extras(mark, request, model)
        effect = await self._admit(request, model, run, mark, extras)
        mark.tell(extras)
        return effect

    async def _admit(
        self, request: PolicyRequest, model: str, run: Run, mark: Mark, extras: BudgetExtras
    ) -> Effect | None:
        headers: Headers = []
        body: bytes | None = None
        if self._cap is not None:
            models = (model, request.requested_model)
            found = cost_cap.priced(self._cap, self._price(request, *models), models)
            self._report_price(found, extras, mark)
            if found.violation and self._binding.blocking:
                target = self._target(self._cap.downgrade_to, request)
                if self._cap.behavior_on_violation != "downgrade" or not target:
                    return cost_cap.refusal(found, model)
                body = with_model(request.body, target)
                headers.append(_downgraded(model, target))
                model = target
        budgets = self._budgets.of(model)
        if not budgets:
            return Effect(headers=headers, body=body) if headers else None
        level = await self._level(request, budgets, run, model)
        self._report(level, extras, mark)
        headers += self._budgets.headers(level)
        if level.exceeded and self._binding.blocking:
            target = self._target(self._settings.downgrade_to, request)
            if self._settings.behavior_on_exceeded != "downgrade_model" or not target:
                return self._budgets.refusal(level)
            body = with_model(body or request.body, target)
            headers.append(_downgraded(model, target))
        return Effect(headers=headers, body=body)

    def _target(self, reference: str, request: PolicyRequest) -> str:
        """The model a reference stands for with this request's provider; empty when it cannot be used."""
        reference = reference.strip()
        if not reference or reference == "auto" or reference.startswith("pool:"):
            return ""
        if not reference.startswith("@"):
            return reference
        provider, _, model = reference[1:].partition("/")
        return model if provider.lower() == request.provider.lower() else ""

    async def _level(self, request: PolicyRequest, budgets: tuple[Budget, ...], run: Run, model: str) -> Level:
        group = self._group(request)
        windows = tuple(budget.window(group) for budget in budgets)
        amount = self._worst_case(request, model) if self._settings.reserve and self._binding.blocking else 0
        refused_by = -1
        if amount:
            token = uuid.uuid4().hex
            (reply,) = await self._limits.run((Reserve(windows, token, amount, HOLD_MS),))
            if isinstance(reply, Reserved):
                refused_by = reply.refused_by
                if refused_by < 0:
                    self._keep(run, windows, token, amount)
        else:
            (reply,) = await self._limits.run((Peek(tuple(window.key for window in windows)),))
        if not isinstance(reply, Peeked | Reserved):
            raise PolicyError("unexpected reply of the counters")
        consumed = [value + held for value, held in zip(reply.values, reply.held, strict=True)]
        over = [index for index, budget in enumerate(budgets) if consumed[index] >= budget.ceiling]
        if refused_by >= 0:
            over = over or [refused_by]
        shown = over[0] if over else next((i for i, budget in enumerate(budgets) if budget.aggregate), 0)
        reset_s = (reply.ttls_ms[shown] + 500) // 1000 or budgets[shown].window_s
        return Level(budgets[shown], windows[shown].key, consumed[shown], reset_s, bool(over))

    def _keep(self, run: Run, windows: tuple[Window, ...], token: str, amount: int) -> None:
        unit = "micro_usd" if self._dollars else "tokens"
        shown = Reservation(policy_id=self._binding.policy_id, unit=unit, reserved=amount)
        run.reservations.append(shown)
        held = Held(self._limits, windows, token, shown)
        run.holds.append(held)
        run.notes[self._binding.policy_id] = held

    def _worst_case(self, request: PolicyRequest, model: str) -> int:
        """An upper bound of what the request can be charged: a token has at least one byte."""
        answers, output = output_bound(request.body, self._settings.reserve_output_tokens)
        usage = TokenUsage(len(request.body), answers * output)
        if not self._dollars:
            return self._tokens(usage)
        price = self._price(request, model, request.requested_model)
        return 0 if price is None else micro_usd(usage.input * price.input + usage.output * price.output)

    def _tokens(self, usage: TokenUsage) -> int:
        cached = usage.cache_read if self._settings.count_cache_reads else 0
        if self._settings.counting == "input":
            return usage.input + cached
        if self._settings.counting == "output":
            return usage.output
        return (usage.total or usage.input + usage.output) + cached

    def _report_price(self, found: cost_cap.Priced, extras: BudgetExtras, mark: Mark) -> None:
        extras.unknown_model = found.unknown
        if not found.violation:
            return
        extras.cost_cap_violation = True
        extras.input_price_per_1k, extras.output_price_per_1k = plain(found.price.input), plain(found.price.output)
        extras.max_input_per_1k, extras.max_output_per_1k = plain(found.ceiling.input), plain(found.ceiling.output)
        mark.decision = self._binding.label

    def _report(self, level: Level, extras: BudgetExtras, mark: Mark) -> None:
        extras.counter_key = self._shown(level.key, level.budget)
        extras.window_max = level.budget.ceiling
        extras.tokens_consumed, extras.tokens_remaining = level.consumed, level.remaining
        extras.limit_exceeded = level.exceeded
        if self._dollars:
            extras.unit, extras.consumed_micro_usd = "dollars", level.consumed
        if level.exceeded:
            mark.decision = self._binding.label

    async def post_response(self, request: PolicyRequest, response: PolicyResponse, run: Run, mark: Mark) -> None:
        held = run.notes.pop(self._binding.policy_id, None)
        usage = usage_of(response)
        named = body_model(request.body) or ""
        model = named or request.requested_model
        budgets = self._budgets.of(model)
        if not request.provider or not budgets:
            return
        extras = self._extras(mark, request, model)
        amount = self._amount(request, response, usage, named, extras) if usage is not None else 0
        group = self._group(request)
        windows = tuple(budget.window(group) for budget in budgets)
        if held in run.holds:
            run.holds.remove(held)
        if amount <= 0:
            if held is not None:
                await held.release()
            if extras.unpriced:
                mark.tell(extras)
            return
        if held is not None:
            held.shown.charged = amount
        replies = await self._limits.run(_charge(windows, amount, held))
        self._report_charge(budgets[-1], windows[-1].key, replies[-1], extras)
        extras.tokens_actual = self._tokens(usage) if usage is not None else 0
        if self._dollars:
            extras.cost_micro_usd = amount
        mark.tell(extras)

    def _report_charge(self, budget: Budget, key: str, reply: Reply, extras: BudgetExtras) -> None:
        """What the last of the charged windows, the overall one if there is one, then holds."""
        consumed = reply.values[-1] if isinstance(reply, Charged) and reply.values else 0
        extras.counter_key = self._shown(key, budget)
        extras.window_max = budget.ceiling
        extras.tokens_consumed, extras.tokens_remaining = consumed, max(0, budget.ceiling - consumed)
        if self._dollars:
            extras.unit, extras.consumed_micro_usd = "dollars", consumed

    def _amount(
        self, request: PolicyRequest, response: PolicyResponse, usage: TokenUsage, named: str, extras: BudgetExtras
    ) -> int:
        """What to charge: tokens, or micro-USD at the price of the rewritten, served or requested model."""
        if not self._dollars:
            return self._tokens(usage)
        price = self._price(request, named, response.model, request.requested_model)
        if price is None:
            extras.unit, extras.unpriced = "dollars", True
            return 0
        cached = usage.cache_read if self._settings.count_cache_reads else 0
        return micro_usd((usage.input + cached) * price.input + usage.output * price.output)


def _charge(windows: tuple[Window, ...], amount: int, held: Held | None) -> list[Settle | Charge]:
    """Settle a hold on the same windows; else give it back and charge those that a rewritten model draws on."""
    if held is not None and held.windows == windows:
        return [Settle(windows, held.token, amount)]
    unbounded = tuple(Window(window.key, window.ttl_ms) for window in windows)
    charge = Charge(unbounded, amount)
    return [charge] if held is None else [Settle(held.windows, held.token, 0), charge]


def _downgraded(old: str, new: str) -> tuple[str, str]:
    return "X-NeuralTrust-Model-Downgraded", header_text(f"{old}→{new}")


PLUGIN = Plugin(
    slug="token_rate_limiter",
    name="LLM Budget",
    description="Spending budgets in tokens or USD, one total and/or one per model pattern.",
    group="Quota",
    mandatory=("pre_request", "post_response"),
    supported=("pre_request", "post_response"),
    capabilities=frozenset((REQUEST_BODY,)),
    charges=True,
    settings=Settings,
    check=check,
    build=TokenBudget,
)
