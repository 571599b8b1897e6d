"""Counters and small values shared by the worker processes of one machine, over a Unix socket.

What lives here: the owner's side (`serve_shared`, in the supervisor) and the workers' side (`remote_shared`), which
give the same answers as the in-process backends they stand for. What must not: what operations mean (`memory`).

Frames are a 4-byte big-endian length and MessagePack. What workers want at the same moment travels in one frame, and is
answered by one, in order.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from trustgate.limits.bus import Hear, LocalBus
from trustgate.limits.memory import MemoryLimits
from trustgate.limits.ops import Charged, LimitsUnavailable, Op, Peeked, Reply, Reserved, Slid
from trustgate.limits.shared import Entry, LocalState

MAX_FRAME_BYTES = 64 * 1024 * 1024
MAX_WAITING = 4096
ANSWER_TIMEOUT_S = 2.0
RETRY_S = 0.5

log = logging.getLogger("trustgate.limits")


class Count(msgspec.Struct, frozen=True, tag=True):
    ops: list[Op]


class Get(msgspec.Struct, frozen=True, tag=True):
    key: str


class Put(msgspec.Struct, frozen=True, tag=True):
    key: str
    value: bytes
    ttl_s: float | None


class PutIfAbsent(msgspec.Struct, frozen=True, tag=True):
    key: str
    value: bytes
    ttl_s: float | None


class Take(msgspec.Struct, frozen=True, tag=True):
    key: str


class Delete(msgspec.Struct, frozen=True, tag=True):
    key: str


class Append(msgspec.Struct, frozen=True, tag=True):
    key: str
    value: bytes
    keep: int
    ttl_s: float


class Entries(msgspec.Struct, frozen=True, tag=True):
    key: str
    after: str


class Publish(msgspec.Struct, frozen=True, tag=True):
    """To every worker that listens."""

    message: bytes


class Listen(msgspec.Struct, frozen=True, tag=True):
    """From now on this connection is sent what is published, a frame each, and asks nothing more."""


class Counted(msgspec.Struct, frozen=True, tag=True):
    """Replies by kind and members; their kinds follow from the operations."""

    replies: list[tuple[str, list[Any]]]


class Value(msgspec.Struct, frozen=True, tag=True):
    value: bytes | None


class Found(msgspec.Struct, frozen=True, tag=True):
    """Entries of a log."""

    entries: list[Entry]


Ask = Count | Get | Put | PutIfAbsent | Take | Delete | Append | Entries | Publish | Listen
Answer = Counted | Value | Found
KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Slid, Charged, Peeked, Reserved)}

_asks = msgspec.msgpack.Decoder(list[Ask])
_answers = msgspec.msgpack.Decoder(list[Answer])


def packed(reply: Reply) -> tuple[str, list[Any]]:
    return type(reply).__name__, list(msgspec.structs.astuple(reply))


def unpacked(kind: str, members: list[Any]) -> Reply:
    return KINDS[kind](*(tuple(member) if isinstance(member, list) else member for member in members))


async def write_frame(stream: trio.SocketStream, message: Any) -> None:
    data = msgspec.msgpack.encode(message)
    await stream.send_all(struct.pack(">I", len(data)) + data)


async def read_frame(stream: trio.SocketStream) -> bytes | None:
    """The next frame; None at the end of the stream. Raises BrokenResourceError for a cut or oversized frame."""
    head = await read_exactly(stream, 4)
    if head is None:
        return None
    (size,) = struct.unpack(">I", head)
    if size > MAX_FRAME_BYTES:
        raise trio.BrokenResourceError("frame too large")
    body = await read_exactly(stream, size)
    if body is None:
        raise trio.BrokenResourceError("frame cut short")
    return body


async def read_exactly(stream: trio.SocketStream, size: int) -> bytes | None:
    parts: list[bytes] = []
    left = size
    while left:
        part = await stream.receive_some(left)
        if not part:
            if parts:
                raise trio.BrokenResourceError("frame cut short")
            return None
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


# The owner


async def serve_shared(
    path: str, limits: MemoryLimits, state: LocalState, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer workers on the Unix socket `path` (mode 0600) until cancelled."""
    listener = listen(path)
    bus = LocalBus()

    async def answer(stream: trio.SocketStream) -> None:
        try:
            while (frame := await read_frame(stream)) is not None:
                asks = _asks.decode(frame)
                if asks and isinstance(asks[0], Listen):
                    await pass_on(stream, bus)
                    return
                answers = [await apply(ask, limits, state, bus) for ask in asks]
                await write_frame(stream, answers)
        except (trio.BrokenResourceError, trio.ClosedResourceError, msgspec.DecodeError):
            return  # that worker is gone, or is no worker; the others go on

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, answer, [listener])
        task_status.started()


async def pass_on(stream: trio.SocketStream, bus: LocalBus) -> None:
    """Send what is published to one worker until it is gone; what it does not take in time is not kept for it."""
    outgoing, incoming = trio.open_memory_channel[bytes](MAX_WAITING)

    def hear(message: bytes) -> None:
        try:
            outgoing.send_nowait(message)
        except trio.WouldBlock:
            return  # the worker is stuck; listeners look for themselves from time to time

    with bus.listening(hear):
        await write_frame(stream, True)
        async with trio.open_nursery() as nursery:

            async def until_gone() -> None:
                await read_frame(stream)
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_gone)
            async for message in incoming:
                await write_frame(stream, message)


def listen(path: str) -> trio.SocketListener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path):
            os.unlink(path)
        mask = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(mask)
        sock.listen(128)
    except BaseException:
        sock.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


async def apply(ask: Ask, limits: MemoryLimits, state: LocalState, bus: LocalBus) -> Answer:
    match ask:
        case Count(ops):
            return Counted([packed(reply) for reply in await limits.run(ops)])
        case Get(key):
            return Value(await state.get(key))
        case Put(key, value, ttl_s):
            await state.put(key, value, ttl_s)
        case PutIfAbsent(key, value, ttl_s):
            return Value(b"" if await state.put_if_absent(key, value, ttl_s) else None)
        case Take(key):
            return Value(await state.take(key))
        case Delete(key):
            await state.delete(key)
        case Append(key, value, keep, ttl_s):
            return Value((await state.append(key, value, keep, ttl_s)).encode())
        case Entries(key, after):
            return Found(await state.entries(key, after))
        case Publish(message):
            await bus.publish(message)
        case Listen():
            raise msgspec.DecodeError("listening is asked for alone")
    return Value(None)


# The workers


class _Waiter:
    __slots__ = ("answer", "ask", "done")

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.done = trio.Event()
        self.answer: Answer | None = None


class _Link:
    """One connection to the owner, redialled when it breaks. Mutable: `_waiting`, emptied by `serve`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._waiting: list[_Waiter] = []
        self._wake = trio.Event()

    async def ask(self, ask: Ask) -> Answer:
        """Raises LimitsUnavailable when the owner does not answer in time; it may still have applied the ask."""
        if len(self._waiting) >= MAX_WAITING:
            raise LimitsUnavailable("too many requests wait for the shared counters")
        waiter = _Waiter(ask)
        self._waiting.append(waiter)
        self._wake.set()
        try:
            await waiter.done.wait()
        except trio.Cancelled:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            raise
        if waiter.answer is None:
            raise LimitsUnavailable("the shared counters cannot be reached")
        return waiter.answer

    async def serve(self) -> None:
        """Send and receive until cancelled."""
        stream: trio.SocketStream | None = None
        batch: list[_Waiter] = []
        try:
            while True:
                if not self._waiting:
                    self._wake = trio.Event()
                    await self._wake.wait()
                batch, self._waiting = self._waiting, []
                try:
                    with trio.fail_after(ANSWER_TIMEOUT_S):
                        if stream is None:
                            stream = await trio.open_unix_socket(self._path)
                        await write_frame(stream, [waiter.ask for waiter in batch])
                        frame = await read_frame(stream)
                    answers = _answers.decode(frame) if frame is not None else []
                except (OSError, trio.TooSlowError, trio.BrokenResourceError, msgspec.DecodeError):
                    answers = []
                if len(answers) != len(batch):
                    if stream is not None:
                        await stream.aclose()
                    stream = None
                for at, waiter in enumerate(batch):
                    waiter.answer = answers[at] if len(answers) == len(batch) else None
                    waiter.done.set()
        finally:
            for waiter in batch + self._waiting:
                waiter.done.set()


class RemoteLimits:
    """`Limits` kept by the supervisor of this worker."""

    waits = True

    def __init__(self, link: _Link) -> None:
        self._link = link

    async def run(self, ops: Sequence[Op]) -> list[Reply]:
        answer = await self._link.ask(Count(list(ops)))
        assert isinstance(answer, Counted), "counts are answered with counts"
        return [unpacked(kind, members) for kind, members in answer.replies]


class RemoteState:
    """`SharedState` kept by the supervisor of this worker."""

    def __init__(self, link: _Link) -> None:
        self._link = link

    async def _value(self, ask: Ask) -> bytes | None:
        answer = await self._link.ask(ask)
        assert isinstance(answer, Value), "values are answered with values"
        return answer.value

    async def get(self, key: str) -> bytes | None:
        return await self._value(Get(key))

    async def put(self, key: str, value: bytes, ttl_s: float | None) -> None:
        await self._value(Put(key, value, ttl_s))

    async def put_if_absent(self, key: str, value: bytes, ttl_s: float | None) -> bool:
        return await self._value(PutIfAbsent(key, value, ttl_s)) is not None

    async def take(self, key: str) -> bytes | None:
        return await self._value(Take(key))

    async def delete(self, key: str) -> None:
        await self._value(Delete(key))

    async def append(self, key: str, value: bytes, keep: int, ttl_s: float) -> str:
        return (await self._value(Append(key, value, keep, ttl_s)) or b"").decode()

    async def entries(self, key: str, after: str = "0") -> list[Entry]:
        answer = await self._link.ask(Entries(key, after))
        assert isinstance(answer, Found), "logs are answered with entries"
        return answer.entries


class RemoteBus:
    """`Bus` over the supervisor: the workers of one machine hear each other."""

    def __init__(self, link: _Link, path: str) -> None:
        self._link = link
        self._path = path

    async def publish(self, message: bytes) -> None:
        await self._link.ask(Publish(message))

    async def listen(self, hear: Hear, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        started = False
        while True:
            try:
                async with await trio.open_unix_socket(self._path) as stream:
                    await write_frame(stream, [Listen()])
                    while (frame := await read_frame(stream)) is not None:
                        message = msgspec.msgpack.decode(frame)
                        if isinstance(message, bytes):
                            hear(message)
                        elif not started:
                            started = True
                            task_status.started()
            except (OSError, trio.BrokenResourceError, msgspec.DecodeError) as error:
                log.warning("the bus of the workers broke off: %s", error)
            await trio.sleep(RETRY_S)


@asynccontextmanager
async def remote_shared(path: str) -> AsyncIterator[tuple[RemoteLimits, RemoteState, RemoteBus]]:
    """The workers' side for the life of the block."""
    link = _Link(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.serve)
        try:
            yield RemoteLimits(link), RemoteState(link), RemoteBus(link, path)
        finally:
            nursery.cancel_scope.cancel()
