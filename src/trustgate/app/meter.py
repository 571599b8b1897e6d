"""From finished requests of the proxy plane to the process's metrics.

What lives here: which cells a request counts in, found once per consumer and route and kept. What must not: records and
exporters (`observer`), names of metrics (`telemetry.metrics`).
"""

from __future__ import annotations

from trustgate.formats.canonical import Usage
from trustgate.policies.model import Mark
from trustgate.providers.catalog import ModelCatalog
from trustgate.providers.prices import cost
from trustgate.proxy.exchange import Attempt, Exchange
from trustgate.proxy.routes import ClientRoute
from trustgate.proxy.services import Observer
from trustgate.telemetry.instruments import Cell, HistogramCell
from trustgate.telemetry.metrics import Metrics, status_label

CLIENT_CLOSED = "499"
UNKNOWN = "unknown"
MAX_KEPT = 20_000
ROUTES = {
    "openai": ("chat_completions", "/{consumer}/v1/chat/completions"),
    "anthropic": ("messages", "/{consumer}/v1/messages"),
    "openai_responses": ("responses", "/{consumer}/v1/responses"),
    "google": ("generate_content", "/{consumer}/v1beta/models/{model}"),
    "cohere": ("cohere_chat", "/{consumer}/v2/chat"),
    "openai_embeddings": ("embeddings", "/{consumer}/v1/embeddings"),
    "cohere_embed": ("cohere_embed", "/{consumer}/v2/embed"),
    "cohere_rerank": ("rerank", "/{consumer}/v1/rerank"),
    "": ("models", "/{consumer}/v1/models"),
}
NO_ROUTE = ("other", "other")
DENIED_BY_POLICY = frozenset({"plugin_rejected", "model_not_allowed"})


def route_labels(route: ClientRoute | None) -> tuple[str, str]:
    """The short name of a client route, and its template."""
    return NO_ROUTE if route is None else ROUTES.get(route.format, NO_ROUTE)


class _ConsumerCells:
    """The cells of one consumer and route. Mutable: those of a status or kind are found on first use."""

    __slots__ = ("cost", "duration", "first_token", "statuses", "tokens")

    def __init__(self, metrics: Metrics, gateway: str, consumer: str, route: str) -> None:
        self.statuses: dict[str, Cell] = {}
        self.duration = metrics.duration.of(gateway, consumer, route)
        self.first_token: HistogramCell | None = None
        self.tokens: dict[str, Cell] = {}
        self.cost: Cell | None = None


class _AttemptCells:
    __slots__ = ("count", "duration")

    def __init__(self, count: Cell, duration: HistogramCell) -> None:
        self.count, self.duration = count, duration


class Meter:
    """An observer that counts, and passes on to the observer that records. Owned by the event loop."""

    def __init__(self, metrics: Metrics, models: ModelCatalog, inner: Observer) -> None:
        self._metrics = metrics
        self._models = models
        self._inner = inner
        self._consumers: dict[tuple[str, str, str], _ConsumerCells] = {}
        self._attempts: dict[tuple[str, str, str, str], _AttemptCells] = {}

    def wants_body(self, exchange: Exchange) -> bool:
        return self._inner.wants_body(exchange)

    def finished(self, exchange: Exchange) -> None:
        route, _ = labels = route_labels(exchange.route)
        cells = self._cells(exchange, route)
        self._request(exchange, cells, labels)
        if exchange.attempts:
            self._upstreams(exchange)
        if exchange.usage is not None:
            self._usage(exchange, exchange.usage, cells)
        run = exchange.run
        if run is not None:
            for mark in run.marks:
                self._policy(mark)
        self._inner.finished(exchange)

    def refused(self, exchange: Exchange) -> None:
        labels = route_labels(exchange.route)
        self._request(exchange, self._cells(exchange, labels[0]), labels)
        self._inner.refused(exchange)

    def probed(self, method: str, path: str, status: int) -> None:
        self._metrics.http("proxy", "health", path, method, status, 0.0)

    def _cells(self, exchange: Exchange, route: str) -> _ConsumerCells:
        view, consumer = exchange.view, exchange.consumer
        gateway = view.identity.slug if view is not None else UNKNOWN
        slug = consumer.slug if consumer is not None else UNKNOWN
        key = (gateway, slug, route)
        cells = self._consumers.get(key)
        if cells is None:
            if len(self._consumers) >= MAX_KEPT:
                self._consumers.clear()  # cells live in the metrics; this only remembers where
            cells = self._consumers[key] = _ConsumerCells(self._metrics, *key)
        return cells

    def _request(self, exchange: Exchange, cells: _ConsumerCells, labels: tuple[str, str]) -> None:
        metrics = self._metrics
        route, template = labels
        status = (
            CLIENT_CLOSED if exchange.aborted and not exchange.reply_status else status_label(exchange.reply_status)
        )
        cell = cells.statuses.get(status)
        if cell is None:
            view, consumer = exchange.view, exchange.consumer
            gateway = view.identity.slug if view is not None else UNKNOWN
            slug = consumer.slug if consumer is not None else UNKNOWN
            cell = cells.statuses[status] = metrics.requests.of(gateway, slug, route, status)
        cell.value += 1
        seconds = exchange.ended_at - exchange.started_at
        cells.duration.observe(seconds)
        if exchange.streaming and exchange.first_byte_at:
            if cells.first_token is None:
                cells.first_token = metrics.first_token.of(*self._labels(exchange), route)
            cells.first_token.observe(exchange.first_byte_at - exchange.started_at)
        if exchange.reply_status == 429 and not exchange.attempts:
            self._plan(exchange)
        if metrics.ops:
            self._ops(exchange, template, seconds)

    def _labels(self, exchange: Exchange) -> tuple[str, str]:
        assert exchange.view is not None and exchange.consumer is not None, "streams and usage follow authentication"
        return exchange.view.identity.slug, exchange.consumer.slug

    def _plan(self, exchange: Exchange) -> None:
        reason = next((value for name, value in exchange.reply_headers if name == b"x-ratelimit-reason"), b"")
        if reason and exchange.view is not None:
            self._metrics.plan_rejections.add(1, exchange.view.identity.slug, reason.decode("latin-1"))

    def _ops(self, exchange: Exchange, template: str, seconds: float) -> None:
        metrics, status = self._metrics, exchange.reply_status
        denied = status == 403 and exchange.error_code in DENIED_BY_POLICY
        outcome = "denied_policy" if denied else ""
        metrics.http("proxy", "proxy.forward", template, exchange.method, status, seconds, outcome)

    def _upstreams(self, exchange: Exchange) -> None:
        previous = ""
        for attempt in exchange.attempts:
            cells = self._attempt_cells(exchange, attempt)
            cells.count.value += 1
            cells.duration.observe(attempt.latency_ms / 1000)
            if attempt.registry_id == previous:
                self._metrics.retries.of(*self._registry(exchange, attempt)).value += 1
            elif attempt.fallback:
                self._metrics.fallbacks.of(*self._registry(exchange, attempt)).value += 1
            previous = attempt.registry_id

    def _registry(self, exchange: Exchange, attempt: Attempt) -> tuple[str, str]:
        assert exchange.view is not None
        registry = exchange.view.state.registries.get(attempt.registry_id)
        return exchange.view.identity.slug, registry.name if registry is not None else attempt.registry_id

    def _attempt_cells(self, exchange: Exchange, attempt: Attempt) -> _AttemptCells:
        gateway, registry = self._registry(exchange, attempt)
        key = (gateway, registry, attempt.provider, attempt.outcome)
        cells = self._attempts.get(key)
        if cells is None:
            if len(self._attempts) >= MAX_KEPT:
                self._attempts.clear()
            cells = self._attempts[key] = _AttemptCells(
                self._metrics.attempts.of(gateway, registry, attempt.provider, attempt.outcome),
                self._metrics.attempt_duration.of(attempt.provider, attempt.outcome),
            )
        return cells

    def _tokens(self, exchange: Exchange, cells: _ConsumerCells, kind: str, count: int) -> None:
        cell = cells.tokens.get(kind)
        if cell is None:
            cell = cells.tokens[kind] = self._metrics.tokens.of(*self._labels(exchange), kind)
        cell.value += count

    def _usage(self, exchange: Exchange, usage: Usage, cells: _ConsumerCells) -> None:
        if usage.input_tokens:
            self._tokens(exchange, cells, "input", usage.input_tokens)
        if usage.output_tokens:
            self._tokens(exchange, cells, "output", usage.output_tokens)
        if cached := usage.cached:
            self._tokens(exchange, cells, "cached", cached)
        if usage.reasoning_output_tokens:
            self._tokens(exchange, cells, "reasoning", usage.reasoning_output_tokens)
        provider = exchange.attempts[-1].provider if exchange.attempts else ""
        names = (exchange.sent_model, exchange.provider_model, exchange.requested_model)
        price = self._models.prices.lookup(provider, names)
        spent = cost(price, usage) if price is not None else None
        if spent is not None:
            if cells.cost is None:
                cells.cost = self._metrics.cost.of(*self._labels(exchange))
            cells.cost.value += spent.prompt + spent.completion

    def _policy(self, mark: Mark) -> None:
        self._metrics.policies.of(mark.name, mark.stage, verdict_of(mark)).value += 1
        self._metrics.policy_duration.of(mark.name).observe(mark.latency_ms / 1000)
        if mark.name == "semantic_cache" and mark.stage == "pre_request" and mark.extras is not None:
            result = "hit" if mark.extras.get("cache_hit") else "bypass" if mark.extras.get("bypassed") else "miss"
            self._metrics.cache.of(result).value += 1


def verdict_of(mark: Mark) -> str:
    """`passed`, `blocked`, `failed` (the policy itself broke), or `flagged` (it would have blocked, or delayed)."""
    if mark.error and not mark.status_code:
        return "failed"
    if mark.status_code >= 400:
        return "blocked"
    return "flagged" if mark.flagged else "passed"
