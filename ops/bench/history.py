"""Benchmark of the past: replay of a long log, pages of the audit trail, time travel, the hash chain. Prints a table.

    python ops/bench/history.py [--events 1000000] [--gateways 1000] [--backend sqlite postgres] [--keep FOLDER]

PostgreSQL is a private server of `tests.services`. `--keep` leaves the SQLite file there, and uses one that is there.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import pathlib
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import msgspec
import trio
from msgspec.structs import replace

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests import services  # noqa: E402
from tests.actors import world  # noqa: E402

from trustgate.actors import replay as rp  # noqa: E402
from trustgate.actors.archive import Archive  # noqa: E402
from trustgate.actors.notary import Notary  # noqa: E402
from trustgate.actors.projection import Projection, decoded, snapshot_of  # noqa: E402
from trustgate.admin.rendering import GatewayRenderer  # noqa: E402
from trustgate.admin.trail import Trail  # noqa: E402
from trustgate.domain import audit  # noqa: E402
from trustgate.domain import events as ev  # noqa: E402
from trustgate.domain.decide import EMPTY, Context, decide  # noqa: E402
from trustgate.domain.directory import DirectoryState  # noqa: E402
from trustgate.store import (  # noqa: E402
    AuditFilter,
    EventStore,
    PostgresConfig,
    StreamWrite,
    gateway_stream,
    open_store,
    tables,
)
from trustgate.view.encoded import encoded  # noqa: E402

Row = tuple[str, str]
REGISTRIES = 20
ROUND = 10
"""Events of each gateway in one append: the gateways' events lie between each other, as in a real log."""

START = datetime(2026, 1, 1, tzinfo=UTC)


async def fill(target: world.Target, events: int, gateways: int) -> None:
    """`events` events: registries are made, then changed in turn; authors and times differ."""
    each = events // gateways
    async with open_store(target, world.KEY) as store:
        context = Context(catalog=world.AnyCatalog(), fingerprint=store.fingerprint)
        ids, logs, secrets = [world.new_id() for _ in range(gateways)], {}, {}
        for number, id_ in enumerate(ids):
            state, made = EMPTY, []
            todo: list[Any] = [world.create_gateway(id_, f"gateway-{number}")]
            todo += [world.create_registry(id_, f"registry-{n}") for n in range(REGISTRIES)]
            for command in todo:
                decision = decide(state, DirectoryState(), command, context)
                state, made = decision.state, made + list(decision.gateway)
                secrets |= decision.secrets
            logs[id_] = made
        await store.append(
            [StreamWrite(gateway_stream(id_), 0, [ev.encode(one) for one in logs[id_]]) for id_ in ids], secrets
        )
        version = REGISTRIES + 1
        while version < each:
            count = min(ROUND, each - version)
            writes = [
                StreamWrite(
                    gateway_stream(id_), version, [update(logs[id_], version + n, number) for n in range(count)]
                )
                for number, id_ in enumerate(ids)
            ]
            await store.append(writes)
            version += count


def update(made: list[ev.Event], version: int, gateway: int) -> bytes:
    event = made[1 + version % REGISTRIES]
    moment = START + timedelta(seconds=version * 60, milliseconds=gateway)
    assert isinstance(event.data, ev.RegistryCreated)
    registry = replace(event.data.registry, description=f"change {version}", updated_at=moment)
    meta = replace(event.meta, time=moment, actor=f"user-{version % 50}", request_id=f"r-{gateway}-{version}")
    return ev.encode(ev.Event(meta=meta, command="UpdateRegistry", data=ev.RegistryUpdated(registry)))


async def put_snapshots(store: EventStore) -> None:
    """What running planes would have left: a snapshot a stream, 32 events old on average."""
    projection = Projection()
    position = 0
    while batch := await store.read_all(position, 5000):
        projection.adopt(projection.change(decoded(batch)))
        position = batch[-1].position
    for id_, state in projection.states().items():
        await store.put_snapshot(snapshot_of(gateway_stream(id_), state))


async def timed(run: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    """Seconds by the clock, and what came of it."""
    started = time.perf_counter()
    result = await run()
    return time.perf_counter() - started, result


async def both(run: Callable[[], Awaitable[Any]]) -> tuple[str, Any]:
    """Seconds by the clock and of this process's CPU, as text."""
    cpu = time.process_time()
    seconds, result = await timed(run)
    return f"{seconds:.1f} ({time.process_time() - cpu:.1f} CPU)", result


async def measure(target: world.Target) -> list[Row]:
    rows: list[Row] = []
    async with open_store(target, world.KEY) as store:
        archive, notary = Archive(store), Notary(store)
        text, _ = await both(lambda: archive.catch_up(None))
        rows.append(("audit index from nothing, s", text))
        text, _ = await both(notary.checkpoint)
        rows.append(("first checkpoint over everything, s", text))
        gc.disable()  # as the command does
        text, found = await both(lambda: rp.replay(store, compile_view=encoded))
        gc.enable()
        assert not found.mismatches, found.mismatches[:3]
        rows.append((f"replay of {found.events:,} events from nothing, all compared, s", text))
        if not found.snapshots:
            await put_snapshots(store)
        text, digests = await both(lambda: rp.load_all(store))
        assert rp.combined(digests) == found.digest
        rows.append(("the same states from snapshots, s", text))
        rows += await pages(store, archive)
        rows += await travel(store, archive)
    return rows


async def pages(store: EventStore, archive: Archive) -> list[Row]:
    first = (await archive.entries(AuditFilter(), None, 1))[0]
    oldest = (await archive.entries(AuditFilter(), None, 1, newest_first=False))[0]
    middle = int(((START + timedelta(days=0.3)) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)
    filters: list[tuple[str, AuditFilter, int | None, int]] = [
        ("newest of all", AuditFilter(), None, 20),
        ("newest of all, 200 entries", AuditFilter(), None, 200),
        ("the middle of all", AuditFilter(), first.recorded.position // 2, 20),
        ("of a tenant", AuditFilter(tenant=first.tenant), None, 20),
        ("of a gateway", AuditFilter(gateway_id=first.gateway_id), None, 20),
        ("of an object", AuditFilter(object_id=first.subject.id), None, 20),
        ("of an actor", AuditFilter(tenant=first.tenant, actor="user-7"), None, 20),
        ("of a rare kind of event", AuditFilter(tenant=first.tenant, events=("GatewayCreated",)), None, 20),
        ("of kinds that nobody has", AuditFilter(tenant=first.tenant, events=audit.EVENTS_OF["role"]), None, 20),
        ("before a time long ago", AuditFilter(tenant=first.tenant, until=middle), None, 20),
        ("oldest object, nothing found", AuditFilter(object_id=oldest.subject.id, actor="nobody"), None, 20),
    ]
    rows: list[Row] = []
    trail = Trail(GatewayRenderer("0", "llm.example", "mcp.example"), store.fingerprint)

    async def page(wanted: AuditFilter, cursor: int | None, size: int) -> bytes:
        entries = await archive.entries(wanted, cursor, size)
        return msgspec.json.encode([trail.entry(entry) for entry in entries])

    for name, wanted, cursor, size in filters:
        times: list[float] = []
        for _ in range(15):
            seconds, _found = await timed(lambda w=wanted, c=cursor, s=size: page(w, c, s))
            times.append(seconds * 1000)
        times.sort()
        rows.append((f"audit page {name}, ms", f"p50 {times[7]:.1f}, max {times[-1]:.1f}"))
    return rows


async def travel(store: EventStore, archive: Archive) -> list[Row]:
    id_ = (await archive.entries(AuditFilter(), None, 1))[0].gateway_id
    newest = await archive.newest(id_)
    seconds, _ = await timed(lambda: archive.state_at(id_, newest // 2))
    return [(f"state at version {newest // 2} of {newest}, ms", f"{seconds * 1000:.0f}")]


async def appends(target: world.Target, count: int) -> list[Row]:
    """What the chain costs an append, by leaving it out."""
    rows: list[Row] = []
    data = b"x" * 700
    async with open_store(target, world.KEY) as store:

        async def run(stream: str) -> float:
            started = time.process_time()
            for version in range(count):
                await store.append([StreamWrite(stream, version, [data])])
            return (time.process_time() - started) / count * 1e6

        def unlinked(self: Any, cursor: Any, write: StreamWrite) -> Callable[[], str]:
            version = write.expected_version
            if not version:
                return with_hash(self, cursor, write)
            statement = "UPDATE tg_streams SET version = ? WHERE stream = ? AND version = ? RETURNING version"
            cursor.execute(self.dialect.sql(statement), (version + len(write.events), write.stream, version))
            return lambda: "gateway" if cursor.fetchone() else "conflict"

        with_hash = tables.Tables.advance_stream

        with_chain, without = [], []
        for number in range(4):
            with_chain.append(await run(f"gateway:chained-{number}"))
            with mock.patch.object(tables.Tables, "advance_stream", unlinked):
                without.append(await run(f"gateway:plain-{number}"))
        best, plain = min(with_chain), min(without)
        rows.append(("CPU of an append with / without the chain, us", f"{best:.0f} / {plain:.0f}"))
    return rows


def bench(backend: str, options: argparse.Namespace) -> None:
    def say(rows: list[Row]) -> None:
        for name, value in rows:
            print(f"  {name:<70} {value}", flush=True)

    with contextlib.ExitStack() as stack:
        small: world.Target
        target: world.Target
        if backend == "postgres":
            dsn = stack.enter_context(services.run_postgres())
            services.create_database(dsn, "history")
            small = PostgresConfig.of_dsn(dsn)
            target = PostgresConfig.of_dsn(dsn.rsplit("/", 1)[0] + "/history")
        else:
            folder = options.keep or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            small, target = folder / "small.db", folder / "history.db"
        print(backend, flush=True)
        say(trio.run(appends, small, 500))
        if not (isinstance(target, pathlib.Path) and target.exists()):
            started = time.perf_counter()
            trio.run(fill, target, options.events, options.gateways)
            say([("filling the store, s", f"{time.perf_counter() - started:.0f}")])
        say(trio.run(measure, target))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--gateways", type=int, default=1000)
    parser.add_argument("--backend", nargs="+", default=["sqlite", "postgres"], choices=["sqlite", "postgres"])
    parser.add_argument("--keep", type=pathlib.Path)
    options = parser.parse_args()
    for backend in options.backend:
        bench(backend, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
