"""Create, change, copy and delete a policy; make it global or not (spec 01 §10)."""

from __future__ import annotations

import re
from typing import cast

from msgspec.structs import replace

from trustgate.domain import commands as cmd
from trustgate.domain import events as ev
from trustgate.domain.credentials import hide, readable
from trustgate.domain.decision import Draft
from trustgate.domain.entities import Json, Policy, PolicyMode
from trustgate.domain.errors import FAILED, already_exists, foreign, invalid, invalid_member, not_found, quoted, refused
from trustgate.domain.values import MAX_NAME_BYTES, check_name, free, strings

MODES = frozenset({"enforce", "throttle", "observe"})
STAGES = frozenset({"pre_request", "post_request", "pre_response", "post_response"})
MAX_DESCRIPTION_BYTES = 1000
NUMBERED = re.compile(r"(?P<base>.*\S)\s+(?P<number>[0-9]{1,18})", re.DOTALL)


def create_policy(draft: Draft, command: cmd.CreatePolicy) -> None:
    body, meta = command.body, draft.meta
    name = check_name(body.name)
    check_description(body.description)
    slug = check_slug(body.slug)
    policy = Policy(
        id=command.id,
        gateway_id=command.gateway_id,
        name=name,
        slug=slug,
        created_at=meta.time,
        updated_at=meta.time,
        description=body.description or "",
        enabled=bool(body.enabled),
        priority=body.priority or 0,
        parallel=body.parallel is not False,
        stages=strings(body.stages),
        mode=check_mode(body.mode),
    )
    policy = checked(draft, policy, free(body.settings or {}), {})
    draft.check_new("policy", draft.state.policies, command.id)
    check_unique(draft, policy)
    draft.record(ev.PolicyCreated(policy))


def update_policy(draft: Draft, command: cmd.UpdatePolicy) -> None:
    """Order of checks: name, description, slug, mode, 404, gateway, then the merged policy."""
    body = command.body
    if body.name is not None:
        check_name(body.name)
    check_description(body.description)
    if body.slug is not None:
        check_slug(body.slug)
    mode = None if body.mode is None else check_mode(body.mode)
    old = draft.state.policies.get(command.id)
    if old is None:
        raise foreign("policy") if draft.context.owner("policy", command.id) else not_found()
    policy = replace(
        old,
        name=old.name if body.name is None else body.name,
        slug=old.slug if body.slug is None else body.slug,
        updated_at=draft.meta.time,
        description=old.description if body.description is None else body.description,
        enabled=old.enabled if body.enabled is None else body.enabled,
        priority=old.priority if body.priority is None else body.priority,
        parallel=old.parallel if body.parallel is None else body.parallel,
        stages=old.stages if body.stages is None else strings(body.stages),
        mode=old.mode if mode is None else mode,
    )
    stored = old.settings if policy.slug == old.slug else {}
    policy = checked(draft, policy, old.settings if body.settings is None else free(body.settings), stored)
    check_unique(draft, policy)
    draft.record(ev.PolicyUpdated(policy))


def delete_policy(draft: Draft, command: cmd.DeletePolicy) -> None:
    policy_of(draft, command.id)
    draft.record(ev.PolicyDeleted(command.id))


def set_policy_global(draft: Draft, command: cmd.SetPolicyGlobal) -> None:
    """Attachments are kept, and dormant while the policy is global."""
    old = policy_of(draft, command.id)
    if old.global_ != command.global_:
        draft.record(ev.PolicyUpdated(replace(old, global_=command.global_, updated_at=draft.meta.time)))


def duplicate_policy(draft: Draft, command: cmd.DuplicatePolicy) -> None:
    """A copy that is not global and has no consumers. It shares the secrets of its source until one of them changes."""
    source = policy_of(draft, command.source_id)
    draft.check_new("policy", draft.state.policies, command.id)
    taken = {policy.name for policy in draft.state.policies.values()}
    time = draft.meta.time
    copy = replace(
        source,
        id=command.id,
        name=copy_name(source.name, taken),
        created_at=time,
        updated_at=time,
        global_=False,
        consumer_ids=(),
    )
    draft.record(ev.PolicyCreated(copy))


def copy_name(name: str, taken: set[str]) -> str:
    """The first free `base n`: `limit` gives `limit 2`, `limit 2` gives `limit 3`; at most 255 bytes."""
    base, number = name.strip(), 2
    if match := NUMBERED.fullmatch(base):
        base, number = match["base"], max(int(match["number"]) + 1, 2)
    while True:
        suffix = f" {number}"
        room = MAX_NAME_BYTES - len(suffix)
        candidate = base.encode()[:room].decode(errors="ignore") + suffix
        if candidate not in taken:
            return candidate
        number += 1


def policy_of(draft: Draft, id_: str) -> Policy:
    policy = draft.state.policies.get(id_)
    if policy is None:
        raise not_found()
    return policy


def check_description(description: str | None) -> None:
    if description is not None and len(description.encode()) > MAX_DESCRIPTION_BYTES:
        raise invalid(f"description too long (max {MAX_DESCRIPTION_BYTES})")


def check_slug(slug: str | None) -> str:
    if slug is None or not slug.strip():
        raise invalid("slug is required")
    return slug


def check_mode(mode: str | None) -> PolicyMode:
    mode = mode or "enforce"
    if mode not in MODES:
        raise invalid(f"invalid mode {quoted(mode)}")
    return cast("PolicyMode", mode)


def checked(draft: Draft, policy: Policy, settings: Json, stored: Json) -> Policy:
    """The merged policy with its settings; priority, stages, then what the plugin says."""
    if policy.priority < 0:
        raise invalid_member("policy: invalid priority", "priority cannot be negative")
    for stage in policy.stages:
        if stage not in STAGES:
            raise invalid_member("policy: invalid stage", quoted(stage))

    def refuse() -> Exception:
        return invalid_member(
            "policy: invalid settings", "secret cannot be a masked value; omit the field to keep the stored value"
        )

    paths = draft.catalog.policy_secret_paths(policy.slug)
    kept = hide(draft, policy.id, "settings", settings, stored, paths, refuse)
    detail = draft.catalog.validate_policy(policy.slug, readable(kept, draft), policy.stages, policy.mode)
    if detail is not None:
        raise refused(f"{FAILED}\n{detail}")
    return replace(policy, settings=kept)


def check_unique(draft: Draft, policy: Policy) -> None:
    if any(other.name == policy.name and other.id != policy.id for other in draft.state.policies.values()):
        raise already_exists("policy")
