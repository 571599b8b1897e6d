"""A stream before its first byte: what goes wrong then is the request's own trouble, and the upstream is let go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from trustgate.formats.canonical import Observed
from trustgate.proxy.attempts import judged
from trustgate.proxy.call import Result
from trustgate.proxy.stream import OpenStream, open_stream


class Relay:
    """Tells of no content, and fails at its second chunk in a way that nobody foresaw."""

    has_text = done = False
    error = None
    observed = Observed()

    def __init__(self) -> None:
        self.fed = 0

    def feed(self, chunk: bytes) -> bytes:
        self.fed += 1
        if self.fed > 1:
            raise RuntimeError("a mistake of ours")
        return chunk


class Response:
    encoded = waiting = False
    closed = 0

    async def next_chunk(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"data: {}\n\n"

    def close(self) -> None:
        self.closed += 1


async def test_a_mistake_while_reading_ahead_ends_its_request_and_not_its_neighbours() -> None:
    response, relay = Response(), Relay()
    exchange, prepared = SimpleNamespace(collect=False), SimpleNamespace(relay=lambda: relay)
    async with trio.open_nursery() as background:
        services = SimpleNamespace(config=SimpleNamespace(first_event_timeout_s=5.0), background=background)
        with pytest.raises(RuntimeError):
            await open_stream(*cast("tuple[Any, Any, Any, Any]", (exchange, prepared, response, services)))
        await trio.lowlevel.checkpoint()
        assert not background.cancel_scope.cancel_called
    assert response.closed == 1


async def test_a_stream_that_is_not_accepted_is_closed_also_when_the_client_leaves_meanwhile() -> None:
    response = Response()
    exchange, prepared = SimpleNamespace(collect=False), SimpleNamespace(relay=Relay)
    stream = OpenStream(*cast("tuple[Any, Any, Any]", (exchange, prepared, response)))
    over: list[str] = []
    stream.on_close(lambda: over.append("over"))
    result = Result(verdict="success", status=200, stream=stream)

    async def asks_for_ever(result: Result) -> Result:
        await trio.sleep_forever()
        raise AssertionError

    with trio.move_on_after(0):
        await judged(result, asks_for_ever)
    assert (over, response.closed) == (["over"], 1)
