"""The built-in model, met through the official OpenAI client, and the quickstart's parts around it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from trustgate import loopback
from trustgate.quickstart import PROVIDERS, Demo, QuickstartError, choose_upstream


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with loopback.running(tmp_path_factory.mktemp("data")) as url:
        yield url


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
        yield client


def test_it_repeats_the_last_user_message_the_same_way_every_time(client: openai.OpenAI) -> None:
    answers = [
        client.chat.completions.create(
            model="loopback",
            messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "good day"}],
        )
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert answers[0].choices[0].message.content == "You said: good day"
    assert answers[0].usage is not None
    assert (answers[0].usage.prompt_tokens, answers[0].usage.completion_tokens) == (4, 4)


def test_it_streams_the_same_words_and_usage_when_asked(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="loopback",
        messages=[{"role": "user", "content": "one two"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    events = list(stream)
    words = [event.choices[0].delta.content or "" for event in events if event.choices]
    assert "".join(words) == "You said: one two"
    assert len([word for word in words if word]) == 4
    assert events[-1].usage is not None
    assert events[-1].usage.total_tokens == 6


def test_it_lists_itself_and_embeds_texts(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["loopback"]
    data = client.embeddings.create(
        model="loopback", input=["a cat", "a cat", "stock market"], encoding_format="float"
    ).data
    assert data[0].embedding == data[1].embedding != data[2].embedding


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [("POST", "/chat/completions", "[1]", 400), ("GET", "/nothing", None, 404), ("POST", "/embeddings", "{}", 400)],
)
def test_a_bad_request_gets_an_openai_error(
    base_url: str, method: str, path: str, body: str | None, status: int
) -> None:
    answer = httpx.request(method, base_url + path, content=body, trust_env=False)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_port_is_kept_over_a_restart(tmp_path: Path) -> None:
    with loopback.running(tmp_path) as first:
        pass
    with loopback.running(tmp_path) as second:
        assert second == first


def test_a_taken_port_is_replaced_by_a_free_one(tmp_path: Path) -> None:
    with loopback.running(tmp_path) as first, loopback.running(tmp_path) as second:
        assert second != first


def test_the_upstream_is_the_first_provider_with_a_key() -> None:
    assert choose_upstream({}, None, None) is None
    chosen = choose_upstream({"GROQ_API_KEY": "g", "OPENAI_API_KEY": "o"}, None, None)
    assert chosen is not None
    assert (chosen.provider, chosen.api_key, chosen.model) == ("openai", "o", PROVIDERS["openai"][1])
    named = choose_upstream({"MY_KEY": "m"}, "mistral", "MY_KEY")
    assert named is not None
    assert (named.provider, named.api_key) == ("mistral", "m")


@pytest.mark.parametrize(("provider", "message"), [("openai", "OPENAI_API_KEY is not set"), ("nobody", "unknown")])
def test_a_provider_asked_for_must_be_usable(provider: str, message: str) -> None:
    with pytest.raises(QuickstartError, match=message):
        choose_upstream({}, provider, None)


def test_the_printed_call_is_one_line_of_shell() -> None:
    demo = Demo("http://localhost:8081", "g", "demo", "Ab12", "ag_x", "loopback")
    assert demo.curl() == (
        "curl -s http://localhost:8081/Ab12/v1/chat/completions -H 'X-AG-Gateway-Slug: demo' -H 'X-AG-API-Key: ag_x'"
        " -H 'Content-Type: application/json'"
        ' -d \'{"model":"loopback","messages":[{"role":"user","content":"Hello!"}]}\''
    )
