"""One try at one upstream: prepare, send, classify (spec 02 §8.1, §8.4).

What lives here: a single attempt and its verdict. What must not: retries, budgets and failover (`attempts`).
"""

from __future__ import annotations

import time
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from trustgate.providers.errors import ModelNotAllowed, ProviderError, RequestFault
from trustgate.providers.prepare import Prepared
from trustgate.proxy.errors import Refusal
from trustgate.proxy.exchange import Attempt, Exchange, HeaderList
from trustgate.proxy.forwarding import let_through
from trustgate.proxy.services import ProxyServices
from trustgate.proxy.stream import BROKEN, ErrorFirst, OpenStream, open_stream
from trustgate.view.model import Route
from trustgate.wire.client import Response
from trustgate.wire.errors import TimedOut

SHORT_ERROR_BYTES = 64 * 1024
"""How much of an error body is relayed of streamed calls, and of every call of `SHORT_ERRORS` (spec 03 §11)."""
SHORT_ERRORS = frozenset({"google", "vertex"})
MAX_HEADER_TEXT = 4096
MAX_UNTRANSLATED = 1024
MEMBER_CHARACTERS = "[]$@:/ "
PROVIDER_ERROR_WORDS = (
    "overloaded",
    "rate_limit",
    "rate limit",
    "insufficient_quota",
    "service_unavailable",
    "server_error",
    "server_overloaded",
    "try again",
    "temporarily unavailable",
)
STREAM_HEADERS: HeaderList = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
Verdict = Literal["success", "retryable", "terminal", "rejected"]


class Result(msgspec.Struct, kw_only=True):
    """What one try came to. `kind` is the failure kind for triggers; exactly one of the last three tells the answer.

    `skip` marks a target that this request cannot use (its allow-list refuses the model, its provider lacks the
    capability), while another may; `rejected` is a success that
    a policy replaced, which `final` answers are not judged again.
    """

    verdict: Verdict
    kind: str = ""
    status: int = 0
    headers: HeaderList = []
    body: bytes = b""
    stream: OpenStream | None = None
    refusal: Refusal | None = None
    retry_after: str = ""
    skip: bool = False
    answered: bool = False
    final: bool = False


class ErrorObject(msgspec.Struct):
    type: Any = None
    code: Any = None
    status: Any = None
    message: Any = None


class MaybeError(msgspec.Struct):
    error: ErrorObject | None = None


def failure_kind(status: int) -> str:
    """The trigger that a retryable status belongs to, or empty for a terminal one."""
    if status == 408:
        return "timeout"
    if status == 429:
        return "http_429"
    return "http_5xx" if status >= 500 else ""


def is_provider_error(body: bytes) -> bool:
    """Whether a 2xx body is really a provider's error (only asked with the `provider_error` trigger)."""
    if b'"error"' not in body:
        return False
    try:
        error = msgspec.json.decode(body, type=MaybeError).error
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return False
    if error is None:
        return False
    words = " ".join(str(value) for value in (error.type, error.code, error.status, error.message) if value is not None)
    lowered = words.lower()
    return any(word in lowered for word in PROVIDER_ERROR_WORDS)


async def try_upstream(exchange: Exchange, route: Route, attempt: Attempt, services: ProxyServices) -> Result:
    """Send the request to one route once. Never raises for upstream trouble; cancellation closes the socket."""
    started = time.perf_counter()
    try:
        result = await _try(exchange, route, services)
    finally:
        attempt.latency_ms = round((time.perf_counter() - started) * 1000)
    attempt.outcome, attempt.status_code, attempt.kind = result.verdict, result.status, result.kind
    return result


async def _try(exchange: Exchange, route: Route, services: ProxyServices) -> Result:
    client, client_route = services.runtimes.client(route.registry), exchange.route
    assert client_route is not None, "routes are matched before attempts"
    call = (
        client_route.format,
        client_route.capability,
        exchange.streaming,
        exchange.body,
        exchange.plan.allowance(route),
        exchange.intent.model,
        await previous_turn(exchange, services) if exchange.session_supplied else None,
        named(exchange),
    )
    try:
        prepared = client.prepare_sync(*call) or await client.prepare(*call)
    except ProviderError as error:
        refusal = Refusal(error.code, error.message, error.status)
        return Result(verdict="terminal", refusal=refusal, skip=isinstance(error, (ModelNotAllowed, RequestFault)))
    exchange.sent_model = prepared.sent_model
    exchange.untranslated = prepared.untranslated
    config = services.config
    deadlines = services.stream_deadlines if exchange.streaming else services.deadlines
    if exchange.streaming and prepared.frames:  # Bedrock's streams may live as long as they like
        deadlines = msgspec.structs.replace(deadlines, total_s=None)
    try:
        lines = prepared.lines
        headers = () if lines is not None else prepared.headers
        if config.forward_headers:
            mixed = let_through(config.forward_headers, exchange.headers, prepared.headers, prepared.wire_format)
            headers, lines = (mixed, None) if mixed else (headers, lines)
        response = await services.pool.request(
            "POST",
            prepared.origin,
            prepared.target,
            headers,
            prepared.body,
            deadlines,
            lines,
        )
        if exchange.streaming and 200 <= response.status < 300:
            return await start_stream(exchange, route, prepared, response, services)
        async with response:
            body = await response.read(config.max_response_bytes)
    except TimedOut:
        return failed("timeout")
    except ErrorFirst as error:
        headers = [*STREAM_HEADERS, *selection(route, prepared.sent_model)]
        return Result(
            verdict="retryable", kind="http_5xx", status=200, headers=headers, body=error.events, answered=True
        )
    except BROKEN:
        return failed("http_5xx")
    return judge(exchange, route, prepared, response, body)


def named(exchange: Exchange) -> str:
    """The body's own model where reading the reference has told it; empty where the body has to be read again."""
    peeked, intent = exchange.peeked, exchange.intent
    if peeked is None or intent.kind != "model" or exchange.body is not exchange.client_body:
        return ""
    return intent.model if len(peeked.model) == len(intent.model) + 2 else ""  # as it stands between its quotes


def failed(kind: str) -> Result:
    return Result(verdict="retryable", kind=kind, refusal=Refusal("backend_error"))


def selection(route: Route, sent_model: str) -> HeaderList:
    headers = [(b"x-selected-provider", route.registry.provider.encode())]
    if sent_model and not sent_model.isspace():
        headers.append((b"x-selected-model", header_value(sent_model)))
    return headers


def header_value(text: str) -> bytes:
    """A client's text as a header value: bounded, without control characters (RFC 9110 §5.5)."""
    raw = text[:MAX_HEADER_TEXT].encode("utf-8", "replace")
    return raw if text.isprintable() else bytes(byte for byte in raw if byte >= 0x20 and byte != 0x7F)


def untranslated(prepared: Prepared) -> HeaderList:
    """The addition `X-AG-Untranslated`: names, percent-encoded because clients choose some of them, as many as fit."""
    if not prepared.untranslated:
        return []
    names = [quote(name, safe=MEMBER_CHARACTERS, errors="replace") for name in prepared.untranslated]
    size = 0
    for count, name in enumerate(names):
        size += len(name) + 2
        if size > MAX_UNTRANSLATED:
            names[count:] = ["..."]
            break
    return [(b"x-ag-untranslated", ", ".join(names).encode())]


def judge(exchange: Exchange, route: Route, prepared: Prepared, response: Response, body: bytes) -> Result:
    """Classify a complete upstream answer."""
    headers: HeaderList = [(b"content-type", b"application/json"), *selection(route, prepared.sent_model)]
    status = response.status
    if not 200 <= status < 300:
        retry_after = (response.header(b"retry-after") or b"").strip()
        if retry_after:
            headers.append((b"retry-after", retry_after))
        kind = failure_kind(status)
        short = exchange.streaming or prepared.provider in SHORT_ERRORS
        return Result(
            verdict="retryable" if kind else "terminal",
            kind=kind,
            status=status,
            headers=headers,
            body=prepared.decode(status, body[:SHORT_ERROR_BYTES] if short else body, response.headers),
            retry_after=retry_after.decode("latin-1"),
            answered=True,
        )
    consumer = exchange.consumer
    if consumer is not None and "provider_error" in consumer.triggers and is_provider_error(body):
        return Result(verdict="retryable", kind="provider_error", status=200, headers=headers, body=body, answered=True)
    observed = prepared.observe(body, response.headers)
    exchange.usage, exchange.provider_model = observed.usage, observed.model
    exchange.finish_reason, exchange.turn_id = observed.finish_reason, observed.id
    return Result(
        verdict="success",
        status=200,
        headers=headers + untranslated(prepared),
        body=prepared.decode(status, body, response.headers),
        answered=True,
    )


async def start_stream(
    exchange: Exchange, route: Route, prepared: Prepared, response: Response, services: ProxyServices
) -> Result:
    """Hold the head until the first event is there: until then another upstream may still serve."""
    stream = await open_stream(exchange, prepared, response, services)
    headers = [*STREAM_HEADERS, *selection(route, prepared.sent_model), *untranslated(prepared)]
    return Result(verdict="success", status=200, headers=headers, stream=stream, answered=True)


async def previous_turn(exchange: Exchange, services: ProxyServices) -> str | None:
    """The last Responses turn of a session that the client named itself (spec 02 §5)."""
    view, consumer = exchange.view, exchange.consumer
    if view is None or consumer is None:
        return None
    record = await services.sessions.load(view.id, consumer.id, exchange.session_id)
    turn = record.last_turn_id if record else ""
    return turn if turn.startswith("resp_") else None
