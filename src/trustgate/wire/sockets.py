"""Non-blocking sockets on Trio without its stream layer: readiness is learnt once per arrival, not asked for per call.

Every socket is registered once, edge-triggered, with a `Poller`'s own epoll; one task waits on that epoll's descriptor
(an epoll can be polled itself) and wakes the task parked on a channel. Compared with `trio.SocketStream` that saves,
for each wait, a re-registration, a read that finds nothing, a lock and two checkpoints; and a peer that hangs up is
noticed at once even while nobody reads, without a task parked beside each request.

Linux has all of this. Elsewhere channels wait through Trio and a disconnect is noticed by the next read or write.
"""

import contextlib
import select
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import outcome
import trio

_WANT_READ = (BlockingIOError, ssl.SSLWantReadError)
_MAX_EVENTS = 512


class _Wake(outcome.Outcome[None]):
    """What a parked task is resumed with. Trio makes an `outcome.Value` for each time; this one serves any number of
    times."""

    def unwrap(self) -> None:
        return None

    def send(self, gen: Generator[Any, None, object]) -> Any:
        return gen.send(None)

    async def asend(self, agen: AsyncGenerator[Any, None]) -> Any:
        return await agen.asend(None)


_WAKE = _Wake()


class Channel:
    """One connected non-blocking socket (plain or TLS). One task may receive at a time, one may send.

    Mutable state: `_readable`, `hung_up` and `_reader` are set by the poller and by the receiving task.
    """

    __slots__ = ("_on_hang_up", "_poller", "_readable", "_reader", "_tls", "closed", "fd", "hung_up", "sock")

    def __init__(self, sock: socket.socket, poller: "Poller") -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.closed = False
        self.hung_up = False
        """The peer closed, half-closed or reset. A half-close counts as leaving, as in Go's net/http: it cannot be told
        from a close without writing."""
        self._poller = poller
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._readable = True
        self._reader: trio.lowlevel.Task | None = None
        self._on_hang_up: Callable[[], None] | None = None
        poller.add(self)

    def on_hang_up(self, callback: Callable[[], None]) -> None:
        """`callback` runs once, at once, when the peer hangs up; it must not block or raise."""
        self._on_hang_up = callback

    @property
    def quiet(self) -> bool:
        """Whether a channel that should be idle is: still open, and nothing has arrived out of turn."""
        if self.hung_up or self.closed:
            return False
        if not self._readable:
            return True
        try:
            self.sock.recv(1)
        except _WANT_READ:
            self._readable = False
            return True
        except OSError:
            return False
        return False

    async def receive(self, size: int) -> bytes:
        """At most `size` bytes; b"" is the end of the stream. Parks only when nothing is there.

        Not a checkpoint when bytes are there. Raises OSError, also when the channel is closed meanwhile.
        """
        while True:
            if self._readable:
                try:
                    data = self.sock.recv(size)
                except _WANT_READ:
                    self._readable = False
                except ssl.SSLWantWriteError:
                    await trio.lowlevel.wait_writable(self.fd)
                    continue
                else:
                    # A short read has drained the socket, epoll(7); what comes next is a new edge. TLS keeps bytes of
                    # its own, and after a hang-up the end of the stream is still to be read.
                    if len(data) < size and not self.hung_up and not self._tls:
                        self._readable = False
                    return data
            if self._reader is not None:
                raise trio.BusyResourceError("another task is receiving on this channel")
            if self._poller.usable:
                self._reader = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._unpark)
            else:
                await trio.lowlevel.wait_readable(self.fd)
                self._readable = True

    def _unpark(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self, *, hung_up: bool) -> None:
        """Called by the poller for every edge."""
        self._readable = True
        reader = self._reader
        if reader is not None:
            self._reader = None
            trio.lowlevel.reschedule(reader, _WAKE)
        if hung_up and not self.hung_up:
            self.hung_up = True
            if self._on_hang_up is not None:
                self._on_hang_up()

    def send_now(self, data: bytes | memoryview) -> int:
        """Hand the kernel as much as it takes without waiting; the number of bytes taken."""
        try:
            return self.sock.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def send_both_now(self, first: bytes, second: bytes) -> int:
        """`send_now` of two buffers as if they were one."""
        if self._tls:
            return self.send_now(first)
        try:
            return self.sock.sendmsg((first, second))
        except BlockingIOError:
            return 0

    def shut_down(self) -> None:
        """Tell the peer that nothing more will be sent. A peer that is already gone is fine."""
        if not self.closed:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)

    async def send_some(self, data: bytes | memoryview) -> int:
        """Wait until the kernel takes at least one byte; the number of bytes taken."""
        while True:
            try:
                return self.sock.send(data)
            except (BlockingIOError, ssl.SSLWantWriteError):
                await trio.lowlevel.wait_writable(self.fd)
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self.fd)

    def close(self) -> None:
        """Close at once, from any task. A task parked on the channel wakes and gets OSError (receiving) or
        trio.ClosedResourceError (sending)."""
        if self.closed:
            return
        self.closed = True
        self._readable = True  # so that whoever receives meets the closed descriptor
        self._on_hang_up = None
        self._poller.remove(self)
        reader = self._reader
        if reader is not None:
            self._reader = None
            trio.lowlevel.reschedule(reader, _WAKE)
        close(self.sock)


class Poller:
    """Mutable state: the channels by descriptor. Create it, then keep `run` running beside what uses the channels."""

    def __init__(self) -> None:
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self.usable = self._epoll is not None
        self._channels: dict[int, Channel] = {}

    def add(self, channel: Channel) -> None:
        if self._epoll is not None:
            self._channels[channel.fd] = channel
            self._epoll.register(channel.fd, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)

    def remove(self, channel: Channel) -> None:
        if self._channels.pop(channel.fd, None) is not None and self._epoll is not None:
            self._epoll.unregister(channel.fd)

    async def run(self) -> None:
        """Runs until cancelled. Channels must not be used afterwards, only closed."""
        epoll = self._epoll
        if epoll is None:
            return
        gone = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
        channels = self._channels
        descriptor = epoll.fileno()
        try:
            while True:
                await trio.lowlevel.wait_readable(descriptor)
                for fd, events in epoll.poll(0, _MAX_EVENTS):
                    channel = channels.get(fd)
                    if channel is not None:
                        channel.wake(hung_up=bool(events & gone))
        finally:
            self._epoll = None
            self.usable = False
            epoll.close()


def listening(sockets: list[socket.socket], backlog: int) -> list[trio.SocketListener]:
    """Bound sockets, which accept connections from now on."""
    for sock in sockets:
        sock.listen(backlog)
    return [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]


async def receive(sock: socket.socket, size: int) -> bytes:
    """Read from a socket that has no channel yet (a proxy's answer); b"" is the end of the stream."""
    while True:
        try:
            return sock.recv(size)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Write to a socket that has no channel yet."""
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)


def close(sock: socket.socket) -> None:
    """Close at once; tasks that wait for the socket through Trio wake with `trio.ClosedResourceError`."""
    if sock.fileno() >= 0:
        trio.lowlevel.notify_closing(sock)
        sock.close()
