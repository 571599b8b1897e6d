"""`GW/auths`: credentials of callers (spec 01 §9). The one place where an API key leaves the gateway, once."""

from __future__ import annotations

from trustgate.admin import lists, rendering
from trustgate.admin.exchange import Answer, Call, Executed, applied, json_answer, versioned
from trustgate.admin.ids import new_api_key, new_uuid7
from trustgate.domain import commands, inputs
from trustgate.domain.errors import not_found

SORTS = ("name", "created_at", "updated_at", "type")
TYPES = ("api_key", "oauth2", "oidc", "mtls")


async def create(call: Call) -> Answer:
    body = call.read(inputs.AuthCreate)
    auth_id, key = new_uuid7(), new_api_key()
    executed = await call.execute(commands.CreateAuth(call.meta(), call.params["gateway_id"], auth_id, body, key))
    return _answer(executed, auth_id, key, 201)


async def list_all(call: Call) -> Answer:
    query = call.query
    page = lists.read_page(query)
    field, descending = lists.read_sort(query, SORTS)
    enabled = lists.read_bool(query, "enabled")
    kind = lists.read_choice(query, "type", TYPES)
    wanted = lists.read_search(query)
    matching = [
        auth
        for auth in (call.state.auths.values() if call.state is not None else ())
        if wanted in auth.name.lower()
        and (enabled is None or auth.enabled is enabled)
        and (kind is None or auth.type == kind)
    ]
    found = lists.paged(lists.ordered(matching, field, descending), page)
    return json_answer(found.envelope(rendering.auth))


async def read(call: Call) -> Answer:
    state = call.existing()
    auth = state.auths.get(call.params["id"])
    if auth is None:
        raise not_found()
    return json_answer(rendering.auth(auth), 200, versioned(state))


async def update(call: Call) -> Answer:
    body = call.read(inputs.AuthUpdate)
    auth_id, key = call.params["id"], new_api_key()
    executed = await call.execute(commands.UpdateAuth(call.meta(), call.params["gateway_id"], auth_id, body, key))
    return _answer(executed, auth_id, key, 200)


async def rotate(call: Call) -> Answer:
    """Replaces the key of an API key auth (an addition to the contract)."""
    auth_id, key = call.params["id"], new_api_key()
    executed = await call.execute(commands.RotateAuth(call.meta(), call.params["gateway_id"], auth_id, key))
    return _answer(executed, auth_id, key, 200)


async def delete(call: Call) -> Answer:
    executed = await call.execute(commands.DeleteAuth(call.meta(), call.params["gateway_id"], call.params["id"]))
    return Answer(204, headers=applied(executed))


def _answer(executed: Executed, auth_id: str, key: str, status: int) -> Answer:
    """The key is shown when this very command made it the stored one."""
    before, after = executed.before.auths.get(auth_id), executed.after.auths[auth_id]
    is_new = bool(after.key_hash) and (before is None or before.key_hash != after.key_hash)
    return json_answer(rendering.auth(after, key if is_new else ""), status, applied(executed))
