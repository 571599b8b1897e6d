"""Response bodies of the Admin API, member by member (spec 01 §5-§10).

What lives here: their shapes as Structs; the OpenAPI document is generated from these. What must not: how they are
filled (`rendering`). A member with a default is omitted when it is empty, the others are always there.
"""

from __future__ import annotations

from typing import Any

import msgspec

Json = dict[str, Any]


class Error(msgspec.Struct, omit_defaults=True):
    """The error envelope; `message` is omitted when empty."""

    error: str
    message: str = ""


class Hosts(msgspec.Struct):
    """Where the gateway's traffic is expected."""

    proxy: str
    mcp: str


class Exporter(msgspec.Struct, omit_defaults=True, kw_only=True):
    name: str = ""
    type: str = ""
    settings: Json = {}
    class_: str = msgspec.field(default="", name="class")


class Telemetry(msgspec.Struct, kw_only=True):
    exporters: list[Exporter] | None = None
    extra_params: dict[str, str] | None = None
    enable_plugin_traces: bool = False
    enable_request_traces: bool = False
    header_mapping: dict[str, str] | None = None
    capture_bodies: bool | msgspec.UnsetType = msgspec.UNSET


class SessionConfig(msgspec.Struct, omit_defaults=True):
    enabled: bool | None = None
    header_name: str | None = None
    body_param_name: str | None = None


class Entitlements(msgspec.Struct, omit_defaults=True):
    tier: str = ""
    burst_per_min: int | None = None
    quota_per_month: int | None = None
    max_instances: int | None = None


class Gateway(msgspec.Struct, omit_defaults=True, kw_only=True):
    id: str
    slug: str
    status: str
    version: str
    domain: str = ""
    hosts: Hosts
    metadata: dict[str, str] = {}
    telemetry: Telemetry | None = None
    client_tls: Json = {}
    session_config: SessionConfig | None = None
    entitlements: Entitlements
    created_at: str
    updated_at: str


class APIKeyAuth(msgspec.Struct, omit_defaults=True):
    """Secrets are masked: `***`, or `***` and the last four characters."""

    api_key: str = ""
    header_name: str = ""
    header_value: str = ""
    param_name: str = ""
    param_value: str = ""
    param_location: str = ""


class AzureAuth(msgspec.Struct, omit_defaults=True):
    use_managed_identity: bool = False
    endpoint: str = ""
    version: str = ""
    api_key: str = ""
    client_id: str = ""
    client_secret: str = ""
    tenant_id: str = ""


class AWSAuth(msgspec.Struct, omit_defaults=True):
    access_key_id: str = ""
    secret_access_key: str = ""
    region: str = ""
    session_token: str = ""
    role: str = ""
    use_role: bool = False


class TargetOAuth(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The grant's one-time members (`code`, `username`, ...) are never shown."""

    token_url: str
    grant_type: str
    client_id: str = ""
    client_secret: str = ""
    use_basic_auth: bool = False
    scopes: list[str] = []
    audience: str = ""
    refresh_token: str = ""
    extra: dict[str, str] = {}


class TargetAuth(msgspec.Struct, omit_defaults=True, kw_only=True):
    type: str
    api_key: APIKeyAuth | None = None
    azure: AzureAuth | None = None
    aws: AWSAuth | None = None
    oauth: TargetOAuth | None = None
    gcp_service_account: str = ""


class HealthChecks(msgspec.Struct, omit_defaults=True, kw_only=True):
    """`threshold` failures within `interval` seconds."""

    passive: bool
    path: str = ""
    headers: dict[str, str] = {}
    threshold: int
    interval: int


class MCPAuth(msgspec.Struct, omit_defaults=True, kw_only=True):
    mode: str
    header: str = ""
    value: str = ""
    expected_audience: str = ""
    pattern: str = ""
    audience: str = ""
    scope: str = ""
    actor: str = ""
    provider: str = ""
    registration: str = ""
    client_id: str = ""
    client_secret: str = ""
    authorize_url: str = ""
    token_url: str = ""
    scopes: list[str] = []
    resource: str = ""
    token_endpoint_auth_method: str = ""


class MCPTarget(msgspec.Struct, omit_defaults=True, kw_only=True):
    code: str = ""
    url: str
    transport: str = ""
    headers: dict[str, str] = {}
    auth: MCPAuth | None = None


class Registry(msgspec.Struct, omit_defaults=True, kw_only=True):
    id: str
    gateway_id: str
    name: str
    type: str
    enabled: bool
    provider: str = ""
    provider_options: Json = {}
    description: str = ""
    auth: TargetAuth | None = None
    health_checks: HealthChecks | None = None
    mcp_target: MCPTarget | None = None
    created_at: str
    updated_at: str


class RegistryGroup(msgspec.Struct):
    provider: str
    type: str
    instance_count: int
    instances: list[Registry]


class GroupedRegistries(msgspec.Struct):
    view: str
    groups: list[RegistryGroup]
    total_groups: int
    total_instances: int


class ConnectionResult(msgspec.Struct, omit_defaults=True, kw_only=True):
    """`stage` is `connectivity`, `authentication`, `provider` or `unsupported`."""

    ok: bool
    stage: str
    provider: str
    status_code: int = 0
    latency_ms: int
    message: str = ""


class RegistryTools(msgspec.Struct):
    """The members of a tool are those of the MCP server, unchanged."""

    tools: list[Json]


class RegistryHealth(msgspec.Struct, omit_defaults=True):
    """An addition: the state that the load balancers keep of a registry."""

    registry_id: str
    healthy: bool
    failures: int
    last_check: str = ""
    last_error: str = ""


class RegistryWeight(msgspec.Struct):
    registry_id: str
    weight: int


class ModelPolicy(msgspec.Struct, omit_defaults=True, kw_only=True):
    registry_id: str
    allowed: list[str] | None = None
    default: str = ""


class Budget(msgspec.Struct, omit_defaults=True, kw_only=True):
    max_attempts: int
    max_total_latency_ms: int = 0


class Fallback(msgspec.Struct, omit_defaults=True, kw_only=True):
    enabled: bool
    triggers: list[str] = []
    budget: Budget
    chain: list[str]
    pinned: str = "never"


class LBMember(msgspec.Struct, omit_defaults=True, kw_only=True):
    registry_id: str
    models: list[str] = []
    model: str = ""
    weight: int = 0


class EmbeddingConfig(msgspec.Struct, omit_defaults=True, kw_only=True):
    provider: str
    model: str
    auth: APIKeyAuth | None = None


class Tier(msgspec.Struct, omit_defaults=True, kw_only=True):
    min_score: float
    registry_id: str
    model: str = ""


class SmartRouting(msgspec.Struct):
    tiers: list[Tier]


class LBConfig(msgspec.Struct, omit_defaults=True, kw_only=True):
    enabled: bool
    algorithm: str = ""
    pool_alias: str = ""
    members: list[LBMember] = []
    embedding_config: EmbeddingConfig | None = None
    smart_routing: SmartRouting | None = None
    balance_pinned: str = "never"


class ToolkitEntry(msgspec.Struct, omit_defaults=True, kw_only=True):
    registry_id: str
    tool: str = ""
    prompt: str = ""
    resource: str = ""
    expose_as: str = ""


class Consumer(msgspec.Struct, omit_defaults=True, kw_only=True):
    id: str
    gateway_id: str
    name: str
    type: str
    slug: str
    routing_mode: str
    lb_config: LBConfig | None = None
    headers: dict[str, str] = {}
    active: bool
    registry_ids: list[str]
    registry_weights: list[RegistryWeight] = []
    role_ids: list[str]
    auth_ids: list[str]
    fallback: Fallback | None = None
    model_policies: list[ModelPolicy] = []
    toolkit: list[ToolkitEntry] = []
    fail_mode: str = ""
    created_at: str
    updated_at: str


class RoleMCPPolicies(msgspec.Struct):
    toolkit: list[ToolkitEntry]
    fail_mode: str


class Role(msgspec.Struct, omit_defaults=True, kw_only=True):
    id: str
    gateway_id: str
    name: str
    model_policies: list[ModelPolicy] = []
    mcp_policies: RoleMCPPolicies | None = None
    oidc_mapping: Json | None = None
    registry_ids: list[str]
    created_at: str
    updated_at: str


class OAuth2Config(msgspec.Struct, omit_defaults=True, kw_only=True):
    issuer: str
    audiences: list[str] = []
    jwks_url: str = ""
    introspection_url: str = ""
    client_id: str = ""
    client_secret: str = ""
    required_scopes: list[str] = []
    allowed_algorithms: list[str] = []
    session_mode: bool = False
    userinfo_url: str = ""
    subject_claim: str = ""
    authorize_url: str = ""
    token_url: str = ""


class OIDCConfig(msgspec.Struct, omit_defaults=True, kw_only=True):
    issuer: str
    audiences: list[str]
    jwks_url: str = ""
    public_keys: list[str] = []
    required_scopes: list[str] = []
    allowed_algorithms: list[str] = []
    subject_claim: str = ""


class MTLSConfig(msgspec.Struct, omit_defaults=True, kw_only=True):
    ca_cert: str = ""
    allowed_common_names: list[str] = []
    allowed_dns_names: list[str] = []
    allowed_fingerprints: list[str] = []


class AuthConfig(msgspec.Struct, omit_defaults=True, kw_only=True):
    oauth2: OAuth2Config | None = None
    oidc: OIDCConfig | None = None
    mtls: MTLSConfig | None = None


class Auth(msgspec.Struct, omit_defaults=True, kw_only=True):
    """`api_key` is the key itself, shown once: in the answer to the call that made it."""

    id: str
    gateway_id: str
    name: str
    type: str
    enabled: bool
    config: AuthConfig
    api_key: str = ""
    key_prefix: str = ""
    key_suffix: str = ""
    expires_at: str = ""
    allowed_cidrs: list[str] = []
    created_at: str
    updated_at: str


class Link(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A user's own account at an upstream server. `state`: `linked` or `expired`."""

    id: str
    subject: str
    provider: str
    state: str
    scopes: list[str]
    expires_at: str = ""
    created_at: str
    updated_at: str


class Policy(msgspec.Struct, omit_defaults=True, kw_only=True):
    id: str
    gateway_id: str
    consumer_ids: list[str] = []
    name: str
    description: str = ""
    slug: str
    enabled: bool
    global_: bool = msgspec.field(name="global")
    priority: int
    parallel: bool = False
    settings: Json = {}
    stages: list[str] = []
    mode: str
    created_at: str
    updated_at: str


class FieldChange(msgspec.Struct):
    """One member that differs; an empty `path` stands for the whole object, null for its absence."""

    path: str
    before: Any
    after: Any


class AuditEntry(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One event: who, when, from where, why, and what it changed. `position` orders all gateways, `version` this one's.

    `hash` is the event's in the chain of its stream and `previous` its predecessor's; both are absent for events from
    before the chain.
    """

    position: int
    version: int
    time: str
    gateway_id: str
    tenant_id: str = ""
    event: str
    object_type: str
    object_id: str
    object_name: str = ""
    command: str
    actor: str = ""
    actor_email: str = ""
    source: str = ""
    address: str = ""
    request_id: str = ""
    reason: str = ""
    changes: list[FieldChange]
    previous: str = ""
    hash: str = ""


class AuditPage(msgspec.Struct):
    """`next` is the cursor of the following page; null on the last one."""

    items: list[AuditEntry]
    next: str | None


class GatewayVersion(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One version of a gateway. `complete`: the last of the versions that its command led to."""

    version: int
    time: str
    event: str
    object_type: str
    object_id: str
    command: str
    complete: bool
    actor: str = ""
    actor_email: str = ""
    request_id: str = ""
    reason: str = ""


class ObjectChange(msgspec.Struct):
    """An object that differs: `created`, `updated` or `deleted`."""

    object_type: str
    object_id: str
    object_name: str
    change: str
    fields: list[FieldChange]


class Difference(msgspec.Struct):
    """The two versions, and the objects that differ between them."""

    from_: int = msgspec.field(name="from")
    to: int
    changes: list[ObjectChange]


class GoneSecret(msgspec.Struct):
    """A secret that does not come back. `kept`: its object keeps the present one; otherwise it has none now."""

    object_type: str
    object_id: str
    path: str
    fingerprint: str
    kept: bool


class Reverted(msgspec.Struct, kw_only=True):
    """`to` is the version whose state is back, `before` and `version` are those of the gateway before and after."""

    to: int
    before: int
    version: int
    dry_run: bool
    changes: list[ObjectChange]
    secrets_gone: list[GoneSecret] = []


class Checkpoint(msgspec.Struct, kw_only=True):
    """A signed statement about the log up to `position`, of which `events` are new; `id` is the SHA-256 of the
    statement, `previous` the id of the checkpoint before. The statement itself is in an export."""

    number: int
    time: str
    position: int
    events: int
    id: str
    previous: str
    signature: str


class Checkpoints(msgspec.Struct):
    """`public_key` is an Ed25519 key as 64 hex characters."""

    public_key: str
    items: list[Checkpoint]


class Items(msgspec.Struct):
    """A list that is not paged."""

    items: list[Json]


class PolicyGroups(msgspec.Struct):
    groups: list[Json]


class MCPServers(msgspec.Struct):
    mcp_servers: list[Json]


class Health(msgspec.Struct):
    status: str
    time: str
    version: str


class Readiness(msgspec.Struct):
    dependencies: dict[str, str]
    status: str
    time: str
    version: str


class Version(msgspec.Struct):
    app_name: str
    version: str
    commit: str
    build_date: str
    go_version: str
    platform: str
    runtime: str
