"""Sessions (spec 02 §5): which id a request belongs to, and the last turn kept under it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import msgspec
import structlog
import trio

from trustgate.formats.errors import DecodeError
from trustgate.formats.json import members
from trustgate.limits.shared import SharedValues
from trustgate.proxy.intent import text_of
from trustgate.view.model import GatewayIdentity

WRITE_BUDGET_S = 2.0
MAX_ID_BYTES = 1024

log = structlog.get_logger(__name__)


def supplied_session(gateway: GatewayIdentity, headers: dict[bytes, bytes], body: bytes) -> str:
    """The id the client gave in the configured header, else in the configured body member; else empty."""
    value = headers.get(gateway.session_header)
    if value:
        return value.decode("utf-8", "replace").strip()
    name = gateway.session_body_param
    if not name or name.encode() not in body:
        return ""
    try:
        found = members(body)
    except DecodeError:
        return ""
    return text_of(found.get(name, msgspec.Raw())) or ""


class SessionRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The stored last turn; member names are those other programs read (spec 02 §5)."""

    id: str
    gateway_id: str
    created_at: str
    updated_at: str
    expires_at: str
    last_turn_id: str = ""
    provider: str = ""
    model: str = ""
    consumer_id: str = ""


class Sessions:
    """Last response ids by session; trouble with the store never touches a request."""

    def __init__(self, state: SharedValues, ttl_s: float, enabled: bool) -> None:
        self._state = state
        self._ttl_s = ttl_s
        self.enabled = enabled

    async def load(self, gateway_id: str, consumer_id: str, session_id: str) -> SessionRecord | None:
        """The record of that session, unless it is another consumer's."""
        if not self.enabled or len(session_id) > MAX_ID_BYTES:
            return None
        try:
            with trio.fail_after(WRITE_BUDGET_S):
                data = await self._state.get(f"session:{gateway_id}:{session_id}")
            record = msgspec.json.decode(data, type=SessionRecord) if data else None
        except Exception as error:  # a store that is down means no session, not a failed request
            log.warning("session not read", error=type(error).__name__)
            return None
        if record is None or (record.consumer_id and record.consumer_id != consumer_id):
            return None
        return record

    async def save(
        self, gateway_id: str, consumer_id: str, session_id: str, *, turn_id: str, provider: str, model: str
    ) -> None:
        if not self.enabled or len(session_id) > MAX_ID_BYTES:
            return
        now = time.time()
        stamp = datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z")
        record = SessionRecord(
            id=session_id,
            gateway_id=gateway_id,
            last_turn_id=turn_id,
            provider=provider,
            model=model,
            created_at=stamp,
            updated_at=stamp,
            expires_at=datetime.fromtimestamp(now + self._ttl_s, UTC).isoformat().replace("+00:00", "Z"),
            consumer_id=consumer_id,
        )
        try:
            with trio.move_on_after(WRITE_BUDGET_S):
                await self._state.put(f"session:{gateway_id}:{session_id}", msgspec.json.encode(record), self._ttl_s)
        except Exception as error:  # as above
            log.warning("session not written", error=type(error).__name__)
