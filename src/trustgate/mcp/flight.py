"""Single flight: of everybody who wants the same piece of work at one moment, one does it and all get the outcome.

The work runs in a nursery of its own, so that a client that leaves takes nothing away from the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog
import trio

from trustgate.mcp.errors import HttpFailure, RpcFailure
from trustgate.mcp.jsonrpc import INTERNAL_ERROR

T = TypeVar("T")
Failure = RpcFailure | HttpFailure

log = structlog.get_logger(__name__)


class _Flight(Generic[T]):
    __slots__ = ("done", "failure", "value")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.value: T | None = None
        self.failure: Failure | None = None


class Flights(Generic[T]):
    """Work in progress by key."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._flying: dict[Hashable, _Flight[T]] = {}

    async def join(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The outcome of `work`, started unless it is under way. Raises its RpcFailure or HttpFailure."""
        flight = self._flying.get(key)
        if flight is None:
            flight = self._flying[key] = _Flight[T]()
            self._nursery.start_soon(self._fly, key, flight, work)
        await flight.done.wait()
        failure = flight.failure
        if isinstance(failure, RpcFailure):
            raise failure.again()
        if failure is not None:
            raise HttpFailure(failure.status, failure.text, challenge=failure.challenge)
        assert flight.value is not None, "a flight ends with a value or a failure"
        return flight.value

    async def _fly(self, key: Hashable, flight: _Flight[T], work: Callable[[], Awaitable[T]]) -> None:
        flight.failure = RpcFailure(INTERNAL_ERROR, "internal error")  # what stays when the process goes down
        try:
            flight.value = await work()
            flight.failure = None
        except (RpcFailure, HttpFailure) as failure:
            flight.failure = failure
        except Exception:  # a bug must not take the nursery down, with every other flight in it
            log.exception("work for several clients failed unexpectedly")
        finally:
            self._flying.pop(key, None)
            flight.done.set()
