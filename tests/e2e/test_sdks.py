"""The official SDKs as clients: base URL and key changed, everything else as their users write it."""

from __future__ import annotations

from typing import Any

import anthropic
import cohere
import groq
import openai
import pytest
from google import genai
from google.genai import types as gemini
from mistralai.client import Mistral

from tests.e2e.installation import Demo, Installation
from tests.e2e.upstream import TEXT, FaultyUpstream

ASK: Any = [{"role": "user", "content": "Hi"}]
PARAMETERS: Any = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
OPENAI_TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]


def demo_of(installation: Installation, upstream: FaultyUpstream, name: str) -> Demo:
    demo = Demo(installation)
    demo.registry("only", upstream.url(name))
    return demo.open()


@pytest.fixture(scope="module")
def demo(installation: Installation, upstream: FaultyUpstream) -> Demo:
    return demo_of(installation, upstream, "ok")


@pytest.fixture(scope="module")
def tools(installation: Installation, upstream: FaultyUpstream) -> Demo:
    return demo_of(installation, upstream, "tools")


def openai_client(demo: Demo) -> openai.OpenAI:
    gateway = {"X-AG-Gateway-Slug": demo.gateway_slug}
    return openai.OpenAI(base_url=f"{demo.url}/v1", api_key=demo.key, default_headers=gateway, max_retries=0)


def anthropic_client(demo: Demo) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=demo.url, api_key=demo.key, default_headers=demo.headers, max_retries=0)


def test_openai_chat(demo: Demo) -> None:
    answer = openai_client(demo).chat.completions.create(model="m", messages=ASK)
    assert (answer.choices[0].message.content, answer.usage and answer.usage.total_tokens) == (TEXT, 9)


def test_openai_chat_streamed(demo: Demo) -> None:
    chunks = list(openai_client(demo).chat.completions.create(model="m", messages=ASK, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [9]


def test_openai_chat_with_tools(tools: Demo) -> None:
    answer = openai_client(tools).chat.completions.create(model="m", messages=ASK, tools=OPENAI_TOOLS)
    calls: Any = answer.choices[0].message.tool_calls
    assert (calls[0].function.name, calls[0].function.arguments) == ("weather", '{"city":"Paris"}')


def test_openai_chat_with_tools_streamed(tools: Demo) -> None:
    stream = openai_client(tools).chat.completions.create(model="m", messages=ASK, tools=OPENAI_TOOLS, stream=True)
    calls = [c for chunk in stream for choice in chunk.choices for c in choice.delta.tool_calls or []]
    assert len(calls) == 1, "fragments arrive as one call"
    assert calls[0].function and calls[0].function.arguments == '{"city":"Paris"}'


def test_openai_responses(demo: Demo) -> None:
    answer = openai_client(demo).responses.create(model="@openai_compatible/m", input="Hi")
    assert answer.output_text == TEXT


def test_openai_responses_streamed(demo: Demo) -> None:
    events = list(openai_client(demo).responses.create(model="m", input="Hi", stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    assert events[-1].type == "response.completed"


def test_openai_errors_are_the_sdks_own(demo: Demo) -> None:
    client = openai_client(demo).with_options(api_key="ag_wrong")
    with pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="m", messages=ASK)
    with pytest.raises(openai.BadRequestError):
        openai_client(demo).chat.completions.create(model="@nobody", messages=ASK)
    with pytest.raises(openai.PermissionDeniedError):
        openai_client(demo).chat.completions.create(model="@nobody/m", messages=ASK)


def test_openai_lists_the_models_of_the_consumer(installation: Installation, upstream: FaultyUpstream) -> None:
    demo = Demo(installation)
    found = demo.registry("only", upstream.url("ok"))
    demo.open(model_policies=[{"registry_id": found, "allowed": ["m1", "m2"], "default": "m1"}])
    assert [model.id for model in openai_client(demo).models.list()] == ["m1", "m2"]
    assert [model.id for model in anthropic_client(demo).models.list()] == ["m1", "m2"]


def test_an_openai_stream_that_is_left_half_way_ends_the_upstream(
    installation: Installation, upstream: FaultyUpstream
) -> None:
    client = openai_client(demo_of(installation, upstream, "slow"))
    stream = client.chat.completions.create(model="m", messages=ASK, stream=True)
    for count, _ in enumerate(stream):
        if count == 3:
            break
    stream.close()
    (request,) = upstream.requests("slow")
    assert request.gone.wait(5)


def test_anthropic_messages(demo: Demo) -> None:
    answer: Any = anthropic_client(demo).messages.create(model="m", max_tokens=50, messages=ASK)
    assert (answer.content[0].text, answer.stop_reason, answer.usage.output_tokens) == (TEXT, "end_turn", 4)


def test_anthropic_messages_streamed(demo: Demo) -> None:
    with anthropic_client(demo).messages.stream(model="m", max_tokens=50, messages=ASK) as stream:
        assert "".join(stream.text_stream) == TEXT
        assert stream.get_final_message().stop_reason == "end_turn"


@pytest.mark.parametrize("streamed", [False, True])
def test_anthropic_tools(streamed: bool, tools: Demo) -> None:
    wanted: Any = {"model": "m", "max_tokens": 50, "messages": ASK}
    wanted["tools"] = [{"name": "weather", "input_schema": PARAMETERS}]
    client = anthropic_client(tools)
    if streamed:
        with client.messages.stream(**wanted) as stream:
            answer: Any = stream.get_final_message()
    else:
        answer = client.messages.create(**wanted)
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    assert (call.name, call.input, answer.stop_reason) == ("weather", {"city": "Paris"}, "tool_use")


def gemini_client(demo: Demo) -> genai.Client:
    options = gemini.HttpOptions(base_url=demo.url, api_version="v1beta", headers=demo.headers)
    return genai.Client(api_key="unused", http_options=options)


def test_gemini(demo: Demo) -> None:
    client = gemini_client(demo)
    assert client.models.generate_content(model="m", contents="Hi").text == TEXT
    chunks = client.models.generate_content_stream(model="m", contents="Hi")
    assert "".join(chunk.text or "" for chunk in chunks) == TEXT


def test_cohere(demo: Demo) -> None:
    import httpx

    client = cohere.ClientV2("unused", base_url=demo.url, httpx_client=httpx.Client(headers=demo.headers))
    answer: Any = client.chat(model="m", messages=ASK)
    assert answer.message.content[0].text == TEXT
    events: Any = client.chat_stream(model="m", messages=ASK)
    texts = [event.delta.message.content.text for event in events if event.type == "content-delta"]
    assert "".join(texts) == TEXT


@pytest.fixture(scope="module", params=["cohere", "openai", "openai_compatible", "mistral"])
def embedder(request: pytest.FixtureRequest, installation: Installation, upstream: FaultyUpstream) -> Demo:
    demo = Demo(installation)
    demo.registry("only", upstream.url("embeds"), provider=request.param)
    return demo.open()


def cohere_client(demo: Demo) -> cohere.ClientV2:
    import httpx

    return cohere.ClientV2("unused", base_url=demo.url, httpx_client=httpx.Client(headers=demo.headers))


def test_openai_embeddings(embedder: Demo) -> None:
    answer = openai_client(embedder).embeddings.create(model="e", input=["a", "b"])
    assert [vector.embedding for vector in answer.data] == [[0.5, 0.25], [1.0, -2.0]]
    assert answer.usage.prompt_tokens == 4


def test_cohere_embed(embedder: Demo) -> None:
    given: Any = {"model": "e", "texts": ["a", "b"], "input_type": "search_query", "embedding_types": ["float"]}
    answer: Any = cohere_client(embedder).embed(**given)
    assert answer.embeddings.float_ == [[0.5, 0.25], [1.0, -2.0]]
    assert answer.meta.billed_units.input_tokens == 4


def test_cohere_rerank(installation: Installation, upstream: FaultyUpstream) -> None:
    demo = Demo(installation)
    demo.registry("only", upstream.url("embeds"), provider="cohere")
    answer = cohere_client(demo.open()).rerank(model="r", query="q", documents=["a", "b"])
    assert [(result.index, result.relevance_score) for result in answer.results] == [(1, 0.9)]


def test_groq(demo: Demo) -> None:
    # The SDK's own paths begin with /openai/v1: a base URL cannot remove that, so it goes through its raw client.
    client = groq.Groq(base_url=demo.url, api_key=demo.key, default_headers=demo.headers, max_retries=0)
    answer: Any = client.post("/v1/chat/completions", cast_to=object, body={"model": "m", "messages": ASK})
    assert answer["choices"][0]["message"]["content"] == TEXT


def test_mistral(demo: Demo) -> None:
    import httpx

    client = Mistral(api_key="unused", server_url=demo.url, client=httpx.Client(headers=demo.headers))
    answer: Any = client.chat.complete(model="m", messages=ASK)
    assert answer.choices[0].message.content == TEXT
    events: Any = client.chat.stream(model="m", messages=ASK)
    assert "".join(str(event.data.choices[0].delta.content or "") for event in events if event.data.choices) == TEXT
