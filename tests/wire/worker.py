"""A worker for the supervisor's tests: serves its number, and dies or stays as it is told."""

import os
import signal
import sys
from pathlib import Path

import trio

from trustgate.app.listeners import BACKLOG, bind
from trustgate.wire.server import Server, ServerConfig
from trustgate.wire.sockets import listening
from trustgate.wire.workers import supervisor_gone, worker_number


async def main(port: int) -> None:
    number = worker_number(os.environ)

    async def app(scope, receive, send):  # type: ignore[no-untyped-def]
        if scope["path"] == "/crash":
            os._exit(3)
        if scope["path"] == "/slow":
            await trio.sleep(0.3)
        await scope["extensions"]["trustgate"]["respond"](200, [], f"{number} {os.getpid()}".encode())

    server = Server(app, ServerConfig(drain_timeout_s=5))
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def drain_on_signal() -> None:
                async for _ in signals:
                    server.drain()

            async def drain_when_orphaned() -> None:
                await supervisor_gone()
                server.drain()

            nursery.start_soon(drain_on_signal)
            nursery.start_soon(drain_when_orphaned)
            await server.serve(listening(bind(port, shared=True), BACKLOG))
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    if sys.argv[1] == "fail":
        sys.exit(1)
    if sys.argv[1] == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(sys.argv[2]).touch()
        while True:
            signal.pause()
    trio.run(main, int(sys.argv[1]))
