"""Recorded traffic of the existing TrustGate, replayed through compiled chains (spec 04 §3-14).

The chain stands where the proxy would call it; what the proxy itself adds (session, selection headers, translation) is
not compared here.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trustgate.domain.entities import Consumer, Gateway, GatewayState, Policy
from trustgate.policies.engine import compile_chain
from trustgate.policies.model import PolicyRequest, PolicyResponse, Run
from trustgate.view.gateway import GatewayView

from . import builders as b

SCENARIOS = [json.loads(line) for line in (Path(__file__).parent / "recorded.jsonl").read_text().splitlines()]
CHAT = {
    "/v1/chat/completions": "openai",
    "/v1/messages": "anthropic",
}


def matches(expected: Any, value: Any) -> bool:
    if isinstance(expected, dict) and "$re" in expected:
        return isinstance(value, str) and re.search(expected["$re"], value) is not None
    if isinstance(expected, dict) and "$any" in expected:
        return value is not None
    if isinstance(expected, dict):
        partial = expected.get("$partial")
        rest = {key: entry for key, entry in expected.items() if key != "$partial"}
        return (
            isinstance(value, dict)
            and (bool(partial) or rest.keys() == value.keys())
            and all(key in value and matches(entry, value[key]) for key, entry in rest.items())
        )
    if isinstance(expected, list):
        return isinstance(value, list) and len(expected) == len(value) and all(map(matches, expected, value))
    return expected == value


class World:
    """Policies and consumers of one scenario; chains are compiled anew after every change, counters stay."""

    def __init__(self) -> None:
        self.services = b.make_services()
        self.policies: dict[str, Policy] = {}

    def change(self, step: dict[str, Any]) -> bool:
        """Apply a configuration step; False when the step is none."""
        if "policy" in step:
            body = step["body"]
            made = b.policy(
                body["slug"],
                body.get("settings") or {},
                enabled=body.get("enabled", False),
                global_=body.get("global", False),
                priority=body.get("priority", 0),
                parallel=body.get("parallel", True),
                stages=tuple(body.get("stages") or ()),
                mode=body.get("mode") or "enforce",
                consumer_ids=(),
            )
            self.policies[step["policy"]] = made
        elif "attach" in step:
            self.replace(step["attach"], lambda old: {"consumer_ids": (*old.consumer_ids, step["consumer"])})
        elif "detach" in step:
            self.replace(
                step["detach"],
                lambda old: {"consumer_ids": tuple(id_ for id_ in old.consumer_ids if id_ != step["consumer"])},
            )
        elif "globalise" in step:
            self.replace(step["globalise"], lambda old: {"global_": True})
        elif "update" in step:
            names = {"global": "global_"}
            self.replace(
                step["update"],
                lambda old: {
                    names.get(key, key): tuple(value) if key == "stages" else value
                    for key, value in step["body"].items()
                },
            )
        else:
            return False
        return True

    def replace(self, name: str, changes: Any) -> None:
        self.policies[name] = msgspec.structs.replace(self.policies[name], **changes(self.policies[name]))

    def view(self) -> GatewayView:
        names = {id_ for policy in self.policies.values() for id_ in policy.consumer_ids} | {"c", "c2", "d"}
        consumers = {
            name: Consumer(id=name, gateway_id=b.GATEWAY, name=name, slug=name, created_at=b.AT, updated_at=b.AT)
            for name in names
        }
        return GatewayView(
            GatewayState(
                version=1,
                gateway=Gateway(id=b.GATEWAY, slug="gw", created_at=b.AT, updated_at=b.AT),
                consumers=consumers,
                policies={policy.id: policy for policy in self.policies.values()},
            ),
            lambda ref: ref,
        )


def make_request(step: dict[str, Any]) -> PolicyRequest:
    body = step["text"].encode() if "text" in step else json.dumps(step.get("body")).encode()
    headers = [(name.lower().encode(), value.encode()) for name, value in step["headers"].items() if name != "token"]
    if not step.get("chunked"):
        headers.append((b"content-length", str(len(body)).encode()))
    if "token" in step["headers"]:
        claims = base64.urlsafe_b64encode(json.dumps(step["headers"]["token"]["claims"]).encode()).rstrip(b"=")
        headers.append((b"authorization", b"Bearer e30." + claims + b".c2ln"))
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = {}
    stamped = re.search(r"/models/([^:/]+):", step["path"])
    if stamped is not None:
        parsed["model"] = stamped.group(1)
        body = json.dumps(parsed).encode()
    reference = parsed.get("model", "")
    if reference.startswith("@"):  # the proxy reduces a reference before policies run
        body = json.dumps(parsed | {"model": reference.partition("/")[2]}).encode()
    return PolicyRequest(
        body=body,
        headers=headers,
        path=step["path"],
        gateway_id=b.GATEWAY,
        consumer_id=step["consumer"],
        source_format=CHAT.get(step["path"], "google"),
        requested_model=reference,
        registry_id="a",
        provider="openai_compatible",
        stream=bool(parsed.get("stream")),
    )


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["scenario"])
async def test_recorded_traffic_gets_the_recorded_answers(scenario: dict[str, Any]) -> None:
    world = World()
    for step in scenario["steps"]:
        if not world.change(step):
            await replay(world, step)


async def replay(world: World, step: dict[str, Any]) -> None:
    view = world.view()
    consumer = view.consumer(step["consumer"])
    assert consumer is not None
    chain = compile_chain(consumer, view.identity, world.services)
    request, run = make_request(step), Run()
    outcome = await chain.pre_request(request, run)
    if outcome is None:
        assert step.get("received") != [], f"{step['call']}: should not have been forwarded"
        status, headers, body = await answered(chain, request, run, step)
    else:
        assert not step.get("received"), f"{step['call']}: {outcome}"
        status, headers, body = outcome.rendered()
    assert status == step["status"], f"{step['call']}: {body!r}"
    sent = {name.lower(): value for name, value in headers}
    for name, expected in step["expect_headers"].items():
        if name == "content-type" and outcome is None:
            continue
        found = sent.get(name)
        assert (found is None) if expected is None else matches(expected, found), f"{step['call']}: {name}={found!r}"
    if "expect_body" in step and (request.source_format == "openai" or outcome is not None):
        assert matches(step["expect_body"], json.loads(body)), f"{step['call']}: {body!r}"


async def answered(
    chain: Any, request: PolicyRequest, run: Run, step: dict[str, Any]
) -> tuple[int, list[tuple[str, str]], bytes]:
    """Let the upstream answer, and run what follows."""
    if request.source_format == "openai" and step.get("received"):
        (received,) = step["received"]
        if "body" in received:
            # Asking the upstream for the usage of a stream is the provider's doing.
            received["body"].pop("stream_options", None)
            assert matches(received["body"], json.loads(request.body)), f"{step['call']}: {request.body!r}"
    upstream = step.get("upstream", {})
    streaming = "chunks" in upstream
    body = upstream["text"].encode() if "text" in upstream else json.dumps(upstream.get("body", {})).encode()
    headers = list(run.headers)
    response = PolicyResponse(
        status=upstream.get("status", 200), headers=headers, body=b"" if streaming else body, streaming=streaming
    )
    outcome = await chain.pre_response(request, response, run)
    if outcome is not None:
        return outcome.rendered()
    status, answer = response.status, response.body
    if streaming:
        lines = "".join(upstream["chunks"]).encode().split(b"\n")
        response.body = b"".join(line + b"\n" for line in lines if line)
    await chain.post_response(request, response, run)
    return status, response.headers, answer
