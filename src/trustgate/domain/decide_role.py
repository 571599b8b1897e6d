"""Create, change and delete a role; bind registries to it (spec 01 §8)."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from msgspec.structs import replace

from trustgate.domain import commands as cmd
from trustgate.domain import consumer_body as read
from trustgate.domain import events as ev
from trustgate.domain.decision import Draft
from trustgate.domain.entities import Json, MCPPolicies, Role
from trustgate.domain.errors import DomainError, already_exists, conflict, invalid, invalid_member, not_found
from trustgate.domain.inputs import Strings
from trustgate.domain.routing import check_allowance, check_fail_mode, check_toolkit
from trustgate.domain.values import check_name, free

OPS = frozenset({"equals", "contains_any", "contains_all"})
MODEL_POLICY = "role: invalid model policy"


def create_role(draft: Draft, command: cmd.CreateRole) -> None:
    body, meta = command.body, draft.meta
    name = check_name(body.name, limit=None)
    for member, value in (("model_policies", body.model_policies), ("mcp_policies", body.mcp_policies)):
        if value or (member == "mcp_policies" and value is not None):
            raise invalid(f"{member} cannot be set on create; bind registries first and update the role")
    role = Role(
        id=command.id,
        gateway_id=command.gateway_id,
        name=name,
        created_at=meta.time,
        updated_at=meta.time,
        oidc_mapping=None if body.oidc_mapping is None else check_mapping(body.oidc_mapping),
    )
    draft.check_new("role", draft.state.roles, command.id)
    check_unique(draft, role)
    draft.record(ev.RoleCreated(role))


def update_role(draft: Draft, command: cmd.UpdateRole) -> None:
    """Order of checks: name, syntax, mapping, 404, MCP policies, model policies, uniqueness."""
    body = command.body
    if body.name is not None:
        check_name(body.name, limit=None)
    entries = None
    if body.mcp_policies is not None:
        entries = read.toolkit(body.mcp_policies.toolkit or (), "mcp_policies.toolkit")
    policies = None if body.model_policies is None else read.model_policies(body.model_policies)
    mapping = None if body.oidc_mapping is None else check_mapping(body.oidc_mapping)
    role = role_of(draft, command.id)
    mcp = role.mcp_policies
    if body.mcp_policies is not None:
        fail_mode = (body.mcp_policies.fail_mode or "").strip() or "open"
        check_fail_mode(fail_mode)
        mcp = MCPPolicies(check_toolkit(entries or (), role.registry_ids), fail_mode)
    for id_, policy in (policies or {}).items():
        if id_ not in role.registry_ids:
            raise invalid_member(MODEL_POLICY, f"registry {id_} is not bound to role")
        check_allowance(policy, MODEL_POLICY, f"registry {id_}")
    role = replace(
        role,
        name=role.name if body.name is None else body.name,
        updated_at=draft.meta.time,
        model_policies=role.model_policies if policies is None else policies,
        mcp_policies=mcp,
        oidc_mapping=role.oidc_mapping if mapping is None else mapping,
    )
    check_unique(draft, role)
    draft.record(ev.RoleUpdated(role))


def delete_role(draft: Draft, command: cmd.DeleteRole) -> None:
    """Detached from every consumer in the same decision."""
    role = role_of(draft, command.id)
    for consumer in draft.state.consumers.values():
        if role.id in consumer.role_ids:
            draft.record(ev.RoleDetached(consumer.id, role.id))
    draft.record(ev.RoleDeleted(role.id))


def attach_role_registry(draft: Draft, command: cmd.AttachRoleRegistry) -> None:
    role = role_of(draft, command.role_id)
    if command.registry_id not in draft.state.registries:
        raise not_found()
    if command.registry_id not in role.registry_ids:
        draft.record(ev.RoleRegistryAttached(role.id, command.registry_id))


def detach_role_registry(draft: Draft, command: cmd.DetachRoleRegistry) -> None:
    role, id_ = role_of(draft, command.role_id), command.registry_id
    toolkit = role.mcp_policies.toolkit if role.mcp_policies else ()
    if id_ in role.model_policies or any(entry.registry_id == id_ for entry in toolkit):
        raise conflict(f"role registry {id_} has dependent policy references: resource conflict")
    if id_ in role.registry_ids:
        draft.record(ev.RoleRegistryDetached(role.id, id_))


def role_of(draft: Draft, id_: str) -> Role:
    role = draft.state.roles.get(id_)
    if role is None:
        raise not_found()
    return role


def check_unique(draft: Draft, role: Role) -> None:
    if any(other.name == role.name and other.id != role.id for other in draft.state.roles.values()):
        raise already_exists("role")


class _Claim(msgspec.Struct):
    path: str | None = None
    op: str | None = None
    values: Strings | None = None


class _Mapping(msgspec.Struct):
    match: str | None = None
    claims: list[_Claim | None] | None = None


def check_mapping(sent: Any) -> Json:
    """An `oidc_mapping` whose known members hold; it is kept as it was sent."""

    def refuse(detail: str) -> DomainError:
        return invalid(f"role: invalid json: validation failed: {detail}")

    try:
        mapping = msgspec.convert(sent, _Mapping)
    except msgspec.ValidationError:
        raise refuse("oidc_mapping") from None
    if mapping.match not in ("any", "all"):
        raise refuse("oidc_mapping.match must be any or all")
    if not mapping.claims:
        raise refuse("oidc_mapping.claims is required")
    for index, claim in enumerate(mapping.claims):
        claim = claim or _Claim()
        at, path = f"oidc_mapping.claims[{index}]", (claim.path or "").strip()
        if not path or ".." in path:
            raise refuse(f"{at}.path is invalid")
        if claim.op not in OPS:
            raise refuse(f"{at}.op is invalid")
        if not any(value and value.strip() for value in claim.values or ()):
            raise refuse(f"{at}.values is required")
    return cast("Json", free(sent))
