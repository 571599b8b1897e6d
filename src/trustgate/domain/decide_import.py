"""Take over a whole gateway from elsewhere: an existing installation, an export, a copy.

What lives here: the one command that brings ids, times and digests along. Its state is taken as it is, save for what
must be unique across gateways. What must not: reading of other formats (the importer).
"""

from __future__ import annotations

from msgspec import to_builtins

from trustgate.domain import commands as cmd
from trustgate.domain import events as ev
from trustgate.domain import secrets
from trustgate.domain.decide_gateway import check_unique
from trustgate.domain.decision import Draft
from trustgate.domain.directory import listed
from trustgate.domain.errors import already_exists, invalid, not_found, quoted


def import_gateway(draft: Draft, command: cmd.ImportGateway) -> None:
    """A gateway and all its objects at once; targets come before what refers to them."""
    state = command.state
    gateway = state.gateway
    if gateway is None or gateway.id != command.id:
        raise not_found()
    if draft.state.gateway is not None:
        raise already_exists("gateway")
    check_unique(draft, gateway.id, gateway.slug, gateway.domain)
    for consumer in state.consumers.values():
        if consumer.slug in draft.directory.consumer_slugs:
            raise already_exists("consumer", f"the slug {quoted(consumer.slug)} is already taken")
    missing = sorted(set(secrets.refs(to_builtins(state))) - command.secrets.keys())
    if missing:
        raise invalid(f"gateway: secret {quoted(missing[0])} is missing from the import")
    draft.adopt(command.secrets)
    draft.record(ev.GatewayCreated(gateway))
    draft.enlist(listed(gateway))
    for registry in state.registries.values():
        draft.record(ev.RegistryCreated(registry))
    for role in state.roles.values():
        draft.record(ev.RoleCreated(role))
    for auth in state.auths.values():
        draft.record(ev.AuthCreated(auth))
    for consumer in state.consumers.values():
        draft.record(ev.ConsumerCreated(consumer))
        draft.enlist(ev.ConsumerListed(consumer.slug, gateway.id))
    for policy in state.policies.values():
        draft.record(ev.PolicyCreated(policy))
