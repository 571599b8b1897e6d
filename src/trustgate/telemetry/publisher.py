"""From finished requests to exporters: a bounded queue and the workers that build records (spec 06 §11.2).

What lives here: the hand-off that never waits, building and encoding off the request path, and the orderly end. What
must not: which exporters a gateway has (`app`), how they deliver (`outlet`, `exporters`).
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from functools import cached_property

import structlog
from msgspec import Struct

from trustgate.telemetry import event as records
from trustgate.telemetry.event import Facts
from trustgate.telemetry.outlet import Bodies, Item, Metadata, Outlet

GATHER_S = 0.02
"""How long a worker lets records gather: waking it once for many is far cheaper than once for each."""
MAX_TAKEN = 64
MAX_WAITING_BYTES = 128 * 1024 * 1024
"""Bodies of requests whose records wait, in bytes; more are dropped like a full queue's."""
SWITCH_INTERVAL_S = 0.0005
"""How long a worker may keep the interpreter from the thread that serves requests."""
WARN_EVERY_S = 1.0

log = structlog.get_logger("trustgate.telemetry")

Keep = Callable[[str, bytes], None]
"""Takes the trace id and the JSON of a complete record; called by a worker."""


class Routing(Struct, frozen=True, dict=True):
    """The outlets of one gateway's records."""

    metadata: tuple[Outlet, ...] = ()
    raw: tuple[Outlet, ...] = ()

    @property
    def idle(self) -> bool:
        return not self.metadata and not self.raw

    @cached_property
    def encoded(self) -> bool:
        """Whether an outlet wants the record as JSON."""
        return any(outlet.form == "encoded" for outlet in self.metadata)


class Job(Struct, frozen=True):
    """A record to be made. `size`: bytes of the bodies it keeps alive."""

    gateway_id: str
    facts: Callable[[], Facts]
    routing: Routing
    size: int
    keep: Keep | None = None


class PublisherStatistics(Struct, frozen=True):
    """`accepted` were queued, `dropped` found the queue full, `built` became records, `failed` could not be built."""

    capacity: int
    queued: int
    accepted: int
    dropped: int
    built: int
    failed: int


class Publisher:
    """The queue and its workers, started with the first record.

    `submit` belongs to one thread, which alone changes `_accepted`, `_dropped` and `_bytes_in`; the rest changes under
    `_lock`.
    """

    def __init__(self, capacity: int, workers: int) -> None:
        self._capacity = capacity
        self._workers = workers
        self._jobs: deque[Job] = deque()
        self._awake = threading.Event()
        self._hurry = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._accepted = self._dropped = self._bytes_in = 0
        self._built = self._failed = self._bytes_out = 0
        self._unreported = 0
        self._warned_at = float("-inf")

    def submit(self, job: Job) -> bool:
        """Queue a record to be made; False when the queue is full (or closing). Never waits."""
        waiting = len(self._jobs)
        if (
            waiting >= self._capacity
            or self._bytes_in - self._bytes_out + job.size > MAX_WAITING_BYTES
            or self._closing
        ):
            self._drop(job)
            return False
        self._jobs.append(job)
        self._accepted += 1
        self._bytes_in += job.size
        if not self._awake.is_set():
            if not self._threads:
                self._start()
            self._awake.set()
        elif waiting * 2 > self._capacity and not self._hurry.is_set():
            self._hurry.set()
        return True

    def _drop(self, job: Job) -> None:
        """Count it; one line a second at most, so that an overload is not made worse by telling of it."""
        self._dropped += 1
        self._unreported += 1
        now = time.monotonic()
        if now - self._warned_at >= WARN_EVERY_S:
            self._warned_at = now
            log.warning(
                "metrics task channel is full, dropping task", gateway_id=job.gateway_id, dropped=self._unreported
            )
            self._unreported = 0

    def statistics(self) -> PublisherStatistics:
        return PublisherStatistics(
            self._capacity, len(self._jobs), self._accepted, self._dropped, self._built, self._failed
        )

    def close(self, timeout_s: float) -> None:
        """Make the records that are queued, at most for this long. Blocks."""
        self._closing = True
        deadline = time.monotonic() + timeout_s
        self._awake.set()
        self._hurry.set()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            left = len(self._jobs)
            self._jobs.clear()
        self._dropped += left
        if left:
            log.warning("telemetry records dropped at stop", records=left)

    def _start(self) -> None:
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
        for number in range(self._workers):
            thread = threading.Thread(target=self._work, name=f"telemetry-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        log.info("metrics worker started", workers=self._workers)

    def _work(self) -> None:
        while True:
            self._awake.wait()
            if not self._closing:
                self._hurry.wait(GATHER_S)
            self._hurry.clear()
            while taken := self._take():
                self._publish(taken)
            if self._closing:
                return

    def _take(self) -> list[Job]:
        with self._lock:
            taken = [self._jobs.popleft() for _ in range(min(len(self._jobs), MAX_TAKEN))]
            self._bytes_out += sum(job.size for job in taken)
            if not taken and not self._closing:
                self._awake.clear()
                if self._jobs:  # queued between the look and the clearing
                    self._awake.set()
            return taken

    def _publish(self, jobs: list[Job]) -> None:
        """Make the records and hand each outlet all of its own at once."""
        batches: defaultdict[Outlet, list[Item]] = defaultdict(list)
        built = failed = 0
        for job in jobs:
            try:
                make(job, batches)
                built += 1
            except Exception as error:  # a record that cannot be made is worth a line, never the worker
                failed += 1
                log.error("telemetry record not made", gateway_id=job.gateway_id, error=type(error).__name__)
        for outlet, items in batches.items():
            outlet.put(items)
        with self._lock:
            self._built += built
            self._failed += failed


def make(job: Job, batches: defaultdict[Outlet, list[Item]]) -> None:
    """Build the record of a job, and add what its outlets want of it to their batches."""
    facts, routing = job.facts(), job.routing
    event = records.build(facts)
    if routing.metadata:
        shown = records.metadata_view(event)
        item = Metadata(shown, records.encode(shown) if routing.encoded else b"")
        for outlet in routing.metadata:
            batches[outlet].append(item)
    if routing.raw or job.keep is not None:
        sent, answered = records.bodies(facts)
        if routing.raw:
            bodies = Bodies(records.raw_view(event, sent, answered))
            for outlet in routing.raw:
                batches[outlet].append(bodies)
        if job.keep is not None:
            job.keep(event.trace_id, records.encode(records.complete(event, sent, answered)))
