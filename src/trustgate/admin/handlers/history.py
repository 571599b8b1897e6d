"""`GW/history`: who changed what, when and why (an addition to the contract). The log of events, shown newest first.

What must not be here: anything that the objects themselves don't show. Secrets and key digests are left out by
rendering each stored object exactly as its own endpoint does.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.admin import answers, lists, rendering
from trustgate.admin.exchange import Answer, Call, json_answer, versioned
from trustgate.domain import events as ev


async def list_all(call: Call) -> Answer:
    """`total` is the gateway's version: every event counts one."""
    page = lists.read_page(call.query)
    state = call.existing()
    newest = state.version - (page.number - 1) * page.size
    oldest = max(0, newest - page.size)
    events = (
        await call.services.history(state.gateway.id, oldest, newest - oldest) if state.gateway and newest > 0 else ()
    )
    found = lists.Found([*reversed(events)], page, state.version)
    return json_answer(found.envelope(lambda entry: _change(call, *entry)), 200, versioned(state))


def _change(call: Call, version: int, event: ev.Event) -> answers.Change:
    meta = event.meta
    shown, members = _what(call, event.data)
    return answers.Change(
        version=version,
        time=rendering.rfc3339(meta.time),
        command=event.command,
        event=type(event.data).__name__,
        actor=meta.actor,
        actor_email=meta.actor_email,
        tenant_id=meta.tenant or "",
        request_id=meta.request_id,
        source=meta.source,
        reason=meta.reason,
        object=shown,
        members=members,
    )


def _what(call: Call, fact: ev.Fact) -> tuple[Any, dict[str, Any]]:
    match fact:
        case ev.GatewayCreated(gateway=gateway) | ev.GatewayUpdated(gateway=gateway):
            return call.render_gateway(gateway), {}
        case ev.RegistryCreated(registry=registry) | ev.RegistryUpdated(registry=registry):
            return rendering.registry(registry), {}
        case ev.ConsumerCreated(consumer=consumer) | ev.ConsumerUpdated(consumer=consumer):
            return rendering.consumer(consumer), {}
        case ev.AuthCreated(auth=auth) | ev.AuthUpdated(auth=auth):
            return rendering.auth(auth), {}
        case ev.PolicyCreated(policy=policy) | ev.PolicyUpdated(policy=policy):
            return rendering.policy(policy), {}
        case ev.RoleCreated(role=role) | ev.RoleUpdated(role=role):
            return rendering.role(role), {}
        case _:
            # The other events of a gateway consist of ids and weights.
            members = msgspec.to_builtins(fact)
            members.pop("type", None)
            return None, members
