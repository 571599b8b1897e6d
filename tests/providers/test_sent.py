"""What really goes over the wire when the upstream pool sends a prepared attempt, and properties of preparation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.providers.fake_http import Answer, FakeHttp
from trustgate.providers.errors import ProviderError
from trustgate.providers.prepare import client_for
from trustgate.providers.probe import Inline
from trustgate.providers.registry import PROVIDERS
from trustgate.view.model import Allowance
from trustgate.wire.client import Deadlines, Pool, PoolConfig

KEY: dict[str, Any] = {"type": "api_key", "api_key": {"api_key": "k"}}
AWS: dict[str, Any] = {
    "type": "aws",
    "aws": {"region": "us-east-1", "access_key_id": "AKIA", "secret_access_key": "s", "session_token": "t"},
}
OPEN = Allowance()
VERTEX = {"project": "p", "location": "l"}


async def test_the_pool_sends_what_was_prepared_and_nothing_of_its_own() -> None:
    with FakeHttp(lambda request: Answer(b'{"id":"c"}')) as upstream:
        account = Inline("openai_compatible", {"base_url": f"{upstream.url}/v1", "headers": {"X-Team": "blue"}}, KEY)
        made = client_for(account).prepare_sync("openai", "chat", False, b'{"model":"m"}', OPEN)
        assert made is not None
        async with Pool(PoolConfig()) as pool:
            request = (made.method, made.origin, made.target, made.headers, made.body)
            async with await pool.request(*request, Deadlines()) as response:
                assert made.decode(response.status, await response.read(1000), response.headers) == b'{"id":"c"}'
        got = upstream.received[0]
    assert (got.method, got.path, got.body) == ("POST", "/v1/chat/completions", b'{"model":"m"}')
    assert got.headers == {
        "host": upstream.url.removeprefix("http://"),
        "content-type": "application/json",
        "content-length": "13",
        "authorization": "Bearer k",
        "x-team": "blue",
    }


async def test_a_signature_holds_for_the_request_that_arrives() -> None:
    with FakeHttp() as upstream:
        account = Inline("bedrock", {"base_url": f"{upstream.url}/aws"}, AWS)
        body = b'{"model":"arn:aws:bedrock:us-east-1:1:inference-profile/a","messages":[]}'
        made = await client_for(account).prepare("openai", "chat", True, body, OPEN)
        async with Pool(PoolConfig()) as pool:
            request = (made.method, made.origin, made.target, made.headers, made.body)
            async with await pool.request(*request, Deadlines()) as response:
                await response.read(1000)
        got = upstream.received[0]
    assert got.path.endswith("inference-profile%2Fa/invoke-with-response-stream")
    names = got.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert {"host", "x-amz-date", "x-amz-security-token"} <= set(names)
    arrived = AWSRequest(
        method=got.method,
        url=f"http://{got.headers['host']}{got.path}",
        data=got.body,
        headers={name: got.headers[name] for name in names if name != "host"},
    )
    arrived.context["timestamp"] = got.headers["x-amz-date"]
    signer = SigV4Auth(Credentials("AKIA", "s", "t"), "bedrock", "us-east-1")
    signature = signer.signature(signer.string_to_sign(arrived, signer.canonical_request(arrived)), arrived)
    assert got.headers["authorization"].endswith(f"Signature={signature}")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
members = ("model", "modelId", "messages", "input", "tools", "stream_options", "contents", "previous_response_id")
bodies = st.dictionaries(st.sampled_from(members), json_values, max_size=5).map(lambda body: json.dumps(body).encode())
allowances = st.sampled_from([OPEN, Allowance(("m",)), Allowance(("m",), "m"), Allowance(None, "d/e:f")])


@pytest.mark.parametrize("provider", sorted(set(PROVIDERS) - {"azure", "bedrock"}))
@settings(max_examples=40, deadline=None)
@given(
    client=st.sampled_from(["openai", "openai_responses", "anthropic", "google", "cohere"]),
    stream=st.booleans(),
    body=bodies | st.binary(max_size=20),
    allowance=allowances,
)
def test_any_body_is_prepared_or_refused_and_stays_below_the_base_url(
    provider: str, client: str, stream: bool, body: bytes, allowance: Allowance
) -> None:
    account = Inline(provider, {"base_url": "http://h:1/base", **VERTEX}, KEY)
    try:
        made = client_for(account).prepare_sync(client, "chat", stream, body, allowance, "", "resp_1")
    except ProviderError as refusal:
        assert refusal.status in (400, 403, 502)
        return
    assert made is not None
    assert made.target.startswith("/base/") and "/.." not in made.target and "#" not in made.target
    assert made.target.isascii() and not any(char <= " " for char in made.target)
    if allowance.allowed and not made.same_wire:
        assert made.sent_model in allowance.allowed
