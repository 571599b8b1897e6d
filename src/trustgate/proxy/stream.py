"""A streamed answer: from the upstream's bytes to the client's events (spec 02 §9).

What lives here: holding the head until the first event, the pump, and the error event when the upstream breaks. What
must not: dialects (the relay of `formats` knows them).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import structlog
import trio

from trustgate.formats.streams import LineTooLong
from trustgate.providers.errors import StreamBroken
from trustgate.providers.prepare import Prepared
from trustgate.proxy.exchange import Exchange, Write
from trustgate.proxy.services import ProxyServices
from trustgate.wire.client import Response
from trustgate.wire.errors import TimedOut, WireError

log = structlog.get_logger(__name__)

MAX_KEPT_BYTES = 8 * 1024 * 1024


class OpenStream:
    """An upstream stream whose first event has arrived. Use as a Reply's `stream`; `aclose` when it is not sent."""

    def __init__(self, exchange: Exchange, prepared: Prepared, response: Response) -> None:
        self._exchange = exchange
        self._response = response
        self._chunks: AsyncIterator[bytes] = response.chunks()
        self.relay = prepared.relay()
        self._held: list[bytes] = []
        self._kept: list[bytes] = []
        self._keep_left = MAX_KEPT_BYTES if exchange.collect else 0
        self._ended = False
        self._on_close: list[Callable[[], None]] = []

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call it once when the upstream's part is over, however it ended."""
        self._on_close.append(callback)

    async def first(self, deadline_s: float) -> None:
        """Wait for the first event. Raises WireError or StreamBroken when the upstream fails before it."""
        with trio.move_on_after(deadline_s) as scope:
            held = 0
            while not held:
                chunk = await anext(self._chunks, None)
                if chunk is None:
                    self._ended = True
                    break
                out = self.relay.feed(chunk)
                if out:
                    self._held.append(out)
                    held += len(out)
                if self.relay.done:
                    break
        if scope.cancelled_caught:
            raise TimedOut("first_byte")

    async def __call__(self, write: Write) -> None:
        """Write everything to the client; the upstream is closed whatever happens."""
        relay = self.relay
        try:
            if self._held:
                await self._write(write, b"".join(self._held))
            if not self._ended and not relay.done:
                async for chunk in self._chunks:
                    out = relay.feed(chunk)
                    if out:
                        await self._write(write, out)
                    if relay.done:
                        break
            tail = relay.end()
            if tail:
                await self._write(write, tail)
        except (WireError, StreamBroken, LineTooLong) as error:
            log.warning("upstream stream terminated unexpectedly", error=type(error).__name__)
            self._exchange.aborted = True
            await self._write(write, relay.fail())
        except BaseException:
            self._exchange.aborted = True
            raise
        finally:
            self._account()
            await self.aclose()

    async def _write(self, write: Write, data: bytes) -> None:
        if self._keep_left:
            if len(data) > self._keep_left:  # over the bound: late policies get usage only
                self._exchange.aborted = True
                self._keep_left = 0
                self._kept.clear()
            else:
                self._keep_left -= len(data)
                self._kept.append(data)
        await write(data)

    def _account(self) -> None:
        """What was seen counts, also when the client left."""
        exchange, observed = self._exchange, self.relay.observed
        exchange.usage, exchange.provider_model = observed.usage, observed.model
        exchange.finish_reason, exchange.turn_id = observed.finish_reason, observed.id
        exchange.reply_body = b"".join(self._kept)

    async def aclose(self) -> None:
        callbacks, self._on_close = self._on_close, []
        for callback in callbacks:
            callback()
        with trio.CancelScope(shield=True):
            await self._response.aclose()


async def open_stream(
    exchange: Exchange, prepared: Prepared, response: Response, services: ProxyServices
) -> OpenStream:
    """The stream with its first event held back. Raises WireError or StreamBroken; the response is then closed."""
    stream = OpenStream(exchange, prepared, response)
    try:
        await stream.first(services.config.first_event_timeout_s)
    except BaseException:
        await stream.aclose()
        raise
    return stream
