"""The data plane's side of the feed (spec 06 §17.4): pull, listen for notices, pull again, and go on trying.

What lives here: the calls, on an asyncio loop in a thread of its own; checks of length and hash. What must not: what
becomes of a snapshot (`plane`). It never ends by itself: whatever goes wrong is logged and tried again.
"""

from __future__ import annotations

import asyncio
import hashlib
import pathlib
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import msgspec
import structlog

from trustgate.sync import messages as wire
from trustgate.sync.compiled import MAX_SNAPSHOT_BYTES
from trustgate.sync.decode import Unreadable
from trustgate.sync.protobuf import Malformed

SILENCE_S = 30.0
"""How long a call may take to answer, and between two chunks."""

MAX_MESSAGE_BYTES = 16 << 20
JITTER = 0.2
POLL_JITTER = 0.1
NO_SNAPSHOT = "no snapshot available yet"
EXPECTED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)
"""Disconnects that happen in an ordinary life."""

log = structlog.get_logger("trustgate.sync")


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    endpoint: str
    token: str
    instance_id: str
    insecure: bool = False
    ca_file: str = ""
    server_name: str = ""
    keepalive_time_s: float = 30.0
    keepalive_timeout_s: float = 10.0
    min_backoff_s: float = 1.0
    max_backoff_s: float = 30.0
    poll_interval_s: float = 300.0

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),)

    def options(self) -> list[tuple[str, Any]]:
        minimum, maximum = round(self.min_backoff_s * 1000), round(self.max_backoff_s * 1000)
        found: list[tuple[str, Any]] = [
            ("grpc.keepalive_time_ms", round(self.keepalive_time_s * 1000)),
            ("grpc.keepalive_timeout_ms", round(self.keepalive_timeout_s * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", minimum),
            ("grpc.min_reconnect_backoff_ms", minimum),
            ("grpc.max_reconnect_backoff_ms", max(minimum, maximum)),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ]
        if self.server_name and not self.insecure:
            found.append(("grpc.ssl_target_name_override", self.server_name))
        return found

    def channel(self) -> grpc.aio.Channel:
        """Raises OSError when the file of authorities cannot be read."""
        if self.insecure:
            return grpc.aio.insecure_channel(self.endpoint, options=self.options())
        credentials = grpc.ssl_channel_credentials(self.authorities())
        return grpc.aio.secure_channel(self.endpoint, credentials, options=self.options())

    def authorities(self) -> bytes | None:
        """Those of `ca_file`, else the system's; None leaves it to the library."""
        path = self.ca_file or ssl.get_default_verify_paths().cafile
        return pathlib.Path(path).read_bytes() if path else None


class Status:
    """What is known of the feed. Written by the loop's thread and at the start, read by any."""

    def __init__(self) -> None:
        self.version = ""
        """Of the snapshot that is in use; empty before the first."""
        self.streaming = False
        """Whether a control plane would tell of a newer one."""
        self.confirmed = 0.0
        """When a control plane last said that this version is the newest, in epoch seconds."""

    def age_s(self, now: float) -> float:
        """For how long nobody has said that the version in use is the newest."""
        return 0.0 if self.streaming else max(0.0, now - self.confirmed)


Apply = Callable[[bytes, str], Awaitable[None]]
"""Puts the checked bytes of a version to use. Raises Unreadable."""


class Backoff:
    """Pauses that double from the first to the longest, each up to a fifth longer or shorter."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s, self._longest_s = first_s, max(first_s, longest_s)
        self._next_s = first_s

    def next(self) -> float:
        pause_s, self._next_s = self._next_s, min(self._next_s * 2, self._longest_s)
        return pause_s * random.uniform(1 - JITTER, 1 + JITTER)

    def reset(self) -> None:
        self._next_s = self._first_s


class Spoilt(Exception):
    """A snapshot that is not what its header says."""


class Client:
    """`run` is its life. All methods belong to the loop's thread."""

    def __init__(self, config: ClientConfig, status: Status, apply: Apply, confirm: Callable[[], None]) -> None:
        """`confirm` is called whenever a control plane says that the version in use is the newest."""
        self._config = config
        self._status = status
        self._apply = apply
        self._confirm = confirm
        self._pulling = asyncio.Lock()
        self._channel: grpc.aio.Channel | None = None
        self._call: Any = None
        self._unreadable = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set."""
        tasks = [asyncio.create_task(self._follow_for_ever()), asyncio.create_task(self._poll_for_ever())]
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow_for_ever(self) -> None:
        backoff = Backoff(self._config.min_backoff_s, self._config.max_backoff_s)
        while True:
            try:
                async with self._config.channel() as channel:
                    self._channel = channel
                    try:
                        if await self._pull_first(channel):
                            backoff.reset()
                        await self._follow(channel, backoff)
                    finally:
                        self._channel = None
            except Exception as error:  # whatever it is: traffic goes on, and the next attempt may succeed
                complain(error, self._config.endpoint)
            await asyncio.sleep(backoff.next())

    async def _poll_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._config.poll_interval_s * random.uniform(1 - POLL_JITTER, 1 + POLL_JITTER))
            if self._channel is None:
                continue  # whoever reconnects pulls
            try:
                await self._pull(self._channel)
            except Exception as error:
                complain(error, self._config.endpoint)

    async def _pull_first(self, channel: grpc.aio.Channel) -> bool:
        """Whether there was one; a control plane without one will tell when it has."""
        try:
            await self._pull(channel)
            return True
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or error.details() != NO_SNAPSHOT:
                raise
            log.warning("the control plane has no snapshot for this data plane yet")
            return False

    async def _follow(self, channel: grpc.aio.Channel, backoff: Backoff) -> None:
        """One `Sync` call. Raises what ends it."""
        config, status = self._config, self._status
        call = channel.stream_stream(wire.SYNC)(metadata=config.metadata)
        try:
            await call.write(wire.client_message(wire.Hello(config.instance_id, status.version)))
            self._call = call
            self._tell_streaming()
            while isinstance(data := await call.read(), bytes):
                version = wire.read_notice(data)
                backoff.reset()
                if version and version != status.version:
                    await self._pull(channel)
            if (code := await call.code()) is not grpc.StatusCode.OK:
                raise ConnectionError(f"{code.name}: {await call.details()}")
            raise ConnectionError("the control plane has ended the stream")
        finally:
            self._call = None
            self._tell_streaming()
            call.cancel()

    async def _pull(self, channel: grpc.aio.Channel) -> None:
        """Fetch what is newer than what is in use, and put it to use.

        Raises `AioRpcError`, `TimeoutError`, `Spoilt`, `Malformed`. One that cannot be read is complained of once.
        """
        async with self._pulling:
            status = self._status
            request = wire.SnapshotRequest(status.version, self._config.instance_id)
            call = channel.unary_stream(wire.GET_SNAPSHOT)(
                wire.snapshot_request(request), metadata=self._config.metadata
            )
            try:
                header = wire.read_chunk(await next_of(call))
                if not isinstance(header, wire.Header):
                    raise Spoilt("data came before the header")
                if header.not_modified:
                    self._confirmed()
                    return
                if header.version == self._unreadable:
                    return
                data = await self._received(call, header)
            finally:
                call.cancel()
            try:
                await self._apply(data, header.version)
            except Unreadable as error:
                self._unreadable = header.version
                self._tell_streaming()
                log.error("a snapshot cannot be read, the one before stays", version=header.version, error=str(error))
                return
            self._unreadable = ""
            status.version = header.version
            self._confirmed()
            log.info("snapshot applied", version=header.version, bytes=len(data))
            if self._call is not None:
                await self._call.write(wire.client_message(wire.Ack(header.version)))

    def _tell_streaming(self) -> None:
        self._status.streaming = self._call is not None and not self._unreadable

    def _confirmed(self) -> None:
        self._status.confirmed = time.time()
        self._tell_streaming()
        self._confirm()

    async def _received(self, call: Any, header: wire.Header) -> bytes:
        if header.total_bytes > MAX_SNAPSHOT_BYTES:
            raise Spoilt(f"{header.total_bytes} bytes are too many")
        data = bytearray()
        while isinstance(chunk := await next_of(call), bytes):
            part = wire.read_chunk(chunk)
            if isinstance(part, wire.Header):
                raise Spoilt("a second header came")
            data += part
            if len(data) > header.total_bytes:
                break
        if len(data) != header.total_bytes:
            raise Spoilt(f"its header announces {header.total_bytes} bytes, and {len(data)} came")
        if hashlib.sha256(data).hexdigest() != header.version:
            raise Spoilt("its hash is not its version")
        return bytes(data)


async def next_of(call: Any) -> Any:
    return await asyncio.wait_for(call.read(), SILENCE_S)


def complain(error: Exception, endpoint: str) -> None:
    """One line, with no token in it."""
    if isinstance(error, grpc.aio.AioRpcError):
        tell = log.warning if error.code() in EXPECTED else log.error
        tell("the feed is interrupted", endpoint=endpoint, code=error.code().name, error=error.details())
    elif isinstance(error, (ConnectionError, TimeoutError)):
        log.warning("the feed is interrupted", endpoint=endpoint, error=str(error) or type(error).__name__)
    elif isinstance(error, (Spoilt, Malformed, OSError)):
        log.error("the feed is interrupted", endpoint=endpoint, error=str(error))
    else:
        log.error("the feed is interrupted", endpoint=endpoint, error=str(error), exc_info=error)
