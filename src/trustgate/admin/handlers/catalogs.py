"""Read-only catalogs, playground traces and data-plane connections (spec 01 §11, §12)."""

from __future__ import annotations

from trustgate.admin import answers, lists
from trustgate.admin.exchange import Answer, Call, json_answer
from trustgate.admin.handlers.registries import in_clear
from trustgate.admin.ids import parse_uuid
from trustgate.domain.entities import Registry
from trustgate.domain.errors import not_found


async def providers(call: Call) -> Answer:
    return json_answer(answers.Items(list(call.services.providers_catalog())))


async def models(call: Call) -> Answer:
    """`page` and `size` are optional here: without either, everything is listed."""
    query = call.query
    registry = await _registry(call)
    items = list(await call.services.models_catalog(query.get("provider") or None, registry))
    if not (query.has("page") or query.has("size")):
        return json_answer(answers.Items(items))
    found = lists.paged(items, lists.read_page(query))
    return json_answer(found.envelope(lambda item: item))


async def _registry(call: Call) -> Registry | None:
    """The registry whose account narrows the list; ids that don't parse or aren't the caller's are ignored."""
    gateway_id = parse_uuid(call.query.get("gateway_id"), braces=True)
    registry_id = parse_uuid(call.query.get("registry_id"), braces=True)
    if gateway_id is None or registry_id is None:
        return None
    state = await call.control.state(gateway_id)
    if state is None or state.gateway is None:
        return None
    if call.identity.tenant is not None and state.gateway.tenant_id != call.identity.tenant:
        return None
    registry = state.registries.get(registry_id)
    return None if registry is None else await in_clear(call, registry)


async def policies(call: Call) -> Answer:
    return json_answer(call.services.policies_catalog())


async def mcp_servers(call: Call) -> Answer:
    return json_answer(answers.MCPServers(list(call.services.mcp_servers_catalog())))


async def playground_trace(call: Call) -> Answer:
    """A tenant only sees its own events."""
    event = await call.services.playground_trace(call.params["trace_id"])
    if event is None:
        raise not_found()
    if call.identity.tenant is not None and event.get("tenant_id") != call.identity.tenant:
        raise not_found()
    return json_answer(event)


async def config_sync_connections(call: Call) -> Answer:
    scope = call.query.get("scope") or None
    rows = await call.services.config_sync_connections(scope, call.identity.tenant)
    return json_answer(answers.Items(list(rows)))
