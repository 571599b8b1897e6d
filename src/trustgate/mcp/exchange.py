"""One request on its way through the MCP plane: what the steps learn about it, and what telemetry reads at the end.

What must not live here: behaviour.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from trustgate.identity.mcp import Caller
from trustgate.mcp.errors import HeaderList
from trustgate.mcp.links import Asker, Peer
from trustgate.mcp.locate import slug_of
from trustgate.mcp.runtime import ConsumerRuntime
from trustgate.mcp.sessions import ClientSession
from trustgate.mcp.upstream import PLAIN, Listener, Profile
from trustgate.policies.model import Run
from trustgate.wire.ids import uuid4

MAX_REQUEST_ID = 256


class Reply(msgspec.Struct, kw_only=True):
    """What goes back to the client."""

    status: int
    body: bytes
    headers: HeaderList = []


class CallFacts(msgspec.Struct):
    """The `mcp` member of the event (spec 06 §9.2); empty members are left out of it."""

    method: str = ""
    operation: str = ""
    server_name: str = ""
    registry_id: str = ""
    host: str = ""
    catalog_code: str = ""
    transport: str = ""
    tool: str = ""
    upstream_tool: str = ""
    prompt: str = ""
    resource_uri: str = ""
    upstream_status: int = 0
    upstream_latency_ms: int = 0
    rpc_error_code: int = 0


class Exchange:
    """A request and what became of it."""

    __slots__ = (
        "aborted",
        "asker",
        "base_url",
        "body",
        "caller",
        "client_certificate",
        "client_ip",
        "cors",
        "detached",
        "dispatch_ms",
        "ended_at",
        "facts",
        "header_map",
        "headers",
        "listener",
        "located",
        "method",
        "own_id",
        "path",
        "peer_ip",
        "reply",
        "request_id",
        "run",
        "runtime",
        "secure",
        "session",
        "slug",
        "started_at",
        "started_unix",
        "targets",
        "trace_id",
    )

    def __init__(
        self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]], body: bytes, client_ip: str
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.header_map: dict[bytes, bytes] = {}
        for name, value in headers:
            self.header_map.setdefault(name, value)
        self.body = body
        self.peer_ip = self.client_ip = client_ip
        """The peer of the connection, and whom trusted proxies name in its place."""
        self.client_certificate: bytes | None = None
        """DER of the TLS peer's certificate, where the listener speaks TLS and asked for one."""
        self.started_at = time.perf_counter()
        self.started_unix = time.time()
        self.ended_at = 0.0
        given = self.header_map.get(b"x-request-id", b"")
        self.own_id = "" if 0 < len(given) <= MAX_REQUEST_ID else uuid4()
        """The id made for this request, where the client gave none."""
        self.request_id = self.own_id or given.decode("latin-1")
        self.slug = slug_of(path)
        self.base_url = ""
        self.secure = False
        self.cors: HeaderList = []
        """What a browser needs to see in the answer."""
        # set by `identify`
        self.located = False
        """Whether the path, under this host, names a consumer that is there."""
        self.caller: Caller | None = None
        self.asker: Asker | None = None
        self.runtime: ConsumerRuntime | None = None
        self.trace_id = ""
        self.session: ClientSession | None = None
        """The session that the client named, or that its `initialize` has opened."""
        # set by `dispatch`
        self.listener: Listener | None = None
        """Hears what an upstream sends in front of its answer to this request; None: nobody can."""
        self.run: Run | None = None
        self.facts: CallFacts | None = None
        """Set for requests that have an event: dispatched ones, `ping` excepted."""
        self.dispatch_ms = 0
        self.targets = 0
        """How many registries' lists this request was to be answered from."""
        self.reply: Reply | None = None
        self.aborted = False
        self.detached = False
        """Whether the request goes on without its client, who may come back for the answer."""

    @property
    def profile(self) -> Profile:
        """How an upstream session must have been opened to serve this request."""
        return PLAIN if self.session is None else self.session.profile

    def begin(self, method: str, operation: str) -> CallFacts:
        """This request has an event."""
        self.facts = CallFacts(method=method, operation=operation)
        return self.facts

    def dispatched(self, started: float) -> None:
        self.dispatch_ms = round((time.perf_counter() - started) * 1000)

    def asked(self, peer: Peer, started: float) -> None:
        """An upstream was asked from `started` (of `perf_counter`) until now."""
        facts, registry = self.facts, peer.registry
        if facts is not None:
            facts.server_name, facts.registry_id, facts.host = registry.name, registry.id, peer.host
            facts.catalog_code, facts.transport = peer.catalog_code, peer.transport
            facts.upstream_latency_ms += round((time.perf_counter() - started) * 1000)
