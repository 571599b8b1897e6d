"""Sessions (spec 02 §5): which id a request belongs to, and the last turn kept under it."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

import msgspec
import structlog
import trio

from trustgate.limits.shared import SharedState
from trustgate.proxy.intent import text_of
from trustgate.view.model import GatewayIdentity

WRITE_BUDGET_S = 2.0
MAX_ID_BYTES = 1024

log = structlog.get_logger(__name__)


_POOL_BYTES = 4096


class _Random:
    """Secure random bytes, asked of the kernel 4 KiB at a time: a system call a request would cost more than ids."""

    def __init__(self) -> None:
        self._left = b""
        self._at = 0
        os.register_at_fork(after_in_child=self._forget)  # a forked process must not repeat its parent

    def _forget(self) -> None:
        self._left, self._at = b"", 0

    def hex(self, size: int) -> str:
        if self._at + size > len(self._left):
            self._left, self._at = os.urandom(_POOL_BYTES), 0
        at = self._at
        self._at = at + size
        return self._left[at : at + size].hex()


_random = _Random()
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def uuid4() -> str:
    """A random UUID (RFC 9562 §5.4), lower-case."""
    text = _random.hex(16)
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:]}"


def uuid7() -> str:
    """A time-ordered UUID (RFC 9562 §5.7), lower-case."""
    stamp = f"{time.time_ns() // 1_000_000:012x}"
    text = _random.hex(10)
    return f"{stamp[:8]}-{stamp[8:]}-7{text[:3]}-{_VARIANT[text[3]]}{text[4:7]}-{text[7:19]}"


def supplied_session(gateway: GatewayIdentity, headers: dict[bytes, bytes], body: bytes) -> str:
    """The id the client gave in the configured header, else in the configured body member; else empty."""
    value = headers.get(gateway.session_header)
    if value:
        return value.decode("latin-1").strip()
    name = gateway.session_body_param
    if not name or name.encode() not in body:
        return ""
    try:
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return text_of(members.get(name, msgspec.Raw())) or ""


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

    def __init__(self, state: SharedState, ttl_s: float, enabled: bool) -> None:
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
