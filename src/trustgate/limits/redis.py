"""The shared counters: Redis behind an actor that turns what requests want at the same moment into one call.

What lives here: the actor and its connection. What must not: what an operation means (`lua`). A batch that Redis does
not answer within `timeout_s` fails its callers with `LimitsUnavailable`; whether it was applied is then unknown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import coredis
import coredis.exceptions
import trio

from trustgate.limits import lua
from trustgate.limits.ops import LimitsUnavailable, Op, Reply

MAX_BATCH = 64
MAX_WAITING = 4096
TIMEOUT_S = 2.0


class _Waiter:
    """A caller parked until its operations were answered."""

    __slots__ = ("done", "error", "ops", "replies")

    def __init__(self, ops: Sequence[Op]) -> None:
        self.ops = ops
        self.done = trio.Event()
        self.replies: list[Any] = []
        self.error: str | None = None


class RedisLimits:
    """`Limits` in Redis. Made by `redis_limits`; `client` is an open `coredis` client.

    Mutable state: `_waiting`, appended by callers and emptied by the actor, and `_wake`, set by callers.
    """

    waits = True

    def __init__(self, client: Any, timeout_s: float = TIMEOUT_S) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._waiting: list[_Waiter] = []
        self._wake = trio.Event()
        self._sha: Any = None
        self.calls = 0
        self.operations = 0

    def statistics(self) -> dict[str, int]:
        """Calls to Redis, operations in them, callers waiting now."""
        return {"calls": self.calls, "operations": self.operations, "waiting": len(self._waiting)}

    async def run(self, ops: Sequence[Op]) -> list[Reply]:
        """Apply `ops` in one round trip, shared with whoever asks at the same moment.

        Raises `LimitsUnavailable`. When cancelled before the call went out, the operations are not applied.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise LimitsUnavailable("too many requests wait for Redis")
        waiter = _Waiter(ops)
        self._waiting.append(waiter)
        self._wake.set()
        try:
            await waiter.done.wait()
        except trio.Cancelled:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            raise
        if waiter.error is not None:
            raise LimitsUnavailable(waiter.error)
        return [lua.decode(op, reply) for op, reply in zip(ops, waiter.replies, strict=True)]

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The actor. Runs until cancelled; callers that wait then are failed."""
        task_status.started()
        batch: list[_Waiter] = []
        try:
            while True:
                if not self._waiting:
                    self._wake = trio.Event()
                    await self._wake.wait()
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._answer(batch)
        finally:
            for waiter in batch + self._waiting:
                waiter.error = waiter.error or "stopped"
                waiter.done.set()

    async def _answer(self, batch: list[_Waiter]) -> None:
        keys: list[str] = []
        args: list[str | int] = []
        for waiter in batch:
            lua.encode(waiter.ops, keys, args)
        self.calls += 1
        self.operations += sum(len(waiter.ops) for waiter in batch)
        try:
            with trio.fail_after(self._timeout_s):
                replies = await self._call(keys, args)
        except (coredis.exceptions.RedisError, OSError, trio.TooSlowError, trio.BrokenResourceError) as error:
            for waiter in batch:
                waiter.error = f"{type(error).__name__}: {error}"
                waiter.done.set()
            return
        at = 0
        for waiter in batch:
            waiter.replies = replies[at : at + len(waiter.ops)]
            at += len(waiter.ops)
            waiter.done.set()

    async def _call(self, keys: list[str], args: list[str | int]) -> list[Any]:
        if self._sha is None:
            self._sha = await self._client.script_load(lua.SCRIPT)
        try:
            return await self._client.evalsha(self._sha, keys=keys, args=args)
        except coredis.exceptions.NoScriptError:
            self._sha = await self._client.script_load(lua.SCRIPT)
            return await self._client.evalsha(self._sha, keys=keys, args=args)


@asynccontextmanager
async def redis_limits(client: Any, timeout_s: float = TIMEOUT_S) -> AsyncIterator[RedisLimits]:
    """Run the actor on an open `coredis` client for the life of the block."""
    limits = RedisLimits(client, timeout_s)
    async with trio.open_nursery() as nursery:
        await nursery.start(limits.serve)
        try:
            yield limits
        finally:
            nursery.cancel_scope.cancel()
