"""Client sessions that hear what their upstreams say outside of calls: changed lists, updated resources, log messages.

What lives here: which upstreams a session hears here, and the way of what they say into the session's own stream. A
session is attended by the process that its client reads that stream from, and for a while by those that run its calls
or subscribe for it, at least until that process hears as much; what is subscribed to is kept in shared state, so that
another process can go on. Notices may come twice, from two processes; none is lost on the way from one to the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec
import structlog
import trio

from trustgate.mcp import jsonrpc
from trustgate.mcp.call import notification
from trustgate.mcp.compose import permits_uri
from trustgate.mcp.discovery import RESOURCES
from trustgate.mcp.ears import LOG, UPDATED, Ear, Ears
from trustgate.mcp.errors import RpcFailure, unreachable
from trustgate.mcp.events import MAIN, STATE_S, Journal, key_of
from trustgate.mcp.exchange import Exchange
from trustgate.mcp.hub import Attended, Hub, News
from trustgate.mcp.links import Asker, Peer
from trustgate.mcp.sessions import ClientSession, Sessions, Subscription, TooMany

LINGER_S = 60.0
"""So long a session is attended after its last reader here, or its last call."""
HAND_OVER_S = 1.0
"""So long two processes hear the same, for what is on its way to the one that leaves."""
ALIGN_S = 30.0
"""How often a session that is read here is looked after, in case news of it were lost."""
MAX_URI = 8 * 1024
SWEEP_S = 5.0
MAX_SESSIONS = 10_000
FIRST_S = 1.0
"""So long the first call of a session waits for its upstream to be heard."""

log = structlog.get_logger(__name__)


class Attendance:
    """One client session in this process; the Hearer of its ears. Mutable: ears by registry, what is subscribed to
    here, how many read here, and when it was used and aligned last."""

    def __init__(self, session: ClientSession, exchange: Exchange, attendances: Attendances) -> None:
        self.session = session
        self.readers = 0
        self.used_at = self.aligned_at = trio.current_time()
        self._closed = False
        self._hub = attendances.hub
        self._all = attendances
        self._ears: dict[str, Ear] = {}
        self._asked: dict[str, Subscription] = {}
        self._journal = Journal(self._hub.state, session.id, MAIN)
        self._turn = trio.Lock()
        self.meet(session, exchange)

    def meet(self, session: ClientSession, exchange: Exchange) -> None:
        """A request of the session: its caller, and what it may use, are as they are now."""
        assert exchange.caller is not None and exchange.runtime is not None
        self.session, self.used_at = session, trio.current_time()
        self._runtime = exchange.runtime
        self._asker = Asker(exchange.caller, exchange.base_url)

    def ear(self, peer: Peer) -> Ear | None:
        """Hear that upstream, and no other version of it; None when that is not to be."""
        if self._closed:
            return None
        known = self._ears.get(peer.registry.id)
        found = self._all.ears.join(self, peer, self._asker, self.session.profile)
        if known is not None and known is not found:
            self._all.ears.leave(self, known)
            lost = [uri for uri, one in self._asked.items() if one.registry_id == peer.registry.id]
            for uri in lost:
                del self._asked[uri]
            if lost and self.readers:
                self._all.realign(self)
        if found is None:
            self._ears.pop(peer.registry.id, None)
        else:
            self._ears[peer.registry.id] = found
        return found

    def restrict(self, peers: Iterable[Peer]) -> None:
        """Of other registries nothing is heard any more."""
        kept = {peer.registry.id for peer in peers}
        for registry_id in [one for one in self._ears if one not in kept]:
            self._all.ears.leave(self, self._ears.pop(registry_id))
        for uri in [uri for uri, one in self._asked.items() if one.registry_id not in kept]:
            del self._asked[uri]

    async def subscribe(self, peer: Peer, uri: str) -> None:
        """Hear of that resource's changes, and keep that for other processes. Raises RpcFailure."""
        if len(uri) > MAX_URI:
            raise RpcFailure(jsonrpc.INVALID_PARAMS, "mcp: resource cannot be subscribed to: its URI is too long")
        async with self._turn:
            await self._subscribe(peer, uri)
            try:
                with shared_state():
                    await self._all.sessions.subscribe(self.session, self._asked[uri])
            except RpcFailure:
                self._unsubscribe(uri)
                raise

    async def _subscribe(self, peer: Peer, uri: str) -> None:
        ear = self.ear(peer)
        if ear is None:
            raise unreachable("too many listen to it")
        await ear.subscribe(self, uri)
        self._asked[uri] = Subscription(registry_id=peer.registry.id, uri=uri)

    @property
    def subscribed_to(self) -> list[str]:
        """What is subscribed to here."""
        return list(self._asked)

    def give_up(self, uris: Iterable[str]) -> None:
        """Updates of those resources are heard elsewhere."""
        for uri in uris:
            self._unsubscribe(uri)

    def _unsubscribe(self, uri: str) -> None:
        gone = self._asked.pop(uri, None)
        if gone is not None and (ear := self._ears.get(gone.registry_id)) is not None:
            ear.unsubscribe(self, uri)

    async def align(self, *, tell: bool = False) -> None:
        """Take over what the session has become, perhaps elsewhere: where it is read, all of its upstreams are heard.

        `tell`: what was subscribed to may have changed unheard. Never raises but Cancelled.
        """
        async with self._turn:
            try:
                with trio.fail_after(STATE_S):
                    self.session = await self._all.sessions.again(self.session)
                    wanted = await self._all.sessions.subscriptions(self.session)
            except Exception as error:
                log.warning("a session is attended as it was: shared state failed", error=str(error))
                wanted = dict(self._asked)
            runtime = self._runtime
            self.restrict(runtime.peers)
            self.give_up([uri for uri in self._asked if uri not in wanted])
            if not self.readers:
                return
            async with trio.open_nursery() as nursery:
                for peer in runtime.peers:
                    self.ear(peer)
                    of_peer = [uri for uri, one in wanted.items() if one.registry_id == peer.registry.id]
                    missing = [uri for uri in of_peer if uri not in self._asked]
                    if missing:
                        nursery.start_soon(self._renew, peer, missing, tell)
            self.aligned_at = trio.current_time()

    async def _renew(self, peer: Peer, uris: list[str], tell: bool) -> None:
        """Subscribe again to resources of one upstream, if it can be heard at all."""
        for uri in uris:
            try:
                await self._subscribe(peer, uri)
            except RpcFailure as failure:
                log.info("a subscription was not renewed", registry_id=peer.registry.id, error=failure.message)
                if (ear := self._ears.get(peer.registry.id)) is None or not ear.hears:
                    return
            else:
                if tell:
                    await self.updated(peer, uri, msgspec.json.encode({"uri": uri}))

    def close(self) -> None:
        self._closed = True
        for ear in self._ears.values():
            self._all.ears.leave(self, ear)
        self._ears.clear()
        self._asked.clear()

    # -- what upstreams say ------------------------------------------------------------------------------------------

    async def changed(self, method: str) -> None:
        await self._say(method, b"")

    async def updated(self, peer: Peer, uri: str, params: bytes) -> None:
        """Where a policy inspects answers, only the name of the resource goes to the client."""
        runtime = self._runtime
        if not permits_uri(runtime.entries(peer, RESOURCES), uri):
            return
        await self._say(UPDATED, msgspec.json.encode({"uri": uri}) if runtime.chain.has_pre_response else params)

    async def logged(self, params: bytes) -> None:
        if not self._runtime.chain.has_pre_response and self.session.hears(level_of(params)):
            await self._say(LOG, params)

    async def _say(self, method: str, params: bytes) -> None:
        session_id = self.session.id
        await self._journal.add(notification(method, params))
        key = key_of(session_id, MAIN)
        self._hub.wake(key)
        if not self.readers:
            await self._hub.tell(News(key))

    # -- what other processes say ------------------------------------------------------------------------------------

    def ended(self) -> None:
        self._all.drop(self)

    def attended(self, uris: list[str]) -> None:
        self._all.hand_over(self, uris)

    def subscribed(self, by: str) -> None:
        self._all.realign(self, announced=by != self._hub.instance)


@contextmanager
def shared_state() -> Iterator[None]:
    """What sessions need to be kept. Raises RpcFailure when it does not answer."""
    try:
        with trio.fail_after(STATE_S):
            yield
    except TooMany:
        raise RpcFailure(jsonrpc.THROTTLED, "mcp: too many subscriptions", status=429) from None
    except Exception as error:
        log.warning("sessions are unavailable", error=str(error))
        raise unavailable() from None


def unavailable() -> RpcFailure:
    return RpcFailure(jsonrpc.INTERNAL_ERROR, "mcp: sessions are unavailable", status=503)


class _Level(msgspec.Struct):
    level: object = None


def level_of(params: bytes) -> object:
    try:
        return msgspec.json.decode(params, type=_Level).level
    except jsonrpc.NOT_JSON:
        return None


class Attendances:
    """All of this process. Mutable: by session id."""

    def __init__(self, sessions: Sessions, hub: Hub, ears: Ears, background: trio.Nursery) -> None:
        self.hub = hub
        self.ears = ears
        self.sessions = sessions
        self._background = background
        self._found: dict[str, Attendance] = {}

    def __len__(self) -> int:
        return len(self._found)

    async def run(self) -> None:
        """Leave the sessions that nobody has used here for a while, until cancelled."""
        while True:
            await trio.sleep(SWEEP_S)
            oldest = trio.current_time() - LINGER_S
            for one in list(self._found.values()):
                if one.readers:
                    if one.aligned_at < trio.current_time() - ALIGN_S:
                        one.aligned_at = trio.current_time()
                        self.realign(one)
                elif one.used_at < oldest:
                    self.drop(one)

    def of(self, exchange: Exchange) -> Attendance:
        """The attendance of the exchange's session, from now on if it was none. Raises RpcFailure when full."""
        session = exchange.session
        assert session is not None
        found = self._found.get(session.id)
        if found is None:
            if len(self._found) >= MAX_SESSIONS:
                raise unreachable("too many sessions listen")
            found = self._found[session.id] = Attendance(session, exchange, self)
            self.hub.watch(session.id, found)
        else:
            found.meet(session, exchange)
        return found

    async def calling(self, exchange: Exchange, peer: Peer) -> None:
        """A call of a session that is listened to, perhaps elsewhere: what its upstream says is heard here."""
        try:
            ear = self.of(exchange).ear(peer)
        except RpcFailure as failure:
            log.warning("a session is not attended", error=failure.message)
            return
        if ear is not None and not ear.ready.is_set():
            with trio.move_on_after(FIRST_S):
                await ear.ready.wait()

    def read(self, exchange: Exchange, *, resumed: bool) -> Attendance | None:
        """The client reads its session's stream here until `left`; None when there are too many."""
        session = exchange.session
        assert session is not None
        fresh = session.id not in self._found
        try:
            found = self.of(exchange)
        except RpcFailure as failure:
            log.warning("a session is not attended", error=failure.message)
            return None
        found.readers += 1
        self.realign(found, tell=resumed and fresh, announced=True)
        return found

    def changed(self, attendance: Attendance, exchange: Exchange) -> None:
        """What the reader may use has changed."""
        attendance.meet(attendance.session, exchange)
        self.realign(attendance)

    def left(self, attendance: Attendance) -> None:
        attendance.readers -= 1
        attendance.used_at = trio.current_time()

    def realign(self, attendance: Attendance, *, tell: bool = False, announced: bool = False) -> None:
        """`announced`: then those that attend it elsewhere may leave, if it is read here."""
        self._background.start_soon(self._realign, attendance, tell, announced)

    async def _realign(self, attendance: Attendance, tell: bool, announced: bool) -> None:
        await attendance.align(tell=tell)
        if attendance.readers and announced:
            await self.hub.tell(Attended(attendance.session.id, self.hub.instance, attendance.subscribed_to))

    def hand_over(self, attendance: Attendance, uris: list[str]) -> None:
        """Another process hears for it, those resources too."""
        self._background.start_soon(self._hand_over, attendance, uris, trio.current_time())

    async def _hand_over(self, attendance: Attendance, uris: list[str], since: float) -> None:
        await trio.sleep(HAND_OVER_S)
        if attendance.readers:
            return
        attendance.give_up(uris)
        if attendance.used_at < since and not attendance.subscribed_to:
            self.drop(attendance)

    def drop(self, attendance: Attendance) -> None:
        if self._found.get(attendance.session.id) is attendance:
            del self._found[attendance.session.id]
            self.hub.unwatch(attendance.session.id)
        attendance.close()
