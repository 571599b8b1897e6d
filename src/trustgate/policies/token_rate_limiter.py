"""Policy `token_rate_limiter`, shown as "LLM Budget": spending in tokens or USD, and price ceilings (spec 04 §14.2).

Keys: `trl:<policy>:<dimension>:<subject>[:hdr:<value>][:model:<pattern>]`. By default a request is admitted while its
counters are below their ceilings and charged afterwards, so concurrent requests may overshoot. With `reserve` the
worst case is put on hold first, settled by the answer, and given back when there is none.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from trustgate.limits import Charge, Limits, Peek, Peeked, Reserve, Reserved, Settle, Window
from trustgate.policies.bodies import body_model, output_bound, with_model
from trustgate.policies.durations import parse_window, quote
from trustgate.policies.globs import best_model_match
from trustgate.policies.model import (
    Effect,
    Headers,
    Mark,
    PolicyRequest,
    PolicyResponse,
    Reservation,
    Run,
    TokenUsage,
    header_text,
    reject,
)
from trustgate.policies.plugin import REQUEST_BODY, Binding, Plugin, PolicyError, Price
from trustgate.policies.pricing import candidates, find_price, micro_usd, plain
from trustgate.policies.token_rate_limiter_settings import (
    Aggregate,
    Ceilings,
    CostCap,
    Rule,
    Settings,
    check,
    legacy_unit_s,
)
from trustgate.policies.usage import usage_of

HOLD_MS = 15 * 60 * 1000
"""How long a reservation outlives a crash: longer than any upstream call is allowed to take."""

MOST_USD, MOST_TOKENS = 9e12, 9e18
"""Ceilings above these mean these: a counter has 64 bits."""

UNPRICED = Price(0.0, 0.0)


class Budget(msgspec.Struct, frozen=True):
    """One window of a policy: key suffix, ceiling in tokens or micro-USD, length and the text shown to clients."""

    suffix: str
    ceiling: int
    window_s: int
    text: str
    aggregate: bool


class Level(msgspec.Struct, frozen=True):
    """What the counters said of the budget that is reported."""

    budget: Budget
    key: str
    consumed: int
    reset_s: int
    exceeded: bool

    @property
    def remaining(self) -> int:
        return max(0, self.budget.ceiling - self.consumed)


class Held(msgspec.Struct):
    """A reservation on the windows of one request."""

    limits: Limits
    windows: tuple[Window, ...]
    token: str
    shown: Reservation

    async def release(self) -> None:
        self.shown.charged = 0
        await self.limits.run((Settle(self.windows, self.token, 0),))


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
        self._custom = {model: Price(price.input, price.output) for model, price in settings.custom_pricing.items()}
        self._rules = {rule.model: self._budget(rule, f":model:{rule.model}") for rule in reversed(settings.rules)}
        self._aggregate = self._overall()
        cap = settings.cost_cap
        self._cap = cap if cap is not None and cap.enabled else None
        self._matches: dict[str, tuple[Budget, ...]] = {}
        self.waits = self._limits.waits

    def _budget(self, budget: Rule | Aggregate, suffix: str) -> Budget:
        ceiling = max(1, micro_usd(min(budget.max, MOST_USD))) if self._dollars else int(min(budget.max, MOST_TOKENS))
        if budget.time_window.strip():
            window_s, text = parse_window(budget.time_window), budget.time_window
        else:
            window_s, text = legacy_unit_s(self._settings), self._legacy_unit()
        return Budget(suffix, ceiling, window_s, text, aggregate=not suffix)

    def _legacy_unit(self) -> str:
        return self._settings.window.unit if self._settings.window is not None else ""

    def _overall(self) -> Budget | None:
        settings = self._settings
        if settings.aggregate is not None:
            return self._budget(settings.aggregate, "")
        seconds = legacy_unit_s(settings)
        if seconds and settings.window is not None:
            return Budget("", settings.window.max, seconds, settings.window.unit, aggregate=True)
        return None

    def _budgets(self, model: str) -> tuple[Budget, ...]:
        """The budgets that a model draws on: its best rule's, then the overall one."""
        found = self._matches.get(model)
        if found is None:
            pattern = best_model_match(self._rules, model) if self._rules else None
            rule = (self._rules[pattern],) if pattern is not None else ()
            found = rule + ((self._aggregate,) if self._aggregate is not None else ())
            if len(self._matches) > 256:
                self._matches.clear()
            self._matches[model] = found
        return found

    def _group(self, request: PolicyRequest) -> str:
        value = request.header(self._header) if self._header else ""
        return f"{self._base}:hdr:{value}" if value else self._base

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        if not request.provider:
            return None
        self._binding.owner()
        named = body_model(request.body) or ""
        model = named or request.requested_model
        extras: dict[str, Any] = {"stage": "pre_request", "counter_key": "", "provider": request.provider}
        extras["model"] = model
        mark.extras = extras
        headers: Headers = []
        body: bytes | None = None
        if self._cap is not None:
            target, refusal = self._check_price(self._cap, request, model, mark, extras)
            if refusal is not None:
                return refusal
            if target:
                body = with_model(request.body, target)
                headers.append(_downgraded(model, target))
                model = target
        budgets = self._budgets(model)
        if not budgets:
            return Effect(headers=headers, body=body) if headers else None
        level = await self._level(request, budgets, run, model)
        self._report(level, extras, mark)
        headers += self._level_headers(level)
        if level.exceeded and self._binding.blocking:
            target = self._target(self._settings.downgrade_to, request)
            if self._settings.behavior_on_exceeded != "downgrade_model" or not target:
                return self._refusal(level)
            body = with_model(body or request.body, target)
            headers.append(_downgraded(model, target))
        return Effect(headers=headers, body=body)

    def _check_price(
        self, cap: CostCap, request: PolicyRequest, model: str, mark: Mark, extras: dict[str, Any]
    ) -> tuple[str, Effect | None]:
        """The model to continue with (empty: as it is), or a refusal."""
        models = [model, request.requested_model]
        price = find_price(request.provider, models, self._custom, self._binding.services.price)
        ceilings = _ceilings(cap, models)
        per_1k = Price(price.input * 1000, price.output * 1000) if price is not None else UNPRICED
        if price is None:
            violated = cap.unknown_model != "pass_through"
            extras["unknown_model"] = True
        else:
            violated = 0 < ceilings.input < per_1k.input or 0 < ceilings.output < per_1k.output
        if not violated:
            return "", None
        extras |= {
            "cost_cap_violation": True,
            "input_price_per_1k": per_1k.input,
            "output_price_per_1k": per_1k.output,
            "max_input_per_1k": ceilings.input,
            "max_output_per_1k": ceilings.output,
        }
        mark.decision = self._binding.label
        if not self._binding.blocking:
            return "", None
        if cap.behavior_on_violation == "downgrade" and (target := self._target(cap.downgrade_to, request)):
            return target, None
        error = {
            "input_price": plain(per_1k.input),
            "max_input": plain(ceilings.input),
            "max_output": plain(ceilings.output),
            "model": model,
            "output_price": plain(per_1k.output),
            "type": "model_too_expensive",
        }
        message = f"model {quote(model)} exceeds cost cap"
        return "", reject(403, message, type="model_too_expensive", body={"error": error})

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
        keys = tuple(group + budget.suffix for budget in budgets)
        amount = self._worst_case(request, model) if self._settings.reserve and self._binding.blocking else 0
        refused_by = -1
        if amount:
            windows = _windows(keys, budgets)
            token = uuid.uuid4().hex
            (reply,) = await self._limits.run((Reserve(windows, token, amount, HOLD_MS),))
            if isinstance(reply, Reserved):
                refused_by = reply.refused_by
                if refused_by < 0:
                    unit = "micro_usd" if self._dollars else "tokens"
                    shown = Reservation(policy_id=self._binding.policy_id, unit=unit, reserved=amount)
                    run.reservations.append(shown)
                    held = Held(self._limits, windows, token, shown)
                    run.holds.append(held)
                    run.notes[self._binding.policy_id] = held
        else:
            (reply,) = await self._limits.run((Peek(keys),))
        if not isinstance(reply, Peeked | Reserved):
            raise PolicyError("unexpected reply of the counters")
        consumed = [value + held for value, held in zip(reply.values, reply.held, strict=True)]
        over = [index for index, budget in enumerate(budgets) if consumed[index] >= budget.ceiling]
        if refused_by >= 0:
            over = over or [refused_by]
        shown = over[0] if over else next((i for i, budget in enumerate(budgets) if budget.aggregate), 0)
        reset_s = (reply.ttls_ms[shown] + 500) // 1000 or budgets[shown].window_s
        return Level(budgets[shown], keys[shown], consumed[shown], reset_s, bool(over))

    def _worst_case(self, request: PolicyRequest, model: str) -> int:
        """An upper bound of what the request can be charged: a token has at least one byte."""
        answers, output = output_bound(request.body, self._settings.reserve_output_tokens)
        usage = TokenUsage(len(request.body), answers * output)
        if not self._dollars:
            return self._tokens(usage)
        models = [model, request.requested_model]
        price = find_price(request.provider, models, self._custom, self._binding.services.price)
        return 0 if price is None else micro_usd(usage.input * price.input + usage.output * price.output)

    def _tokens(self, usage: TokenUsage) -> int:
        cached = usage.cache_read if self._settings.count_cache_reads else 0
        if self._settings.counting == "input":
            return usage.input + cached
        if self._settings.counting == "output":
            return usage.output
        return (usage.total or usage.input + usage.output) + cached

    def _report(self, level: Level, extras: dict[str, Any], mark: Mark) -> None:
        extras["counter_key"] = level.key
        extras |= {
            "window_unit": self._legacy_unit(),
            "window_max": level.budget.ceiling,
            "tokens_consumed": level.consumed,
            "tokens_remaining": level.remaining,
            "limit_exceeded": level.exceeded,
        }
        if self._dollars:
            extras |= {"unit": "dollars", "consumed_micro_usd": level.consumed}
        if level.exceeded:
            mark.decision = self._binding.label

    def _level_headers(self, level: Level) -> Headers:
        if not self._dollars:
            return [
                ("X-Ratelimit-Limit-Tokens", str(level.budget.ceiling)),
                ("X-Ratelimit-Remaining-Tokens", str(level.remaining)),
                ("X-Ratelimit-Reset-Tokens", f"{level.reset_s}s"),
            ]
        return [
            *self._budget_headers(level),
            ("X-Budget-Limit-Usd", _usd(level.budget.ceiling)),
            ("X-Budget-Remaining-Usd", _usd(level.remaining)),
            ("X-Budget-Reset", f"{level.reset_s}s"),
        ]

    def _budget_headers(self, level: Level) -> Headers:
        return [
            ("X-Budget-Unit", "dollars" if self._dollars else "tokens"),
            ("X-Budget-Scope", self._binding.dimension),
            ("X-Budget-Window", header_text(level.budget.text)),
        ]

    def _refusal(self, level: Level) -> Effect:
        type_ = "dollar_budget_exceeded" if self._dollars else "token_budget_exceeded"
        headers = self._level_headers(level)
        if not self._dollars:
            headers += self._budget_headers(level)
        error = {"scope": self._binding.dimension, "type": type_, "window": level.budget.text}
        return reject(429, type_, type=type_, body={"error": error}, headers=headers)

    async def post_response(self, request: PolicyRequest, response: PolicyResponse, run: Run, mark: Mark) -> None:
        held = run.notes.pop(self._binding.policy_id, None)
        usage = usage_of(response)
        named = body_model(request.body) or ""
        model = named or request.requested_model
        budgets = self._budgets(model)
        if not request.provider or not budgets:
            return
        extras: dict[str, Any] = {"stage": "post_response", "provider": request.provider, "model": model}
        amount = self._amount(request, response, usage, named, extras) if usage is not None else 0
        group = self._group(request)
        windows = _windows(tuple(group + budget.suffix for budget in budgets), budgets)
        if held in run.holds:
            run.holds.remove(held)
        if amount <= 0:
            if held is not None:
                await held.release()
            if extras.get("unpriced"):
                mark.extras = extras
            return
        extras["counter_key"] = windows[-1].key
        extras["tokens_actual"] = self._tokens(usage) if usage is not None else 0
        if self._dollars:
            extras |= {"unit": "dollars", "cost_micro_usd": amount}
        mark.extras = extras
        if held is not None:
            held.shown.charged = amount
        await self._limits.run(_charge(windows, amount, held))

    def _amount(
        self,
        request: PolicyRequest,
        response: PolicyResponse,
        usage: TokenUsage,
        named: str,
        extras: dict[str, Any],
    ) -> int:
        """What to charge: tokens, or micro-USD at the price of the rewritten, served or requested model."""
        if not self._dollars:
            return self._tokens(usage)
        models = [named, response.model, request.requested_model]
        price = find_price(request.provider, models, self._custom, self._binding.services.price)
        if price is None:
            extras["unpriced"] = True
            return 0
        cached = usage.cache_read if self._settings.count_cache_reads else 0
        return micro_usd((usage.input + cached) * price.input + usage.output * price.output)


def _windows(keys: Sequence[str], budgets: Sequence[Budget]) -> tuple[Window, ...]:
    return tuple(Window(key, budget.window_s * 1000, budget.ceiling) for key, budget in zip(keys, budgets, strict=True))


def _charge(windows: tuple[Window, ...], amount: int, held: Held | None) -> list[Settle | Charge]:
    """Settle a hold on the same windows; else give it back and charge those that a rewritten model draws on."""
    if held is not None and held.windows == windows:
        return [Settle(windows, held.token, amount)]
    unbounded = tuple(Window(window.key, window.ttl_ms) for window in windows)
    charge = Charge(unbounded, amount)
    return [charge] if held is None else [Settle(held.windows, held.token, 0), charge]


class _Ceiling(msgspec.Struct, frozen=True):
    input: float
    output: float


def _ceilings(cap: CostCap, models: list[str]) -> _Ceiling:
    """The best override over the candidates, else the general ceilings (USD per 1000 tokens)."""
    found: Ceilings | CostCap = cap
    for name in candidates(models):
        pattern = best_model_match(cap.per_model_overrides, name)
        if pattern is not None:
            found = cap.per_model_overrides[pattern]
            break
    return _Ceiling(found.max_input_cost_per_1k_tokens, found.max_output_cost_per_1k_tokens)


def _downgraded(old: str, new: str) -> tuple[str, str]:
    return "X-NeuralTrust-Model-Downgraded", header_text(f"{old}→{new}")


def _usd(micro: int) -> str:
    return f"{micro / 1_000_000:.6f}"


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
