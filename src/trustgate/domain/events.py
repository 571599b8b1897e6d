"""What the log holds: facts about one gateway, and the entries of the directory of all gateways.

What lives here: the event Structs, their envelope, and bytes in both directions with upcasting of older schemas. What
must not: storage (`store`), meaning (`evolve`, `directory`).

An entity's event carries the whole entity as it is afterwards, so any before/after difference follows from the fold.
Associations and detachments are events of their own. A cascade is written out: first what falls away, then the
deletion, so that after every single event all references are whole.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from trustgate.domain.commands import Meta
from trustgate.domain.entities import Auth, Consumer, Entitlements, Gateway, Policy, Registry, Role

SCHEMA_VERSION = 1
"""Schema of the events written by this code. Raise it together with an entry in `UPCASTS`."""


class GatewayCreated(msgspec.Struct, frozen=True, tag=True):
    gateway: Gateway


class GatewayUpdated(msgspec.Struct, frozen=True, tag=True):
    gateway: Gateway


class GatewayDeleted(msgspec.Struct, frozen=True, tag=True):
    """The gateway and everything in it is gone."""

    gateway_id: str


class RegistryCreated(msgspec.Struct, frozen=True, tag=True):
    registry: Registry


class RegistryUpdated(msgspec.Struct, frozen=True, tag=True):
    registry: Registry


class RegistryDeleted(msgspec.Struct, frozen=True, tag=True):
    registry_id: str


class ConsumerCreated(msgspec.Struct, frozen=True, tag=True):
    consumer: Consumer


class ConsumerUpdated(msgspec.Struct, frozen=True, tag=True):
    consumer: Consumer


class ConsumerDeleted(msgspec.Struct, frozen=True, tag=True):
    consumer_id: str


class AuthCreated(msgspec.Struct, frozen=True, tag=True):
    auth: Auth


class AuthUpdated(msgspec.Struct, frozen=True, tag=True):
    auth: Auth


class AuthDeleted(msgspec.Struct, frozen=True, tag=True):
    auth_id: str


class PolicyCreated(msgspec.Struct, frozen=True, tag=True):
    policy: Policy


class PolicyUpdated(msgspec.Struct, frozen=True, tag=True):
    policy: Policy


class PolicyDeleted(msgspec.Struct, frozen=True, tag=True):
    policy_id: str


class RoleCreated(msgspec.Struct, frozen=True, tag=True):
    role: Role


class RoleUpdated(msgspec.Struct, frozen=True, tag=True):
    role: Role


class RoleDeleted(msgspec.Struct, frozen=True, tag=True):
    role_id: str


class RegistryAttached(msgspec.Struct, frozen=True, tag=True):
    """A new binding goes to the end of the consumer's order; an existing one keeps its place and takes the weight."""

    consumer_id: str
    registry_id: str
    weight: int


class RegistryDetached(msgspec.Struct, frozen=True, tag=True):
    consumer_id: str
    registry_id: str


class RoleAttached(msgspec.Struct, frozen=True, tag=True):
    consumer_id: str
    role_id: str


class RoleDetached(msgspec.Struct, frozen=True, tag=True):
    consumer_id: str
    role_id: str


class AuthAttached(msgspec.Struct, frozen=True, tag=True):
    consumer_id: str
    auth_id: str


class AuthDetached(msgspec.Struct, frozen=True, tag=True):
    consumer_id: str
    auth_id: str


class PolicyAttached(msgspec.Struct, frozen=True, tag=True):
    consumer_id: str
    policy_id: str


class PolicyDetached(msgspec.Struct, frozen=True, tag=True):
    consumer_id: str
    policy_id: str


class RoleRegistryAttached(msgspec.Struct, frozen=True, tag=True):
    role_id: str
    registry_id: str


class RoleRegistryDetached(msgspec.Struct, frozen=True, tag=True):
    role_id: str
    registry_id: str


class GatewayListed(msgspec.Struct, frozen=True, tag=True):
    """Directory: what must be unique, or is counted, across gateways. Replaces an earlier entry of the gateway."""

    gateway_id: str
    slug: str
    domain: str
    tenant_id: str
    entitlements: Entitlements
    created_at: datetime


class GatewayUnlisted(msgspec.Struct, frozen=True, tag=True):
    """Directory: a gateway is gone, and with it the slugs of its consumers."""

    gateway_id: str
    consumer_slugs: tuple[str, ...]


class ConsumerListed(msgspec.Struct, frozen=True, tag=True):
    """Directory: a consumer's globally unique slug is taken."""

    slug: str
    gateway_id: str


class ConsumerUnlisted(msgspec.Struct, frozen=True, tag=True):
    slug: str


GatewayFact = (
    GatewayCreated
    | GatewayUpdated
    | GatewayDeleted
    | RegistryCreated
    | RegistryUpdated
    | RegistryDeleted
    | ConsumerCreated
    | ConsumerUpdated
    | ConsumerDeleted
    | AuthCreated
    | AuthUpdated
    | AuthDeleted
    | PolicyCreated
    | PolicyUpdated
    | PolicyDeleted
    | RoleCreated
    | RoleUpdated
    | RoleDeleted
    | RegistryAttached
    | RegistryDetached
    | RoleAttached
    | RoleDetached
    | AuthAttached
    | AuthDetached
    | PolicyAttached
    | PolicyDetached
    | RoleRegistryAttached
    | RoleRegistryDetached
)
DirectoryFact = GatewayListed | GatewayUnlisted | ConsumerListed | ConsumerUnlisted
Fact = GatewayFact | DirectoryFact


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A fact in its envelope: schema version, who, when, from where, why, and by which command."""

    v: int = SCHEMA_VERSION
    meta: Meta
    command: str
    data: Fact


Upcast = Callable[[dict[str, Any]], dict[str, Any]]

UPCASTS: dict[int, Upcast] = {}
"""From schema version N to N + 1, on the event as a JSON object."""


class UnknownEvent(Exception):
    """The log holds an event that this version of TrustGate does not understand."""

    def __init__(self, position: int | None, found: str) -> None:
        where = "an event" if position is None else f"the event at position {position}"
        super().__init__(
            f"{where} has {found}, which this version of TrustGate does not know (it knows schema version"
            f" {SCHEMA_VERSION}): it was written by a newer version. Start that version, or a later one, on this store;"
            " nothing was changed."
        )
        self.position = position


class CorruptEvent(Exception):
    """The bytes at a position of the log are not an event of a known schema."""

    def __init__(self, position: int | None, detail: str) -> None:
        where = "an event" if position is None else f"the event at position {position}"
        super().__init__(f"{where} cannot be read: {detail}. Restore it from a backup of the event store.")
        self.position = position


class _Kind(msgspec.Struct):
    type: str = ""


class _Head(msgspec.Struct):
    v: int = 0
    data: _Kind = msgspec.field(default_factory=_Kind)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)
_head = msgspec.json.Decoder(_Head)
_object = msgspec.json.Decoder(dict[str, Any])
KINDS: frozenset[str] = frozenset(kind.__name__ for kind in Fact.__args__)


def encode(event: Event) -> bytes:
    return _encoder.encode(event)


def decode(data: bytes, position: int | None = None) -> Event:
    """An event from its bytes, brought up to the current schema.

    Raises `UnknownEvent` for a newer schema or kind, `CorruptEvent` for bytes that are no event.
    """
    try:
        event = _decoder.decode(data)
    except msgspec.DecodeError as error:
        return _decode_other(data, position, str(error))
    return event if event.v == SCHEMA_VERSION else _decode_other(data, position, "")


def _decode_other(data: bytes, position: int | None, detail: str) -> Event:
    try:
        head = _head.decode(data)
    except msgspec.DecodeError as error:
        raise CorruptEvent(position, str(error)) from error
    if head.v > SCHEMA_VERSION:
        raise UnknownEvent(position, f"schema version {head.v}")
    if head.v == SCHEMA_VERSION and head.data.type not in KINDS:
        raise UnknownEvent(position, f"the kind {head.data.type!r}")
    if head.v == SCHEMA_VERSION or head.v < min(UPCASTS, default=SCHEMA_VERSION):
        raise CorruptEvent(position, detail or f"schema version {head.v} is not supported")
    older = _object.decode(data)
    for version in range(head.v, SCHEMA_VERSION):
        older = UPCASTS[version](older)
    older["v"] = SCHEMA_VERSION
    try:
        return msgspec.convert(older, Event)
    except msgspec.ValidationError as error:
        raise CorruptEvent(position, str(error)) from error
