"""The budgets of `token_rate_limiter`: which windows a model draws on, what clients are told of one (spec 04 §14.2).

Pure: what the counters hold is read and charged by the policy.
"""

from __future__ import annotations

import msgspec

from trustgate.limits import Window
from trustgate.policies.durations import parse_window
from trustgate.policies.globs import best_model_match
from trustgate.policies.model import Effect, Headers, header_text, reject
from trustgate.policies.pricing import micro_usd
from trustgate.policies.token_rate_limiter_settings import Aggregate, Rule, Settings, legacy_unit_s

MOST_USD, MOST_TOKENS = 9e12, 9e18
"""Ceilings above these mean these: a counter has 64 bits."""

MOST_REMEMBERED = 256
"""Models whose budgets are kept at hand; clients choose the names."""


class Budget(msgspec.Struct, frozen=True):
    """One window of a policy: key suffix, ceiling in tokens or micro-USD, length and the text shown to clients."""

    suffix: str
    ceiling: int
    window_s: int
    text: str
    aggregate: bool

    def window(self, group: str) -> Window:
        return Window(group + self.suffix, self.window_s * 1000, self.ceiling)


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


class Budgets:
    """All budgets of one policy."""

    def __init__(self, settings: Settings, dimension: str) -> None:
        self._settings = settings
        self._dimension = dimension
        self._dollars = settings.unit == "dollars"
        self.legacy_unit = settings.window.unit if settings.window is not None else ""
        # Of two rules with one pattern the first is meant.
        self._rules = {rule.model: self._budget(rule, f":model:{rule.model}") for rule in reversed(settings.rules)}
        self._aggregate = self._overall()
        self._matches: dict[str, tuple[Budget, ...]] = {}

    def _budget(self, budget: Rule | Aggregate, suffix: str) -> Budget:
        ceiling = max(1, micro_usd(min(budget.max, MOST_USD))) if self._dollars else int(min(budget.max, MOST_TOKENS))
        if budget.time_window.strip():
            window_s, text = parse_window(budget.time_window), budget.time_window
        else:
            window_s, text = legacy_unit_s(self._settings), self.legacy_unit
        return Budget(suffix, ceiling, window_s, text, aggregate=not suffix)

    def _overall(self) -> Budget | None:
        settings = self._settings
        if settings.aggregate is not None:
            return self._budget(settings.aggregate, "")
        seconds = legacy_unit_s(settings)
        if seconds and settings.window is not None:
            return Budget("", settings.window.max, seconds, settings.window.unit, aggregate=True)
        return None

    def of(self, model: str) -> tuple[Budget, ...]:
        """The budgets that a model draws on: its best rule's, then the overall one."""
        found = self._matches.get(model)
        if found is None:
            pattern = best_model_match(self._rules, model) if self._rules else None
            rule = (self._rules[pattern],) if pattern is not None else ()
            found = rule + ((self._aggregate,) if self._aggregate is not None else ())
            if len(self._matches) > MOST_REMEMBERED:
                self._matches.clear()
            self._matches[model] = found
        return found

    def headers(self, level: Level) -> Headers:
        """What every answer tells of the budget."""
        if not self._dollars:
            return [
                ("X-Ratelimit-Limit-Tokens", str(level.budget.ceiling)),
                ("X-Ratelimit-Remaining-Tokens", str(level.remaining)),
                ("X-Ratelimit-Reset-Tokens", f"{level.reset_s}s"),
            ]
        return [
            *self._place(level),
            ("X-Budget-Limit-Usd", _usd(level.budget.ceiling)),
            ("X-Budget-Remaining-Usd", _usd(level.remaining)),
            ("X-Budget-Reset", f"{level.reset_s}s"),
        ]

    def _place(self, level: Level) -> Headers:
        return [
            ("X-Budget-Unit", "dollars" if self._dollars else "tokens"),
            ("X-Budget-Scope", self._dimension),
            ("X-Budget-Window", header_text(level.budget.text)),
        ]

    def refusal(self, level: Level) -> Effect:
        type_ = "dollar_budget_exceeded" if self._dollars else "token_budget_exceeded"
        headers = self.headers(level)
        if not self._dollars:
            headers += self._place(level)
        error = {"scope": self._dimension, "type": type_, "window": level.budget.text}
        return reject(429, type_, type=type_, body={"error": error}, headers=headers)


def _usd(micro: int) -> str:
    return f"{micro / 1_000_000:.6f}"
