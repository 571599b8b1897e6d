"""One exporter of this process: a bounded queue, and a thread that hands batches to the sink behind it.

What lives here: waiting, batching, retries, counting. What must not: formats and protocols (`exporters`). Outlets share
nothing, so a sink that is slow or away delays no other; its queue fills and the oldest records are dropped, counted.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import structlog
from msgspec import Struct

from trustgate.telemetry.event import Event, RawView

MAX_QUEUED_BYTES = 64 * 1024 * 1024
FIRST_RETRY_S = 0.2
LONGEST_RETRY_S = 30.0
EVENT_BYTES = 2048
"""What a record without encoded bytes is counted as."""
SHOWN_ERROR = 300

log = structlog.get_logger("trustgate.telemetry")

Form = Literal["encoded", "event", "raw"]
"""What a sink reads of an item: JSON bytes, the record as an object, or the bodies."""


class Metadata(Struct, frozen=True):
    """A record without bodies; `data` is its JSON, empty when no sink of the record wants that."""

    event: Event
    data: bytes = b""

    @property
    def size(self) -> int:
        return len(self.data) or EVENT_BYTES


class Bodies(Struct, frozen=True):
    """The raw view of a record."""

    view: RawView

    @property
    def size(self) -> int:
        return len(self.view.request_body) + len(self.view.response_body or "") + EVENT_BYTES


Item = Metadata | Bodies


class Rejected(Exception):
    """A batch that no retry will make acceptable; its records are lost and counted as failed."""


class Sink(Protocol):
    """A connected destination, used by one thread. A sink that raised is closed and made anew."""

    def publish(self, batch: Sequence[Item]) -> int:
        """Deliver all of it, within a bound of the sink's own; the number of records that were refused for good.

        Raises Rejected for a batch that is refused as a whole, anything else for one that is worth another try.
        """
        ...

    def close(self) -> None: ...


class Manner(Struct, frozen=True):
    """How a type of exporter is fed. `capacity` counts records."""

    form: Form
    capacity: int
    max_batch: int
    linger_s: float


class OutletStatistics(Struct, frozen=True, kw_only=True):
    """Counters of one exporter since its first record. `connected`: the sink is open and its last batch went well."""

    name: str
    type: str
    view: str
    queued: int
    queued_bytes: int
    published: int
    dropped: int
    failed: int
    retries: int
    connected: bool


class Outlet:
    """Queue and thread of one exporter; the thread starts with the first record.

    `_queue`, `_bytes` and `_dropped` change under `_changed`; the other counters belong to the thread.
    """

    def __init__(self, name: str, type_: str, manner: Manner, open_sink: Callable[[], Sink]) -> None:
        self.name = name
        self.type = type_
        self.form: Form = manner.form
        self._manner = manner
        self._open_sink = open_sink
        self._changed = threading.Condition()
        self._queue: deque[Item] = deque()
        self._bytes = 0
        self._dropped = 0
        self._published = 0
        self._failed = 0
        self._retries = 0
        self._connected = False
        self._closing = False
        self._deadline = float("inf")
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def put(self, items: Sequence[Item]) -> None:
        """Queue records; never waits. Any thread. The oldest records make room for new ones."""
        manner = self._manner
        with self._changed:
            was_empty = not self._queue
            for item in items:
                self._queue.append(item)
                self._bytes += item.size
            while len(self._queue) > manner.capacity or self._bytes > MAX_QUEUED_BYTES:
                self._bytes -= self._queue.popleft().size
                self._dropped += 1
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name=f"exporter-{self.name}", daemon=True)
                self._thread.start()
            if was_empty or len(self._queue) >= manner.max_batch:
                self._changed.notify()

    def statistics(self) -> OutletStatistics:
        return OutletStatistics(
            name=self.name,
            type=self.type,
            view="raw" if self.form == "raw" else "metadata",
            queued=len(self._queue),
            queued_bytes=self._bytes,
            published=self._published,
            dropped=self._dropped,
            failed=self._failed,
            retries=self._retries,
            connected=self._connected,
        )

    def begin_close(self, timeout_s: float) -> None:
        """Take no more time than this for what is queued."""
        with self._changed:
            self._closing = True
            self._deadline = time.monotonic() + timeout_s
            self._changed.notify_all()

    def finish_close(self) -> None:
        """Wait until the queue is out or the time is over; what is left then is dropped, counted."""
        if self._thread is not None:
            self._thread.join(max(0.0, self._deadline - time.monotonic()))
        with self._changed:
            left = len(self._queue)
            self._dropped += left
            self._queue.clear()
            self._bytes = 0
        if left:
            log.warning("telemetry records dropped at stop", exporter=self.name, records=left)

    def _run(self) -> None:
        sink: Sink | None = None
        try:
            while batch := self._take():
                sink = self._deliver(sink, batch)
        finally:
            if sink is not None:
                self._shut(sink)

    def _take(self) -> list[Item]:
        """The next batch; empty when the outlet closes and nothing is left."""
        manner, queue = self._manner, self._queue
        with self._changed:
            self._changed.wait_for(lambda: bool(queue) or self._closing)
            if manner.linger_s and len(queue) < manner.max_batch:
                self._changed.wait_for(lambda: len(queue) >= manner.max_batch or self._closing, manner.linger_s)
            batch = [queue.popleft() for _ in range(min(len(queue), manner.max_batch))]
            self._bytes -= sum(item.size for item in batch)
            return batch

    def _deliver(self, sink: Sink | None, batch: Sequence[Item]) -> Sink | None:
        """Publish, again and again while that fails; the sink to go on with."""
        tries = 0
        while True:
            try:
                if sink is None:
                    sink = self._open_sink()
                lost = sink.publish(batch)
            except Rejected as refused:
                self._failed += len(batch)
                log.error("telemetry records refused", **self._label(refused, records=len(batch)))
                return sink
            except Exception as error:  # whatever a client library raises: the records wait, requests do not
                if sink is not None:
                    self._shut(sink)
                sink, self._connected = None, False
                if not self._wait(tries, error):
                    with self._changed:
                        self._dropped += len(batch)
                    return None
                tries += 1
            else:
                self._failed += lost
                self._published += len(batch) - lost
                if tries:
                    log.info("telemetry exporter recovered", exporter=self.name, type=self.type)
                self._connected = True
                return sink

    def _wait(self, tries: int, error: Exception) -> bool:
        """Back off; False when the outlet is closing and its time is over."""
        delay = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(tries, 10)) * random.uniform(0.5, 1.0)
        with self._changed:
            if time.monotonic() >= self._deadline:
                return False
            self._retries += 1
            label = self._label(error, queued=len(self._queue), dropped=self._dropped)
        log.warning("telemetry exporter failed, retrying", retry_in_s=round(delay, 2), **label)
        with self._changed:
            until = min(time.monotonic() + delay, self._deadline)
            if not self._closing:
                self._changed.wait_for(lambda: self._closing, until - time.monotonic())
            else:  # nobody will wake it again
                self._changed.wait(max(0.0, until - time.monotonic()))
            return time.monotonic() < self._deadline

    def _label(self, error: Exception, **more: object) -> dict[str, object]:
        text = f"{type(error).__name__}: {error}"[:SHOWN_ERROR]
        return {"exporter": self.name, "type": self.type, "error": text, **more}

    def _shut(self, sink: Sink) -> None:
        try:
            sink.close()
        except Exception as error:  # a connection that broke may break again while it is closed
            log.debug("telemetry exporter not closed cleanly", **self._label(error))
