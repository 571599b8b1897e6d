"""The shape of a plugin: one frozen record a module, read by the registry, the catalog and the engine.

What lives here: `Plugin`, `Binding` (where a compiled policy sits) and `Services` (what it may use). What must not:
knowledge of any plugin.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec

from trustgate.limits import Limits
from trustgate.policies.model import Effect, Mark, PolicyRequest, PolicyResponse, Run

REQUEST_BODY, RESPONSE_BODY, METADATA = "request body", "response body", "metadata"


class PolicyError(Exception):
    """A plain error of a policy: infrastructure failed. The text is logged, never shown to a client."""


class Price(msgspec.Struct, frozen=True):
    """USD per token."""

    input: float
    output: float


class HttpReply(msgspec.Struct, frozen=True):
    """An answer of a guard service; `headers` have lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes


class Http(Protocol):
    """One POST to a guard service. Raises `PolicyError` on any transport failure, timeout or oversized answer."""

    def __call__(
        self, url: str, headers: Sequence[tuple[str, str]], body: bytes, *, timeout_s: float, max_bytes: int = 1 << 20
    ) -> Awaitable[HttpReply]: ...


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Process-wide settings of plugins (spec 04 §16)."""

    trustguard_base_url: str = ""
    trustguard_client_id: str = ""
    trustguard_client_secret: str = ""
    trustguard_timeout_s: float = 15.0
    openai_moderation_base_url: str = "https://api.openai.com"
    openai_moderation_timeout_s: float = 15.0
    embeddings_base_url: str = "https://api.openai.com"
    vector_store: str = "redis"


async def _no_http(
    url: str, headers: Sequence[tuple[str, str]], body: bytes, *, timeout_s: float, max_bytes: int = 1 << 20
) -> HttpReply:
    raise PolicyError("no HTTP client is configured")


def _no_price(provider: str, model: str) -> Price | None:
    return None


class Services(msgspec.Struct, kw_only=True):
    """What compiled policies may use; filled once by the application.

    `price` looks one model up in the model catalog; `clock` is Unix time in seconds; `caches` are the semantic cache's
    stores by name; `shared` keeps what policies of one process share (tokens, AWS clients) by a key of their own;
    `count` adds one to an operational counter (name, labels).
    """

    limits: Limits
    http: Http = _no_http
    price: Callable[[str, str], Price | None] = _no_price
    environment: Environment = Environment()
    clock: Callable[[], float] = time.time
    caches: dict[str, Any] = {}
    shared: dict[Any, Any] = {}
    count: Callable[[str, dict[str, str]], None] = lambda name, labels: None


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """Where a policy is compiled for: its id and mode, and whose state it keeps (spec 04 §3)."""

    policy_id: str
    mode: str
    dimension: str
    subject: str
    gateway_id: str
    consumer_id: str
    stages: frozenset[str]
    plane: str
    services: Services

    @property
    def blocking(self) -> bool:
        return self.mode != "observe"

    @property
    def label(self) -> str:
        """The default decision label of the mode."""
        return {"enforce": "block", "throttle": "throttle", "observe": "observe"}[self.mode]

    def owner(self) -> str:
        """The subject of stateful plugins; raises `PolicyError` when it is blank."""
        if self.subject:
            return self.subject
        what = "gateway id for global" if self.dimension == "global" else "consumer id for consumer"
        raise PolicyError(f"plugins: missing {what} scope")


class Runner(Protocol):
    """A compiled policy. It has the methods of its stages only; `waits` tells whether they may block."""

    waits: bool


PreRequest = Callable[[PolicyRequest, Run, Mark], Awaitable[Effect | None]]
OnResponse = Callable[[PolicyRequest, PolicyResponse, Run, Mark], Awaitable[Effect | None]]


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin's contract (spec 04 §14) and how to make one.

    `check` raises `SettingsError`; `build` makes the runner of one policy, once per version of a consumer's view.
    `capabilities` are used by at most one policy per batch; `inspects` marks those that only look at the request and
    must see it rewritten; `charges` those whose `post_response` only needs usage. `refuse` tells why settings don't
    fit a protocol. `secrets` are paths of secret members; `error_prefix` is put before every settings message.
    """

    slug: str
    name: str
    description: str
    group: str
    mandatory: tuple[str, ...] = ()
    supported: tuple[str, ...]
    modes: tuple[str, ...] = ("enforce", "observe")
    protocols: tuple[str, ...] = ("LLM",)
    capabilities: frozenset[str] = frozenset()
    inspects: bool = False
    hidden: bool = False
    charges: bool = False
    settings: type[msgspec.Struct]
    check: Callable[[Any, Environment], None]
    build: Callable[[Any, Binding], Any]
    refuse: Callable[[Any, str], str | None] | None = None
    secrets: tuple[tuple[str, ...], ...] = ()
    error_prefix: str = ""
