"""What the admin plane is given from outside its room: settings and the functions of other rooms.

What lives here: the Structs that `app.py` (the wiring) fills. What must not: any implementation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from trustgate.actors.archive import Archive
from trustgate.actors.notary import Notary
from trustgate.domain.decision import Catalog
from trustgate.domain.entities import GatewayState, Registry

Json = dict[str, Any]


class CORSSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Cross-origin access to the Admin API (spec 01 §1, 06 §5); the members are the `CORS_*` variables."""

    allow_origins: tuple[str, ...] = ("*",)
    allow_methods: tuple[str, ...] = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    allow_headers: tuple[str, ...] = ("Content-Type", "Authorization", "X-AG-Trace-Id")
    expose_headers: tuple[str, ...] = ("X-AG-Trace-Id",)
    allow_credentials: bool = False
    max_age: str = "600"


class MachineKey(msgspec.Struct, frozen=True):
    """A public key for machine tokens: PEM, PEM with `\\n` escapes, or base64 of a PEM; without `kid` it fits any."""

    pem: str
    kid: str | None = None


class MachineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The `ADMIN_M2M_*` variables; machine tokens are off unless issuer, audience and a key are set."""

    issuer: str = ""
    audience: str = "trustgate-admin"
    keys: tuple[MachineKey, ...] = ()
    max_token_ttl_s: float = 86400.0


class AdminSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the admin plane (spec 06 §3.1, §3.2)."""

    secret_key: bytes
    version: str = "0.0.0-dev"
    commit: str = ""
    build_date: str = ""
    gateway_base_domain: str = "llm.neuraltrust.ai"
    mcp_base_domain: str = "mcp.neuraltrust.ai"
    platform_claim_required: bool = False
    require_exp: bool = False
    machine: MachineSettings = MachineSettings()
    cors: CORSSettings = CORSSettings()
    max_body_bytes: int = 8 * 1024 * 1024
    max_head_bytes: int = 32768
    body_timeout_s: float = 60.0
    trusted_proxies: tuple[str, ...] = ()
    """Networks (CIDR) of proxies whose `X-Forwarded-For` names the client."""


class ConnectionTest(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection test probes; `auth` holds plaintext secrets."""

    provider: str
    provider_options: Json
    auth: Json


async def _no_trace(trace_id: str) -> Json | None:
    return None


async def _no_connections(scope: str | None, tenant: str | None) -> Sequence[Json]:
    return []


async def _no_explanation(trace_id: str) -> Explanation | None:
    return None


async def _no_forecast(before: GatewayState, after: GatewayState, from_s: float, to_s: float) -> Json:
    return {"considered": 0}


async def _no_links(gateway_id: str) -> Sequence[Json]:
    return ()


async def _no_link(gateway_id: str, link_id: str) -> bool:
    return False


async def _no_health(registry_id: str) -> Json:
    return {"healthy": True, "failures": 0}


async def _no_dependencies() -> Mapping[str, str]:
    return {}


def _now() -> datetime:
    return datetime.now(UTC)


class Explanation(msgspec.Struct, frozen=True):
    """Why a request went as it did, and whose it was."""

    tenant_id: str
    document: Json


class AccessLog(Protocol):
    """Takes one line per request (spec 06 §7)."""

    def record(
        self,
        *,
        status: int,
        method: str,
        path: str,
        duration_ns: int,
        request_id: str,
        ip: str,
        bytes_out: int,
        error: str = "",
    ) -> None: ...


class AdminServices(msgspec.Struct, kw_only=True):
    """Functions of other rooms that handlers call; synchronous ones answer from memory."""

    settings: AdminSettings

    catalog: Catalog
    """The catalog that commands are decided with; here for the request checks of a connection test."""

    providers_catalog: Callable[[], Sequence[Json]]
    """Items of `GET /v1/providers-catalog`, in answer order (spec 03 §14)."""

    models_catalog: Callable[[str | None, Registry | None], Awaitable[Sequence[Json]]]
    """Items of `GET /v1/models-catalog`: provider code (None = all), and the registry whose account narrows the list,
    with its secrets in clear."""

    policies_catalog: Callable[[], Json]
    """`{"groups": [...]}` of `GET /v1/policies-catalog` (spec 04 §11)."""

    policy_groups: Callable[[], Mapping[str, Collection[str]]]
    """Catalog group title to its plugin slugs, hidden ones included: the policy list's `category` filter."""

    mcp_servers_catalog: Callable[[], Sequence[Json]]
    """Items of `GET /v1/mcp-servers-catalog`, in answer order (spec 05 §14)."""

    probe: Callable[[ConnectionTest], Awaitable[Json]]
    """Runs a connection test (spec 03 §13); answers `{"ok", "stage", "status_code"?, "latency_ms", "message"?}`."""

    registry_tools: Callable[[Registry], Awaitable[Sequence[Json]]]
    """Lists the tools of an MCP registry whose secrets are in clear; raises `admin.errors.UpstreamUnavailable`."""

    playground_trace: Callable[[str], Awaitable[Json | None]] = _no_trace
    """The stored event of a playground request, or None (spec 06 §13)."""

    config_sync_connections: Callable[[str | None, str | None], Awaitable[Sequence[Json]]] = _no_connections
    """Connection rows for an exact scope (None = all) and a tenant (None = platform), ordered by scope, instance."""

    health: Callable[[str], Awaitable[Json]] = _no_health
    """What the data planes last marked of a registry: `healthy`, `failures`, `last_check`?, `last_error`?."""

    archive: Archive | None = None
    """The past of all gateways; without it, audit and time travel answer 503."""

    notary: Notary | None = None
    """Makes signed checkpoints of the log."""

    explanation: Callable[[str], Awaitable[Explanation | None]] = _no_explanation
    """The explanation of a request by its trace id; None when its decision is not kept here."""

    forecast: Callable[[GatewayState, GatewayState, float, float], Awaitable[Json]] = _no_forecast
    """What a gateway's change from one state to another makes of the recorded requests between two Unix times."""

    keeps_decisions: bool = True
    """Whether decisions are kept at all (`EXPLAIN_ENABLED`)."""

    readiness: Callable[[], Awaitable[Mapping[str, str]]] = _no_dependencies
    """Dependency name to `ok` or `unavailable` (spec 06 §5.1); bounded to 2 s by the caller."""

    draining: Callable[[], bool] = lambda: False
    """Whether the process is shutting down, which makes it not ready whatever its dependencies say."""

    links: Callable[[str], Awaitable[Sequence[Json]]] = _no_links
    """What users of a gateway have linked: `id`, `subject`, `provider`, `state`, `scopes`, times."""

    unlink: Callable[[str, str], Awaitable[bool]] = _no_link
    """Delete a link by gateway id and id; whether it was there."""

    access_log: AccessLog | None = None

    observe: Callable[[str, str, int, float], None] | None = None
    """Told of every answered request: method, raw path, status, seconds."""

    clock: Callable[[], datetime] = _now
