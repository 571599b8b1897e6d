"""`GW/consumers` and their associations (spec 01 §7)."""

from __future__ import annotations

from trustgate.admin import lists, rendering
from trustgate.admin.errors import invalid_filter, invalid_weight
from trustgate.admin.exchange import Answer, Call, applied, json_answer, versioned
from trustgate.admin.ids import consumer_slugs, new_uuid7, parse_uuid
from trustgate.domain import commands, inputs
from trustgate.domain.errors import not_found

SORTS = ("name", "created_at", "updated_at", "type")
TYPES = ("LLM", "MCP", "A2A")


async def create(call: Call) -> Answer:
    body = call.read(inputs.ConsumerCreate)
    consumer_id, slugs = new_uuid7(), consumer_slugs()
    executed = await call.execute(
        commands.CreateConsumer(call.meta(), call.params["gateway_id"], consumer_id, body, slugs)
    )
    return json_answer(rendering.consumer(executed.after.consumers[consumer_id]), 201, applied(executed))


async def list_all(call: Call) -> Answer:
    query = call.query
    page = lists.read_page(query)
    field, descending = lists.read_sort(query, SORTS)
    active = lists.read_bool(query, "active")
    kind = lists.read_choice(query, "type", TYPES)
    auth_id = _auth_filter(query)
    wanted = lists.read_search(query)
    matching = [
        consumer
        for consumer in (call.state.consumers.values() if call.state is not None else ())
        if (wanted in consumer.name.lower() or wanted in consumer.slug.lower())
        and (active is None or consumer.active is active)
        and (kind is None or consumer.type == kind)
        and (auth_id is None or auth_id in consumer.auth_ids)
    ]
    found = lists.paged(lists.ordered(matching, field, descending), page)
    return json_answer(found.envelope(rendering.consumer))


def _auth_filter(query: lists.Query) -> str | None:
    text = query.get("auth_id")
    if not text:
        return None
    auth_id = parse_uuid(text, braces=True)
    if auth_id is None:
        raise invalid_filter()
    return auth_id


async def read(call: Call) -> Answer:
    state = call.existing()
    consumer = state.consumers.get(call.params["id"])
    if consumer is None:
        raise not_found()
    return json_answer(rendering.consumer(consumer), 200, versioned(state))


async def update(call: Call) -> Answer:
    body = call.read(inputs.ConsumerUpdate)
    consumer_id = call.params["id"]
    executed = await call.execute(commands.UpdateConsumer(call.meta(), call.params["gateway_id"], consumer_id, body))
    return json_answer(rendering.consumer(executed.after.consumers[consumer_id]), 200, applied(executed))


async def delete(call: Call) -> Answer:
    executed = await call.execute(commands.DeleteConsumer(call.meta(), call.params["gateway_id"], call.params["id"]))
    return Answer(204, headers=applied(executed))


async def attach_registry(call: Call) -> Answer:
    """An empty body attaches with the default weight, or leaves an attached registry's weight alone."""
    weight = call.read(inputs.AttachRegistryIn).weight if call.body else None
    if weight is not None and not 1 <= weight <= 100:
        raise invalid_weight()
    return await _done(call, commands.AttachRegistry(*_pair(call, "registry_id"), weight))


async def detach_registry(call: Call) -> Answer:
    return await _done(call, commands.DetachRegistry(*_pair(call, "registry_id")))


async def attach_role(call: Call) -> Answer:
    return await _done(call, commands.AttachRole(*_pair(call, "role_id")))


async def detach_role(call: Call) -> Answer:
    return await _done(call, commands.DetachRole(*_pair(call, "role_id")))


async def attach_auth(call: Call) -> Answer:
    return await _done(call, commands.AttachAuth(*_pair(call, "auth_id")))


async def detach_auth(call: Call) -> Answer:
    return await _done(call, commands.DetachAuth(*_pair(call, "auth_id")))


async def attach_policy(call: Call) -> Answer:
    return await _done(call, commands.AttachPolicy(*_pair(call, "policy_id")))


async def detach_policy(call: Call) -> Answer:
    return await _done(call, commands.DetachPolicy(*_pair(call, "policy_id")))


def _pair(call: Call, target: str) -> tuple[commands.Meta, str, str, str]:
    return call.meta(), call.params["gateway_id"], call.params["id"], call.params[target]


async def _done(call: Call, command: commands.Command) -> Answer:
    return Answer(204, headers=applied(await call.execute(command)))
