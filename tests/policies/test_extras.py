"""What each policy tells the request's record (spec 04 §12, §14; 06 §9.4): members, their order, decisions, scores."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trustgate.policies.engine import Chain
from trustgate.policies.model import Mark, PolicyRequest, Run, TokenUsage
from trustgate.policies.plugin import Environment, HttpReply, PolicyError, Price, Services
from trustgate.policies.registry import PLUGINS

from . import builders as b

CASES = [json.loads(line) for line in (Path(__file__).parent / "extras.jsonl").read_text().splitlines()]
DOCS = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
MEMBERS = {
    slug: members.replace("`", "").split(", ")
    for slug, members in re.findall(r"^\| `(\w+)` \| ((?:`\w+`\??(?:, )?)+) \|$", DOCS, re.MULTILINE)
}
"""Of each plugin, in their order; ? marks those that are left out when empty."""


def check_members(mark: Mark) -> None:
    """Members are documented and in order; those that must be there are, those that are empty are not."""
    extras = mark.extras or {}
    row = MEMBERS[mark.name]
    names = [name.rstrip("?") for name in row]
    assert [name for name in names if name in extras] == list(extras)
    assert not [name for name in row if not name.endswith("?") and name not in extras]
    assert not [name for name in row if name.endswith("?") and extras.get(name[:-1], 1) in (0, "", False, None, [], {})]


def service(answer: Any) -> Any:
    """A guard that answers `{"status": ..., "body": ...}`, or cannot be reached."""

    async def http(
        url: str, headers: Sequence[tuple[str, str]], body: bytes, *, timeout_s: float, max_bytes: int = 1 << 20
    ) -> HttpReply:
        if url.endswith("/v1/token"):
            return HttpReply(200, {}, b'{"access_token":"t","expires_in":3600}')
        if answer is None:
            raise PolicyError("gone")
        return HttpReply(answer.get("status", 200), {}, msgspec.json.encode(answer["body"]))

    return http


def world(answer: Any) -> Services:
    return b.make_services(
        http=service(answer),
        price=lambda provider, model: Price(0.001, 0.01) if model == "gpt-x" else None,
        environment=Environment(
            trustguard_base_url="http://guard", trustguard_client_id="i", trustguard_client_secret="s"
        ),
    )


def request_of(case: dict[str, Any], sent: dict[str, Any]) -> PolicyRequest:
    if case.get("plane") == "MCP":
        return b.mcp_request(sent["tool"])
    headers = [(name.lower().encode(), value.encode()) for name, value in sent.get("headers", {}).items()]
    return b.request(sent.get("body"), headers=headers, **sent.get("request", {}))


async def passed(case: dict[str, Any], chain: Chain, sent: dict[str, Any]) -> list[Mark]:
    """The telling marks of a request that goes through all stages."""
    run, request = Run(), request_of(case, sent)
    answered = b.response(sent.get("answer"), status=sent.get("status", 200), usage=TokenUsage(input=5, total=5))
    if await chain.pre_request(request, run) is None and await chain.pre_response(request, answered, run) is None:
        await chain.post_response(request, answered, run)
    return [mark for mark in run.marks if mark.telling]


def shown(mark: Mark) -> dict[str, Any]:
    """A mark without what changes from run to run."""
    check_members(mark)
    extras = dict(mark.extras or {})
    extras.pop("latency_ms", None)
    if "counter_key" in extras:
        extras["counter_key"] = extras["counter_key"].replace(mark.policy_id, "ID")
    found = {"stage": mark.stage, "decision": mark.decision, "status": mark.status_code, "error": mark.error}
    score = {} if mark.score is None else {"score": mark.score, "label": mark.score_label}
    return found | score | {"extras": extras}


def test_the_extras_of_every_plugin_are_documented() -> None:
    running = set(PLUGINS) - {"cors"}  # which takes no part in stages
    assert set(MEMBERS) == running
    assert {case["slug"] for case in CASES} == running


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['slug']}-{case['case']}")
async def test_a_run_leaves_the_documented_members(case: dict[str, Any]) -> None:
    policy = b.policy(
        case["slug"], case["settings"], mode=case.get("mode", "enforce"), stages=tuple(case.get("stages", ()))
    )
    chain = b.chain(policy, services=world(case.get("guard")), type=case.get("plane", "LLM"))
    for sent in case["requests"]:
        assert [shown(mark) for mark in await passed(case, chain, sent)] == sent["marks"]
