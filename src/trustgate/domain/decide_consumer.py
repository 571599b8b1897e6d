"""Create, change and delete a consumer; attach and detach what it uses (spec 01 §7)."""

from __future__ import annotations

from typing import cast

from msgspec.structs import replace

from trustgate.domain import commands as cmd
from trustgate.domain import consumer_body as read
from trustgate.domain import events as ev
from trustgate.domain import routing
from trustgate.domain.auth_guards import check_attach, check_fit
from trustgate.domain.credentials import keep, readable
from trustgate.domain.decision import Draft
from trustgate.domain.entities import Consumer, ConsumerType, LBConfig, RoutingMode
from trustgate.domain.errors import already_exists, conflict, foreign, invalid, invalid_member, not_found, quoted
from trustgate.domain.values import NIL_UUID, check_name, string_map

TYPES = frozenset({"LLM", "MCP", "A2A"})
MODES = frozenset({"inline", "role_based"})
MODE = "consumer: invalid routing_mode"


def create_consumer(draft: Draft, command: cmd.CreateConsumer) -> None:
    """Order of checks: syntax, rules 1 to 7, association, ownership, gateway, uniqueness."""
    body, meta = command.body, draft.meta
    name = check_name(body.name)
    fallback = None if body.fallback is None else read.fallback(body.fallback)
    toolkit = None if body.toolkit is None else read.toolkit(body.toolkit, "toolkit")
    config = None if body.lb_config is None else read.lb_config(body.lb_config, None)
    policies = read.model_policies(body.model_policies or ())
    bindings = read.bindings(body.registries or (), policies)
    consumer = Consumer(
        id=command.id,
        gateway_id=command.gateway_id,
        name=name,
        slug="",
        created_at=meta.time,
        updated_at=meta.time,
        type=cast("ConsumerType", (body.type or "").strip().upper() or "LLM"),
        routing_mode=cast("RoutingMode", (body.routing_mode or "").strip().lower() or "inline"),
        active=body.active is not False,
        headers=string_map(body.headers),
        registry_ids=bindings.ids,
        registry_weights=bindings.weights,
        role_ids=read.uuids(body.roles or (), "roles"),
        fallback=fallback,
        lb_config=config,
        model_policies={**policies, **bindings.policies},
        toolkit=toolkit,
        fail_mode=(body.fail_mode or "").strip().lower(),
    )
    consumer = checked(consumer)
    if consumer.routing_mode == "inline":
        routing.check_associated(consumer)
    check_owned(draft, consumer, before=None)
    draft.check_new("consumer", draft.state.consumers, command.id)
    check_unique(draft, consumer)
    slug = next((s for s in command.slug_candidates if s not in draft.directory.consumer_slugs), None)
    if slug is None:
        raise already_exists("consumer")
    consumer = replace(settled(draft, consumer), slug=slug)
    draft.record(ev.ConsumerCreated(consumer))
    draft.enlist(ev.ConsumerListed(slug, command.gateway_id))


def update_consumer(draft: Draft, command: cmd.UpdateConsumer) -> None:
    """Order of checks: syntax, 404, gateway, association, rules 1 to 7, ownership, auths, uniqueness."""
    body = command.body
    if body.name is not None:
        check_name(body.name)
    for index, binding in enumerate(body.registries or ()):
        if binding is not None and binding.model_policies is not None:
            raise invalid(
                f"registries[{index}].model_policies is not supported on update, declare them in model_policies"
            )
    old = draft.state.consumers.get(command.id)
    consumer = changed(draft, command, old)
    if old is None:
        raise foreign("consumer") if draft.context.owner("consumer", command.id) else not_found()
    gone = gone_registries(draft, old) if body.toolkit is None else frozenset[str]()
    if consumer.routing_mode == "inline":
        routing.check_associated(consumer, gone)
    consumer = checked(consumer, gone)
    check_owned(draft, consumer, before=old)
    recheck_auths(draft, consumer, old)
    check_unique(draft, consumer)
    draft.record(ev.ConsumerUpdated(settled(draft, consumer)))


def changed(draft: Draft, command: cmd.UpdateConsumer, old: Consumer | None) -> Consumer:
    """The consumer that a PUT leads to: stored values, members sent, clean-up of the mode, registries sent.

    Without a stored one (it is then a 404) only the syntax is read.
    """
    body = command.body
    time = draft.meta.time
    known = old is not None
    old = old or Consumer(id=command.id, gateway_id="", name="", slug="", created_at=time, updated_at=time)
    kind = (body.type or "").strip().upper() or old.type
    mode = (body.routing_mode or "").strip().lower() or old.routing_mode
    fallback = old.fallback if body.fallback is None else read.fallback(body.fallback)
    config = old.lb_config if body.lb_config is None else read.lb_config(body.lb_config, old.lb_config)
    policies = old.model_policies if body.model_policies is None else read.model_policies(body.model_policies)
    retyped = kind != old.type
    toolkit = None if retyped else old.toolkit
    if body.toolkit is not None:
        toolkit = read.toolkit(body.toolkit, "toolkit")
    bindings = None if body.registries is None else read.bindings(body.registries, ())
    consumer = replace(
        old,
        name=old.name if body.name is None else body.name,
        updated_at=time,
        type=cast("ConsumerType", kind),
        routing_mode=cast("RoutingMode", mode),
        active=old.active if body.active is None else body.active,
        headers=old.headers if body.headers is None else string_map(body.headers),
        fallback=fallback,
        lb_config=config,
        model_policies=policies,
        toolkit=toolkit,
        fail_mode=body.fail_mode if (body.fail_mode or "").strip() else "" if retyped else old.fail_mode,
    )
    if known and mode != old.routing_mode:
        consumer = cleaned(consumer)
    if bindings is not None:
        consumer = replace(consumer, registry_ids=bindings.ids, registry_weights=bindings.weights)
    return consumer


def cleaned(consumer: Consumer) -> Consumer:
    """A consumer that changes its routing mode drops what belongs to the other one."""
    if consumer.routing_mode != "role_based":
        return replace(consumer, role_ids=())
    return replace(
        consumer,
        registry_ids=(),
        registry_weights={},
        fallback=None,
        lb_config=None,
        model_policies={},
        toolkit=None,
        fail_mode="",
    )


def gone_registries(draft: Draft, consumer: Consumer) -> frozenset[str]:
    """Deleted registries that the stored toolkit still names (`pruning`)."""
    named = (entry.registry_id for entry in consumer.toolkit or ())
    return frozenset(id_ for id_ in named if id_ not in draft.state.registries)


def checked(consumer: Consumer, gone: frozenset[str] = frozenset()) -> Consumer:
    """Rules 1 to 7 and those of MCP; the result has its defaults and trimmed toolkit."""
    if consumer.type not in TYPES:
        raise invalid_member("consumer: invalid type", quoted(consumer.type))
    if consumer.routing_mode not in MODES:
        raise invalid_member(MODE, quoted(consumer.routing_mode))
    has_mcp_policy = consumer.toolkit is not None or bool(consumer.fail_mode)
    if has_mcp_policy and consumer.type != "MCP":
        raise invalid_member("consumer: invalid type", "mcp policy is only valid for MCP consumers")
    if consumer.routing_mode == "role_based":
        check_role_based(consumer, has_mcp_policy)
        return consumer
    if NIL_UUID in consumer.registry_ids:
        raise invalid_member("consumer: invalid model policy", "nil uuid")
    if consumer.fallback is not None:
        routing.check_fallback(consumer.fallback)
    routing.check_model_policies(consumer)
    if consumer.lb_config is not None:
        routing.check_lb_config(consumer.lb_config, consumer.model_policies)
    if consumer.role_ids:
        raise invalid_member(MODE, "roles are only valid in role_based mode")
    if consumer.type != "MCP":
        return consumer
    fail_mode = consumer.fail_mode or "open"
    routing.check_fail_mode(fail_mode)
    toolkit = routing.check_toolkit(consumer.toolkit or (), (*consumer.registry_ids, *gone))
    return replace(consumer, fail_mode=fail_mode, toolkit=toolkit or None)


def check_role_based(consumer: Consumer, has_mcp_policy: bool) -> None:
    rules = (
        (consumer.registry_ids, "registry_ids are only valid in inline mode"),
        (consumer.lb_config is not None, "lb_config is only valid in inline mode"),
        (consumer.fallback is not None and consumer.fallback.enabled, "fallback is only valid in inline mode"),
        (consumer.model_policies, "model_policies are only valid in inline mode"),
        (has_mcp_policy, "mcp policy is only valid in inline mode"),
        (len(consumer.auth_ids) > 1, "a role_based consumer can have at most one auth"),
    )
    for broken, message in rules:
        if broken:
            raise invalid_member(MODE, message)
    routing.check_ids(consumer.role_ids, MODE, "role")


def check_owned(draft: Draft, consumer: Consumer, before: Consumer | None) -> None:
    """Registries and roles are of the gateway, and newly bound registries of the consumer's type."""
    state = draft.state
    if any(id_ not in state.registries for id_ in consumer.registry_ids):
        raise invalid_member(routing.ASSOCIATION, "one or more registries do not belong to the gateway")
    for id_ in consumer.registry_ids:
        if before is None or id_ not in before.registry_ids:
            check_registry_type(consumer.type, state.registries[id_].type)
    if any(id_ not in state.roles for id_ in consumer.role_ids):
        raise invalid_member("role: invalid role_id", "one or more roles do not belong to the gateway")


def check_registry_type(consumer_type: str, registry_type: str) -> None:
    if registry_type != consumer_type:
        raise invalid_member(
            routing.ASSOCIATION,
            f"registry of type {registry_type} cannot be attached to a consumer of type {consumer_type}",
        )


def recheck_auths(draft: Draft, consumer: Consumer, old: Consumer) -> None:
    """A consumer that becomes an MCP or a role based one can use the auths it has."""
    to_mcp = consumer.type == "MCP" and old.type != "MCP"
    to_roles = consumer.routing_mode == "role_based" and old.routing_mode != "role_based"
    if to_mcp or to_roles:
        for id_ in consumer.auth_ids:
            check_fit(consumer, draft.state.auths[id_].type)


def check_unique(draft: Draft, consumer: Consumer) -> None:
    if any(other.name == consumer.name and other.id != consumer.id for other in draft.state.consumers.values()):
        raise already_exists("consumer")


def settled(draft: Draft, consumer: Consumer) -> Consumer:
    """The consumer as stored: ids of roles sorted, embedding secrets in the vault."""
    config = consumer.lb_config
    if config is not None and config.embedding_config is not None and config.embedding_config.auth is not None:
        auth = keep(
            draft, consumer.id, "lb_config.embedding_config.auth", config.embedding_config.auth, read.EMBEDDING_SECRETS
        )
        config = replace(config, embedding_config=replace(config.embedding_config, auth=auth))
    return replace(consumer, lb_config=config, role_ids=tuple(sorted(consumer.role_ids)))


def delete_consumer(draft: Draft, command: cmd.DeleteConsumer) -> None:
    consumer = consumer_of(draft, command.id)
    for policy in draft.state.policies.values():
        if consumer.id in policy.consumer_ids:
            draft.record(ev.PolicyDetached(consumer.id, policy.id))
    draft.record(ev.ConsumerDeleted(consumer.id))
    draft.enlist(ev.ConsumerUnlisted(consumer.slug))


def consumer_of(draft: Draft, id_: str) -> Consumer:
    consumer = draft.state.consumers.get(id_)
    if consumer is None:
        raise not_found()
    return consumer


def attach_registry(draft: Draft, command: cmd.AttachRegistry) -> None:
    """Appended at the end; attached again it keeps its place, and its weight unless one is sent."""
    weight = read.check_weight(command.weight)
    consumer = consumer_of(draft, command.consumer_id)
    registry = draft.state.registries.get(command.registry_id)
    if registry is None:
        raise not_found()
    if consumer.routing_mode == "role_based":
        raise conflict(
            f"resource conflict: consumer {consumer.id} routes by role, registries can only be attached in inline"
            " routing; send routing_mode and registries together in PUT /v1/gateways/{gateway_id}/consumers/{id}"
        )
    attached = registry.id in consumer.registry_ids
    if not attached:
        check_registry_type(consumer.type, registry.type)
    elif command.weight is None or consumer.registry_weights.get(registry.id) == weight:
        return
    draft.record(ev.RegistryAttached(consumer.id, registry.id, weight))


def detach_registry(draft: Draft, command: cmd.DetachRegistry) -> None:
    consumer, id_ = consumer_of(draft, command.consumer_id), command.registry_id
    members = (consumer.lb_config or LBConfig()).members
    named = {
        *(consumer.fallback.chain if consumer.fallback else ()),
        *consumer.model_policies,
        *(member.registry_id for member in members),
    }
    if id_ in named:
        raise conflict(f"consumer registry {id_} has dependent routing references: resource conflict")
    if id_ in consumer.registry_ids:
        draft.record(ev.RegistryDetached(consumer.id, id_))


def attach_role(draft: Draft, command: cmd.AttachRole) -> None:
    consumer = consumer_of(draft, command.consumer_id)
    if command.role_id not in draft.state.roles:
        raise not_found()
    if consumer.routing_mode == "inline":
        raise conflict(
            f"resource conflict: consumer {consumer.id} routes inline, roles can only be attached in role_based"
            " routing; send routing_mode in PUT /v1/gateways/{gateway_id}/consumers/{id} first"
        )
    if command.role_id not in consumer.role_ids:
        draft.record(ev.RoleAttached(consumer.id, command.role_id))


def detach_role(draft: Draft, command: cmd.DetachRole) -> None:
    consumer = consumer_of(draft, command.consumer_id)
    if command.role_id in consumer.role_ids:
        draft.record(ev.RoleDetached(consumer.id, command.role_id))


def attach_auth(draft: Draft, command: cmd.AttachAuth) -> None:
    consumer = consumer_of(draft, command.consumer_id)
    auth = draft.state.auths.get(command.auth_id)
    if auth is None:
        raise not_found()
    if auth.id not in consumer.auth_ids:
        check_attach(consumer, auth)
        draft.record(ev.AuthAttached(consumer.id, auth.id))


def detach_auth(draft: Draft, command: cmd.DetachAuth) -> None:
    consumer = consumer_of(draft, command.consumer_id)
    if command.auth_id in consumer.auth_ids:
        draft.record(ev.AuthDetached(consumer.id, command.auth_id))


def attach_policy(draft: Draft, command: cmd.AttachPolicy) -> None:
    """A policy that is not global must support the consumer's protocol, and so must its settings."""
    consumer = consumer_of(draft, command.consumer_id)
    policy = draft.state.policies.get(command.policy_id)
    if policy is None:
        raise not_found()
    if consumer.id in policy.consumer_ids:
        return
    if not policy.global_ and consumer.type != "A2A":
        mismatch = "consumer: policy protocol mismatch"
        protocols = draft.catalog.policy_protocols(policy.slug)
        if protocols is not None and consumer.type not in protocols:
            raise invalid_member(mismatch, f"plugin {policy.slug} does not support consumer protocol {consumer.type}")
        settings = readable(policy.settings, draft)
        detail = draft.catalog.policy_settings_refusal(policy.slug, settings, consumer.type)
        if detail is not None:
            raise invalid_member(mismatch, detail)
    draft.record(ev.PolicyAttached(consumer.id, policy.id))


def detach_policy(draft: Draft, command: cmd.DetachPolicy) -> None:
    consumer = consumer_of(draft, command.consumer_id)
    policy = draft.state.policies.get(command.policy_id)
    if policy is not None and consumer.id in policy.consumer_ids:
        draft.record(ev.PolicyDetached(consumer.id, policy.id))
