"""The fold of the whole log in memory: every gateway's state and the directory, at one position.

What lives here: applying recorded events in order, snapshots of states as bytes. What must not: I/O; when to read is
the follower's business. An event that is already part of a state is skipped by its version: reads may overlap.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import msgspec

from trustgate.domain import events as ev
from trustgate.domain.directory import DirectoryState, fold_directory
from trustgate.domain.entities import GatewayState
from trustgate.domain.evolve import EMPTY, evolve
from trustgate.store import DIRECTORY, Recorded, Snapshot, gateway_of

FOLD = 1
"""Raise it when the same events fold to another state than before."""

SNAPSHOT_SCHEMA = 0x7FFFFFFF & zlib.crc32(
    msgspec.json.encode([FOLD, *msgspec.json.schema_components([GatewayState, DirectoryState])], order="sorted")
)
"""Names the exact shape of the states in snapshots: one that was written by other code is not used."""

SNAPSHOT_EVERY = 64
"""Events after which a stream's snapshot is renewed, or a quarter of its objects if that is more."""

_encoder = msgspec.json.Encoder()
_gateway_decoder = msgspec.json.Decoder(GatewayState)
_directory_decoder = msgspec.json.Decoder(DirectoryState)


class LogGap(Exception):
    """An event of a stream came before its predecessor: the log is damaged."""


class Change(msgspec.Struct, frozen=True):
    """What a run of events makes of a projection: to be adopted at once, or dropped."""

    position: int
    states: dict[str, GatewayState]
    directory: DirectoryState | None


class Projection:
    """Single owner: only the follower calls `adopt`. Everything it hands out is immutable."""

    def __init__(self) -> None:
        self.position = 0
        """Position of the last event that is part of it."""
        self.directory = DirectoryState()
        self._states: dict[str, GatewayState] = {}

    def state(self, gateway_id: str) -> GatewayState:
        """The state of a gateway, the empty one for an unknown id. Of a deleted gateway, only the version is left."""
        return self._states.get(gateway_id, EMPTY)

    def states(self) -> dict[str, GatewayState]:
        """The states of all gateways that exist, by id."""
        return {id_: state for id_, state in self._states.items() if state.gateway is not None}

    def deleted(self) -> list[str]:
        """The ids of gateways that existed once."""
        return [id_ for id_, state in self._states.items() if state.gateway is None]

    def owner(self, kind: str, id_: str) -> str | None:
        """The gateway an object of that kind (`registry`, `consumer`, `auth`, `policy`, `role`) belongs to, or None."""
        for gateway_id, state in self._states.items():
            if id_ in objects(state, kind):
                return gateway_id
        return None

    def change(self, events: Sequence[tuple[Recorded, ev.Event]]) -> Change:
        """What `events`, in the order of the log, make of this projection. Raises `LogGap`."""
        states: dict[str, GatewayState] = {}
        listed: list[ev.Event] = []
        directory_version = self.directory.version
        for recorded, event in events:
            gateway_id = gateway_of(recorded.stream)
            if gateway_id is not None:
                state = states.get(gateway_id) or self.state(gateway_id)
                if expected(recorded, state.version):
                    states[gateway_id] = evolve(state, event)
            elif recorded.stream == DIRECTORY and expected(recorded, directory_version + len(listed)):
                listed.append(event)
        position = max(self.position, events[-1][0].position) if events else self.position
        return Change(position, states, fold_directory(listed, self.directory) if listed else None)

    def adopt(self, change: Change) -> None:
        self._states.update(change.states)
        if change.directory is not None:
            self.directory = change.directory
        self.position = change.position

    def load(self, gateway_id: str, state: GatewayState) -> None:
        """Take over a state from a snapshot and its tail."""
        self._states[gateway_id] = state


def expected(recorded: Recorded, version: int) -> bool:
    """Whether an event is the next of a stream at `version`; False when it is part of it already."""
    if recorded.version > version + 1:
        raise LogGap(
            f"event {recorded.version} of {recorded.stream} at position {recorded.position} follows event {version}:"
            " the log is damaged; restore the event store from a backup"
        )
    return recorded.version == version + 1


def objects(state: GatewayState, kind: str) -> dict[str, object]:
    """The gateway's objects of one kind by id."""
    match kind:
        case "registry":
            return state.registries  # pyright: ignore[reportReturnType]
        case "consumer":
            return state.consumers  # pyright: ignore[reportReturnType]
        case "auth":
            return state.auths  # pyright: ignore[reportReturnType]
        case "policy":
            return state.policies  # pyright: ignore[reportReturnType]
        case "role":
            return state.roles  # pyright: ignore[reportReturnType]
        case _:
            return {}


def decoded(events: Iterable[Recorded]) -> list[tuple[Recorded, ev.Event]]:
    """Events with their meaning. Raises `UnknownEvent` or `CorruptEvent` with the position."""
    return [(recorded, ev.decode(recorded.data, recorded.position)) for recorded in events]


def size(state: GatewayState | DirectoryState) -> int:
    """How many objects a state holds."""
    if isinstance(state, DirectoryState):
        return len(state.gateways) + len(state.consumer_slugs)
    return len(state.registries) + len(state.consumers) + len(state.auths) + len(state.policies) + len(state.roles)


def snapshot_due(state: GatewayState | DirectoryState, snapshot_version: int) -> bool:
    """Whether a stream's snapshot is old enough to be renewed. A deleted gateway's is, at once: it is tiny."""
    if isinstance(state, GatewayState) and state.gateway is None:
        return state.version > snapshot_version
    return state.version - snapshot_version >= max(SNAPSHOT_EVERY, size(state) // 4)


def snapshot_of(stream: str, state: GatewayState | DirectoryState) -> Snapshot:
    return Snapshot(stream, state.version, SNAPSHOT_SCHEMA, _encoder.encode(state))


def gateway_from(snapshot: Snapshot | None) -> GatewayState:
    """The state in a snapshot; the empty one when there is none or it cannot be used."""
    if snapshot is None or snapshot.schema != SNAPSHOT_SCHEMA:
        return EMPTY
    try:
        state = _gateway_decoder.decode(snapshot.state)
    except msgspec.DecodeError:
        return EMPTY
    return state if state.version == snapshot.version else EMPTY


def directory_from(snapshot: Snapshot | None) -> DirectoryState:
    if snapshot is None or snapshot.schema != SNAPSHOT_SCHEMA:
        return DirectoryState()
    try:
        state = _directory_decoder.decode(snapshot.state)
    except msgspec.DecodeError:
        return DirectoryState()
    return state if state.version == snapshot.version else DirectoryState()
