"""Waiting until every live data plane has applied a write.

What lives here: the barrier between an append and the answer to its client. What must not: how planes
apply (`follower`).
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from trustgate.store import EventStore, Plane, StoreUnavailable

POLL_S = 0.02
"""A look at the planes at least so often: news of a plane may be lost with a broken connection."""


async def all_applied(
    store: EventStore, position: int, planes: Sequence[Plane] | None, timeout_s: float, own_plane: str | None
) -> bool:
    """Return True when every live plane but `own_plane` is at `position` or beyond, False after `timeout_s`.

    `planes` is what is known of them since the commit, None for nothing. Also False when the store cannot tell. A plane
    that is gone stops counting when its lease ends.
    """
    with trio.move_on_after(timeout_s):
        while True:
            seen = store.planes_moved.count
            if planes is None:
                try:
                    planes = await store.planes()
                except StoreUnavailable:
                    return False
            if all(plane.position >= position for plane in planes if plane.plane_id != own_plane):
                return True
            await store.planes_moved.wait(seen, POLL_S)
            planes = None
    return False
