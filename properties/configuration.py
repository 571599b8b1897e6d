"""Properties of configuration across processes that are killed, or that read what another has just written.

What lives here: worker processes (`python -m properties.configuration admin|proxy TARGET`) and the two properties they
prove. `python -m properties.configuration crash|fresh sqlite|postgres [REPETITIONS]` runs one of them.

- `crash`: a process that is killed with SIGKILL under a stream of commands loses nothing that it acknowledged, and
  nothing is there twice.
- `fresh`: a script that creates six objects and then asks a data plane in another process never gets a stale answer.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import trio
from tests.actors import world

from trustgate.actors import ControlPlane, Follower
from trustgate.domain import commands as cmd
from trustgate.domain import inputs
from trustgate.domain.entities import GatewayState
from trustgate.store import EventStore, PostgresConfig, open_store

ROOT = pathlib.Path(__file__).resolve().parents[1]


def target_of(text: str) -> world.Target:
    return PostgresConfig.of_dsn(text) if text.startswith("postgresql:") else pathlib.Path(text)


def say(message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


# The workers


async def admin(target: world.Target) -> None:
    """Carries out one command a line: `["stream", gateway_id, first]` or `["six", gateway_id, slug]`."""
    async with open_store(target, world.KEY) as store, ControlPlane(store, world.AnyCatalog()).running() as control:
        say("ready")
        async for line in trio.wrap_file(sys.stdin):
            request = json.loads(line)
            if request[0] == "stream":
                await stream(control, request[1], request[2])
            else:
                say(await six(control, request[1], request[2]))


async def stream(control: ControlPlane, gateway_id: str, number: int) -> None:
    """Commands without end; each is acknowledged on standard output after its answer."""
    if await control.state(gateway_id) is None:
        await control.execute(world.create_gateway(gateway_id, f"g-{gateway_id}"))
    while True:
        await control.execute(world.create_consumer(gateway_id, f"c-{gateway_id[:8]}-{number}"))
        say(number)
        number += 1


async def six(control: ControlPlane, gateway_id: str, slug: str) -> dict[str, Any]:
    """A gateway, a registry, a policy, a credential and a consumer with all of them, as six commands."""
    registry = world.create_registry(gateway_id, "r", f"sk-{slug}-0123456789")
    consumer = world.create_consumer(gateway_id, f"c-{slug}")
    auth_body = msgspec.convert({"name": "a", "type": "api_key"}, inputs.AuthCreate)
    auth = cmd.CreateAuth(world.meta(), gateway_id, world.new_id(), auth_body, f"tg-{slug}-0123456789abcdef")
    commands = (
        world.create_gateway(gateway_id, slug),
        registry,
        consumer,
        auth,
        cmd.AttachRegistry(world.meta(), gateway_id, consumer.id, registry.id, 1),
        cmd.AttachAuth(world.meta(), gateway_id, consumer.id, auth.id),
    )
    started = time.monotonic()
    applied = [(await control.execute(command)).applied for command in commands]
    return {
        "consumer": consumer.id,
        "registry": registry.id,
        "auth": auth.id,
        "applied": all(applied),
        "seconds": time.monotonic() - started,
    }


async def proxy(target: world.Target) -> None:
    """A data plane. One question a line, `[gateway_id, consumer, registry, auth]`; answers what it would serve."""
    states: dict[str, GatewayState] = {}

    def put(gateway_id: str, state: GatewayState | None, position: int) -> None:
        if state is not None:
            states[gateway_id] = state

    async with open_store(target, world.KEY) as store, trio.open_nursery() as nursery:
        follower = Follower(store, put)
        await nursery.start(follower.run)
        say("ready")
        async for line in trio.wrap_file(sys.stdin):
            question = json.loads(line)
            found = served(states.get(question[0]), follower, *question[1:])
            first = found
            if found != "ok" and await follower.catch_up():
                found = served(states.get(question[0]), follower, *question[1:])
            say([first, found])
        nursery.cancel_scope.cancel()


def served(state: GatewayState | None, follower: Follower, consumer_id: str, registry_id: str, auth_id: str) -> str:
    if state is None:
        return "no gateway"
    consumer = state.consumers.get(consumer_id)
    if consumer is None:
        return "no consumer"
    if auth_id not in consumer.auth_ids or auth_id not in state.auths:
        return "no credential"
    if registry_id not in consumer.registry_ids:
        return "no registry"
    target = state.registries[registry_id].llm_target
    assert target is not None and target.auth is not None
    return "ok" if follower.reveal(target.auth["api_key"]["api_key"]["$secret"]).startswith("sk-") else "no secret"


# The properties


@contextlib.contextmanager
def worker(role: str, target: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "properties.configuration", role, target]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        assert hear(process) == "ready"
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # pyright: ignore[reportOptionalMemberAccess]


def hear(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args} ended with {process.wait()}")
    return json.loads(line)


def tell(process: subprocess.Popen[str], message: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def crash(target: str, repetitions: int, rand: random.Random) -> dict[str, int]:
    """Kill a writer `repetitions` times. Raises AssertionError when an acknowledged command is lost or doubled."""
    gateway_id, expected, unanswered = world.new_id(), set[str](), 0
    number = 0
    for _ in range(repetitions):
        acknowledged: list[int] = []
        with worker("admin", target) as process:
            tell(process, ["stream", gateway_id, number])
            for _ in range(rand.randrange(1, 40)):
                acknowledged.append(hear(process))
            time.sleep(rand.random() * 0.004)
            process.kill()
            # What was said before the end counts as acknowledged, too.
            assert process.stdout is not None
            acknowledged += [int(line) for line in process.stdout.read().splitlines() if line.strip()]
        expected |= {f"c-{gateway_id[:8]}-{n}" for n in acknowledged}
        names = trio.run(check, target, gateway_id)
        assert expected <= names, f"lost: {sorted(expected - names)[:5]}"
        extra = names - expected
        # At most the one command in flight is there without having been acknowledged.
        assert len(extra) <= 1, f"more than the command in flight: {sorted(extra)[:5]}"
        unanswered += len(extra)
        expected |= extra
        number = max(int(name.rsplit("-", 1)[1]) for name in names) + 1 if names else 0
    return {"kills": repetitions, "acknowledged": len(expected) - unanswered, "stored but unanswered": unanswered}


async def check(target: str, gateway_id: str) -> set[str]:
    """Names of all consumers; the log's numbering is whole, and every name is there once, in stream and directory."""
    async with open_store(target_of(target), world.KEY) as store:
        await numbering(store)
        async with ControlPlane(store, world.AnyCatalog()).running() as control:
            state, directory = await control.state(gateway_id), await control.directory()
    if state is None:
        return set()
    names = [consumer.name for consumer in state.consumers.values()]
    assert len(names) == len(set(names)), "a command took effect twice"
    assert set(directory.consumer_slugs) == {consumer.slug for consumer in state.consumers.values()}
    return set(names)


async def numbering(store: EventStore) -> None:
    versions: dict[str, int] = {}
    position = 0
    while events := await store.read_all(position):
        for event in events:
            assert event.version == versions.get(event.stream, 0) + 1, f"hole in {event.stream}"
            versions[event.stream] = event.version
        position = events[-1].position
    assert versions == {head.stream: head.version for head in await store.heads()}


def fresh(target: str, repetitions: int) -> dict[str, Any]:
    """Six objects, then a question to another process, `repetitions` times. Raises AssertionError on a stale answer."""
    seconds: list[float] = []
    caught_up = late = 0
    with worker("admin", target) as writer, worker("proxy", target) as reader:
        for number in range(repetitions):
            gateway_id = world.new_id()
            tell(writer, ["six", gateway_id, f"g-{number}-{gateway_id[:8]}"])
            made = hear(writer)
            seconds.append(made["seconds"] / 6)
            late += not made["applied"]
            tell(reader, [gateway_id, made["consumer"], made["registry"], made["auth"]])
            first, answer = hear(reader)
            assert answer == "ok", f"stale answer in repetition {number}: {answer}"
            caught_up += first != "ok"
    seconds.sort()
    return {
        "repetitions": repetitions,
        "barrier timed out": late,
        "answers that needed catching up": caught_up,
        "write p50 ms": round(seconds[len(seconds) // 2] * 1000, 2),
        "write p99 ms": round(seconds[len(seconds) * 99 // 100] * 1000, 2),
    }


def main(arguments: list[str]) -> int:
    if arguments[0] in ("admin", "proxy"):
        trio.run({"admin": admin, "proxy": proxy}[arguments[0]], target_of(arguments[1]))
        return 0
    from tests import services

    with contextlib.ExitStack() as stack:
        if arguments[1] == "postgres":
            target = stack.enter_context(services.run_postgres())
        else:
            target = str(pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "trustgate.db")
        if arguments[0] == "crash":
            result = crash(target, int(arguments[2]) if len(arguments) > 2 else 50, random.Random(1))
        else:
            result = fresh(target, int(arguments[2]) if len(arguments) > 2 else 1000)
        print(f"{arguments[0]} on {arguments[1]}: held. {result}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
