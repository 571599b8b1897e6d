"""What hears of finished requests: playground traces and, where telemetry is on, the event pipeline."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from trustgate.app.parts import Parts
from trustgate.proxy.exchange import Exchange


class QuietObserver:
    """Nobody listens."""

    def finished(self, exchange: Exchange) -> None:
        return None

    def refused(self, exchange: Exchange) -> None:
        return None

    def wants_body(self, exchange: Exchange) -> bool:
        return False


@asynccontextmanager
async def open_observer(parts: Parts) -> AsyncIterator[QuietObserver]:
    yield QuietObserver()
