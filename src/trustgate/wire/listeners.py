"""Listening sockets: all interfaces or one host, optionally shared by several worker processes (SO_REUSEPORT)."""

import errno
import socket
from typing import Final

import trio

_BACKLOG: Final = 4096


async def open_listeners(port: int, host: str = "", *, reuse_port: bool = False) -> list[trio.SocketListener]:
    """Listeners for `host` ("" means all interfaces, IPv4 and IPv6 on sockets of their own, so that an IPv4 client is
    never reported as an IPv6-mapped address). Port 0 picks one port for all of them. Raises OSError."""
    found = await trio.socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[trio.SocketListener] = []
    try:
        for family, kind, protocol, _, address in sorted(found, key=lambda entry: entry[0] != socket.AF_INET):
            if port == 0 and listeners:
                address = (address[0], listeners[0].socket.getsockname()[1], *address[2:])
            try:
                sock = trio.socket.socket(family, kind, protocol)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:  # a kernel without IPv6 still resolves to it
                    continue
                raise
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if reuse_port:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                await sock.bind(address)
                sock.listen(_BACKLOG)
            except OSError as error:
                sock.close()
                if error.errno == errno.EADDRNOTAVAIL and not host and listeners:
                    continue
                raise
            listeners.append(trio.SocketListener(sock))
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    if not listeners:
        raise OSError(errno.EADDRNOTAVAIL, "no address to listen on")
    return listeners
