"""From a command and the current state to events, or to a refusal.

What lives here: the dispatch of commands to their deciders. Everything is pure and synchronous: no I/O, no clock; ids,
slugs, keys and the time come in with the command. What must not: rules, which stand in one `decide_*` module an object.

Layers of checking (spec 01 §2.2): authentication, authorization, path ids, the tenant's right to the gateway and the
decoding of the body belong to `admin`; everything from the syntax of body members on is decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trustgate.domain import commands as cmd
from trustgate.domain.decide_apply import apply_gateway
from trustgate.domain.decide_auth import create_auth, delete_auth, rotate_auth, update_auth
from trustgate.domain.decide_consumer import (
    attach_auth,
    attach_policy,
    attach_registry,
    attach_role,
    create_consumer,
    delete_consumer,
    detach_auth,
    detach_policy,
    detach_registry,
    detach_role,
    update_consumer,
)
from trustgate.domain.decide_gateway import create_gateway, delete_gateway, update_gateway
from trustgate.domain.decide_import import import_gateway
from trustgate.domain.decide_policy import (
    create_policy,
    delete_policy,
    duplicate_policy,
    set_policy_global,
    update_policy,
)
from trustgate.domain.decide_registry import create_registry, delete_registry, update_registry
from trustgate.domain.decide_revert import revert_gateway
from trustgate.domain.decide_role import (
    attach_role_registry,
    create_role,
    delete_role,
    detach_role_registry,
    update_role,
)
from trustgate.domain.decision import Catalog, Context, Decision, Draft
from trustgate.domain.directory import DirectoryState
from trustgate.domain.entities import GatewayState
from trustgate.domain.errors import version_mismatch
from trustgate.domain.evolve import EMPTY

__all__ = ["EMPTY", "Catalog", "Context", "Decision", "decide"]

DECIDERS: dict[type[Any], Callable[[Draft, Any], None]] = {
    cmd.CreateGateway: create_gateway,
    cmd.UpdateGateway: update_gateway,
    cmd.DeleteGateway: delete_gateway,
    cmd.ImportGateway: import_gateway,
    cmd.RevertGateway: revert_gateway,
    cmd.ApplyGateway: apply_gateway,
    cmd.CreateRegistry: create_registry,
    cmd.UpdateRegistry: update_registry,
    cmd.DeleteRegistry: delete_registry,
    cmd.CreateConsumer: create_consumer,
    cmd.UpdateConsumer: update_consumer,
    cmd.DeleteConsumer: delete_consumer,
    cmd.AttachRegistry: attach_registry,
    cmd.DetachRegistry: detach_registry,
    cmd.AttachRole: attach_role,
    cmd.DetachRole: detach_role,
    cmd.AttachAuth: attach_auth,
    cmd.DetachAuth: detach_auth,
    cmd.AttachPolicy: attach_policy,
    cmd.DetachPolicy: detach_policy,
    cmd.CreateAuth: create_auth,
    cmd.UpdateAuth: update_auth,
    cmd.RotateAuth: rotate_auth,
    cmd.DeleteAuth: delete_auth,
    cmd.CreatePolicy: create_policy,
    cmd.UpdatePolicy: update_policy,
    cmd.DeletePolicy: delete_policy,
    cmd.SetPolicyGlobal: set_policy_global,
    cmd.DuplicatePolicy: duplicate_policy,
    cmd.CreateRole: create_role,
    cmd.UpdateRole: update_role,
    cmd.DeleteRole: delete_role,
    cmd.AttachRoleRegistry: attach_role_registry,
    cmd.DetachRoleRegistry: detach_role_registry,
}


def decide(state: GatewayState, directory: DirectoryState, command: cmd.Command, context: Context) -> Decision:
    """The events a command leads to; `state` is that of its gateway (`EMPTY` when there is none).

    Raises `DomainError`. An accepted command may lead to no events (attaching what is attached).
    """
    expected = command.meta.expected_versions
    if expected is not None and state.version not in expected:
        raise version_mismatch()
    draft = Draft(state, directory, command, context)
    DECIDERS[type(command)](draft, command)
    return draft.decision()
