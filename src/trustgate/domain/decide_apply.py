"""Make a gateway what a file asks for: the events from its present state, or from nothing, to that one.

What lives here: the command's checks across gateways. What must not: the making of that state (`configfile`), which
the same rules have judged object by object.
"""

from __future__ import annotations

from msgspec import to_builtins

from trustgate.domain import commands as cmd
from trustgate.domain import secrets
from trustgate.domain.decide_gateway import check_instances
from trustgate.domain.decide_revert import lead_to
from trustgate.domain.decision import Draft
from trustgate.domain.errors import invalid, not_found, quoted


def apply_gateway(draft: Draft, command: cmd.ApplyGateway) -> None:
    then, now = command.state, draft.state
    if then.gateway is None or then.gateway.id != command.id:
        raise not_found()
    if draft.meta.tenant not in (None, then.gateway.tenant_id):
        raise not_found()
    present = set(secrets.refs(to_builtins(now)))
    missing = sorted(set(secrets.refs(to_builtins(then))) - present - command.secrets.keys())
    if missing:
        raise invalid(f"gateway: secret {quoted(missing[0])} is missing")
    if now.gateway is None or now.gateway.entitlements != then.gateway.entitlements:
        others = [one for one in draft.directory.of_tenant(then.gateway.tenant_id) if one.gateway_id != command.id]
        check_instances(draft, then.gateway.entitlements, len(others) + 1)
    draft.adopt(command.secrets)
    lead_to(draft, command.id, then)
