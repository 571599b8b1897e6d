"""What the proxy plane is made of, chosen by `app`: one object, handed to every stage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec
import trio

from trustgate.balance.health import HealthBook
from trustgate.balance.hints import ComplexityScorer, SemanticHints
from trustgate.identity.authenticate import IdentityServices
from trustgate.limits.ops import Limits
from trustgate.policies.cors import Cors
from trustgate.policies.plugin import Services as PolicyServices
from trustgate.providers.services import Services as ProviderServices
from trustgate.proxy.exchange import Exchange
from trustgate.proxy.runtime import Runtimes
from trustgate.proxy.session import Sessions
from trustgate.view.gateway import Directory
from trustgate.wire.client import Deadlines, Pool
from trustgate.wire.clients import Networks


class ProxyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The environment's say on this plane (spec 02 §16). Times in seconds, sizes in bytes."""

    version: str
    base_domain: str
    max_retries: int = 2
    request_timeout_s: float = 60.0
    header_timeout_s: float = 60.0
    connect_timeout_s: float = 10.0
    first_event_timeout_s: float = 300.0
    stream_idle_timeout_s: float = 120.0
    stream_max_duration_s: float = 300.0
    """0 for no limit."""
    retry_base_delay_s: float = 0.1
    retry_after_max_s: float = 5.0
    max_response_bytes: int = 64 * 1024 * 1024
    max_body_bytes: int = 8 * 1024 * 1024
    forward_headers: frozenset[bytes] = frozenset()
    """Client headers that reach providers, of `forwarding.FORWARDABLE`."""
    trusted_proxies: Networks = ()
    """Peers whose `X-Forwarded-For` names the client."""
    plan_limit: bool = True
    telemetry: bool = True


def deadlines_of(config: ProxyConfig, *, stream: bool) -> Deadlines:
    """Bounds of one upstream call (spec 02 §8.4, §9.4): a stream's life is bounded, and the silence in it."""
    return Deadlines(
        connect_s=config.connect_timeout_s,
        first_byte_s=config.header_timeout_s,
        between_s=config.stream_idle_timeout_s if stream else None,
        total_s=(config.stream_max_duration_s or None) if stream else config.request_timeout_s,
    )


class Observer(Protocol):
    """Hears of every authenticated request once, when its answer and its late policies are over. Never suspends."""

    def finished(self, exchange: Exchange) -> None: ...

    def wants_body(self, exchange: Exchange) -> bool:
        """Whether the answer's body will leave with the event, so that a stream's text must be kept."""
        ...

    def refused(self, exchange: Exchange) -> None:
        """A request that ended before authentication: it counts in metrics, but has no event."""
        ...

    def probed(self, method: str, path: str, status: int) -> None:
        """A health probe was answered."""
        ...


class Readiness(Protocol):
    """What `/readyz` answers from: dependencies as `ok` or `unavailable`, and whether shutdown has begun."""

    draining: bool

    def now(self) -> Mapping[str, str]: ...

    def configuration(self) -> Mapping[str, Any] | None:
        """The snapshot in use, where a control plane feeds this one."""
        ...


class ProxyServices(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a stage may use. `catch_up` brings the directory up to the log before a miss is believed."""

    config: ProxyConfig
    directory: Directory
    catch_up: Callable[[], Awaitable[None]]
    identity: IdentityServices
    health: HealthBook
    semantic: SemanticHints
    scorer: ComplexityScorer
    limits: Limits
    sessions: Sessions
    pool: Pool
    providers: ProviderServices
    policies: PolicyServices
    runtimes: Runtimes
    observer: Observer
    cors: Cors | None
    background: trio.Nursery
    readiness: Readiness
    now: Callable[[], float]
    deadlines: Deadlines
    stream_deadlines: Deadlines
