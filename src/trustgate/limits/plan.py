"""The plan's throttle: a burst per minute and a quota per month of one gateway (spec 02 §6, 06 §14).

Checked once per authenticated request, before any policy. Fails open: state that cannot be reached limits nobody.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

import msgspec

from trustgate.limits.ops import Charge, Charged, Limits, LimitsUnavailable, Window

BURST_WINDOW_MS = 60_000


class PlanRefusal(msgspec.Struct, frozen=True):
    """A refused request: the limit that was hit, why (`burst` or `quota`) and the whole seconds to wait."""

    limit: int
    reason: str
    retry_after_s: int

    @property
    def message(self) -> str:
        if self.reason == "burst":
            return f"Request blocked: gateway burst rate limit exceeded. Retry after {self.retry_after_s}s."
        return f"Request blocked: monthly request quota exceeded. Retry after {self.retry_after_s}s."

    @property
    def body(self) -> bytes:
        """The JSON of the 429 answer, and of `error.data` on the MCP plane."""
        return msgspec.json.encode(
            {
                "error": "rate limit exceeded",
                "limit": self.limit,
                "message": self.message,
                "reason": self.reason,
                "retry_after_seconds": self.retry_after_s,
            }
        )

    @property
    def headers(self) -> list[tuple[str, str]]:
        return [
            ("Retry-After", str(self.retry_after_s)),
            ("X-RateLimit-Limit", str(self.limit)),
            ("X-RateLimit-Remaining", "0"),
            ("X-RateLimit-Reason", self.reason),
        ]


def _month(now: float) -> tuple[str, float]:
    """The UTC month of `now` as `YYYY-MM`, and the seconds until the next one."""
    at = datetime.fromtimestamp(now, UTC)
    following = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
    return f"{at.year:04d}-{at.month:02d}", following.timestamp() - now


async def plan_limit(
    limits: Limits, gateway_id: str, burst_per_min: int, quota_per_month: int, now: float
) -> PlanRefusal | None:
    """Count one request of the gateway; a refusal when a limit is exceeded, else None.

    `now` is Unix time in seconds; `quota_per_month` 0 means unlimited. Refused requests count against the burst, and
    then not against the quota. Raises `LimitsUnavailable` when the state cannot be reached: the caller lets the
    request pass, logs it and counts it as failed open.
    """
    month, left_s = _month(now)
    # A ceiling of 0 means "no bound" to the counters, but a plan's burst of 0 refuses everything.
    windows = [Window(f"gt:rl:burst:{gateway_id}", BURST_WINDOW_MS, burst_per_min)]
    if quota_per_month > 0:
        windows.append(Window(f"gt:rl:quota:{gateway_id}:{month}", math.ceil(left_s * 1000), quota_per_month))
    (charged,) = await limits.run((Charge(tuple(windows)),))
    if not isinstance(charged, Charged):
        raise LimitsUnavailable("unexpected reply")
    if charged.values[0] > burst_per_min:
        return PlanRefusal(burst_per_min, "burst", max(1, math.ceil(charged.ttls_ms[0] / 1000)))
    if len(windows) == 2 and charged.values[1] > quota_per_month:
        return PlanRefusal(quota_per_month, "quota", max(1, math.ceil(left_s)))
    return None
