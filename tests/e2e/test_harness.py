"""A few scripts of the property harness, the same ones every time; `python -m properties.harness` looks further.

A harness that cannot fail proves nothing: each of its invariants is shown a system that breaks it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import Phase, given, settings
from properties import harness, processes, steps

from trustgate.actors import replay
from trustgate.app.views import Views
from trustgate.domain import secrets
from trustgate.domain.entities import GatewayState
from trustgate.domain.events import Event
from trustgate.identity.principal import Principal
from trustgate.policies.rate_limiter import RateLimiter
from trustgate.proxy import pipeline
from trustgate.store import tables
from trustgate.wire.client import Response


@settings(
    max_examples=10, deadline=None, derandomize=True, suppress_health_check=harness.QUIET, phases=[Phase.generate]
)
@given(steps.scripts)
def test_generated_scripts_break_no_invariant(script: list[steps.Step]) -> None:
    harness.run_script(script)


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_killed_processes_lose_and_invent_nothing(backend: str, request: pytest.FixtureRequest) -> None:
    dsn = request.getfixturevalue("postgres_database") if backend == "postgres" else ""
    assert processes.run(dsn, kills=3, seed=5)["acknowledged"] > 0


# Broken systems


def anyone() -> Any:
    """A proxy that lets everyone in with any key of the gateway."""
    known = pipeline.known_key

    def lenient(consumer: Any, headers: Any) -> Any:
        return known(consumer, headers) or Principal(subject="x", method="api_key", auth_id="x")

    return mock.patch.object(pipeline, "known_key", lenient)


def generous() -> Any:
    """A rate limiter that is off by two."""
    build = RateLimiter.__init__

    def init(self: Any, *args: Any) -> None:
        build(self, *args)
        self._limit += 2

    return mock.patch.object(RateLimiter, "__init__", init)


def leaking() -> Any:
    """Upstream connections that are never given back."""
    return mock.patch.object(Response, "close", lambda self: None)


def stale() -> Any:
    """A data plane that stops following the log."""
    follow = Views.on_state
    changes = itertools.count()

    def on_state(self: Any, gateway_id: str, state: Any, position: int) -> None:
        if next(changes) < 12:
            follow(self, gateway_id, state, position)

    return mock.patch.object(Views, "on_state", on_state)


def talkative() -> Any:
    """Events that show secrets in clear."""
    return mock.patch.object(secrets, "mask", lambda value: value)


def unlinked() -> Any:
    """A log whose events carry the hash of another event than their predecessor."""
    return mock.patch.object(tables, "link", lambda *_: "1" * 64)


def forgetful() -> Any:
    """A replay that comes to other states than the planes."""

    def evolve(state: GatewayState, event: Event) -> GatewayState:
        return msgspec.structs.replace(state, version=state.version + 1)

    return mock.patch.object(replay, "evolve", evolve)


LIMITED: list[steps.Step] = [
    steps.Write(0, "policies", 0, {"name": "p", "slug": "rate_limiter", "enabled": True,
                                   "settings": {"limit": steps.LIMIT, "window": f"{steps.WINDOW_S}s"}}, True),
    steps.Link(0, 0, "policies", 0, True),
    *[steps.Chat(0, 0, 0) for _ in range(steps.LIMIT + 1)],
]  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "script", "complaint"),
    [
        (anyone, [steps.Chat(0, 0, "garbage")], "without a valid credential"),
        (generous, LIMITED, "through a window"),
        (stale, [], "is not the fold of its log"),
        (talkative, [], "a secret in the log"),
        (unlinked, [], "does not follow its predecessor"),
        (forgetful, [], "comes to another state"),
        (leaking, [steps.Chat(0, 0, 0, True, manners="leaves-midway")], "outlive their requests"),
    ],
)
def test_the_harness_finds_what_is_broken(
    broken: Callable[[], contextlib.AbstractContextManager[Any]], script: list[steps.Step], complaint: str
) -> None:
    with broken(), pytest.raises(BaseExceptionGroup) as found:
        harness.run_script(script)
    assert complaint in "".join(str(leaf) for leaf in leaves(found.value))


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]
