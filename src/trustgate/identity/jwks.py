"""Key sets and discovery documents of identity providers, fetched once for many requests.

What lives here: the JWKS cache of spec 02 §4.2 and spec 05 §4.2 (5 minutes per URL, one fetch at a time, a forced
refresh at most every 30 s, stale keys kept when a refresh fails) and OIDC discovery (1 hour per issuer). What must not:
verification (`jwt`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec
import structlog
import trio

from trustgate.identity.jwt import Key, Refused, keys_of_jwks
from trustgate.wire.tls import client_tls

TTL_S = 300.0
FORCED_INTERVAL_S = 30.0
RETRY_AFTER_FAILURE_S = 5.0
DISCOVERY_TTL_S = 3600.0
FETCH_TIMEOUT_S = 10.0
MAX_DOCUMENT_BYTES = 1024 * 1024
MAX_ENTRIES = 10_000

log = structlog.get_logger(__name__)

Fetch = Callable[[str], Awaitable[Any]]
"""Fetch a JSON document by URL within 10 s; raises FetchFailed."""


class FetchFailed(Exception):
    """A key set or discovery document could not be had."""


class HttpFetcher:
    """Fetches small JSON documents; redirects are not followed, proxies from the environment are honoured.

    A `transport` may restrict where connections go.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = httpx.AsyncClient(
            verify=client_tls(), timeout=FETCH_TIMEOUT_S, follow_redirects=False, transport=transport
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def __call__(self, url: str) -> Any:
        try:
            with trio.fail_after(FETCH_TIMEOUT_S):
                async with self._client.stream("GET", url, headers={"Accept": "application/json"}) as answer:
                    if answer.status_code != 200:
                        raise FetchFailed(f"status {answer.status_code}")
                    body = bytearray()
                    async for chunk in answer.aiter_bytes():
                        body += chunk
                        if len(body) > MAX_DOCUMENT_BYTES:
                            raise FetchFailed("document too large")
            return msgspec.json.decode(bytes(body))
        except (httpx.HTTPError, httpx.InvalidURL, trio.TooSlowError, msgspec.DecodeError, ValueError) as error:
            raise FetchFailed(type(error).__name__) from error


class _Entry:
    """Mutable, only under its lock: the newest good keys and when the last tries ended."""

    __slots__ = ("failed_at", "fetched_at", "forced_at", "keys", "lock")

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.keys: tuple[Key, ...] | None = None
        self.fetched_at = float("-inf")
        self.failed_at = float("-inf")
        self.forced_at = float("-inf")


class _Issuer:
    """Mutable, only under its lock: where an issuer's keys are, since when, and how many tries have ended."""

    __slots__ = ("found_at", "lock", "tries", "uri")

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.uri = ""
        self.found_at = float("-inf")
        self.tries = 0


class KeySets:
    """The process's JWKS cache, by URL."""

    def __init__(self, fetch: Fetch, clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._issuers: dict[str, _Issuer] = {}

    def _entry(self, url: str) -> _Entry:
        entry = self._entries.get(url)
        if entry is None:
            if len(self._entries) >= MAX_ENTRIES:
                self._entries.pop(next(iter(self._entries)))
            entry = self._entries[url] = _Entry()
        return entry

    async def get(self, url: str) -> tuple[Key, ...]:
        """The keys of that URL, fetched when older than 5 minutes; stale ones when the fetch fails.

        Waits at most one fetch. Raises Refused when there have never been any.
        """
        entry = self._entry(url)
        if entry.keys is not None and self._clock() - entry.fetched_at < TTL_S:
            return entry.keys
        async with entry.lock:
            now = self._clock()
            if now - entry.fetched_at >= TTL_S and now - entry.failed_at >= RETRY_AFTER_FAILURE_S:
                await self._refresh(url, entry)
        if entry.keys is None:
            raise Refused("no key set")
        return entry.keys

    async def force(self, url: str) -> tuple[Key, ...] | None:
        """A fresh set because a key is missing or a signature failed; the newest there is when one was forced within
        30 s. None when there have never been any."""
        entry = self._entry(url)
        async with entry.lock:
            if self._clock() - entry.forced_at >= FORCED_INTERVAL_S:
                await self._refresh(url, entry)
                entry.forced_at = self._clock()
        return entry.keys

    async def _refresh(self, url: str, entry: _Entry) -> None:
        """Times are kept at the end: a fetch whose caller left did not happen, and the next one waiting makes it."""
        try:
            entry.keys = keys_of_jwks(await self._fetch(url))
            entry.fetched_at = self._clock()
        except (FetchFailed, Refused):
            entry.failed_at = self._clock()  # the stale set, if any, stays in use

    async def discover(self, issuer: str) -> str:
        """The `jwks_uri` of an issuer by OpenID Connect Discovery §4, whose document must name that issuer.

        Keys of an https issuer come by https. A known one is kept when it cannot be asked again; calls at the same
        time share one try. Raises Refused.
        """
        entry = self._issuers.get(issuer)
        if entry is None:
            if len(self._issuers) >= MAX_ENTRIES:
                self._issuers.pop(next(iter(self._issuers)))
            entry = self._issuers[issuer] = _Issuer()
        if self._clock() - entry.found_at >= DISCOVERY_TTL_S:
            before = entry.tries
            async with entry.lock:
                if entry.tries == before:
                    await self._find(issuer, entry)
        if not entry.uri:
            raise Refused("discovery failed")
        return entry.uri

    async def _find(self, issuer: str, entry: _Issuer) -> None:
        try:
            document = await self._fetch(issuer.rstrip("/") + "/.well-known/openid-configuration")
            entry.uri = jwks_uri_of(document, issuer)
            entry.found_at = self._clock()
        except (FetchFailed, Refused) as error:
            log.debug("discovery failed", issuer=issuer, error=str(error))
        entry.tries += 1


def jwks_uri_of(document: Any, issuer: str) -> str:
    """Raises Refused for a document without it, of another issuer, or that leads away from https."""
    uri = document.get("jwks_uri") if isinstance(document, dict) else None
    if not isinstance(uri, str) or not uri.startswith(("http://", "https://")):
        raise Refused("discovery document without jwks_uri")
    named = document.get("issuer")
    if isinstance(named, str) and named.rstrip("/") != issuer.rstrip("/"):
        raise Refused("discovery document of another issuer")
    if issuer.startswith("https://") and not uri.startswith("https://"):
        raise Refused("discovery document with keys that are not by https")
    return uri
