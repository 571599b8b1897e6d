"""Request bodies of the Admin API, member by member, as they arrive.

What lives here: the accepted JSON types (spec 01 §5-§10); secrets are in clear. What must not: rules about values
(`decide_*`), matching of member names (`admin`).

None means absent: an explicit `null` is the same as leaving a member out (spec 01 §1.2, §3.4). Members of type `Any`,
and values of `Free` maps, are kept as they were sent. A `null` inside an array or a string map counts as an empty
value, so those admit None too.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Free = dict[str, Any]
Strings = list[str | None]
StringMap = dict[str, str | None]


class EntitlementsIn(msgspec.Struct, frozen=True, kw_only=True):
    tier: str | None = None
    burst_per_min: Int | None = None
    quota_per_month: Int | None = None
    max_instances: Int | None = None


class SessionConfigIn(msgspec.Struct, frozen=True, kw_only=True):
    enabled: bool | None = None
    header_name: str | None = None
    body_param_name: str | None = None


class ExporterIn(msgspec.Struct, frozen=True, kw_only=True):
    name: str | None = None
    type: str | None = None
    settings: Free | None = None
    class_: str | None = msgspec.field(default=None, name="class")


class TelemetryIn(msgspec.Struct, frozen=True, kw_only=True):
    exporters: list[ExporterIn | None] | None = None
    extra_params: StringMap | None = None
    enable_plugin_traces: bool | None = None
    enable_request_traces: bool | None = None
    header_mapping: StringMap | None = None
    capture_bodies: bool | None = None


class GatewayCreate(msgspec.Struct, frozen=True, kw_only=True):
    slug: str | None = None
    domain: str | None = None
    tenant_id: str | None = None
    metadata: StringMap | None = None
    telemetry: TelemetryIn | None = None
    client_tls: Free | None = None
    session_config: SessionConfigIn | None = None
    entitlements: EntitlementsIn | None = None


class GatewayUpdate(msgspec.Struct, frozen=True, kw_only=True):
    slug: str | None = None
    status: str | None = None
    domain: str | None = None
    metadata: StringMap | None = None
    telemetry: TelemetryIn | None = None
    client_tls: Free | None = None
    session_config: SessionConfigIn | None = None
    entitlements: EntitlementsIn | None = None


class APIKeyAuthIn(msgspec.Struct, frozen=True, kw_only=True):
    """Also the `auth` of an embedding configuration."""

    api_key: str | None = None
    header_name: str | None = None
    header_value: str | None = None
    param_name: str | None = None
    param_value: str | None = None
    param_location: str | None = None


class AzureAuthIn(msgspec.Struct, frozen=True, kw_only=True):
    use_managed_identity: bool | None = None
    endpoint: str | None = None
    version: str | None = None
    api_key: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    tenant_id: str | None = None


class AWSAuthIn(msgspec.Struct, frozen=True, kw_only=True):
    access_key_id: str | None = None
    secret_access_key: str | None = None
    region: str | None = None
    session_token: str | None = None
    role: str | None = None
    use_role: bool | None = None


class TargetOAuthIn(msgspec.Struct, frozen=True, kw_only=True):
    token_url: str | None = None
    grant_type: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    use_basic_auth: bool | None = None
    scopes: Strings | None = None
    audience: str | None = None
    code: str | None = None
    redirect_uri: str | None = None
    code_verifier: str | None = None
    refresh_token: str | None = None
    username: str | None = None
    password: str | None = None
    extra: StringMap | None = None


class TargetAuthIn(msgspec.Struct, frozen=True, kw_only=True):
    """Credentials of an LLM upstream (spec 01 §6.2)."""

    type: str | None = None
    api_key: APIKeyAuthIn | None = None
    azure: AzureAuthIn | None = None
    aws: AWSAuthIn | None = None
    oauth: TargetOAuthIn | None = None
    gcp_service_account: str | Free | None = None


class HealthChecksIn(msgspec.Struct, frozen=True, kw_only=True):
    passive: bool | None = None
    path: str | None = None
    headers: StringMap | None = None
    threshold: Int | None = None
    interval: Int | None = None


class MCPAuthIn(msgspec.Struct, frozen=True, kw_only=True):
    mode: str | None = None
    header: str | None = None
    value: str | None = None
    expected_audience: str | None = None
    pattern: str | None = None
    audience: str | None = None
    scope: str | None = None
    actor: str | None = None
    provider: str | None = None
    registration: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    authorize_url: str | None = None
    token_url: str | None = None
    scopes: Strings | None = None
    resource: str | None = None
    token_endpoint_auth_method: str | None = None


class MCPTargetIn(msgspec.Struct, frozen=True, kw_only=True):
    code: str | None = None
    url: str | None = None
    transport: str | None = None
    headers: StringMap | None = None
    auth: MCPAuthIn | None = None


class RegistryCreate(msgspec.Struct, frozen=True, kw_only=True):
    name: str | None = None
    type: str | None = None
    enabled: bool | None = None
    provider: str | None = None
    provider_options: Free | None = None
    description: str | None = None
    auth: TargetAuthIn | None = None
    health_checks: HealthChecksIn | None = None
    mcp_target: MCPTargetIn | None = None


class RegistryUpdate(msgspec.Struct, frozen=True, kw_only=True):
    name: str | None = None
    enabled: bool | None = None
    provider: str | None = None
    provider_options: Free | None = None
    description: str | None = None
    auth: TargetAuthIn | None = None
    health_checks: HealthChecksIn | None = None
    mcp_target: MCPTargetIn | None = None


class ConnectionTest(msgspec.Struct, frozen=True, kw_only=True):
    registry_id: str | None = None
    provider: str | None = None
    provider_options: Free | None = None
    auth: TargetAuthIn | None = None


class BudgetIn(msgspec.Struct, frozen=True, kw_only=True):
    max_attempts: Int | None = None
    max_total_latency_ms: Int | None = None


class FallbackIn(msgspec.Struct, frozen=True, kw_only=True):
    enabled: bool | None = None
    triggers: Strings | None = None
    budget: BudgetIn | None = None
    chain: Strings | None = None
    pinned: str | None = None


class LBMemberIn(msgspec.Struct, frozen=True, kw_only=True):
    registry_id: str | None = None
    models: Strings | None = None
    model: str | None = None
    weight: Int | None = None


class EmbeddingIn(msgspec.Struct, frozen=True, kw_only=True):
    provider: str | None = None
    model: str | None = None
    auth: APIKeyAuthIn | None = None


class TierIn(msgspec.Struct, frozen=True, kw_only=True):
    min_score: float | None = None
    registry_id: str | None = None
    model: str | None = None


class SmartRoutingIn(msgspec.Struct, frozen=True, kw_only=True):
    tiers: list[TierIn | None] | None = None


class LBConfigIn(msgspec.Struct, frozen=True, kw_only=True):
    enabled: bool | None = None
    algorithm: str | None = None
    pool_alias: str | None = None
    members: list[LBMemberIn | None] | None = None
    embedding_config: EmbeddingIn | None = None
    smart_routing: SmartRoutingIn | None = None
    balance_pinned: str | None = None


class BindingPolicyIn(msgspec.Struct, frozen=True, kw_only=True):
    allowed: Strings | None = None
    default: str | None = None


class BindingIn(msgspec.Struct, frozen=True, kw_only=True):
    id: str | None = None
    weight: Int | None = None
    model_policies: BindingPolicyIn | None = None


class ModelPolicyIn(msgspec.Struct, frozen=True, kw_only=True):
    registry_id: str | None = None
    allowed: Strings | None = None
    default: str | None = None


class ToolkitEntryIn(msgspec.Struct, frozen=True, kw_only=True):
    registry_id: str | None = None
    tool: str | None = None
    prompt: str | None = None
    resource: str | None = None
    expose_as: str | None = None


class ConsumerCreate(msgspec.Struct, frozen=True, kw_only=True):
    name: str | None = None
    type: str | None = None
    routing_mode: str | None = None
    lb_config: LBConfigIn | None = None
    headers: StringMap | None = None
    active: bool | None = None
    fallback: FallbackIn | None = None
    registries: list[BindingIn | None] | None = None
    roles: Strings | None = None
    model_policies: list[ModelPolicyIn | None] | None = None
    toolkit: list[ToolkitEntryIn | None] | None = None
    fail_mode: str | None = None


class ConsumerUpdate(msgspec.Struct, frozen=True, kw_only=True):
    name: str | None = None
    type: str | None = None
    routing_mode: str | None = None
    lb_config: LBConfigIn | None = None
    headers: StringMap | None = None
    active: bool | None = None
    fallback: FallbackIn | None = None
    registries: list[BindingIn | None] | None = None
    model_policies: list[ModelPolicyIn | None] | None = None
    toolkit: list[ToolkitEntryIn | None] | None = None
    fail_mode: str | None = None


class AttachRegistryIn(msgspec.Struct, frozen=True, kw_only=True):
    weight: Int | None = None


class OAuth2In(msgspec.Struct, frozen=True, kw_only=True):
    issuer: str | None = None
    audiences: Strings | None = None
    jwks_url: str | None = None
    introspection_url: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    required_scopes: Strings | None = None
    allowed_algorithms: Strings | None = None
    session_mode: bool | None = None
    userinfo_url: str | None = None
    subject_claim: str | None = None
    authorize_url: str | None = None
    token_url: str | None = None


class OIDCIn(msgspec.Struct, frozen=True, kw_only=True):
    issuer: str | None = None
    audiences: Strings | None = None
    jwks_url: str | None = None
    public_keys: Strings | None = None
    required_scopes: Strings | None = None
    allowed_algorithms: Strings | None = None
    subject_claim: str | None = None


class MTLSIn(msgspec.Struct, frozen=True, kw_only=True):
    ca_cert: str | None = None
    allowed_common_names: Strings | None = None
    allowed_dns_names: Strings | None = None
    allowed_fingerprints: Strings | None = None


class AuthConfigIn(msgspec.Struct, frozen=True, kw_only=True):
    oauth2: OAuth2In | None = None
    oidc: OIDCIn | None = None
    mtls: MTLSIn | None = None


class AuthCreate(msgspec.Struct, frozen=True, kw_only=True):
    """`expires_at` (RFC 3339) and `allowed_cidrs` bound the use of an API key."""

    name: str | None = None
    type: str | None = None
    enabled: bool | None = None
    config: AuthConfigIn | None = None
    expires_at: str | None = None
    allowed_cidrs: Strings | None = None


class AuthUpdate(msgspec.Struct, frozen=True, kw_only=True):
    name: str | None = None
    type: str | None = None
    enabled: bool | None = None
    config: AuthConfigIn | None = None
    expires_at: str | None = None
    allowed_cidrs: Strings | None = None


class PolicyCreate(msgspec.Struct, frozen=True, kw_only=True):
    name: str | None = None
    description: str | None = None
    slug: str | None = None
    enabled: bool | None = None
    priority: Int | None = None
    parallel: bool | None = None
    settings: Free | None = None
    stages: Strings | None = None
    mode: str | None = None


class PolicyUpdate(msgspec.Struct, frozen=True, kw_only=True):
    name: str | None = None
    description: str | None = None
    slug: str | None = None
    enabled: bool | None = None
    priority: Int | None = None
    parallel: bool | None = None
    settings: Free | None = None
    stages: Strings | None = None
    mode: str | None = None


class Revert(msgspec.Struct, frozen=True, kw_only=True):
    """Where to go back to (a version or an RFC 3339 time), and whether only to say what that would change."""

    to: str | int | None = None
    dry_run: bool | None = None
    restore_keys: bool | None = None
    """API keys that were rotated or deleted since are to work again."""


class RoleMCPPoliciesIn(msgspec.Struct, frozen=True, kw_only=True):
    toolkit: list[ToolkitEntryIn | None] | None = None
    fail_mode: str | None = None


class RoleCreate(msgspec.Struct, frozen=True, kw_only=True):
    """`oidc_mapping` is checked by rule, because its wrong types have their own message (spec 01 §8)."""

    name: str | None = None
    model_policies: list[ModelPolicyIn | None] | None = None
    mcp_policies: RoleMCPPoliciesIn | None = None
    oidc_mapping: Any = None


class RoleUpdate(msgspec.Struct, frozen=True, kw_only=True):
    name: str | None = None
    model_policies: list[ModelPolicyIn | None] | None = None
    mcp_policies: RoleMCPPoliciesIn | None = None
    oidc_mapping: Any = None
