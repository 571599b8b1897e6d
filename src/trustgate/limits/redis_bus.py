"""The bus between processes on publish and subscribe of Redis. Apart from `bus`, because the client is large."""

from __future__ import annotations

import logging
from typing import Any

import coredis
import coredis.exceptions
import trio

from trustgate.limits.bus import Hear

RETRY_S = 0.5

log = logging.getLogger("trustgate.limits")


class RedisBus:
    """The bus on one channel of Redis. `client` is an open `coredis` client."""

    def __init__(self, client: Any, channel: str) -> None:
        self._client = client
        self._channel = channel

    async def publish(self, message: bytes) -> None:
        await self._client.publish(self._channel, message)

    async def listen(self, hear: Hear, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        started = False
        while True:
            try:
                async with self._client.pubsub(channels=[self._channel]) as subscription:
                    async for message in subscription:
                        if message["type"] == "subscribe" and not started:
                            started = True
                            task_status.started()
                        elif message["type"] == "message":
                            hear(message["data"])
            except (coredis.exceptions.RedisError, OSError, trio.BrokenResourceError) as error:
                log.warning("the bus on Redis broke off: %s", error)
            await trio.sleep(RETRY_S)
