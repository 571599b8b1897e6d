"""Price ceilings of `token_rate_limiter`: which models are too expensive to be used (spec 04 §14.2, `cost_cap`)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trustgate.policies.durations import quote
from trustgate.policies.globs import best_model_match
from trustgate.policies.model import Effect, reject
from trustgate.policies.plugin import Price
from trustgate.policies.pricing import candidates, plain
from trustgate.policies.token_rate_limiter_settings import Ceilings, CostCap

UNPRICED = Price(0.0, 0.0)


class Priced(msgspec.Struct, frozen=True):
    """A model beside its ceilings, in USD per 1000 tokens; `unknown` when it has no price."""

    price: Price
    ceiling: Price
    unknown: bool
    violation: bool


def priced(cap: CostCap, price: Price | None, models: Sequence[str]) -> Priced:
    """Judge the price of `models` (names of one model, in order of preference). Ceilings of 0 are none."""
    ceiling = _ceiling(cap, models)
    if price is None:
        return Priced(UNPRICED, ceiling, unknown=True, violation=cap.unknown_model != "pass_through")
    per_1k = Price(price.input * 1000, price.output * 1000)
    violation = 0 < ceiling.input < per_1k.input or 0 < ceiling.output < per_1k.output
    return Priced(per_1k, ceiling, unknown=False, violation=violation)


def _ceiling(cap: CostCap, models: Sequence[str]) -> Price:
    """The best override over the candidates, else the general ceilings."""
    found: Ceilings | CostCap = cap
    for name in candidates(models):
        pattern = best_model_match(cap.per_model_overrides, name)
        if pattern is not None:
            found = cap.per_model_overrides[pattern]
            break
    return Price(found.max_input_cost_per_1k_tokens, found.max_output_cost_per_1k_tokens)


def refusal(found: Priced, model: str) -> Effect:
    error = {
        "input_price": plain(found.price.input),
        "max_input": plain(found.ceiling.input),
        "max_output": plain(found.ceiling.output),
        "model": model,
        "output_price": plain(found.price.output),
        "type": "model_too_expensive",
    }
    return reject(403, f"model {quote(model)} exceeds cost cap", type="model_too_expensive", body={"error": error})
