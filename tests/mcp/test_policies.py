"""Policies, plan limits and roles on the MCP plane, as a client sees them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.mcp.test_upstreams import tool, upstreams
from tests.mcp.upstream_server import Faulty
from tests.mcp.world import SLUG, api_key, registry, world
from tests.views import consumer, policy
from trustgate.domain.entities import Entitlements


def limited(slug: str, settings: dict[str, Any], **more: Any) -> Any:
    return policy("p-1", slug, settings=settings, **more)


def entities(url: str, *policies: Any) -> tuple[Any, ...]:
    one = consumer(SLUG, type="MCP", registry_ids=("r-1",), auth_ids=("a-1",))
    bound = [msgspec.structs.replace(entity, consumer_ids=(one.id,)) for entity in policies]
    return (registry("r-1", url), one, api_key(), *bound)


async def test_a_rate_limit_denies_with_its_code_headers_and_body() -> None:
    faulty = Faulty([tool("echo")])
    with upstreams(faulty):
        async with world(*entities(faulty.url, limited("rate_limiter", {"limit": 2, "window": "60s"}))) as at:
            message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "echo"}}
            for _ in range(2):
                assert "result" in json.loads((await at.send(message))[2])
            status, headers, body = await at.send(message)
    error = json.loads(body)["error"]
    assert status == 200 and error["code"] == -32004 and error["data"]["reason"] == "consumer"
    assert headers["retry-after"] == "60" and json.loads(body)["id"] == 7
    assert len(faulty.asked("tools/call")) == 2


async def test_a_tool_has_a_limit_of_its_own() -> None:
    faulty = Faulty([tool("echo"), tool("other")])
    settings = {"rules": [{"tool": "echo", "windows": [{"duration": "60s", "max": 1}]}]}
    with upstreams(faulty):
        async with world(*entities(faulty.url, limited("per_tool_rate_limiter", settings))) as at:
            assert "content" in await at.call("echo")
            denied = await at.call("echo")
            assert "content" in await at.call("other")
    assert denied["code"] == -32004, denied


async def test_a_request_that_is_too_large_is_denied_before_the_upstream_hears_of_it() -> None:
    faulty = Faulty([tool("echo")])
    settings = {"allowed_payload_size": 1, "size_unit": "kilobytes"}
    with upstreams(faulty):
        async with world(*entities(faulty.url, limited("request_size_limiter", settings))) as at:
            assert "content" in await at.call("echo", text="x")
            denied = await at.call("echo", text="x" * 2000)
    assert denied["code"] == -32001, denied
    assert len(faulty.asked("tools/call")) == 1


@pytest.mark.parametrize("slug", ["prompt_template", "model_allowlist", "regex_replace"])
async def test_a_global_policy_of_the_other_plane_stays_out_of_the_way(slug: str) -> None:
    settings: dict[str, Any] = {
        "prompt_template": {"templates": [{"name": "t", "template": "{{ctx.missing}}"}]},
        "model_allowlist": {"allowed_models": ["none"]},
        "regex_replace": {"rules": [{"pattern": ".", "replacement": ""}]},
    }[slug]
    faulty = Faulty([tool("echo")])
    foreign = policy("p-1", slug, settings=settings, global_=True)
    with upstreams(faulty):
        async with world(*entities(faulty.url), foreign) as at:
            assert "content" in await at.call("echo")


async def test_the_plan_counts_calls_and_lists_but_no_greetings() -> None:
    faulty = Faulty([tool("echo")])
    plan = Entitlements(tier="free", burst_per_min=2, quota_per_month=0, max_instances=0)
    with upstreams(faulty):
        async with world(*entities(faulty.url), entitlements=plan) as at:
            for _ in range(3):
                await at.rpc("ping")
                await at.rpc("initialize", {"protocolVersion": "2025-06-18"})
            assert (await at.rpc("tools/call"))["code"] == -32602, "parameters are judged first"
            await at.tools()
            await at.call("echo")
            status, headers, body = await at.send({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert status == 200 and headers["x-ratelimit-limit"] == "2" and headers["x-ratelimit-reason"] == "burst"
    error = json.loads(body)["error"]
    assert (error["code"], error["message"]) == (-32004, "rate limit exceeded: burst")
    assert error["data"] == {
        "error": "rate limit exceeded",
        "message": "Request blocked: gateway burst rate limit exceeded. Retry after 60s.",
        "reason": "burst",
        "limit": 2,
        "retry_after_seconds": 60,
    }


async def test_a_limit_holds_for_resources_and_prompts_too() -> None:
    faulty = Faulty([tool("echo")])
    with upstreams(faulty):
        async with world(*entities(faulty.url, limited("rate_limiter", {"limit": 1, "window": "60s"}))) as at:
            first = await at.rpc("resources/read", {"uri": "file:///x"})
            second = await at.rpc("prompts/get", {"name": "p"})
    assert first.get("code") != -32004 and second["code"] == -32004


@pytest.mark.parametrize("levels", [390, 950, 965, 971, 1100])
async def test_no_policy_is_evaded_by_arguments_that_are_too_deep_to_be_read(levels: int) -> None:
    faulty = Faulty([tool("echo")])
    settings = {"rules": [{"tool": "echo", "windows": [{"duration": "60s", "max": 1}]}]}
    params = b'{"name":"echo","arguments":{"x":' + b"[" * levels + b"]" * levels + b"}}"
    call = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":' + params + b"}"
    with upstreams(faulty):
        async with world(*entities(faulty.url, limited("per_tool_rate_limiter", settings))) as at:
            assert "content" in await at.call("echo")
            _, _, body = await at.send(call)
    assert json.loads(body)["error"]["code"] == (-32004 if levels < 400 else -32700)
