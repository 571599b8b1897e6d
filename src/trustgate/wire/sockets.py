"""Non-blocking sockets on Trio without its stream layer, and a watcher for peers that hang up.

`trio.SocketStream` costs a lock and two checkpoints per call. Here a call that the kernel can satisfy at once makes no
checkpoint at all; a call that must wait parks the task exactly once. TLS sockets (`ssl.SSLSocket` in non-blocking mode)
go through the same functions.
"""

import select
import socket
import ssl
from collections.abc import Callable

import trio

WANT_READ = (BlockingIOError, ssl.SSLWantReadError)


async def receive(sock: socket.socket, size: int) -> bytes:
    """Read at most `size` bytes; b"" is the end of the stream. Parks the task only when nothing is there yet."""
    while True:
        try:
            return sock.recv(size)
        except WANT_READ:
            await trio.lowlevel.wait_readable(sock)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(sock)


def send_now(sock: socket.socket, data: bytes | memoryview) -> int:
    """Hand the kernel as much as it takes without waiting; the number of bytes taken."""
    try:
        return sock.send(data)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return 0


async def send_some(sock: socket.socket, data: bytes | memoryview) -> int:
    """Wait until the kernel takes at least one byte; the number of bytes taken."""
    while True:
        try:
            return sock.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError):
            await trio.lowlevel.wait_writable(sock)
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(sock)


def close(sock: socket.socket) -> None:
    """Close at once; tasks parked on the socket wake with `trio.ClosedResourceError`."""
    if sock.fileno() >= 0:
        trio.lowlevel.notify_closing(sock)
        sock.close()


class HangupWatcher:
    """Calls back as soon as a peer closes, half-closes or resets a connection, at no cost per request.

    Every watched socket is registered once with a second, edge-triggered epoll for EPOLLRDHUP; one task waits on that
    epoll's own descriptor. So a disconnect is noticed at once while unread pipelined data stays in the kernel (which
    keeps back-pressure), and no reader task has to be parked beside each request.
    A half-close counts as leaving, as in Go's net/http: it cannot be told from a close without writing.
    Linux only; elsewhere a disconnect is noticed by the next read or write.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._callbacks: dict[int, Callable[[], None]] = {}

    def watch(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        if self._epoll is not None:
            fd = sock.fileno()
            self._callbacks[fd] = callback
            self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLET)

    def forget(self, sock: socket.socket) -> None:
        """Must be called before the socket is closed."""
        fd = sock.fileno()
        if self._callbacks.pop(fd, None) is not None and self._epoll is not None:
            self._epoll.unregister(fd)

    async def run(self) -> None:
        """Runs until cancelled."""
        epoll = self._epoll
        if epoll is None:
            return
        try:
            while True:
                await trio.lowlevel.wait_readable(epoll.fileno())
                for fd, _ in epoll.poll(0, 256):
                    callback = self._callbacks.get(fd)
                    if callback is not None:
                        callback()
        finally:
            self._epoll = None
            epoll.close()
            self._callbacks.clear()
