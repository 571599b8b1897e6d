"""bedrock_guardrail against a service on loopback (spec 04 §14.14)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from trustgate.policies.engine import Chain
from trustgate.policies.model import Run

from . import builders as b
from .guard_service import Asked, Guard, Reply, guard_service

KEYS = {"access_key_id": "AKIA0000TEST", "secret_access_key": "secret"}


def intervened(text: str | None = None, **policies: Any) -> Reply:
    return Reply({"outputs": [{"text": text}] if text is not None else [], "assessments": [policies]})


def topics(action: str = "BLOCKED") -> dict[str, Any]:
    return {"topicPolicy": {"topics": [{"name": "weapons", "type": "DENY", "action": action}]}}


def pii(action: str) -> dict[str, Any]:
    return {"sensitiveInformationPolicy": {"piiEntities": [{"type": "EMAIL", "match": "a@b.c", "action": action}]}}


def chain_to(guard: Guard, monkeypatch: pytest.MonkeyPatch, mode: str = "enforce", **settings: Any) -> Chain:
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", guard.url)
    settings = {"guardrail_id": "g/1", "credentials": KEYS, **settings}
    policy = b.policy("bedrock_guardrail", settings, mode=mode, stages=("pre_request", "pre_response"))
    return b.chain(policy, services=b.make_services(http=guard.http))


async def test_the_call_is_signed_and_shows_the_last_user_message(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {
        "model": "m",
        "messages": [
            {"role": "user", "content": "first"},
            {"role": "user", "content": "second"},
            {"role": "user", "content": ""},
            {"role": "assistant", "content": "x"},
        ],
    }
    async with guard_service() as guard:
        guard.answer = lambda asked: intervened()
        assert await chain_to(guard, monkeypatch).pre_request(b.request(body), Run()) is None
    (asked,) = guard.asked
    assert asked.path == "/guardrail/g%2F1/version/DRAFT/apply"
    assert asked.raw == b'{"source":"INPUT","content":[{"text":{"text":"second"}}]}'
    assert asked.headers["authorization"] == signature(guard, asked)


def signature(guard: Guard, asked: Asked) -> str:
    """What AWS would compute for the request that arrived."""
    request = AWSRequest("POST", guard.url + asked.path, data=asked.raw, headers={"Content-Type": "application/json"})
    request.context["timestamp"] = asked.headers["x-amz-date"]
    auth = SigV4Auth(Credentials(KEYS["access_key_id"], KEYS["secret_access_key"]), "bedrock", "us-east-1")
    request.headers["X-Amz-Date"] = asked.headers["x-amz-date"]
    canonical = auth.canonical_request(request)
    scope = auth.credential_scope(request)
    signed = auth.signed_headers(auth.headers_to_sign(request))
    value = auth.signature(auth.string_to_sign(request, canonical), request)
    return f"AWS4-HMAC-SHA256 Credential={KEYS['access_key_id']}/{scope}, SignedHeaders={signed}, Signature={value}"


BLOCKS = [
    # assessment, error of the block
    (topics(), {"policy": "topic_policy", "name": "weapons"}),
    (topics("NONE"), None),
    (
        {"contentPolicy": {"filters": [{"type": "HATE", "action": "BLOCKED"}]}},
        {"policy": "content_policy", "name": "HATE"},
    ),
    ({"wordPolicy": {"customWords": [{"match": "w", "action": "BLOCKED"}]}}, {"policy": "word_policy"}),
    (
        {"wordPolicy": {"managedWordLists": [{"type": "PROFANITY", "action": "BLOCKED"}]}},
        {"policy": "word_policy", "name": "PROFANITY"},
    ),
    (pii("BLOCKED"), {"policy": "sensitive_information", "name": "EMAIL"}),
    (pii("ANONYMIZED"), {"policy": "sensitive_information", "name": "EMAIL"}),
    (
        {"sensitiveInformationPolicy": {"regexes": [{"name": "id", "action": "BLOCKED"}]}},
        {"policy": "sensitive_information", "name": "id"},
    ),
    (
        {"contextualGroundingPolicy": {"filters": [{"type": "GROUNDING", "action": "BLOCKED"}]}},
        {"policy": "contextual_grounding"},
    ),
    (pii("ANONYMIZED") | topics(), {"policy": "topic_policy", "name": "weapons"}),
]


@pytest.mark.parametrize(("assessment", "error"), BLOCKS)
async def test_what_blocks(monkeypatch: pytest.MonkeyPatch, assessment: dict[str, Any], error: Any) -> None:
    async with guard_service() as guard:
        guard.answer = lambda asked: intervened("masked", **assessment)
        run = Run()
        outcome = await chain_to(guard, monkeypatch, message="note").pre_request(b.request(), run)
    assert run.marks[0].extras is not None
    assert run.marks[0].extras["message"] == "note"
    if error is None:
        assert outcome is None
        return
    assert outcome is not None
    assert (outcome.status, msgspec.json.decode(outcome.body or b"")) == (
        403,
        {"error": {"type": "guardrail_blocked", **error}},
    )
    assert (run.marks[0].score, run.marks[0].score_label) == (0.0, error.get("name") or error["policy"])


async def test_masking_changes_only_the_inspected_text(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {
        "model": "m",
        "seed": 7,
        "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "a@b.c"}],
    }
    async with guard_service() as guard:
        guard.answer = lambda asked: intervened("{EMAIL}", **pii("ANONYMIZED"))
        chain = chain_to(guard, monkeypatch, pii_action="anonymize")
        request = b.request(body)
        assert await chain.pre_request(request, Run()) is None
        response = b.response(b.answer("a@b.c"), status=201)
        assert await chain.pre_response(b.request(), response, Run()) is None
    masked = msgspec.json.decode(request.body)
    assert [message["content"] for message in masked["messages"]] == ["a", "{EMAIL}"]
    assert masked["seed"] == 7
    assert response.status == 200
    assert msgspec.json.decode(response.body) == b.answer("{EMAIL}")
    assert [asked.body["source"] for asked in guard.asked] == ["INPUT", "OUTPUT"]


async def test_a_mask_without_text_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    async with guard_service() as guard:
        guard.answer = lambda asked: intervened(None, **pii("ANONYMIZED"))
        run = Run()
        outcome = await chain_to(guard, monkeypatch, pii_action="anonymize").pre_request(b.request(), run)
    assert outcome is not None
    assert outcome.status == 403
    assert run.marks[0].extras is not None
    assert run.marks[0].extras["degraded_reason"] == "anonymize_no_output"


async def test_observing_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    async with guard_service() as guard:
        guard.answer = lambda asked: intervened("x", **topics())
        run = Run()
        assert await chain_to(guard, monkeypatch, mode="observe").pre_request(b.request(), run) is None
    assert run.marks[0].decision == "reported"
    assert run.marks[0].flagged


@pytest.mark.parametrize(
    "reply", [Reply({}, 403), Reply(b"<"), Reply(drop=True)], ids=["refusing", "malformed", "gone"]
)
@pytest.mark.parametrize("mode", ["enforce", "observe"])
async def test_a_guardrail_that_fails(monkeypatch: pytest.MonkeyPatch, reply: Reply, mode: str) -> None:
    async with guard_service() as guard:
        guard.answer = lambda asked: reply
        chain = chain_to(guard, monkeypatch, mode=mode)
        before = await chain.pre_request(b.request(), Run())
        after = await chain.pre_response(b.request(), b.response(), Run())
    if mode == "observe":
        assert (before, after) == (None, None)
        return
    assert before is not None
    assert after is not None
    assert before.rendered()[2] == b'{"error":"backend_error"}'
    assert after.rendered()[2] == b'{"error":"plugin_rejected","message":"pre_response plugin stage failed"}'


async def test_streams_are_not_inspected(monkeypatch: pytest.MonkeyPatch) -> None:
    async with guard_service() as guard:
        chain = chain_to(guard, monkeypatch)
        assert await chain.pre_response(b.request(), b.response(b"", streaming=True), Run()) is None
    assert guard.asked == []


async def test_a_role_is_assumed_and_its_credentials_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assumed = (
        b'<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>'
        b"<AccessKeyId>ASIA1</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>tok</SessionToken>"
        b"<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )

    def answer(asked: Asked) -> Reply:
        return Reply(assumed, 200, {"Content-Type": "text/xml"}) if asked.path == "/" else intervened()

    async with guard_service() as guard:
        guard.answer = answer
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", guard.url)
        credentials = KEYS | {"use_role": True, "role_arn": "arn:aws:iam::1:role/r"}
        chain = chain_to(guard, monkeypatch, credentials=credentials)
        for _ in range(2):
            assert await chain.pre_request(b.request(), Run()) is None
    assert [asked.path == "/" for asked in guard.asked] == [True, False, False]
    assert b"RoleSessionName=BedrockClientSession" in guard.asked[0].raw
    assert guard.asked[1].headers["x-amz-security-token"] == "tok"
    assert "Credential=ASIA1/" in guard.asked[1].headers["authorization"]
