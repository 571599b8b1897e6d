"""The hash chain, signed checkpoints, and the verifier that needs nothing of ours."""

from __future__ import annotations

import copy
import hashlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.actors import world
from tests.actors.world import Target

from trustgate import audit_verify
from trustgate.actors import ControlPlane
from trustgate.actors.evidence import export
from trustgate.actors.notary import BrokenChain, Notary, checkpoint_id
from trustgate.audit_verify import Tampered, verify
from trustgate.store import DIRECTORY, EventStore, Recorded, StreamWrite, gateway_stream, open_store
from trustgate.store.chain import GENESIS, link
from trustgate.store.tables import EVENTS

Lines = list[dict[str, Any]]


async def changed(store: EventStore, gateways: int = 2, registries: int = 3) -> list[str]:
    """New gateways, with registries that are created in turn."""
    ids = [world.new_id() for _ in range(gateways)]
    async with ControlPlane(store, world.AnyCatalog()).running() as control:
        for id_ in ids:
            await control.execute(world.create_gateway(id_, f"g-{id_}"))
        for number in range(registries):
            for id_ in ids:
                await control.execute(world.create_registry(id_, f"r{number}"))
    return ids


def rewrite(store: EventStore, assignment: str, values: tuple[Any, ...], where: str) -> None:
    """What somebody with access to the database could do."""
    store._backend._write(f"UPDATE {EVENTS} SET {assignment} WHERE {where}", values)  # type: ignore[attr-defined]


def forge(store: EventStore, event: Recorded, old: bytes, new: bytes) -> None:
    """Change the words of one event."""
    assert old in event.data
    where = f"originator_id = '{event.stream}' AND originator_version = {event.version}"
    rewrite(store, "state = ?", (event.data.replace(old, new),), where)


def before_the_chain(store: EventStore, upto: int) -> None:
    """Make the events up to a position what they were before there was a chain."""
    column = store._backend.position_column  # type: ignore[attr-defined]
    rewrite(store, "topic = ?", ("gateway",), f"{column} <= {upto}")


async def exported(store: EventStore, gateways: tuple[str, ...] = (), **options: Any) -> list[bytes]:
    return [line async for line in export(store, Notary(store), gateways, **options)]


async def test_each_event_carries_the_hash_of_its_predecessor(target: Target) -> None:
    async with open_store(target, world.KEY) as store:
        ids = await changed(store)
        for stream in (*map(gateway_stream, ids), DIRECTORY):
            head = GENESIS
            for event in await store.read(stream):
                assert event.previous == head
                head = link(head, stream, event.version, event.previous, event.data)


async def test_several_events_of_one_append_are_chained_too(target: Target) -> None:
    async with open_store(target, world.KEY) as store:
        await store.append([StreamWrite("gateway:a", 0, [b"1", b"2"]), StreamWrite(DIRECTORY, 0, [b"x"])])
        await store.append([StreamWrite(DIRECTORY, 1, [b"y"]), StreamWrite("gateway:a", 2, [b"3"])])
        first, second, third = await store.read("gateway:a")
        assert (first.previous, second.previous) == (GENESIS, link(GENESIS, "gateway:a", 1, GENESIS, b"1"))
        assert third.previous == link(second.previous, "gateway:a", 2, second.previous, b"2")
        assert (await store.read(DIRECTORY))[1].previous == link(GENESIS, DIRECTORY, 1, GENESIS, b"x")


async def test_an_export_verifies_whole_and_in_parts(target: Target) -> None:
    async with open_store(target, world.KEY) as store:
        notary = Notary(store)
        ids = await changed(store)
        await notary.checkpoint()
        ids += await changed(store, 1)
        key = await notary.public_key()
        whole = await exported(store)
        done = verify(whole, key)
        assert (done.events, done.unsealed, done.unchained, done.checkpoint["number"]) == (len(whole) - 3, 0, 0, 2)
        for id_ in ids:
            part = await exported(store, (id_,))
            assert verify(part, key, [id_]).events == 4
            with pytest.raises(Tampered, match="a stream that is not in the export"):
                verify(part, key)
        with pytest.raises(Tampered, match="not one of the gateways"):
            verify(whole, key, ids[:1])
        assert not any(other.encode() in line for line in await exported(store, (ids[0],)) for other in ids[1:])


async def test_events_from_before_the_chain_are_covered_by_what_follows(target: Target) -> None:
    async with open_store(target, world.KEY) as store:
        (id_,) = await changed(store, 1)
        old = await store.head()
        before_the_chain(store, old)
        async with ControlPlane(store, world.AnyCatalog()).running() as control:
            await control.execute(world.create_registry(id_, "chained"))
        events = await store.read(gateway_stream(id_))
        head = GENESIS
        for event in events[:-1]:
            assert event.previous == ""
            head = link(head, event.stream, event.version, "", event.data)
        assert events[-1].previous == head
        key = await Notary(store).public_key()
        done = verify(await exported(store), key)
        assert done.unchained == old
        rewrite(
            store,
            "state = ?",
            (events[1].data.replace(b"r0", b"r9"),),
            f"originator_id = '{events[1].stream}' AND originator_version = 2",
        )
        with pytest.raises(Tampered):
            verify(await exported(store), key)


async def test_checkpoints_of_a_changed_log_are_refused(target: Target) -> None:
    async with open_store(target, world.KEY) as store:
        (id_,) = await changed(store, 1)
        events = await store.read(gateway_stream(id_))
        rewrite(
            store,
            "state = ?",
            (events[1].data.replace(b"r0", b"r9"),),
            f"originator_id = '{events[1].stream}' AND originator_version = 2",
        )
        with pytest.raises(BrokenChain, match="event 3 of"):
            await Notary(store).checkpoint()
        assert await store.audit.last_checkpoint() is None


async def test_what_was_changed_in_the_database_after_a_checkpoint_is_found(target: Target) -> None:
    async with open_store(target, world.KEY) as store:
        notary = Notary(store)
        (id_,) = await changed(store, 1)
        await notary.checkpoint()
        last = (await store.read(gateway_stream(id_)))[-1]
        # The last event: nothing follows that carries its hash, only the checkpoint knows.
        rewrite(
            store,
            "state = ?",
            (last.data.replace(b"r2", b"r9"),),
            f"originator_id = '{last.stream}' AND originator_version = {last.version}",
        )
        with pytest.raises(Tampered, match=r"checkpoint 1 covers other events of gateway:"):
            verify(await exported(store, seal=False), await notary.public_key())


async def test_processes_that_make_checkpoints_at_once_make_one_of_each_number(target: Target) -> None:
    async with open_store(target, world.KEY) as here, open_store(target, world.KEY) as there:
        await changed(here)
        made: list[int] = []

        async def make(store: EventStore) -> None:
            made.append((await Notary(store).checkpoint()).number)

        async with trio.open_nursery() as nursery:
            for store in (here, there, here, there):
                nursery.start_soon(make, store)
        assert made == [1, 1, 1, 1]
        assert await Notary(here).public_key() == await Notary(there).public_key()
        await changed(there, 1)
        assert (await Notary(there).checkpoint()).number == 2
        verify(await exported(here), await Notary(here).public_key())


async def test_checkpoints_come_at_the_interval_when_something_changed(tmp_path: pathlib.Path) -> None:
    async with open_store(tmp_path / "t.db", world.KEY) as store, trio.open_nursery() as nursery:
        await changed(store, 1)
        nursery.start_soon(Notary(store, 0.01).run)
        with trio.fail_after(20):
            while await store.audit.last_checkpoint() is None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


def test_the_verifier_stands_alone_and_says_what_it_found(evidence: Evidence, tmp_path: pathlib.Path) -> None:
    script = tmp_path / "verify.py"
    script.write_bytes(pathlib.Path(audit_verify.__file__).read_bytes())
    assert len(script.read_text().splitlines()) < 200

    def run(lines: list[bytes], *options: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "export.jsonl").write_bytes(b"".join(lines))
        command = [sys.executable, "-I", str(script), str(tmp_path / "export.jsonl"), *options]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    good = run(evidence.lines, "--key", evidence.key, "--known", evidence.last)
    assert (good.returncode, good.stderr) == (0, "") and evidence.last in good.stdout
    bad = run(evidence.lines[:3] + evidence.lines[4:], "--key", evidence.key)
    assert bad.returncode == 1 and bad.stderr.startswith("NOT VERIFIED: line ")
    assert run(evidence.lines, "--key", "00" * 32).returncode == 1
    assert run(evidence.lines, "--key", "no key").returncode == 2


class Evidence:
    """An export with several streams and checkpoints, some of it from before the chain, and an unsigned end."""

    def __init__(self, path: pathlib.Path) -> None:
        self.key = ""
        self.last = ""
        self.lines: list[bytes] = []
        trio.run(self._make, path)
        self.items: Lines = [json.loads(line) for line in self.lines]
        self.sealed = max(n for n, item in enumerate(self.items) if item["kind"] == "checkpoint") + 1
        """How many lines a signature covers."""

    async def _make(self, path: pathlib.Path) -> None:
        async with open_store(path, world.KEY) as store:
            notary = Notary(store)
            await changed(store, 1, 1)
            before_the_chain(store, await store.head())
            for _ in range(3):
                await changed(store, 1, 2)
                self.last = checkpoint_id(await notary.checkpoint())
            await changed(store, 1, 1)
            self.key = await notary.public_key()
            self.lines = await exported(store, seal=False)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return Evidence(tmp_path_factory.mktemp("evidence") / "t.db")


def relinked(items: Lines) -> Lines:
    """What a careful forger does: count versions and carry hashes as if nothing had happened."""
    heads: dict[str, tuple[int, str]] = {}
    for item in items:
        if item["kind"] == "event":
            version, head = heads.get(item["stream"], (0, GENESIS))
            item["version"] = version + 1
            item["previous"] = head if item["previous"] else ""
            data = item["data"].encode()
            heads[item["stream"]] = version + 1, link(head, item["stream"], version + 1, item["previous"], data)
    return items


def delete(items: Lines, draw: Callable[[int], int], sealed: int) -> None:
    del items[draw(sealed)]


def delete_stream(items: Lines, draw: Callable[[int], int], sealed: int) -> None:
    streams = sorted({item["stream"] for item in items[:sealed] if item["kind"] == "event"})
    gone = streams[draw(len(streams))]
    items[:] = [item for item in items if item.get("stream") != gone]


def cut_off(items: Lines, draw: Callable[[int], int], sealed: int) -> None:
    del items[draw(sealed) :]


def move(items: Lines, draw: Callable[[int], int], sealed: int) -> None:
    source = draw(sealed)
    items.insert(draw(sealed), items.pop(source))


def swap_places(items: Lines, draw: Callable[[int], int], sealed: int) -> None:
    """Two events change places, positions included."""
    events = [n for n, item in enumerate(items[:sealed]) if item["kind"] == "event"]
    one, other = events[draw(len(events))], events[draw(len(events))]
    items[one], items[other] = items[other], items[one]
    items[one]["position"], items[other]["position"] = items[other]["position"], items[one]["position"]


def repeat(items: Lines, draw: Callable[[int], int], sealed: int) -> None:
    source = draw(sealed)
    items.insert(draw(sealed), copy.deepcopy(items[source]))


def edit(items: Lines, draw: Callable[[int], int], sealed: int) -> None:
    item = items[draw(sealed)]
    name = sorted(item)[draw(len(item))]
    value = item[name]
    if isinstance(value, int):
        item[name] = value + (-1, 1, 1000)[draw(3)]
    elif value:
        at = draw(len(value))
        item[name] = value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :]
    else:
        item[name] = GENESIS


def add(items: Lines, draw: Callable[[int], int], sealed: int) -> None:
    events = [n for n, item in enumerate(items[:sealed]) if item["kind"] == "event"]
    at = events[draw(len(events))]
    forged = copy.deepcopy(items[at])
    forged["position"] += 1
    for item in items[at + 1 :]:
        if item["kind"] == "event":
            item["position"] += 1
    items.insert(at + 1, forged)


TAMPERINGS = (delete, delete_stream, cut_off, move, swap_places, repeat, edit, add)


@given(data=st.data(), tampering=st.lists(st.sampled_from(TAMPERINGS), min_size=1, max_size=3), careful=st.booleans())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tampering_with_what_a_checkpoint_covers_is_found(
    evidence: Evidence, data: st.DataObject, tampering: list[Callable[..., None]], careful: bool
) -> None:
    items = copy.deepcopy(evidence.items)
    for tamper in tampering:
        sealed = min(evidence.sealed, len(items))
        assume(sealed > 1 and sum(item["kind"] == "event" for item in items[:sealed]) > 1)
        tamper(items, lambda below: data.draw(st.integers(0, below - 1)), sealed)
    if careful:
        items = relinked(items)
    assume(items[: evidence.sealed] != evidence.items[: evidence.sealed])
    lines = [json.dumps(item).encode() + b"\n" for item in items]
    with pytest.raises(Tampered):
        verify(lines, evidence.key, known=evidence.last)


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_byte_is_found(evidence: Evidence, data: st.DataObject) -> None:
    whole = bytearray(b"".join(evidence.lines[: evidence.sealed]))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    lines = bytes(whole).splitlines(keepends=True)
    try:
        same = [json.loads(line) for line in lines] == evidence.items[: evidence.sealed]
    except ValueError:
        same = False
    assume(not same)  # a blank that became a tab changes nothing
    with pytest.raises(Tampered):
        verify(lines, evidence.key, known=evidence.last)


@given(junk=st.lists(st.binary(max_size=60).map(lambda line: line.replace(b"\n", b"") + b"\n"), max_size=4))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_no_export_is_refused_in_words(evidence: Evidence, junk: list[bytes]) -> None:
    with pytest.raises(Tampered):
        verify([*evidence.lines[: evidence.sealed], *junk, b"{}\n"], evidence.key)
    with pytest.raises(Tampered):
        verify(junk, evidence.key)


def test_what_is_not_signed_yet_is_linked_all_the_same(evidence: Evidence) -> None:
    tail = [n for n, item in enumerate(evidence.items) if n >= evidence.sealed]
    streams = [evidence.items[n]["stream"] for n in tail]
    first = next(n for n in tail if streams.count(evidence.items[n]["stream"]) > 1)

    def changed_by(change: Callable[[Lines], object]) -> list[bytes]:
        items = copy.deepcopy(evidence.items)
        change(items)
        return [json.dumps(item).encode() + b"\n" for item in items]

    verify(changed_by(lambda items: None), evidence.key)
    with pytest.raises(Tampered, match="does not follow its predecessor"):
        verify(changed_by(lambda items: items[first].update(data="{}")), evidence.key)
    gap = changed_by(lambda items: items.pop(first))
    with pytest.raises(Tampered, match="is missing or out of order"):
        verify(gap, evidence.key)


async def test_checkpoints_must_follow_each_other_even_when_well_signed(tmp_path: pathlib.Path) -> None:
    async with open_store(tmp_path / "t.db", world.KEY) as store:
        notary = Notary(store)
        await changed(store, 1)
        await notary.checkpoint()
        key, lines = await notary.public_key(), await exported(store)
        signing = await notary._signing_key()
        statement = json.loads(json.loads(lines[-1])["statement"])
        again = {"number": 2, "previous": hashlib.sha256(json.loads(lines[-1])["statement"].encode()).hexdigest()}
        for change, good in (({}, True), ({"number": 3}, False), ({"previous": GENESIS}, False)):
            text = json.dumps({**statement, "streams": {}, **again, **change})
            line = {"kind": "checkpoint", "statement": text, "signature": signing.sign(text.encode()).hex()}
            forged = [*lines, json.dumps(line).encode() + b"\n"]
            if good:
                assert verify(forged, key).checkpoint["number"] == 2
            else:
                with pytest.raises(Tampered, match="does not follow checkpoint 1"):
                    verify(forged, key)


def test_the_known_checkpoint_proves_that_the_end_is_there(evidence: Evidence) -> None:
    seals = [n for n, item in enumerate(evidence.items) if item["kind"] == "checkpoint"]
    shorter = evidence.lines[: seals[-2] + 1]
    assert verify(shorter, evidence.key).checkpoint["number"] == 2
    with pytest.raises(Tampered, match="cut off"):
        verify(shorter, evidence.key, known=evidence.last)
    statement = evidence.items[seals[-1]]["statement"]
    assert hashlib.sha256(statement.encode()).hexdigest() == evidence.last
