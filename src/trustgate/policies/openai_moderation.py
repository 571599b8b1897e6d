"""Policy `openai_moderation`: prompts and answers screened by OpenAI's moderation endpoint (spec 04 §14.12)."""

from __future__ import annotations

from typing import Any

import msgspec

from trustgate.policies.model import Effect, Extras, Mark, PolicyRequest, PolicyResponse, Run, reject
from trustgate.policies.openai_moderation_settings import DEFAULT_MESSAGE, DEFAULT_MODEL, Settings, check
from trustgate.policies.plugin import Binding, Plugin, PolicyError
from trustgate.policies.replies import read_reply
from trustgate.policies.texts import answer_of, prompt_of, prompt_text

UNAVAILABLE = {"error": {"type": "moderation_unavailable", "message": "content moderation is temporarily unavailable"}}


class _Result(msgspec.Struct):
    flagged: bool = False
    categories: dict[str, bool] = {}
    category_scores: dict[str, float] = {}


class _Answer(msgspec.Struct):
    results: list[_Result] = []


class ModerationExtras(Extras, kw_only=True):
    model: str = ""
    category_scores: dict[str, float] = msgspec.field(default_factory=dict)
    max_score: float
    max_score_category: str = ""
    flagged_by_openai: bool
    flagged_categories: list[dict[str, Any]] = msgspec.field(default_factory=list)
    decision: str = ""


class OpenAIModeration:
    waits = True

    def __init__(self, settings: Settings, binding: Binding) -> None:
        check(settings)
        environment = binding.services.environment
        self._http = binding.services.http
        self._settings = settings
        self._blocking = binding.blocking
        self._model = settings.model or DEFAULT_MODEL
        self._message = settings.action.message.strip() or DEFAULT_MESSAGE
        self._legs = frozenset(settings.stages or ("pre_request", "pre_response"))
        base = environment.openai_moderation_base_url.rstrip("/") or "https://api.openai.com"
        self._url = f"{base}/v1/moderations"
        self._timeout_s = environment.openai_moderation_timeout_s
        self._headers = (("Authorization", f"Bearer {settings.api_key}"), ("Content-Type", "application/json"))

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        if "pre_request" not in self._legs or not request.provider:
            return None
        prompt = prompt_of(request)
        return await self._screen(prompt_text(prompt), mark) if prompt is not None else None

    async def pre_response(
        self, request: PolicyRequest, response: PolicyResponse, run: Run, mark: Mark
    ) -> Effect | None:
        if "pre_response" not in self._legs or response.streaming or not request.provider:
            return None
        answer = answer_of(request, response.body)
        return await self._screen(answer.text, mark) if answer is not None else None

    async def _screen(self, text: str, mark: Mark) -> Effect | None:
        if not text.strip():
            return None
        extras = ModerationExtras(model=self._model, max_score=0.0, flagged_by_openai=False)
        try:
            results = await self._ask(text)
        except PolicyError:
            extras.decision = mark.decision = "unavailable" if self._blocking else "failed_open"
            return reject(502, UNAVAILABLE["error"]["message"], body=UNAVAILABLE) if self._blocking else None
        else:
            return self._judge(results, mark, extras)
        finally:
            mark.tell(extras)

    async def _ask(self, text: str) -> list[_Result]:
        body = msgspec.json.encode({"model": self._model, "input": [{"type": "text", "text": text}]})
        reply = await self._http(self._url, self._headers, body, timeout_s=self._timeout_s)
        if not 200 <= reply.status < 300:
            raise PolicyError(f"moderation answered {reply.status}")
        return read_reply(reply, _Answer, "moderation").results

    def _judge(self, results: list[_Result], mark: Mark, extras: ModerationExtras) -> Effect | None:
        scores: dict[str, float] = {}
        flags: dict[str, bool] = {}
        for result in results:
            for category, score in result.category_scores.items():
                scores[category] = max(scores.get(category, 0.0), score)
            for category, flag in result.categories.items():
                flags[category] = flags.get(category, False) or flag
        chosen = set(self._settings.categories)
        evaluated = sorted(name for name in scores.keys() | flags.keys() if not chosen or name in chosen)
        violations = [found for name in evaluated if (found := self._violation(name, scores, flags)) is not None]
        top = max(evaluated, key=lambda name: scores.get(name, 0.0), default="")
        extras.category_scores = {name: scores[name] for name in evaluated if name in scores}
        extras.max_score, extras.max_score_category = scores.get(top, 0.0), top
        extras.flagged_by_openai = any(result.flagged for result in results)
        if not violations:
            extras.decision = mark.decision = "allowed"
            return None
        extras.flagged_categories = violations
        mark.score, mark.score_label = scores.get(top, 0.0), top
        extras.decision = mark.decision = "block" if self._blocking else "reported"
        if not self._blocking:
            return None
        error = {"type": "content_flagged", "message": self._message, "categories": violations}
        return reject(403, self._message, type="content_flagged", body={"error": error})

    def _violation(self, name: str, scores: dict[str, float], flags: dict[str, bool]) -> dict[str, Any] | None:
        threshold = self._settings.thresholds.get(name)
        score = scores.get(name, 0.0)
        if threshold is not None and name in scores and score >= threshold:
            found: dict[str, Any] = {"category": name, "score": score}
            return found | {"threshold": threshold} if threshold else found
        if self._settings.block_on_flagged and flags.get(name):
            return {"category": name, "score": score}
        return None


PLUGIN = Plugin(
    slug="openai_moderation",
    name="OpenAI Moderation",
    description="Prompt and answer screening by the OpenAI moderation endpoint.",
    group="Guardrails",
    mandatory=("pre_request",),
    supported=("pre_request", "pre_response"),
    inspects=True,
    settings=Settings,
    check=check,
    build=OpenAIModeration,
    secrets=(("api_key",),),
)
