"""`/v1/gateways` and `/v1/gateways/{id}` (spec 01 §5)."""

from __future__ import annotations

from trustgate.admin import lists
from trustgate.admin.exchange import Answer, Call, applied, json_answer, versioned
from trustgate.admin.ids import gateway_slugs, new_uuid4
from trustgate.domain import commands, inputs
from trustgate.domain.entities import Gateway, GatewayState
from trustgate.domain.errors import not_found

SORTS = ("created_at", "updated_at", "slug")


async def create(call: Call) -> Answer:
    body = call.read(inputs.GatewayCreate)
    slugs = gateway_slugs()
    executed = await call.execute(commands.CreateGateway(call.meta(), new_uuid4(), body, slugs))
    return json_answer(call.render_gateway(_present(executed.after)), 201, applied(executed))


async def list_all(call: Call) -> Answer:
    page = lists.read_page(call.query)
    field, descending = lists.read_sort(call.query, SORTS)
    wanted, slug = call.query.get("search").lower(), call.query.get("slug").lower()
    if call.query.has("as_of"):
        past = call.past()
        gateways = await past.archive.gateways_at(past.moment(call.query.get("as_of")), call.identity.tenant)
    else:
        states = await call.control.states()
        gateways = [state.gateway for state in states.values() if state.gateway is not None]
    matching = [
        gateway
        for gateway in gateways
        if wanted in gateway.slug
        and slug in gateway.slug
        and (call.identity.tenant is None or gateway.tenant_id == call.identity.tenant)
    ]
    found = lists.paged(lists.ordered(matching, field, descending), page)
    return json_answer(found.envelope(call.render_gateway))


async def read(call: Call) -> Answer:
    state = call.state or await _owned(call)
    return json_answer(call.render_gateway(_present(state)), 200, versioned(state))


async def update(call: Call) -> Answer:
    body = call.read(inputs.GatewayUpdate)
    await _check_owner(call)
    executed = await call.execute(commands.UpdateGateway(call.meta(), call.params["id"], body))
    return json_answer(call.render_gateway(_present(executed.after)), 200, applied(executed))


async def delete(call: Call) -> Answer:
    await _check_owner(call)
    executed = await call.execute(commands.DeleteGateway(call.meta(), call.params["id"]))
    return Answer(204, headers=applied(executed))


async def _owned(call: Call) -> GatewayState:
    """The gateway's state; 404 when it does not exist or is another tenant's."""
    state = await call.control.state(call.params["id"])
    if state is None or state.gateway is None:
        raise not_found()
    if call.identity.tenant is not None and state.gateway.tenant_id != call.identity.tenant:
        raise not_found()
    return state


async def _check_owner(call: Call) -> None:
    """404 for a tenant that does not own the gateway; the platform's 404 is the command's, after its other checks."""
    if call.identity.tenant is not None:
        await _owned(call)


def _present(state: GatewayState) -> Gateway:
    if state.gateway is None:
        raise not_found()
    return state.gateway
