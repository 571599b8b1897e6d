"""What passes between a plane, the engine and the policies.

What lives here: the request and the answer as policies see them, what a policy may return (`Effect`), how it ends a
request (`Outcome`) and the telemetry of one run (`Mark`, spec 04 §12). What must not: the order of runs (`engine`).
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec

Stage = Literal["pre_request", "post_request", "pre_response", "post_response"]
STAGES: tuple[Stage, ...] = ("pre_request", "post_request", "pre_response", "post_response")
RUN_STAGES: tuple[Stage, ...] = ("pre_request", "pre_response", "post_response")
"""The stages that anything runs; `post_request` is a valid name that no plugin supports."""

Plane = Literal["LLM", "MCP"]
Headers = list[tuple[str, str]]
"""Header values are Latin-1 texts, one character a byte; see `header_text`."""

JSON_HEADERS: Headers = [("Content-Type", "application/json")]


def header_text(text: str) -> str:
    """Any text as a header value: its UTF-8 bytes as Latin-1 characters, without control characters."""
    return "".join(char for char in text if char.isprintable()).encode(errors="replace").decode("latin-1")


class PolicyRequest(msgspec.Struct, kw_only=True):
    """The client's request. `body` is replaced by the engine when a policy rewrites it; nothing else changes.

    `headers` have lower-case names; on the MCP plane they are empty, `operation` is the JSON-RPC method and `body` its
    params: `{"name": tool, "arguments": ...}`, `{"uri": resource}`, or `{}` for lists.
    `requested_model` is the client's raw reference, `registry_id` and `provider` those of the first choice.
    """

    body: bytes
    plane: Plane = "LLM"
    operation: str = ""
    method: str = "POST"
    path: str = ""
    query: str = ""
    headers: list[tuple[bytes, bytes]] = []
    gateway_id: str = ""
    consumer_id: str = ""
    consumer_type: str = "LLM"
    tenant_id: str = ""
    session_id: str = ""
    source_format: str = ""
    requested_model: str = ""
    registry_id: str = ""
    provider: str = ""
    client_ip: str = ""
    trace_id: str = ""
    stream: bool = False

    def header(self, name: bytes) -> str:
        """The first non-empty value of a header (lower-case `name`), or an empty text."""
        for key, value in self.headers:
            if key == name and value:
                try:
                    return value.decode()
                except UnicodeDecodeError:
                    return value.decode("latin-1")
        return ""


class TokenUsage(msgspec.Struct, frozen=True):
    """Tokens of one answer. `total` 0 means the sum of input and output."""

    input: int = 0
    output: int = 0
    total: int = 0
    cache_read: int = 0


class PolicyResponse(msgspec.Struct, kw_only=True):
    """The answer, in the client's format.

    Before the first byte of a stream `streaming` is true and `body` empty. In `post_response` of a stream `body` holds
    its non-empty lines, each followed by a newline, when `complete`; `complete` is false when the client left before
    the end or the text exceeds 8 MiB, and then only `usage` is to be relied on. `usage` is what the plane observed,
    None when it does not know; `model` the one the upstream named.
    """

    status: int = 200
    headers: Headers = []
    body: bytes = b""
    streaming: bool = False
    complete: bool = True
    usage: TokenUsage | None = None
    model: str = ""


class Outcome(msgspec.Struct, kw_only=True):
    """The end of a request by a policy.

    `reject` is a deliberate block, `stop` an answer of the policy's own, `error` an infrastructure failure. `headers`
    of a stop are all that were gathered in this request; of a rejection only its own. `body` None: the plane renders
    the standard body (`rendered`).
    """

    kind: Literal["stop", "reject", "error"]
    status: int = 403
    headers: Headers = []
    body: bytes | None = None
    type: str = ""
    message: str = ""
    slug: str = ""

    def rendered(self) -> tuple[int, Headers, bytes]:
        """Status, headers and body for the client on the LLM plane (spec 04 §6)."""
        if self.kind == "error":
            return 502, list(JSON_HEADERS), b'{"error":"backend_error"}'
        headers = [pair for pair in self.headers if pair[0].lower() not in NOT_RELAYED]
        if self.kind == "stop":
            return self.status, headers, self.body or b""
        body = self.body
        if body is None:
            standard = {"error": "plugin_rejected", "message": self.message}
            if self.type:
                standard["type"] = self.type
            body = msgspec.json.encode(standard)
        if body and not any(name.lower() == "content-type" for name, _ in headers):
            headers = headers + JSON_HEADERS
        return self.status, headers, body


NOT_RELAYED = frozenset(
    (
        "connection",
        "proxy-connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "x-request-id",
    )
)


class Effect(msgspec.Struct, kw_only=True):
    """What one run of a policy changes: headers to append, a new request body, an end of the request."""

    headers: Headers = []
    body: bytes | None = None
    outcome: Outcome | None = None


def reject(status: int, message: str, *, type: str = "", body: Any = None, headers: Headers | None = None) -> Effect:
    """A deliberate block. `body` is bytes, or anything that JSON can hold; None leaves the standard body."""
    raw = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
    return Effect(
        outcome=Outcome(kind="reject", status=status, message=message, type=type, body=raw, headers=headers or [])
    )


def stop(status: int, body: bytes, headers: Headers | None = None) -> Effect:
    """An answer of the policy's own, or in `pre_response` a replaced body."""
    return Effect(headers=headers or [], outcome=Outcome(kind="stop", status=status, body=body))


class Extras(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What a plugin tells of a run, in the documented order. Members with a default are left out while they have it."""


class Mark(msgspec.Struct, kw_only=True):
    """Telemetry of one run: an entry of the event's `policy_chain`."""

    name: str
    stage: str
    policy_id: str = ""
    decision: str = ""
    latency_ms: float = 0.0
    status_code: int = 0
    error: bool = False
    score: float | None = None
    score_label: str = ""
    extras: dict[str, Any] | None = None

    @property
    def flagged(self) -> bool:
        return self.error or self.status_code >= 400 or self.decision in FLAGGED

    def tell(self, extras: Extras) -> None:
        self.extras = msgspec.to_builtins(extras)

    @property
    def telling(self) -> bool:
        """Whether the event keeps the entry at all."""
        return bool(self.decision or self.extras or self.score is not None or self.error or self.status_code >= 400)


FLAGGED = frozenset(("block", "blocked", "reported", "report", "throttle"))


class Hold(Protocol):
    """A reservation that must end with the request."""

    async def release(self) -> None: ...


class Reservation(msgspec.Struct, kw_only=True):
    """A hold as the request's record shows it, in `unit` (`tokens` or `micro_usd`).

    `charged` is what the answer cost in the end, 0 when all was given back, None as long as neither has happened.
    """

    policy_id: str
    unit: str
    reserved: int
    charged: int | None = None


class Run(msgspec.Struct, kw_only=True):
    """The state of one request's passage through its chain.

    `headers` are those for the eventual answer; `marks` the telemetry in start order; `notes` what a policy remembers
    from one stage to the next, by policy id; `holds` what `Chain.release` gives back; `reservations` what the record
    tells of those.
    """

    headers: Headers = []
    marks: list[Mark] = []
    notes: dict[str, Any] = {}
    holds: list[Hold] = []
    reservations: list[Reservation] = []
