"""Counters and small shared state: one interface, in process (`memory`) or in Redis (`redis`). See `ops`."""

from trustgate.limits.memory import MemoryLimits
from trustgate.limits.ops import (
    Charge,
    Charged,
    Limits,
    LimitsUnavailable,
    Op,
    Peek,
    Peeked,
    Reply,
    Reserve,
    Reserved,
    Settle,
    Slid,
    Slide,
    Window,
)
from trustgate.limits.plan import PlanRefusal, plan_limit

__all__ = [
    "Charge",
    "Charged",
    "Limits",
    "LimitsUnavailable",
    "MemoryLimits",
    "Op",
    "Peek",
    "Peeked",
    "PlanRefusal",
    "Reply",
    "Reserve",
    "Reserved",
    "Settle",
    "Slid",
    "Slide",
    "Window",
    "plan_limit",
]
