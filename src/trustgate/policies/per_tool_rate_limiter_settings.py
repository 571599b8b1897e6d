"""Settings of `per_tool_rate_limiter` (spec 04 §14.3)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from trustgate.policies.durations import SECOND, parse_duration, quote
from trustgate.policies.globs import PatternError, tool_pattern
from trustgate.policies.plugin import Environment
from trustgate.policies.settings import SettingsError, options, setting

BEHAVIORS = ("reject_response", "inject_error_result", "strip_tool_from_request")
BEHAVIOR_MESSAGE = f"behavior must be one of {', '.join(BEHAVIORS)}"


class WindowRule(msgspec.Struct, frozen=True, kw_only=True):
    duration: Annotated[
        str, setting("Duration", "Whole seconds, 1s or more, e.g. 1m.", kind="duration", required=True)
    ] = ""
    max: Annotated[int, setting("Max", "Calls per window, above 0.", required=True)] = 0


class ToolRule(msgspec.Struct, frozen=True, kw_only=True):
    tool: Annotated[str, setting("Tool", "Glob over the tool name.", required=True)] = ""
    windows: Annotated[
        tuple[WindowRule, ...],
        setting("Windows", "Quotas that must all hold.", required=True, item=setting("Window", key="window")),
    ] = ()
    behavior: Annotated[
        str,
        setting(
            "Behavior",
            "What to do when spent; MCP consumers accept reject_response only.",
            options=options(*BEHAVIORS),
        ),
    ] = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    rules: Annotated[
        tuple[ToolRule, ...],
        setting(
            "Rules",
            "Checked in order; the first pattern that fits a tool applies.",
            required=True,
            item=setting("Rule", key="rule"),
        ),
    ] = ()
    behavior_default: Annotated[
        str,
        setting(
            "Behavior Default",
            "Used by rules that name no behavior.",
            shown="reject_response",
            options=options(*BEHAVIORS),
        ),
    ] = ""


def check(settings: Settings, environment: Environment | None = None) -> None:
    prefix = "per_tool_rate_limiter: "
    if not settings.rules:
        raise SettingsError(prefix + "rules must not be empty")
    if settings.behavior_default and settings.behavior_default not in BEHAVIORS:
        raise SettingsError(f"{prefix}behavior_default: {BEHAVIOR_MESSAGE}")
    for rule in settings.rules:
        if not rule.tool.strip():
            raise SettingsError(prefix + "rule tool must not be empty")
        name = f"{prefix}rule {quote(rule.tool)}"
        try:
            tool_pattern(rule.tool)
        except PatternError as error:
            raise SettingsError(f"{name}: invalid tool pattern: {error}") from None
        if not rule.windows:
            raise SettingsError(f"{name}: at least one window is required")
        for index, window in enumerate(rule.windows):
            _check_window(f"{name} window {index}", window)
        if rule.behavior and rule.behavior not in BEHAVIORS:
            raise SettingsError(BEHAVIOR_MESSAGE)


def _check_window(name: str, window: WindowRule) -> None:
    try:
        duration = parse_duration(window.duration)
    except ValueError as error:
        raise SettingsError(f"{name}: invalid duration {quote(window.duration)}: {error}") from None
    if duration < SECOND or duration % SECOND:
        raise SettingsError(f"{name}: duration must be a whole number of seconds >= 1s")
    if window.max <= 0:
        raise SettingsError(f"{name}: max must be > 0")


def refuse(settings: Settings, protocol: str) -> str | None:
    """On MCP a refused call is never sent, so only `reject_response` can be honoured there."""
    if protocol != "MCP":
        return None
    offenders = []
    if settings.behavior_default not in ("", "reject_response"):
        offenders.append(f"behavior_default {quote(settings.behavior_default)}")
    offenders += [
        f"rule {quote(rule.tool)} behavior {quote(rule.behavior)}"
        for rule in settings.rules
        if rule.behavior not in ("", "reject_response")
    ]
    if not offenders:
        return None
    return (
        f"per_tool_rate_limiter: {', '.join(offenders)} cannot be honoured on MCP, where a refused call is never sent"
        " and there is no request to rewrite; use reject_response or attach this policy to an LLM consumer"
    )
