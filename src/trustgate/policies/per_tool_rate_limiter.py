"""Policy `per_tool_rate_limiter`: call quotas per tool name in fixed windows (spec 04 §14.3).

Keys: `pertoolrl:<policy>:<dimension>:<subject>:<tool>:w<i>` and, so that a result that comes back twice in a
conversation counts once, `pertoolrl:dedupe:<policy>:<dimension>:<subject>:<call>`. In chat a call counts when its
result comes back; on MCP when the upstream has answered.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.limits import Charge, Charged, Op, Peek, Peeked, Reply, Window
from trustgate.policies.bodies import asks_for_stream
from trustgate.policies.conversation import Call, Prompt
from trustgate.policies.dialects import refuse_calls
from trustgate.policies.durations import SECOND, parse_duration, quote
from trustgate.policies.globs import tool_pattern
from trustgate.policies.model import (
    Effect,
    Headers,
    Mark,
    PolicyRequest,
    PolicyResponse,
    Run,
    header_text,
    reject,
    stop,
)
from trustgate.policies.per_tool_rate_limiter_settings import Settings, ToolRule, check, refuse
from trustgate.policies.plugin import REQUEST_BODY, RESPONSE_BODY, Binding, Plugin, PolicyError
from trustgate.policies.texts import answer_of, prompt_of
from trustgate.policies.tools import offered_tools, with_tools


class Quota(msgspec.Struct, frozen=True):
    """A rule, compiled. `windows` are (seconds, calls)."""

    matches: Any
    windows: tuple[tuple[int, int], ...]
    behavior: str

    @property
    def longest_s(self) -> int:
        return max(seconds for seconds, _ in self.windows)


class Result(msgspec.Struct, frozen=True):
    """A tool's result in a conversation, which counts once."""

    call_id: str
    tool: str
    quota: Quota
    charge: Charge


class Level(msgspec.Struct, frozen=True):
    """How far one window of a tool is used."""

    key: str
    seconds: int
    most: int
    count: int
    ttl_ms: int


class ToolQuota:
    def __init__(self, settings: Settings, binding: Binding) -> None:
        check(settings)
        self._binding = binding
        self._limits = binding.services.limits
        self._clock = binding.services.clock
        default = settings.behavior_default or "reject_response"
        self._quotas = tuple(_quota(rule, default) for rule in settings.rules)
        self._owner = f"{binding.policy_id}:{binding.dimension}:{binding.subject}"
        self.waits = self._limits.waits

    def _rule(self, tool: str) -> Quota | None:
        return next((quota for quota in self._quotas if quota.matches(tool)), None) if tool else None

    def _keys(self, tool: str, quota: Quota) -> tuple[str, ...]:
        return tuple(f"pertoolrl:{self._owner}:{tool}:w{index}" for index in range(len(quota.windows)))

    def _windows(self, tool: str, quota: Quota) -> tuple[Window, ...]:
        keys = self._keys(tool, quota)
        return tuple(Window(key, seconds * 1000) for key, (seconds, _) in zip(keys, quota.windows, strict=True))

    async def _spent(self, tools: dict[str, Quota], results: list[Result], mark: Mark) -> dict[str, Level]:
        """The tools without a call left before `results` were counted; all of it in one round trip."""
        if not tools and not results:
            return {}
        peeks: list[Op] = [Peek(self._keys(tool, quota)) for tool, quota in tools.items()]
        replies = await self._limits.run((*peeks, *(result.charge for result in results)))
        for result, reply in zip(results, replies[len(peeks) :], strict=True):
            self._report_counted(mark, result.tool, result.quota, reply, result.call_id)
        found: dict[str, Level] = {}
        for (tool, quota), reply in zip(tools.items(), replies, strict=False):
            if not isinstance(reply, Peeked):
                raise PolicyError("unexpected reply of the counters")
            keys = self._keys(tool, quota)
            for index, (seconds, most) in enumerate(quota.windows):
                if reply.values[index] >= most:
                    found[tool] = Level(keys[index], seconds, most, reply.values[index], reply.ttls_ms[index])
                    break
        return found

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        if not self._binding.subject:
            return None
        if request.plane == "MCP":
            return await self._mcp_request(request, mark)
        offered = offered_tools(request)
        prompt = prompt_of(request)
        if offered is None or prompt is None:
            return None
        ruled = {tool.name: quota for tool in offered if (quota := self._rule(tool.name)) is not None}
        spent = await self._spent(ruled, self._results(prompt), mark)
        dropped: set[str] = set()
        for tool in offered:
            level = spent.get(tool.name)
            if level is None:
                continue
            behavior = ruled[tool.name].behavior
            self._report(mark, tool.name, level, behavior)
            if behavior == "reject_response":
                return self._refusal(tool.name, level)
            if behavior == "strip_tool_from_request" or asks_for_stream(request):
                dropped.add(tool.name)
        if not dropped:
            return None
        return Effect(body=with_tools(request, [tool for tool in offered if tool.name not in dropped]))

    def _results(self, prompt: Prompt) -> list[Result]:
        """The results, in the newest round of calls, of tools that have a rule."""
        last = next((at for at in range(len(prompt.turns) - 1, -1, -1) if prompt.turns[at].calls), None)
        if last is None:
            return []
        names = {call.id: call.name for call in prompt.turns[last].calls if call.id}
        found: list[Result] = []
        for turn in prompt.turns[last + 1 :]:
            tool = names.get(turn.call_id) if turn.role == "tool" else None
            quota = self._rule(tool) if tool else None
            if tool is None or quota is None:
                continue
            windows = self._windows(tool, quota)
            dedupe = f"pertoolrl:dedupe:{self._owner}:{turn.call_id}"
            charge = Charge(windows, once_key=dedupe, once_ttl_ms=quota.longest_s * 1000)
            found.append(Result(turn.call_id, tool, quota, charge))
        return found

    async def pre_response(
        self, request: PolicyRequest, response: PolicyResponse, run: Run, mark: Mark
    ) -> Effect | None:
        if not self._binding.subject:
            return None
        if request.plane == "MCP":
            return await self._mcp_response(request, mark)
        if response.streaming:
            return None
        answer = answer_of(request, response.body)
        if answer is None or not answer.calls:
            return None
        ruled = {
            call.name: quota
            for call in answer.calls
            if (quota := self._rule(call.name)) is not None and quota.behavior == "inject_error_result"
        }
        spent = await self._spent(ruled, [], mark)
        refused: list[Call] = [call for call in answer.calls if call.name in spent]
        if not refused:
            return None
        for call in refused:
            self._report(mark, call.name, spent[call.name], "inject_error_result", call.id)
        text = "".join(
            f"The tool {quote(call.name)} (call {call.id}) is rate limited and was not executed."
            " Please slow down and retry later."
            for call in refused
        )
        refuse_calls(answer, refused, text)
        return stop(200, answer.encode())

    async def _mcp_request(self, request: PolicyRequest, mark: Mark) -> Effect | None:
        tool = _mcp_tool(request)
        quota = self._rule(tool)
        if quota is None:
            return None
        spent = await self._spent({tool: quota}, [], mark)
        if tool not in spent:
            return None
        self._report(mark, tool, spent[tool], quota.behavior)
        return self._refusal(tool, spent[tool])

    async def _mcp_response(self, request: PolicyRequest, mark: Mark) -> Effect | None:
        tool = _mcp_tool(request)
        quota = self._rule(tool)
        if quota is None:
            return None
        (reply,) = await self._limits.run((Charge(self._windows(tool, quota)),))
        self._report_counted(mark, tool, quota, reply)
        return None

    def _report_counted(self, mark: Mark, tool: str, quota: Quota, reply: Reply, call_id: str = "") -> None:
        """Tell of the first window of a call that was just counted; one that had been counted before is not told."""
        if isinstance(reply, Charged) and reply.values:
            key, (seconds, most) = self._keys(tool, quota)[0], quota.windows[0]
            level = Level(key, seconds, most, reply.values[0], reply.ttls_ms[0])
            mark.extras = self._extras(mark, tool, level, quota.behavior, exceeded=False, call_id=call_id)

    def _report(self, mark: Mark, tool: str, spent: Level, behavior: str, call_id: str = "") -> None:
        mark.decision = self._binding.label
        mark.extras = self._extras(mark, tool, spent, behavior, exceeded=True, call_id=call_id)

    def _extras(
        self, mark: Mark, tool: str, level: Level, behavior: str, *, exceeded: bool, call_id: str
    ) -> dict[str, Any]:
        return {
            "stage": mark.stage,
            "counter_key": level.key,
            "tool": tool,
            **({"tool_call_id": call_id} if call_id else {}),
            "dimension": self._binding.dimension,
            "subject": self._binding.subject,
            "window_max": level.most,
            "window_seconds": level.seconds,
            "current_count": level.count,
            "behavior": behavior,
            "limit_exceeded": exceeded,
        }

    def _refusal(self, tool: str, spent: Level) -> Effect:
        dimension = self._binding.dimension
        left_s = -(-spent.ttl_ms // 1000) or spent.seconds
        headers: Headers = [
            (f"X-RateLimit-{dimension}-Limit", str(spent.most)),
            (f"X-RateLimit-{dimension}-Remaining", str(max(0, spent.most - spent.count))),
            (f"X-RateLimit-{dimension}-Reset", str(int(self._clock()) + left_s)),
            ("X-RateLimit-Tool", header_text(tool)),
            ("Retry-After", str(left_s)),
        ]
        return reject(429, f"tool {quote(tool)} rate limit exceeded", headers=headers)


def _quota(rule: ToolRule, default: str) -> Quota:
    windows = tuple((parse_duration(window.duration) // SECOND, window.max) for window in rule.windows)
    return Quota(tool_pattern(rule.tool), windows, rule.behavior or default)


class _McpCall(msgspec.Struct):
    name: Any = None


def _mcp_tool(request: PolicyRequest) -> str:
    """The tool of a call; empty for prompts and resources, whose names are not tools'."""
    if request.operation not in ("", "tools/call"):
        return ""
    try:
        name = msgspec.json.decode(request.body, type=_McpCall).name
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return name if isinstance(name, str) else ""


PLUGIN = Plugin(
    slug="per_tool_rate_limiter",
    name="Per-Tool Rate Limiter",
    description=(
        "Fixed-window call quotas per tool name, for executed tool calls in chat traffic and for MCP tool calls."
    ),
    group="Traffic Control",
    mandatory=("pre_request", "pre_response"),
    supported=("pre_request", "pre_response"),
    modes=("enforce",),
    protocols=("LLM", "MCP"),
    capabilities=frozenset((REQUEST_BODY, RESPONSE_BODY)),
    settings=Settings,
    check=check,
    build=ToolQuota,
    refuse=refuse,
)
