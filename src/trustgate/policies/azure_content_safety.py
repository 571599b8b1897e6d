"""Policy `azure_content_safety`: prompts screened by Azure's text analysis, by severity (spec 04 §14.13)."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from trustgate.policies.azure_content_safety_settings import (
    CATEGORIES,
    DEFAULT_MESSAGE,
    FOUR,
    Settings,
    check,
)
from trustgate.policies.model import Effect, Extras, Mark, PolicyRequest, Run, reject
from trustgate.policies.plugin import Binding, Plugin, PolicyError
from trustgate.policies.replies import read_reply
from trustgate.policies.texts import prompt_of, prompt_text

TIMEOUT_S = 10.0
HIGHEST_SEVERITY = 7


class _Analysis(msgspec.Struct):
    category: str = ""
    severity: int = 0


class _Answer(msgspec.Struct):
    categoriesAnalysis: list[_Analysis] = []


class SafetyExtras(Extras, kw_only=True):
    endpoint: str = ""
    output_type: str = ""
    severities: dict[str, int] = msgspec.field(default_factory=dict)
    breached_categories: list[dict[str, Any]] = msgspec.field(default_factory=list)
    decision: str = ""
    mode: str = ""
    latency_ms: int = 0
    failed_open: bool = False


class AzureContentSafety:
    waits = True

    def __init__(self, settings: Settings, binding: Binding) -> None:
        check(settings)
        self._http = binding.services.http
        self._blocking = binding.blocking
        self._mode = binding.mode
        self._endpoint = settings.endpoint.strip()
        self._output_type = settings.output_type or FOUR
        self._categories = settings.categories or CATEGORIES
        self._thresholds = settings.category_severity
        self._message = settings.message or DEFAULT_MESSAGE
        self._headers = (("Ocp-Apim-Subscription-Key", settings.api_key), ("Content-Type", "application/json"))

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        prompt = prompt_of(request) if request.provider else None
        text = prompt_text(prompt) if prompt is not None else ""
        if not text.strip():
            return None
        extras = SafetyExtras(endpoint=self._endpoint, output_type=self._output_type, mode=self._mode)
        started = time.perf_counter()
        try:
            severities = await self._ask(text)
        except PolicyError:
            extras.failed_open = True
            if not self._blocking:
                return None
            extras.decision = mark.decision = "failed_closed"
            raise
        else:
            return self._judge(severities, mark, extras)
        finally:
            extras.latency_ms = round((time.perf_counter() - started) * 1000)
            mark.tell(extras)

    def _judge(self, severities: dict[str, int], mark: Mark, extras: SafetyExtras) -> Effect | None:
        extras.severities = severities
        breached = [
            {"category": name, "severity": severity, "threshold": self._thresholds[name]}
            for name, severity in severities.items()
            if name in self._thresholds and severity >= self._thresholds[name]
        ]
        if not breached:
            extras.decision = mark.decision = "allowed"
            return None
        extras.breached_categories = breached
        worst = max(breached, key=lambda found: found["severity"])
        mark.score, mark.score_label = worst["severity"] / HIGHEST_SEVERITY, worst["category"]
        if not self._blocking:
            extras.decision = mark.decision = "reported"
            return None
        extras.decision, mark.decision = "blocked", "block"
        error = {"type": "content_flagged", "message": self._message, "categories": breached}
        return reject(403, self._message, type="content_flagged", body={"error": error})

    async def _ask(self, text: str) -> dict[str, int]:
        body = {"text": text, "categories": list(self._categories), "outputType": self._output_type}
        reply = await self._http(self._endpoint, self._headers, msgspec.json.encode(body), timeout_s=TIMEOUT_S)
        if not 200 <= reply.status < 300:
            raise PolicyError(f"content safety answered {reply.status}")
        found = read_reply(reply, _Answer, "content safety").categoriesAnalysis
        return {analysis.category: analysis.severity for analysis in found}


PLUGIN = Plugin(
    slug="azure_content_safety",
    name="Azure Content Safety",
    description="Prompt screening by the Azure AI text analysis API, by severity per harm category.",
    group="Guardrails",
    mandatory=("pre_request",),
    supported=("pre_request",),
    inspects=True,
    settings=Settings,
    check=check,
    build=AzureContentSafety,
    secrets=(("api_key",),),
)
