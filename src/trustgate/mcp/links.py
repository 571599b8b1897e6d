"""Which upstream session serves whom: opening, sharing, dropping, closing; and what failures mean (spec 05 §7.2, §7.4).

A session belongs to one gateway, consumer and registry, to one user where the credential is the user's, and to one set
of headers. A session that failed is not used again; a request is sent twice only where it cannot run a tool twice.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import structlog
import trio

from trustgate.identity.mcp import Caller
from trustgate.mcp.answers import Rejected, RpcError, SessionLost, Unavailable
from trustgate.mcp.errors import (
    ConsentNeeded,
    HttpFailure,
    RpcFailure,
    session_lost,
    transport_rejected,
    unreachable,
)
from trustgate.mcp.flight import Flights
from trustgate.mcp.surface import PER_USER_MODES
from trustgate.mcp.upstream import PLAIN, Field, Json, Profile, Session, static_headers
from trustgate.oauth.credentials import ConsentRequired, CredentialError, InteractionRequired
from trustgate.view.model import ConsumerView, RegistryView
from trustgate.wire.client import Pool

IDLE_S = 30 * 60.0
SWEEP_S = 60.0
MAX_SESSIONS = 20_000
TRANSPORT_STATUSES = frozenset({429, 500, 502, 503, 504})

T = TypeVar("T")
Key = tuple[object, ...]

log = structlog.get_logger(__name__)


class Credentials(Protocol):
    """Where the credential headers of an upstream come from (spec 05 §7.1)."""

    async def headers_for(
        self, registry: RegistryView, caller: Caller, consumer: ConsumerView, base_url: str
    ) -> list[Field]: ...

    async def refused(self, registry: RegistryView, caller: Caller) -> bool: ...


class Peer:
    """One upstream of one consumer, prepared once per view."""

    __slots__ = (
        "catalog_code",
        "consumer",
        "fixed",
        "host",
        "key",
        "list_keys",
        "mode",
        "per_user",
        "registry",
        "transport",
        "url",
    )

    def __init__(self, registry: RegistryView, consumer: ConsumerView) -> None:
        target = registry.mcp_target
        assert target is not None, "peers are MCP registries"
        self.registry = registry
        self.consumer = consumer
        self.url = target.url
        self.host = urlsplit(target.url).hostname or ""
        self.catalog_code, self.transport = target.code, target.transport
        self.mode = target.auth.get("mode") or "none"
        self.per_user = self.mode in PER_USER_MODES
        self.fixed = static_headers(target)
        """The configured headers; in the modes `none` and `static` they are all there are."""
        self.list_keys: dict[str, Key] = {}
        """Where the lists of this registry are kept, by kind, when they are the same for everybody."""
        self.key: Key = (consumer.id, registry.id, registry.updated_at, tuple(self.fixed))


class Asker:
    """On whose behalf an upstream is asked."""

    __slots__ = ("base_url", "caller")

    def __init__(self, caller: Caller, base_url: str) -> None:
        self.caller, self.base_url = caller, base_url

    @property
    def user(self) -> tuple[str, str]:
        principal = self.caller.principal
        return (principal.issuer, principal.subject)


class _Held:
    __slots__ = ("session", "used_at")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.used_at = time.monotonic()


class Links:
    """All upstream sessions of this process. Mutable: `_held`, by key; `_speaks`, by registry id."""

    def __init__(self, pool: Pool, credentials: Credentials, background: trio.Nursery) -> None:
        self._pool = pool
        self._credentials = credentials
        self._background = background
        self._held: dict[Key, _Held] = {}
        self._opening = Flights[Session](background)
        self._speaks: dict[str, bool] = {}

    def __len__(self) -> int:
        return len(self._held)

    async def run(self) -> None:
        """Close what has been idle for long, until cancelled."""
        while True:
            await trio.sleep(SWEEP_S)
            oldest = time.monotonic() - IDLE_S
            for key, held in list(self._held.items()):
                if held.used_at < oldest and not held.session.listened:
                    self.drop(key, held.session)
                    self._background.start_soon(held.session.close)

    async def use(
        self,
        peer: Peer,
        asker: Asker,
        method: str,
        action: Callable[[Session], Awaitable[T]],
        *,
        repeatable: bool,
        profile: Profile = PLAIN,
    ) -> T:
        """Run `action` on the session of this peer and asker that was opened so.

        After a failure a `repeatable` action is tried once more on a new session; others only when the upstream
        certainly did not act: it no longer knew the session, or it refused the credential and there is a new one.
        Raises RpcFailure, HttpFailure.
        """
        tried = False
        while True:
            key, session = await self.hold(peer, asker, profile)
            try:
                return await action(session)
            except RpcError as error:
                raise RpcFailure(error.code, error.message, raw=error.raw) from None
            except Unavailable as error:
                self.drop(key, session)
                log.info("upstream request failed", registry_id=peer.registry.id, method=method, error=str(error))
                if tried or not await self._may_repeat(peer, asker, error, repeatable):
                    raise failure_of(error, method) from None
                tried = True

    async def _may_repeat(self, peer: Peer, asker: Asker, error: Unavailable, repeatable: bool) -> bool:
        if isinstance(error, SessionLost):
            return True
        if isinstance(error, Rejected) and error.status < 500:
            renewable = error.status == 401 and peer.mode not in ("none", "static")
            return renewable and await self._credentials.refused(peer.registry, asker.caller)
        return repeatable

    async def hold(self, peer: Peer, asker: Asker, profile: Profile) -> tuple[Key, Session]:
        """The session that such requests go to, and the key it is held by. Raises RpcFailure, HttpFailure."""
        key, headers = peer.key, peer.fixed
        if profile.caller and self.speaks(peer) is False:
            profile = shared(profile)
        if profile is not PLAIN:
            key = (*key, profile)
        if peer.mode not in ("none", "static"):
            own = await self._headers(peer, asker)
            headers = [*headers, *own]
            key = (*key, asker.user if peer.per_user else None, tuple(own))
        held = self._held.get(key)
        if held is not None:
            held.used_at = time.monotonic()
            return key, held.session
        return key, await self._opening.join(key, lambda: self._open(key, peer, headers, profile))

    async def _headers(self, peer: Peer, asker: Asker) -> list[Field]:
        try:
            return await self._credentials.headers_for(peer.registry, asker.caller, peer.consumer, asker.base_url)
        except ConsentRequired as needed:
            raise ConsentNeeded(needed.provider, needed.connect_url) from None
        except InteractionRequired as required:
            raise HttpFailure(401, f"sts: interaction required: {required}", challenge=True) from None
        except CredentialError as error:
            raise RpcFailure(error.code, str(error)) from None

    async def _open(self, key: Key, peer: Peer, headers: list[Field], profile: Profile) -> Session:
        try:
            session = Session(self._pool, peer.url, headers, self._background, profile)
            await session.open()
        except RpcError as error:
            log.info("upstream refused initialize", registry_id=peer.registry.id, code=error.code)
            raise unreachable("initialize was refused") from None
        except Unavailable as error:
            log.info("upstream session not opened", registry_id=peer.registry.id, error=str(error))
            raise failure_of(error, "initialize") from None
        except ValueError:
            raise unreachable("the request cannot be sent") from None
        self._speaks[peer.registry.id] = may_speak(session.capabilities)
        if len(self._held) >= MAX_SESSIONS:
            oldest = min(self._held, key=lambda one: self._held[one].used_at)
            idle = self._held[oldest].session
            self.drop(oldest, idle)
            self._background.start_soon(idle.close)
        self._held[key] = _Held(session)
        return session

    def speaks(self, peer: Peer) -> bool | None:
        """Whether that upstream may say something outside of requests; None when it was never asked."""
        return self._speaks.get(peer.registry.id)

    def drop(self, key: Key, session: Session) -> None:
        """Requests are to go to another session from now on."""
        held = self._held.get(key)
        if held is not None and held.session is session:
            del self._held[key]
        session.give_up()


def may_speak(capabilities: Json | None) -> bool:
    """Whether a server announces anything of which it would tell outside of requests."""
    offered = capabilities or {}
    told = (
        ("tools", "listChanged"),
        ("prompts", "listChanged"),
        ("resources", "listChanged"),
        ("resources", "subscribe"),
    )
    features = [(offered.get(feature), member) for feature, member in told]
    return "logging" in offered or any(isinstance(found, dict) and found.get(member) for found, member in features)


def shared(profile: Profile) -> Profile:
    """The same for all callers: what a server that does not speak on its own has for them is in its answers."""
    return Profile(profile.offers, profile.log_level) if profile.offers or profile.log_level else PLAIN


def failure_of(error: Unavailable, method: str) -> RpcFailure:
    """What the client is told of an upstream that did not answer."""
    if isinstance(error, Rejected) and error.status in TRANSPORT_STATUSES:
        return transport_rejected()
    if isinstance(error, SessionLost):
        return session_lost(method)
    return unreachable(str(error))
