"""What the MCP plane is made of, chosen by `app`: one object, handed to every step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec
import trio

from trustgate.identity.mcp import Caller, CallRequest
from trustgate.limits.ops import Limits
from trustgate.mcp.attendance import Attendances
from trustgate.mcp.discovery import Discovery
from trustgate.mcp.exchange import Exchange
from trustgate.mcp.hub import Hub
from trustgate.mcp.links import Links
from trustgate.mcp.locate import AllowedHosts, BaseUrls
from trustgate.mcp.runtime import Runtimes
from trustgate.mcp.sessions import Sessions
from trustgate.policies.cors import Cors
from trustgate.view.gateway import Directory, GatewayView
from trustgate.view.model import ConsumerView
from trustgate.wire.clients import Networks

Scope = tuple[GatewayView, ConsumerView]


class McpConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The environment's say on this plane. Sizes in bytes, times in seconds."""

    version: str
    max_body_bytes: int = 8 * 1024 * 1024
    plan_limit: bool = True
    telemetry: bool = True


class Observer(Protocol):
    """Hears of every request once, when its answer is over. Never suspends."""

    def finished(self, exchange: Exchange) -> None: ...

    def probed(self, method: str, path: str, status: int) -> None:
        """A probe was answered: it is counted, and neither logged nor recorded."""
        ...


class Readiness(Protocol):
    """What `/readyz` answers from: dependencies as `ok` or `unavailable`, and whether shutdown has begun."""

    draining: bool

    def now(self) -> Mapping[str, str]: ...

    def configuration(self) -> Mapping[str, Any] | None:
        """The snapshot in use, where a control plane feeds this one."""
        ...


class Pages(Protocol):
    """The routes of this listener that are not JSON-RPC: metadata, OAuth2, connect pages."""

    def wants(self, method: str, path: str) -> bool: ...

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None: ...


class McpServices(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a step may use. `catch_up` brings the directory up to the log before a miss is believed;
    `authenticate` raises `identity.mcp.Unauthenticated`; `count` adds one to an operational counter."""

    config: McpConfig
    directory: Directory
    catch_up: Callable[[], Awaitable[None]]
    base_urls: BaseUrls
    authenticate: Callable[[CallRequest, Scope | None], Awaitable[Caller]]
    links: Links
    discovery: Discovery
    runtimes: Runtimes
    limits: Limits
    count: Callable[[str, dict[str, str]], None]
    observer: Observer
    background: trio.Nursery
    readiness: Readiness
    pages: Pages | None
    sessions: Sessions
    hub: Hub
    attendances: Attendances
    cors: Cors | None
    allowed_hosts: AllowedHosts | None = None
    trusted_proxies: Networks = ()
    """Peers whose `X-Forwarded-For` names the client."""
    now: Callable[[], float]
