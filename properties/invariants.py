"""What must hold, whatever was done. Each check raises AssertionError with the smallest fact that contradicts it.

What lives here: judgement over the world's notes, the log and the live process. What must not: doing anything to them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
import trio
from tests.domain.test_properties import check_links, check_references

from properties import steps
from properties.past import check_past
from properties.world import Called, Command, World
from trustgate.actors.projection import gateway_from
from trustgate.admin import rendering
from trustgate.domain import events as ev
from trustgate.domain.entities import GatewayState
from trustgate.domain.evolve import EMPTY, evolve
from trustgate.store.model import Recorded, gateway_of, gateway_stream

SETTLE_S = 10.0
DOCUMENTED = frozenset({200, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 431, 502, 503, 504})
RELAYED = frozenset({400, 401, 404, 408, 429, 500, 502, 503, 529})


class Log(msgspec.Struct):
    """The whole log, decoded; states of each gateway by version."""

    recorded: list[Recorded]
    events: list[ev.Event]
    states: dict[str, dict[int, GatewayState]]

    def newest(self, gateway_id: str) -> GatewayState:
        versions = self.states.get(gateway_id)
        return versions[max(versions)] if versions else EMPTY


async def read_log(world: World) -> Log:
    assert world.installation.parts is not None
    store = world.installation.parts.store
    recorded: list[Recorded] = []
    while batch := await store.read_all(recorded[-1].position if recorded else 0):
        recorded += batch
    states: dict[str, dict[int, GatewayState]] = defaultdict(dict)
    current: dict[str, GatewayState] = {}
    decoded: list[ev.Event] = []
    for one in recorded:
        event = ev.decode(one.data, one.position)
        decoded.append(event)
        gateway_id = gateway_of(one.stream)
        if gateway_id is None:
            continue
        state = evolve(current.get(gateway_id, EMPTY), event)
        assert state.version == one.version, f"hole in {one.stream} at {one.version}"
        check_links(state)
        current[gateway_id] = states[gateway_id][state.version] = state
    return Log(recorded, decoded, states)


async def check_all(world: World, *, settled: bool = True) -> Log:
    """Every invariant, at a moment when no step is under way."""
    if settled:
        await settle(world)
    log = await read_log(world)
    check_commands(log, world.commands)
    for state in map(log.newest, log.states):
        check_references(state)
    await check_views(world, log)
    await check_snapshots(world, log)
    assert world.installation.parts is not None
    await check_past(world.installation.parts.store, log.states)
    await check_answers(world, log)
    check_calls(world, log)
    check_limits(world, log)
    check_secrets(world, log)
    return log


async def settle(world: World) -> None:
    """Nothing outlives its request: soon after the last one, no upstream connection is busy and nobody waits."""
    assert world.installation.parts is not None
    pool = world.installation.parts.pool
    with trio.move_on_after(SETTLE_S):
        while (found := pool.statistics()).busy or found.waiting:  # noqa: ASYNC110 - no event to wait for
            await trio.sleep(0.01)
    found = pool.statistics()
    assert not found.busy and not found.waiting, f"upstream connections outlive their requests: {found}"


def check_commands(log: Log, commands: Sequence[Command]) -> None:
    """Acknowledged commands are in the log once, each as events of one batch; refused ones left no trace."""
    positions: dict[str, list[int]] = defaultdict(list)
    for recorded, event in zip(log.recorded, log.events, strict=True):
        positions[event.meta.request_id].append(recorded.position)
    for command in commands:
        found = positions.get(command.request_id, [])
        assert found == list(range(found[0], found[0] + len(found))) if found else True, f"torn apart: {command}"
        if command.answer is None:
            continue
        status = command.answer.status
        assert status < 500 or status == 503, f"crash: {command.method} {command.path}: {command.answer}"
        if status >= 400:
            assert not found, f"refused, yet in the log: {command}"


async def check_views(world: World, log: Log) -> None:
    """What the data plane serves from is the fold of the log."""
    with trio.move_on_after(SETTLE_S):
        wanted = {id_: max(versions) for id_, versions in log.states.items() if log.newest(id_).gateway is not None}
        while {id_: state.version for id_, state in world.installation.live().items()} != wanted:  # noqa: ASYNC110
            await trio.sleep(0.005)
    for id_, state in world.installation.live().items():
        assert state == log.newest(id_), f"the view of {id_} is not the fold of its log"


async def check_snapshots(world: World, log: Log) -> None:
    """A snapshot equals the fold of the log up to its version."""
    assert world.installation.parts is not None
    streams = [gateway_stream(id_) for id_ in log.states]
    for snapshot in await world.installation.parts.store.snapshots(streams):
        id_ = gateway_of(snapshot.stream)
        assert id_ is not None
        state = gateway_from(snapshot)
        assert state == log.states[id_][snapshot.version], f"the snapshot of {id_} is not the fold of its log"


async def check_answers(world: World, log: Log) -> None:
    """What GET answers is the log's state, rendered."""
    for number, gateway in enumerate(world.gateways):
        state = log.newest(gateway["id"])
        for kind, render in RENDERED.items():
            path = f"{world.base(number)}/{kind}?page_size=100"
            answer = await world.admin(number, "GET", path, None)
            assert answer is not None and answer.status == 200, f"GET {path}: {answer}"
            shown = {item["id"]: item for item in items(answer.json)}
            wanted = {id_: to_json(render(entity)) for id_, entity in getattr(state, kind).items()}
            assert shown == wanted, f"GET {kind} is not the log's state"


RENDERED: dict[str, Any] = {
    "registries": rendering.registry,
    "consumers": rendering.consumer,
    "auths": rendering.auth,
    "policies": rendering.policy,
    "roles": rendering.role,
}


def items(answer: Any) -> list[Any]:
    """The objects of a list answer; registries come in groups."""
    found = answer["items"]
    return found if isinstance(found, list) else [item for group in found.values() for item in group["items"]]


def to_json(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def admitted(state: GatewayState | None, call: Called) -> bool:
    """Whether that state lets the call's credential in."""
    if state is None or state.gateway is None or call.key_gateway != state.gateway.id:
        return False
    consumer, auth = state.consumers.get(call.consumer_id), state.auths.get(call.auth_id)
    if consumer is None or auth is None or not consumer.active:
        return False
    return auth.enabled and auth.type == "api_key" and auth.id in consumer.auth_ids and consumer.type == "LLM"


def check_calls(world: World, log: Log) -> None:
    """Of every proxied request: a documented outcome, one record, no upstream without authentication, one version."""
    seen: dict[str, list[Any]] = defaultdict(list)
    for behaviour in set(steps.BEHAVIOURS):
        for request in world.upstream.requests(behaviour):
            seen[marker_of(request.body)].append((behaviour, request))
    heard = Counter(one.trace_id for one in world.installation.heard if one.trace_id)
    for call in world.calls:
        reached = seen.get(call.mark, [])
        if call.alone and not admitted(call.before, call) and not admitted(call.after, call):
            assert not reached, f"an upstream heard of a request without a valid credential: {call.step}"
            assert call.answer is None or call.answer.status in (400, 401, 403, 404), f"{call.step}: {call.answer}"
        if call.answer is not None:
            check_outcome(call, reached, heard)
        for behaviour, request in reached:
            check_version(call, behaviour, request, log)


def check_outcome(call: Called, reached: list[Any], heard: Counter[str]) -> None:
    answer = call.answer
    assert answer is not None
    relayed = {int(behaviour[:3]) for behaviour, _ in reached if behaviour[:3].isdigit()}
    assert answer.status in DOCUMENTED | (relayed & RELAYED), f"{call.step}: undocumented {answer}"
    trace = answer.headers.get("x-ag-trace-id")
    if trace:
        assert heard[trace] == 1, f"{heard[trace]} records of one request: {call.step}"
    if answer.status == 200 and call.step.body is None:
        assert reached, f"answered without an upstream: {call.step}"
    if not call.step.stream and answer.headers.get("content-type", "").startswith("application/json"):
        assert answer.whole, f"half an answer: {call.step}"


def check_version(call: Called, behaviour: str, request: Any, log: Log) -> None:
    """A request went out as one single version of its gateway says: address and headers of the same registry."""
    gateway_states = log.states[call.key_gateway]
    mark = request.headers.get("x-mark", "")
    known = [
        registry
        for state in gateway_states.values()
        for registry in state.registries.values()
        if mark and mark in str(registry.llm_target)
    ]
    assert known, f"an upstream got a mark that no version of the gateway has: {mark}"
    assert all(f"/{behaviour}/" in str(registry.llm_target) for registry in known), f"{mark} went to {behaviour}"
    if call.answer is None or "x-ag-config-version" not in call.answer.headers:
        return
    state = gateway_states[int(call.answer.headers["x-ag-config-version"])]
    assert any(mark in str(registry.llm_target) for registry in state.registries.values()), (
        f"answered by version {state.version}, sent by another"
    )


def marker_of(body: bytes) -> str:
    start = body.find(b'"call-')
    return body[start + 1 : body.index(b'"', start + 1)].decode() if start >= 0 else ""


def check_limits(world: World, log: Log) -> None:
    """No window of a rate limiter lets more through than its limit. Counters in process memory end with the process."""
    admitted_at: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for call in world.calls:
        answer = call.answer
        if answer is None or answer.status == 429 or "x-ag-trace-id" not in answer.headers:
            continue
        version = int(answer.headers.get("x-ag-config-version", "0"))
        state = log.states.get(call.key_gateway, {}).get(version)
        if state is None or answer.status != 200:
            continue
        for policy in state.policies.values():
            if policy.slug == "rate_limiter" and policy.enabled and call.consumer_id in policy.consumer_ids:
                admitted_at[policy.id, call.consumer_id, call.run].append(call.sent_at)
    for (policy_id, _, _), moments in admitted_at.items():
        moments.sort()
        for first, last in zip(moments, moments[steps.LIMIT :], strict=False):
            assert last - first >= steps.WINDOW_S - 2, f"{policy_id} let more than {steps.LIMIT} through a window"


def check_secrets(world: World, log: Log) -> None:
    """Keys and upstream secrets are in no event, in no log line, and in no answer but the one that created the key."""
    secrets = [value.encode() for value in (*world.secrets, *world.keys.values())]
    for recorded in log.recorded:
        for secret in secrets:
            assert secret not in recorded.data, f"a secret in the log at {recorded.position}"
    lines = str(world.logs).encode()
    for secret in secrets:
        assert secret not in lines, "a secret in the logs"
    keys = set(world.keys.values())
    for command in world.commands:
        if command.answer is None:
            continue
        for secret in secrets:
            if secret in command.answer.body:
                creation = command.method == "POST" and command.path.endswith("/auths")
                assert creation and secret.decode() in keys, (
                    f"a secret in the answer to {command.method} {command.path}"
                )
    for call in world.calls:
        if call.answer is not None:
            for secret in secrets:
                assert secret not in call.answer.body, f"a secret in the answer to {call.step}"
