"""The audit export that `trustgate.audit_verify` checks offline: events byte for byte, and the checkpoints over them.

What lives here: the lines of an export. What must not: their verification. Events are as stored: secrets are references
with fingerprints, API keys digests. It is for whoever may read the database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from trustgate.actors.notary import Notary
from trustgate.store import Checkpoint, EventStore, Recorded, gateway_stream

BATCH = 2000


async def export(
    store: EventStore,
    notary: Notary,
    gateways: Sequence[str] = (),
    *,
    seal: bool = True,
    told: Callable[[int], None] = lambda count: None,
) -> AsyncIterator[bytes]:
    """The lines of an export of the whole log, or of some gateways by id.

    With `seal` a checkpoint is made first, and the export ends with it; else it ends with what nobody signed yet.
    `told` hears of the number of events written so far. Raises what `Notary.checkpoint` raises.
    """
    end = (await notary.checkpoint()).position if seal else await store.head()
    yield _line({"kind": "key", "public_key": await notary.public_key()})
    checkpoints = [one for one in await _checkpoints(store) if one.position <= end]
    count, next_ = 0, 0
    async for batch in _events(store, gateways, end):
        for event in batch:
            while next_ < len(checkpoints) and checkpoints[next_].position < event.position:
                yield _checkpoint_line(checkpoints[next_])
                next_ += 1
            yield _event_line(event)
        count += len(batch)
        told(count)
    for checkpoint in checkpoints[next_:]:
        yield _checkpoint_line(checkpoint)


async def _events(store: EventStore, gateways: Sequence[str], end: int) -> AsyncIterator[list[Recorded]]:
    if gateways:
        found = [event for id_ in dict.fromkeys(gateways) for event in await store.read(gateway_stream(id_))]
        yield sorted((event for event in found if event.position <= end), key=lambda event: event.position)
        return
    position = 0
    while position < end:
        batch = [event for event in await store.read_all(position, BATCH) if event.position <= end]
        if not batch:
            return
        yield batch
        position = batch[-1].position


async def _checkpoints(store: EventStore) -> list[Checkpoint]:
    found: list[Checkpoint] = []
    while more := await store.audit.checkpoints(found[-1].number if found else 0):
        found += more
    return found


def _event_line(event: Recorded) -> bytes:
    return _line(
        {
            "kind": "event",
            "position": event.position,
            "stream": event.stream,
            "version": event.version,
            "previous": event.previous,
            "data": event.data.decode(),
        }
    )


def _checkpoint_line(checkpoint: Checkpoint) -> bytes:
    return _line(
        {
            "kind": "checkpoint",
            "statement": checkpoint.statement.decode(),
            "signature": checkpoint.signature.hex(),
        }
    )


def _line(item: dict[str, Any]) -> bytes:
    return msgspec.json.encode(item) + b"\n"
