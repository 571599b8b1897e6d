"""Entities as the Admin API shows them: masked, with derived members, in the order clients rely on (spec 01 §5-§10).

What lives here: entity to answer, one function per object, and times. What must not: HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from trustgate.admin import answers
from trustgate.domain import entities
from trustgate.domain.secrets import masked


def rfc3339(moment: datetime) -> str:
    """UTC with `Z` and microseconds without trailing zeros."""
    moment = moment.astimezone(UTC)
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + fraction + "Z"


class GatewayRenderer:
    """Renders gateways, whose answer names the installation's version and host names."""

    def __init__(self, version: str, gateway_base_domain: str, mcp_base_domain: str) -> None:
        self._version = version
        self._gateway_base = gateway_base_domain.strip().strip(".")
        self._mcp_base = mcp_base_domain.strip().strip(".")

    def __call__(self, gateway: entities.Gateway) -> answers.Gateway:
        session, plan = gateway.session_config, gateway.entitlements
        return answers.Gateway(
            id=gateway.id,
            slug=gateway.slug,
            status=gateway.status,
            version=self._version,
            domain=gateway.domain,
            hosts=answers.Hosts(
                proxy=gateway.domain or f"{gateway.slug}.{self._gateway_base}", mcp=f"{gateway.slug}.{self._mcp_base}"
            ),
            metadata=dict(gateway.metadata),
            telemetry=_telemetry(gateway.telemetry),
            client_tls=gateway.client_tls,
            session_config=None
            if session is None
            else answers.SessionConfig(session.enabled, session.header_name, session.body_param_name),
            entitlements=answers.Entitlements(plan.tier, plan.burst_per_min, plan.quota_per_month, plan.max_instances),
            created_at=rfc3339(gateway.created_at),
            updated_at=rfc3339(gateway.updated_at),
        )


def registry(it: entities.Registry) -> answers.Registry:
    llm, mcp = it.llm_target, it.mcp_target
    answer = answers.Registry(
        id=it.id,
        gateway_id=it.gateway_id,
        name=it.name,
        type=it.type,
        enabled=it.enabled,
        description=it.description,
        created_at=rfc3339(it.created_at),
        updated_at=rfc3339(it.updated_at),
    )
    if llm is not None:
        answer.provider = llm.provider
        answer.provider_options = masked(llm.provider_options)
        answer.auth = _shown(llm.auth, answers.TargetAuth)
        if llm.health_checks is not None:
            answer.health_checks = msgspec.convert(llm.health_checks, answers.HealthChecks, from_attributes=True)
    if mcp is not None:
        answer.mcp_target = answers.MCPTarget(
            code=mcp.code,
            url=mcp.url,
            transport=mcp.transport,
            headers=masked(mcp.headers),
            auth=_shown(mcp.auth or {"mode": "none"}, answers.MCPAuth),
        )
    return answer


def consumer(it: entities.Consumer) -> answers.Consumer:
    return answers.Consumer(
        id=it.id,
        gateway_id=it.gateway_id,
        name=it.name,
        type=it.type,
        slug=it.slug,
        routing_mode=it.routing_mode,
        lb_config=_lb_config(it.lb_config),
        headers=dict(it.headers),
        active=it.active,
        registry_ids=list(it.registry_ids),
        registry_weights=[
            answers.RegistryWeight(registry_id, weight) for registry_id, weight in sorted(it.registry_weights.items())
        ],
        role_ids=sorted(it.role_ids),
        auth_ids=sorted(it.auth_ids),
        fallback=_fallback(it.fallback),
        model_policies=_model_policies(it.model_policies),
        toolkit=_toolkit(it.toolkit or ()),
        fail_mode=it.fail_mode,
        created_at=rfc3339(it.created_at),
        updated_at=rfc3339(it.updated_at),
    )


def role(it: entities.Role) -> answers.Role:
    mcp = it.mcp_policies
    return answers.Role(
        id=it.id,
        gateway_id=it.gateway_id,
        name=it.name,
        model_policies=_model_policies(it.model_policies),
        mcp_policies=None if mcp is None else answers.RoleMCPPolicies(_toolkit(mcp.toolkit), mcp.fail_mode),
        oidc_mapping=it.oidc_mapping,
        registry_ids=sorted(it.registry_ids),
        created_at=rfc3339(it.created_at),
        updated_at=rfc3339(it.updated_at),
    )


def auth(it: entities.Auth, api_key: str = "") -> answers.Auth:
    """`api_key` is the key in clear, given only for the answer to the call that made it."""
    return answers.Auth(
        id=it.id,
        gateway_id=it.gateway_id,
        name=it.name,
        type=it.type,
        enabled=it.enabled,
        config=msgspec.convert(_without_nulls(masked(it.config)), answers.AuthConfig),
        api_key=api_key,
        key_prefix=it.key_prefix,
        key_suffix=it.key_suffix,
        expires_at="" if it.expires_at is None else rfc3339(it.expires_at),
        allowed_cidrs=list(it.allowed_cidrs),
        created_at=rfc3339(it.created_at),
        updated_at=rfc3339(it.updated_at),
    )


def policy(it: entities.Policy) -> answers.Policy:
    return answers.Policy(
        id=it.id,
        gateway_id=it.gateway_id,
        consumer_ids=sorted(it.consumer_ids),
        name=it.name,
        description=it.description,
        slug=it.slug,
        enabled=it.enabled,
        global_=it.global_,
        priority=it.priority,
        parallel=it.parallel,
        settings=masked(it.settings),
        stages=list(it.stages),
        mode=it.mode,
        created_at=rfc3339(it.created_at),
        updated_at=rfc3339(it.updated_at),
    )


def _telemetry(value: entities.Json | None) -> answers.Telemetry | None:
    if value is None:
        return None
    shown = {name: item for name, item in masked(value).items() if item is not None}
    exporters = shown.get("exporters")
    if exporters is not None:
        shown["exporters"] = [{k: v for k, v in entry.items() if v is not None} for entry in exporters]
    return msgspec.convert(shown, answers.Telemetry)


def _shown(value: entities.Json | None, into: type[Any]) -> Any:
    """A credential with its secrets masked and every member that is not meant to be read left out."""
    return None if value is None else msgspec.convert(_without_nulls(masked(value)), into)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return value


def _model_policies(policies: Mapping[str, entities.ModelPolicy]) -> list[answers.ModelPolicy]:
    return [
        answers.ModelPolicy(
            registry_id=registry_id,
            # An empty list and an absent one both mean every model, and neither is shown.
            allowed=list(it.allowed) if it.allowed else None,
            default=it.default,
        )
        for registry_id, it in sorted(policies.items())
    ]


def _toolkit(entries: Iterable[entities.ToolkitEntry]) -> list[answers.ToolkitEntry]:
    return [msgspec.convert(entry, answers.ToolkitEntry, from_attributes=True) for entry in entries]


def _fallback(it: entities.Fallback | None) -> answers.Fallback | None:
    if it is None:
        return None
    return answers.Fallback(
        enabled=it.enabled,
        triggers=list(it.triggers),
        budget=answers.Budget(max_attempts=it.budget.max_attempts, max_total_latency_ms=it.budget.max_total_latency_ms),
        chain=list(it.chain),
        pinned=it.pinned,
    )


def _lb_config(it: entities.LBConfig | None) -> answers.LBConfig | None:
    if it is None:
        return None
    embedding, smart = it.embedding_config, it.smart_routing
    return answers.LBConfig(
        enabled=it.enabled,
        algorithm=it.algorithm,
        pool_alias=it.pool_alias,
        members=[
            answers.LBMember(
                registry_id=member.registry_id, models=list(member.models), model=member.model, weight=member.weight
            )
            for member in it.members
        ],
        embedding_config=None
        if embedding is None
        else answers.EmbeddingConfig(
            provider=embedding.provider,
            model=embedding.model,
            auth=_shown(embedding.auth or None, answers.APIKeyAuth),
        ),
        smart_routing=None
        if smart is None
        else answers.SmartRouting([msgspec.convert(tier, answers.Tier, from_attributes=True) for tier in smart.tiers]),
        balance_pinned=it.balance_pinned,
    )
