"""`as_of`, `from`, `to`: points in a gateway's past, and the state it had there.

What lives here: reading of such points from queries and bodies, and who may look. What must not: folding
(`actors.archive`). A point is a version of the gateway, or a time (RFC 3339): then it means the version that the latest
change made until then led to.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from trustgate.actors.archive import Archive
from trustgate.admin.errors import audit_unavailable, before_creation, invalid_as_of, invalid_query
from trustgate.admin.rendering import rfc3339
from trustgate.domain.entities import GatewayState
from trustgate.domain.errors import not_found

# A plus sign in a query string that was not encoded arrives as a blank.
RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[-+ ]\d{2}:\d{2})")
VERSION = re.compile(r"[0-9]{1,18}")

Point = int | datetime


def read_time(text: str, name: str) -> datetime:
    """An RFC 3339 time; raises 400."""
    if RFC3339.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper().replace(" ", "+")).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise invalid_query(f"{name} must be an RFC 3339 time")


def read_point(text: str, name: str) -> Point:
    """A version or a time; raises 400."""
    if VERSION.fullmatch(text):
        return int(text)
    if RFC3339.fullmatch(text):
        return read_time(text, name)
    raise invalid_query(f"{name} must be a version or an RFC 3339 time")


class Past(msgspec.Struct, frozen=True):
    """Questions of one caller about the past of gateways. `tenant` None: of all."""

    source: Archive | None
    clock: Callable[[], datetime]
    tenant: str | None = None

    @property
    def archive(self) -> Archive:
        if self.source is None:
            raise audit_unavailable()
        return self.source

    async def check_owner(self, gateway_id: str) -> None:
        """404 unless the gateway is, or was until it was deleted, the caller's."""
        owner = await self.archive.owner(gateway_id)
        if owner is None or (self.tenant is not None and owner != self.tenant):
            raise not_found()

    async def version(self, gateway_id: str, point: Point, name: str) -> int:
        """The version that a point means. Refuses what is in the future, and what is before the gateway's creation."""
        if isinstance(point, datetime):
            if point > self.clock():
                raise invalid_as_of(f"{name} is in the future")
            version = await self.archive.version_at(gateway_id, point)
        else:
            version = point
            newest = await self.archive.newest(gateway_id)
            if version > newest:
                raise invalid_as_of(f"{name} is version {version}, but the gateway is at version {newest}")
        if version == 0:
            created = await self.archive.created_at(gateway_id)
            raise before_creation(f"the gateway was created at {rfc3339(created)}" if created else "")
        return version

    async def state(self, gateway_id: str, text: str, name: str = "as_of") -> GatewayState:
        """The state at the point that `text` names, for a caller who may see it."""
        point = read_point(text, name)
        await self.check_owner(gateway_id)
        return await self.archive.state_at(gateway_id, await self.version(gateway_id, point, name))

    def moment(self, text: str) -> datetime:
        """A time that is not in the future, for lists across gateways."""
        moment = read_time(text, "as_of")
        if moment > self.clock():
            raise invalid_as_of("as_of is in the future")
        return moment
