"""The runnable parts of a consumer at one version of its view: peers, surface, policy chain, and answers kept ready.

What lives here: building them once, and the compositions made from upstream lists. What must not: per-request state.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from trustgate.domain.entities import ToolkitEntry
from trustgate.mcp.compose import Composition, Listing, compose, permits_template, permits_uri, result_of
from trustgate.mcp.discovery import PROMPTS, RESOURCES, TEMPLATES, TOOLS, Kind
from trustgate.mcp.links import Peer
from trustgate.mcp.surface import Surface, inline_surface, role_surface
from trustgate.policies.engine import Chain
from trustgate.view.gateway import GatewayView
from trustgate.view.model import ConsumerView, GatewayIdentity, RoleView

SUPPORTED_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
DEFAULT_VERSION = "2025-06-18"
MAX_COMPOSITIONS = 256

Found = tuple[tuple[Peer, Listing], ...]
"""What the registries that could be asked have listed, in registry order."""


def negotiated(requested: object) -> str:
    """The protocol version to speak with a client that asked for one."""
    return requested if isinstance(requested, str) and requested in SUPPORTED_VERSIONS else DEFAULT_VERSION


class Ready(msgspec.Struct, frozen=True):
    """A composition that holds for everybody until a moment, unless the discovery's generation changes before."""

    generation: int
    until: float
    composition: Composition


class ConsumerRuntime:
    """Mutable: compositions by what they were made of, answers to `initialize` by version. Both are bounded."""

    __slots__ = (
        "_composed",
        "_greetings",
        "_toolkit",
        "by_registry",
        "chain",
        "consumer",
        "peers",
        "ready",
        "shared",
        "surface",
    )

    def __init__(self, consumer: ConsumerView, surface: Surface, chain: Chain) -> None:
        self.consumer = consumer
        self.surface = surface
        self.chain = chain
        self.peers = tuple(Peer(registry, consumer) for registry in surface.registries)
        self.by_registry = {peer.registry.id: peer for peer in self.peers}
        self._composed: dict[tuple[object, ...], Composition] = {}
        self._greetings: dict[tuple[str, bool], bytes] = {}
        self.ready: dict[str, Ready] = {}
        """By kind: the shortcut of consumers none of whose registries lists by user."""
        self.shared = not any(peer.per_user for peer in self.peers)
        kinds = (TOOLS.toolkit, PROMPTS.toolkit, RESOURCES.toolkit)
        self._toolkit = {
            (registry.id, kind): surface.entries(registry.id, kind) for registry in surface.registries for kind in kinds
        }

    def entries(self, peer: Peer, kind: Kind) -> tuple[ToolkitEntry, ...] | None:
        return self._toolkit[peer.registry.id, kind.toolkit]

    def composition(self, kind: Kind, found: Found) -> Composition:
        """The composed list; made once for the same lists."""
        key = (kind.name, *found)
        known = self._composed.get(key)
        if known is None:
            known = self._compose(kind, found)
            if len(self._composed) >= MAX_COMPOSITIONS:
                self._composed.pop(next(iter(self._composed)))
            self._composed[key] = known
        return known

    def _compose(self, kind: Kind, found: Found) -> Composition:
        if kind in (TOOLS, PROMPTS):
            parts = [(peer.registry, listing, self.entries(peer, kind)) for peer, listing in found]
            return compose(parts, kind.toolkit, kind.member)
        permits = permits_template if kind is TEMPLATES else permits_uri
        objects = [
            item.raw
            for peer, listing in found
            for item in listing.items
            if permits(self.entries(peer, kind), item.name)
        ]
        return Composition({}, result_of(kind.member, objects), frozenset())

    def greeting(self, version: str, *, in_session: bool = False) -> bytes:
        """The result of `initialize`; a session can do more than a client that is told nothing between its calls."""
        found = self._greetings.get((version, in_session))
        if found is None:
            more = {"logging": {}, "completions": {}} if in_session else {}
            found = self._greetings[version, in_session] = msgspec.json.encode(
                {
                    "protocolVersion": version,
                    "capabilities": {
                        "tools": {"listChanged": in_session},
                        "resources": {"subscribe": in_session, "listChanged": in_session},
                        "prompts": {"listChanged": in_session},
                        **more,
                    },
                    "serverInfo": {"name": "trustgate", "version": f"1.0+{self.surface.version}"},
                }
            )
        return found


class _GatewayParts:
    __slots__ = ("runtimes", "view")

    def __init__(self, view: GatewayView) -> None:
        self.view = view
        self.runtimes: dict[tuple[str, ...], ConsumerRuntime] = {}


class Runtimes:
    """All runnable parts of this process, by gateway; those of an older view are dropped with it."""

    def __init__(self, compile_chain: Callable[[ConsumerView, GatewayIdentity], Chain]) -> None:
        self._compile_chain = compile_chain
        self._gateways: dict[str, _GatewayParts] = {}

    def of(self, view: GatewayView, consumer: ConsumerView, roles: tuple[RoleView, ...] | None) -> ConsumerRuntime:
        """The parts for a consumer, or with `roles` for callers who have exactly these."""
        parts = self._gateways.get(view.id)
        if parts is None or parts.view.version < view.version:
            parts = self._gateways[view.id] = _GatewayParts(view)
        elif parts.view is not view:
            return self._build(view, consumer, roles)  # a request that pinned an older view
        key = (consumer.id,) if roles is None else (consumer.id, *(role.id for role in roles))
        found = parts.runtimes.get(key)
        if found is None:
            found = parts.runtimes[key] = self._build(view, consumer, roles)
        return found

    def _build(self, view: GatewayView, consumer: ConsumerView, roles: tuple[RoleView, ...] | None) -> ConsumerRuntime:
        surface = inline_surface(consumer) if roles is None else role_surface(roles)
        return ConsumerRuntime(consumer, surface, self._compile_chain(consumer, view.identity))

    def update(self, view: GatewayView) -> None:
        """Parts follow their view on its next request; nothing is built ahead of traffic."""

    def forget(self, gateway_id: str) -> None:
        self._gateways.pop(gateway_id, None)
