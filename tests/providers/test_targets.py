"""URL and header forms of every provider, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from trustgate.providers.errors import RequestFault
from trustgate.providers.options import model_in_path
from trustgate.providers.probe import Inline
from trustgate.providers.provider import Operation
from trustgate.providers.registry import PROVIDERS

KEY: dict[str, Any] = {"type": "api_key", "api_key": {"api_key": "k-1"}}
AZURE: dict[str, Any] = {"type": "azure", "azure": {"endpoint": "https://r.openai.azure.com/", "api_key": "k-1"}}
FOUNDRY: dict[str, Any] = {
    "type": "azure",
    "azure": {"endpoint": "https://r.ai.azure.com/api/projects/p1", "api_key": "k-1", "version": "2025-01-01"},
}
AWS: dict[str, Any] = {"type": "aws", "aws": {"region": "eu-west-1", "access_key_id": "a", "secret_access_key": "s"}}
CHINA: dict[str, Any] = {"type": "aws", "aws": {"region": "cn-north-1", "access_key_id": "a", "secret_access_key": "s"}}
VERTEX = {"project": "p", "location": "Europe-West1"}


def url(provider: str, auth: dict[str, Any], options: dict[str, Any], operation: Operation) -> str:
    account = Inline(provider, options, auth)
    site = PROVIDERS[provider].site(account, {})
    return site.root + PROVIDERS[provider].target(site, operation)


def chat(wire: str, model: str = "m", stream: bool = False) -> Operation:
    return Operation(wire, model, stream)


TARGETS = [
    ("openai", KEY, {}, chat("openai"), "https://api.openai.com/v1/chat/completions"),
    ("openai", KEY, {}, chat("openai_responses"), "https://api.openai.com/v1/responses"),
    ("openai", KEY, {}, chat("openai_embeddings"), "https://api.openai.com/v1/embeddings"),
    ("openai", KEY, {"base_url": "http://h:8/o/"}, chat("openai"), "http://h:8/o/chat/completions"),
    ("openai", KEY, {"base_url": "http://H:8/ü%20b"}, chat("openai"), "http://h:8/%C3%BC%20b/chat/completions"),
    ("openai", KEY, {"BASE_URL": "http://h"}, chat("openai"), "http://h/chat/completions"),
    ("openai_compatible", KEY, {"base_url": "https://h/v1/"}, chat("openai"), "https://h/v1/chat/completions"),
    ("anthropic", KEY, {}, chat("anthropic"), "https://api.anthropic.com/v1/messages"),
    ("anthropic", KEY, {"base_url": "http://h:8"}, chat("anthropic"), "http://h:8/v1/messages"),
    ("anthropic", KEY, {"base_url": "http://h:8/an"}, chat("anthropic"), "http://h:8/an/messages"),
    ("anthropic", KEY, {"base_url": "http://h:8/v1/"}, chat("anthropic"), "http://h:8/v1/messages"),
    (
        "google",
        KEY,
        {},
        chat("google", "gemini-x"),
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-x:generateContent",
    ),
    (
        "google",
        KEY,
        {},
        chat("google", "gemini-x", True),
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-x:streamGenerateContent?alt=sse",
    ),
    ("google", KEY, {"base_url": "http://h"}, chat("google", "t/x1"), "http://h/v1beta/models/t/x1:generateContent"),
    (
        "google",
        KEY,
        {"base_url": "http://h/go"},
        chat("google", "é b"),
        "http://h/go/models/%C3%A9%20b:generateContent",
    ),
    (
        "google",
        KEY,
        {"base_url": "http://h/go"},
        Operation("google_embeddings", "e"),
        "http://h/go/models/e:batchEmbedContents",
    ),
    (
        "azure",
        AZURE,
        {},
        chat("azure", "gpt-x"),
        "https://r.openai.azure.com/openai/deployments/gpt-x/chat/completions?api-version=2024-10-21",
    ),
    (
        "azure",
        FOUNDRY,
        {},
        chat("azure", "gpt-x", True),
        "https://r.ai.azure.com/openai/deployments/gpt-x/chat/completions?api-version=2025-01-01",
    ),
    ("azure", AZURE, {}, chat("openai_responses"), "https://r.openai.azure.com/openai/v1/responses"),
    (
        "azure",
        AZURE,
        {},
        Operation("openai_embeddings", "e"),
        "https://r.openai.azure.com/openai/deployments/e/embeddings?api-version=2024-10-21",
    ),
    (
        "azure",
        AZURE,
        {"base_url": "http://h"},
        chat("azure", "d"),
        "http://h/openai/deployments/d/chat/completions?api-version=2024-10-21",
    ),
    (
        "vertex",
        KEY,
        VERTEX,
        chat("vertex", "gemini-x"),
        "https://europe-west1-aiplatform.googleapis.com/v1/projects/p/locations/europe-west1"
        "/publishers/google/models/gemini-x:generateContent",
    ),
    (
        "vertex",
        KEY,
        {**VERTEX, "location": "global", "version": "v1beta1"},
        chat("vertex", "gemini-x", True),
        "https://aiplatform.googleapis.com/v1beta1/projects/p/locations/global"
        "/publishers/google/models/gemini-x:streamGenerateContent?alt=sse",
    ),
    (
        "vertex",
        KEY,
        {**VERTEX, "action": "countTokens"},
        chat("vertex", "g", True),
        "https://europe-west1-aiplatform.googleapis.com/v1/projects/p/locations/europe-west1"
        "/publishers/google/models/g:countTokens",
    ),
    (
        "vertex",
        KEY,
        {**VERTEX, "base_url": "http://h:9"},
        Operation("vertex_embeddings", "e"),
        "http://h:9/v1/projects/p/locations/europe-west1/publishers/google/models/e:predict",
    ),
    (
        "bedrock",
        AWS,
        {},
        chat("bedrock", "eu.anthropic.claude-x-v1:0"),
        "https://bedrock-runtime.eu-west-1.amazonaws.com/model/eu.anthropic.claude-x-v1%3A0/invoke",
    ),
    (
        "bedrock",
        CHINA,
        {},
        chat("bedrock", "arn:aws:bedrock:x:1:inference-profile/a", True),
        "https://bedrock-runtime.cn-north-1.amazonaws.com.cn/model/"
        "arn%3Aaws%3Abedrock%3Ax%3A1%3Ainference-profile%2Fa/invoke-with-response-stream",
    ),
    ("bedrock", AWS, {"base_url": "http://h:8/b"}, chat("bedrock", "m"), "http://h:8/b/model/m/invoke"),
    ("mistral", KEY, {}, chat("mistral"), "https://api.mistral.ai/v1/chat/completions"),
    ("mistral", KEY, {}, chat("openai_embeddings"), "https://api.mistral.ai/v1/embeddings"),
    ("groq", KEY, {}, chat("groq"), "https://api.groq.com/openai/v1/chat/completions"),
    ("groq", KEY, {"base_url": "http://h:1"}, chat("groq"), "http://h:1/openai/v1/chat/completions"),
    ("deepseek", KEY, {}, chat("deepseek"), "https://api.deepseek.com/chat/completions"),
    ("deepseek", KEY, {"base_url": "http://h:1/ds"}, chat("deepseek"), "http://h:1/ds/chat/completions"),
    ("xai", KEY, {}, chat("xai"), "https://api.x.ai/v1/chat/completions"),
    ("cerebras", KEY, {}, chat("openai"), "https://api.cerebras.ai/v1/chat/completions"),
    ("openrouter", KEY, {}, chat("openrouter"), "https://openrouter.ai/api/v1/chat/completions"),
    ("cohere", KEY, {}, chat("cohere"), "https://api.cohere.com/v2/chat"),
    ("cohere", KEY, {}, chat("cohere_embed"), "https://api.cohere.com/v2/embed"),
    ("cohere", KEY, {"base_url": "http://h/co/"}, chat("cohere_rerank"), "http://h/co/v2/rerank"),
    ("cohere", KEY, {"base_url": "http://h/v2"}, chat("cohere"), "http://h/v2/chat"),
]


@pytest.mark.parametrize(("provider", "auth", "options", "operation", "expected"), TARGETS)
def test_requests_go_to_the_url_of_the_table(
    provider: str, auth: dict[str, Any], options: dict[str, Any], operation: Operation, expected: str
) -> None:
    assert url(provider, auth, options, operation) == expected


def test_standard_variables_move_the_bedrock_endpoint() -> None:
    account = Inline("bedrock", {}, AWS)
    site = PROVIDERS["bedrock"].site
    assert site(account, {"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "http://h:5/"}).root == "http://h:5"
    assert site(account, {"AWS_ENDPOINT_URL": "http://h:6"}).root == "http://h:6"
    ignored = {"AWS_ENDPOINT_URL": "http://h:6", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}
    assert site(account, ignored).root == "https://bedrock-runtime.eu-west-1.amazonaws.com"


@pytest.mark.parametrize(
    "model", ["..", "a/../b", "a?b", "a#b", "%2e%2e", "a/%2E%2E/b", "a\\b", "a\nb", "x" * 3000, "/a", "a//b", "."]
)
def test_a_model_cannot_lead_to_another_url(model: str) -> None:
    with pytest.raises(RequestFault):
        model_in_path(model)


@pytest.mark.parametrize(
    ("model", "path"), [("a/b:c", "a/b:c"), ("a b", "a%20b"), ("pub%2Fm2", "pub%252Fm2"), ("ü@x+1", "%C3%BC@x+1")]
)
def test_a_model_is_percent_encoded_with_slashes_and_colons_kept(model: str, path: str) -> None:
    assert model_in_path(model) == path


@pytest.mark.parametrize("code", sorted(PROVIDERS))
def test_every_provider_is_listed_under_its_own_code(code: str) -> None:
    assert PROVIDERS[code].code == code
