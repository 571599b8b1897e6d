"""The Bedrock catalog narrowed to what an account may call, against a control plane on loopback."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.providers.fake_http import Answer, FakeHttp, Request
from trustgate.providers.bedrock_models import KEEP_S, BedrockAvailability
from trustgate.providers.probe import Inline
from trustgate.providers.services import Services

ACCOUNT = Inline(
    "bedrock", {}, {"type": "aws", "aws": {"region": "us-east-1", "access_key_id": "AKIA", "secret_access_key": "s"}}
)
CANDIDATES = ("a.granted", "b.denied", "c.provisioned", "global.d.profile", "e.unknown")
GRANTED = {
    "agreementAvailability": {"status": "AVAILABLE"},
    "authorizationStatus": "AUTHORIZED",
    "entitlementAvailability": "AVAILABLE",
    "regionAvailability": "AVAILABLE",
}


class ControlPlane:
    """Answers the three listings; `broken` paths fail."""

    def __init__(self, broken: tuple[str, ...] = (), granted: tuple[str, ...] = ("a.granted", "d.profile")) -> None:
        self.broken = broken
        self.granted = granted

    def __call__(self, request: Request) -> Answer:
        assert "Credential=AKIA/" in request.headers["authorization"]
        assert "/us-east-1/bedrock/aws4_request" in request.headers["authorization"]
        if any(request.path.startswith(path) for path in self.broken):
            return Answer(b"", 500)
        return Answer(json.dumps(self._body(request.path)).encode())

    def _body(self, path: str) -> dict[str, Any]:
        if path == "/foundation-models":
            on_demand = [
                {"modelId": slug, "inferenceTypesSupported": ["ON_DEMAND"]} for slug in ("a.granted", "b.denied")
            ]
            return {
                "modelSummaries": [*on_demand, {"modelId": "c.provisioned", "inferenceTypesSupported": ["PROVISIONED"]}]
            }
        if path.startswith("/inference-profiles?"):
            if "nextToken=" not in path:
                return {"inferenceProfileSummaries": [], "nextToken": "t/1"}
            assert path == "/inference-profiles?type=SYSTEM_DEFINED&maxResults=1000&nextToken=t%2F1"
            return {
                "inferenceProfileSummaries": [
                    {"inferenceProfileId": "global.d.profile", "status": "ACTIVE"},
                    {"inferenceProfileId": "us.a.granted", "status": "ACTIVE"},
                ]
            }
        slug = path.removeprefix("/foundation-model-availability/")
        return GRANTED if slug in self.granted else {**GRANTED, "authorizationStatus": "NOT_AUTHORIZED"}


async def narrowed(plane: ControlPlane, account: Inline = ACCOUNT) -> set[str]:
    with FakeHttp(plane) as server:
        async with Services.open({"AWS_ENDPOINT_URL_BEDROCK": server.url}) as services:
            return set(await BedrockAvailability(services).narrow(account, CANDIDATES))


async def test_only_models_that_are_offered_agreed_and_authorized_stay() -> None:
    assert await narrowed(ControlPlane()) == {"a.granted", "global.d.profile"}


async def test_an_empty_verdict_is_believed_when_something_was_verified() -> None:
    assert await narrowed(ControlPlane(granted=())) == set()


@pytest.mark.parametrize(
    "broken", [("/foundation-models",), ("/inference-profiles",), ("/foundation-model-availability",)]
)
async def test_any_failure_leaves_the_catalog_as_it_is(broken: tuple[str, ...]) -> None:
    assert await narrowed(ControlPlane(broken=broken)) == set(CANDIDATES)


async def test_one_model_without_a_verdict_is_left_out() -> None:
    plane = ControlPlane(broken=("/foundation-model-availability/d.profile",))
    assert await narrowed(plane) == {"a.granted"}


@pytest.mark.parametrize(
    "account",
    [
        Inline("openai", {}, ACCOUNT.auth),
        Inline("bedrock", {}, {"type": "api_key", "api_key": {"api_key": "k"}}),
        Inline("bedrock", {}, {"type": "aws", "aws": {}}),
    ],
)
async def test_other_accounts_are_not_asked_about(account: Inline) -> None:
    assert await narrowed(ControlPlane(), account) == set(CANDIDATES)


async def test_a_verdict_is_kept_for_ten_minutes() -> None:
    now = [0.0]
    with FakeHttp(ControlPlane()) as server:
        async with Services.open({"AWS_ENDPOINT_URL_BEDROCK": server.url}) as services:
            availability = BedrockAvailability(services, clock=lambda: now[0])
            await availability.narrow(ACCOUNT, CANDIDATES)
            asked = len(server.received)
            now[0] = KEEP_S - 1
            await availability.narrow(ACCOUNT, reversed(CANDIDATES))
            assert len(server.received) == asked
            await availability.narrow(ACCOUNT, CANDIDATES[:2])
            assert len(server.received) > asked
            asked = len(server.received)
            now[0] = KEEP_S + 1
            await availability.narrow(ACCOUNT, CANDIDATES)
            assert len(server.received) > asked


async def test_rows_of_a_list_keep_their_order() -> None:
    with FakeHttp(ControlPlane()) as server:
        async with Services.open({"AWS_ENDPOINT_URL_BEDROCK": server.url}) as services:
            rows = [{"slug": slug} for slug in reversed(CANDIDATES)]
            kept = await BedrockAvailability(services).filter(ACCOUNT, rows)
    assert kept == [{"slug": "global.d.profile"}, {"slug": "a.granted"}]
