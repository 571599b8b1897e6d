"""Create, change and delete a registry; what a connection test addresses (spec 01 §4, §6)."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from trustgate.domain import commands as cmd
from trustgate.domain import events as ev
from trustgate.domain import mcp_target, target_auth
from trustgate.domain.decision import Context, Draft
from trustgate.domain.entities import GatewayState, HealthChecks, Json, LLMTarget, Registry
from trustgate.domain.errors import already_exists, foreign, has_dependents, invalid, invalid_member, not_found, quoted
from trustgate.domain.inputs import ConnectionTest, HealthChecksIn, TargetAuthIn
from trustgate.domain.pruning import without_registry
from trustgate.domain.target_auth import refuse
from trustgate.domain.values import check_name, free, origin, parse_uuid, string_map


def create_registry(draft: Draft, command: cmd.CreateRegistry) -> None:
    body, meta = command.body, draft.meta
    name = check_name(body.name)
    kind = (body.type or "").strip().upper() or "LLM"
    registry = Registry(
        id=command.id,
        gateway_id=command.gateway_id,
        name=name,
        created_at=meta.time,
        updated_at=meta.time,
        enabled=body.enabled is not False,
        description=body.description or "",
    )
    if kind == "MCP":
        if body.mcp_target is None:
            raise invalid("mcp_target is required for MCP registries")
        target = mcp_target.build(draft, command.id, body.mcp_target, None)
        registry = replace(registry, type="MCP", mcp_target=target)
    elif kind == "LLM":
        provider = check_provider_given(body.provider)
        if body.auth is None:
            raise invalid("auth is required")
        auth = target_auth.shape(body.auth)
        target_auth.check(auth)
        options = check_options(draft.context, provider, with_project(provider, body.provider_options, body.auth))
        check_provider_known(draft.context, provider)
        health = check_health(body.health_checks)
        auth = target_auth.store(draft, command.id, auth)
        registry = replace(registry, llm_target=LLMTarget(provider, options, auth, health))
    else:
        raise refuse(f"unsupported type {quoted(kind)}")
    draft.check_new("registry", draft.state.registries, command.id)
    check_unique(draft.state, registry)
    draft.record(ev.RegistryCreated(registry))


def update_registry(draft: Draft, command: cmd.UpdateRegistry) -> None:
    """Order of checks: body, 404, gateway, merge, provider options, target, uniqueness."""
    body = command.body
    if body.name is not None:
        check_name(body.name)
    if body.provider is not None:
        check_provider_given(body.provider)
    old = stored(draft, command)
    registry = replace(
        old,
        name=old.name if body.name is None else body.name,
        enabled=old.enabled if body.enabled is None else body.enabled,
        description=old.description if body.description is None else body.description,
        updated_at=draft.meta.time,
    )
    for_llm = (body.provider, body.provider_options, body.auth, body.health_checks)
    if old.llm_target is None:
        if any(member is not None for member in for_llm):
            raise refuse("llm_target is only valid for LLM registries")
        if body.mcp_target is not None:
            strict = draft.context.require_secret_on_new_origin
            target = mcp_target.build(draft, command.id, body.mcp_target, old.mcp_target, same_origin_only=strict)
            registry = replace(registry, mcp_target=target)
    else:
        if body.mcp_target is not None:
            raise refuse("mcp_target is only valid for MCP registries")
        registry = replace(registry, llm_target=changed_llm(draft, command, old.llm_target))
    check_unique(draft.state, registry)
    draft.record(ev.RegistryUpdated(registry))


def changed_llm(draft: Draft, command: cmd.UpdateRegistry, old: LLMTarget) -> LLMTarget:
    body, context = command.body, draft.context
    strict = context.require_secret_on_new_origin
    provider = old.provider if body.provider is None else body.provider
    options = old.provider_options
    if body.provider_options is not None:
        options = with_project(provider, body.provider_options, body.auth)
    moved = strict and base_url(options) != base_url(old.provider_options)
    if body.auth is None:
        auth = None if moved else old.auth
    else:
        auth = target_auth.merge(target_auth.shape(body.auth), None if moved else old.auth, same_origin_only=strict)
    check_options(context, provider, options)
    check_provider_known(context, provider)
    if auth is None:
        raise invalid("auth is required")
    target_auth.check(auth)
    health = old.health_checks if body.health_checks is None else check_health(body.health_checks)
    return LLMTarget(provider, options, target_auth.store(draft, command.id, auth), health)


def delete_registry(draft: Draft, command: cmd.DeleteRegistry) -> None:
    """Blocked by roles and by chains of active consumers; every other reference goes in the same decision."""
    id_, state = command.id, draft.state
    if id_ not in state.registries:
        raise not_found()
    bound = any(id_ in role.registry_ids for role in state.roles.values())
    chained = any(
        consumer.active and consumer.fallback is not None and id_ in consumer.fallback.chain
        for consumer in state.consumers.values()
    )
    if bound or chained:
        raise has_dependents("registry")
    for consumer in state.consumers.values():
        pruned = without_registry(consumer, id_)
        if pruned != consumer:
            draft.record(ev.ConsumerUpdated(pruned))
    draft.record(ev.RegistryDeleted(id_))


def stored(draft: Draft, command: cmd.UpdateRegistry) -> Registry:
    found = draft.state.registries.get(command.id)
    if found is None:
        raise foreign("registry") if draft.context.owner("registry", command.id) else not_found()
    return found


def check_unique(state: GatewayState, registry: Registry) -> None:
    if any(other.name == registry.name and other.id != registry.id for other in state.registries.values()):
        raise already_exists("registry")


def check_provider_given(provider: str | None) -> str:
    if provider is None or not provider.strip():
        raise invalid("provider is required")
    return provider


def check_provider_known(context: Context, provider: str) -> None:
    if provider not in context.catalog.providers():
        raise refuse(f"unsupported provider {quoted(provider)}")


def check_options(context: Context, provider: str, options: Json) -> Json:
    detail = context.catalog.validate_provider_options(provider, options)
    if detail is not None:
        raise refuse(detail)
    return options


def with_project(provider: str, options: Json | None, auth: TargetAuthIn | None) -> Json:
    """The options, with the project of the service account where Vertex needs one and none is named."""
    options = {} if options is None else options
    named = free(options).get("project")
    if named is not None and (not isinstance(named, str) or named.strip()):
        return options
    if provider != "vertex" and (auth is None or auth.type != "gcp_service_account"):
        return options
    project = target_auth.project_of(auth)
    return {**options, "project": project} if project else options


def base_url(options: Json) -> str:
    return origin(str(options.get("base_url") or ""))


def check_health(sent: HealthChecksIn | None) -> HealthChecks | None:
    if sent is None:
        return None
    if (sent.interval or 0) <= 0:
        raise invalid_member("registry: invalid health checks", "health_checks.interval must be positive")
    if (sent.threshold or 0) <= 0:
        raise invalid_member("registry: invalid health checks", "health_checks.threshold must be positive")
    return HealthChecks(
        passive=bool(sent.passive),
        path=sent.path or "",
        headers=string_map(sent.headers),
        threshold=sent.threshold or 0,
        interval=sent.interval or 0,
    )


class ProbeTarget(msgspec.Struct, frozen=True):
    """What a connection test calls. Secrets of a stored registry are references, those of a body are in clear."""

    provider: str
    options: Json
    auth: Json


def probe_target(state: GatewayState, body: ConnectionTest, context: Context) -> ProbeTarget:
    """The request checks of a connection test (spec 01 §6.5); raises `DomainError`.

    An `oauth2` target is returned before its provider is checked: the probe calls it unsupported.
    """
    if body.registry_id:
        if body.provider or body.auth is not None:
            raise invalid("registry_id cannot be combined with provider/auth")
        id_ = parse_uuid(body.registry_id)
        if id_ is None:
            raise invalid("invalid registry_id")
        registry = state.registries.get(id_)
        if registry is None:
            raise not_found()
        llm = registry.llm_target or LLMTarget(provider="")
        target = ProbeTarget(llm.provider, llm.provider_options, llm.auth or {})
    else:
        if not (body.provider or "").strip():
            raise invalid("provider is required when registry_id is not set")
        if body.auth is None:
            raise invalid("auth is required when registry_id is not set")
        auth = target_auth.shape(body.auth)
        target_auth.check(auth)
        provider = body.provider or ""
        target = ProbeTarget(provider, with_project(provider, body.provider_options, body.auth), auth)
    if target.auth.get("type") != "oauth2" and target.provider not in context.catalog.providers():
        raise invalid(f"unsupported provider {quoted(target.provider)}")
    return target
