"""What upstreams offer, asked once for everybody (spec 05 §6.5): lists are kept 5 minutes, failures 10 s."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import trio

from trustgate.mcp import jsonrpc
from trustgate.mcp.answers import RpcError
from trustgate.mcp.compose import EMPTY, Item, Listing
from trustgate.mcp.errors import ConsentNeeded, RpcFailure, unreachable
from trustgate.mcp.flight import Flights
from trustgate.mcp.links import Asker, Key, Links, Peer
from trustgate.mcp.upstream import Session

KEPT_S = 300.0
FAILURE_KEPT_S = 10.0
MAX_ENTRIES = 20_000


class Kind(msgspec.Struct, frozen=True):
    """One list method: its member, what names its items, the capability without which nothing is asked."""

    name: str
    method: str
    member: str
    identifier: str
    capability: str
    toolkit: str


TOOLS = Kind("tools", "tools/list", "tools", "name", "", "tool")
PROMPTS = Kind("prompts", "prompts/list", "prompts", "name", "prompts", "prompt")
RESOURCES = Kind("resources", "resources/list", "resources", "uri", "resources", "resource")
TEMPLATES = Kind(
    "resource-templates", "resources/templates/list", "resourceTemplates", "uriTemplate", "resources", "resource"
)


class _Entry:
    __slots__ = ("expires", "failure", "listing")

    def __init__(self, expires: float, listing: Listing | None, failure: RpcFailure | None) -> None:
        self.expires, self.listing, self.failure = expires, listing, failure


class Discovery:
    """The cache. Mutable: entries by kind, registry and its revision, and user where lists are per user."""

    def __init__(self, links: Links, nursery: trio.Nursery, clock: Callable[[], float], timeout_s: float) -> None:
        self._links = links
        self._clock = clock
        self._timeout_s = timeout_s
        self._entries: dict[Key, _Entry] = {}
        self._flights = Flights[Listing](nursery)
        self._changes = 0
        self.generation = 0
        """Changes whenever an entry does, so that what was made of entries can be kept until then."""

    def until(self, kind: Kind, peer: Peer, asker: Asker, listing: Listing) -> float:
        """When that list is asked for again, on this cache's clock; 0 when it is not the one that is kept."""
        entry = self._entries.get(key_of(kind, peer, asker))
        return entry.expires if entry is not None and entry.listing is listing else 0.0

    def now(self) -> float:
        return self._clock()

    def known(self, kind: Kind, peer: Peer, asker: Asker) -> Listing | None:
        """The list as it is kept, None when the upstream has to be asked. Raises a remembered RpcFailure."""
        entry = self._entries.get(key_of(kind, peer, asker))
        if entry is None or entry.expires <= self._clock():
            return None
        if entry.failure is not None:
            raise entry.failure.again()
        return entry.listing

    async def list(self, kind: Kind, peer: Peer, asker: Asker) -> Listing:
        """What the upstream lists. Raises RpcFailure, HttpFailure."""
        found = self.known(kind, peer, asker)
        if found is not None:
            return found
        key = key_of(kind, peer, asker)
        return await self._flights.join(key, lambda: self._ask(key, kind, peer, asker))

    def forget(self, registry_id: str) -> None:
        """Ask again next time: the upstream said that its lists have changed."""
        self.generation += 1
        self._changes += 1
        for key in [key for key in self._entries if key[1] == registry_id]:
            del self._entries[key]

    async def _ask(self, key: Key, kind: Kind, peer: Peer, asker: Asker) -> Listing:
        changes = self._changes
        try:
            with trio.fail_after(self._timeout_s):
                listing = await self._links.use(
                    peer, asker, kind.method, lambda session: fetch(session, kind), repeatable=True
                )
        except trio.TooSlowError:
            failure = unreachable("timed out (discovery)")
            self._keep(key, FAILURE_KEPT_S, None, failure)
            raise failure from None
        except ConsentNeeded:
            raise
        except RpcFailure as failure:
            self._keep(key, FAILURE_KEPT_S, None, failure)
            raise
        # A list that was asked for when lists changed may be the old one.
        self._keep(key, KEPT_S if changes == self._changes else FAILURE_KEPT_S, listing, None)
        return listing

    def _keep(self, key: Key, seconds: float, listing: Listing | None, failure: RpcFailure | None) -> None:
        now = self._clock()
        self.generation += 1
        if len(self._entries) >= MAX_ENTRIES:
            self._entries = {known: entry for known, entry in self._entries.items() if entry.expires > now}
            while len(self._entries) >= MAX_ENTRIES:
                self._entries.pop(next(iter(self._entries)))
        self._entries[key] = _Entry(now + seconds, listing, failure)


def key_of(kind: Kind, peer: Peer, asker: Asker) -> Key:
    key = peer.list_keys.get(kind.name)
    if key is None:
        key = peer.list_keys[kind.name] = (kind.name, peer.registry.id, peer.registry.updated_at)
    return (*key, asker.user) if peer.per_user else key


async def fetch(session: Session, kind: Kind) -> Listing:
    """All pages of a list; nothing from an upstream that does not have the feature. Raises Unavailable, RpcError."""
    offered = session.capabilities
    if kind.capability and (offered is None or kind.capability not in offered):
        return EMPTY
    try:
        objects = await session.list_all(kind.method, kind.member)
    except RpcError as error:
        if error.code == jsonrpc.METHOD_NOT_FOUND:
            return EMPTY
        raise
    return Listing(tuple(item for item in (read_item(raw, kind.identifier) for raw in objects) if item is not None))


def read_item(raw: bytes, identifier: str) -> Item | None:
    """An item of a list; None for one that has no name, which nobody could ask for."""
    try:
        members: dict[str, Any] = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        name = msgspec.json.decode(members.get(identifier, b"null"))
    except jsonrpc.NOT_JSON:
        return None
    return Item(name, raw) if isinstance(name, str) and name else None
