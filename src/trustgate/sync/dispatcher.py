"""When snapshots are compiled (spec 06 §17.3): at once for a lone change, once for a burst, and now and then anyway.

What lives here: the control plane's side of the feed in Trio: it is told of every new view of a gateway and publishes.
What must not: transport (`server`), the making of snapshots (`compiled`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog
import trio

from trustgate.providers.catalog import Models
from trustgate.sync.compiled import Broken, Compiler, Publication, changed, statistics
from trustgate.view.gateway import GatewayView

log = structlog.get_logger("trustgate.sync")


class Dispatcher:
    """A watcher of views. Single owner of what is published: the task `run`."""

    def __init__(
        self,
        publish: Callable[[Publication], None],
        models: Callable[[], Models],
        gone: Callable[[], Iterable[str]],
        *,
        debounce_s: float,
        backstop_s: float,
    ) -> None:
        """`gone`: ids of the gateways that the log knows as deleted."""
        self._publish = publish
        self._models = models
        self._gone = gone
        self._debounce_s, self._backstop_s = debounce_s, backstop_s
        self._views: dict[str, GatewayView] = {}
        self._compiler = Compiler()
        self._signal = trio.Event()
        self.publication: Publication | None = None

    # What changed; called from the Trio thread, never waits.

    def update(self, view: GatewayView) -> None:
        self._views[view.id] = view
        self.signal()

    def forget(self, gateway_id: str) -> None:
        self._views.pop(gateway_id, None)
        self.signal()

    def signal(self) -> None:
        """Something that belongs into snapshots has changed."""
        self._signal.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Compile, report started, and go on until cancelled."""
        self._signal = trio.Event()
        await self._compile()
        task_status.started()
        last = trio.current_time()
        while True:
            with trio.move_on_after(self._backstop_s) as backstop:
                await self._signal.wait()
                # The first change after a quiet time does not wait; those that follow it share the next compilation.
                await trio.sleep_until(last + self._debounce_s)
            if backstop.cancelled_caught:
                self._compiler.forget()
            self._signal = trio.Event()
            await self._compile()
            last = trio.current_time()

    async def _compile(self) -> None:
        views, models, gone = list(self._views.values()), self._models(), list(self._gone())
        try:
            publication = await trio.to_thread.run_sync(self._compiler.compile, views, models, gone)
        except Broken as error:
            log.error("no snapshot is published, the one before stays", error=str(error))
            return
        except Exception as error:
            log.exception("a snapshot could not be compiled, the one before stays", error=str(error))
            return
        if changed(self.publication, publication):
            log.info("snapshot published", **statistics(publication))
            self.publication = publication
            self._publish(publication)
