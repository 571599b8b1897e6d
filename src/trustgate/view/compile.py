"""From a gateway's state to the view that traffic reads.

What lives here: the pure functions behind spec 02 §7.2 and §7.4 (pool, chain, routes), spec 04 §3 (which policies
apply) and the credential index of spec 02 §4. What must not: caching across versions, I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trustgate.domain import secrets
from trustgate.domain.entities import (
    Auth,
    Consumer,
    EmbeddingConfig,
    Gateway,
    GatewayState,
    MCPTarget,
    Policy,
    Registry,
    Role,
)
from trustgate.view.model import (
    Allowance,
    AuthSet,
    ConsumerView,
    GatewayIdentity,
    RegistryView,
    RoleView,
    Route,
)

Reveal = Callable[[str], str]
"""From a vault reference to the secret in clear; raises `LookupError` when the vault no longer holds it."""


def reveal_all(value: Any, reveal: Reveal) -> Any:
    """`value` with every secret reference replaced by the secret itself; a secret that is gone becomes empty."""

    def convert(ref: dict[str, Any]) -> str:
        try:
            return reveal(ref[secrets.REF])
        except LookupError:
            return ""

    return secrets.replace(value, convert)


def compile_identity(gateway: Gateway) -> GatewayIdentity:
    session = gateway.session_config
    caps = gateway.entitlements
    return GatewayIdentity(
        id=gateway.id,
        slug=gateway.slug,
        tenant_id=gateway.tenant_id,
        entity=gateway,
        session_enabled=session is None or session.enabled is not False,
        session_header=((session.header_name if session else None) or "X-Session-Id").lower().encode(),
        session_body_param=(session.body_param_name if session else None) or "",
        metered=None not in (caps.burst_per_min, caps.quota_per_month, caps.max_instances),
    )


def compile_registry(registry: Registry, reveal: Reveal) -> RegistryView:
    llm, mcp = registry.llm_target, registry.mcp_target
    if mcp is not None:
        mcp = MCPTarget(
            url=mcp.url,
            transport=mcp.transport,
            code=mcp.code,
            headers=reveal_all(mcp.headers, reveal),
            auth=reveal_all(mcp.auth, reveal),
        )
    return RegistryView(
        id=registry.id,
        gateway_id=registry.gateway_id,
        name=registry.name,
        type=registry.type,
        description=registry.description,
        provider=llm.provider if llm else "",
        options=reveal_all(llm.provider_options, reveal) if llm else {},
        auth=(reveal_all(llm.auth, reveal) or {}) if llm else {},
        health_checks=llm.health_checks if llm else None,
        mcp_target=mcp,
        updated_at=registry.updated_at,
    )


def compile_role(role: Role, registries: dict[str, RegistryView]) -> RoleView:
    return RoleView(
        id=role.id,
        name=role.name,
        entity=role,
        registries=tuple(registries[id_] for id_ in sorted(role.registry_ids) if id_ in registries),
        model_policies=role.model_policies,
    )


def role_order(roles: dict[str, Role]) -> list[Role]:
    """Gateway role order: newest `created_at` first, then id (spec 02 §4.3)."""
    by_id = sorted(roles.values(), key=lambda role: role.id)
    return sorted(by_id, key=lambda role: role.created_at, reverse=True)


def split_pool(
    consumer: Consumer, registries: dict[str, RegistryView]
) -> tuple[tuple[RegistryView, ...], tuple[RegistryView, ...], tuple[RegistryView, ...]]:
    """All available registries, the pool and the fallback chain of a consumer (spec 02 §7.2)."""
    available = tuple(registries[id_] for id_ in consumer.registry_ids if id_ in registries)
    fallback = consumer.fallback
    if fallback is None or not fallback.enabled:
        return available, available, ()
    chain = tuple(registries[id_] for id_ in fallback.chain if id_ in registries)
    chained = {registry.id for registry in chain}
    pool = tuple(registry for registry in available if registry.id not in chained)
    return available, pool or available, chain


def compile_routes(
    consumer: Consumer, pool: tuple[RegistryView, ...], registries: dict[str, RegistryView]
) -> tuple[Route, ...]:
    """The routes that the balancer holds (spec 02 §7.4)."""
    config = consumer.lb_config
    if config is not None and config.enabled and config.members:
        bound = set(consumer.registry_ids)
        routes: list[Route] = []
        for member in config.members:
            registry = registries.get(member.registry_id)
            if registry is None or member.registry_id not in bound:
                continue
            policy = consumer.model_policies.get(member.registry_id)
            default = policy.default if policy else ""
            model = member.model.strip()
            if member.models and default not in member.models:
                default = member.models[0]
            routes.append(
                Route(
                    registry=registry,
                    model=model,
                    allowance=Allowance(member.models or (policy.allowed if policy else None), model or default),
                    listed=member.models,
                    weight=member.weight or consumer.registry_weights.get(member.registry_id, 1),
                )
            )
        if routes:
            return tuple(routes)
    return tuple(
        Route(
            registry=registry,
            allowance=policy_allowance(consumer, registry.id),
            weight=consumer.registry_weights.get(registry.id, 1),
        )
        for registry in pool
    )


def compile_embedding(config: EmbeddingConfig | None, reveal: Reveal) -> EmbeddingConfig | None:
    return config and EmbeddingConfig(config.provider, config.model, reveal_all(config.auth, reveal))


def policy_allowance(consumer: Consumer, registry_id: str) -> Allowance:
    """The consumer's model policy for a registry; without one every model is allowed and there is no default."""
    policy = consumer.model_policies.get(registry_id)
    return Allowance(policy.allowed or None, policy.default) if policy else Allowance()


def compile_auths(consumer: Consumer, auths: dict[str, Auth], reveal: Reveal) -> AuthSet:
    enabled = [auths[id_] for id_ in sorted(consumer.auth_ids) if id_ in auths and auths[id_].enabled]

    def of(kind: str) -> tuple[Auth, ...]:
        return tuple(clear_auth(auth, reveal) for auth in enabled if auth.type == kind)

    return AuthSet(
        api_keys={auth.key_hash: auth for auth in enabled if auth.type == "api_key" and auth.key_hash},
        oauth2=of("oauth2"),
        oidc=of("oidc"),
        mtls=of("mtls"),
    )


def clear_auth(auth: Auth, reveal: Reveal) -> Auth:
    return Auth(
        id=auth.id,
        gateway_id=auth.gateway_id,
        name=auth.name,
        type=auth.type,
        created_at=auth.created_at,
        updated_at=auth.updated_at,
        enabled=auth.enabled,
        config=reveal_all(auth.config, reveal),
    )


def applicable_policies(consumer_id: str, ordered: tuple[Policy, ...]) -> tuple[list[Policy], dict[str, str]]:
    """The enabled policies of a consumer and their scopes (spec 04 §3).

    A consumer's own policy of a slug replaces every global policy of that slug, even when it is disabled.
    """
    own = [policy for policy in ordered if not policy.global_ and consumer_id in policy.consumer_ids]
    taken = {policy.slug for policy in own}
    shared = [policy for policy in ordered if policy.global_ and policy.slug not in taken]
    scopes = {policy.id: "consumer" for policy in own} | {policy.id: "global" for policy in shared}
    return [policy for policy in own + shared if policy.enabled], scopes


def policy_order(policies: dict[str, Policy]) -> tuple[Policy, ...]:
    return tuple(sorted(policies.values(), key=lambda policy: (policy.priority, policy.created_at, policy.id)))


def compile_consumer(
    state: GatewayState,
    consumer: Consumer,
    registries: dict[str, RegistryView],
    roles: tuple[RoleView, ...],
    policies: tuple[Policy, ...],
    reveal: Reveal,
) -> ConsumerView:
    """Every table that requests of one consumer read."""
    available, pool, chain = split_pool(consumer, registries)
    config, fallback = consumer.lb_config, consumer.fallback
    balanced = config is not None and config.enabled
    applied, scopes = applicable_policies(consumer.id, policies)
    assigned = set(consumer.role_ids)
    on = fallback is not None and fallback.enabled
    return ConsumerView(
        id=consumer.id,
        name=consumer.name,
        slug=consumer.slug,
        type=consumer.type,
        role_based=consumer.routing_mode == "role_based",
        entity=consumer,
        registries=available,
        pool=pool,
        chain=chain,
        routes=compile_routes(consumer, pool, registries),
        algorithm=(config.algorithm or "round-robin") if config is not None and balanced else "round-robin",
        pool_alias=config.pool_alias if config is not None and balanced else "",
        embedding=compile_embedding(config.embedding_config, reveal) if config is not None and balanced else None,
        fallback_enabled=on,
        triggers=frozenset(fallback.triggers) if fallback is not None and on else frozenset(),
        max_attempts=fallback.budget.max_attempts if fallback is not None and on else 0,
        max_total_latency_ms=fallback.budget.max_total_latency_ms if fallback is not None and on else 0,
        model_policies=consumer.model_policies,
        auths=compile_auths(consumer, state.auths, reveal),
        roles=tuple(role for role in roles if role.id in assigned),
        policies=tuple(
            Policy(
                id=policy.id,
                gateway_id=policy.gateway_id,
                name=policy.name,
                slug=policy.slug,
                created_at=policy.created_at,
                updated_at=policy.updated_at,
                enabled=policy.enabled,
                global_=policy.global_,
                priority=policy.priority,
                parallel=policy.parallel,
                settings=reveal_all(policy.settings, reveal),
                stages=policy.stages,
                mode=policy.mode,
                consumer_ids=policy.consumer_ids,
            )
            for policy in applied
        ),
        policy_scopes=scopes,
        toolkit=consumer.toolkit or (),
        fail_mode=consumer.fail_mode or "open",
    )
