"""A data plane without a database: what becomes of snapshots, from the wire or from disk (spec 06 §17.4).

What lives here: reading a snapshot, putting it to use in one step, keeping it on disk, and what `/readyz` says of it.
What must not: calls (`client`), compiling views (the callback's business).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import structlog
import trio

from trustgate.domain.entities import GatewayState
from trustgate.providers.catalog import Models
from trustgate.sync.client import Client, ClientConfig, Status
from trustgate.sync.decode import Contents, Reader, Unreadable
from trustgate.sync.lkg import Damaged, LastKnownGood
from trustgate.sync.loop import LoopThread, running

OLD_S = 24 * 3600.0

log = structlog.get_logger("trustgate.sync")

OnState = Callable[[str, GatewayState | None, int], None]


class DataPlane:
    """Owner of what is in use. `on_state(gateway_id, state, position)` is called for every gateway that changed, with
    None for one that is gone; all calls for one snapshot come without a checkpoint in between."""

    def __init__(
        self,
        kept: LastKnownGood,
        on_state: OnState,
        on_models: Callable[[Models], None],
        max_staleness_s: float | None = None,
    ) -> None:
        self.status = Status()
        self.position = 0
        """How many snapshots were put to use."""
        self._kept = kept
        self._on_state = on_state
        self._on_models = on_models
        self._max_staleness_s = max_staleness_s
        self._reader = Reader()
        self._states: dict[str, GatewayState] = {}
        self._models: Models = {}
        self._on_disk = False

    # What `/readyz` says

    def ready(self) -> bool:
        """Whether there is a snapshot, and it is not older than allowed."""
        if not self.status.version:
            return False
        return self._max_staleness_s is None or self.status.age_s(time.time()) <= self._max_staleness_s

    def shown(self) -> Mapping[str, Any]:
        """The version in use, and for how many seconds nobody has said that it is the newest; null before the first."""
        version = self.status.version
        return {"version": version or None, "age": round(self.status.age_s(time.time())) if version else None}

    # Snapshots

    def adopt(self, contents: Contents) -> None:
        """Put a snapshot to use. In the Trio thread, or before there is another."""
        self.position += 1
        before, self._states = self._states, contents.states
        for gateway_id in before.keys() - contents.states.keys():
            self._tell(gateway_id, None)
        for gateway_id, state in contents.states.items():
            if state is not before.get(gateway_id):
                self._tell(gateway_id, state)
        if contents.models is not self._models:
            self._models = contents.models
            self._on_models(contents.models)

    def _tell(self, gateway_id: str, state: GatewayState | None) -> None:
        try:
            self._on_state(gateway_id, state, self.position)
        except Exception:
            log.exception("a gateway's configuration could not be put to use", gateway_id=gateway_id)

    async def restore(self) -> None:
        """Put to use what is on disk, if it can be read."""
        try:
            kept = await trio.to_thread.run_sync(self._kept.read)
            if kept is None:
                log.info("there is no last known good snapshot", file=str(self._kept.path))
                return
            contents = await trio.to_thread.run_sync(self._reader.read, kept.data)
        except (Damaged, Unreadable, OSError) as error:
            log.warning("the last known good snapshot is not used", file=str(self._kept.path), error=str(error))
            return
        self.adopt(contents)
        self._on_disk = True
        self.status.version, self.status.confirmed = sha256(kept.data).hexdigest(), kept.written
        age_s = self.status.age_s(time.time())
        tell = log.warning if age_s > OLD_S else log.info
        tell("the last known good snapshot serves", version=self.status.version, age_s=round(age_s))

    @asynccontextmanager
    async def following(self, config: ClientConfig) -> AsyncIterator[None]:
        """Follow the control plane for the time of the block."""

        async def main(thread: LoopThread, started: Callable[[], None], stop: asyncio.Event) -> None:
            async def apply(data: bytes, version: str) -> None:
                contents = self._reader.read(data)
                await thread.in_trio(self.adopt, contents)
                self._keep(data)

            started()
            await Client(config, self.status, apply, self._keep_again).run(stop)

        async with running("trustgate-feed", main):
            log.info("config sync worker started", endpoint=config.endpoint, instance_id=config.instance_id)
            yield

    def _keep(self, data: bytes) -> None:
        self._on_disk = False
        try:
            self._kept.write(data)
            self._on_disk = True
        except OSError as error:
            log.warning("the snapshot could not be kept on disk", file=str(self._kept.path), error=str(error))

    def _keep_again(self) -> None:
        """What is in use was confirmed."""
        if not self._on_disk:
            return
        try:
            self._kept.touch()
        except OSError:
            log.debug("the snapshot on disk could not be renewed", file=str(self._kept.path))
