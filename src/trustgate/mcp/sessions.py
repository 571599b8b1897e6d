"""Sessions of clients (`Mcp-Session-Id`): what is kept of each in shared state, so that any instance can go on with it.

A session belongs to one consumer and one principal, and lapses when it was not used for its time to live. An id that
was not made here is nobody's business: clients may send what they like, as to a server without sessions.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

import msgspec
from msgspec import Raw

from trustgate.identity.mcp import Caller
from trustgate.limits.shared import SharedState
from trustgate.mcp import jsonrpc
from trustgate.mcp.upstream import Profile
from trustgate.view.model import ConsumerView

ID = re.compile(r"tgs-[A-Za-z0-9_-]{32}")
PREFIX = "trustgate:mcp:session:"
SUBSCRIPTIONS = "trustgate:mcp:subscriptions:"
MAX_SUBSCRIPTIONS = 100
"""Of one session. Their log keeps four times as many entries, and all that hold are written anew before it is full."""
MAX_OFFER_BYTES = 1024
OFFERED = ("sampling", "elicitation")
"""Capabilities of clients that the gateway passes on to the upstreams of their calls."""
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""Of log messages, in order of severity (RFC 5424)."""


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is kept of a session. `offers`: members of the client's capabilities object, as JSON text."""

    gateway_id: str
    consumer_id: str
    auth_id: str
    issuer: str
    subject: str
    version: str
    offers: bytes = b""
    log_level: str = ""
    listens: bool = False
    """Whether its client has ever read the session's own stream."""
    renewed_at: float = 0.0


class Subscription(msgspec.Struct, frozen=True, omit_defaults=True):
    """A resource of a registry whose changes a client wants to hear of; or, not `on`, no longer."""

    registry_id: str
    uri: str
    on: bool = True


class TooMany(Exception):
    """The session has subscribed to as much as it may."""


class ClientSession(msgspec.Struct, frozen=True):
    """A live session and its id."""

    id: str
    record: Record

    @property
    def primes(self) -> bool:
        """Whether its client knows events without data, which only carry an id to resume from."""
        return self.record.version >= "2025-11-25"

    @property
    def profile(self) -> Profile:
        """How upstream sessions are opened for its calls: what one caller's say outside of calls is no one else's."""
        record = self.record
        return Profile(record.offers, record.log_level, (record.auth_id, record.issuer, record.subject))

    def hears(self, level: object) -> bool:
        """Whether log messages of that level are for this client: all are, until it asked for a level."""
        asked = self.record.log_level
        return not asked or level not in LEVELS or LEVELS.index(str(level)) >= LEVELS.index(asked)


class Sessions:
    """The store. `ttl_s` 0: sessions are not offered. Errors of the shared state are the caller's to handle."""

    def __init__(self, state: SharedState, ttl_s: float, now: Callable[[], float]) -> None:
        self._state = state
        self._ttl_s = ttl_s
        self._now = now

    @property
    def offered(self) -> bool:
        return self._ttl_s > 0

    @property
    def renewed_every_s(self) -> float:
        """Asked for so often, a session that is used does not lapse."""
        return self._ttl_s / 4

    async def open(self, caller: Caller, consumer: ConsumerView, version: str, offers: bytes) -> ClientSession:
        record = Record(
            **owner(caller, consumer), version=version, offers=offers, listens=False, renewed_at=self._now()
        )
        session = ClientSession("tgs-" + secrets.token_urlsafe(24), record)
        await self.keep(session)
        return session

    async def find(self, id: str, caller: Caller, consumer: ConsumerView) -> ClientSession | None:
        """The live session of that id if it is this caller's at this consumer; its life begins anew."""
        raw = await self._state.get(PREFIX + id)
        if raw is None:
            return None
        record = msgspec.msgpack.decode(raw, type=Record)
        if any(getattr(record, name) != value for name, value in owner(caller, consumer).items()):
            return None
        session = ClientSession(id, record)
        if self._now() - record.renewed_at > self.renewed_every_s:
            record.renewed_at = self._now()
            await self.keep(session)
            await self._renew_subscriptions(session)
        return session

    async def again(self, session: ClientSession) -> ClientSession:
        """The session as other processes have left it."""
        raw = await self._state.get(PREFIX + session.id)
        return session if raw is None else ClientSession(session.id, msgspec.msgpack.decode(raw, type=Record))

    async def lives(self, session: ClientSession) -> bool:
        """Whether it has not ended; being asked, it lives on."""
        raw = await self._state.get(PREFIX + session.id)
        if raw is not None and self._now() - session.record.renewed_at > self.renewed_every_s:
            session.record.renewed_at = self._now()
            await self._state.put(PREFIX + session.id, raw, self._ttl_s)
            await self._renew_subscriptions(session)
        return raw is not None

    async def keep(self, session: ClientSession) -> None:
        await self._state.put(PREFIX + session.id, msgspec.msgpack.encode(session.record), self._ttl_s)

    async def end(self, session: ClientSession) -> None:
        await self._state.delete(PREFIX + session.id)
        await self._state.delete(SUBSCRIPTIONS + session.id)

    # -- subscriptions -----------------------------------------------------------------------------------------------

    async def subscriptions(self, session: ClientSession) -> dict[str, Subscription]:
        """What the session has subscribed to, by URI."""
        found, _ = await self._subscriptions(session)
        return found

    async def _subscriptions(self, session: ClientSession) -> tuple[dict[str, Subscription], int]:
        found: dict[str, Subscription] = {}
        entries = await self._state.entries(SUBSCRIPTIONS + session.id)
        for _, raw in entries:
            one = msgspec.msgpack.decode(raw, type=Subscription)
            found.pop(one.uri, None)
            if one.on:
                found[one.uri] = one
        return found, len(entries)

    async def subscribe(self, session: ClientSession, subscription: Subscription) -> None:
        """Keep that, or that it is over. Raises TooMany."""
        found, length = await self._subscriptions(session)
        if not subscription.on and subscription.uri not in found:
            return
        if subscription.on and subscription.uri not in found and len(found) >= MAX_SUBSCRIPTIONS:
            raise TooMany
        if length > MAX_SUBSCRIPTIONS * 3 - 1:
            await self._renew_subscriptions(session)
        await self._append(session, subscription)

    async def _renew_subscriptions(self, session: ClientSession) -> None:
        for subscription in (await self.subscriptions(session)).values():
            await self._append(session, subscription)

    async def _append(self, session: ClientSession, subscription: Subscription) -> None:
        value = msgspec.msgpack.encode(subscription)
        await self._state.append(SUBSCRIPTIONS + session.id, value, MAX_SUBSCRIPTIONS * 4, self._ttl_s)


def owner(caller: Caller, consumer: ConsumerView) -> dict[str, str]:
    principal = caller.principal
    return {
        "gateway_id": caller.view.id,
        "consumer_id": consumer.id,
        "auth_id": caller.auth_id,
        "issuer": principal.issuer,
        "subject": principal.subject,
    }


class _Initialize(msgspec.Struct):
    capabilities: Raw = Raw()


def offers_of(message: jsonrpc.Message) -> bytes:
    """What a client's `initialize` offers to servers, as members of a capabilities object; empty when unusable."""
    raw = jsonrpc.params_of(message, _Initialize).capabilities
    try:
        found = msgspec.json.decode(raw, type=dict[str, Raw]) if raw else {}
    except jsonrpc.NOT_JSON:
        return b""
    objects = [(name, bytes(found[name])) for name in OFFERED if name in found]
    text = b",".join(b'"%b":%b' % (name.encode(), raw) for name, raw in objects if raw[:1] == b"{")
    return text if len(text) <= MAX_OFFER_BYTES else b""
