"""Which outlets a gateway's records go to, over edits: shared, kept, let go."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from tests.telemetry.records import metadata
from trustgate.app import exporters as under_test
from trustgate.app.exporters import Exporters
from trustgate.telemetry.exporter_config import ExporterConfig
from trustgate.telemetry.exporters import Environment, Type
from trustgate.telemetry.outlet import Item, Manner

LIMIT_S = 30.0


class Probe:
    """A sink that tells what it was opened with and when it is closed."""

    opened: ClassVar[list[Probe]] = []

    def __init__(self, config: ExporterConfig) -> None:
        self.config = config
        self.items: list[Item] = []
        self.closed = threading.Event()
        Probe.opened.append(self)

    def publish(self, batch: Sequence[Item]) -> int:
        self.items += batch
        return 0

    def close(self) -> None:
        self.closed.set()


@pytest.fixture(autouse=True)
def _types(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    probe = Type(lambda raw: Manner("raw" if raw else "event", 100, 10, 0.0), lambda config, environment: Probe(config))
    monkeypatch.setattr(under_test, "TYPES", {"otlp": probe, "postgres": probe})
    Probe.opened.clear()
    yield


def view(id_: str, *entries: dict[str, Any], **telemetry: Any) -> Any:
    stored = {"exporters": [{"type": "otlp", "settings": {}} | entry for entry in entries], **telemetry}
    identity = SimpleNamespace(entity=SimpleNamespace(telemetry=stored if entries or telemetry else None))
    return SimpleNamespace(id=id_, identity=identity, reveal=lambda ref: f"secret of {ref}")


def exporter(name: str, raw: bool = False) -> ExporterConfig:
    return ExporterConfig(name=name, type="otlp", raw=raw, settings={"endpoint": name})


def test_gateways_without_exporters_of_their_own_share_the_defaults() -> None:
    found = Exporters((exporter("a"), exporter("b", raw=True)), Environment())
    first, second = found.routing(view("g1")), found.routing(view("g2"))
    assert first is second
    assert ([outlet.name for outlet in first.metadata], [outlet.name for outlet in first.raw]) == (["a"], ["b"])


def test_the_same_exporter_of_two_gateways_is_one_connection() -> None:
    found = Exporters((), Environment())
    entry = {"name": "x", "settings": {"endpoint": "c:1"}}
    assert found.routing(view("g1", entry)).metadata == found.routing(view("g2", entry)).metadata


def test_secrets_are_in_clear_where_the_exporter_connects() -> None:
    found = Exporters((), Environment())
    secret = {"$secret": "ref-1", "fp": "", "mask": "***"}
    routing = found.routing(view("g1", {"name": "x", "settings": {"headers": {"authorization": secret}}}))
    routing.metadata[0].put([metadata()])
    found.close(LIMIT_S)
    assert Probe.opened[0].config.settings == {"headers": {"authorization": "secret of ref-1"}}


def test_an_edit_elsewhere_leaves_the_connection_alone() -> None:
    found = Exporters((), Environment())
    entry = {"name": "x", "settings": {"endpoint": "c:1"}}
    before = found.routing(view("g1", entry))
    found.update(view("g1", entry))
    assert found.routing(view("g1", entry)) is before


def test_an_exporter_that_nothing_names_any_more_delivers_what_it_has_and_closes() -> None:
    found = Exporters((exporter("a"),), Environment())
    old = {"name": "x", "settings": {"endpoint": "c:1"}}
    (default, own) = found.routing(view("g1", old)).metadata
    items = [metadata() for _ in range(3)]
    own.put(items)
    found.update(view("g1", {"name": "y", "settings": {"endpoint": "c:2"}}))
    assert [outlet.name for outlet in found.routing(view("g1")).metadata] == ["a", "y"]
    assert found.routing(view("g1")).metadata[0] is default
    found.close(LIMIT_S)
    assert Probe.opened[0].items == items
    assert Probe.opened[0].closed.is_set()


def test_a_deleted_gateways_exporters_close_unless_another_has_them() -> None:
    found = Exporters((), Environment())
    entry = {"name": "x", "settings": {"endpoint": "c:1"}}
    shared = found.routing(view("g1", entry)).metadata[0]
    found.routing(view("g2", entry))
    shared.put([metadata()])
    found.forget("g1")
    assert [one.name for one in found.statistics()] == ["x"]
    found.forget("g2")
    assert found.statistics() == []
    found.close(LIMIT_S)
    assert Probe.opened[0].closed.is_set()


def test_bodies_stay_inside_where_the_gateway_says_so() -> None:
    found = Exporters((exporter("a"), exporter("b", raw=True)), Environment())
    routing = found.routing(view("g1", capture_bodies=False))
    assert (len(routing.metadata), routing.raw) == (1, ())
