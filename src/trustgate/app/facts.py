"""From a finished exchange of the proxy plane to the facts of its record (spec 06 §9.2, §12). Pure; any thread."""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.providers.prices import PriceBook, cost
from trustgate.proxy.exchange import Exchange
from trustgate.telemetry.event import Facts, Tokens


class _Gemini(msgspec.Struct):
    temperature: Any = None
    maxOutputTokens: Any = None


class _Converse(msgspec.Struct):
    temperature: Any = None
    maxTokens: Any = None


class Sampling(msgspec.Struct):
    """What a request body of any client dialect asks of the model, as far as the record repeats it."""

    temperature: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    stream: Any = None
    generationConfig: _Gemini | None = None
    inferenceConfig: _Converse | None = None

    @property
    def heat(self) -> float | None:
        nested = self.generationConfig or self.inferenceConfig
        return number(self.temperature) if nested is None else number(nested.temperature)

    @property
    def most(self) -> int:
        """The bound of the answer's tokens, 0 when none was sent."""
        found = (self.max_completion_tokens, self.max_tokens, self.max_output_tokens)
        if self.generationConfig is not None:
            found += (self.generationConfig.maxOutputTokens,)
        if self.inferenceConfig is not None:
            found += (self.inferenceConfig.maxTokens,)
        return next((whole(value) for value in found if whole(value)), 0)


_sampling = msgspec.json.Decoder(Sampling)
UNREADABLE = Sampling()


def sampling_of(body: bytes) -> Sampling:
    """What the client asked of the model; nothing of a body that cannot be read."""
    try:
        return _sampling.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UNREADABLE


def number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def facts_of(exchange: Exchange, prices: PriceBook, *, attempts: bool = True, policies: bool = True) -> Facts:
    """The facts of an authenticated request; `attempts` and `policies` say whether the record lists them."""
    view, consumer, run = exchange.view, exchange.consumer, exchange.run
    assert view is not None and consumer is not None, "only authenticated requests have records"
    usage, tried, route = exchange.usage, exchange.attempts, exchange.route
    price = None
    if usage is not None and tried:
        names = (exchange.sent_model, exchange.provider_model, exchange.requested_model)
        price = prices.lookup(tried[-1].provider, names)
    spent = cost(price, usage) if price is not None and usage is not None else None
    sampling = sampling_of(exchange.client_body)
    return Facts(
        trace_id=exchange.trace_id,
        gateway_id=view.id,
        tenant_id=view.identity.tenant_id,
        started_unix=exchange.started_unix,
        total_ms=round((exchange.ended_at - exchange.started_at) * 1000),
        consumer_id=consumer.id,
        consumer_name=consumer.name,
        session_id=exchange.session_id,
        turn_id=exchange.turn_id,
        ip=exchange.client_ip,
        status=exchange.reply_status,
        reason=exchange.error_code,
        method=exchange.method,
        path=exchange.path,
        requested_model=exchange.requested_model,
        sent_model=exchange.sent_model,
        provider_model=exchange.provider_model,
        model_label=price.label if price is not None else "",
        temperature=sampling.heat,
        max_tokens=sampling.most,
        stream=sampling.stream is True or (route is not None and route.path_stream),
        streaming=exchange.streaming,
        finish_reason=exchange.finish_reason,
        request_headers=exchange.headers,
        response_headers=exchange.reply_headers,
        own_headers=own_headers(exchange),
        request_body=exchange.client_body,
        response_body=exchange.reply_body,
        usage=tokens_of(exchange),
        cost=(spent.prompt, spent.completion) if spent is not None else None,
        attempts=tried,
        policies=[mark for mark in run.marks if mark.telling] if run is not None else (),
        reservations=run.reservations if run is not None else (),
        show_attempts=attempts,
        show_policies=policies,
        config_version=view.version,
        untranslated=exchange.untranslated,
        aborted=exchange.aborted,
    )


def own_headers(exchange: Exchange) -> dict[str, list[str]]:
    """What the plane adds to the answer; the record of a stream has the provider's and the policies' headers only."""
    if exchange.streaming:
        return {}
    own = {"X-Ag-Trace-Id": [exchange.trace_id]}
    if exchange.session_id:
        own["X-Session-Id"] = [exchange.session_id]
    if exchange.view is not None:
        own["X-Ag-Config-Version"] = [str(exchange.view.version)]
    return own


def tokens_of(exchange: Exchange) -> Tokens | None:
    usage = exchange.usage
    if usage is None:
        return None
    return Tokens(
        usage.input_tokens,
        usage.output_tokens,
        usage.total_tokens or usage.input_tokens + usage.output_tokens,
        usage.cached,
        usage.reasoning_output_tokens,
    )
