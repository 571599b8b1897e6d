"""What a request costs: prices per token by provider and model, and the split of a usage into parts that add up.

What lives here: the lookup of spec 06 §12 and 04 §13 over an immutable book of prices, and the arithmetic. What must
not: where prices come from (`catalog`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from trustgate.formats.canonical import Usage

GEOGRAPHIES = ("us.", "eu.", "apac.", "us-gov.", "jp.", "au.", "ca.")
_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_MAX_REMEMBERED = 4096
_MAX_NAMES = 512
"""Characters of the names of one remembered lookup."""


class Price(msgspec.Struct, frozen=True):
    """USD per token. Cache prices are 0 when the catalog has none; then cached tokens cost what others do."""

    input: float
    output: float
    cache_read: float = 0.0
    cache_write: float = 0.0
    label: str = ""


class Buckets(msgspec.Struct, frozen=True):
    """Tokens of a request in parts without overlap; `total` is their sum.

    `input` excludes what was read from or written to a cache, `output` excludes reasoning.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.input + self.cache_read + self.cache_write + self.output + self.reasoning


class Cost(msgspec.Struct, frozen=True):
    """USD; `total` is the sum of the other two."""

    prompt: float
    completion: float

    @property
    def total(self) -> float:
        return self.prompt + self.completion


def buckets(usage: Usage) -> Buckets:
    """The usage without double counting.

    OpenAI-shaped counts contain cached and reasoning tokens; Anthropic counts cache tokens beside the input, Gemini
    reasoning beside the output, which shows in a total that is larger than both.
    """
    inside = min(usage.cached_input_tokens, usage.input_tokens)
    reasoning = usage.reasoning_output_tokens
    beside = usage.total_tokens - usage.input_tokens - usage.output_tokens >= reasoning > 0
    return Buckets(
        input=usage.input_tokens - inside,
        cache_read=inside + usage.cache_read_input_tokens,
        cache_write=usage.cache_creation_input_tokens,
        output=usage.output_tokens if beside else max(usage.output_tokens - reasoning, 0),
        reasoning=reasoning if beside else min(reasoning, usage.output_tokens),
    )


def cost(price: Price, usage: Usage) -> Cost:
    """Input tokens times input price and output tokens times output price, cached tokens not discounted."""
    return Cost(usage.input_tokens * price.input, usage.output_tokens * price.output)


def discounted_cost(price: Price, usage: Usage) -> Cost:
    """What the provider is likely to charge: cache tokens at their own prices, reasoning as output."""
    parts = buckets(usage)
    prompt = (
        parts.input * price.input
        + parts.cache_read * (price.cache_read or price.input)
        + parts.cache_write * (price.cache_write or price.input)
    )
    return Cost(prompt, (parts.output + parts.reasoning) * price.output)


def candidates(names: Iterable[str]) -> Iterator[str]:
    """The slugs under which a model may be priced, in order, each once.

    For every name: itself, itself without a trailing date, and both again without one geography prefix.
    """
    seen: set[str] = {""}
    for name in names:
        bare = next((name[len(prefix) :] for prefix in GEOGRAPHIES if name.startswith(prefix)), name)
        for slug in (name, _DATE.sub("", name), bare, _DATE.sub("", bare)):
            if slug not in seen:
                seen.add(slug)
                yield slug


class PriceBook:
    """Prices by provider code and slug. Immutable: a refreshed catalog makes a new book, so nothing goes stale."""

    __slots__ = ("_prices", "_remembered")

    def __init__(self, prices: dict[str, dict[str, Price]]) -> None:
        self._prices = prices
        self._remembered: dict[tuple[str, tuple[str, ...]], Price | None] = {}

    def exact(self, provider: str, slug: str) -> Price | None:
        """The price of one slug; `openai_compatible` falls back to `openai`."""
        found = self._prices.get(provider, {}).get(slug)
        if found is None and provider == "openai_compatible":
            found = self._prices.get("openai", {}).get(slug)
        return found

    def lookup(self, provider: str, names: tuple[str, ...]) -> Price | None:
        """The first price among the candidates of `names`: the model sent, reported, requested."""
        key = (provider, names)
        try:
            return self._remembered[key]
        except KeyError:
            pass
        found = next(filter(None, (self.exact(provider, slug) for slug in candidates(names))), None)
        if sum(map(len, names)) <= _MAX_NAMES:  # clients choose the names, so neither number nor size may grow
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = found
        return found
