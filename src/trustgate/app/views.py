"""From states to views: what a data plane does with each gateway that changed, and who else wants to know."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from trustgate.domain.entities import GatewayState
from trustgate.view.gateway import Directory, GatewayView

CatchUp = Callable[[], Awaitable[None]]
"""Bring the directory up to date before a miss is believed."""


class Watcher(Protocol):
    """Told of every new view, synchronously; must not raise or wait."""

    def update(self, view: GatewayView) -> None: ...

    def forget(self, gateway_id: str) -> None: ...


class Views:
    """Owner of the directory; `on_state` is the follower's callback."""

    def __init__(self) -> None:
        self.directory = Directory()
        self.reveal: Callable[[str], str] | None = None
        """How secrets are had in clear; set by the follower's owner before the first state."""
        self._watchers: list[Watcher] = []

    def watch(self, watcher: Watcher) -> None:
        """Tell it of all views there are, and of every later change."""
        self._watchers.append(watcher)
        for view in self.directory.views():
            watcher.update(view)

    def on_state(self, gateway_id: str, state: GatewayState | None, position: int) -> None:
        assert self.reveal is not None, "the follower's owner sets it"
        if state is None:
            self.directory.remove(gateway_id)
            for watcher in self._watchers:
                watcher.forget(gateway_id)
        else:
            view = GatewayView(state, self.reveal)
            self.directory.put(view)
            for watcher in self._watchers:
                watcher.update(view)
        self.directory.position = position
