"""`GW/policies`: the objects, their global scope and duplicates (spec 01 §10)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from trustgate.admin import lists, rendering
from trustgate.admin.exchange import Answer, Call, applied, json_answer, versioned
from trustgate.admin.ids import new_uuid7
from trustgate.domain import commands, inputs
from trustgate.domain.errors import not_found

SORTS = ("name", "created_at", "updated_at", "priority")
MODES = ("enforce", "throttle", "observe")


async def create(call: Call) -> Answer:
    body = call.read(inputs.PolicyCreate)
    policy_id = new_uuid7()
    executed = await call.execute(commands.CreatePolicy(call.meta(), call.params["gateway_id"], policy_id, body))
    return json_answer(rendering.policy(executed.after.policies[policy_id]), 201, applied(executed))


async def list_all(call: Call) -> Answer:
    query = call.query
    page = lists.read_page(query)
    field, descending = lists.read_sort(query, SORTS)
    enabled = lists.read_bool(query, "enabled")
    is_global = lists.read_bool(query, "global")
    mode = lists.read_choice(query, "mode", MODES)
    slugs = _slug_filter(query, call.services.policy_groups())
    wanted = lists.read_search(query)
    matching = [
        policy
        for policy in (call.state.policies.values() if call.state is not None else ())
        if (wanted in policy.name.lower() or wanted in policy.slug.lower())
        and (enabled is None or policy.enabled is enabled)
        and (is_global is None or policy.global_ is is_global)
        and (mode is None or policy.mode == mode)
        and (slugs is None or policy.slug in slugs)
    ]
    found = lists.paged(lists.ordered(matching, field, descending), page)
    return json_answer(found.envelope(rendering.policy))


def _slug_filter(query: lists.Query, groups: Mapping[str, Collection[str]]) -> set[str] | None:
    """The plugin slugs that `category` and `type` leave, None when neither is given."""
    categories, types = _values(query, "category"), _values(query, "type")
    if not categories:
        return types or None
    in_categories = {slug for title in categories for slug in groups.get(title, ())}
    return in_categories & types if types else in_categories


def _values(query: lists.Query, name: str) -> set[str]:
    parts = [part.strip() for text in query.all(name) for part in text.split(",")]
    return {part for part in parts if part}


async def read(call: Call) -> Answer:
    state = call.existing()
    policy = state.policies.get(call.params["id"])
    if policy is None:
        raise not_found()
    return json_answer(rendering.policy(policy), 200, versioned(state))


async def update(call: Call) -> Answer:
    body = call.read(inputs.PolicyUpdate)
    policy_id = call.params["id"]
    executed = await call.execute(commands.UpdatePolicy(call.meta(), call.params["gateway_id"], policy_id, body))
    return json_answer(rendering.policy(executed.after.policies[policy_id]), 200, applied(executed))


async def delete(call: Call) -> Answer:
    executed = await call.execute(commands.DeletePolicy(call.meta(), call.params["gateway_id"], call.params["id"]))
    return Answer(204, headers=applied(executed))


async def make_global(call: Call) -> Answer:
    return await _set_global(call, True)


async def make_local(call: Call) -> Answer:
    return await _set_global(call, False)


async def _set_global(call: Call, is_global: bool) -> Answer:
    policy_id = call.params["id"]
    command = commands.SetPolicyGlobal(call.meta(), call.params["gateway_id"], policy_id, is_global)
    executed = await call.execute(command)
    return json_answer(rendering.policy(executed.after.policies[policy_id]), 200, applied(executed))


async def duplicate(call: Call) -> Answer:
    copy_id = new_uuid7()
    command = commands.DuplicatePolicy(call.meta(), call.params["gateway_id"], call.params["id"], copy_id)
    executed = await call.execute(command)
    return json_answer(rendering.policy(executed.after.policies[copy_id]), 201, applied(executed))
