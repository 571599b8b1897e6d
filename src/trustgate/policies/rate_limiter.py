"""Policy `rate_limiter`: a sliding-window request quota (spec 04 §14.1).

Key: `ratelimit:<policy>:<dimension>:<subject>[:hdr:<value>]`. Check and record are one atomic operation.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import trio

from trustgate.limits import Slid, Slide
from trustgate.policies.durations import SECOND, format_duration, parse_duration
from trustgate.policies.model import Effect, Headers, Mark, PolicyRequest, Run, header_text, reject
from trustgate.policies.plugin import Binding, Environment, Plugin, PolicyError
from trustgate.policies.settings import SettingsError, setting

LONGEST_DELAY_S = 2.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    limit: Annotated[int, setting("Limit", "Requests per window, above 0.", required=True)] = 0
    window: Annotated[
        str, setting("Window", "Window length, 1s or more, e.g. 10s, 1m, 1h.", kind="duration", required=True)
    ] = ""
    retry_after: Annotated[
        str, setting("Retry After", "Retry-After value on refusal; unset means the window in seconds.")
    ] = ""
    group_by_header: Annotated[str, setting("Group By Header", "Header whose value gets its own counter.")] = ""


def check(settings: Settings, environment: Environment | None = None) -> None:
    if settings.limit <= 0:
        raise SettingsError("rate_limiter: limit must be positive")
    _window_ns(settings)


def _window_ns(settings: Settings) -> int:
    if not settings.window:
        raise SettingsError("rate_limiter: window is required")
    try:
        window = parse_duration(settings.window)
    except ValueError as error:
        raise SettingsError(f"rate_limiter: invalid window: {error}") from None
    if window < SECOND:
        raise SettingsError(f"rate_limiter: window must be at least 1s, got {format_duration(window)}")
    return window


class RateLimiter:
    """One policy's limiter. In throttle mode it delays instead of refusing, at most 2 s."""

    def __init__(self, settings: Settings, binding: Binding) -> None:
        check(settings)
        window_ns = _window_ns(settings)
        self._binding = binding
        self._limits = binding.services.limits
        self._clock = binding.services.clock
        self._limit = settings.limit
        self._window = settings.window
        self._window_s = window_ns / SECOND
        self._window_ms = window_ns // 1_000_000
        self._retry_after = settings.retry_after or str(-(-window_ns // SECOND))
        self._header = settings.group_by_header.lower().encode()
        self._key = f"ratelimit:{binding.policy_id}:{binding.dimension}:{binding.subject}"
        self._observes = binding.mode == "observe"
        self._delay_s = min(self._window_s / settings.limit, LONGEST_DELAY_S) if binding.mode == "throttle" else 0.0
        self._names = tuple(f"X-RateLimit-{binding.dimension}-{what}" for what in ("Limit", "Remaining", "Reset"))
        self._limit_text = str(settings.limit)
        self.waits = self._limits.waits or self._delay_s > 0

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        self._binding.owner()
        key = self._key
        if self._header and (value := request.header(self._header)):
            key = f"{key}:hdr:{value}"
        reset = str(int(self._clock() + self._window_s))
        slid = await self._slide(key, self._observes)
        count, exceeded = slid.count, slid.count >= self._limit
        extras = mark.extras = {"rate_limit_exceeded": exceeded, "exceeded_type": self._binding.dimension}
        if exceeded:
            mark.decision = self._binding.label
            extras["retry_after"] = self._retry_after
        extras["current_count"] = count
        extras["limit"] = self._limit
        extras["window"] = self._window
        if not slid.recorded:
            if not self._delay_s:
                return self._refusal(max(0, self._limit - count), reset)
            # Recorded behind the delay: a client that leaves while it waits has used nothing.
            await trio.sleep(self._delay_s)
            await self._slide(key, always=True)
        return Effect(headers=self._headers(max(0, self._limit - count - 1), reset))

    async def _slide(self, key: str, always: bool) -> Slid:
        (slid,) = await self._limits.run((Slide(key, self._window_ms, self._limit, always),))
        if not isinstance(slid, Slid):
            raise PolicyError("unexpected reply of the counters")
        return slid

    def _headers(self, remaining: int, reset_at: str) -> Headers:
        limit, left, reset = self._names
        return [(limit, self._limit_text), (left, str(remaining)), (reset, reset_at)]

    def _refusal(self, remaining: int, reset_at: str) -> Effect:
        dimension = self._binding.dimension
        message = f"Request blocked: {dimension} rate limit exceeded. Retry after {self._retry_after}s."
        body = {"error": "rate limit exceeded", "limit": self._limit, "message": message, "reason": dimension}
        seconds = _positive_int(self._retry_after)
        if seconds:
            body["retry_after_seconds"] = seconds
        body |= {"scope": dimension, "window": self._window}
        headers = [*self._headers(remaining, reset_at), ("Retry-After", header_text(self._retry_after))]
        return reject(429, message, type="rate_limit_exceeded", body=body, headers=headers)


def _positive_int(text: str) -> int:
    """A whole number of 64 bits, 0 for any other text."""
    number = int(text) if len(text) < 20 and text.isascii() and text.isdigit() else 0
    return number if number < 1 << 63 else 0


PLUGIN = Plugin(
    slug="rate_limiter",
    name="Rate Limiter",
    description="Sliding-window request quota, kept per consumer, per gateway, or per value of a header.",
    group="Traffic Control",
    mandatory=("pre_request",),
    supported=("pre_request",),
    modes=("enforce", "throttle", "observe"),
    protocols=("LLM", "MCP"),
    settings=Settings,
    check=check,
    build=RateLimiter,
)
