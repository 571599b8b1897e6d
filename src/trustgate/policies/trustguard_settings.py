"""Settings of `trustguard` (spec 04 §14.15)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from trustgate.policies.plugin import Environment
from trustgate.policies.settings import Option, SettingsError, setting

PREFIX = "trustguard: "
MAX_WINDOW = 65536
LEGS = ("request", "response", "request_response")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    direction: Annotated[
        str,
        setting(
            "Direction",
            "Legs to evaluate.",
            shown="request",
            options=(
                Option("request", "Request"),
                Option("response", "Response"),
                Option("request_response", "Request & Response"),
            ),
        ),
    ] = ""
    collector_id: Annotated[str, setting("Collector ID", "UUID of the collector.", required=True)] = ""
    inspect: str = ""
    on_error: str = ""
    stream_window: int = 0
    """Characters of a streamed answer that are held and evaluated at a time; 0 evaluates streams when they are over."""
    stream_hold_back: int | None = None
    """Characters that stay held for the next evaluation; half a window by default."""

    @property
    def legs(self) -> str:
        """`inspect`, by its older name `direction`; request and response by default."""
        return self.inspect or self.direction or "request_response"

    @property
    def held_back(self) -> int:
        return self.stream_window // 2 if self.stream_hold_back is None else self.stream_hold_back


def check(settings: Settings, environment: Environment | None = None) -> None:
    if settings.legs not in LEGS:
        raise SettingsError(PREFIX + "inspect must be one of request, response, request_response")
    if not settings.collector_id.strip():
        raise SettingsError(PREFIX + "collector_id is required")
    if not is_uuid(settings.collector_id.strip()):
        raise SettingsError(PREFIX + "collector_id must be a valid UUID")
    if settings.on_error not in ("", "fail_open", "fail_closed"):
        raise SettingsError(PREFIX + "on_error must be one of fail_open, fail_closed")
    if not 0 <= settings.stream_window <= MAX_WINDOW:
        raise SettingsError(PREFIX + f"stream_window must be between 0 and {MAX_WINDOW}")
    if settings.stream_window and not 0 <= settings.held_back < settings.stream_window:
        raise SettingsError(PREFIX + "stream_hold_back must be at least 0 and less than stream_window")
    if environment is not None and not (environment.trustguard_client_id and environment.trustguard_client_secret):
        raise SettingsError(
            PREFIX + "client credentials are not configured (set TRUSTGUARD_CLIENT_ID and TRUSTGUARD_CLIENT_SECRET)"
        )


def is_uuid(text: str) -> bool:
    """The 36-character, 32-hex, braced and urn forms."""
    if len(text) == 45 and text[:9].lower() == "urn:uuid:":
        text = text[9:]
    elif len(text) == 38 and text[0] == "{" and text[-1] == "}":
        text = text[1:-1]
    if len(text) not in (32, 36) or (len(text) == 36 and any(text[index] != "-" for index in (8, 13, 18, 23))):
        return False
    bare = text.replace("-", "") if len(text) == 36 else text
    return len(bare) == 32 and all(char in "0123456789abcdefABCDEF" for char in bare)
