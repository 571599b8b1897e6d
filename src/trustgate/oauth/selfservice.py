"""From an API key to a connect ticket (spec 05 §9.5): a form for people whose server knows no login.

Guesses are limited per source and per consumer, and nothing is told apart: a key of another kind, gateway or consumer
is as unknown as an invented one.
"""

from __future__ import annotations

import hashlib
import hmac

import msgspec
import structlog

from trustgate.identity.authenticate import digest
from trustgate.identity.mcp import key_subject
from trustgate.limits.ops import Charge, Charged, Limits, LimitsUnavailable, Window
from trustgate.oauth import pages
from trustgate.oauth.connect import Connect, forwarded, path_of, provider_of
from trustgate.oauth.http import FORM, NO_STORE, BadForm, HeaderList, Reply, Request, redirect
from trustgate.oauth.issuers import Issuers
from trustgate.oauth.sources import source_of
from trustgate.oauth.state import Ticket
from trustgate.view.gateway import GatewayView
from trustgate.view.model import ConsumerView
from trustgate.wire.clients import Networks

STATUS_TEXTS = {
    400: b"Bad Request",
    401: b"Unauthorized",
    404: b"Not Found",
    415: b"Unsupported Media Type",
    429: b"Too Many Requests",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
}

log = structlog.get_logger("trustgate.oauth")


class ConnectLimit(msgspec.Struct, frozen=True, kw_only=True):
    """`MCP_CONNECT_RATE_LIMIT_*`: attempts per source and per consumer in a window of seconds."""

    enabled: bool = True
    source: int = 10
    consumer: int = 100
    window_s: float = 60.0
    trusted: Networks = ()


class SelfService:
    """Stateless but for the shared counters. `key` is the server's secret."""

    def __init__(self, issuers: Issuers, connect: Connect, limits: Limits, limit: ConnectLimit, key: bytes) -> None:
        self._issuers, self._connect, self._limits, self._limit, self._key = issuers, connect, limits, limit, key

    def form(self, request: Request, slug: str) -> Reply:
        view = self._issuers.by_host(request)
        consumer = mcp_consumer(view, slug)
        return pages.api_key_form(slug) if consumer is not None else plain(404)

    async def submit(self, request: Request, slug: str) -> Reply:
        """A redirect to the connect page, or a refusal; all of them are plain."""
        try:
            return await self._submit(request, slug)
        except Exception:
            log.exception("a connect ticket could not be made")
            return plain(500)

    async def _submit(self, request: Request, slug: str) -> Reply:
        limit = self._limit
        source = source_of(request, limit.trusted)
        refusal = await self._charge("source", source, limit.source)
        if refusal is not None:
            return refusal
        if request.content_type != FORM:
            return plain(415)
        view = self._issuers.by_host(request)
        if view is None:
            return plain(401)
        try:
            key = request.form().get("api_key", "").strip()
        except BadForm:
            return plain(400)
        consumer = mcp_consumer(view, slug)
        if consumer is None:
            return plain(401)
        refusal = await self._charge("consumer", consumer.id, limit.consumer)
        if refusal is not None:
            return refusal
        auth = consumer.auths.api_keys.get(digest(key)) if key else None
        if auth is None or not self._connect.accepts(auth, source):
            return plain(401)
        providers = sorted({provider_of(registry) for registry in forwarded(consumer)})
        ticket = Ticket(view.id, key_subject(auth, view), path_of(consumer), "", consumer.id, auth.id, providers)
        ticket_id = await self._connect.mint(view, ticket)
        return redirect(f"{path_of(consumer)}/connect?ticket={ticket_id}", 303, NO_STORE)

    async def _charge(self, scope: str, subject: str, bound: int) -> Reply | None:
        """Count an attempt; a refusal when it is one too many, or cannot be counted."""
        limit = self._limit
        if not limit.enabled:
            return None
        name = hmac.new(self._key, scope.encode() + b"\0" + subject.encode(), hashlib.sha256).hexdigest()
        window = Window(f"gt:mcp:connect:rl:v1:{scope}:{name}", round(limit.window_s * 1000), 0)
        try:
            (charged,) = await self._limits.run((Charge((window,)),))
        except LimitsUnavailable:
            return plain(503)
        if not isinstance(charged, Charged):
            return plain(503)
        if charged.values[0] <= bound:
            return None
        seconds = max(1, -(-charged.ttls_ms[0] // 1000))
        return plain(429, (b"retry-after", b"%d" % seconds))


def plain(status: int, *headers: tuple[bytes, bytes]) -> Reply:
    """The status's own words, without a content type: scripts compare them."""
    own: HeaderList = [NO_STORE, *headers]
    return Reply(status=status, headers=own, body=STATUS_TEXTS[status])


def mcp_consumer(view: GatewayView | None, slug: str) -> ConsumerView | None:
    consumer = view.consumer(slug) if view is not None else None
    return consumer if consumer is not None and consumer.type == "MCP" else None
