"""What every decision needs and yields: the catalog, the context, the draft of a decision, the decision.

What lives here: the seam to the registries of policies, providers and exporters (`Catalog`), and `Draft`, which
collects events while it keeps the state they lead to. What must not: rules about objects (`decide_*`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping
from typing import Any, Protocol

import msgspec

from trustgate.domain import secrets
from trustgate.domain.commands import Command, Meta
from trustgate.domain.directory import DirectoryState
from trustgate.domain.entities import GatewayState
from trustgate.domain.errors import already_exists, foreign
from trustgate.domain.events import DirectoryFact, Event, GatewayFact
from trustgate.domain.evolve import evolve

MAX_PATH_BYTES = 200
"""Longest path inside a vault reference, which stores index."""


class Catalog(Protocol):
    """What plugins, providers and exporters say about their own settings. Every function is pure.

    A refusal is the detail of a message; None accepts. Secrets are in clear, except where a PUT keeps a stored one:
    then its mask stands in for it.
    """

    def validate_policy(self, slug: str, settings: dict[str, Any], stages: tuple[str, ...], mode: str) -> str | None:
        """Text after `validation failed` and a newline."""
        ...

    def policy_protocols(self, slug: str) -> frozenset[str] | None:
        """Consumer types (`LLM`, `MCP`) a plugin supports; None for an unknown plugin."""
        ...

    def policy_settings_refusal(self, slug: str, settings: dict[str, Any], protocol: str) -> str | None:
        """Why these settings cannot serve that protocol: text after `policy protocol mismatch: validation failed: `."""
        ...

    def policy_secret_paths(self, slug: str) -> tuple[tuple[str, ...], ...]:
        """Where secrets are inside a plugin's settings: member names; `*` is every member or item."""
        ...

    def validate_provider_options(self, provider: str, options: dict[str, Any]) -> str | None:
        """Text after `registry: invalid backend: validation failed: `."""
        ...

    def providers(self) -> frozenset[str]:
        """The known provider codes."""
        ...

    def validate_exporter(self, entry: dict[str, Any]) -> str | None:
        """Text after `invalid telemetry exporter: ` for `{"name", "type", "settings", "class"}`."""
        ...

    def mcp_catalog_entry(self, code: str) -> dict[str, Any] | None:
        """The MCP server of that code as `GET /v1/mcp-servers-catalog` shows it."""
        ...


def nobody(kind: str, id_: str) -> str | None:
    """An `owner` for a world of one gateway."""
    return None


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What deciding depends on besides state.

    `fingerprint` gives 16 hex characters for a secret. `limits_enabled` is `RATE_LIMIT_ENABLED`. `owner(kind, id)` is
    the gateway, of all gateways, that an object of that kind (`registry`, `consumer`, `auth`, `policy`) belongs to, or
    None. `require_secret_on_new_origin` is the opt-in switch of spec 01 §3.5.
    """

    catalog: Catalog
    fingerprint: Callable[[str], str]
    limits_enabled: bool = True
    owner: Callable[[str, str], str | None] = nobody
    require_secret_on_new_origin: bool = False


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Events of both streams and the secrets of one command: stored together, or not at all.

    `secrets` maps vault references to plaintext. `forgotten` are references that nothing names any more: the vault
    drops them once every data plane has moved on.
    """

    gateway: tuple[Event, ...] = ()
    directory: tuple[Event, ...] = ()
    secrets: dict[str, str] = {}
    forgotten: tuple[str, ...] = ()
    state: GatewayState
    """The gateway after the events."""


class Draft:
    """A decision in the making."""

    def __init__(self, state: GatewayState, directory: DirectoryState, command: Command, context: Context) -> None:
        self.before = state
        self.state = state
        self.directory = directory
        self.context = context
        self.catalog = context.catalog
        self.meta: Meta = command.meta
        self.command = type(command).__name__
        self._events: list[Event] = []
        self._listed: list[Event] = []
        self._secrets: dict[str, str] = {}

    def record(self, fact: GatewayFact) -> None:
        """Add an event to the gateway's stream; `state` moves on."""
        event = Event(meta=self.meta, command=self.command, data=fact)
        self._events.append(event)
        self.state = evolve(self.state, event)

    def enlist(self, fact: DirectoryFact) -> None:
        """Add an event to the directory's stream; `directory` stays as it was."""
        self._listed.append(Event(meta=self.meta, command=self.command, data=fact))

    def secret(self, object_id: str, path: str, plaintext: str) -> dict[str, Any]:
        """A reference to a new secret; the plaintext goes to the vault with the decision.

        A path may hold names that a client chose, so a long one is replaced by its digest.
        """
        if len(path.encode()) > MAX_PATH_BYTES:
            path = hashlib.sha256(path.encode()).hexdigest()
        ref = f"{object_id}/{path}@{self.before.version}"
        self._secrets[ref] = plaintext
        return secrets.reference(ref, self.context.fingerprint(plaintext), plaintext)

    def adopt(self, vault: Mapping[str, str]) -> None:
        """Take over secrets whose references exist already."""
        self._secrets.update(vault)

    def check_new(self, kind: str, existing: Container[str], id_: str) -> None:
        """An object is created in a gateway that exists, under an id that is free."""
        if self.state.gateway is None:
            raise foreign(kind)
        if id_ in existing:
            raise already_exists(kind)

    def plaintext(self, ref: str) -> str | None:
        """A secret of this very command in clear, or None for one that is already stored."""
        return self._secrets.get(ref)

    def decision(self) -> Decision:
        kept = set(secrets.refs(_changed(self.state, self.before)))
        gone = dict.fromkeys(secrets.refs(_changed(self.before, self.state)))
        if gone:  # a duplicated policy shares the secrets of its source
            kept.update(secrets.refs(msgspec.to_builtins(list(self.state.policies.values()))))
        return Decision(
            gateway=tuple(self._events),
            directory=tuple(self._listed),
            secrets={ref: text for ref, text in self._secrets.items() if ref in kept},
            forgotten=tuple(ref for ref in gone if ref not in kept),
            state=self.state,
        )


def _changed(state: GatewayState, other: GatewayState) -> list[Any]:
    """The entities of `state` that are not the same in `other`, as plain JSON values."""
    found: list[Any] = [] if state.gateway is other.gateway or state.gateway is None else [state.gateway]
    for mine, theirs in (
        (state.registries, other.registries),
        (state.consumers, other.consumers),
        (state.auths, other.auths),
        (state.policies, other.policies),
    ):
        if mine is not theirs:
            found += [entity for id_, entity in mine.items() if theirs.get(id_) is not entity]
    return msgspec.to_builtins(found)
