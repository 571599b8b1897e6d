"""Guards on a running proxy against fake guard services: what clients, records and logs get to see (spec 04 §14.12-15).

Each guard in each mode and fail mode, on requests, answers and streams, with services that pass, block, mask, are slow,
fail, refuse, or answer what nobody can read; asked by the vendors' SDKs.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import cohere
import httpx
import openai
import pytest
from google.genai import errors as gemini_errors

from tests.e2e.guards import FAILURES, GuardServices, until
from tests.e2e.installation import Demo, Installation, installed
from tests.e2e.test_sdks import anthropic_client, cohere_client, gemini_client, openai_client
from tests.e2e.upstream import FaultyUpstream

COLLECTOR = "3f2b8c1e-0000-4000-8000-000000000001"
SECRETS = ("tok-secret", "guard-client-secret", "sk-moderation-secret", "azure-key-secret", "aws-secret-access-key")

Json = dict[str, Any]


@pytest.fixture(scope="module")
def guards() -> Iterator[GuardServices]:
    found = GuardServices()
    yield found
    found.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("guards")


@pytest.fixture(scope="module")
def running(guards: GuardServices, folder: pathlib.Path) -> Iterator[Installation]:
    exporters = {"exporters": {"metadata": [{"name": "file", "settings": {"path": str(folder / "records.jsonl")}}]}}
    (folder / "exporters.yaml").write_text(json.dumps(exporters))
    with installed(
        folder,
        "run",
        TELEMETRY_EXPORTERS_FILE=str(folder / "exporters.yaml"),
        LOG_LEVEL="DEBUG",
        TRUSTGUARD_BASE_URL=guards.url + "/",
        TRUSTGUARD_CLIENT_SECRET="guard-client-secret",
        TRUSTGUARD_TIMEOUT="2s",
        OPENAI_MODERATION_BASE_URL=guards.url,
        OPENAI_MODERATION_TIMEOUT="2s",
        AWS_ENDPOINT_URL_BEDROCK_RUNTIME=guards.url,
    ) as found:
        yield found


GUARDS: dict[str, tuple[str, Json, Json]] = {
    # what it is called here: plugin, settings, members of the policy
    "trustguard": ("trustguard", {"collector_id": COLLECTOR, "inspect": "request", "on_error": "fail_closed"}, {}),
    "trustguard open": ("trustguard", {"collector_id": COLLECTOR, "inspect": "request"}, {}),
    "trustguard answers": (
        "trustguard",
        {"collector_id": COLLECTOR, "inspect": "response", "on_error": "fail_closed"},
        {},
    ),
    "trustguard answers open": ("trustguard", {"collector_id": COLLECTOR, "inspect": "response"}, {}),
    "moderation": (
        "openai_moderation",
        {"api_key": "sk-moderation-secret", "stages": ["pre_request"], "block_on_flagged": True},
        {},
    ),
    "moderation answers": (
        "openai_moderation",
        {"api_key": "sk-moderation-secret", "stages": ["pre_response"], "thresholds": {"hate": 0.5}},
        {"stages": ["pre_response"]},
    ),
    "azure": ("azure_content_safety", {"api_key": "azure-key-secret", "category_severity": {"Hate": 4}}, {}),
    "bedrock": ("bedrock_guardrail", {"guardrail_id": "g1", "pii_action": "anonymize"}, {}),
    "bedrock answers": (
        "bedrock_guardrail",
        {"guardrail_id": "g1", "pii_action": "anonymize"},
        {"stages": ["pre_response"]},
    ),
}


@pytest.fixture(scope="module")
def demos(running: Installation, upstream: FaultyUpstream, guards: GuardServices) -> Any:
    """A consumer behind one guard, by its name and mode."""
    made: dict[tuple[str, str], Demo] = {}

    def demo(name: str, mode: str = "enforce") -> Demo:
        if (name, mode) not in made:
            slug, settings, members = GUARDS[name]
            if slug == "azure_content_safety":
                settings = settings | {"endpoint": f"{guards.url}/azure/contentsafety/text:analyze"}
            if slug == "bedrock_guardrail":
                keys = {"access_key_id": "AKIA", "secret_access_key": "aws-secret-access-key"}
                settings = settings | {"credentials": keys}
            found = made[name, mode] = Demo(running)
            found.registry("only", upstream.url("echo"))
            found.open().policy(slug, settings, mode=mode, **members)
        return made[name, mode]

    return demo


def say(demo: Demo, text: str, *, stream: bool = False, **more: Any) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream} | more
    return httpx.post(f"{demo.url}/v1/chat/completions", json=body, headers=demo.headers, timeout=60)


def aimed(name: str, text: str) -> str:
    """A text whose words in capitals reach the guard in the request, or only in the answer that repeats it."""
    words = text.split(" ")
    return (
        " ".join(f"{word[0]}~{word[1:]}" if word[:2].isupper() else word for word in words)
        if "answers" in name
        else text
    )


def content(answer: httpx.Response) -> str:
    return answer.json()["choices"][0]["message"]["content"]


TRUSTGUARD_BLOCK = {
    "status": "block",
    "message": "Request blocked by security policy: prompt_injection (Det).",
    "type": "trustguard_blocked",
    "reason": "prompt_injection",
    "plugin": "ipi",
    "detector_name": "Det",
    "gate_name": "G",
    "trace_id": "t",
    "request_id": "r",
}
FLAGGED = {"type": "content_flagged", "message": "request blocked by content policy"}
BEDROCK_BLOCK = {"error": {"type": "guardrail_blocked", "policy": "topic_policy", "name": "Finance"}}
AZURE = {"type": "content_flagged", "message": "request blocked by Azure Content Safety"}
BLOCKS: dict[str, Json] = {
    "trustguard": TRUSTGUARD_BLOCK,
    "trustguard answers": TRUSTGUARD_BLOCK,
    "moderation": {"error": FLAGGED | {"categories": [{"category": "hate", "score": 0.9}]}},
    "moderation answers": {"error": FLAGGED | {"categories": [{"category": "hate", "score": 0.9, "threshold": 0.5}]}},
    "azure": {"error": AZURE | {"categories": [{"category": "Hate", "severity": 6, "threshold": 4}]}},
    "bedrock": BEDROCK_BLOCK,
    "bedrock answers": BEDROCK_BLOCK,
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_guard_passes_and_blocks_and_only_watches_in_observe_mode(name: str, demos: Any) -> None:
    assert content(say(demos(name), "good morning")) == "good morning"
    blocked = say(demos(name), aimed(name, "please BLOCKME now"))
    assert (blocked.status_code, blocked.json()) == (403, BLOCKS[name])
    assert blocked.headers["content-type"] == "application/json"
    assert "x-selected-provider" not in blocked.headers
    assert content(say(demos(name, "observe"), aimed(name, "please BLOCKME now"))) == "please BLOCKME now"


MASKS = [("trustguard", "***"), ("trustguard answers", "***"), ("bedrock", "{NAME}"), ("bedrock answers", "{NAME}")]


@pytest.mark.parametrize(("name", "mask"), MASKS)
def test_a_guard_masks_what_the_upstream_or_the_client_gets(
    name: str, mask: str, demos: Any, upstream: FaultyUpstream
) -> None:
    answer = say(demos(name), aimed(name, "I am MASKME\nyes"), seed=12345678901234567890)
    assert (answer.status_code, content(answer)) == (200, f"I am {mask}\nyes")
    sent = upstream.requests("echo")[-1].json
    assert sent["seed"] == 12345678901234567890
    assert ("M~ASKME" in sent["messages"][0]["content"]) == ("answers" in name)
    assert content(say(demos(name, "observe"), aimed(name, "I am MASKME"))) == "I am MASKME"


BACKEND = (502, {"error": "backend_error"})
STAGE = (502, {"error": "plugin_rejected", "message": "pre_response plugin stage failed"})
TRUSTGUARD = (502, {"error": "trustguard_error", "message": "trustguard unavailable"})
UNAVAILABLE = {"type": "moderation_unavailable", "message": "content moderation is temporarily unavailable"}
MODERATION = (502, {"error": UNAVAILABLE})
FAILED: dict[str, tuple[int, Json] | None] = {
    # what a failing service comes to in enforce mode (None: the request passes); in observe mode it always passes
    "trustguard": TRUSTGUARD,
    "trustguard open": None,
    "trustguard answers": TRUSTGUARD,
    "trustguard answers open": None,
    "moderation": MODERATION,
    "moderation answers": MODERATION,
    "azure": BACKEND,
    "bedrock": BACKEND,
    "bedrock answers": STAGE,
}


def refused(status: int) -> tuple[int, Json]:
    """What TrustGuard's own refusals come to, in every mode."""
    if status in (429, 503):  # its own words
        return status, {"message": "UPSTREAM DETAIL"}
    message = "trustguard authentication or configuration rejected"
    return 502, {"error": "trustguard_unauthorized", "message": message, "upstream_status": status}


@pytest.mark.parametrize("failure", [failure for failure in FAILURES if failure != "STALL"])
@pytest.mark.parametrize("name", FAILED)
def test_a_guard_in_trouble(name: str, failure: str, demos: Any) -> None:
    text = f"say {failure} again"
    enforced, observed = (say(demos(name, mode), aimed(name, text)) for mode in ("enforce", "observe"))
    if name.startswith("trustguard") and failure in ("GIVE401", "GIVE403", "GIVE429", "GIVE503"):
        expected = refused(int(failure[4:]))
        assert [(answer.status_code, answer.json()) for answer in (enforced, observed)] == [expected, expected]
        return
    if FAILED[name] is None:
        assert content(enforced) == text
    else:
        assert (enforced.status_code, enforced.json()) == FAILED[name]
    if GUARDS[name][1].get("on_error") == "fail_closed":
        assert (observed.status_code, observed.json()) == TRUSTGUARD
    else:
        assert content(observed) == text
    for answer in (enforced, observed):
        assert "UPSTREAM DETAIL" not in answer.text


@pytest.mark.parametrize("name", ["trustguard", "trustguard answers open", "moderation"])
def test_a_guard_that_is_slow_is_given_up(name: str, demos: Any) -> None:
    started = time.monotonic()
    answer = say(demos(name), aimed(name, "say STALL again"))
    assert time.monotonic() - started > 1.5
    if FAILED[name] is None:
        assert content(answer) == "say STALL again"
    else:
        assert (answer.status_code, answer.json()) == FAILED[name]


def left(guards: GuardServices, leave: Any) -> bool:
    """Whether a stalled guard lost its caller soon after a client left that had been patient enough to be heard."""
    for patience in (0.5, 2, 8):
        gone, called = guards.gone, len(guards.calls)
        leave(patience)
        if len(guards.calls) > called:
            until(lambda gone=gone: guards.gone > gone, 8)
            return True
    return False


@pytest.mark.parametrize("name", ["azure", "bedrock"])
def test_whoever_leaves_cancels_the_call_of_the_guard(name: str, demos: Any, guards: GuardServices) -> None:
    demo = demos(name)

    def leave(patience: float) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "STALL"}]}
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{demo.url}/v1/chat/completions", json=body, headers=demo.headers, timeout=patience)

    assert left(guards, leave)


def test_the_sdks_raise_their_own_error_for_a_block(demos: Any) -> None:
    demo, text = demos("trustguard"), "please BLOCKME now"
    ask: Any = [{"role": "user", "content": text}]
    with pytest.raises(openai.PermissionDeniedError, match="prompt_injection"):
        openai_client(demo).chat.completions.create(model="m", messages=ask)
    with pytest.raises(openai.PermissionDeniedError, match="prompt_injection"):
        openai_client(demo).responses.create(model="m", input=text)
    with pytest.raises(anthropic.PermissionDeniedError, match="prompt_injection"):
        anthropic_client(demo).messages.create(model="m", max_tokens=9, messages=ask)
    client = gemini_client(demo)  # closed with its last reference
    with pytest.raises(gemini_errors.ClientError) as raised:
        client.models.generate_content(model="m", contents=text)
    assert raised.value.code == 403
    with pytest.raises(cohere.ForbiddenError):
        cohere_client(demo).chat(model="m", messages=ask)


LONG = "The quick brown fox jumps over the lazy dog, again and again and again. " * 5


@pytest.fixture(scope="module")
def flowing(running: Installation, upstream: FaultyUpstream) -> Any:
    """A consumer whose streams are inspected as they flow."""

    def demo(**settings: Any) -> Demo:
        found = Demo(running)
        found.registry("only", upstream.url("echo"))
        window = {"collector_id": COLLECTOR, "inspect": "response", "stream_window": 60, "stream_hold_back": 20}
        found.open().policy("trustguard", window | settings)
        return found

    return demo


def openai_text(demo: Demo, text: str) -> Iterator[str]:
    ask: Any = [{"role": "user", "content": text}]
    for chunk in openai_client(demo).chat.completions.create(model="m", messages=ask, stream=True):
        if chunk.choices:
            yield chunk.choices[0].delta.content or ""


def responses_text(demo: Demo, text: str) -> Iterator[str]:
    whole = ""
    for event in openai_client(demo).responses.create(model="m", input=text, stream=True):
        if event.type == "response.output_text.delta":
            whole += event.delta
            yield event.delta
        if event.type == "response.completed":
            assert event.response.output_text == whole


def anthropic_text(demo: Demo, text: str) -> Iterator[str]:
    ask: Any = [{"role": "user", "content": text}]
    with anthropic_client(demo).messages.stream(model="m", max_tokens=900, messages=ask) as stream:
        yield from stream.text_stream


def gemini_text(demo: Demo, text: str) -> Iterator[str]:
    client = gemini_client(demo)
    for chunk in client.models.generate_content_stream(model="m", contents=text):
        yield chunk.text or ""


SDKS = [
    (openai_text, openai.APIError),
    (responses_text, openai.APIError),
    (anthropic_text, anthropic.APIStatusError),
    (gemini_text, gemini_errors.APIError),
]


@pytest.mark.parametrize(("read", "error"), SDKS)
def test_streams_are_inspected_as_they_flow(read: Any, error: type[Exception], flowing: Any) -> None:
    demo = flowing()
    assert "".join(read(demo, LONG)) == LONG
    assert "".join(read(demo, LONG + "MASKME" + LONG)) == LONG + "***" + LONG
    seen = ""
    with pytest.raises(error, match="prompt_injection"):
        for piece in read(demo, LONG + "BLOCKME" + LONG):
            seen += piece
    assert LONG.startswith(seen)
    assert len(seen) > len(LONG) - 100, "what was judged before flowed"


@pytest.mark.parametrize("failure", ["GIVE500", "BADJSON", "HANGUP", "HALFBODY", "STALL"])
def test_a_stream_while_its_guard_is_in_trouble(failure: str, flowing: Any) -> None:
    text = f"{failure} {LONG}"
    assert "".join(openai_text(flowing(), text)) == text
    with pytest.raises(openai.APIError, match="trustguard unavailable"):
        list(openai_text(flowing(on_error="fail_closed"), text))


def test_whoever_leaves_a_stream_cancels_its_inspection(flowing: Any, guards: GuardServices) -> None:
    demo = flowing()

    def leave(patience: float) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "STALL " + LONG}], "stream": True}
        with contextlib.suppress(httpx.TimeoutException):
            httpx.post(f"{demo.url}/v1/chat/completions", json=body, headers=demo.headers, timeout=patience)

    assert left(guards, leave)


def records(folder: pathlib.Path) -> dict[str, Json]:
    path = folder / "records.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {found["trace_id"]: found for found in map(json.loads, lines)}


def record_of(folder: pathlib.Path, answer: httpx.Response) -> Json:
    trace = answer.headers["x-ag-trace-id"]
    until(lambda: trace in records(folder))
    return records(folder)[trace]


def test_a_blocked_answer_is_charged_and_recorded(
    running: Installation, upstream: FaultyUpstream, folder: pathlib.Path
) -> None:
    """In one piece, and as a stream that ended before its usage came."""
    demo = Demo(running)
    demo.registry("only", upstream.url("echo"))
    demo.open().policy("trustguard", {"collector_id": COLLECTOR, "inspect": "response", "stream_window": 60})
    demo.policy("token_rate_limiter", {"aggregate": {"max": 1000000, "time_window": "1h"}})
    blocked = say(demo, "BLOCKME")
    assert blocked.status_code == 403
    found = record_of(folder, blocked)
    assert found["is_flagged"] is True
    assert found["security"] == ["prompt_injection"]
    (entry,) = [entry for entry in found["policy_chain"] if entry["name"] == "trustguard"]
    assert (entry["stage"], entry["decision"], entry["status_code"]) == ("pre_response", "block", 403)

    def remaining() -> int:
        return int(say(demo, "hello").headers["x-ratelimit-remaining-tokens"])

    until(lambda: remaining() < 1000000)
    streamed = say(demo, "BLOCKME " + LONG, stream=True)
    assert streamed.status_code == 200
    found = record_of(folder, streamed)
    assert found["is_flagged"] is True
    (entry,) = [entry for entry in found["policy_chain"] if entry["name"] == "trustguard"]
    assert (entry["stage"], entry["decision"], entry["status_code"]) == ("pre_response", "block", 403)


def test_no_secret_of_a_guard_is_told_to_anybody(
    demos: Any, folder: pathlib.Path, guards: GuardServices, running: Installation
) -> None:
    """Not to clients, not in records, not in logs."""
    answers = [
        say(demos(name), aimed(name, text)) for name in BLOCKS for text in ("BLOCKME", "GIVE500", "GIVE403", "hi")
    ]
    for answer in answers:
        record_of(folder, answer)
        told = answer.text + json.dumps(dict(answer.headers))
        assert not any(secret in told for secret in SECRETS)
    written = (folder / "records.jsonl").read_text() + (folder / "run.log").read_text()
    assert not any(secret in written for secret in SECRETS)
    paths = {path for path, _, _ in guards.calls}
    assert {"/v1/evaluate", "/v1/moderations", "/guardrail/g1/version/DRAFT/apply"} <= paths
