"""One upstream attempt: what goes out, for whom it goes out at all, and the order of refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trustgate.providers.errors import InvalidRequest, ModelNotAllowed, ProviderUnsupported, RequestFault
from trustgate.providers.prepare import Prepared, client_for, prepare
from trustgate.providers.probe import Inline
from trustgate.view.model import Allowance

KEY: dict[str, Any] = {"type": "api_key", "api_key": {"api_key": "k-1"}}
AZURE: dict[str, Any] = {"type": "azure", "azure": {"endpoint": "https://r.openai.azure.com", "api_key": "k-1"}}
OPEN = Allowance()
ONLY_M1 = Allowance(("m1",), "")


def account(provider: str = "openai", auth: dict[str, Any] = KEY, **options: Any) -> Inline:
    return Inline(provider, options, auth)


def ready(
    provider: str = "openai",
    body: Any = b'{"model":"m"}',
    *,
    client: str = "openai",
    capability: str = "chat",
    stream: bool = False,
    allowance: Allowance = OPEN,
    auth: dict[str, Any] = KEY,
    client_model: str = "",
    previous: str | None = None,
    **options: Any,
) -> Prepared:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    made = client_for(account(provider, auth, **options)).prepare_sync(
        client, capability, stream, data, allowance, client_model, previous
    )
    assert made is not None
    return made


SAME_WIRE = [
    ("openai", "openai", "/v1/chat/completions", {}),
    ("openai_compatible", "openai", "/v1/chat/completions", {"base_url": "http://h/v1"}),
    ("deepseek", "openai", "/chat/completions", {}),
    ("xai", "openai", "/v1/chat/completions", {}),
    ("cerebras", "openai", "/v1/chat/completions", {}),
    ("openai", "openai_responses", "/v1/responses", {}),
    ("anthropic", "anthropic", "/v1/messages", {}),
    ("google", "google", "/v1beta/models/m:generateContent", {}),
    ("cohere", "cohere", "/v2/chat", {}),
]


@pytest.mark.parametrize(("provider", "client", "target", "options"), SAME_WIRE)
def test_same_dialect_with_a_literal_model_sends_the_very_bytes_of_the_client(
    provider: str, client: str, target: str, options: dict[str, Any]
) -> None:
    body = b'{ "model" : "m",\n "n":1.50, "zz":[1.0, 2e3] }'
    made = ready(provider, body, client=client, **options)
    assert made.body is body
    assert made.target == target
    assert made.sent_model == "m"
    assert made.same_wire


@pytest.mark.parametrize("body", [b"", b"not json", b"[1, 2]", b'{"model": 5, "messages": []}', b'{"modelId":"x"}'])
def test_what_no_dialect_knows_is_for_the_provider_to_judge(body: bytes) -> None:
    assert ready(body=body).body is body


HEADERS = [
    ("openai", KEY, {}, {b"authorization": b"Bearer k-1"}),
    ("anthropic", KEY, {}, {b"x-api-key": b"k-1", b"anthropic-version": b"2023-06-01"}),
    ("google", KEY, {}, {b"x-goog-api-key": b"k-1"}),
    ("azure", AZURE, {}, {b"api-key": b"k-1"}),
    ("vertex", KEY, {"project": "p", "location": "l"}, {b"authorization": b"Bearer k-1"}),
    ("cohere", KEY, {}, {b"authorization": b"Bearer k-1"}),
    ("openrouter", KEY, {}, {b"authorization": b"Bearer k-1"}),
    ("bedrock", KEY, {"base_url": "http://h"}, {b"authorization": b"Bearer k-1"}),
    (
        "openai_compatible",
        KEY,
        {"base_url": "http://h", "headers": {"X-Team": "blue", "Host": "evil", "Content-Length": "1"}},
        {b"authorization": b"Bearer k-1", b"x-team": b"blue"},
    ),
    (
        "openai_compatible",
        KEY,
        {"base_url": "http://h", "headers": {"Authorization": "Token z"}},
        {b"authorization": b"Token z"},
    ),
    (
        "openai_compatible",
        {"type": "api_key", "api_key": {"header_name": "X-Key", "header_value": "v"}},
        {"base_url": "http://h"},
        {b"x-key": b"v"},
    ),
    (
        "openai",
        {"type": "api_key", "api_key": {"param_name": "X-P", "param_value": "v", "param_location": "header"}},
        {},
        {b"x-p": b"v"},
    ),
]


@pytest.mark.parametrize(("provider", "auth", "options", "expected"), HEADERS)
def test_the_upstream_sees_only_the_headers_of_the_table(
    provider: str, auth: dict[str, Any], options: dict[str, Any], expected: dict[bytes, bytes]
) -> None:
    client = {"anthropic": "anthropic", "google": "google", "vertex": "google", "cohere": "cohere"}.get(
        provider, "openai"
    )
    made = ready(provider, {"model": "m", "messages": []}, client=client, auth=auth, **options)
    assert dict(made.headers) == {b"content-type": b"application/json", **expected}
    assert len(made.headers) == len(expected) + 1


def test_query_credentials_are_added_to_every_target() -> None:
    auth = {"type": "api_key", "api_key": {"param_name": "key", "param_value": "a b&c"}}
    assert ready("openai", auth=auth).target == "/v1/chat/completions?key=a%20b%26c"
    streamed = ready("google", auth=auth, client="google", stream=True)
    assert streamed.target == "/v1beta/models/m:streamGenerateContent?alt=sse&key=a%20b%26c"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"model":"m2"}', 'model not allowed: model not allowed: "m2"'),
        (b'{"model":" m1 "}', 'model not allowed: model not allowed: " m1 "'),
        (b'{"model":""}', 'model not allowed: model not allowed: ""'),
        (b'{"model":null}', 'model not allowed: model not allowed: ""'),
        (b"{}", "model not allowed: model not allowed: request has no model and binding has no default"),
        (b'{"modelId":"m2"}', 'model not allowed: model not allowed: "m2"'),
    ],
)
def test_an_allow_list_refuses_other_models(body: bytes, message: str) -> None:
    with pytest.raises(ModelNotAllowed) as refusal:
        ready(body=body, allowance=ONLY_M1)
    assert (refusal.value.status, refusal.value.code, refusal.value.message) == (403, "model_not_allowed", message)


@pytest.mark.parametrize("body", [b"not json", b"", b"[]", b'{"model":5}', b'{"model":"m1"} x'])
def test_an_allow_list_refuses_what_it_cannot_read(body: bytes) -> None:
    with pytest.raises(ModelNotAllowed, match=r"^model not allowed: model enforcement could not parse request body: "):
        ready(body=body, allowance=Allowance(("m1",), "m1"))


def test_only_an_absent_model_takes_the_default() -> None:
    default = Allowance(None, "dm")
    made = ready(body=b'{ "messages": [ ], "n": 1.0 }', allowance=default)
    assert made.body == b'{"messages":[],"n":1.0,"model":"dm"}'
    assert made.sent_model == "dm"
    for body in (b'{"model":""}', b'{"model":null}', b'{"model":7}'):
        kept = ready(body=body, allowance=default)
        assert kept.body is body
        assert kept.sent_model == "dm"


def test_the_sent_model_falls_back_to_the_clients_and_then_to_the_default() -> None:
    assert ready(body=b"x", client_model="c", allowance=Allowance(None, "d")).sent_model == "c"
    assert ready(body=b"x", allowance=Allowance(None, "d")).sent_model == "d"
    assert ready(body=b"x").sent_model == ""


def test_a_turn_is_continued_when_the_body_names_none() -> None:
    body = b'{"input": "r", "model": "m"}'
    made = ready(body=body, client="openai_responses", previous="resp_a1")
    assert json.loads(made.body) == {"input": "r", "model": "m", "previous_response_id": "resp_a1"}
    named = b'{"model":"m","previous_response_id":"resp_z"}'
    assert ready(body=named, client="openai_responses", previous="resp_a1").body is named
    assert ready(body=body, client="openai_responses", previous="chatcmpl-1").body is body
    assert ready(body=b'{"model":"m"}', previous="resp_a1").body == b'{"model":"m"}'


@pytest.mark.parametrize(
    ("provider", "client", "expected"),
    [
        ("openai", "openai", {"stream": True, "stream_options": {"include_usage": True}}),
        ("xai", "openai", {"stream": True, "stream_options": {"include_usage": True}}),
        ("openai", "openai_responses", {"stream": True}),
        ("anthropic", "anthropic", {"stream": True}),
        ("cohere", "cohere", {"stream": True}),
        ("google", "google", {}),
    ],
)
def test_a_streamed_call_asks_for_a_stream_and_for_usage(provider: str, client: str, expected: dict[str, Any]) -> None:
    made = ready(provider, b'{ "model": "m", "big": 12345678901234567890 }', client=client, stream=True)
    assert json.loads(made.body) == {"model": "m", "big": 12345678901234567890, **expected}


def test_the_clients_stream_options_are_kept_beside_usage() -> None:
    body = {"model": "m", "stream_options": {"include_usage": False, "x": 1}}
    made = ready(body=body, stream=True)
    assert json.loads(made.body)["stream_options"] == {"include_usage": True, "x": 1}


def test_tool_calls_and_schemas_are_completed_for_openai_targets() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    sent = json.loads(ready(body=body).body)
    assert sent["messages"][0]["tool_calls"][0]["type"] == "function"
    assert sent["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {}}


def test_a_body_that_cannot_be_translated_is_told_before_a_model_that_is_not_allowed() -> None:
    bad = {"model": "m2", "messages": "x"}
    with pytest.raises(InvalidRequest) as refusal:
        ready("anthropic", bad, allowance=ONLY_M1)
    assert (refusal.value.status, refusal.value.message) == (
        400,
        'invalid request payload: invalid request body for format "openai": '
        "the payload could not be parsed as a valid openai API request",
    )
    with pytest.raises(ModelNotAllowed):
        ready("anthropic", {"model": "m2", "messages": []}, allowance=ONLY_M1)


def test_a_translated_call_takes_the_default_model() -> None:
    made = ready("anthropic", {"messages": [{"role": "user", "content": "q"}]}, allowance=Allowance(("d",), "d"))
    assert json.loads(made.body)["model"] == "d"
    assert made.sent_model == "d"


@pytest.mark.parametrize("model", ['""', "null"])
def test_a_blank_model_takes_the_default_when_it_would_not_survive_translation(model: str) -> None:
    body = b'{"model":' + model.encode() + b',"messages":[]}'
    made = ready("anthropic", body, allowance=Allowance(None, "d"))
    assert json.loads(made.body)["model"] == "d"


@pytest.mark.parametrize("provider", ["anthropic", "groq", "deepseek", "xai", "cerebras"])
def test_capabilities_that_a_provider_lacks_are_local_faults(provider: str) -> None:
    with pytest.raises(ProviderUnsupported, match=r"^provider does not support embeddings$") as fault:
        ready(provider, {"model": "e", "input": "x"}, client="openai_embeddings", capability="embeddings")
    assert (fault.value.status, fault.value.code) == (502, "backend_error")
    with pytest.raises(ProviderUnsupported, match="rerank"):
        ready(provider, {"model": "r"}, client="cohere_rerank", capability="rerank")


FAULTS = [
    ("openai", {"type": "api_key", "api_key": {"header_name": "a"}}, {}, "api key is required"),
    ("openai", {"type": "aws", "aws": {}}, {}, 'openai cannot use credentials of type "aws"'),
    ("anthropic", {}, {}, "cannot use credentials"),
    ("openai_compatible", KEY, {}, "openai_compatible: base_url is required"),
    ("anthropic", KEY, {"base_url": "ftp://h"}, 'anthropic: base_url must be a valid http\\(s\\) URL, got "ftp://h"'),
    ("vertex", KEY, {"location": "l"}, "vertex: provider_options.project is required"),
    ("azure", {"type": "azure", "azure": {}}, {}, "azure endpoint is required"),
    ("bedrock", {"type": "aws", "aws": {"access_key_id": "a"}}, {}, "aws.region is required"),
    ("nope", KEY, {}, 'unsupported provider "nope"'),
    ("vertex", KEY, {"project": "p", "location": "evil.test/#"}, "cannot be part of a host name"),
    ("bedrock", {"type": "aws", "aws": {"region": "evil.test/?"}}, {}, "cannot be part of a host name"),
]


@pytest.mark.parametrize(("provider", "auth", "options", "cause"), FAULTS)
def test_unusable_options_and_credentials_are_local_faults_that_name_the_cause(
    provider: str, auth: dict[str, Any], options: dict[str, Any], cause: str
) -> None:
    with pytest.raises(RequestFault, match=cause) as fault:
        ready(provider, {"model": "m", "messages": []}, auth=auth, **options)
    assert (fault.value.status, fault.value.code) == (502, "backend_error")


@pytest.mark.parametrize("provider", ["google", "azure"])
def test_a_model_in_the_url_cannot_be_missing(provider: str) -> None:
    auth = AZURE if provider == "azure" else KEY
    client = "google" if provider == "google" else "openai"
    with pytest.raises(RequestFault, match="request has no model"):
        ready(provider, b"{}", client=client, auth=auth)


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({"model": "deepseek-reasoner", "max_tokens": 64001}, True),
        ({"model": "deepseek-reasoner", "max_completion_tokens": 64000, "max_tokens": 99999}, False),
        ({"model": "deepseek-chat", "max_tokens": 99999}, False),
    ],
)
def test_deepseeks_output_limit_is_known_here(body: dict[str, Any], refused: bool) -> None:
    if refused:
        with pytest.raises(RequestFault, match="64000"):
            ready("deepseek", body)
    else:
        ready("deepseek", body)


async def test_prepare_without_a_kept_client_gives_the_same() -> None:
    made = await prepare(
        account(), client_format="openai", capability="chat", stream=False, body=b'{"model":"m"}', allowance=OPEN
    )
    assert (made.target, made.body) == ("/v1/chat/completions", b'{"model":"m"}')
    assert (made.origin.scheme, made.origin.host, made.origin.port) == ("https", "api.openai.com", 443)


def test_an_answer_of_the_same_dialect_comes_back_as_it_is_and_is_observed() -> None:
    made = ready()
    usage = b'"usage":{"prompt_tokens":3,"completion_tokens":2}'
    answer = b'{"id":"c1", "model":"up","choices":[{"finish_reason":"stop"}],' + usage + b"}"
    assert made.decode(200, answer) is answer
    seen = made.observe(answer)
    assert (seen.id, seen.model, seen.finish_reason) == ("c1", "up", "stop")
    assert seen.usage is not None and seen.usage.total_tokens == 5


def test_an_answer_that_cannot_be_translated_comes_back_raw() -> None:
    made = ready("anthropic", {"model": "m", "messages": []})
    assert made.decode(200, b"<html>") == b"<html>"
    assert made.decode(429, b'{"type":"error"}') == b'{"type":"error"}'


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' + b"[" * 100_000,
        b'{"model":"m","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"\xff"}',
        b'{"model":' + b"9" * 6000 + b"}",
    ],
    ids=["open", "deep", "encoding", "huge"],
)
def test_hostile_bodies_are_for_the_provider_or_refused_but_never_break_preparation(body: bytes) -> None:
    assert ready(body=body).body is body
    with pytest.raises((ModelNotAllowed, InvalidRequest)):
        ready("anthropic", body, allowance=ONLY_M1)
    with pytest.raises(ModelNotAllowed):
        ready(body=body, allowance=ONLY_M1)


def test_client_formats_that_nothing_translates_are_local_faults() -> None:
    with pytest.raises(ProviderUnsupported, match="jina_embed"):
        ready("openai", {"model": "e"}, client="jina_embed", capability="embeddings")
    body = b'{"model":"e", "texts":["a"]}'
    assert ready("cohere", body, client="cohere_embed", capability="embeddings").body is body
