"""The immutable picture of a gateway that traffic reads: indexes and routing tables as data.

What lives here: the compiled shapes. What must not: I/O, clocks, runnable parts (policy chains, balancers and provider
clients are built from a view by `proxy` and `mcp`). A view never changes; what it computes late (a consumer's tables,
on its first request) is a pure function of the state it was made from, so a request that pinned it never sees half a
change.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from trustgate.domain.entities import (
    Auth,
    Consumer,
    EmbeddingConfig,
    Gateway,
    HealthChecks,
    Json,
    MCPTarget,
    ModelPolicy,
    Policy,
    Role,
    ToolkitEntry,
)


class RegistryView(msgspec.Struct, frozen=True, kw_only=True):
    """An enabled upstream, secrets in clear. `provider` is empty for MCP servers, `mcp_target` None for LLMs."""

    id: str
    gateway_id: str
    name: str
    type: str
    description: str
    provider: str
    options: Json
    auth: Json
    health_checks: HealthChecks | None
    mcp_target: MCPTarget | None
    updated_at: datetime


class Allowance(msgspec.Struct, frozen=True):
    """Which models may be used (`allowed` None: all) and which one fills in for an absent model (empty: none)."""

    allowed: tuple[str, ...] | None = None
    default: str = ""

    def permits(self, model: str) -> bool:
        return self.allowed is None or model in self.allowed


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """The unit that is balanced: a registry and, where a pool member pins one, a model (spec 02 §7.4).

    `listed` are the member's own `models` (empty: none given); `weight` is 1..100; `source` `consumer` or `fallback`.
    """

    registry: RegistryView
    model: str = ""
    allowance: Allowance = Allowance()
    listed: tuple[str, ...] = ()
    weight: int = 1
    source: str = "consumer"

    @property
    def key(self) -> tuple[str, str]:
        return (self.registry.id, self.model)


class RoleView(msgspec.Struct, frozen=True, kw_only=True):
    """A role in gateway role order (newest first), with its enabled registries by ascending id."""

    id: str
    name: str
    entity: Role
    registries: tuple[RegistryView, ...]
    model_policies: dict[str, ModelPolicy]


class AuthSet(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer's attached and enabled credentials. `api_keys` maps the lower-case hex SHA-256 digest to the auth."""

    api_keys: dict[str, Auth]
    oauth2: tuple[Auth, ...]
    oidc: tuple[Auth, ...]
    mtls: tuple[Auth, ...]


class ConsumerView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a request of one consumer needs.

    `pool` and `chain` are registries after spec 02 §7.2; `routes` the balanced pool of §7.4; `alias_routes` the members
    addressed by `pool:<alias>`; `policies` the enabled chain of spec 04 §3 in gateway order (priority, created_at, id);
    `policy_scopes` maps a policy id to `consumer` or `global`; `embedding` is the semantic algorithm's, secrets in
    clear.
    """

    id: str
    name: str
    slug: str
    type: str
    role_based: bool
    entity: Consumer
    registries: tuple[RegistryView, ...]
    pool: tuple[RegistryView, ...]
    chain: tuple[RegistryView, ...]
    routes: tuple[Route, ...]
    algorithm: str
    pool_alias: str
    embedding: EmbeddingConfig | None
    fallback_enabled: bool
    triggers: frozenset[str]
    max_attempts: int
    max_total_latency_ms: int
    model_policies: dict[str, ModelPolicy]
    auths: AuthSet
    roles: tuple[RoleView, ...]
    policies: tuple[Policy, ...]
    policy_scopes: dict[str, str]
    toolkit: tuple[ToolkitEntry, ...]
    fail_mode: str


class GatewayIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway-wide members a request reads, resolved to their defaults (session defaults: spec 02 §5)."""

    id: str
    slug: str
    tenant_id: str
    entity: Gateway
    session_enabled: bool
    session_header: bytes
    session_body_param: str
    metered: bool
