"""A gateway of this checkout for benchmarks: `trustgate run`, embedded, with a consumer in front of each upstream."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.e2e.installation import SECRET, Demo, Installation, environment, free_port, until_healthy


class Running(msgspec.Struct, frozen=True):
    """`urls` are chat completions URLs, one for each upstream given; `headers` carry the gateway's slug and the key."""

    urls: tuple[str, ...]
    pid: int
    headers: tuple[tuple[str, ...], ...]
    installation: Installation
    base: str
    """Path of the first upstream's gateway on the Admin API."""


def until_idle(pid: int) -> None:
    """Wait until a start's work in the background is over: the search index of a large log is made after it."""

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    while True:
        before = ticks()
        time.sleep(1.0)
        if ticks() - before <= 5:  # of 100
            return


def demo(at: Installation, upstream: str) -> Demo:
    made = Demo(at)
    made.registry("mock", upstream)
    return made.open()


@contextlib.contextmanager
def gateway(folder: Path, upstreams: list[str], *, gateways: int = 0, consumers: int = 0) -> Iterator[Running]:
    """A gateway pinned to core 0; before its start the store gets `gateways` others, of `consumers` each."""
    folder.mkdir(parents=True, exist_ok=True)
    if gateways:
        import store  # the bench of the event store

        trio.run(store.fill, folder / "trustgate.db", gateways, consumers, SECRET)
    admin, proxy = free_port(), free_port()
    more = {"LOG_LEVEL": "WARN", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    with (folder / "gateway.log").open("wb") as log, contextlib.ExitStack() as stack:
        process = subprocess.Popen(
            ["taskset", "-c", "0", sys.executable, "-m", "trustgate", "run"],
            cwd=folder,
            env=environment(folder, admin, proxy, more),
            stdout=log,
            stderr=log,
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        until_healthy(admin, process)
        at = Installation(admin, proxy)
        until_idle(process.pid)
        made = [demo(at, upstream) for upstream in upstreams]
        yield Running(
            urls=tuple(found.url + "/v1/chat/completions" for found in made),
            pid=process.pid,
            headers=tuple(tuple(f"{name}: {value}" for name, value in found.headers.items()) for found in made),
            installation=at,
            base=made[0].base,
        )
