"""`GW/roles` and their registries (spec 01 §8)."""

from __future__ import annotations

from trustgate.admin import lists, rendering
from trustgate.admin.exchange import Answer, Call, applied, json_answer, versioned
from trustgate.admin.ids import new_uuid7
from trustgate.domain import commands, inputs
from trustgate.domain.errors import not_found

SORTS = ("name", "created_at", "updated_at")


async def create(call: Call) -> Answer:
    body = call.read(inputs.RoleCreate)
    role_id = new_uuid7()
    executed = await call.execute(commands.CreateRole(call.meta(), call.params["gateway_id"], role_id, body))
    return json_answer(rendering.role(executed.after.roles[role_id]), 201, applied(executed))


async def list_all(call: Call) -> Answer:
    page = lists.read_page(call.query)
    field, descending = lists.read_sort(call.query, SORTS)
    wanted = lists.read_search(call.query)
    roles = call.state.roles.values() if call.state is not None else ()
    matching = [role for role in roles if wanted in role.name.lower()]
    found = lists.paged(lists.ordered(matching, field, descending), page)
    return json_answer(found.envelope(rendering.role))


async def read(call: Call) -> Answer:
    state = call.existing()
    role = state.roles.get(call.params["id"])
    if role is None:
        raise not_found()
    return json_answer(rendering.role(role), 200, versioned(state))


async def update(call: Call) -> Answer:
    body = call.read(inputs.RoleUpdate)
    role_id = call.params["id"]
    executed = await call.execute(commands.UpdateRole(call.meta(), call.params["gateway_id"], role_id, body))
    return json_answer(rendering.role(executed.after.roles[role_id]), 200, applied(executed))


async def delete(call: Call) -> Answer:
    executed = await call.execute(commands.DeleteRole(call.meta(), call.params["gateway_id"], call.params["id"]))
    return Answer(204, headers=applied(executed))


async def attach_registry(call: Call) -> Answer:
    return Answer(204, headers=applied(await call.execute(commands.AttachRoleRegistry(*_pair(call)))))


async def detach_registry(call: Call) -> Answer:
    return Answer(204, headers=applied(await call.execute(commands.DetachRoleRegistry(*_pair(call)))))


def _pair(call: Call) -> tuple[commands.Meta, str, str, str]:
    return call.meta(), call.params["gateway_id"], call.params["role_id"], call.params["registry_id"]
