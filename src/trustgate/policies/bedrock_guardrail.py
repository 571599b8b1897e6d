"""Policy `bedrock_guardrail`: prompts and answers screened by an Amazon Bedrock guardrail (spec 04 §14.14)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast
from urllib.parse import quote as percent

import msgspec

from trustgate.policies.aws_credentials import CredentialSet
from trustgate.policies.bedrock_guardrail_settings import (
    DEFAULT_REGION,
    DEFAULT_SESSION,
    Credentials,
    Settings,
    check,
)
from trustgate.policies.conversation import Slot, joined
from trustgate.policies.model import Effect, Extras, Mark, PolicyRequest, PolicyResponse, Run, reject, stop
from trustgate.policies.plugin import REQUEST_BODY, RESPONSE_BODY, Binding, Plugin, PolicyError
from trustgate.policies.replies import read_reply
from trustgate.policies.texts import answer_of, prompt_of

if TYPE_CHECKING:
    from trustgate.policies.aws import AwsClient

BLOCKED, ANONYMIZED = "BLOCKED", "ANONYMIZED"
NO_OUTPUT = "anonymize_no_output"


class _Hit(msgspec.Struct):
    name: str = ""
    type: str = ""
    action: str = ""


class _Topics(msgspec.Struct):
    topics: list[_Hit] | None = None


class _Filters(msgspec.Struct):
    filters: list[_Hit] | None = None


class _Words(msgspec.Struct):
    customWords: list[_Hit] | None = None
    managedWordLists: list[_Hit] | None = None


class _Sensitive(msgspec.Struct):
    piiEntities: list[_Hit] | None = None
    regexes: list[_Hit] | None = None


class _Assessment(msgspec.Struct):
    topicPolicy: _Topics | None = None
    contentPolicy: _Filters | None = None
    wordPolicy: _Words | None = None
    sensitiveInformationPolicy: _Sensitive | None = None
    contextualGroundingPolicy: _Filters | None = None


class _Output(msgspec.Struct):
    text: str = ""


class _Answer(msgspec.Struct):
    outputs: list[_Output] | None = None
    assessments: list[_Assessment] | None = None


class Found(msgspec.Struct, frozen=True):
    """One finding of a guardrail, in the words of the block body."""

    policy: str
    name: str
    type: str
    action: str


def findings(assessments: list[_Assessment]) -> list[Found]:
    """All findings in the order in which they are judged."""
    found: list[Found] = []

    def add(policy: str, hits: list[_Hit] | None, name: str) -> None:
        for hit in hits or ():
            label = {"name": hit.name, "type": hit.type, "": ""}[name]
            found.append(Found(policy, label, hit.type, hit.action))

    for assessment in assessments:
        topics, content, words = assessment.topicPolicy, assessment.contentPolicy, assessment.wordPolicy
        sensitive, grounding = assessment.sensitiveInformationPolicy, assessment.contextualGroundingPolicy
        add("topic_policy", topics.topics if topics else None, "name")
        add("content_policy", content.filters if content else None, "type")
        add("word_policy", words.customWords if words else None, "")
        add("word_policy", words.managedWordLists if words else None, "type")
        add("sensitive_information", sensitive.piiEntities if sensitive else None, "type")
        add("sensitive_information", sensitive.regexes if sensitive else None, "name")
        add("contextual_grounding", grounding.filters if grounding else None, "")
    return found


class GuardrailExtras(Extras, kw_only=True):
    guardrail_id: str = ""
    version: str = ""
    region: str = ""
    stage: str = ""
    mode: str = ""
    decision: str = ""
    policy: str = ""
    type: str = ""
    action: str = ""
    name: str = ""
    latency_ms: int = 0
    degraded: bool = False
    degraded_reason: str = ""
    message: str = ""


class BedrockGuardrail:
    waits = True

    def __init__(self, settings: Settings, binding: Binding) -> None:
        check(settings)
        self._settings = settings
        self._mode = binding.mode
        self._blocking = binding.blocking
        self._masks = settings.pii_action == "anonymize"
        self._version = settings.version.strip() or "DRAFT"
        self._region = settings.credentials.aws_region.strip() or DEFAULT_REGION
        guardrail = percent(settings.guardrail_id.strip(), safe="")
        self._path = f"/guardrail/{guardrail}/version/{percent(self._version, safe='')}/apply"
        source = _credential_set(settings.credentials, self._region)
        shared = binding.services.shared
        key = ("aws", source)
        if key not in shared:
            from trustgate.policies.aws import AwsClient  # loads botocore

            shared[key] = AwsClient(binding.services.http, source)
        self._client = cast("AwsClient", shared[key])

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        prompt = prompt_of(request) if request.provider else None
        if prompt is None:
            return None
        turn = next((turn for turn in reversed(prompt.turns) if turn.role == "user" and turn.text.strip()), None)
        if turn is None:
            return None
        slots = [slot for slot in turn.slots if slot.text]
        effect, masked = await self._screen("INPUT", joined(slots), mark)
        if masked is None:
            return effect
        write_back(slots, masked)
        return Effect(body=prompt.encode())

    async def pre_response(
        self, request: PolicyRequest, response: PolicyResponse, run: Run, mark: Mark
    ) -> Effect | None:
        if response.streaming or not request.provider:
            return None
        answer = answer_of(request, response.body)
        if answer is None or not answer.text.strip():
            return None
        slots = [slot for slot in answer.slots if slot.text]
        effect, masked = await self._screen("OUTPUT", joined(slots), mark)
        if masked is None:
            return effect
        write_back(slots, masked)
        return stop(200, answer.encode())

    async def _screen(self, source: str, text: str, mark: Mark) -> tuple[Effect | None, str | None]:
        """An effect (None: pass), or the masked text to write back."""
        extras = GuardrailExtras(
            guardrail_id=self._settings.guardrail_id,
            version=self._version,
            region=self._region,
            stage=mark.stage,
            mode=self._mode,
            message=self._settings.message,
        )
        started = time.perf_counter()
        try:
            answer = await self._apply(source, text)
        except PolicyError:
            if not self._blocking:
                return None, None
            extras.decision = mark.decision = "failed_closed"
            raise
        else:
            return self._judge(answer, mark, extras)
        finally:
            extras.latency_ms = round((time.perf_counter() - started) * 1000)
            mark.tell(extras)

    async def _apply(self, source: str, text: str) -> _Answer:
        body = msgspec.json.encode({"source": source, "content": [{"text": {"text": text}}]})
        reply = await self._client.post(self._path, body)
        if not 200 <= reply.status < 300:
            raise PolicyError(f"guardrail answered {reply.status}")
        return read_reply(reply, _Answer, "guardrail")

    def _judge(self, answer: _Answer, mark: Mark, extras: GuardrailExtras) -> tuple[Effect | None, str | None]:
        found = findings(answer.assessments or [])
        blocks = [one for one in found if one.action == BLOCKED or (one.action == ANONYMIZED and not self._masks)]
        masks = [one for one in found if one.action == ANONYMIZED]
        finding = next(iter(blocks or masks), None)
        if finding is None:
            extras.decision = mark.decision = "allowed"
            return None, None
        extras.policy, extras.type, extras.action = finding.policy, finding.type, finding.action
        extras.name = finding.name
        mark.score, mark.score_label = 0.0, finding.name or finding.policy
        if not self._blocking:
            extras.decision = mark.decision = "reported"
            return None, None
        if not blocks:
            text = next((output.text for output in answer.outputs or () if output.text), "")
            if text:
                extras.decision = mark.decision = "anonymized"
                return None, text
            extras.degraded, extras.degraded_reason = True, NO_OUTPUT
        extras.decision, mark.decision = "blocked", "block"
        error = {"type": "guardrail_blocked", "policy": finding.policy}
        if finding.name:
            error["name"] = finding.name
        return reject(403, "guardrail_blocked", type="guardrail_blocked", body={"error": error}), None


def write_back(slots: list[Slot], text: str) -> None:
    """Put a masked text where the inspected one came from: by lines if they still fit, else all into the first."""
    lines = text.split("\n")
    counts = [slot.text.count("\n") + 1 for slot in slots]
    if sum(counts) != len(lines):
        counts = [len(lines)] + [0] * (len(slots) - 1)
    at = 0
    for slot, count in zip(slots, counts, strict=True):
        slot.text = "\n".join(lines[at : at + count])
        at += count


def _credential_set(credentials: Credentials, region: str) -> CredentialSet:
    return CredentialSet(
        region=region,
        access_key_id=credentials.access_key_id,
        secret_access_key=credentials.secret_access_key,
        session_token=credentials.session_token,
        role_arn=credentials.role_arn.strip() if credentials.use_role else "",
        session_name=credentials.session_name.strip() or DEFAULT_SESSION,
    )


PLUGIN = Plugin(
    slug="bedrock_guardrail",
    name="AWS Bedrock Guardrail",
    description="Prompt and answer screening by an Amazon Bedrock guardrail, with optional masking of personal data.",
    group="Guardrails",
    mandatory=("pre_request",),
    supported=("pre_request", "pre_response"),
    capabilities=frozenset((REQUEST_BODY, RESPONSE_BODY)),
    settings=Settings,
    check=check,
    build=BedrockGuardrail,
    secrets=(("credentials", "secret_access_key"), ("credentials", "session_token")),
)
