"""The six objects of a gateway's configuration, as immutable values.

What lives here: the stored shape of Gateway, Registry, Consumer, Auth, Policy and Role, and `GatewayState`, their sum.
What must not: validation (that is `decide`), rendering for clients (`admin`), indexes for traffic (`view`).

Member names are those of the configuration snapshot (spec 06 §17.2), so that one encoding serves the log, the snapshot
and the DB-less feed. Secret leaves inside free-form members are `SecretRef` mappings: see `trustgate.domain.secrets`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

Json = dict[str, Any]
"""A JSON object kept as it was sent; secret leaves are secret references."""

RegistryType = Literal["LLM", "MCP"]
ConsumerType = Literal["LLM", "MCP", "A2A"]
RoutingMode = Literal["inline", "role_based"]
AuthType = Literal["api_key", "oauth2", "oidc", "mtls"]
PolicyMode = Literal["enforce", "throttle", "observe"]


class SessionConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a client names its session; an absent `enabled` means true and is echoed as absent."""

    enabled: bool | None = None
    header_name: str | None = None
    body_param_name: str | None = None


class Entitlements(msgspec.Struct, frozen=True, omit_defaults=True):
    """Plan limits. The three caps come together or not at all; without them nothing is metered."""

    tier: str = msgspec.field(default="free")
    burst_per_min: int | None = None
    quota_per_month: int | None = None
    max_instances: int | None = None


class Gateway(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A tenant's gateway, addressed by its globally unique slug."""

    id: str
    slug: str
    created_at: datetime
    updated_at: datetime
    status: str = "active"
    domain: str = ""
    metadata: dict[str, str] = {}
    telemetry: Json | None = None
    client_tls: Json = {}
    session_config: SessionConfig | None = None
    entitlements: Entitlements = Entitlements()

    @property
    def tenant_id(self) -> str:
        return self.metadata.get("tenant_id", "")


class HealthChecks(msgspec.Struct, frozen=True, omit_defaults=True):
    """`threshold` failures within `interval` seconds mark a registry unhealthy when `passive`."""

    passive: bool = False
    path: str = ""
    headers: dict[str, str] = {}
    threshold: int = 0
    interval: int = 0


class LLMTarget(msgspec.Struct, frozen=True, omit_defaults=True):
    """An upstream LLM provider. `auth` is `{"type": T, "<payload>": {...}}` (spec 01 §6.2)."""

    provider: str
    provider_options: Json = {}
    auth: Json | None = None
    health_checks: HealthChecks | None = None


class MCPTarget(msgspec.Struct, frozen=True, omit_defaults=True):
    """An upstream MCP server. `auth` is `{"mode": M, ...}` (spec 05 §7.1).

    `headers` are strings; values of headers that carry credentials are secret references.
    """

    url: str
    transport: str = "streamable-http"
    code: str = ""
    headers: Json = {}
    auth: Json = {}


class Registry(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One upstream: exactly one of `llm_target` and `mcp_target` is set, according to `type`."""

    id: str
    gateway_id: str
    name: str
    created_at: datetime
    updated_at: datetime
    type: RegistryType = "LLM"
    enabled: bool = True
    description: str = ""
    llm_target: LLMTarget | None = None
    mcp_target: MCPTarget | None = None


class ModelPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which models of a registry may be used: `allowed` None means all; `default` fills in for an absent model."""

    allowed: tuple[str, ...] | None = None
    default: str = ""


class Budget(msgspec.Struct, frozen=True, omit_defaults=True):
    """Bounds of one request's attempts; 0 means unlimited. Latency in milliseconds."""

    max_attempts: int = 0
    max_total_latency_ms: int = 0


class Fallback(msgspec.Struct, frozen=True, omit_defaults=True):
    enabled: bool = False
    triggers: tuple[str, ...] = ()
    budget: Budget = Budget()
    chain: tuple[str, ...] = ()
    pinned: str = "never"
    """Addition: may a request that names a model fail over: `never` | `same_model` | `any`."""


class LBMember(msgspec.Struct, frozen=True, omit_defaults=True):
    registry_id: str
    models: tuple[str, ...] = ()
    model: str = ""
    weight: int = 0


class Tier(msgspec.Struct, frozen=True, omit_defaults=True):
    min_score: float
    registry_id: str
    model: str = ""


class SmartRouting(msgspec.Struct, frozen=True):
    tiers: tuple[Tier, ...] = ()


class EmbeddingConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    provider: str = ""
    model: str = ""
    auth: Json | None = None


class LBConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    enabled: bool = False
    algorithm: str = ""
    pool_alias: str = ""
    members: tuple[LBMember, ...] = ()
    embedding_config: EmbeddingConfig | None = None
    smart_routing: SmartRouting | None = None
    balance_pinned: str = "never"
    """Addition: may a request that names a model be balanced: `never` | `same_model` | `any`."""


class ToolkitEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    registry_id: str
    tool: str = ""
    prompt: str = ""
    resource: str = ""
    expose_as: str = ""


class Consumer(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A calling application, addressed by its globally unique slug in the URL.

    `registry_ids` are in binding order; `toolkit` None means "not set", which on a consumer equals an empty one.
    """

    id: str
    gateway_id: str
    name: str
    slug: str
    created_at: datetime
    updated_at: datetime
    type: ConsumerType = "LLM"
    routing_mode: RoutingMode = "inline"
    active: bool = True
    headers: dict[str, str] = {}
    registry_ids: tuple[str, ...] = ()
    registry_weights: dict[str, int] = {}
    role_ids: tuple[str, ...] = ()
    auth_ids: tuple[str, ...] = ()
    fallback: Fallback | None = None
    lb_config: LBConfig | None = None
    model_policies: dict[str, ModelPolicy] = {}
    toolkit: tuple[ToolkitEntry, ...] | None = None
    fail_mode: str = ""


class Auth(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A credential. API keys are kept as `key_hash` (lower-case hex SHA-256) with 8 + 4 characters for display."""

    id: str
    gateway_id: str
    name: str
    type: AuthType
    created_at: datetime
    updated_at: datetime
    enabled: bool = True
    config: Json = {}
    key_hash: str = ""
    key_prefix: str = ""
    key_suffix: str = ""
    expires_at: datetime | None = None
    """An API key is refused from then on."""
    allowed_cidrs: tuple[str, ...] = ()
    """The networks an API key may be used from; none means from anywhere."""


class Policy(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A stored configuration of one policy plugin (`slug`); applies to `consumer_ids`, or to all when `global_`."""

    id: str
    gateway_id: str
    name: str
    slug: str
    created_at: datetime
    updated_at: datetime
    description: str = ""
    enabled: bool = False
    global_: bool = msgspec.field(default=False, name="global")
    priority: int = 0
    parallel: bool = False
    settings: Json = {}
    stages: tuple[str, ...] = ()
    mode: PolicyMode = "enforce"
    consumer_ids: tuple[str, ...] = ()


class MCPPolicies(msgspec.Struct, frozen=True):
    """What a role may use of MCP servers; an empty toolkit grants nothing."""

    toolkit: tuple[ToolkitEntry, ...] = ()
    fail_mode: str = "open"


class Role(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Routing by identity claims. `oidc_mapping` is kept as sent, unknown members included."""

    id: str
    gateway_id: str
    name: str
    created_at: datetime
    updated_at: datetime
    registry_ids: tuple[str, ...] = ()
    model_policies: dict[str, ModelPolicy] = {}
    mcp_policies: MCPPolicies | None = None
    oidc_mapping: Json | None = None


class GatewayState(msgspec.Struct, frozen=True, kw_only=True):
    """All configuration of one gateway at one `version` (the number of events in its stream). Maps are keyed by id."""

    version: int
    gateway: Gateway | None = None
    registries: dict[str, Registry] = {}
    consumers: dict[str, Consumer] = {}
    auths: dict[str, Auth] = {}
    policies: dict[str, Policy] = {}
    roles: dict[str, Role] = {}
