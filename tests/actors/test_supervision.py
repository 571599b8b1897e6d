"""Mailboxes are bounded and count; crashed actors come back after growing pauses."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing

from trustgate.actors.mailbox import Mailbox, MailboxClosed, MailboxFull, Question
from trustgate.actors.supervisor import Backoff, supervise


async def test_a_mailbox_keeps_order_and_refuses_beyond_its_capacity() -> None:
    mailbox: Mailbox[int] = Mailbox(2)
    mailbox.put(1)
    mailbox.put(2)
    with pytest.raises(MailboxFull):
        mailbox.put(3)
    found = mailbox.statistics()
    assert (found.waiting, found.capacity, found.accepted, found.refused) == (2, 2, 2, 1)
    assert await mailbox.get() == 1
    assert mailbox.close() == [2]
    assert mailbox.empty
    with pytest.raises(MailboxClosed):
        mailbox.put(4)


async def test_a_question_hands_over_the_answer_or_the_error() -> None:
    question: Question[str, int] = Question("?")
    question.answer(7)
    assert await question.wait() == 7
    question = Question("?")
    question.fail(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await question.wait()


async def test_a_crashed_actor_is_restarted_after_doubling_pauses(autojump_clock: trio.testing.MockClock) -> None:
    starts: list[float] = []

    async def crash() -> None:
        starts.append(trio.current_time())
        if len(starts) < 6:
            raise RuntimeError("crash")

    began = trio.current_time()
    await supervise("test", crash, Backoff(1.0, 4.0, rand=lambda: 0.0))
    pauses = [round(later - earlier, 6) for earlier, later in itertools.pairwise(starts)]
    assert starts[0] == began
    assert pauses == [1.0, 2.0, 4.0, 4.0, 4.0]


async def test_a_long_healthy_run_starts_the_pauses_over(autojump_clock: trio.testing.MockClock) -> None:
    starts: list[float] = []

    async def crash() -> None:
        starts.append(trio.current_time())
        if len(starts) == 3:
            await trio.sleep(120)
        if len(starts) < 5:
            raise RuntimeError("crash")

    await supervise("test", crash, Backoff(1.0, 100.0, rand=lambda: 0.0))
    pauses = [round(later - earlier, 6) for earlier, later in itertools.pairwise(starts)]
    assert pauses == [1.0, 2.0, 121.0, 2.0]


async def test_a_pause_is_shortened_by_chance_to_no_less_than_half() -> None:
    assert Backoff(2.0, 8.0, rand=lambda: 1.0).next() == 1.0
    assert Backoff(2.0, 8.0, rand=lambda: 0.0).next() == 2.0
