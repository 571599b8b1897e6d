"""`GET /metrics`: the listeners, one per plane, and gathering what worker processes have counted.

What lives here: who listens where, and the Unix socket on which a supervisor asks its workers. What must not: what is
counted (`telemetry.metrics`).

A worker that ends leaves its counts behind: it sends them before it goes, and of one that crashed the last scrape's are
kept, so that sums never go backwards.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import msgspec
import structlog
import trio

from trustgate.app import listeners
from trustgate.limits.remote import listen, read_frame, write_frame
from trustgate.settings import ConfigurationError, Settings
from trustgate.telemetry.instruments import Family, added, counted, exposition
from trustgate.telemetry.metrics import Metrics
from trustgate.wire.server import Server, ServerConfig
from trustgate.wire.sockets import listening

PORT_OFFSET = 1010
MAX_PORT = 65535
ANSWER_S = 1.0
"""How long a scrape waits for a worker; one that is busier than that is shown as of its last answer."""

TEXT = [(b"content-type", b"text/plain; charset=utf-8")]

log = structlog.get_logger("trustgate.app")

Gather = Callable[[], Awaitable[list[Family]]]

_families = msgspec.msgpack.Decoder(list[Family])


class Place(msgspec.Struct, frozen=True):
    """One listener: a `host` of `*` or nothing is every interface, an empty `plane` all metrics of the process."""

    host: str
    port: int
    plane: str


def places(settings: Settings, planes: frozenset[str]) -> list[Place]:
    """Where metrics of these planes are served: the operators' port where it is asked for, and one port per plane."""
    metrics, server = settings.metrics, settings.server
    found: list[Place] = []
    if metrics.ops_enabled:
        found.append(Place(metrics.ops_bind, metrics.ops_port, ""))
    if metrics.enabled and metrics.port:
        found.append(Place(metrics.bind, metrics.port, ""))
    elif metrics.enabled:
        ports = {"admin": server.admin_port, "proxy": server.proxy_port, "mcp": server.mcp_port}
        for plane, port in ports.items():
            if plane in planes:
                found.append(Place(metrics.bind, offset(port), plane))
    return found


def offset(port: int) -> int:
    """The metrics port of a plane; any free one where its own is free to be chosen, or too high for the offset."""
    return port + PORT_OFFSET if 0 < port <= MAX_PORT - PORT_OFFSET else 0


async def serve_metrics(places_: Sequence[Place], gather: Gather, stop: trio.Event) -> None:
    """Serve every place until `stop`. A place that cannot be had is a warning: no plane depends on being watched."""
    async with trio.open_nursery() as nursery:
        for place in places_:
            try:
                sockets = listeners.bind_to(place.host, place.port)
            except (OSError, ConfigurationError) as error:
                log.warning(
                    "metrics are not served", port=place.port, error=getattr(error, "strerror", "") or str(error)
                )
                continue
            nursery.start_soon(_serve, sockets, MetricsApp(gather, place.plane))
            host = "" if place.host == "*" else place.host
            log.info("metrics are served", addr=host + listeners.address(sockets), plane=place.plane or "all")
        await stop.wait()
        nursery.cancel_scope.cancel()


async def _serve(sockets: list[Any], app: MetricsApp) -> None:
    server = Server(app, ServerConfig(max_connections=64, max_body_bytes=1024, drain_timeout_s=1.0))
    await server.serve(listening(sockets, 64))


class MetricsApp:
    """Answers `GET /metrics` of one plane (all planes where `plane` is empty); everything else is 404 or 405."""

    def __init__(self, gather: Gather, plane: str) -> None:
        self._gather, self._plane = gather, plane

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        status, headers, body = 404, TEXT, b"Not Found"
        if scope["path"] == "/metrics":
            if scope["method"] in ("GET", "HEAD"):
                accept = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"), "")
                body, kind = exposition(await self._gather(), self._plane, accept)
                status, headers = 200, [(b"content-type", kind.encode())]
            else:
                status, headers, body = 405, [*TEXT, (b"allow", b"GET, HEAD")], b"Method Not Allowed"
        sized = [*headers, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": sized})
        await send({"type": "http.response.body", "body": body})


# Workers


class _Worker:
    """One connected worker. `latest` is what it last told."""

    __slots__ = ("latest", "stream", "told")

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.latest: list[Family] = []
        self.told = trio.Event()


class WorkerCounts:
    """The supervisor's side. Mutable: the connected workers, and the counts of those that are gone."""

    def __init__(self) -> None:
        self._workers: set[_Worker] = set()
        self._gone: list[Family] = []

    async def serve(self, path: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take workers on the Unix socket `path` (mode 0600) until cancelled."""
        listener = listen(path)
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._hear, [listener])
            task_status.started()

    async def _hear(self, stream: trio.SocketStream) -> None:
        worker = _Worker(stream)
        self._workers.add(worker)
        try:
            while (frame := await read_frame(stream)) is not None:
                worker.latest = _families.decode(frame)
                worker.told.set()
        except (trio.BrokenResourceError, trio.ClosedResourceError, msgspec.DecodeError):
            pass  # that worker is gone; what it told last stays
        finally:
            self._workers.discard(worker)
            self._gone = added([self._gone, counted(worker.latest)])
            worker.told.set()

    async def gather(self) -> list[Family]:
        """What all workers, present and past, have counted."""
        async with trio.open_nursery() as nursery:
            for worker in tuple(self._workers):
                nursery.start_soon(self._ask, worker)
        return added([self._gone, *(worker.latest for worker in self._workers)])

    async def _ask(self, worker: _Worker) -> None:
        worker.told = trio.Event()
        with trio.move_on_after(ANSWER_S):
            try:
                await write_frame(worker.stream, "tell")
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                return
            await worker.told.wait()


async def tell_supervisor(path: str, metrics: Metrics) -> None:
    """The worker's side: answer whenever the supervisor asks, and once more at the end. Runs until cancelled."""
    while True:
        try:
            stream = await trio.open_unix_socket(path)
        except OSError:
            await trio.sleep(0.2)
            continue
        try:
            while await read_frame(stream) is not None:
                await write_frame(stream, metrics.snapshot())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.sleep(0.2)
        finally:
            with trio.move_on_after(ANSWER_S, shield=True):
                try:
                    await write_frame(stream, metrics.snapshot())
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    log.debug("the supervisor is gone before it heard the last counts")
                await stream.aclose()
