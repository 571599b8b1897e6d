"""Properties of the in-process counters under arbitrary interleavings, on a clock that the test turns."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from trustgate.limits import MemoryLimits, Peek, Reserve, Settle, Slide, Window

CEILING, HOLD_MS, WINDOW_MS = 20, 30_000, 60_000


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def apply(limits: MemoryLimits, op: Any) -> Any:
    return limits._apply(op, limits._monotonic())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(0, 5), st.integers(1, 12)),
        st.tuples(st.just("settle"), st.integers(0, 5), st.integers(0, 12)),
        st.tuples(st.just("release"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("crash"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("wait"), st.integers(0, 50), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=100, deadline=None)
def test_settled_spending_never_exceeds_a_budget_and_nothing_stays_on_hold(steps: list[tuple[str, int, int]]) -> None:
    clock = Clock()
    limits = MemoryLimits(clock)
    windows = (Window("rule", WINDOW_MS, CEILING), Window("all", WINDOW_MS, CEILING + 5))
    open_: dict[str, tuple[int, float]] = {}
    for number, (step, who, amount) in enumerate(steps):
        token = f"t{who}"
        if step == "reserve" and token not in open_:
            if apply(limits, Reserve(windows, f"{token}.{number}", amount, HOLD_MS)).refused_by < 0:
                open_[token] = (amount, clock.now)
                open_[f"{token}!"] = (number, 0.0)
        elif step == "wait":
            clock.now += who
        elif token in open_:
            reserved, since = open_.pop(token)
            number, _ = open_.pop(f"{token}!")
            lapsed = clock.now - since >= HOLD_MS / 1000
            # Calls end within the life of their hold; a crashed one is never heard of again.
            if step != "crash" and not lapsed:
                used = min(amount, reserved) if step == "settle" else 0
                apply(limits, Settle(windows, f"{token}.{number}", used))
        peeked = apply(limits, Peek(("rule", "all")))
        assert peeked.values[0] + peeked.held[0] <= CEILING
        assert peeked.values[1] + peeked.held[1] <= CEILING + 5
    clock.now += HOLD_MS / 1000
    assert apply(limits, Peek(("rule", "all"))).held == (0, 0)


@given(
    st.integers(1, 5),
    st.integers(1, 8),
    st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=80),
)
@settings(max_examples=100, deadline=None)
def test_a_sliding_window_never_admits_more_than_its_limit(limit: int, window_s: int, waits: list[float]) -> None:
    clock = Clock()
    limits = MemoryLimits(clock)
    admitted: list[float] = []
    for wait in waits:
        clock.now += wait
        if apply(limits, Slide("k", window_s * 1000, limit)).recorded:
            admitted.append(clock.now)
    for at in admitted:
        # Scores are whole seconds, so what is guaranteed is any span up to one second short of the window.
        assert sum(at <= other < at + window_s - 1 for other in admitted) <= limit


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=200))
@settings(max_examples=40, deadline=None)
def test_the_table_of_keys_is_bounded(steps: list[tuple[int, int]]) -> None:
    clock = Clock()
    limits = MemoryLimits(clock, max_keys=10)
    for name, wait in steps:
        clock.now += wait
        apply(limits, Slide(f"k{name}", 5_000, 3))
        assert limits.statistics()["keys"] <= 10


async def test_expired_keys_are_swept_and_live_ones_stay() -> None:
    clock = Clock()
    limits = MemoryLimits(clock)
    for number in range(4096):
        await limits.run((Slide(f"old{number}", 5_000, 3),))
    clock.now += 10
    await limits.run((Slide("live", 5_000, 3),))
    assert limits.statistics() == {"keys": 1, "evicted": 0}
