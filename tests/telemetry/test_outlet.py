"""Outlets and the publisher: batches, retries, bounds, counts, the end. Sinks here are the test's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.telemetry.records import facts, metadata
from trustgate.telemetry import outlet as outlets
from trustgate.telemetry.event import Facts
from trustgate.telemetry.outlet import Bodies, Item, Manner, Metadata, Outlet, Rejected
from trustgate.telemetry.publisher import Job, Publisher, Routing

LIMIT_S = 30.0


class Gate:
    """A sink that keeps what it gets; closed, it holds the outlet's thread."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.got = threading.Condition()
        self.batches: list[list[Item]] = []
        self.entered = threading.Event()
        self.opened = self.closed = 0
        self.failures: list[Exception] = []

    def connect(self) -> Gate:
        self.opened += 1
        if self.failures and self.failures[0].args == ("connect",):
            raise self.failures.pop(0)
        return self

    def publish(self, batch: Sequence[Item]) -> int:
        self.entered.set()
        assert self.open.wait(LIMIT_S)
        if self.failures:
            raise self.failures.pop(0)
        with self.got:
            self.batches.append(list(batch))
            self.got.notify_all()
        return 0

    def close(self) -> None:
        self.closed += 1

    @property
    def items(self) -> list[Item]:
        return [item for batch in self.batches for item in batch]

    def wait_for(self, count: int) -> None:
        with self.got:
            assert self.got.wait_for(lambda: len(self.items) >= count, LIMIT_S)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    monkeypatch.setattr(outlets, "FIRST_RETRY_S", 0.001)
    found = Gate()
    yield found
    found.open.set()


def outlet_of(gate: Gate, capacity: int = 100, max_batch: int = 10, form: outlets.Form = "encoded") -> Outlet:
    return Outlet("gate", "test", Manner(form, capacity, max_batch, 0.0), gate.connect)


def closed(outlet: Outlet) -> Outlet:
    outlet.begin_close(LIMIT_S)
    outlet.finish_close()
    return outlet


def test_records_arrive_in_order_in_batches(gate: Gate) -> None:
    outlet, items = outlet_of(gate), [metadata() for _ in range(35)]
    outlet.put(items)
    counted = closed(outlet).statistics()
    assert gate.items == items
    assert max(len(batch) for batch in gate.batches) == 10
    assert (counted.published, counted.dropped, counted.queued, counted.queued_bytes) == (35, 0, 0, 0)
    assert (gate.opened, gate.closed) == (1, 1)


def test_a_full_queue_drops_the_oldest_and_counts_them(gate: Gate) -> None:
    gate.open.clear()
    outlet, items = outlet_of(gate, capacity=20, max_batch=1), [metadata() for _ in range(51)]
    outlet.put(items[:1])
    assert gate.entered.wait(LIMIT_S)  # the first is on its way, the others wait
    outlet.put(items[1:])
    assert (outlet.statistics().queued, outlet.statistics().dropped) == (20, 30)
    gate.open.set()
    assert closed(outlet).statistics().published == 21
    assert gate.items == [items[0], *items[31:]]


def test_the_queue_is_bounded_in_bytes_too(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    item = metadata()
    monkeypatch.setattr(outlets, "MAX_QUEUED_BYTES", item.size * 5)
    gate.open.clear()
    outlet = outlet_of(gate, max_batch=1)
    outlet.put([item])
    assert gate.entered.wait(LIMIT_S)
    outlet.put([item] * 8)
    assert (outlet.statistics().queued, outlet.statistics().dropped) == (5, 3)
    gate.open.set()
    closed(outlet)


def test_a_start_that_fails_is_tried_again_and_nothing_is_lost(gate: Gate) -> None:
    gate.failures = [OSError("connect"), OSError("connect"), OSError("connect")]
    outlet, items = outlet_of(gate), [metadata() for _ in range(5)]
    outlet.put(items)
    gate.wait_for(5)
    counted = closed(outlet).statistics()
    assert gate.items == items
    assert (gate.opened, counted.retries, counted.published, counted.failed) == (4, 3, 5, 0)


def test_a_sink_that_breaks_is_replaced_and_gets_the_batch_again(gate: Gate) -> None:
    gate.failures = [ConnectionError("broken")]
    outlet, items = outlet_of(gate), [metadata() for _ in range(5)]
    outlet.put(items)
    gate.wait_for(5)
    assert closed(outlet).statistics().retries == 1
    assert gate.items == items
    assert (gate.opened, gate.closed) == (2, 2)


def test_a_batch_that_is_refused_for_good_is_counted_and_the_next_goes_on(gate: Gate) -> None:
    gate.failures = [Rejected("too large")]
    outlet = outlet_of(gate, max_batch=2)
    outlet.put([metadata() for _ in range(4)])
    counted = closed(outlet).statistics()
    assert (counted.failed, counted.published, counted.retries) == (2, 2, 0)


def test_what_cannot_be_delivered_until_the_end_is_counted(gate: Gate) -> None:
    gate.failures = [OSError("away") for _ in range(10_000)]
    outlet = outlet_of(gate, max_batch=3)
    outlet.put([metadata() for _ in range(9)])
    outlet.begin_close(0.05)
    outlet.finish_close()
    assert outlet.statistics().dropped + outlet.statistics().published >= 6  # one batch may be in a last try
    assert outlet.statistics().published == 0


def publish(publisher: Publisher, routing: Routing, make: Callable[[], Facts] = facts, size: int = 0) -> bool:
    return publisher.submit(Job("g1", make, routing, size))


def test_a_slow_sink_delays_no_other(gate: Gate) -> None:
    stuck = Gate()
    stuck.open.clear()
    slow, quick = outlet_of(stuck), outlet_of(gate)
    publisher = Publisher(100, 1)
    for _ in range(30):
        assert publish(publisher, Routing((slow, quick), ()))
    gate.wait_for(30)
    assert not stuck.items
    stuck.open.set()
    publisher.close(LIMIT_S)
    assert [closed(outlet).statistics().published for outlet in (slow, quick)] == [30, 30]


def test_a_full_publisher_refuses_and_counts(gate: Gate) -> None:
    held, started = threading.Event(), threading.Event()

    def make() -> Facts:
        started.set()
        assert held.wait(LIMIT_S)
        return facts()

    outlet = outlet_of(gate)
    publisher = Publisher(10, 1)
    publish(publisher, Routing((outlet,), ()), make)
    assert started.wait(LIMIT_S)
    taken = [publish(publisher, Routing((outlet,), ())) for _ in range(25)]
    assert taken == [True] * 10 + [False] * 15
    held.set()
    publisher.close(LIMIT_S)
    counted = publisher.statistics()
    assert (counted.accepted, counted.dropped, counted.built, counted.queued) == (11, 15, 11, 0)
    assert closed(outlet).statistics().published == 11


def test_waiting_bodies_are_bounded(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trustgate.telemetry.publisher.MAX_WAITING_BYTES", 1000)
    held, started = threading.Event(), threading.Event()

    def make() -> Facts:
        started.set()
        assert held.wait(LIMIT_S)
        return facts()

    outlet = outlet_of(gate)
    publisher = Publisher(100, 1)
    publish(publisher, Routing((outlet,), ()), make, 400)
    assert started.wait(LIMIT_S)
    assert [publish(publisher, Routing((outlet,), ()), size=400) for _ in range(3)] == [True, True, False]
    held.set()
    publisher.close(LIMIT_S)
    assert closed(outlet).statistics().published == 3


def test_a_record_that_cannot_be_made_costs_only_itself(gate: Gate) -> None:
    def broken() -> Facts:
        raise RuntimeError("no facts")

    outlet = outlet_of(gate)
    publisher = Publisher(100, 1)
    for make in (facts, broken, facts):
        publish(publisher, Routing((outlet,), ()), make)
    publisher.close(LIMIT_S)
    assert closed(outlet).statistics().published == 2
    assert publisher.statistics().failed == 1


@pytest.mark.parametrize("workers", [1, 3])
def test_every_record_is_made_once_whatever_the_number_of_workers(gate: Gate, workers: int) -> None:
    outlet = outlet_of(gate, capacity=5000)
    publisher = Publisher(5000, workers)
    made = [facts() for _ in range(1000)]
    for one in made:
        assert publish(publisher, Routing((outlet,), ()), lambda one=one: one)
    publisher.close(LIMIT_S)
    closed(outlet)
    traces = [item.event.trace_id for item in gate.items if isinstance(item, Metadata)]
    assert sorted(traces) == sorted(one.trace_id for one in made)


def test_each_form_gets_its_view_and_the_record_is_encoded_once(gate: Gate) -> None:
    objects, bodies = Gate(), Gate()
    routing = Routing(
        (outlet_of(gate), outlet_of(objects, form="event")),
        (outlet_of(bodies, form="raw"),),
    )
    kept: list[tuple[str, bytes]] = []
    publisher = Publisher(10, 1)
    publisher.submit(Job("g1", facts, routing, 0, lambda trace, data: kept.append((trace, data))))
    publisher.close(LIMIT_S)
    for outlet in (*routing.metadata, *routing.raw):
        closed(outlet)
    (encoded,), (plain,), (raw,) = gate.items, objects.items, bodies.items
    assert isinstance(encoded, Metadata) and encoded is plain and b"s3cret" not in encoded.data
    assert isinstance(raw, Bodies) and "[REDACTED]" in raw.view.request_body
    assert kept[0][0] == encoded.event.trace_id and b'"body":"{' in kept[0][1]
