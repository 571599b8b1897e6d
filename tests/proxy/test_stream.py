"""A stream whose head is held back: whatever goes wrong while it is read ahead is the request's own trouble."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from trustgate.formats.canonical import Observed
from trustgate.proxy.stream import open_stream


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
