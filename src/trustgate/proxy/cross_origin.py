"""Calls from browsers: whose CORS settings govern a request, a preflight without credentials included (spec 02 §1).

A consumer's `cors` policy stands in place of the settings of the environment. A preflight carries neither a key nor
`X-AG-Gateway-Slug`, but slugs of consumers are unique, so the path is enough to know whom it is for.
"""

from __future__ import annotations

from trustgate.policies.cors import Cors, Fields
from trustgate.policies.model import Headers, Outcome
from trustgate.proxy.exchange import Exchange
from trustgate.proxy.routes import match_route, split_path
from trustgate.proxy.services import ProxyServices

ASKED = b"access-control-request-method"


async def preflight(path: str, headers: Fields, services: ProxyServices) -> Outcome | None:
    """The answer of an `OPTIONS` that is a preflight from an allowed origin; None: it takes the ordinary way."""
    asked = next((value for name, value in headers if name == ASKED), b"")
    if not asked:
        return None
    cors = await _policy(path, asked.decode("latin-1"), services) or services.cors
    return cors.preflight(b"OPTIONS", headers) if cors is not None else None


async def _policy(path: str, method: str, services: ProxyServices) -> Cors | None:
    slug, route = split_path(path)
    if match_route(route, method) is None:
        return None
    if services.directory.by_consumer_slug(slug) is None:
        await services.catch_up()
    return _of_slug(slug, services)


def _of_slug(slug: str, services: ProxyServices) -> Cors | None:
    view = services.directory.by_consumer_slug(slug)
    consumer = view.consumer(slug) if view is not None else None
    return services.runtimes.of(view, consumer).cors if view is not None and consumer is not None else None


def answer_headers(exchange: Exchange, services: ProxyServices) -> Headers:
    """What an answer to a request with an `Origin` carries, refusals too."""
    view, consumer = exchange.view, exchange.consumer
    if view is not None and consumer is not None:
        cors = services.runtimes.of(view, consumer).cors
    else:  # refused before its consumer was found
        cors = _of_slug(split_path(exchange.path)[0], services)
    cors = cors or services.cors
    return cors.answer_headers(exchange.headers) if cors is not None else []
