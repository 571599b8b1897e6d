"""openai_moderation and azure_content_safety against services on loopback (spec 04 §14.12-14.13)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trustgate.policies.model import Run
from trustgate.policies.plugin import Environment

from . import builders as b
from .guard_service import Guard, Reply, guard_service

TROUBLE = {
    "slow": Reply(hang=True),
    "refusing": Reply({"error": "no"}, 500),
    "unauthorized": Reply({"error": "no"}, 401),
    "malformed": Reply(b"<html>"),
    "redirecting": Reply({}, 302, {"Location": "http://127.0.0.1:1/"}),
    "gone": Reply(drop=True),
    "endless": Reply(b"[" * (2 << 20)),
}


def environment(guard: Guard) -> Environment:
    return Environment(openai_moderation_base_url=guard.url, openai_moderation_timeout_s=0.3)


def scores(flagged: bool = False, **categories: float) -> Reply:
    return Reply(
        {
            "results": [
                {
                    "flagged": flagged,
                    "categories": dict.fromkeys(categories, flagged),
                    "category_scores": categories,
                }
            ]
        }
    )


def over(category: str, score: float, threshold: float) -> dict[str, Any]:
    return {"category": category, "score": score, "threshold": threshold}


MODERATION = [
    # settings, answer of the service, expected categories of the block (None: passes), decision
    (
        {"thresholds": {"hate": 0.5}},
        scores(hate=0.6, sexual=0.9),
        [over("hate", 0.6, 0.5)],
        "block",
    ),
    ({"thresholds": {"hate": 0.5}}, scores(hate=0.5), [over("hate", 0.5, 0.5)], "block"),
    ({"thresholds": {"hate": 0.5}}, scores(hate=0.4), None, "allowed"),
    ({"thresholds": {"hate": 0}}, scores(hate=0.0), [{"category": "hate", "score": 0.0}], "block"),
    ({}, scores(True, hate=0.99), None, "allowed"),
    ({"block_on_flagged": True}, scores(True, hate=0.9), [{"category": "hate", "score": 0.9}], "block"),
    ({"block_on_flagged": True, "categories": ["sexual"]}, scores(True, hate=0.9), None, "allowed"),
    (
        {"thresholds": {"b": 0.1, "a": 0.1}},
        scores(b=0.2, a=0.3),
        [over("a", 0.3, 0.1), over("b", 0.2, 0.1)],
        "block",
    ),
]


@pytest.mark.parametrize(("settings", "answer", "categories", "decision"), MODERATION)
async def test_moderation_blocks_by_threshold_or_flag(
    settings: dict[str, Any], answer: Reply, categories: Any, decision: str
) -> None:
    async with guard_service() as guard:
        guard.answer = lambda asked: answer
        services = b.make_services(http=guard.http, environment=environment(guard))
        chain = b.chain(b.policy("openai_moderation", {"api_key": "k", **settings}), services=services)
        run = Run()
        outcome = await chain.pre_request(b.request(), run)
    asked = guard.asked[0]
    assert (asked.path, asked.headers["authorization"]) == ("/v1/moderations", "Bearer k")
    assert asked.body == {"model": "omni-moderation-latest", "input": [{"type": "text", "text": "hi"}]}
    assert run.marks[0].decision == decision
    if categories is None:
        assert outcome is None
        return
    assert outcome is not None
    status, _, body = outcome.rendered()
    assert status == 403
    assert msgspec.json.decode(body) == {
        "error": {
            "type": "content_flagged",
            "message": "request blocked by content policy",
            "categories": categories,
        }
    }


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize("mode", ["enforce", "observe"])
async def test_moderation_that_cannot_be_had_is_a_502_or_passes(trouble: str, mode: str) -> None:
    async with guard_service() as guard:
        guard.answer = lambda asked: TROUBLE[trouble]
        services = b.make_services(http=guard.http, environment=environment(guard))
        chain = b.chain(b.policy("openai_moderation", {"api_key": "k"}, mode=mode), services=services)
        run = Run()
        outcome = await chain.pre_request(b.request(), run)
    if mode == "observe":
        assert outcome is None
        assert run.marks[0].decision == "failed_open"
        return
    assert outcome is not None
    assert outcome.rendered()[0] == 502
    assert outcome.body == (
        b'{"error":{"type":"moderation_unavailable","message":"content moderation is temporarily unavailable"}}'
    )


LEGS = [
    # stages of the settings, stages of the policy, calls on the request and on the answer
    ([], [], (1, 0)),
    ([], ["pre_response"], (1, 1)),
    (["pre_request"], ["pre_response"], (1, 0)),
    (["pre_response"], ["pre_response"], (0, 1)),
]


@pytest.mark.parametrize(("own", "chosen", "expected"), LEGS)
async def test_moderation_legs(own: list[str], chosen: list[str], expected: tuple[int, int]) -> None:
    async with guard_service() as guard:
        guard.answer = lambda asked: scores(hate=0.1)
        services = b.make_services(http=guard.http, environment=environment(guard))
        policy = b.policy("openai_moderation", {"api_key": "k", "stages": own}, stages=tuple(chosen))
        chain = b.chain(policy, services=services)
        await chain.pre_request(b.request(), Run())
        before = len(guard.asked)
        await chain.pre_response(b.request(), b.response(), Run())
        await chain.pre_response(b.request(), b.response(b"", streaming=True), Run())
        after = len(guard.asked) - before
    assert (before, after) == expected
    if after:
        assert guard.asked[-1].body["input"][0]["text"] == "ok"


async def test_the_prompt_text_is_system_and_messages() -> None:
    body = {
        "model": "m",
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}],
            },
            {"role": "system", "content": "S"},
            {"role": "user", "content": "  "},
            {"role": "assistant", "content": None, "tool_calls": []},
            {"role": "user", "content": "b"},
        ],
    }
    async with guard_service() as guard:
        guard.answer = lambda asked: scores(hate=0.1)
        services = b.make_services(http=guard.http, environment=environment(guard))
        chain = b.chain(b.policy("openai_moderation", {"api_key": "k"}), services=services)
        await chain.pre_request(b.request(body), Run())
        await chain.pre_request(b.request(b"not json"), Run())
        await chain.pre_request(b.request({"model": "m", "messages": []}), Run())
    assert [asked.body["input"][0]["text"] for asked in guard.asked] == ["S\na\nb"]


def severities(**found: int) -> Reply:
    return Reply({"categoriesAnalysis": [{"category": name, "severity": value} for name, value in found.items()]})


def breach(category: str, severity: int, threshold: int) -> dict[str, Any]:
    return {"category": category, "severity": severity, "threshold": threshold}


AZURE = [
    ({"Hate": 4}, severities(Hate=4), [breach("Hate", 4, 4)], 4 / 7),
    ({"Hate": 4}, severities(Hate=2, Sexual=6), None, None),
    (
        {"Hate": 2, "Violence": 2},
        severities(Hate=2, Violence=6),
        [breach("Hate", 2, 2), breach("Violence", 6, 2)],
        6 / 7,
    ),
]


@pytest.mark.parametrize(("thresholds", "answer", "breached", "score"), AZURE)
async def test_content_safety_blocks_by_severity(
    thresholds: dict[str, int], answer: Reply, breached: Any, score: float | None
) -> None:
    async with guard_service() as guard:
        guard.answer = lambda asked: answer
        settings = {"api_key": "k", "endpoint": f"{guard.url}/an?api-version=1", "category_severity": thresholds}
        chain = b.chain(b.policy("azure_content_safety", settings), services=b.make_services(http=guard.http))
        run = Run()
        outcome = await chain.pre_request(b.request(), run)
    asked = guard.asked[0]
    assert (asked.path, asked.headers["ocp-apim-subscription-key"]) == ("/an?api-version=1", "k")
    assert asked.body == {
        "text": "hi",
        "categories": ["Hate", "Violence", "SelfHarm", "Sexual"],
        "outputType": "FourSeverityLevels",
    }
    assert run.marks[0].score == score
    if breached is None:
        assert outcome is None
        return
    assert outcome is not None
    message = "request blocked by Azure Content Safety"
    expected = {"error": {"type": "content_flagged", "message": message, "categories": breached}}
    assert (outcome.status, msgspec.json.decode(outcome.body or b"")) == (403, expected)


@pytest.mark.parametrize("trouble", [name for name in TROUBLE if name != "slow"])
@pytest.mark.parametrize("mode", ["enforce", "observe"])
async def test_content_safety_that_fails_is_a_backend_error_or_passes(trouble: str, mode: str) -> None:
    async with guard_service() as guard:
        guard.answer = lambda asked: TROUBLE[trouble]
        settings = {"api_key": "k", "endpoint": guard.url, "category_severity": {"Hate": 2}}
        chain = b.chain(
            b.policy("azure_content_safety", settings, mode=mode), services=b.make_services(http=guard.http)
        )
        run = Run()
        outcome = await chain.pre_request(b.request(), run)
    assert run.marks[0].extras is not None
    assert run.marks[0].extras["failed_open"] is True
    assert (outcome and outcome.rendered()[2]) == (b'{"error":"backend_error"}' if mode == "enforce" else None)


NULLS = [
    (
        "openai_moderation",
        {"api_key": "k", "thresholds": {"hate": 0.5}},
        {"results": [None, {"flagged": None, "categories": None, "category_scores": {"hate": 0.9, "sexual": None}}]},
    ),
    (
        "azure_content_safety",
        {"api_key": "k", "category_severity": {"Hate": 2}},
        {
            "blocklistsMatch": None,
            "categoriesAnalysis": [{"category": "Sexual", "severity": None}, {"category": "Hate", "severity": 4}],
        },
    ),
]


@pytest.mark.parametrize(("slug", "settings", "answer"), NULLS)
async def test_nulls_in_an_answer_do_not_make_it_unreadable(slug: str, settings: Any, answer: Any) -> None:
    async with guard_service() as guard:
        guard.answer = lambda asked: Reply(answer)
        services = b.make_services(http=guard.http, environment=environment(guard))
        policy = b.policy(slug, {"endpoint": f"{guard.url}/an", **settings})
        outcome = await b.chain(policy, services=services).pre_request(b.request(), Run())
    assert outcome is not None and outcome.status == 403
