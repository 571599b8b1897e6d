"""A streamed answer: from the upstream's bytes to the client's events (spec 02 §9).

What lives here: holding the head until the first content, the pump, and the error event when the upstream breaks. What
must not: dialects (the relay of `formats` knows them).

Until content has been sent another upstream may still serve, so the head waits for it; but no longer than `HOLD_S`
after the first event, because models that think fall silent for long.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from trustgate.formats.canonical import UpstreamError
from trustgate.formats.errors import LineTooLong
from trustgate.policies.holdback import HoldBack
from trustgate.policies.model import Outcome
from trustgate.providers.errors import StreamBroken
from trustgate.providers.prepare import Prepared
from trustgate.proxy.exchange import Exchange, Write
from trustgate.proxy.services import ProxyServices
from trustgate.wire.client import Response
from trustgate.wire.errors import TimedOut, WireError

log = structlog.get_logger(__name__)

HOLD_S = 1.0
MAX_HELD_BYTES = 64 * 1024
MAX_KEPT_BYTES = 8 * 1024 * 1024

BROKEN = (WireError, StreamBroken, LineTooLong)


class ErrorFirst(StreamBroken):
    """The stream began with an error event; `events` are the client's bytes of it, should no other upstream serve."""

    events = b""


class StreamRefused(Exception):
    """A policy ended the stream while it flowed."""


class _Reader:
    """Reads ahead in a task of its own while the head is held. Mutable; ends at content, trouble or `stop`."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.stop = False
        self.error: BaseException | None = None
        self.scope = trio.CancelScope()


class OpenStream:
    """An upstream stream whose first event has arrived. Use as a Reply's `stream`; `aclose` when it is not sent.

    Chunks are asked for one by one: an asynchronous generator that is left before its end is finalised by Trio in a
    task of its own, which costs more than a chunk.
    """

    def __init__(self, exchange: Exchange, prepared: Prepared, response: Response) -> None:
        self._exchange = exchange
        self._response = response
        self._chunks = response.chunks() if response.encoded else None
        self.relay = prepared.relay()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._kept: list[bytes] = []
        self._keep_left = MAX_KEPT_BYTES if exchange.collect else 0
        self._ended = False
        self._reader: _Reader | None = None
        self._on_close: list[Callable[[], None]] = []
        self.gates: list[HoldBack] = []
        """Policies that inspect what flows; what they hold back reaches nobody yet."""
        self._refusal: Outcome | None = None

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call it once when the upstream's part is over, however it ended."""
        self._on_close.append(callback)

    async def first(self, deadline_s: float, background: trio.Nursery) -> None:
        """Wait for the first content. Raises WireError or StreamBroken when the upstream fails before it."""
        while self._response.waiting and not self._held:  # came with the head: no need for a deadline
            if not await self._read_one():
                break
        if not self._held and not self._ended:
            with trio.move_on_after(deadline_s) as scope:
                while not self._held and await self._read_one():
                    pass
            if scope.cancelled_caught:
                raise TimedOut("first_byte")
        if self._has_content():
            self.relay.stop_collecting()
            return
        reader = self._reader = _Reader()
        background.start_soon(self._read_ahead, reader)
        with trio.move_on_after(HOLD_S):
            await reader.over.wait()
            self._reader = None
            if reader.error is not None:
                raise reader.error

    def _has_content(self) -> bool:
        """Whether what is held must reach the client now. Raises ErrorFirst for an error that came first."""
        relay = self.relay
        if relay.error is not None and not relay.has_text:
            raise ErrorFirst(relay.error.message)
        return (
            bool(self._ended or relay.done or relay.observed.finish_reason or relay.has_text)
            or self._held_bytes >= MAX_HELD_BYTES
        )

    async def _read_one(self) -> bool:
        """Take one chunk of the upstream; False at its end."""
        chunk = await self._next()
        if not chunk:
            self._ended = True
            return False
        out = self.relay.feed(chunk)
        if out:
            self._held.append(out)
            self._held_bytes += len(out)
        return not self.relay.done

    async def _next(self) -> bytes:
        """The upstream's next bytes; empty at its end."""
        return await self._response.next_chunk() if self._chunks is None else await anext(self._chunks, b"")

    async def _read_ahead(self, reader: _Reader) -> None:
        try:
            with reader.scope:
                while not reader.stop and not self._has_content():
                    await self._read_one()
        except Exception as error:  # whatever it is, it is the request's, and must not end its neighbours
            reader.error = error
        finally:
            reader.over.set()

    async def __call__(self, write: Write) -> bytes:
        """Write everything to the client but the last bytes, which are returned so that they leave with the end.

        The upstream is closed whatever happens.
        """
        relay, out = self.relay, b""
        try:
            await self._write_held(write)
            if self._reader is not None:
                await self._join(self._reader, write)
            relay.stop_collecting()
            while not self._ended and not relay.done:
                if out:
                    await self._write(write, out)
                    out = b""
                if chunk := await self._next():
                    out = relay.feed(chunk)
                else:
                    self._ended = True
            return self._keep(await self._passed(out + relay.end(), last=True))
        except BROKEN as error:
            log.warning("upstream stream terminated unexpectedly", error=type(error).__name__)
            self._exchange.aborted = True
            return self._keep(await self._passed(out + relay.fail(), last=True))
        except StreamRefused:
            return self._keep(self._refused())
        except BaseException:
            self._exchange.aborted = True
            raise
        finally:
            self._account()
            await self.aclose()

    async def _join(self, reader: _Reader, write: Write) -> None:
        """Take over from the reader: it ends with the chunk it waits for."""
        reader.stop = True
        await reader.over.wait()
        self._reader = None
        await self._write_held(write)
        if reader.error is not None and not isinstance(reader.error, ErrorFirst):
            raise reader.error

    async def _write_held(self, write: Write) -> None:
        if self._held:
            held, self._held = b"".join(self._held), []
            await self._write(write, held)

    async def _write(self, write: Write, data: bytes) -> None:
        if self.gates:
            data = await self._passed(data)
        if data:
            await write(self._keep(data))
        if self._refusal is not None:
            raise StreamRefused

    async def _passed(self, data: bytes, *, last: bool = False) -> bytes:
        """What the gates let through; with the refusal behind it, should one of them end the stream at its `last`."""
        ending = last
        for gate in self.gates:
            data = await gate.feed(data) + (await gate.end() if ending else b"")
            if gate.outcome is not None:
                self._refusal, ending = gate.outcome, True
        return data + self._refused() if last and self._refusal is not None else data

    def _refused(self) -> bytes:
        """The error event of the client's dialect that ends a stream which a policy refuses."""
        assert self._refusal is not None
        exchange, refusal = self._exchange, self._refusal
        exchange.aborted = True
        exchange.error_code, exchange.error_message = refusal.type or "plugin_rejected", refusal.message
        return self.relay.refuse(UpstreamError(refusal.message, exchange.error_code))

    def _keep(self, data: bytes) -> bytes:
        """What goes to the client, as late policies and telemetry will read it."""
        if self._keep_left:
            if len(data) > self._keep_left:  # over the bound: late policies get usage only
                self._exchange.overflowed = True
                self._keep_left = 0
                self._kept.clear()
            else:
                self._keep_left -= len(data)
                self._kept.append(data)
        return data

    def _account(self) -> None:
        """What was seen counts, also when the client left."""
        exchange, observed = self._exchange, self.relay.observed
        exchange.usage, exchange.provider_model = observed.usage, observed.model
        exchange.finish_reason, exchange.turn_id = observed.finish_reason, observed.id
        exchange.reply_body = b"".join(self._kept)

    def told(self) -> bytes:
        """What is held, ended as the client's dialect ends a stream."""
        held, self._held = b"".join(self._held), []
        return held + self.relay.end()

    async def aclose(self) -> None:
        callbacks, self._on_close = self._on_close, []
        for callback in callbacks:
            callback()
        if self._reader is not None:
            self._reader.scope.cancel()
            with trio.CancelScope(shield=True):
                await self._reader.over.wait()
            self._reader = None
        self._response.close()


async def open_stream(
    exchange: Exchange, prepared: Prepared, response: Response, services: ProxyServices
) -> OpenStream:
    """The stream with its first content held back. Raises WireError or StreamBroken; the response is then closed."""
    stream = OpenStream(exchange, prepared, response)
    try:
        await stream.first(services.config.first_event_timeout_s, services.background)
    except ErrorFirst as error:
        error.events = stream.told()
        await stream.aclose()
        raise
    except BaseException:
        await stream.aclose()
        raise
    return stream
