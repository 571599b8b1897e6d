"""Signed checkpoints: statements about the log up to a position that nobody can make afterwards.

What lives here: computing, signing and keeping of checkpoints, at an interval and on demand. What must not: their
verification (`trustgate.audit_verify`, which shares no code with this).

A statement is a JSON object:

    number    1, 2, 3, ...
    time      when it was made (RFC 3339)
    position  it covers all events up to here, and those of the checkpoints before
    events    how many of them are new
    previous  SHA-256 of the statement before it (64 zeros for the first)
    streams   for each stream with new events, under SHA-256 of its name: SHA-256 of the lines "position hash LF" of
              these events in order, with the hashes of the chain (`store.chain`)

Names are hashed so that the owner of one gateway can verify it without learning of others. The Ed25519 key is made once
per installation and kept in the vault, under SERVER_SECRET_KEY: who can write to the database cannot sign.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from trustgate.actors.supervisor import supervise
from trustgate.store import Checkpoint, EventStore, Recorded, StoreError
from trustgate.store.chain import GENESIS, link

log = structlog.get_logger("trustgate.notary")

KEY_REF = "installation/checkpoint-key"
BATCH = 2000


class BrokenChain(StoreError):
    """An event does not carry the hash of its predecessor: the log was changed. Nothing is signed."""

    def __init__(self, event: Recorded) -> None:
        super().__init__(
            f"event {event.version} of {event.stream} at position {event.position} does not follow its predecessor:"
            " the log was changed; no checkpoint was made"
        )
        self.event = event


class Statement(msgspec.Struct, frozen=True):
    number: int
    time: str
    position: int
    events: int
    previous: str
    streams: dict[str, str]


def stream_key(stream: str) -> str:
    return hashlib.sha256(stream.encode()).hexdigest()


def checkpoint_id(checkpoint: Checkpoint) -> str:
    """What names a checkpoint: SHA-256 of its statement."""
    return hashlib.sha256(checkpoint.statement).hexdigest()


class Notary:
    """Makes checkpoints of `store`'s log. Several processes may: of each number there is one."""

    def __init__(self, store: EventStore, interval_s: float = 0.0) -> None:
        """`interval_s` 0: only on demand."""
        self._store = store
        self._interval_s = interval_s
        self._lock = trio.Lock()
        self._key: Ed25519PrivateKey | None = None

    async def run(self) -> None:
        """Make a checkpoint at every interval in which something changed, until cancelled."""
        if not self._interval_s:
            return

        async def regularly() -> None:
            while True:
                await trio.sleep(self._interval_s)
                try:
                    if await self._store.head():
                        await self.checkpoint()
                except StoreError as error:
                    log.error("no checkpoint was made", error=str(error))

        await supervise("notary", regularly)

    async def public_key(self) -> str:
        """The Ed25519 public key, as 64 hex characters."""
        key = await self._signing_key()
        return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    async def checkpoints(self, after_number: int, limit: int) -> list[Checkpoint]:
        """The checkpoints there are, in order, after a number."""
        return await self._store.audit.checkpoints(after_number, limit)

    async def checkpoint(self) -> Checkpoint:
        """A checkpoint that covers everything committed before this call; the last one when nothing is new.

        Raises `BrokenChain` when the log was changed since the last checkpoint, and `StoreUnavailable`.
        """
        async with self._lock:
            while True:
                last = await self._store.audit.last_checkpoint()
                head = await self._store.head()
                if last is not None and last.position >= head:
                    return last
                statement = await self._statement(last, head)
                key = await self._signing_key()
                data = msgspec.json.encode(statement)
                made = Checkpoint(statement.number, head, data, key.sign(data))
                if await self._store.audit.put_checkpoint(made):
                    log.info("checkpoint made", number=made.number, position=made.position, id=checkpoint_id(made))
                    return made

    async def _signing_key(self) -> Ed25519PrivateKey:
        if self._key is None:
            proposed = Ed25519PrivateKey.generate().private_bytes_raw().hex()
            seed = bytes.fromhex(await self._store.settled_secret(KEY_REF, proposed))
            self._key = Ed25519PrivateKey.from_private_bytes(seed)
        return self._key

    async def _statement(self, last: Checkpoint | None, head: int) -> Statement:
        position, count, seals = last.position if last else 0, 0, Seals()
        while position < head:
            batch = [event for event in await self._store.read_all(position, BATCH) if event.position <= head]
            if not batch:
                break
            for event in batch:
                if event.stream not in seals.heads:
                    seals.heads[event.stream] = event.version - 1, await self._head_before(event)
            await trio.to_thread.run_sync(seals.add, batch)
            position, count = batch[-1].position, count + len(batch)
        return Statement(
            number=last.number + 1 if last else 1,
            time=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            position=head,
            events=count,
            previous=checkpoint_id(last) if last else GENESIS,
            streams=seals.digests(),
        )

    async def _head_before(self, event: Recorded) -> str:
        """The hash of an event's predecessor: as the event carries it, else computed from the stream's start."""
        if event.previous or event.version == 1:
            return event.previous or GENESIS
        last = GENESIS
        for one in await self._store.read(event.stream, 0, event.version - 1):
            last = link(last, one.stream, one.version, one.previous, one.data)
        return last


class Seals:
    """Walks events in the order of the log: chain heads, and the digest of what is new in each stream."""

    def __init__(self) -> None:
        self.heads: dict[str, tuple[int, str]] = {}
        """Of each stream, the version and the hash of the last event so far."""
        self._digests: dict[str, Any] = {}

    def add(self, batch: Sequence[Recorded]) -> None:
        """Raises `BrokenChain`."""
        for event in batch:
            version, head = self.heads[event.stream]
            if event.version != version + 1 or (event.previous and event.previous != head):
                raise BrokenChain(event)
            head = link(head, event.stream, event.version, event.previous, event.data)
            self.heads[event.stream] = event.version, head
            digest = self._digests.get(event.stream)
            if digest is None:
                digest = self._digests[event.stream] = hashlib.sha256()
            digest.update(f"{event.position} {head}\n".encode())

    def digests(self) -> dict[str, str]:
        found = {stream_key(stream): digest.hexdigest() for stream, digest in self._digests.items()}
        return dict(sorted(found.items()))
