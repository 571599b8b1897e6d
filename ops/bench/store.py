"""Benchmark of the event store and the actors: commands a second, start-up, memory, delays. Prints a table.

    python ops/bench/store.py [--gateways 1000] [--consumers 100] [--commands 1000] [--backend sqlite postgres]

PostgreSQL is a private server of `tests.services`.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import msgspec
import trio

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests import services  # noqa: E402
from tests.actors import world  # noqa: E402

from trustgate.actors import ControlPlane, Follower  # noqa: E402
from trustgate.actors import projection as pj  # noqa: E402
from trustgate.domain import events as ev  # noqa: E402
from trustgate.domain.decide import EMPTY, Context, decide  # noqa: E402
from trustgate.domain.directory import DirectoryState  # noqa: E402
from trustgate.domain.entities import GatewayState  # noqa: E402
from trustgate.store import DIRECTORY, EventStore, PostgresConfig, Snapshot, StreamWrite, gateway_stream, open_store  # noqa: E402

Row = tuple[str, str]


def target_of(text: str) -> world.Target:
    return PostgresConfig.of_dsn(text) if text.startswith("postgresql:") else pathlib.Path(text)


def resident_mb() -> float:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def percentiles(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    p50, p99 = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    return f"p50 {p50 * 1000:.2f}, p99 {p99 * 1000:.2f}, max {ordered[-1] * 1000:.2f}"


async def commands(target: world.Target, count: int) -> list[Row]:
    """Commands answered a second: one client, and 16 clients on gateways of their own; with a data plane in process."""
    rows: list[Row] = []
    async with open_store(target, world.KEY) as store, trio.open_nursery() as nursery:
        follower = Follower(store, lambda *_: None)
        await nursery.start(follower.run)
        control = ControlPlane(store, world.AnyCatalog(), follower)
        await nursery.start(control.run)

        async def client(number: int) -> None:
            for _ in range(count // clients):
                await control.execute(world.create_registry(ids[number], world.new_id()))

        for clients in (1, 16):
            ids = [world.new_id() for _ in range(clients)]
            for id_ in ids:
                await control.execute(world.create_gateway(id_, f"g-{id_}"))
            started, cpu = time.perf_counter(), time.process_time()
            async with trio.open_nursery() as group:
                for number in range(clients):
                    group.start_soon(client, number)
            rate = count / (time.perf_counter() - started)
            cpu_us = (time.process_time() - cpu) / count * 1e6
            text = f"{rate:,.0f} ({cpu_us:,.0f} us CPU of this process each)"
            rows.append((f"commands/s, {clients} client{'s' * (clients > 1)}", text))
        nursery.cancel_scope.cancel()
    return rows


async def delays(target: world.Target, count: int) -> list[Row]:
    """From the commit to the data plane's callback, and from asking to the answer of an Admin write."""
    rows: list[Row] = []
    for own in (True, False):
        applied: dict[int, float] = {}

        def on_state(gateway_id: str, state: GatewayState | None, position: int) -> None:
            applied[position] = time.perf_counter()  # noqa: B023

        async with (
            open_store(target, world.KEY) as here,
            open_store(target, world.KEY) as there,
            trio.open_nursery() as nursery,
        ):
            follower = Follower(here if own else there, on_state)
            await nursery.start(follower.run)
            control = ControlPlane(here, world.AnyCatalog(), follower if own else None)
            await nursery.start(control.run)
            committed = await timed(here, control, count)
            after = [max(0.0, applied[position] - at) for position, at in committed[0].items() if position in applied]
            nursery.cancel_scope.cancel()
        where = "same process" if own else "other connection"
        rows.append((f"plane has it after the commit, ms, {where}", percentiles(after)))
        rows.append((f"write answered, ms, {where}", percentiles(committed[1])))
    return rows


async def timed(store: EventStore, control: ControlPlane, count: int) -> tuple[dict[int, float], list[float]]:
    """When each command's events were committed, and how long each answer took."""
    committed: dict[int, float] = {}
    answers: list[float] = []
    append = store.append

    async def timing(*arguments: object) -> object:
        appended = await append(*arguments)  # type: ignore[arg-type]
        committed[appended.position] = time.perf_counter()
        return appended

    store.append = timing  # type: ignore[method-assign,assignment]
    gateway_id = world.new_id()
    await control.execute(world.create_gateway(gateway_id, f"g-{gateway_id}"))
    for _ in range(count):
        asked = time.perf_counter()
        await control.execute(world.create_registry(gateway_id, world.new_id()))
        answers.append(time.perf_counter() - asked)
    return committed, answers


async def fill(target: world.Target, gateways: int, consumers: int, key: str = world.KEY) -> None:
    """A store of that size with the snapshots a running control plane would have left."""
    async with open_store(target, key) as store:
        context = Context(catalog=world.AnyCatalog(), fingerprint=store.fingerprint)
        directory = DirectoryState()
        slug_events: list[ev.Event] = []
        for number in range(gateways):
            id_, state, events, secrets = world.new_id(), EMPTY, [], {}
            todo = [world.create_gateway(id_, f"gateway-{number}"), world.create_registry(id_, "registry")]
            todo += [world.create_consumer(id_, f"consumer-{number}-{n}") for n in range(consumers)]
            local = DirectoryState()
            for command in todo:
                decision = decide(state, local, command, context)
                state = decision.state
                events += [ev.encode(event) for event in decision.gateway]
                slug_events += decision.directory
                secrets |= decision.secrets
            await store.append([StreamWrite(gateway_stream(id_), 0, events)], secrets)
            await store.put_snapshot(pj.snapshot_of(gateway_stream(id_), state))
        written = 0
        while written < len(slug_events):
            part = slug_events[written : written + 5000]
            await store.append([StreamWrite(DIRECTORY, written, [ev.encode(event) for event in part])])
            written += len(part)
        directory = pj.fold_directory(slug_events, directory)
        snapshot = pj.snapshot_of(DIRECTORY, directory)
        await store.put_snapshot(Snapshot(snapshot.stream, snapshot.version, snapshot.schema, snapshot.state))


async def start(target: world.Target) -> None:
    """In a process of its own: how long a data plane takes to be ready, and what its states weigh."""
    before = resident_mb()
    views: dict[str, GatewayState | None] = {}
    async with open_store(target, world.KEY) as store, trio.open_nursery() as nursery:
        follower = Follower(store, lambda id_, state, _: views.__setitem__(id_, state))
        started = time.perf_counter()
        await nursery.start(follower.run)
        seconds = time.perf_counter() - started
        objects = sum(pj.size(state) for state in views.values() if state is not None)
        result = {"seconds": seconds, "mb": resident_mb() - before, "objects": objects, "gateways": len(views)}
        sys.stdout.buffer.write(msgspec.json.encode(result))
        nursery.cancel_scope.cancel()


def measure(backend: str, options: argparse.Namespace) -> list[Row]:
    with contextlib.ExitStack() as stack:
        if backend == "postgres":
            target = stack.enter_context(services.run_postgres())
        else:
            target = str(pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "trustgate.db")
        rows = trio.run(commands, target_of(target), options.commands)
        rows += trio.run(delays, target_of(target), options.commands // 2)
        if backend == "sqlite":
            target = str(pathlib.Path(target).with_name("large.db"))
        else:
            services.create_database(target, "large")
            target = target.rsplit("/", 1)[0] + "/large"
        filled = time.perf_counter()
        trio.run(fill, target_of(target), options.gateways, options.consumers)
        rows.append(("filling the store, s", f"{time.perf_counter() - filled:.1f}"))
        command = [sys.executable, __file__, "--start", target]
        result = msgspec.json.decode(subprocess.run(command, check=True, capture_output=True).stdout)
        size = f"{result['gateways']:,} gateways, {result['objects']:,} objects"
        rows.append((f"start with {size}, s", f"{result['seconds']:.2f}"))
        rows.append(("memory of those states, MB", f"{result['mb']:.0f}"))
        return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateways", type=int, default=1000)
    parser.add_argument("--consumers", type=int, default=100)
    parser.add_argument("--commands", type=int, default=1000)
    parser.add_argument("--backend", nargs="+", default=["sqlite", "postgres"], choices=["sqlite", "postgres"])
    parser.add_argument("--start", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start:
        trio.run(start, target_of(options.start))
        return 0
    for backend in options.backend:
        print(f"{backend}")
        for name, value in measure(backend, options):
            print(f"  {name:<62} {value}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
