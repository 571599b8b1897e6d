"""Requests across dialects: what is carried, what is named as lost, and what comes back after a round trip."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustgate.formats import canonical as c
from trustgate.formats import normalise, translate
from trustgate.formats.codecs import CODECS

from .samples import dump

CLIENTS = ("openai", "openai_responses", "anthropic", "google", "cohere")


def sent(client: str, wire: str, body: dict[str, Any]) -> dict[str, Any]:
    return json.loads(translate.translate_request(client, wire, dump(body).encode()).body)


def lost(client: str, wire: str, body: dict[str, Any]) -> set[str]:
    return set(translate.translate_request(client, wire, dump(body).encode()).untranslated)


WORD = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=8)
JSON_OBJECT = st.dictionaries(WORD, st.one_of(st.integers(), st.booleans(), WORD, st.none()), max_size=3).map(dump)


@st.composite
def conversations(draw: st.DrawFn) -> c.Request:
    """Plain conversations with tools: what every chat dialect can say."""
    messages: list[c.Message] = []
    number = 0
    for _ in range(draw(st.integers(1, 4))):
        messages.append(c.Message("user", draw(WORD)))
        calls = []
        for _ in range(draw(st.integers(0, 2))):
            calls.append(c.ToolCall(f"call{number:05}", f"f{number}", draw(JSON_OBJECT)))
            number += 1
        text = draw(WORD) if not calls or draw(st.booleans()) else ""
        messages.append(c.Message("assistant", text, tool_calls=calls))
        for call in calls:
            result = dump({"result": draw(WORD)})
            messages.append(c.Message("tool", result, tool_call_id=call.id))
    request = c.Request(model="m", system=draw(st.one_of(st.just(""), WORD)), messages=messages)
    request.max_tokens = draw(st.integers(1, 9999))
    request.temperature = draw(st.sampled_from([None, c.Raw(b"0.1234567890123456789"), c.Raw(b"1")]))
    if draw(st.booleans()):
        schema = c.Raw(b'{"type":"object","properties":{"n":{"type":"integer"}}}')
        request.tools = [c.Tool("f0", draw(st.one_of(st.just(""), WORD)), schema)]
        request.tool_choice = draw(st.sampled_from([None, c.ToolChoice("auto"), c.ToolChoice("required")]))
    return request


def essence(request: c.Request, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """What of a request must survive; ids of calls are told by their order."""
    ids: dict[str, int] = {}
    for message in request.messages:
        for call in message.tool_calls:
            ids.setdefault(call.id, len(ids))
    turns = [
        (
            message.role,
            message.text,
            [(ids[call.id], call.name, json.loads(call.arguments)) for call in message.tool_calls],
            ids.get(message.tool_call_id) if message.role == "tool" else None,
        )
        for message in request.messages
    ]
    choice = request.tool_choice
    result: dict[str, Any] = {
        "model": request.model,
        "system": request.system,
        "turns": turns,
        "max_tokens": request.max_tokens,
        "temperature": None if request.temperature is None else bytes(request.temperature),
        "tools": [(tool.name, tool.description, json.loads(bytes(tool.schema or b"null"))) for tool in request.tools],
        "tool_choice": None if choice is None else choice.type,
    }
    return {name: value for name, value in result.items() if name not in without}


# What a round trip through a dialect cannot give back; docs/translation.md has the reader's version.
LOSSES = {"cohere": frozenset({"tool_choice"})}  # `auto` is what Cohere does without a tool_choice


@given(conversations(), st.sampled_from(CLIENTS))
@settings(max_examples=200, deadline=None)
def test_a_conversation_survives_its_own_dialect(request_: c.Request, name: str) -> None:
    codec = CODECS[name]
    once = codec.encode_request(request_)
    back = codec.decode_request(once)
    without = LOSSES.get(name, frozenset())
    assert essence(merged(back), without) == essence(merged(request_), without)
    assert codec.encode_request(back) == once


@given(conversations(), st.sampled_from(CLIENTS), st.sampled_from(CLIENTS))
@settings(max_examples=300, deadline=None)
def test_a_conversation_survives_another_dialect_and_back(request_: c.Request, client: str, wire: str) -> None:
    original = CODECS[client].encode_request(request_)
    there = translate.translate_request(client, wire, original).body
    back = translate.translate_request(wire, client, there).body
    without = LOSSES.get(wire, frozenset()) | LOSSES.get(client, frozenset())
    found, wanted = CODECS[client].decode_request(back), CODECS[client].decode_request(original)
    assert essence(merged(found), without) == essence(merged(wanted), without)


def merged(request: c.Request) -> c.Request:
    """Consecutive assistant turns as one: the Responses dialect keeps text and calls in separate items."""
    result: list[c.Message] = []
    for message in request.messages:
        if result and message.role == result[-1].role == "assistant":
            result[-1].text += message.text
            result[-1].tool_calls += message.tool_calls
        else:
            result.append(message)
    request.messages = result
    return request


IMAGE = "data:image/png;base64,AAAA"
WITH_IMAGE = {
    "openai": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": IMAGE}}],
            }
        ]
    },
    "openai_responses": {
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "see"},
                    {"type": "input_image", "image_url": IMAGE, "detail": "auto"},
                ],
            }
        ]
    },
    "anthropic": {
        "max_tokens": 5,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "see"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                ],
            }
        ],
    },
    "google": {
        "contents": [
            {"role": "user", "parts": [{"text": "see"}, {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]}
        ]
    },
    "cohere": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": IMAGE}}],
            }
        ]
    },
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("wire", CLIENTS)
def test_an_inline_image_is_carried_between_all_dialects(client: str, wire: str) -> None:
    if client == wire:
        return
    body = sent(client, wire, {"model": "m"} | WITH_IMAGE[client])
    back = CODECS[wire].decode_request(dump(body).encode())
    parts = back.messages[0].parts
    assert parts is not None
    assert isinstance(parts[0], c.Text) and parts[0].text == "see"
    assert isinstance(parts[1], c.Image) and (parts[1].media_type, parts[1].data) == ("image/png", "AAAA")
    assert lost(client, wire, {"model": "m"} | WITH_IMAGE[client]) == set()


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
WITH_SCHEMA: dict[str, dict[str, Any]] = {
    "openai": {
        "messages": [],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    },
    "openai_responses": {"input": "q", "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}},
    "google": {
        "contents": [],
        "generationConfig": {
            "responseMimeType": "application/json",
            "responseSchema": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}},
        },
    },
    "cohere": {"messages": [], "response_format": {"type": "json_object", "json_schema": SCHEMA}},
    "anthropic": {
        "messages": [],
        "max_tokens": 5,
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    },
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("wire", CLIENTS)
def test_the_schema_of_structured_output_is_carried_between_all_dialects(client: str, wire: str) -> None:
    if client == wire:
        return
    body = translate.translate_request(client, wire, dump(WITH_SCHEMA[client]).encode()).body
    wanted = CODECS[wire].decode_request(body).response_format
    assert wanted is not None and wanted.type == "json_schema" and wanted.schema is not None
    assert json.loads(bytes(wanted.schema)) == SCHEMA


def test_what_a_dialect_cannot_carry_is_named() -> None:
    body: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": "user", "content": "q", "name": "n"}],
        "logit_bias": {"1": 2},
    }
    body |= {"seed": 5, "n": 2, "tools": [{"type": "web_search"}]}
    assert lost("openai", "anthropic", body) == {"logit_bias", "seed", "n", "messages[].name", "tools[web_search]"}
    assert lost("openai", "anthropic", {"messages": []}) == set()


def test_of_very_many_members_that_cannot_be_carried_the_first_are_named_in_short() -> None:
    body = {"messages": []} | {f"{number}{'x' * 500}": 1 for number in range(5000)}
    names = lost("openai", "anthropic", body)
    assert len(names) == 64 and max(map(len, names)) == 128


def test_a_text_that_was_cut_inside_an_emoji_is_translated() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"a\\ud83d"}]}'
    for wire in ("anthropic", "google", "cohere", "openai_responses", "groq", "mistral", "bedrock"):
        assert "a\ufffd" in translate.translate_request("openai", wire, body).body.decode(), wire


@pytest.mark.parametrize("wire", ["groq", "mistral", "openrouter"])
@pytest.mark.parametrize(("content", "wanted"), [({"a": 1.5}, '{"a":1.5}'), (7, "7"), (True, "true")])
def test_odd_contents_reach_openai_shaped_upstreams_as_their_json_text(wire: str, content: Any, wanted: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    assert sent("openai", wire, body)["messages"] == [{"role": "user", "content": wanted}]


def test_a_forced_custom_tool_stays_one_between_chat_and_responses() -> None:
    chat = {
        "model": "m",
        "messages": [{"role": "user", "content": "q"}],
        "tools": [{"type": "custom", "custom": {"name": "c"}}, {"type": "function", "function": {"name": "f"}}],
        "tool_choice": {"type": "custom", "custom": {"name": "c"}},
    }
    responses = sent("openai", "openai_responses", chat)
    assert responses["tool_choice"] == {"type": "custom", "name": "c"}
    assert sent("openai_responses", "openai", responses)["tool_choice"] == chat["tool_choice"]
    function = chat | {"tool_choice": {"type": "function", "function": {"name": "f"}}}
    assert sent("openai", "openai_responses", function)["tool_choice"] == {"type": "function", "name": "f"}


def test_openai_shaped_upstreams_get_members_that_nobody_models() -> None:
    body = {
        "model": "m",
        "messages": [
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        ],
        "logit_bias": {"1": 2},
        "seed": 7,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
        "stop": "X",
    }
    plain = [{"role": "system", "content": "d"}, {"role": "user", "content": "one\ntwo"}]
    assert sent("openai", "groq", body) == body | {"messages": plain, "stop": ["X"]}
    mistral = sent("openai", "mistral", body)
    assert mistral["random_seed"] == 7 and mistral["response_format"] == body["response_format"]


def test_claude_on_bedrock_gets_the_anthropic_clients_own_json() -> None:
    body = {
        "model": "anthropic.claude-x",
        "max_tokens": 9,
        "stream": True,
        "thinking": {"type": "adaptive"},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "q", "cache_control": {"type": "ephemeral"}}]}
        ],
    }
    got = sent("anthropic", "bedrock", body)
    assert got == {n: v for n, v in body.items() if n not in ("model", "stream")} | {
        "anthropic_version": "bedrock-2023-05-31"
    }


BEDROCK = [
    (
        "meta.llama3-8b",
        {
            "prompt": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "max_gen_len": 5,
            "temperature": 0.5,
        },
    ),
    (
        "amazon.titan-text",
        {
            "inputText": "S\n\nUser: q",
            "textGenerationConfig": {"maxTokenCount": 5, "temperature": 0.5, "stopSequences": ["X"]},
        },
    ),
    (
        "amazon.nova-pro",
        {
            "system": [{"text": "S"}],
            "messages": [{"role": "user", "content": [{"text": "q"}]}],
            "inferenceConfig": {"maxTokens": 5, "temperature": 0.5, "stopSequences": ["X"]},
        },
    ),
    (
        "mistral.mistral-7b-instruct-v0",
        {"prompt": "<s>[INST] S\n\nq [/INST]", "max_tokens": 5, "temperature": 0.5, "stop": ["X"]},
    ),
    (
        "us.anthropic.claude-3",
        {
            "system": "S",
            "messages": [{"role": "user", "content": "q"}],
            "max_tokens": 5,
            "temperature": 0.5,
            "stop_sequences": ["X"],
            "anthropic_version": "bedrock-2023-05-31",
        },
    ),
    (
        "qwen.qwen3",
        {
            "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "q"}],
            "max_tokens": 5,
            "temperature": 0.5,
            "stop": ["X"],
        },
    ),
]


@pytest.mark.parametrize(("model", "wanted"), BEDROCK)
@pytest.mark.parametrize("client", ["openai", "cohere"])
def test_each_bedrock_family_gets_its_own_shape(client: str, model: str, wanted: dict[str, Any]) -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "q"}]
    stop = {"stop": "X"} if client == "openai" else {"stop_sequences": ["X"]}
    body = {"model": model, "messages": messages, "max_tokens": 5, "temperature": 0.5} | stop
    assert sent(client, "bedrock", body) == wanted
    del body["model"]
    assert json.loads(translate.translate_request(client, "bedrock", dump(body).encode(), model).body) == wanted


def test_bedrock_families_of_ids() -> None:
    from trustgate.formats.bedrock import family

    table = {
        "anthropic.claude-3": "claude",
        "us.amazon.nova-lite": "nova",
        "openai.gpt-oss": "openai",
        "deepseek.r1": "openai",
        "amazon.titan-x": "titan",
        "meta.llama3": "llama",
        "mistral.mixtral-8x7b-instruct": "prompt-mistral",
        "mistral.pixtral": "openai",
        "arn:aws:bedrock:x": "claude",
    }
    assert {model: family(model) for model in table} == table


def test_thinking_with_its_signature_returns_to_anthropic_families_unchanged() -> None:
    blocks = [
        {"type": "thinking", "thinking": "t", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "text", "text": "a"},
        {"type": "tool_use", "id": "i", "name": "f", "input": {"x": 1}},
    ]
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "assistant", "content": blocks}]}
    codec = CODECS["anthropic"]
    assert json.loads(codec.encode_request(codec.decode_request(dump(body).encode())))["messages"] == body["messages"]
    assert "thinking" in lost("anthropic", "openai", body)


def test_gemini_results_are_named_after_the_function_of_their_call() -> None:
    call = {"id": "call_9", "type": "function", "function": {"name": "f", "arguments": "not json"}}
    body = {
        "model": "m",
        "messages": [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_9", "content": "r"},
        ],
    }
    contents = sent("openai", "google", body)["contents"]
    assert contents[0]["parts"] == [{"functionCall": {"name": "f", "args": {}}}]
    assert contents[1]["parts"] == [{"functionResponse": {"name": "f", "response": {"result": "r"}}}]


def test_two_gemini_calls_of_one_function_get_different_ids() -> None:
    parts = [{"functionCall": {"name": "f", "args": {"a": n}}} for n in (1, 2)]
    results = [{"functionResponse": {"name": "f", "response": {"r": n}}} for n in (1, 2)]
    body = {"model": "m", "contents": [{"role": "model", "parts": parts}, {"parts": results}]}
    messages = sent("google", "openai", body)["messages"]
    ids = [call["id"] for call in messages[0]["tool_calls"]]
    assert len(set(ids)) == 2 and [m["tool_call_id"] for m in messages[1:]] == ids


def test_snake_case_members_of_gemini_are_read() -> None:
    body = {
        "model": "m",
        "system_instruction": {"parts": [{"text": "S"}]},
        "contents": [{"parts": [{"text": "q"}]}],
        "generation_config": {"max_output_tokens": 4, "stop_sequences": ["X"]},
        "tool_config": {"function_calling_config": {"mode": "ANY"}},
        "tools": [{"function_declarations": [{"name": "f"}]}],
    }
    got = sent("google", "openai", body)
    assert got["messages"] == [{"role": "system", "content": "S"}, {"role": "user", "content": "q"}]
    assert (got["max_tokens"], got["stop"], got["tool_choice"]) == (4, ["X"], "required")


def test_bad_responses_items_cost_only_themselves() -> None:
    body = {
        "model": "m",
        "input": [
            {"role": "user", "content": "q"},
            {"type": "function_call", "call_id": 5},
            {"type": "reasoning", "summary": []},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "r"}]},
        ],
    }
    assert sent("openai_responses", "openai", body)["messages"] == [
        {"role": "user", "content": "q"},
        {"role": "tool", "content": "r", "tool_call_id": "c"},
    ]
    assert lost("openai_responses", "openai", body) == {"input[]", "input[reasoning]"}


@pytest.mark.parametrize(
    ("data", "source", "names"),
    [
        (
            "data:application/pdf;base64,cGRm",
            {"type": "base64", "media_type": "application/pdf", "data": "cGRm"},
            set(),
        ),
        ("data:text/csv;base64,w6k=", {"type": "text", "media_type": "text/plain", "data": "é"}, set()),
        ("data:text/csv;base64,/w==", None, {"content[text/csv]"}),
        ("data:video/mp4;base64,dmlk", None, {"content[video/mp4]"}),
    ],
)
def test_documents_reach_anthropic_as_pdf_or_text(data: str, source: Any, names: set[str]) -> None:
    file = {"type": "file", "file": {"file_data": data, "filename": "d"}}
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "q"}, file]}]}
    blocks = sent("openai", "anthropic", body)["messages"][0]["content"]
    assert blocks[1:] == ([] if source is None else [{"type": "document", "source": source, "title": "d"}])
    assert lost("openai", "anthropic", body) == names


def test_odd_members_of_responses_items_cost_only_themselves() -> None:
    body = {
        "model": "m",
        "input": [
            {"role": "user", "content": "q", "id": 5, "name": []},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": {"n": 1}},
        ],
    }
    messages = sent("openai_responses", "openai", body)["messages"]
    assert messages[0] == {"role": "user", "content": "q"}
    assert messages[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"n":1}'}
    assert lost("openai_responses", "openai", body) == {"input[].id", "input[].name"}


def test_tool_results_come_before_the_users_text() -> None:
    body = {
        "model": "m",
        "max_tokens": 5,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "and"},
                    {"type": "tool_result", "tool_use_id": "t", "content": "r"},
                ],
            }
        ],
    }
    assert [m["role"] for m in sent("anthropic", "openai", body)["messages"]] == ["tool", "user"]


@pytest.mark.parametrize(
    ("given_choice", "wanted"),
    [
        ("REQUIRED", "required"),
        ("NONE", "none"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_both_shapes_of_a_cohere_tool_choice_are_read(given_choice: Any, wanted: Any) -> None:
    body = {
        "model": "m",
        "messages": [],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": given_choice,
    }
    assert sent("cohere", "openai", body)["tool_choice"] == wanted


def test_stream_flags_keep_literals_order_and_other_options() -> None:
    body = b'{"a":1.50,"big":12345678901234567890,"stream_options":{"x":1.0},"model":"m"}'
    assert normalise.force_stream("openai", body) == (
        b'{"a":1.50,"big":12345678901234567890,"stream_options":{"x":1.0,"include_usage":true},"model":"m","stream":true}'
    )
    assert normalise.force_stream("google", body) is body
    assert normalise.force_stream("openai", b"not json") == b"not json"
    assert normalise.force_stream("anthropic", b'{"stream":false}') == b'{"stream":true}'


def test_groq_loses_raw_call_syntax_and_parallel_calls() -> None:
    body = {
        "messages": [{"role": "assistant", "content": "<function=f>{}</function>"}, {"role": "user", "content": "q"}],
        "tools": [{"function": {"name": "f", "parameters": {}}}],
    }
    got = json.loads(normalise.normalise("groq", dump(body).encode()))
    assert got["parallel_tool_calls"] is False and got["tools"][0]["type"] == "function"
    assert got["messages"] == [{"role": "user", "content": "q"}]


@pytest.mark.parametrize("wire", ["openai", "groq"])
@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}]},
        {"messages": [{"role": "user", "content": "q", "tool_calls": "odd"}], "tools": [{"function": {"name": "f"}}]},
        {"messages": [{"role": "user", "content": "no tools"}]},
    ],
)
def test_large_bodies_are_corrected_like_small_ones(wire: str, more: dict[str, Any]) -> None:
    pad = "x\n" * 4096
    small, large = (dump({"pad": text, "messages": []} | more).encode() for text in ("", pad))
    wanted = json.loads(normalise.normalise(wire, small)) | {"pad": pad}
    got = normalise.normalise(wire, large)
    assert json.loads(got) == wanted
    assert (got is large) == (json.loads(large) == wanted)
