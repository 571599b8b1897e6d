"""Whole snapshots: order, versions, scopes, and when they are compiled."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from tests import views
from tests.sync import protos
from trustgate.providers.catalog import Model, Models
from trustgate.sync.compiled import Broken, Compiler, Publication
from trustgate.sync.dispatcher import Dispatcher
from trustgate.view.gateway import GatewayView

A, B, GONE = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "ab9")
MODELS: Models = {"openai": {"m": Model(slug="m")}}


def gateway(id_: str, *consumers: str, version: int = 1, reveal: Any = views.no_secrets, **more: Any) -> GatewayView:
    members = [
        msgspec.structs.replace(views.consumer(f"{id_[0]}{name}"), gateway_id=id_, id=name) for name in consumers
    ]
    return GatewayView(views.state(*members, id=id_, slug=f"gw-{id_[0]}", version=version, **more), reveal)


def bytes_of(publication: Publication, scope: str = "") -> bytes:
    snapshot = publication.of(scope)
    assert snapshot is not None
    data = b"".join(snapshot.chunks())
    assert (len(data), hashlib.sha256(data).hexdigest()) == (snapshot.total_bytes, snapshot.version)
    return data


def ids(rows: Iterable[Any]) -> list[str]:
    return [msgspec.json.decode(row.json)["id"] for row in rows]


def test_a_snapshot_holds_all_gateways_sorted_by_id_and_its_version_is_its_hash() -> None:
    publication = Compiler().compile([gateway(B, "c1", "c3"), gateway(A, "c2")], MODELS, ())
    found = protos.read("Snapshot", bytes_of(publication))
    assert found.version == ""
    assert ids(found.gateways) == [A, B]
    assert ids(found.consumers) == ["c1", "c2", "c3"]
    assert len(found.providers) > 5
    assert len(found.catalog_models) == 1


def test_replicas_agree_whatever_the_order_in_which_they_learnt() -> None:
    first = Compiler().compile([gateway(A, "x"), gateway(B)], MODELS, ())
    second = Compiler().compile([gateway(B), gateway(A, "x")], MODELS, [GONE])
    assert first.everything.version == second.everything.version


def test_a_scope_holds_its_gateway_and_the_catalog_only() -> None:
    publication = Compiler().compile([gateway(A, "x"), gateway(B, "y")], MODELS, [GONE])
    found = protos.read("Snapshot", bytes_of(publication, A))
    assert (ids(found.gateways), ids(found.consumers)) == ([A], ["x"])
    assert len(found.catalog_models) == 1
    assert bytes_of(publication, A.upper()) == bytes_of(publication, A)


def test_an_unknown_scope_has_no_snapshot_and_that_of_a_deleted_gateway_an_empty_one() -> None:
    publication = Compiler().compile([gateway(A)], MODELS, [GONE])
    assert publication.of(B) is None
    assert publication.of("*") is None
    found = protos.read("Snapshot", bytes_of(publication, GONE))
    assert (len(found.gateways), len(found.catalog_models)) == (0, 1)


def test_a_change_of_one_gateway_leaves_the_version_of_other_scopes() -> None:
    compiler = Compiler()
    before = compiler.compile([gateway(A), gateway(B)], MODELS, ())
    after = compiler.compile([gateway(A), gateway(B, "new", version=2)], MODELS, ())
    assert before.everything.version != after.everything.version
    assert before.of(A).version == after.of(A).version  # type: ignore[union-attr]
    assert before.of(B).version != after.of(B).version  # type: ignore[union-attr]


def test_chunks_have_the_given_size_but_the_last() -> None:
    publication = Compiler().compile([gateway(A, *(f"c{number}" for number in range(50)))], MODELS, ())
    sizes = [len(chunk) for chunk in publication.everything.chunks(1000)]
    assert set(sizes[:-1]) == {1000}
    assert 0 < sizes[-1] <= 1000
    assert sum(sizes) == publication.everything.total_bytes


def failing(ref: str) -> str:
    raise ValueError("damaged")


BROKEN = {"metadata": {"x": {"$secret": "r", "fp": "", "mask": ""}}, "reveal": failing}


def test_a_gateway_that_cannot_be_compiled_is_left_out() -> None:
    publication = Compiler().compile([gateway(A), gateway(B, **BROKEN)], MODELS, ())
    assert ids(protos.read("Snapshot", bytes_of(publication)).gateways) == [A]
    assert publication.of(B) is None


def test_nothing_is_published_when_all_gateways_are_broken() -> None:
    with pytest.raises(Broken):
        Compiler().compile([gateway(B, **BROKEN)], MODELS, ())


def test_no_gateway_at_all_is_a_snapshot_too() -> None:
    assert len(protos.read("Snapshot", bytes_of(Compiler().compile([], MODELS, ()))).gateways) == 0


# When


class Desk:
    """A dispatcher on a mock clock, and when it published what."""

    def __init__(self) -> None:
        self.published: list[tuple[float, Publication]] = []
        self.models = MODELS
        self.dispatcher = Dispatcher(
            lambda found: self.published.append((round(trio.current_time() - self.began, 3), found)),
            lambda: self.models, lambda: (), debounce_s=0.25, backstop_s=300.0,
        )  # fmt: skip
        self.began = trio.current_time()

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.published]


async def settle(desk: Desk, publications: int) -> None:
    """Let compilations in their threads end, while the mock clock stands still, until there were so many."""
    for _ in range(2000):
        await trio.to_thread.run_sync(time.sleep, 0.005)
        if len(desk.times) >= publications:
            break
    for _ in range(3):  # and one more would be seen, too
        await trio.to_thread.run_sync(time.sleep, 0.005)
    assert len(desk.times) == publications


async def test_a_lone_change_is_compiled_at_once_and_a_burst_once_more(mock_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        desk = Desk()
        await nursery.start(desk.dispatcher.run)
        assert desk.times == [0.0]
        mock_clock.jump(10)
        desk.dispatcher.update(gateway(A))
        await settle(desk, 2)
        assert desk.times == [0.0, 10.0]
        for number in range(5):
            mock_clock.jump(0.04)
            desk.dispatcher.update(gateway(A, f"c{number}", version=2 + number))
            await settle(desk, 2)
        mock_clock.jump(0.06)
        await settle(desk, 3)
        assert ids(protos.read("Snapshot", bytes_of(desk.published[-1][1])).consumers) == ["c4"]
        nursery.cancel_scope.cancel()


async def test_what_changes_nothing_is_not_published(mock_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        desk = Desk()
        desk.dispatcher.update(gateway(A))
        await nursery.start(desk.dispatcher.run)
        mock_clock.jump(10)
        desk.dispatcher.update(gateway(A))
        await settle(desk, 1)
        desk.dispatcher.forget(A)
        mock_clock.jump(1)
        await settle(desk, 2)
        nursery.cancel_scope.cancel()


async def test_the_backstop_compiles_without_a_signal(mock_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        desk = Desk()
        await nursery.start(desk.dispatcher.run)
        desk.models = {"openai": {"other": Model(slug="other")}}
        mock_clock.jump(299)
        await settle(desk, 1)
        mock_clock.jump(2)
        await settle(desk, 2)
        nursery.cancel_scope.cancel()
