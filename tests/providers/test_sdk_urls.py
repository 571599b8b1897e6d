"""The official SDKs as oracles: pointed at the same base URL, they and we send to the same place with the same key."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.providers.fake_http import FakeHttp
from trustgate.providers.prepare import client_for
from trustgate.providers.probe import Inline
from trustgate.view.model import Allowance

KEY: dict[str, Any] = {"type": "api_key", "api_key": {"api_key": "k-1"}}
MESSAGES: list[Any] = [{"role": "user", "content": "q"}]


def openai_sdk(url: str, stream: bool) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="k-1", max_retries=0)
    client.chat.completions.create(model="m", messages=MESSAGES, stream=stream)


def openai_responses(url: str, stream: bool) -> None:
    from openai import OpenAI

    OpenAI(base_url=f"{url}/v1", api_key="k-1", max_retries=0).responses.create(model="m", input="q", stream=stream)


def azure_sdk(url: str, stream: bool) -> None:
    from openai import AzureOpenAI

    client = AzureOpenAI(azure_endpoint=url, api_key="k-1", api_version="2024-10-21", max_retries=0)
    client.chat.completions.create(model="m", messages=MESSAGES, stream=stream)


def anthropic_sdk(url: str, stream: bool) -> None:
    from anthropic import Anthropic

    client = Anthropic(base_url=url, api_key="k-1", max_retries=0)
    client.messages.create(model="m", messages=MESSAGES, max_tokens=1, stream=stream)


def google_sdk(url: str, stream: bool) -> None:
    from google import genai

    client = genai.Client(api_key="k-1", http_options=genai.types.HttpOptions(base_url=url, api_version="v1beta"))
    if stream:
        list(client.models.generate_content_stream(model="m", contents="q"))
    else:
        client.models.generate_content(model="m", contents="q")


def groq_sdk(url: str, stream: bool) -> None:
    from groq import Groq

    Groq(base_url=url, api_key="k-1", max_retries=0).chat.completions.create(
        model="m", messages=MESSAGES, stream=stream
    )


def mistral_sdk(url: str, stream: bool) -> None:
    from mistralai.client import Mistral

    chat = Mistral(server_url=url, api_key="k-1").chat
    (chat.stream if stream else chat.complete)(model="m", messages=MESSAGES)


def cohere_sdk(url: str, stream: bool) -> None:
    from cohere import ClientV2

    client = ClientV2(base_url=url, api_key="k-1")
    if stream:
        list(client.chat_stream(model="m", messages=MESSAGES))
    else:
        client.chat(model="m", messages=MESSAGES)


ORACLES: list[tuple[str, str, dict[str, Any] | None, Callable[[str, bool], None], str]] = [
    ("openai", "openai", {"base_url": "{url}/v1"}, openai_sdk, "authorization"),
    ("openai_compatible", "openai", {"base_url": "{url}/v1/"}, openai_sdk, "authorization"),
    ("openai", "openai_responses", {"base_url": "{url}/v1"}, openai_responses, "authorization"),
    ("azure", "openai", None, azure_sdk, "api-key"),
    # The SDK of today sends the key as a bearer token; x-api-key is what the API's version 2023-06-01 documents.
    ("anthropic", "anthropic", {"base_url": "{url}"}, anthropic_sdk, ""),
    ("google", "google", {"base_url": "{url}"}, google_sdk, "x-goog-api-key"),
    ("groq", "openai", {"base_url": "{url}"}, groq_sdk, "authorization"),
    ("mistral", "openai", {"base_url": "{url}"}, mistral_sdk, "authorization"),
    ("cohere", "cohere", {"base_url": "{url}"}, cohere_sdk, "authorization"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize(
    ("provider", "client", "options", "sdk", "credential"), ORACLES, ids=[f"{row[0]}-{row[1]}" for row in ORACLES]
)
def test_we_send_to_where_the_sdk_sends(
    provider: str,
    client: str,
    options: dict[str, Any] | None,
    sdk: Callable[[str, bool], None],
    credential: str,
    stream: bool,
) -> None:
    with FakeHttp() as upstream:
        with contextlib.suppress(Exception):  # the answer is empty, which some SDKs do not forgive
            sdk(upstream.url, stream)
        theirs = upstream.received[0]
        filled = {name: value.format(url=upstream.url) for name, value in (options or {}).items()}
        auth = KEY if options else {"type": "azure", "azure": {"endpoint": upstream.url, "api_key": "k-1"}}
        body = b'{"model":"m","messages":[{"role":"user","content":"q"}],"contents":[],"input":"q"}'
        ours = client_for(Inline(provider, filled, auth)).prepare_sync(client, "chat", stream, body, Allowance())
    assert ours is not None
    assert ours.target == theirs.path
    if credential:
        assert dict(ours.headers)[credential.encode()].decode() == theirs.headers[credential]


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
async def test_we_send_to_where_boto3_sends(stream: bool) -> None:
    import boto3

    model = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-x-v1:0"
    with FakeHttp() as upstream:
        sdk = boto3.client(
            "bedrock-runtime",
            region_name="us-east-1",
            endpoint_url=upstream.url,
            aws_access_key_id="AKIA",
            aws_secret_access_key="s",
        )
        with contextlib.suppress(Exception):
            call = sdk.invoke_model_with_response_stream if stream else sdk.invoke_model
            call(modelId=model, body=b"{}")
        theirs = upstream.received[0]
        auth = {"type": "aws", "aws": {"region": "us-east-1", "access_key_id": "AKIA", "secret_access_key": "s"}}
        body = b'{"model":"' + model.encode() + b'","messages":[]}'
        account = Inline("bedrock", {"base_url": upstream.url}, auth)
        ours = await client_for(account).prepare("openai", "chat", stream, body, Allowance())
    assert ours.target == theirs.path
    scope = theirs.headers["authorization"].partition("Credential=")[2].partition(",")[0].split("/")
    sent = dict(ours.headers)[b"authorization"].decode().partition("Credential=")[2].partition(",")[0].split("/")
    assert [scope[0], *scope[2:]] == [sent[0], *sent[2:]] == ["AKIA", "us-east-1", "bedrock", "aws4_request"]
