"""Counters, histograms and gauges that cost a dict hit and an addition, and their text for Prometheus.

What lives here: cells, families with a closed set of labels, snapshots as plain data, adding snapshots of several
processes, and the exposition. What must not: which metrics there are (`metrics`).

A request holds its cells, so counting is `cell.value += 1`. A family never has more than `MAX_SERIES` label sets: what
comes later is counted under the label value `other`, since clients choose some of the values.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from prometheus_client.core import Metric

MAX_SERIES = 10_000
OTHER = "other"

Labels = tuple[str, ...]


class Cell:
    """One number of one label set."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class HistogramCell:
    """Observations of one label set: how many fell into each bucket (the last one is +Inf), and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Series(msgspec.Struct, frozen=True):
    """The state of one label set: `values` is one number, or a histogram's buckets and sum."""

    labels: Labels
    values: list[float]


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """A metric at one moment, as it travels between processes. `kind`: `counter`, `gauge` or `histogram`."""

    name: str
    help: str
    kind: str
    plane: str
    labels: Labels
    bounds: list[float]
    series: list[Series]
    highest: bool = False
    """Of several processes the highest value counts, and not the sum."""


class Instrument:
    """A metric with its label names. `plane` is where it is shown: `admin`, `proxy`, `mcp`, or empty for all."""

    kind = "counter"

    def __init__(self, name: str, help: str, labels: Labels = (), *, plane: str = "") -> None:
        self.name, self.help, self.labels, self.plane = name, help, labels, plane
        self._cells: dict[Labels, Any] = {}

    def _new(self) -> Any:
        return Cell()

    def of(self, *values: str) -> Any:
        """The cell of these label values, in the order of the label names."""
        cell = self._cells.get(values)
        if cell is None:
            if len(values) != len(self.labels):
                raise ValueError(f"{self.name} has the labels {self.labels}, got {values}")
            if len(self._cells) >= MAX_SERIES:
                values = (OTHER,) * len(self.labels)
                if values in self._cells:
                    return self._cells[values]
            cell = self._cells[values] = self._new()
        return cell

    def snapshot(self) -> Family:
        return self._family([Series(labels, [cell.value]) for labels, cell in self._cells.items()])

    def _family(self, series: list[Series], bounds: Sequence[float] = ()) -> Family:
        return Family(
            name=self.name,
            help=self.help,
            kind=self.kind,
            plane=self.plane,
            labels=self.labels,
            bounds=list(bounds),
            series=series,
        )


class Counter(Instrument):
    """A number that only grows."""

    def of(self, *values: str) -> Cell:
        return super().of(*values)

    def add(self, amount: float = 1.0, *values: str) -> None:
        self.of(*values).value += amount


class Histogram(Instrument):
    """A distribution over fixed buckets, in base units."""

    kind = "histogram"

    def __init__(self, name: str, help: str, labels: Labels, bounds: Sequence[float], *, plane: str = "") -> None:
        super().__init__(name, help, labels, plane=plane)
        self._bounds = tuple(bounds)

    def _new(self) -> HistogramCell:
        return HistogramCell(self._bounds)

    def of(self, *values: str) -> HistogramCell:
        return super().of(*values)

    def snapshot(self) -> Family:
        return self._family(
            [Series(labels, [*cell.counts, cell.sum]) for labels, cell in self._cells.items()], self._bounds
        )


class Gauge(Instrument):
    """What a function tells when it is asked: `(label values, number)` pairs."""

    kind = "gauge"

    def __init__(
        self,
        name: str,
        help: str,
        read: Callable[[], Iterable[tuple[Labels, float]]],
        labels: Labels = (),
        *,
        plane: str = "",
        counter: bool = False,
        highest: bool = False,
    ) -> None:
        super().__init__(name, help, labels, plane=plane)
        self._read = read
        self._highest = highest
        if counter:
            self.kind = "counter"

    def snapshot(self) -> Family:
        series = [Series(labels, [float(value)]) for labels, value in list(self._read())[:MAX_SERIES]]
        return msgspec.structs.replace(self._family(series), highest=self._highest)


def added(snapshots: Iterable[Sequence[Family]]) -> list[Family]:
    """One snapshot of several processes': counters, buckets and most gauges add up per label set."""
    families: dict[str, Family] = {}
    sums: dict[str, dict[Labels, list[float]]] = {}
    for snapshot in snapshots:
        for family in snapshot:
            families.setdefault(family.name, family)
            known = sums.setdefault(family.name, {})
            for series in family.series:
                before = known.get(series.labels)
                if before is None:
                    known[series.labels] = list(series.values)
                elif family.highest:
                    known[series.labels] = [max(before[0], series.values[0])]
                else:
                    known[series.labels] = [old + new for old, new in zip(before, series.values, strict=True)]
    return [
        msgspec.structs.replace(family, series=[Series(labels, values) for labels, values in sums[name].items()])
        for name, family in families.items()
    ]


def counted(families: Sequence[Family]) -> list[Family]:
    """Only what a process that is gone leaves behind: its counts. Its gauges went with it."""
    return [family for family in families if family.kind != "gauge"]


class _Collector:
    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return map(_metric, self._families)


def _metric(family: Family) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    names = list(family.labels)
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=names)
        texts = [*(_bound(bound) for bound in family.bounds), "+Inf"]
        for series in family.series:
            total, buckets = 0.0, list[tuple[str, float]]()
            for text, count in zip(texts, series.values[:-1], strict=True):
                total += count
                buckets.append((text, total))
            histogram.add_metric(series.labels, buckets, series.values[-1])
        return histogram
    plain = (CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily)(
        family.name, family.help, labels=names
    )
    for series in family.series:
        plain.add_metric(series.labels, series.values[0])
    return plain


def _bound(bound: float) -> str:
    return str(float(bound))


def exposition(families: Sequence[Family], plane: str, accept: str = "") -> tuple[bytes, str]:
    """The text of one plane's metrics (an empty `plane`: all) and its content type, as `accept` allows."""
    from prometheus_client import CollectorRegistry  # loaded by the first scrape
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector([one for one in families if not plane or one.plane in ("", plane)]))  # pyright: ignore[reportArgumentType]
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
