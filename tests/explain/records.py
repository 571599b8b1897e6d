"""Recorded decisions for tests, with defaults."""

from __future__ import annotations

from typing import Any

from trustgate.decisions.record import Decided, Pick, Priced, Tokens, Try

MEMBERS: dict[str, Any] = {
    "trace_id": "00000000-0000-4000-8000-000000000001", "gateway_id": "gw-1", "version": 1, "at_ms": 1_000_000,
    "duration_ms": 12.5, "consumer_id": "c-app", "consumer_slug": "app", "auth_id": "a", "method": "api_key",
    "roles": (), "capability": "chat", "format": "openai", "reference": "gpt-4o", "streaming": False,
    "body_bytes": 200, "status": 200, "code": "", "message": "", "stage": "", "answered": True, "aborted": False,
    "sent_model": "gpt-4o", "provider_model": "gpt-4o", "pick": Pick("one", ""),
    "attempts": (Try("one", "openai", 1, False, True, "consumer", "", "success", 200, 5, ""),), "policies": (),
    "usage": Tokens(100, 50, 150, 0, 0), "price": Priced("gpt-4o", 1e-6, 2e-6),
}  # fmt: skip


def decided(**members: Any) -> Decided:
    return Decided(**(MEMBERS | members))
