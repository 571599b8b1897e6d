"""Policy `trustguard`: traffic evaluated by the TrustGuard service: block, report or mask (spec 04 §14.15)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from trustgate.policies import trustguard_masking as masking
from trustgate.policies import trustguard_payload as payloads
from trustgate.policies.conversation import Call
from trustgate.policies.dialects import format_of
from trustgate.policies.holdback import HoldBack, Said
from trustgate.policies.model import (
    Effect,
    Extras,
    Headers,
    Mark,
    Outcome,
    PolicyRequest,
    PolicyResponse,
    Run,
    reject,
    stop,
)
from trustgate.policies.plugin import REQUEST_BODY, RESPONSE_BODY, Binding, HttpReply, Plugin, PolicyError
from trustgate.policies.reassembly import reassemble
from trustgate.policies.texts import answer_of, prompt_of
from trustgate.policies.tools import offered_tools
from trustgate.policies.trustguard_client import Finding, TrustGuardClient, Unauthorized, Verdict, read_verdict
from trustgate.policies.trustguard_settings import Settings, check

log = structlog.get_logger("trustgate.policies.trustguard")

FORWARDED = ("Retry-After", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reason")
LIMITED = b'{"error":"rate limit exceeded","message":"Request blocked: rate limit exceeded."}'
NO_ENTITLEMENTS = b'{"error":"rate limit entitlements unavailable"}'
UNAVAILABLE = "trustguard unavailable"
FAILURES = "trustguard_evaluate_failures_total"

SEVERITY = ("", "allowed", "reported", "transformed", "failed_open", "failed_closed", "block")
"""Decisions on the windows of one stream: the last of them is told of it."""

Apply = Callable[[Any], Effect]
"""Puts a transformed payload into effect; raises `MaskingFailed`."""


class GuardExtras(Extras, kw_only=True):
    direction: str = ""
    status: str = ""
    decision: str = ""
    trace_id: str = ""
    request_id: str = ""
    findings_count: int = 0
    findings: list[Finding] = msgspec.field(default_factory=list)
    failed_open: bool = False
    failed_closed: bool = False
    failure_reason: str = ""
    degraded: bool = False
    degraded_reason: str = ""


class TrustGuard:
    waits = True

    def __init__(self, settings: Settings, binding: Binding) -> None:
        check(settings)
        self._binding = binding
        self._blocking = binding.blocking
        self._fail_closed = settings.on_error == "fail_closed"
        self._on_request = settings.legs in ("request", "request_response")
        self._on_response = settings.legs in ("response", "request_response")
        self._window, self._hold_back = settings.stream_window, settings.held_back
        self._in_flow = bool(self._window) and self._blocking and self._on_response
        self._client = TrustGuardClient(binding.services, settings.collector_id.strip(), binding.gateway_id)
        self._count = binding.services.count

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        if not self._on_request or not self._ready():
            return None
        if request.plane == "MCP":
            payload = payloads.mcp_input(request.body, request.operation)
            return await self._guard(
                request, "input", payload, mark, lambda new: Effect(body=masking.mask_tool_call(request.body, new))
            )
        prompt = prompt_of(request)
        if prompt is None:
            return None
        payload = payloads.llm_input(prompt, offered_tools(request) or [])
        return await self._guard(
            request, "input", payload, mark, lambda new: Effect(body=masking.mask_prompt(prompt, new))
        )

    async def pre_response(
        self, request: PolicyRequest, response: PolicyResponse, run: Run, mark: Mark
    ) -> Effect | None:
        if not self._on_response or response.streaming or not self._ready():
            return None
        if request.plane == "MCP":
            payload = payloads.mcp_output(response.body)
            return await self._guard(
                request,
                "output",
                payload,
                mark,
                lambda new: stop(200, masking.mask_tool_result(response.body, new)),
            )
        answer = answer_of(request, response.body)
        if answer is None:
            return None
        payload = payloads.llm_output(answer.text, answer.reasoning, answer.calls, offered_tools(request) or [])
        return await self._guard(
            request, "output", payload, mark, lambda new: stop(200, masking.mask_answer(answer, new))
        )

    def watch_stream(self, request: PolicyRequest, mark: Mark) -> HoldBack | None:
        """Streams as they flow, where the settings ask for it.

        After a failure that lets traffic pass, the rest of the stream passes without being evaluated: a service in
        trouble would stall each of its windows.
        """
        if not self._in_flow or not self._ready():
            return None
        tools = offered_tools(request) or []
        failed_open = False

        async def judge(said: list[Said]) -> Outcome | None:
            nonlocal failed_open
            payload = None if failed_open else payloads.llm_stream(said, tools)
            window = Mark(name=mark.name, stage=mark.stage)

            def apply(new: Any) -> Effect:
                masking.mask_stream(said, new)
                return Effect()

            effect = await self._guard(request, "output", payload, window, apply)
            failed_open = failed_open or window.decision == "failed_open"
            if SEVERITY.index(window.decision) >= SEVERITY.index(mark.decision):
                mark.decision, mark.extras = window.decision, window.extras or mark.extras
                mark.score, mark.score_label = window.score, window.score_label
            return effect.outcome if effect is not None else None

        return HoldBack(format_of(request), judge, self._window, self._hold_back)

    async def post_response(
        self, request: PolicyRequest, response: PolicyResponse, run: Run, mark: Mark
    ) -> Effect | None:
        """Streams, once they are over: what was found shows in telemetry only, a refusal with its status too."""
        if not self._on_response or self._in_flow or not response.streaming or not self._ready():
            return None
        said = reassemble(format_of(request), response.body)
        calls = [Call(call.id, call.name, call.arguments) for call in said.calls]
        payload = payloads.llm_output(said.text, said.reasoning, calls, offered_tools(request) or [])
        return await self._guard(request, "output", payload, mark, lambda new: Effect())

    def _ready(self) -> bool:
        if not self._client.configured:
            log.warning("TrustGuard is not configured; traffic passes", policy_id=self._binding.policy_id)
        return self._client.configured

    async def _guard(
        self, request: PolicyRequest, direction: str, payload: Any, mark: Mark, apply: Apply
    ) -> Effect | None:
        if payload is None:
            return None
        extras = GuardExtras(direction=direction)
        body = msgspec.json.encode(self._evaluation(request, direction, payload))
        playground = bool(request.header(b"x-ag-playground-token"))
        try:
            reply = await self._client.evaluate(body, request.trace_id, playground)
            refusal = self._refusal(reply, mark, extras)
            if refusal is not None:
                return refusal
            if not 200 <= reply.status < 300:
                raise PolicyError(f"TrustGuard answered {reply.status}")
            verdict = read_verdict(reply)
        except PolicyError as error:
            return self._failed(error, mark, extras)
        else:
            return self._judge(verdict, mark, extras, apply)
        finally:
            mark.tell(extras)

    def _evaluation(self, request: PolicyRequest, direction: str, payload: Any) -> dict[str, Any]:
        model = {"name": request.requested_model, "provider": request.provider}
        return {
            "payload": payload,
            "direction": direction,
            "protocol": payloads.protocol_of(request),
            "gateway_id": request.gateway_id,
            "session_id": request.session_id,
            "consumer_id": request.consumer_id,
            "attributes": {
                "content_type": "application/json",
                "model": {key: value for key, value in model.items() if value.strip()},
            },
        }

    def _refusal(self, reply: HttpReply, mark: Mark, extras: GuardExtras) -> Effect | None:
        """Answers that refuse the request in every mode: limits of the service, and its mistrust of us."""
        if reply.status == 429:
            extras.decision, mark.decision = "blocked", "block"
            headers: Headers = [
                (name, reply.headers[name.lower()]) for name in FORWARDED if reply.headers.get(name.lower())
            ]
            return reject(429, "rate limit exceeded", body=reply.body or LIMITED, headers=headers)
        if reply.status == 503:
            extras.decision = mark.decision = "failed_closed"
            extras.failed_closed = True
            return reject(
                503,
                "rate limit entitlements unavailable",
                type="trustguard_unavailable",
                body=reply.body or NO_ENTITLEMENTS,
            )
        if reply.status in (401, 403):
            extras.decision = mark.decision = "failed_closed"
            extras.failed_closed, extras.failure_reason = True, "unauthorized"
            self._count(FAILURES, {"reason": "unauthorized"})
            message = "trustguard authentication or configuration rejected"
            body = {"error": "trustguard_unauthorized", "message": message, "upstream_status": reply.status}
            return reject(502, message, type="trustguard_unauthorized", body=body)
        return None

    def _failed(self, error: PolicyError, mark: Mark, extras: GuardExtras) -> Effect | None:
        log.warning("TrustGuard could not evaluate", policy_id=self._binding.policy_id, error=str(error))
        reason = "unauthorized" if isinstance(error, Unauthorized) else "transport"
        extras.failure_reason = reason
        if not self._fail_closed:
            extras.decision = mark.decision = "failed_open"
            extras.failed_open = True
            return None
        extras.decision = mark.decision = "failed_closed"
        extras.failed_closed = True
        self._count(FAILURES, {"reason": reason})
        body = {"error": "trustguard_error", "message": UNAVAILABLE}
        return reject(502, UNAVAILABLE, type="trustguard_error", body=body)

    def _judge(self, verdict: Verdict, mark: Mark, extras: GuardExtras, apply: Apply) -> Effect | None:
        findings = verdict.findings
        extras.status, extras.trace_id, extras.request_id = verdict.status, verdict.trace_id, verdict.request_id
        extras.findings_count, extras.findings = len(findings), findings
        if verdict.status not in ("block", "report", "transform"):
            extras.decision = mark.decision = "allowed"
            return None
        primary = primary_finding(findings)
        if primary is not None:
            mark.score, mark.score_label = primary.signal.confidence, primary.signal.type
        if not self._blocking or verdict.status == "report":
            extras.decision = mark.decision = "reported"
            return None
        if verdict.status == "transform":
            try:
                effect = apply(verdict.transformed_payload)
            except masking.MaskingFailed as failure:
                extras.degraded, extras.degraded_reason = True, str(failure)
            else:
                extras.decision = mark.decision = "transformed"
                return effect
        extras.decision, mark.decision = "blocked", "block"
        message = block_message(findings)
        return reject(403, message, type="trustguard_blocked", body=block_body(verdict, primary, message))


def primary_finding(findings: list[Finding]) -> Finding | None:
    """The surest finding with a signal type and an outcome action, else with a signal type."""
    typed = [finding for finding in findings if finding.signal.type]
    acted = [finding for finding in typed if finding.outcome.action]
    return max(acted or typed, key=lambda finding: finding.signal.confidence, default=None)


def block_message(findings: list[Finding]) -> str:
    primary = primary_finding(findings) or next(iter(findings), None)
    if primary is None:
        return "request blocked due to a policy infraction"
    name = primary.source.detector_name or primary.source.gate_name
    prefix = "Request blocked by security policy"
    if primary.signal.type:
        return f"{prefix}: {primary.signal.type} ({name})." if name else f"{prefix}: {primary.signal.type}."
    return f"{prefix} ({name})." if name else "request blocked due to a policy infraction"


def block_body(verdict: Verdict, primary: Finding | None, message: str) -> dict[str, str]:
    source = primary.source if primary is not None else None
    body = {
        "status": verdict.status,
        "message": message,
        "type": "trustguard_blocked",
        "reason": primary.signal.type if primary is not None else "",
        "plugin": source.plugin if source is not None else "",
        "detector_name": source.detector_name if source is not None else "",
        "gate_name": source.gate_name if source is not None else "",
        "trace_id": verdict.trace_id,
        "request_id": verdict.request_id,
    }
    return {key: value for key, value in body.items() if value}


PLUGIN = Plugin(
    slug="trustguard",
    name="TrustGuard",
    description="Prompt, answer and tool-traffic evaluation by the TrustGuard service: block, report or mask.",
    group="Guardrails",
    mandatory=("pre_request", "pre_response", "post_response"),
    supported=("pre_request", "pre_response", "post_response"),
    protocols=("LLM", "MCP"),
    capabilities=frozenset((REQUEST_BODY, RESPONSE_BODY)),
    settings=Settings,
    check=check,
    build=TrustGuard,
)
