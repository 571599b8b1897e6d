"""The feed's gRPC server (spec 06 §17.2): `Sync` and `GetSnapshot` on an asyncio loop in a thread of its own.

What lives here: the two calls, authentication of callers, the listener and its TLS. What must not: compiling
(`compiled`, `dispatcher`), the table of connections (`connections`).

Everything that is served hangs on one immutable `Publication`, which the dispatcher replaces: a call that began with
one ends with it.
"""

from __future__ import annotations

import asyncio
import pathlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn, cast

import grpc
import grpc.aio
import msgspec
import structlog

from trustgate.sync import messages as wire
from trustgate.sync.address import Address
from trustgate.sync.compiled import MAX_SNAPSHOT_BYTES, Publication, Snapshot
from trustgate.sync.loop import LoopThread, running
from trustgate.sync.protobuf import Malformed
from trustgate.sync.tokens import Tokens, Unauthenticated

NO_SNAPSHOT = "no snapshot available yet"
NO_HELLO = "first Sync message must be Hello"
TOO_LARGE = "snapshot is too large"
DRAINING = "the control plane is shutting down"
MAX_NAME = 255
"""Characters of an instance id or version that are remembered."""

MAX_MESSAGE_BYTES = 1 << 16
"""Of a caller's message: an id and a version."""

DRAIN_S = 5.0
"""What snapshots that are being served get at the end."""

REREAD_S = 60.0

log = structlog.get_logger("trustgate.sync")

Told = Callable[[str, str, str, str], None]
"""Told of a connection's scope, instance, state (`connected`, `ack`, `disconnected`) and applied version; from the
loop's thread, must not wait."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    address: Address
    tokens: Tokens
    tls_cert: str = ""
    tls_key: str = ""
    keepalive_time_s: float = 30.0
    keepalive_timeout_s: float = 10.0

    def options(self) -> list[tuple[str, int]]:
        time_ms, timeout_ms = round(self.keepalive_time_s * 1000), round(self.keepalive_timeout_s * 1000)
        return [
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", time_ms),
            ("grpc.keepalive_timeout_ms", timeout_ms),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", time_ms // 2),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ]


class CannotListen(Exception):
    """The address is taken, or not of this machine."""


class Board:
    """What is served now, and who waits for news of it. Belongs to the loop's thread."""

    def __init__(self) -> None:
        self.publication: Publication | None = None
        self.news = asyncio.Event()
        """Set by the next publication."""

    def publish(self, publication: Publication) -> None:
        self.publication = publication
        self.news.set()
        self.news = asyncio.Event()

    def of(self, scope: str) -> Snapshot | None:
        return None if self.publication is None else self.publication.of(scope)


class Service:
    """The two calls."""

    def __init__(self, tokens: Tokens, board: Board, told: Told, closing: asyncio.Event) -> None:
        self._tokens = tokens
        self._board = board
        self._told = told
        self._closing = closing

    def handlers(self) -> grpc.GenericRpcHandler:
        service, _, sync = wire.SYNC[1:].partition("/")
        found = {
            sync: grpc.stream_stream_rpc_method_handler(cast("Any", self.sync)),
            wire.GET_SNAPSHOT.rpartition("/")[2]: grpc.unary_stream_rpc_method_handler(cast("Any", self.get_snapshot)),
        }
        return grpc.method_handlers_generic_handler(service, found)

    async def _scope(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> str:
        sent = [
            value if isinstance(value, str) else value.decode("latin-1")
            for name, value in context.invocation_metadata() or ()
            if name == "authorization"
        ]
        try:
            return self._tokens.scope(sent)
        except Unauthenticated as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))

    async def get_snapshot(self, data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        """A header, and the bytes where the caller has another version."""
        scope = await self._scope(context)
        try:
            request = wire.read_snapshot_request(data)
        except Malformed as error:
            await invalid(context, str(error))
        snapshot = self._board.of(scope)
        if snapshot is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, NO_SNAPSHOT)
        if request.applied_version == snapshot.version:
            await context.write(wire.header_chunk(wire.Header(snapshot.version, not_modified=True)))
            return
        if snapshot.total_bytes > MAX_SNAPSHOT_BYTES:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, TOO_LARGE)
        await context.write(wire.header_chunk(wire.Header(snapshot.version, total_bytes=snapshot.total_bytes)))
        for chunk in snapshot.chunks():
            await context.write(wire.data_chunk(chunk))

    async def sync(self, requests: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        """Notices until the caller leaves or the server ends."""
        scope = await self._scope(context)
        hello = await self._hello(context)
        instance = hello.instance_id[:MAX_NAME]
        log.info("data plane connected", instance_id=instance, scope=scope, version=hello.last_applied_version)
        self._told(scope, instance, "connected", hello.last_applied_version[:MAX_NAME])
        listening = asyncio.create_task(self._listen(scope, instance, context))
        telling = asyncio.create_task(self._tell(scope, hello.last_applied_version, context))
        closing = asyncio.create_task(self._closing.wait())
        try:
            done, _ = await asyncio.wait((listening, telling, closing), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if closing in done:
                await context.abort(grpc.StatusCode.UNAVAILABLE, DRAINING)
        except Malformed as error:
            await invalid(context, str(error))
        except (grpc.aio.UsageError, grpc.aio.InternalError) as error:
            log.debug("a data plane left while it was written to", instance_id=instance, error=str(error))
        finally:
            for task in (listening, telling, closing):
                task.cancel()
            await asyncio.gather(listening, telling, closing, return_exceptions=True)
            log.info("data plane disconnected", instance_id=instance, scope=scope)
            self._told(scope, instance, "disconnected", "")

    async def _hello(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> wire.Hello:
        reading = asyncio.ensure_future(context.read())
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait((reading, closing), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await context.abort(grpc.StatusCode.UNAVAILABLE, DRAINING)
            data = reading.result()
        finally:
            reading.cancel()
            closing.cancel()
        try:
            first = wire.read_client_message(data) if isinstance(data, bytes) else None
        except Malformed:
            first = None
        if not isinstance(first, wire.Hello):
            await invalid(context, NO_HELLO)
        return first

    async def _listen(self, scope: str, instance: str, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        """Acknowledgements until the caller ends its side. Raises Malformed."""
        while isinstance(data := await context.read(), bytes):
            message = wire.read_client_message(data)
            if isinstance(message, wire.Ack):
                self._told(scope, instance, "ack", message.applied_version[:MAX_NAME])

    async def _tell(self, scope: str, known: str, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        """A notice for every version that is the newest when it can be written."""
        while True:
            news = self._board.news
            snapshot = self._board.of(scope)
            if snapshot is not None and snapshot.version != known:
                known = snapshot.version
                await context.write(wire.notice(known))
            else:
                await news.wait()


async def invalid(context: grpc.aio.ServicerContext[bytes, bytes], message: str) -> NoReturn:
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)


class Certificate:
    """The listener's certificate, read again at most once in `REREAD_S`; a bad file keeps the one before."""

    def __init__(self, cert: str, key: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._cert, self._key = pathlib.Path(cert), pathlib.Path(key)
        self._clock = clock
        self._read_at = clock()
        self._pair = self._read()

    def _read(self) -> tuple[bytes, bytes]:
        return self._key.read_bytes(), self._cert.read_bytes()

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([self._pair])

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """On a handshake: the new certificate, or None where the known one stays."""
        now = self._clock()
        if now - self._read_at < REREAD_S:
            return None
        self._read_at = now
        try:
            pair = self._read()
            if pair == self._pair:
                return None
            check_pair(*pair)
        except (OSError, ValueError) as error:
            log.warning("the feed's certificate cannot be read again, the old one stays", error=str(error))
            return None
        self._pair = pair
        log.info("the feed's certificate was renewed")
        return self.configuration()


def check_pair(key: bytes, chain: bytes) -> None:
    """Raise ValueError unless the private key belongs to the first certificate of the chain."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificates

    try:
        private = load_pem_private_key(key, None)
    except TypeError as error:
        raise ValueError("the key is encrypted") from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    leaf = load_pem_x509_certificates(chain)[0]
    if private.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise ValueError("the key does not belong to the certificate")


def bind(server: grpc.aio.Server, config: ServerConfig) -> int:
    """The port that is bound. Raises CannotListen, OSError and ValueError for certificates."""
    credentials = None
    if config.tls_cert:
        certificate = Certificate(config.tls_cert, config.tls_key)
        check_pair(*certificate._pair)
        credentials = grpc.dynamic_ssl_server_credentials(certificate.configuration(), cast("Any", certificate.renewed))
    for target in config.address.targets():
        try:
            if credentials is not None:
                port = server.add_secure_port(target, credentials)
            else:
                port = server.add_insecure_port(target)
        except RuntimeError:
            continue
        if port:
            return port
    raise CannotListen(f"{config.address.host}:{config.address.port} is taken, or no address of this machine")


class Feed:
    """A running server as Trio sees it. `publish` may be called from the Trio thread."""

    def __init__(self, thread: LoopThread, board: Board, closing: asyncio.Event, port: int) -> None:
        self._thread, self._board, self._closing = thread, board, closing
        self.port = port

    def publish(self, publication: Publication) -> None:
        self._thread.tell(self._board.publish, publication)

    def close(self) -> None:
        """End all `Sync` calls with UNAVAILABLE; data planes connect elsewhere or again."""
        self._thread.tell(self._closing.set)


@asynccontextmanager
async def serving(config: ServerConfig, told: Told) -> AsyncIterator[Feed]:
    """The server, for the time of the block. Raises CannotListen, OSError, ValueError."""
    parts: list[tuple[Board, asyncio.Event, int]] = []

    async def main(thread: LoopThread, started: Callable[[], None], stop: asyncio.Event) -> None:
        board, closing = Board(), asyncio.Event()
        server = grpc.aio.server(options=config.options())
        server.add_generic_rpc_handlers((Service(config.tokens, board, told, closing).handlers(),))
        port = bind(server, config)
        await server.start()
        parts.append((board, closing, port))
        started()
        await stop.wait()
        closing.set()
        await server.stop(DRAIN_S)

    async with running("trustgate-feed", main) as thread:
        yield Feed(thread, *parts[0])
