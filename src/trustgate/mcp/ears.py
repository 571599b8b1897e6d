"""What upstreams say outside of calls: one ear on each upstream session that somebody listens to (spec 05 §7.2).

What lives here: keeping the stream of an upstream session open while it is wanted, asking for updates of resources,
bounding how much an upstream may say. What must not: clients and their streams (`attendance`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any, Protocol

import msgspec
import structlog
import trio

from trustgate.mcp import jsonrpc
from trustgate.mcp.answers import RpcError, SessionLost, Unavailable
from trustgate.mcp.discovery import Discovery
from trustgate.mcp.errors import ConsentNeeded, HttpFailure, RpcFailure, unreachable
from trustgate.mcp.hub import Hub, Outdated
from trustgate.mcp.jsonrpc import Message
from trustgate.mcp.links import Asker, Links, Peer, failure_of
from trustgate.mcp.upstream import PLAIN, Profile, Session

MAX_REMEMBERED = 4096
"""Upstreams of which it is remembered when their lists were forgotten; a list fetched once more does no harm."""

MAX_PER_HOST = 256
"""Ears on one upstream host, so that requests are not kept from its connections."""
MAX_BYTES = 64 * 1024
"""Larger notifications are left out."""
MERGE_S = 0.1
"""Notices of the same change within that time are one."""
MAX_MERGING = 64
MAX_LOGS_A_S = 100
READY_S = 5.0
RETRY_S, RETRY_FACTOR, RETRY_MAX_S = 1.0, 2.0, 60.0
WITHOUT_S = 300.0
"""So long an upstream that has nothing to say, or no credential for, is left alone."""
UPDATED = "notifications/resources/updated"
LOG = "notifications/message"
LIST_CHANGES = {f"notifications/{kind}/list_changed": kind for kind in ("tools", "resources", "prompts")}

log = structlog.get_logger(__name__)


class Hearer(Protocol):
    """Somebody who hears of an upstream; neither method raises."""

    async def changed(self, method: str) -> None:
        """The upstream's lists of a kind have changed."""
        ...

    async def updated(self, peer: Peer, uri: str, params: bytes) -> None:
        """A resource that this hearer asked about has changed."""
        ...

    async def logged(self, params: bytes) -> None: ...


class _Uri(msgspec.Struct):
    uri: Any = None


class Ear:
    """One upstream session that is listened to; an upstream's Listener.

    Mutable: who hears, the resources they asked about, the session that it is on now.
    """

    wants_progress = False
    answers: frozenset[str] = frozenset()

    def __init__(self, ears: Ears, key: Hashable, peer: Peer, asker: Asker, profile: Profile) -> None:
        self.key = key
        self.peer = peer
        self.asker = asker
        self.hearers: set[Hearer] = set()
        self.ready = trio.Event()
        """Set when it is known for the first time whether the upstream can be heard."""
        self.scope = trio.CancelScope()
        self._ears = ears
        self._profile = profile
        self._asked: dict[str, set[Hearer]] = {}
        self._session: Session | None = None
        self._silent = False
        """The upstream announces nothing that it would say: it is not listened to."""
        self._subscribed: Session | None = None
        """The session on which the upstream was asked about the resources."""
        self._leaving: dict[str, trio.Event] = {}
        """Resources that the upstream is being told nobody asks about any more."""
        self._merging: dict[str, float] = {}
        """Notices that are about to be told, and when they came last."""
        self._second, self._logs = 0, 0

    async def run(self) -> None:
        """Listen until cancelled; an upstream that is away is looked for again."""
        delay = RETRY_S
        with self.scope:
            while True:
                started = trio.current_time()
                try:
                    await self._listen()
                    pause = WITHOUT_S
                except ConsentNeeded:
                    pause = WITHOUT_S
                except Exception as failure:
                    expected = isinstance(failure, (RpcFailure, HttpFailure, Unavailable))
                    told = log.info if expected else log.exception
                    told("an upstream is not heard", registry_id=self.peer.registry.id, error=str(failure))
                    delay = RETRY_S if trio.current_time() - started > RETRY_MAX_S else delay * RETRY_FACTOR
                    pause = min(delay, RETRY_MAX_S)
                self._session = None
                self.ready.set()
                await trio.sleep(pause)

    async def _listen(self) -> None:
        """Returns when the upstream has no stream, or nothing to say. Raises RpcFailure, HttpFailure, Unavailable."""
        links = self._ears.links
        if links.speaks(self.peer) is None:
            await links.hold(self.peer, self.asker, PLAIN)
        self._silent = not links.speaks(self.peer)
        if self._silent:
            return
        key, session = await links.hold(self.peer, self.asker, self._profile)
        if session.listened:
            raise Unavailable("the session is listened to already")

        async def begun(missed: bool) -> None:
            await self._begun(session, missed)

        try:
            await session.listen(self, begun)
        except SessionLost:
            links.drop(key, session)
            raise

    async def _begun(self, session: Session, missed: bool) -> None:
        """What is asked about is asked about anew on a new session; what may have changed unheard is told."""
        known = self._subscribed
        self._session = session
        if known is not session:
            self._subscribed = session
            for uri in tuple(self._asked):
                await self._ask(session, "resources/subscribe", uri)
        self.ready.set()
        if known is not None and known is not session:
            for method in LIST_CHANGES:
                self._merge(method, method)
        if known is not None and (missed or known is not session):
            for uri in self._asked:
                self._merge(UPDATED + uri, UPDATED, uri, msgspec.json.encode({"uri": uri}))

    async def _ask(self, session: Session, method: str, uri: str) -> None:
        try:
            await session.request(method, msgspec.json.encode({"uri": uri}))
        except (RpcError, Unavailable) as error:
            log.info("an upstream was not asked", method=method, registry_id=self.peer.registry.id, error=str(error))

    @property
    def hears(self) -> bool:
        """Whether the upstream's stream is open now, or was when it was last looked at."""
        return self._session is not None

    # -- resources ---------------------------------------------------------------------------------------------------

    async def subscribe(self, hearer: Hearer, uri: str) -> None:
        """Hear of changes of that resource. Raises RpcFailure when the upstream does not tell of them."""
        with trio.move_on_after(READY_S):
            await self.ready.wait()
        while (leaving := self._leaving.get(uri)) is not None:
            await leaving.wait()
        if self._silent:
            raise not_told(uri)
        session = self._session
        if session is None:
            raise unreachable("its messages cannot be heard")
        if not self._asked.get(uri):
            offered = (session.capabilities or {}).get("resources")
            if not isinstance(offered, dict) or not offered.get("subscribe"):
                raise not_told(uri)
            try:
                await session.request("resources/subscribe", msgspec.json.encode({"uri": uri}))
            except RpcError as error:
                raise RpcFailure(error.code, error.message, raw=error.raw) from None
            except Unavailable as error:
                raise failure_of(error, "resources/subscribe") from None
        self._asked.setdefault(uri, set()).add(hearer)
        if hearer not in self.hearers:  # it left meanwhile
            self.unsubscribe(hearer, uri)

    def unsubscribe(self, hearer: Hearer, uri: str) -> None:
        hearers = self._asked.get(uri)
        if hearers is None:
            return
        hearers.discard(hearer)
        if hearers:
            return
        del self._asked[uri]
        if self._session is not None and uri not in self._leaving:
            self._leaving[uri] = trio.Event()
            self._ears.background.start_soon(self._leave, self._session, uri)

    async def _leave(self, session: Session, uri: str) -> None:
        """Whoever asks about it meanwhile waits, so that the upstream hears of both in their order."""
        try:
            await self._ask(session, "resources/unsubscribe", uri)
        finally:
            self._leaving.pop(uri).set()

    def forget(self, hearer: Hearer) -> None:
        """That hearer is gone."""
        for uri in [uri for uri, hearers in self._asked.items() if hearer in hearers]:
            self.unsubscribe(hearer, uri)
        self.hearers.discard(hearer)

    # -- what the upstream says --------------------------------------------------------------------------------------

    async def notified(self, message: Message) -> None:
        method, params = str(message.method), bytes(message.params)
        if len(params) > MAX_BYTES:
            log.info("a notification is too large", method=method, registry_id=self.peer.registry.id)
        elif method in LIST_CHANGES:
            self._merge(method, method)
        elif method == UPDATED:
            uri = jsonrpc.params_of(message, _Uri).uri
            if isinstance(uri, str):
                self._updated(uri, params)
        elif method == LOG and self._may_log():
            for hearer in tuple(self.hearers):
                await hearer.logged(params)

    async def asked(self, message: Message) -> bytes:
        raise AssertionError("an ear offers to answer nothing")

    def _updated(self, uri: str, params: bytes) -> None:
        """Where an upstream names too many parts at once, what was asked about is named instead."""
        for asked in self._asked:
            if is_part(uri, asked):
                if len(self._merging) < MAX_MERGING:
                    self._merge(UPDATED + uri, UPDATED, uri, params)
                    return
                self._merge(UPDATED + asked, UPDATED, asked, msgspec.json.encode({"uri": asked}))

    def _may_log(self) -> bool:
        second = int(trio.current_time())
        if second != self._second:
            self._second, self._logs = second, 0
        self._logs += 1
        if self._logs == MAX_LOGS_A_S + 1:
            log.info("an upstream logs too much", registry_id=self.peer.registry.id)
        return self._logs <= MAX_LOGS_A_S

    def _merge(self, name: str, method: str, uri: str = "", params: bytes = b"") -> None:
        """Tell of a change in a moment, once for all notices of it until then."""
        known = name in self._merging
        self._merging[name] = trio.current_time()
        if not known:
            self._ears.background.start_soon(self._tell, name, method, uri, params)

    async def _tell(self, name: str, method: str, uri: str, params: bytes) -> None:
        await trio.sleep(MERGE_S)
        noticed_at = self._merging.pop(name)
        if method in LIST_CHANGES:
            await self._ears.outdated(self.peer, noticed_at)
            for hearer in tuple(self.hearers):
                await hearer.changed(method)
            return
        for asked, hearers in list(self._asked.items()):
            if is_part(uri, asked):
                for hearer in tuple(hearers):
                    await hearer.updated(self.peer, uri, params)


class Ears:
    """All of this process. Mutable: ears by what they listen to, and when lists of a registry were forgotten last."""

    def __init__(self, links: Links, discovery: Discovery, hub: Hub, background: trio.Nursery) -> None:
        self.links = links
        self.background = background
        self._discovery = discovery
        self._hub = hub
        hub.on_outdated(discovery.forget)
        self._ears: dict[Hashable, Ear] = {}
        self._on_host: Counter[str] = Counter()
        self._forgotten_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._ears)

    def join(self, hearer: Hearer, peer: Peer, asker: Asker, profile: Profile) -> Ear | None:
        """The ear on that upstream, which from now on this hearer hears with; None when there are too many."""
        key = (peer.key, asker.user if peer.per_user else None, profile)
        ear = self._ears.get(key)
        if ear is None:
            if self._on_host[peer.host] >= MAX_PER_HOST:
                log.warning("too many listen to an upstream", registry_id=peer.registry.id)
                return None
            ear = self._ears[key] = Ear(self, key, peer, asker, profile)
            self._on_host[peer.host] += 1
            self.background.start_soon(ear.run)
        ear.asker = asker
        ear.hearers.add(hearer)
        return ear

    def leave(self, hearer: Hearer, ear: Ear) -> None:
        ear.forget(hearer)
        if not ear.hearers and self._ears.get(ear.key) is ear:
            del self._ears[ear.key]
            ear.scope.cancel()
            self._on_host[ear.peer.host] -= 1

    async def outdated(self, peer: Peer, noticed_at: float) -> None:
        """What that upstream lists has changed; many of its sessions may have been told so at once."""
        registry_id = peer.registry.id
        if noticed_at <= self._forgotten_at.get(registry_id, -1.0):
            return
        if len(self._forgotten_at) >= MAX_REMEMBERED:
            self._forgotten_at.clear()
        self._forgotten_at[registry_id] = trio.current_time()
        self._discovery.forget(registry_id)
        await self._hub.tell(Outdated(registry_id))


def is_part(uri: str, asked: str) -> bool:
    """Whether a server that names `uri` means the resource asked about, or, as it may, a part of it."""
    return uri.startswith(asked) and (len(uri) == len(asked) or asked[-1:] == "/" or uri[len(asked)] in "/?#")


def not_told(uri: str) -> RpcFailure:
    return RpcFailure(
        jsonrpc.INVALID_PARAMS,
        f"mcp: resource cannot be subscribed to: its server does not offer it: {uri}",
        status=404,
    )
