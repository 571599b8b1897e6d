"""A whole installation in the harness's own process: real planes on real sockets, under a clock that can be stepped.

What lives here: starting, stopping and crashing the application, and its taps (what the observer heard, the upstream
pool, the live views). What must not: what a step does (`world`), what must hold (`invariants`).
"""

from __future__ import annotations

import contextlib
import importlib
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import jwt
import msgspec
import trio
import trio.testing

from trustgate.app import observer, parts, storage
from trustgate.app.main import run_here
from trustgate.app.parts import Parts
from trustgate.app.views import Views
from trustgate.domain.entities import GatewayState
from trustgate.limits.memory import MemoryLimits
from trustgate.proxy.exchange import Exchange
from trustgate.settings import Settings
from trustgate.telemetry.metrics import Metrics

SECRET = "harness-0123456789abcdef-0123456789"
main = importlib.import_module("trustgate.app.main")  # the package exports a function of that name
PLANES = frozenset({"admin", "proxy"})
READ_BOUND = 16 * 1024 * 1024


class Heard(msgspec.Struct, frozen=True):
    """What the observer was told about one request."""

    trace_id: str
    status: int
    version: int
    authenticated: bool


class Installation:
    """One application. Mutable: ports and taps of the current run; what was heard is kept over restarts."""

    def __init__(self, folder: Path, variables: Mapping[str, str], clock: trio.testing.MockClock) -> None:
        self.folder = folder
        self.clock = clock
        self.jumped = 0.0
        self.heard: list[Heard] = []
        self.ports: dict[str, int] = {}
        self.parts: Parts | None = None
        self.views: Views | None = None
        self._variables = {
            "TRUSTGATE_DATA_DIR": str(folder),
            "SERVER_SECRET_KEY": SECRET,
            "SERVER_ADMIN_PORT": "0",
            "SERVER_PROXY_PORT": "0",
            "MODELS_DEV_BASE_URL": "http://127.0.0.1:1",
            **variables,
        }

    def now(self) -> float:
        """The wall clock as the application sees it: the real one, stepped."""
        return time.time() + self.jumped

    def monotonic(self) -> float:
        """The clock of limits, stepped alike."""
        return time.monotonic() + self.jumped

    def step(self, seconds: float) -> None:
        """Advance both clocks: deadlines that lie in between pass now."""
        self.jumped += seconds
        self.clock.jump(seconds)

    @asynccontextmanager
    async def running(self, *, crash: bool = False) -> AsyncIterator[None]:
        """The application, until the block ends: drained, or cut off where it stands (`crash`)."""
        stop = trio.Event()
        with self._taps():
            async with trio.open_nursery() as nursery:
                await nursery.start(self._serve, stop)
                try:
                    yield
                finally:
                    if crash:
                        nursery.cancel_scope.cancel()
                    stop.set()

    async def _serve(self, stop: trio.Event, task_status: trio.TaskStatus[None]) -> None:
        async def ready(ports: dict[str, int]) -> None:
            self.ports = ports
            task_status.started()

        await run_here(PLANES, Settings.load(self._variables), stop, Metrics("harness"), ready)

    @contextlib.contextmanager
    def _taps(self) -> Iterator[None]:
        """Listen at the seams of the application; nothing is replaced, everything is passed on."""
        installation = self
        open_parts, finished, refused = (
            parts.open_parts,
            observer.EventObserver.finished,
            observer.EventObserver.refused,
        )

        @asynccontextmanager
        async def opened(settings: Settings, planes: frozenset[str], metrics: Metrics) -> AsyncIterator[Parts]:
            async with open_parts(settings, planes, metrics, installation.now) as found:
                installation.parts = found
                yield found

        class TappedViews(Views):
            def __init__(self) -> None:
                super().__init__()
                installation.views = self

        def on_finished(self: Any, exchange: Exchange) -> None:
            installation.heard.append(heard(exchange, authenticated=True))
            finished(self, exchange)

        def on_refused(self: Any, exchange: Exchange) -> None:
            installation.heard.append(heard(exchange, authenticated=False))
            refused(self, exchange)

        with (
            mock.patch.object(main, "open_parts", opened),
            mock.patch.object(main, "Views", TappedViews),
            mock.patch.object(storage, "MemoryLimits", lambda: MemoryLimits(installation.monotonic)),
            mock.patch.object(observer.EventObserver, "finished", on_finished),
            mock.patch.object(observer.EventObserver, "refused", on_refused),
        ):
            yield

    def live(self) -> dict[str, GatewayState]:
        """The states behind the views that the data plane serves from."""
        assert self.views is not None
        return {view.id: view.state for view in self.views.directory.views()}


def heard(exchange: Exchange, *, authenticated: bool) -> Heard:
    version = exchange.view.version if exchange.view is not None else 0
    return Heard(exchange.trace_id, exchange.reply_status, version, authenticated)


def token(tenant: str, secret: str = SECRET) -> str:
    """A console token of one tenant."""
    claims = {"tenant_id": tenant, "sub": "harness", "exp": int(time.time()) + 86_400}
    return jwt.encode(claims, secret, algorithm="HS256")


class Answer(msgspec.Struct, frozen=True):
    """What a client got: `whole` is False when the connection ended early."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body) if self.body else None


async def send(
    port: int, method: str, path: str, headers: Mapping[str, str], body: bytes, *, manners: str = "good"
) -> Answer | None:
    """One HTTP/1.1 request on a connection of its own, and its answer.

    `manners`: `good`; `leaves` hangs up right after sending; `leaves-midway` after the first bytes of the answer;
    `half-request` sends a part of the body and hangs up. None where no answer was waited for, or none came.
    """
    lines = [f"{method} {path} HTTP/1.1", "Host: harness", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode()
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        received = bytearray()
        try:
            if manners == "half-request":
                await stream.send_all(head + body[: len(body) // 2])
                return None
            await stream.send_all(head + body)
            if manners == "leaves":
                return None
            while len(received) < READ_BOUND:
                data = await stream.receive_some(65536)
                if not data:
                    break
                received += data
                if manners == "leaves-midway":
                    return None
        except trio.BrokenResourceError:
            pass
    return parse(bytes(received))


def parse(data: bytes) -> Answer | None:
    head, separator, rest = data.partition(b"\r\n\r\n")
    if not separator:
        return None
    first, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    if headers.get("transfer-encoding") == "chunked":
        body, whole = dechunk(rest)
    else:
        length = int(headers.get("content-length", len(rest)))
        body, whole = rest[:length], len(rest) == length
    return Answer(int(first.split(" ")[1]), headers, body, whole)


def dechunk(data: bytes) -> tuple[bytes, bool]:
    parts_: list[bytes] = []
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return b"".join(parts_), True
        if len(data) < length + 2:
            break
        parts_.append(data[:length])
        data = data[length + 2 :]
    return b"".join(parts_), False


@contextlib.contextmanager
def data_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="trustgate-harness-") as name:
        yield Path(name)
