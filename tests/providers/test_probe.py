"""Connection tests: every stage and message, against servers on loopback."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import trio

from tests.providers.fake_http import Answer, FakeHttp, Request
from trustgate.providers.errors import ProviderUnsupported
from trustgate.providers.probe import Inline, list_models, probe
from trustgate.providers.services import Services

KEY: dict[str, Any] = {"type": "api_key", "api_key": {"api_key": "sk-1"}}
AWS_KEYS = {"region": "eu-west-1", "access_key_id": "AKIA1", "secret_access_key": "s"}


async def outcome(account: Inline, limit_s: float = 10.0, **environ: str) -> dict[str, Any]:
    async with Services.open(environ) as services:
        answer = await probe(services, account, limit_s=limit_s)
    assert answer.pop("latency_ms") >= 0
    assert answer.pop("provider") == account.provider
    return answer


CALLS = [
    ("openai", {}, "/b/models", {"authorization": "Bearer sk-1"}),
    (
        "openai_compatible",
        {"headers": {"X-Env": "test"}},
        "/b/models",
        {"authorization": "Bearer sk-1", "x-env": "test"},
    ),
    ("anthropic", {}, "/b/models", {"x-api-key": "sk-1", "anthropic-version": "2023-06-01"}),
    ("google", {}, "/b/models", {"x-goog-api-key": "sk-1"}),
    ("mistral", {}, "/b/models", {"authorization": "Bearer sk-1"}),
    ("groq", {}, "/b/models", {"authorization": "Bearer sk-1"}),
    ("deepseek", {}, "/b/models", {"authorization": "Bearer sk-1"}),
    ("xai", {}, "/b/models", {"authorization": "Bearer sk-1"}),
    ("cerebras", {}, "/b/models", {"authorization": "Bearer sk-1"}),
    ("openrouter", {}, "/b/models", {"authorization": "Bearer sk-1"}),
    ("cohere", {}, "/b/v1/models", {"authorization": "Bearer sk-1"}),
]


@pytest.mark.parametrize(("provider", "options", "path", "headers"), CALLS)
async def test_good_credentials_list_models(
    provider: str, options: dict[str, Any], path: str, headers: dict[str, str]
) -> None:
    with FakeHttp() as upstream:
        answer = await outcome(Inline(provider, {"base_url": f"{upstream.url}/b/", **options}, KEY))
        request = upstream.received[0]
    assert answer == {"ok": True, "stage": "authentication", "status_code": 200}
    assert (request.method, request.path) == ("GET", path)
    assert {name: request.headers[name] for name in headers} == headers


async def test_azure_lists_models_of_its_endpoint() -> None:
    with FakeHttp() as upstream:
        auth = {"type": "azure", "azure": {"endpoint": f"{upstream.url}/api/projects/p", "api_key": "k"}}
        assert await outcome(Inline("azure", {}, auth)) == {"ok": True, "stage": "authentication", "status_code": 200}
        assert upstream.received[0].path == "/openai/models?api-version=2024-10-21"
        assert upstream.received[0].headers["api-key"] == "k"


STATUSES = [
    ("openai", 204, True, "authentication", None),
    ("openai", 401, False, "authentication", "provider rejected the credentials (status 401)"),
    ("openai", 403, False, "authentication", "provider rejected the credentials (status 403)"),
    ("openai", 400, False, "provider", "provider returned an unexpected status (400)"),
    ("google", 400, False, "authentication", "provider rejected the credentials (status 400)"),
    ("openai", 404, False, "provider", "provider returned an unexpected status (404)"),
    ("openai", 500, False, "provider", "provider returned an unexpected status (500)"),
]


@pytest.mark.parametrize(("provider", "status", "ok", "stage", "message"), STATUSES)
async def test_the_status_decides_the_stage(
    provider: str, status: int, ok: bool, stage: str, message: str | None
) -> None:
    with FakeHttp(lambda request: Answer(b"", status)) as upstream:
        answer = await outcome(Inline(provider, {"base_url": upstream.url}, KEY))
    expected = {"ok": ok, "stage": stage, "status_code": status}
    assert answer == (expected | {"message": message} if message else expected)


async def test_redirects_are_not_followed() -> None:
    with FakeHttp() as secret, FakeHttp(lambda r: Answer(b"", 302, (("Location", f"{secret.url}/x"),))) as upstream:
        answer = await outcome(Inline("openai", {"base_url": upstream.url}, KEY))
        assert secret.received == []
    assert answer["message"] == "provider returned an unexpected status (302)"


async def test_a_closed_port_is_told_by_its_class_only() -> None:
    answer = await outcome(Inline("openai", {"base_url": "http://127.0.0.1:1/v1"}, KEY))
    assert answer == {"ok": False, "stage": "connectivity", "message": "could not reach provider: connection refused"}


async def test_a_host_that_does_not_exist_is_told_by_its_class_only() -> None:
    answer = await outcome(Inline("openai", {"base_url": "http://nowhere.invalid/v1"}, KEY))
    assert answer == {"ok": False, "stage": "connectivity", "message": "could not reach provider: host not found"}


async def test_a_peer_that_is_no_http_server_is_told_by_its_class_only() -> None:
    listener = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    await listener.bind(("127.0.0.1", 0))
    listener.listen(1)

    async def answer_nonsense() -> None:
        peer, _ = await listener.accept()
        with peer:
            await peer.recv(4096)
            await peer.send(b"SSH-2.0-x\r\n\r\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_nonsense)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        answer = await outcome(Inline("openai", {"base_url": url}, KEY))
    listener.close()
    assert answer == {"ok": False, "stage": "connectivity", "message": "could not reach provider: protocol error"}


async def test_the_whole_test_has_a_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        answer = await outcome(Inline("openai", {"base_url": url}, KEY), limit_s=0.2)
    assert answer == {"ok": False, "stage": "connectivity", "message": "could not reach provider: timeout"}


OAUTH = {"type": "oauth2", "oauth": {"token_url": "https://i.example/t", "grant_type": "g"}}
LOCAL = [
    (
        "openai",
        {},
        {"type": "api_key", "api_key": {"header_name": "a", "header_value": "b"}},
        "authentication",
        "api key is required",
    ),
    ("openai_compatible", {}, KEY, "provider", "openai_compatible: base_url is required"),
    (
        "openai",
        {"api": "x"},
        KEY,
        "provider",
        'openai: provider_options.api must be "completions" or "responses", got "x"',
    ),
    ("vertex", {"location": "l"}, KEY, "connectivity", "vertex: provider_options.project is required"),
    ("azure", {}, {"type": "azure", "azure": {"api_key": "k"}}, "connectivity", "azure endpoint is required"),
    ("openai", {}, OAUTH, "unsupported", "connection testing is not supported for oauth2 credentials yet"),
    ("zz", {}, OAUTH, "unsupported", "connection testing is not supported for oauth2 credentials yet"),
    ("anthropic", {}, {"type": "aws", "aws": {}}, "authentication", "api key is required"),
]


@pytest.mark.parametrize(("provider", "options", "auth", "stage", "message"), LOCAL)
async def test_what_is_wrong_before_any_call(
    provider: str, options: dict[str, Any], auth: dict[str, Any], stage: str, message: str
) -> None:
    assert await outcome(Inline(provider, options, auth)) == {"ok": False, "stage": stage, "message": message}


async def test_a_provider_that_does_not_exist_is_for_the_caller_to_refuse() -> None:
    with pytest.raises(ProviderUnsupported, match='unsupported provider "zz"'):
        await outcome(Inline("zz", {}, KEY))


async def test_vertex_only_obtains_a_token() -> None:
    with FakeHttp(lambda request: Answer(b'{"error":"invalid_grant","error_description":"long text"}', 400)) as idp:
        key = {"type": "service_account", "client_email": "a", "private_key": "x", "token_uri": idp.url}
        auth = {"type": "gcp_service_account", "gcp_service_account": json.dumps(key)}
        answer = await outcome(Inline("vertex", {"project": "p", "location": "l"}, auth))
    assert answer == {
        "ok": False,
        "stage": "authentication",
        "message": "service account key has no usable private key",
    }
    assert await outcome(Inline("vertex", {"project": "p", "location": "l"}, KEY)) == {
        "ok": True,
        "stage": "authentication",
    }


async def test_a_refused_azure_token_is_an_authentication_failure() -> None:
    with FakeHttp(lambda request: Answer(b'{"error":"invalid_client","trace":"internal"}', 401)) as idp:
        auth = {
            "type": "azure",
            "azure": {"endpoint": "https://r.test", "tenant_id": "t", "client_id": "c", "client_secret": "s"},
        }
        answer = await outcome(Inline("azure", {}, auth), AZURE_AUTHORITY_HOST=idp.url)
    assert answer == {
        "ok": False,
        "stage": "authentication",
        "message": "token endpoint refused the credentials (status 401)",
    }


def sts_answer(status: int, code: str) -> Answer:
    error = f"<ErrorResponse><Error><Code>{code}</Code><Message>internal</Message></Error></ErrorResponse>"
    ok = "<GetCallerIdentityResponse><GetCallerIdentityResult/></GetCallerIdentityResponse>"
    return Answer((ok if status == 200 else error).encode(), status, (("Content-Type", "text/xml"),))


STS = [
    (200, "", {"ok": True, "stage": "authentication"}),
    (403, "Other", {"ok": False, "stage": "authentication", "message": "AWS rejected the credentials"}),
    (400, "SignatureDoesNotMatch", {"ok": False, "stage": "authentication", "message": "AWS rejected the credentials"}),
    (400, "ValidationError", {"ok": False, "stage": "provider", "message": "AWS error: ValidationError"}),
]


@pytest.mark.parametrize(("status", "code", "expected"), STS)
async def test_bedrock_asks_who_it_is(status: int, code: str, expected: dict[str, Any]) -> None:
    with FakeHttp(lambda request: sts_answer(status, code)) as sts:
        answer = await outcome(Inline("bedrock", {}, {"type": "aws", "aws": AWS_KEYS}), AWS_ENDPOINT_URL_STS=sts.url)
        assert b"Action=GetCallerIdentity" in sts.received[0].body
    assert answer == expected


async def test_an_aws_that_cannot_be_reached() -> None:
    auth = {"type": "aws", "aws": AWS_KEYS}
    answer = await outcome(Inline("bedrock", {}, auth), AWS_ENDPOINT_URL_STS="http://127.0.0.1:1")
    assert answer == {"ok": False, "stage": "connectivity", "message": "could not reach AWS"}


LISTINGS = [
    ("openai", b'{"data":[{"id":"b"},{"id":"a"}]}', ["a", "b"]),
    ("google", b'{"models":[{"name":"models/gemini-x"}]}', ["gemini-x"]),
    ("cohere", b'{"models":[{"name":"command"}]}', ["command"]),
    ("openai", b"<html>", []),
]


@pytest.mark.parametrize(("provider", "body", "expected"), LISTINGS)
async def test_models_are_listed_by_their_ids(provider: str, body: bytes, expected: list[str]) -> None:
    def reply(request: Request) -> Answer:
        return Answer(body)

    with FakeHttp(reply) as upstream:
        async with Services.open({}) as services:
            assert await list_models(services, Inline(provider, {"base_url": upstream.url}, KEY)) == expected
