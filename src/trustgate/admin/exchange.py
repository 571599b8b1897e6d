"""One Admin API request and its answer, as handlers see them.

What lives here: `Call` (what came in, who asks, and the plane's parts) and `Answer` with its JSON encoding. What must
not: routing, authentication, HTTP server matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from trustgate.admin import bodies
from trustgate.admin.lists import Query
from trustgate.admin.past import Past
from trustgate.admin.rendering import GatewayRenderer
from trustgate.admin.services import AdminServices
from trustgate.admin.tokens import Identity
from trustgate.admin.trail import Trail
from trustgate.domain.commands import Meta
from trustgate.domain.decision import Context
from trustgate.domain.directory import DirectoryState
from trustgate.domain.entities import GatewayState
from trustgate.domain.errors import not_found

T = TypeVar("T")

MAX_REASON = 1000
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"

ESCAPES = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)
"""Characters that are never written as they are (they can only stand inside strings)."""


class Executed(Protocol):
    """What became of a command: the state before and after, and whether every live data plane has it."""

    @property
    def before(self) -> GatewayState: ...
    @property
    def after(self) -> GatewayState: ...
    @property
    def applied(self) -> bool: ...


class ControlPlane(Protocol):
    """The writing side of the configuration (`actors.control`), as far as the Admin API uses it."""

    @property
    def keeps_present_secrets(self) -> bool: ...
    async def execute(self, command: Any) -> Executed: ...
    async def preview(self, command: Any) -> Executed: ...
    async def state(self, gateway_id: str) -> GatewayState | None: ...
    async def directory(self) -> DirectoryState: ...
    async def states(self) -> Mapping[str, GatewayState]: ...
    async def reveal(self, ref: str) -> str: ...

    @property
    def context(self) -> Context: ...


class Answer(msgspec.Struct, frozen=True):
    """A complete response; the envelope's headers are added on the way out."""

    status: int
    body: bytes = b""
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


def json_answer(value: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer(status, encode(value), JSON, headers)


def text_answer(status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer(status, text.encode("utf-8", "replace"), TEXT, headers)


def encode(value: Any) -> bytes:
    """Compact JSON that is also safe inside a script element."""
    encoded = msgspec.json.encode(value)
    for plain, escaped in ESCAPES:
        if plain in encoded:
            encoded = encoded.replace(plain, escaped)
    return encoded


class Call(msgspec.Struct, kw_only=True):
    """A routed and authenticated request. `params` are the path's parameters; ids among them are canonical."""

    control: ControlPlane
    services: AdminServices
    render_gateway: GatewayRenderer
    method: str
    path: str
    query: Query
    headers: Mapping[str, str]
    body: bytes
    request_id: str
    identity: Identity
    params: dict[str, str]
    address: str = ""
    """Where the caller is, as far as that is known."""
    state: GatewayState | None = None
    """The gateway of a `/v1/gateways/{gateway_id}/...` call; None when it does not exist."""

    def read(self, into: type[T]) -> T:
        """The request body; raises `DomainError` (422) or `bodies.BodyTooLarge`."""
        return bodies.read_body(
            self.body,
            self.headers.get("content-type"),
            self.headers.get("content-encoding"),
            into,
            self.services.settings.max_body_bytes,
        )

    def meta(self) -> Meta:
        """Who changes what, when and why, for the log."""
        return Meta(
            time=self.services.clock(),
            actor=self.identity.actor,
            actor_email=self.identity.email,
            tenant=self.identity.tenant,
            request_id=self.request_id,
            source="admin-api",
            address=self.address,
            expected_versions=versions_of(self.headers.get("if-match")),
            reason=header_text(self.headers.get("x-ag-change-reason", ""))[:MAX_REASON],
        )

    def past(self) -> Past:
        """What the caller may ask about the past."""
        return Past(self.services.archive, self.services.clock, self.identity.tenant)

    def trail(self) -> Trail:
        """Shows entries of the audit trail."""
        return Trail(self.render_gateway, self.past().archive.fingerprint)

    async def execute(self, command: Any) -> Executed:
        """Carries a command out; see `ControlPlane.execute`."""
        return await self.control.execute(command)

    def existing(self) -> GatewayState:
        """The gateway's state; raises 404 when there is no such gateway."""
        if self.state is None or self.state.gateway is None:
            raise not_found()
        return self.state


def header_text(value: str) -> str:
    """A header's value as the client meant it: UTF-8 where it is that. On the way here it was taken for Latin-1."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def etag(version: int) -> str:
    return f'"{version}"'


def versions_of(if_match: str | None) -> tuple[int, ...] | None:
    """The versions that an If-Match header names, None when any will do. A tag of another form names none."""
    if if_match is None or if_match.strip() == "*":
        return None
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in if_match.split(",")]
    return tuple(int(tag) for tag in tags if tag.isascii() and tag.isdigit() and len(tag) < 19)


def applied(executed: Executed) -> tuple[tuple[str, str], ...]:
    """The headers of an answer to a write."""
    headers = [("X-AG-Config-Applied", "true" if executed.applied else "false")]
    if executed.after.gateway is not None:
        headers.append(("ETag", etag(executed.after.version)))
    return tuple(headers)


def versioned(state: GatewayState) -> tuple[tuple[str, str], ...]:
    """The headers of an answer to a read of one object."""
    return (("ETag", etag(state.version)),)
