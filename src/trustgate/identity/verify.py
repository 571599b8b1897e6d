"""Verifying one bearer token against one configured credential: keys, refresh, claims.

What lives here: the asynchronous walk of spec 02 §4.2 / spec 05 §4.2 over a key source, and token introspection
(RFC 7662, spec 05 §4.3). What must not: which credential is tried (`authenticate`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import httpx
import msgspec
import trio

from trustgate.identity import jwt
from trustgate.identity.jwks import MAX_DOCUMENT_BYTES, KeySets
from trustgate.identity.jwt import Refused, Token
from trustgate.wire.tls import client_tls

INTROSPECTION_TIMEOUT_S = 10.0
INTROSPECTION_MAX_TTL_S = 300.0
INTROSPECTION_DEFAULT_TTL_S = 60.0
INTROSPECTION_ENTRIES = 10_000


def text(config: dict[str, Any], name: str) -> str:
    value = config.get(name)
    return value if isinstance(value, str) else ""


def texts(config: dict[str, Any], name: str) -> list[str]:
    return jwt.strings(config.get(name))


async def check_keys(token: Token, jwks_url: str, pems: Sequence[str], sets: KeySets) -> None:
    """Verify the signature by the JWKS (one forced refresh) and, where they count, the configured PEM keys.

    PEM keys are candidates when the token has no `kid` or no JWKS URL is set. Raises Refused.
    """
    keys: list[jwt.Key] = []
    if pems and (not token.kid or not jwks_url):
        keys.extend(jwt.candidates(token, jwt.keys_of_pems(pems)))
    if not jwks_url:
        jwt.check_signature(token, keys)
        return
    known = await sets.get(jwks_url)
    found = jwt.candidates(token, known) + keys
    try:
        if not found and token.kid:
            raise jwt.BadSignature("unknown kid")
        jwt.check_signature(token, found)
    except jwt.BadSignature:
        fresh = await sets.force(jwks_url)
        if fresh is None or fresh is known:
            raise
        jwt.check_signature(token, jwt.candidates(token, fresh) + keys)


async def verify_token(
    token: Token,
    config: dict[str, Any],
    sets: KeySets,
    now: float,
    *,
    discover: bool,
    scope_claims: Sequence[str] = ("scope", "scp", "scopes"),
    leeway_s: float = 0,
) -> None:
    """Everything of a JWT but its subject: algorithm, signature, claims, required scopes. Raises Refused."""
    jwt.check_algorithm(token, texts(config, "allowed_algorithms"))
    jwks_url = text(config, "jwks_url").strip()
    pems = texts(config, "public_keys")
    issuer, audiences = text(config, "issuer"), texts(config, "audiences")
    jwt.check_claims(token.claims, issuer=issuer, audiences=audiences, now=now, leeway_s=leeway_s)
    if not jwks_url and not pems and discover:
        jwks_url = await sets.discover(issuer)
    await check_keys(token, jwks_url, pems, sets)
    held = set(jwt.scopes_of(token.claims, scope_claims))
    if not held.issuperset(texts(config, "required_scopes")):
        raise Refused("a required scope is missing")


class Introspection(msgspec.Struct, frozen=True):
    """An active token as its authorization server describes it."""

    subject: str
    scopes: tuple[str, ...]
    claims: dict[str, Any]


class Introspector:
    """Asks an authorization server about opaque tokens; answers are kept until `exp`, at most 5 minutes."""

    def __init__(self, clock: Callable[[], float], transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._clock = clock
        self._client = httpx.AsyncClient(
            verify=client_tls(), timeout=INTROSPECTION_TIMEOUT_S, follow_redirects=False, transport=transport
        )
        self._known: dict[bytes, tuple[float, dict[str, Any] | None]] = {}
        self._locks: dict[bytes, trio.Lock] = {}

    async def aclose(self) -> None:
        await self._client.aclose()

    async def introspect(self, raw: str, config: dict[str, Any]) -> Introspection:
        """Raises Refused unless the token is active and fits the configured issuer, audiences and scopes."""
        url = text(config, "introspection_url").strip()
        key = hashlib.sha256(f"{url}\0{raw}".encode()).digest()  # tokens themselves are not kept
        answer = await self._ask(key, url, raw, config)
        if answer is None:
            raise Refused("inactive")
        issuer = answer.get("iss")
        if isinstance(issuer, str) and issuer.rstrip("/") != text(config, "issuer").rstrip("/"):
            raise Refused("issuer differs")
        # RFC 7662 lets a server leave `aud` out; then nothing says that the token is meant for us.
        if not jwt.audience_matches(jwt.strings(answer.get("aud")), texts(config, "audiences")):
            raise Refused("audience differs")
        scopes = jwt.scopes_of(answer, ("scope",))
        required = [scope for scope in texts(config, "required_scopes") if scope not in jwt.PROTOCOL_SCOPES]
        if not set(scopes).issuperset(required):
            raise Refused("a required scope is missing")
        subject = answer.get("sub") or answer.get("username")
        if not isinstance(subject, str) or not subject:
            raise Refused("no subject")
        return Introspection(subject, tuple(scopes), answer)

    async def _ask(self, key: bytes, url: str, raw: str, config: dict[str, Any]) -> dict[str, Any] | None:
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            async with lock:
                known = self._known.get(key)
                if known is not None and known[0] > self._clock():
                    return known[1]
                answer = await self._post(url, raw, config)
                now = self._clock()
                expires = answer.get("exp") if answer else None
                ttl = INTROSPECTION_DEFAULT_TTL_S
                if isinstance(expires, (int, float)) and not isinstance(expires, bool):
                    ttl = min(max(expires, now), now + INTROSPECTION_MAX_TTL_S) - now
                if len(self._known) >= INTROSPECTION_ENTRIES:
                    self._known.pop(next(iter(self._known)))
                self._known[key] = (now + ttl, answer)
                return answer
        finally:
            if not lock.statistics().tasks_waiting:
                self._locks.pop(key, None)

    async def _post(self, url: str, raw: str, config: dict[str, Any]) -> dict[str, Any] | None:
        client_id = text(config, "client_id")
        auth = (client_id, text(config, "client_secret")) if client_id else None
        try:
            with trio.fail_after(INTROSPECTION_TIMEOUT_S):
                async with self._client.stream(
                    "POST", url, data={"token": raw}, auth=auth or httpx.USE_CLIENT_DEFAULT
                ) as answer:
                    body = bytearray()
                    async for chunk in answer.aiter_bytes():
                        body += chunk
                        if len(body) > MAX_DOCUMENT_BYTES:
                            raise Refused("introspection failed")
            document = msgspec.json.decode(body) if answer.status_code == 200 else None
        except (httpx.HTTPError, httpx.InvalidURL, trio.TooSlowError, ValueError, RecursionError) as error:
            raise Refused("introspection failed") from error
        if not isinstance(document, dict):
            raise Refused("introspection failed")
        claims = cast("dict[str, Any]", document)
        return claims if claims.get("active") is True else None
