"""Price lookup (spec 04 §13): custom prices first, then the model catalog. USD per token."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping

from trustgate.policies.globs import best_model_match
from trustgate.policies.plugin import Price

_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")
GEOGRAPHIES = ("us.", "eu.", "apac.", "us-gov.", "jp.", "au.", "ca.")


def candidates(models: Iterable[str]) -> list[str]:
    """Names to look up, in order: as given, undated, and both without a leading geography; distinct."""
    found: dict[str, None] = {}
    for model in models:
        bare = next((model[len(prefix) :] for prefix in GEOGRAPHIES if model.startswith(prefix)), "")
        for name in (model, _DATED.sub("", model), bare, _DATED.sub("", bare)):
            if name:
                found.setdefault(name)
    return list(found)


def find_price(
    provider: str,
    models: Iterable[str],
    custom: Mapping[str, Price],
    lookup: Callable[[str, str], Price | None],
) -> Price | None:
    """The price of the first candidate that has one; `openai_compatible` falls back to the prices of `openai`."""
    names = candidates(models)
    if custom:
        for name in names:
            pattern = best_model_match(custom, name)
            if pattern is not None:
                return custom[pattern]
    providers = (provider, "openai") if provider == "openai_compatible" else (provider,)
    for name in names:
        for code in providers:
            price = lookup(code, name)
            if price is not None:
                return price
    return None


def micro_usd(usd: float) -> int:
    """Millionths of a dollar, halves away from zero."""
    scaled = usd * 1_000_000
    return math.floor(scaled + 0.5) if scaled >= 0 else math.ceil(scaled - 0.5)


def plain(value: float) -> int | float:
    """A number as JSON shows it: `10`, not `10.0`."""
    return int(value) if value == int(value) and abs(value) < 1 << 53 else value
