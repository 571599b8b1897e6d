"""A bounded queue into one owner task, and questions that are answered from it.

What lives here: `Mailbox` and `Question`. What must not: what the messages mean.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec
import trio

T = TypeVar("T")
A = TypeVar("A")


class MailboxFull(Exception):
    """The mailbox holds as many messages as it may."""


class MailboxClosed(Exception):
    """The owner is gone for good."""


class MailboxStatistics(msgspec.Struct, frozen=True):
    """`waiting` messages of at most `capacity`; since the start, `accepted` and `refused` (mailbox full)."""

    waiting: int
    capacity: int
    accepted: int
    refused: int


class Mailbox(Generic[T]):
    """First in, first out. `put` never waits, so a sender learns at once that the owner is overloaded."""

    def __init__(self, capacity: int) -> None:
        self._send, self._receive = trio.open_memory_channel[T](capacity)
        self._accepted = 0
        self._refused = 0

    def put(self, message: T) -> None:
        """Raises `MailboxFull` or `MailboxClosed`."""
        try:
            self._send.send_nowait(message)
        except trio.BrokenResourceError:
            raise MailboxClosed from None
        except trio.WouldBlock:
            self._refused += 1
            raise MailboxFull from None
        self._accepted += 1

    async def get(self) -> T:
        """Wait for the next message. A checkpoint; a cancelled `get` takes nothing."""
        return await self._receive.receive()

    def close(self) -> list[T]:
        """Take no more messages; those that nobody will work on."""
        left: list[T] = []
        while not self.empty:
            left.append(self._receive.receive_nowait())
        self._receive.close()
        return left

    @property
    def empty(self) -> bool:
        return self._send.statistics().current_buffer_used == 0

    def statistics(self) -> MailboxStatistics:
        channel = self._send.statistics()
        return MailboxStatistics(
            channel.current_buffer_used, int(channel.max_buffer_size), self._accepted, self._refused
        )


class Question(Generic[T, A]):
    """A message that wants an answer. Cancelling the asker does not withdraw the question."""

    def __init__(self, body: T) -> None:
        self.body = body
        self._answered = trio.Event()
        self._answer: A | None = None
        self._error: Exception | None = None

    def answer(self, answer: A) -> None:
        self._answer = answer
        self._answered.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._answered.set()

    async def wait(self) -> A:
        """The answer, or the error that the owner met."""
        await self._answered.wait()
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer
