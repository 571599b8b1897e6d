"""Settings of `token_rate_limiter`, shown as "LLM Budget" (spec 04 §14.2)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from trustgate.policies.durations import parse_window, quote
from trustgate.policies.plugin import Environment
from trustgate.policies.settings import SettingsError, options, setting

LEGACY_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_MAX = setting("Max", "Ceiling in the chosen unit.", required=True)
_TIME_WINDOW = setting("Time Window", "e.g. 30m, 1h, 1d; one minute at least.")


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    model: Annotated[str, setting("Model", "Model name or pattern with *.", required=True)] = ""
    max: Annotated[float, _MAX] = 0.0
    time_window: Annotated[str, _TIME_WINDOW] = ""


class Aggregate(msgspec.Struct, frozen=True, kw_only=True):
    max: Annotated[float, _MAX] = 0.0
    time_window: Annotated[str, _TIME_WINDOW] = ""


class Pricing(msgspec.Struct, frozen=True, kw_only=True):
    input: Annotated[float, setting("Input", "USD per input token.")] = 0.0
    output: Annotated[float, setting("Output", "USD per output token.")] = 0.0


class LegacyWindow(msgspec.Struct, frozen=True, kw_only=True):
    unit: str = ""
    max: int = 0


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    max_input_cost_per_1k_tokens: float = 0.0
    max_output_cost_per_1k_tokens: float = 0.0


class CostCap(msgspec.Struct, frozen=True, kw_only=True):
    enabled: bool = False
    max_input_cost_per_1k_tokens: float = 0.0
    max_output_cost_per_1k_tokens: float = 0.0
    per_model_overrides: dict[str, Ceilings] = {}
    behavior_on_violation: str = ""
    downgrade_to: str = ""
    unknown_model: str = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    unit: Annotated[
        str, setting("Unit", "What the budget counts.", shown="tokens", options=options("tokens", "dollars"))
    ] = ""
    counting: Annotated[
        str,
        setting(
            "Counting",
            "Which side of usage is counted (token budgets).",
            shown="total",
            options=options("total", "input", "output"),
        ),
    ] = ""
    rules: Annotated[
        tuple[Rule, ...], setting("Rules", "Budgets per model pattern.", item=setting("Rule", key="rule"))
    ] = ()
    aggregate: Annotated[Aggregate | None, setting("Aggregate", "One budget over all models.")] = None
    behavior_on_exceeded: Annotated[
        str,
        setting(
            "Behavior On Exceeded",
            "Refuse, or switch to another model.",
            shown="reject",
            options=options("reject", "downgrade_model"),
        ),
    ] = ""
    downgrade_to: Annotated[str, setting("Downgrade To", "Replacement model, same provider.")] = ""
    count_cache_reads: Annotated[
        bool, setting("Count Cache Reads", "Also count cached prompt tokens.", shown=False)
    ] = False
    custom_pricing: Annotated[
        dict[str, Pricing],
        setting(
            "Custom Pricing",
            "USD per token by model name or pattern, looked up before the catalog.",
            value=setting("Price", key="price"),
        ),
    ] = {}
    group_by_header: Annotated[str, setting("Group By Header", "Header whose value gets its own counter.")] = ""
    window: LegacyWindow | None = None
    per_model: bool = False
    cost_cap: CostCap | None = None
    reserve: bool = False
    """Addition: put the worst case of a request on hold before the call, so that concurrent ones cannot overshoot."""
    reserve_output_tokens: int = 4096
    """Addition: output tokens to put on hold for a request that names no bound of its own."""


def check(settings: Settings, environment: Environment | None = None) -> None:
    problem = _problem(settings)
    if problem:
        raise SettingsError(f"token_rate_limiter: {problem}")


def legacy_unit_s(settings: Settings) -> int:
    """Seconds of the active legacy window, 0 when there is none."""
    window = settings.window
    return LEGACY_UNITS.get(window.unit.strip().lower(), 0) if window is not None and window.max > 0 else 0


def _problem(settings: Settings) -> str | None:
    dollars = settings.unit == "dollars"
    legacy = settings.window is not None and settings.window.max > 0
    if settings.unit not in ("", "tokens", "dollars"):
        return "unit must be one of tokens, dollars"
    if settings.counting not in ("", "total", "input", "output"):
        return "counting must be one of total, input, output"
    if legacy and not legacy_unit_s(settings):
        return "window.unit must be one of second, minute, hour, day"
    if legacy and dollars:
        return (
            "dollar budgets cannot use the legacy window block;"
            " configure aggregate or rules with explicit dollar maxima"
        )
    if settings.per_model and not settings.rules and not legacy:
        return "per_model requires rules or a legacy window"
    cap_on = settings.cost_cap is not None and settings.cost_cap.enabled
    if not legacy and not settings.rules and settings.aggregate is None and not cap_on:
        return "at least one of window, rules, aggregate, or cost_cap must be set"
    for index, rule in enumerate(settings.rules):
        if problem := _budget_problem(f"rules[{index}]", rule, dollars, legacy):
            return problem
    if settings.aggregate is not None and (
        problem := _budget_problem("aggregate", settings.aggregate, dollars, legacy)
    ):
        return problem
    if settings.behavior_on_exceeded not in ("", "reject", "downgrade_model"):
        return "behavior_on_exceeded must be one of reject, downgrade_model"
    if settings.behavior_on_exceeded == "downgrade_model" and not settings.downgrade_to.strip():
        return "behavior_on_exceeded=downgrade_model requires downgrade_to"
    return _cost_cap_problem(settings.cost_cap) if settings.cost_cap is not None and cap_on else None


def _budget_problem(name: str, budget: Rule | Aggregate, dollars: bool, legacy: bool) -> str | None:
    if not budget.max > 0:
        return f"{name}.max must be > 0"
    if not dollars and budget.max != int(budget.max):
        return f"{name}.max must be a whole number of tokens"
    if not budget.time_window.strip():
        return None if legacy else f"{name}.time_window is required when no legacy window is set"
    try:
        parse_window(budget.time_window)
    except ValueError as error:
        return f"{name}.time_window: {error}"
    return None


def _cost_cap_problem(cap: CostCap) -> str | None:
    if cap.unknown_model not in ("", "reject", "pass_through", "assume_max"):
        return "cost_cap.unknown_model must be one of reject, pass_through, assume_max"
    if cap.behavior_on_violation not in ("", "reject", "downgrade"):
        return "cost_cap.behavior_on_violation must be one of reject, downgrade"
    if cap.behavior_on_violation == "downgrade" and not cap.downgrade_to.strip():
        return "cost_cap.behavior_on_violation=downgrade requires downgrade_to"
    if cap.max_input_cost_per_1k_tokens < 0 or cap.max_output_cost_per_1k_tokens < 0:
        return "cost_cap ceilings must be >= 0"
    for model, ceilings in sorted(cap.per_model_overrides.items()):
        if ceilings.max_input_cost_per_1k_tokens < 0 or ceilings.max_output_cost_per_1k_tokens < 0:
            return f"cost_cap.per_model_overrides[{quote(model)}] ceilings must be >= 0"
    return None
