"""Settings of `prompt_compression` (spec 04 §14.10)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from trustgate.policies.plugin import Environment
from trustgate.policies.settings import SettingsError, options, setting

PREFIX = "prompt_compression: "
DEFAULT_MIN_LENGTH = 256
DEFAULT_MAX_BODY = 1_048_576


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    compress_json: Annotated[
        bool, setting("Compress JSON", "Minify JSON text, json code fences and tool-call arguments.", shown=True)
    ] = True
    normalize_whitespace: Annotated[
        bool, setting("Normalize Whitespace", "Drop trailing blanks and surplus empty lines.", shown=True)
    ] = True
    strip_ansi: Annotated[bool, setting("Strip ANSI", "Drop terminal escape sequences.", shown=True)] = True
    max_consecutive_blank_lines: Annotated[
        int, setting("Max Consecutive Blank Lines", "Empty lines kept in a row, 1 to 1000.", shown=1)
    ] = 1
    min_length: Annotated[
        int, setting("Min Length", "Leave texts shorter than this many bytes alone.", shown=DEFAULT_MIN_LENGTH)
    ] = DEFAULT_MIN_LENGTH
    max_body_bytes: Annotated[
        int, setting("Max Body Bytes", "Leave larger bodies alone; 0 lifts the bound.", shown=DEFAULT_MAX_BODY)
    ] = DEFAULT_MAX_BODY
    target_roles: Annotated[
        tuple[str, ...],
        setting(
            "Target Roles",
            "Roles to touch; none listed means all.",
            item=setting("Role", key="role", options=options("system", "user", "assistant", "tool")),
        ),
    ] = ()


def check(settings: Settings, environment: Environment | None = None) -> None:
    if not (settings.compress_json or settings.normalize_whitespace or settings.strip_ansi):
        raise SettingsError(PREFIX + "at least one transform must be enabled")
    if not 1 <= settings.max_consecutive_blank_lines <= 1000:
        raise SettingsError(PREFIX + "max_consecutive_blank_lines must be between 1 and 1000")
    if settings.min_length < 0:
        raise SettingsError(PREFIX + "min_length must not be negative")
    if settings.max_body_bytes < 0:
        raise SettingsError(PREFIX + "max_body_bytes must not be negative")
    if any(not role.strip() for role in settings.target_roles):
        raise SettingsError(PREFIX + "target_roles contains an empty role")
