"""One request on its way through the proxy plane: everything the stages learn about it.

What lives here: the mutable record that the stages of `pipeline` fill in order, and that telemetry reads at the end.
What must not: behaviour. Each member names the stage that sets it; only that stage writes it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from trustgate.formats.canonical import Usage
from trustgate.identity.principal import Principal
from trustgate.proxy.candidates import Candidate, RoutingPlan
from trustgate.proxy.intent import NONE, Intent, Peek
from trustgate.proxy.routes import ClientRoute
from trustgate.view.gateway import GatewayView
from trustgate.view.model import ConsumerView, Route

if TYPE_CHECKING:
    from trustgate.policies.model import PolicyRequest, Run
    from trustgate.proxy.attempts import Targets
    from trustgate.proxy.runtime import ConsumerRuntime

HeaderList = list[tuple[bytes, bytes]]
Write = Callable[[bytes], Awaitable[None]]


NO_PLAN = RoutingPlan(None)


class Attempt(msgspec.Struct, kw_only=True, array_like=True):
    """One upstream try as telemetry reports it (spec 06 §9.2). `status_code` 0: no upstream response.

    Encoded as an array, it is a `decisions.record.Try`: members are only ever added at the end.
    """

    registry_id: str
    provider: str
    attempt: int
    fallback: bool
    pinned: bool
    route: str
    route_model: str = ""
    outcome: str = "unknown"
    status_code: int = 0
    latency_ms: int = 0
    kind: str = ""


class Reply(msgspec.Struct, kw_only=True):
    """What goes back to the client: a whole body, or a `stream` that writes its events to the function given and
    returns its last bytes, to be sent with the end."""

    status: int
    headers: HeaderList
    body: bytes = b""
    stream: Callable[[Write], Awaitable[bytes]] | None = None


class Exchange:
    """A request and what became of it."""

    __slots__ = (
        "aborted",
        "answered",
        "attempts",
        "body",
        "client_body",
        "client_ip",
        "collect",
        "consumer",
        "ended_at",
        "error_code",
        "error_message",
        "finish_reason",
        "first_byte_at",
        "header_map",
        "headers",
        "intent",
        "method",
        "overflowed",
        "path",
        "peeked",
        "peer_ip",
        "picked",
        "plan",
        "policy_request",
        "principal",
        "provider_model",
        "query",
        "reply_body",
        "reply_headers",
        "reply_status",
        "requested_model",
        "route",
        "run",
        "runtime",
        "sent_model",
        "session_id",
        "session_supplied",
        "stage",
        "started_at",
        "started_unix",
        "streaming",
        "targets",
        "trace_id",
        "turn_id",
        "untranslated",
        "usage",
        "view",
    )

    def __init__(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        client_ip: str,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.header_map = dict(headers)
        """The first value of each header."""
        if len(self.header_map) != len(headers):
            self.header_map = dict(reversed(headers))
        self.client_body = body
        """The body as received, after content decoding."""
        self.body = body
        """The body as routing and policies have made it."""
        self.peer_ip = self.client_ip = client_ip
        """The peer of the connection, and whom trusted proxies name in its place."""
        self.started_at = time.perf_counter()
        self.started_unix = time.time()
        self.ended_at = 0.0
        self.first_byte_at = 0.0
        # set by find_gateway, match_route, find_consumer, authenticate_caller
        self.view: GatewayView | None = None
        self.route: ClientRoute | None = None
        self.consumer: ConsumerView | None = None
        self.runtime: ConsumerRuntime | None = None
        self.principal: Principal | None = None
        # set by name_session, start_trace
        self.session_id = ""
        self.session_supplied = False
        self.trace_id = ""
        # set by read_model_reference, choose_candidates, pick_route
        self.peeked: Peek | None = None
        self.intent: Intent = NONE
        self.requested_model = ""
        self.plan: RoutingPlan = NO_PLAN
        self.targets: Targets | None = None
        self.picked: Route | None = None
        # set by the policies and the attempts
        self.run: Run | None = None
        self.policy_request: PolicyRequest | None = None
        self.streaming = False
        self.attempts: list[Attempt] = []
        self.collect = False
        """Whether a streamed answer's text is kept for late policies and telemetry."""
        self.sent_model = ""
        self.untranslated: tuple[str, ...] = ()
        # set from the upstream's answer
        self.usage: Usage | None = None
        self.provider_model = ""
        self.finish_reason = ""
        self.turn_id = ""
        # set when the reply is known
        self.reply_status = 0
        self.reply_headers: HeaderList = []
        self.reply_body: bytes = b""
        self.error_code = ""
        self.error_message = ""
        self.stage = ""
        """The stage that answered or refused, when it was not the upstream's answer that ended the request."""
        self.answered = False
        """An upstream answered, and that answer was not replaced by a policy."""
        self.aborted = False
        """The client left, or the stream broke, before the answer was complete."""
        self.overflowed = False
        """The stream was longer than what is kept of it: its text is not known, only its usage."""

    @property
    def candidates(self) -> list[Candidate] | None:
        """The registries that may serve, in order; None when they are not computed (spec 02 §7.3)."""
        return self.plan.candidates
