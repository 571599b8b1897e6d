"""Ports for the processes that tests start."""

from __future__ import annotations

import itertools
import os
import socket

METRICS_OFFSET = 1010
"""A plane's metrics are on its own port plus this, unless told otherwise."""

FIRST, LAST = 10_000, 30_000
"""Below the ports that systems give to outgoing connections: one given out here cannot be such a connection's by the
time at which a process binds it."""

_counter = itertools.count(os.getpid() * 31)
_given: set[int] = set()


def free_port() -> int:
    """A port on 127.0.0.1 that nobody has, nor the one of its metrics; given out once."""
    while True:
        port = FIRST + next(_counter) % (LAST - FIRST)
        pair = {port, port + METRICS_OFFSET}
        if not pair & _given and all(map(_unused, pair)):
            _given.update(pair)
            return port


def _unused(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
