"""The commands that change configuration: one frozen Struct each.

What lives here: what is asked, by whom (`Meta`), with every id, slug, key and the time already chosen, so that deciding
is a pure function. What must not: rules (`decide_*`).
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from trustgate.domain import inputs
from trustgate.domain.entities import GatewayState


class Meta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who asked, when and from where. `tenant` None is a platform identity; `time` is UTC.

    `expected_versions`: the command is refused (412) unless the gateway is at one of these; None asks for nothing.
    """

    time: datetime
    actor: str = ""
    actor_email: str = ""
    tenant: str | None = None
    request_id: str = ""
    source: str = ""
    reason: str = ""
    address: str = ""
    """The network address that the command came from."""
    expected_versions: tuple[int, ...] | None = None


class CreateGateway(msgspec.Struct, frozen=True):
    """`slug_candidates` are tried in order when the body names no slug."""

    meta: Meta
    id: str
    body: inputs.GatewayCreate
    slug_candidates: tuple[str, ...] = ()


class UpdateGateway(msgspec.Struct, frozen=True):
    meta: Meta
    id: str
    body: inputs.GatewayUpdate


class DeleteGateway(msgspec.Struct, frozen=True):
    meta: Meta
    id: str


class ImportGateway(msgspec.Struct, frozen=True):
    """Take over a whole gateway as it is: ids, times and key digests included.

    `state` holds references for its secrets (`secrets.reference`); `secrets` maps each of them to the plaintext.
    """

    meta: Meta
    id: str
    state: GatewayState
    secrets: dict[str, str]


class ApplyGateway(msgspec.Struct, frozen=True):
    """Make a gateway what `state` says, or create it so; what `state` lacks is deleted.

    `secrets` maps the references of `state` that the vault does not hold yet to the plaintext.
    """

    meta: Meta
    id: str
    state: GatewayState
    secrets: dict[str, str]


class RevertGateway(msgspec.Struct, frozen=True):
    """Lead a gateway back to `state`, which it had at `version`. `held`: the vault references of that state, beyond
    those of the present one, whose secrets are still there. `restore_keys`: revoked API keys are to work again."""

    meta: Meta
    id: str
    version: int
    state: GatewayState
    held: frozenset[str] = frozenset()
    restore_keys: bool = False


class CreateRegistry(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    id: str
    body: inputs.RegistryCreate


class UpdateRegistry(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    id: str
    body: inputs.RegistryUpdate


class DeleteRegistry(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    id: str


class CreateConsumer(msgspec.Struct, frozen=True):
    """`slug_candidates` are generated slugs, tried in order."""

    meta: Meta
    gateway_id: str
    id: str
    body: inputs.ConsumerCreate
    slug_candidates: tuple[str, ...]


class UpdateConsumer(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    id: str
    body: inputs.ConsumerUpdate


class DeleteConsumer(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    id: str


class AttachRegistry(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    consumer_id: str
    registry_id: str
    weight: int | None = None


class DetachRegistry(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    consumer_id: str
    registry_id: str


class AttachRole(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    consumer_id: str
    role_id: str


class DetachRole(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    consumer_id: str
    role_id: str


class AttachAuth(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    consumer_id: str
    auth_id: str


class DetachAuth(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    consumer_id: str
    auth_id: str


class AttachPolicy(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    consumer_id: str
    policy_id: str


class DetachPolicy(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    consumer_id: str
    policy_id: str


class CreateAuth(msgspec.Struct, frozen=True):
    """`api_key` is the generated key in clear; it is used when the type is `api_key`, and only its digest is kept."""

    meta: Meta
    gateway_id: str
    id: str
    body: inputs.AuthCreate
    api_key: str


class UpdateAuth(msgspec.Struct, frozen=True):
    """`api_key` is used when the auth becomes an `api_key` one and has no key yet.

    Whether it was used shows in the result: the stored `key_hash` is its digest (`decide_auth.digest`).
    """

    meta: Meta
    gateway_id: str
    id: str
    body: inputs.AuthUpdate
    api_key: str


class RotateAuth(msgspec.Struct, frozen=True):
    """Replace the key of an `api_key` auth; the old key ends at once."""

    meta: Meta
    gateway_id: str
    id: str
    api_key: str


class DeleteAuth(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    id: str


class CreatePolicy(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    id: str
    body: inputs.PolicyCreate


class UpdatePolicy(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    id: str
    body: inputs.PolicyUpdate


class DeletePolicy(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    id: str


class SetPolicyGlobal(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    id: str
    global_: bool


class DuplicatePolicy(msgspec.Struct, frozen=True):
    """Copy policy `source_id` into a new policy `id`."""

    meta: Meta
    gateway_id: str
    source_id: str
    id: str


class CreateRole(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    id: str
    body: inputs.RoleCreate


class UpdateRole(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    id: str
    body: inputs.RoleUpdate


class DeleteRole(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    id: str


class AttachRoleRegistry(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    role_id: str
    registry_id: str


class DetachRoleRegistry(msgspec.Struct, frozen=True):
    meta: Meta
    gateway_id: str
    role_id: str
    registry_id: str


Command = (
    CreateGateway
    | UpdateGateway
    | DeleteGateway
    | ImportGateway
    | RevertGateway
    | ApplyGateway
    | CreateRegistry
    | UpdateRegistry
    | DeleteRegistry
    | CreateConsumer
    | UpdateConsumer
    | DeleteConsumer
    | AttachRegistry
    | DetachRegistry
    | AttachRole
    | DetachRole
    | AttachAuth
    | DetachAuth
    | AttachPolicy
    | DetachPolicy
    | CreateAuth
    | UpdateAuth
    | RotateAuth
    | DeleteAuth
    | CreatePolicy
    | UpdatePolicy
    | DeletePolicy
    | SetPolicyGlobal
    | DuplicatePolicy
    | CreateRole
    | UpdateRole
    | DeleteRole
    | AttachRoleRegistry
    | DetachRoleRegistry
)


def gateway_of(command: Command) -> str:
    """Id of the gateway whose stream a command is decided against."""
    if isinstance(
        command, CreateGateway | UpdateGateway | DeleteGateway | ImportGateway | RevertGateway | ApplyGateway
    ):
        return command.id
    return command.gateway_id
