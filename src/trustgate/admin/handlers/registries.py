"""`GW/registries`: the objects, the grouped view, live tool lists and connection tests (spec 01 §6)."""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.admin import answers, lists, rendering
from trustgate.admin.errors import invalid_query, not_an_mcp_registry, too_many_registries
from trustgate.admin.exchange import Answer, Call, applied, json_answer, versioned
from trustgate.admin.ids import new_uuid7
from trustgate.admin.secrets import revealed
from trustgate.admin.services import ConnectionTest
from trustgate.domain import commands, inputs
from trustgate.domain.decide_registry import probe_target
from trustgate.domain.decision import Context
from trustgate.domain.entities import GatewayState, Registry
from trustgate.domain.errors import not_found
from trustgate.domain.evolve import EMPTY

SORTS = ("name", "created_at", "updated_at")
MAX_GROUPED = 200


async def create(call: Call) -> Answer:
    body = call.read(inputs.RegistryCreate)
    registry_id = new_uuid7()
    executed = await call.execute(commands.CreateRegistry(call.meta(), call.params["gateway_id"], registry_id, body))
    return json_answer(rendering.registry(executed.after.registries[registry_id]), 201, applied(executed))


async def list_all(call: Call) -> Answer:
    view, registries = call.query.get("view"), _registries(call)
    if view == "grouped":
        _check_grouped(call.query)
        return json_answer(_grouped(registries))
    if view:
        raise invalid_query('view must be empty or "grouped"')
    if call.query.has("type"):
        raise invalid_query('type is only supported when view is "grouped"')
    page = lists.read_page(call.query)
    field, descending = lists.read_sort(call.query, SORTS)
    wanted = lists.read_search(call.query)
    matching = [registry for registry in registries if wanted in registry.name.lower()]
    found = lists.paged(lists.ordered(matching, field, descending), page)
    return json_answer(found.envelope(rendering.registry))


def _check_grouped(query: lists.Query) -> None:
    if query.get("type") != "LLM":
        raise invalid_query('type must be "LLM" when view is "grouped"')
    if any(query.has(name) for name in ("name", "page", "size")):
        raise invalid_query('name, page, and size are not supported when view is "grouped"')


def _grouped(registries: list[Registry]) -> answers.GroupedRegistries:
    """LLM registries by provider code; instances by lower-cased name, then id."""
    if len(registries) > MAX_GROUPED:
        raise too_many_registries(len(registries))
    by_provider: dict[str, list[Registry]] = {}
    for registry in sorted(registries, key=lambda it: (it.name.lower(), it.id)):
        if registry.llm_target is not None:
            by_provider.setdefault(registry.llm_target.provider, []).append(registry)
    groups = [
        answers.RegistryGroup(provider, "LLM", len(instances), [rendering.registry(it) for it in instances])
        for provider, instances in sorted(by_provider.items())
    ]
    return answers.GroupedRegistries("grouped", groups, len(groups), sum(group.instance_count for group in groups))


async def read(call: Call) -> Answer:
    state, registry = _found(call)
    return json_answer(rendering.registry(registry), 200, versioned(state))


async def update(call: Call) -> Answer:
    body = call.read(inputs.RegistryUpdate)
    registry_id = call.params["id"]
    executed = await call.execute(commands.UpdateRegistry(call.meta(), call.params["gateway_id"], registry_id, body))
    return json_answer(rendering.registry(executed.after.registries[registry_id]), 200, applied(executed))


async def delete(call: Call) -> Answer:
    executed = await call.execute(commands.DeleteRegistry(call.meta(), call.params["gateway_id"], call.params["id"]))
    return Answer(204, headers=applied(executed))


async def tools(call: Call) -> Answer:
    """The MCP server's tools as it lists them now."""
    _, registry = _found(call)
    if registry.mcp_target is None:
        raise not_an_mcp_registry(registry.id)
    listed = await call.services.registry_tools(await in_clear(call, registry))
    return json_answer(answers.RegistryTools(list(listed)))


async def health(call: Call) -> Answer:
    """What the load balancers last marked of the registry; healthy when they know nothing (spec 02 §7.6)."""
    _, registry = _found(call)
    marked = await call.services.health(registry.id)
    return json_answer(msgspec.convert({"registry_id": registry.id, **marked}, answers.RegistryHealth))


async def test_connection(call: Call) -> Answer:
    """Probes a stored registry, or credentials that are not stored; 200 whatever the outcome."""
    body = call.read(inputs.ConnectionTest)
    # Nothing is stored, so nothing is fingerprinted.
    context = Context(catalog=call.services.catalog, fingerprint=str)
    target = probe_target(call.state or EMPTY, body, context)
    test = ConnectionTest(
        provider=target.provider,
        provider_options=await revealed(target.options, call.control.reveal),
        auth=await revealed(target.auth, call.control.reveal),
    )
    outcome = await call.services.probe(test)
    return json_answer(msgspec.convert({**outcome, "provider": test.provider}, answers.ConnectionResult))


async def in_clear(call: Call, registry: Registry) -> Registry:
    """The registry with its secrets in clear, for a call to its upstream only."""
    plain: dict[str, Any] = await revealed(msgspec.to_builtins(registry), call.control.reveal)
    return msgspec.convert(plain, Registry)


def _registries(call: Call) -> list[Registry]:
    return list(call.state.registries.values()) if call.state is not None else []


def _found(call: Call) -> tuple[GatewayState, Registry]:
    state = call.existing()
    registry = state.registries.get(call.params["id"])
    if registry is None:
        raise not_found()
    return state, registry
