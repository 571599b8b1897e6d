"""Views, requests and chains for the tests of policies."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import msgspec

from trustgate.domain.entities import Consumer, Gateway, GatewayState, Policy
from trustgate.limits import MemoryLimits
from trustgate.policies.engine import Chain, compile_chain
from trustgate.policies.model import PolicyRequest, PolicyResponse, Run
from trustgate.policies.plugin import Services
from trustgate.view.gateway import GatewayView

AT = datetime(2026, 1, 1, tzinfo=UTC)
GATEWAY, CONSUMER = "gw-1", "consumer-1"
_ids = itertools.count()


def policy(slug: str, settings: dict[str, Any] | None = None, **rest: Any) -> Policy:
    number = next(_ids)
    rest.setdefault("id", f"{number:08d}-0000-7000-8000-000000000000")
    rest.setdefault("consumer_ids", (CONSUMER,))
    rest.setdefault("parallel", True)
    return Policy(
        gateway_id=GATEWAY,
        name=f"p{number}",
        slug=slug,
        created_at=AT,
        updated_at=AT,
        enabled=rest.pop("enabled", True),
        settings=settings or {},
        **rest,
    )


def chain(*policies: Policy, services: Services | None = None, type: str = "LLM") -> Chain:
    consumer = Consumer(
        id=CONSUMER,
        gateway_id=GATEWAY,
        name="c",
        slug="c",
        created_at=AT,
        updated_at=AT,
        type=type,  # type: ignore[arg-type]
    )
    state = GatewayState(
        version=1,
        gateway=Gateway(id=GATEWAY, slug="gw", created_at=AT, updated_at=AT),
        consumers={consumer.id: consumer},
        policies={entry.id: entry for entry in policies},
    )
    view = GatewayView(state, lambda ref: ref)
    compiled = view.consumer("c")
    assert compiled is not None
    return compile_chain(compiled, view.identity, services or make_services())


def make_services(**rest: Any) -> Services:
    return Services(limits=rest.pop("limits", None) or MemoryLimits(), **rest)


def request(body: Any = None, **rest: Any) -> PolicyRequest:
    if body is None:
        body = {"model": "gpt-x", "messages": [{"role": "user", "content": "hi"}]}
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    defaults: dict[str, Any] = {
        "gateway_id": GATEWAY,
        "consumer_id": CONSUMER,
        "session_id": "s-1",
        "source_format": "openai",
        "requested_model": "gpt-x",
        "registry_id": "registry-1",
        "provider": "openai",
        "trace_id": "trace-1",
    }
    return PolicyRequest(body=raw, **(defaults | rest))


def mcp_request(tool: str, arguments: Any = None) -> PolicyRequest:
    body: dict[str, Any] = {"name": tool}
    if arguments is not None:
        body["arguments"] = arguments
    return PolicyRequest(
        body=msgspec.json.encode(body), plane="MCP", gateway_id=GATEWAY, consumer_id=CONSUMER, consumer_type="MCP"
    )


def response(body: Any = None, **rest: Any) -> PolicyResponse:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body if body is not None else answer("ok"))
    return PolicyResponse(body=raw, **rest)


def answer(text: str | None, **rest: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **rest.pop("message", {})}
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "m-up",
        "choices": [{"index": 0, "message": message, "finish_reason": rest.pop("finish_reason", "stop")}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
        **rest,
    }


def run() -> Run:
    return Run()
