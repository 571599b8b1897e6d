"""The semantic cache's store in the process: time, bounds, small and large shelves (spec 04 §14.5)."""

from __future__ import annotations

import math

import pytest

from trustgate.policies.answer_store import StoreError
from trustgate.policies.memory_answers import MemoryAnswers


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_memory_entries_expire() -> None:
    clock = Clock()
    store = MemoryAnswers(monotonic=clock)
    await store.put("r", "k", b"a", 10)
    await store.add("r", [1.0, 0.0], b"v", 10)
    clock.now = 9
    assert (await store.get("r", "k"), await store.nearest("r", [1.0, 0.0])) == (b"a", (1.0, b"v"))
    clock.now = 10
    assert (await store.get("r", "k"), await store.nearest("r", [1.0, 0.0])) == (None, None)
    assert store.statistics()["entries"] == 0


async def test_memory_is_bounded_and_keeps_what_is_used() -> None:
    store = MemoryAnswers(max_bytes=3 * (256 + 1000))
    for name in "abc":
        await store.put("r", name, b"x" * 1000, 60)
    await store.get("r", "a")
    await store.put("r", "d", b"x" * 1000, 60)
    assert [await store.get("r", name) is not None for name in "abcd"] == [True, False, True, True]
    assert store.evicted == 1
    with pytest.raises(StoreError):
        await store.put("r", "huge", b"x" * 10_000, 60)


@pytest.mark.parametrize("count", [5, 300])
async def test_memory_finds_the_nearest_in_small_and_large_shelves(count: int) -> None:
    store = MemoryAnswers(max_bytes=64 << 20)
    for number in range(count):
        angle = number * math.pi / (2 * count)
        await store.add("r", [math.cos(angle), math.sin(angle)], str(number).encode(), 60)
    wanted = (count // 2) * math.pi / (2 * count)
    found = await store.nearest("r", [math.cos(wanted), math.sin(wanted)])
    assert found is not None
    assert found[0] == pytest.approx(1, abs=1e-4)
    assert found[1] == str(count // 2).encode()
    assert await store.nearest("other", [1.0, 0.0]) is None


async def test_memory_keeps_vectors_of_different_widths_apart() -> None:
    store = MemoryAnswers()
    await store.add("r", [1.0, 0.0], b"two", 60)
    assert await store.nearest("r", [1.0, 0.0, 0.0]) is None
    await store.add("r", [1.0, 0.0, 0.0], b"three", 60)
    assert await store.nearest("r", [1.0, 0.0]) == (1.0, b"two")
    assert await store.nearest("r", [1.0, 0.0, 0.0]) == (1.0, b"three")
