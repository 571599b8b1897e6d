"""Texts, tools, models and JSON members of a body: read, and changed without touching the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trustgate.formats import canonical as c
from trustgate.formats import json as fjson
from trustgate.formats import models, texts, tools
from trustgate.formats.errors import DecodeError, NotAnObject

from .samples import dump

PROMPTS: dict[str, dict[str, Any]] = {
    "openai": {
        "seed": 7,
        "messages": [
            {"role": "system", "content": "sys"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "one secret", "cache_control": {"type": "ephemeral"}},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
                    {"type": "text", "text": "two"},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "a", "function": {"name": "secret", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "a", "content": "secret result"},
            {"role": "user", "content": "  "},
        ],
    },
    "openai_responses": {
        "instructions": "sys",
        "store": True,
        "input": [
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "one secret"}, {"type": "input_text", "text": "two"}],
            },
            {"type": "function_call", "call_id": "a", "name": "secret", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "secret result"},
        ],
    },
    "anthropic": {
        "system": [{"type": "text", "text": "sys", "cache_control": {"type": "ephemeral"}}],
        "max_tokens": 5,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "one secret"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "secret", "input": {"n": 1}}]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "secret result"}]}
                ],
            },
        ],
    },
    "google": {
        "systemInstruction": {"parts": [{"text": "sys"}]},
        "safetySettings": [],
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "one secret"},
                    {"inlineData": {"mimeType": "image/png", "data": "AA"}},
                    {"text": "two"},
                ],
            },
            {"role": "model", "parts": [{"functionCall": {"name": "secret", "args": {}}}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "secret", "response": {"r": "secret result"}}}]},
        ],
    },
    "cohere": {
        "documents": [],
        "messages": [
            {"role": "system", "content": "sys"},
            {"role": "user", "content": [{"type": "text", "text": "one secret"}, {"type": "text", "text": "two"}]},
            {"role": "tool", "tool_call_id": "a", "content": "secret result"},
        ],
    },
}


@pytest.mark.parametrize("format", PROMPTS)
def test_the_prompt_text_is_the_system_prompt_and_every_messages_text(format: str) -> None:
    result = '{"r":"secret result"}' if format == "google" else "secret result"
    body = dump(PROMPTS[format]).encode()
    assert texts.prompt_text(format, body) == f"sys\none secret\ntwo\n{result}"
    assert [entry.role for entry in texts.prompt_texts(format, body)] == ["system", "user", "tool"]


@pytest.mark.parametrize("format", PROMPTS)
def test_rewriting_changes_the_texts_and_nothing_else(format: str) -> None:
    original = dump(PROMPTS[format])
    got = texts.rewrite_request(format, original.encode(), lambda role, text: text.replace("secret", "xxx"))
    wanted = original.replace("one secret", "one xxx").replace("secret result", "xxx result")
    assert got.decode() == wanted


@pytest.mark.parametrize("format", PROMPTS)
def test_a_rewrite_across_parts_keeps_its_meaning(format: str) -> None:
    body = dump(PROMPTS[format]).encode()
    got = texts.rewrite_request(format, body, lambda role, text: text.replace("secret\ntwo", "gone"))
    assert "one gone" in texts.prompt_text(format, got) and "secret\ntwo" not in texts.prompt_text(format, got)
    same = texts.rewrite_request(format, body, lambda role, text: text)
    assert same is body


@pytest.mark.parametrize("format", PROMPTS)
def test_texts_can_be_replaced_one_for_one(format: str) -> None:
    body = dump(PROMPTS[format]).encode()
    got = texts.replace_request(format, body, ["S", "U", '{"t":1}'])
    assert [entry.text for entry in texts.prompt_texts(format, got)] == ["S", "U", '{"t":1}']
    with pytest.raises(ValueError):
        texts.replace_request(format, body, ["one"])


ANSWERS: dict[str, dict[str, Any]] = {
    "openai": {
        "created": 1,
        "x": 1,
        "choices": [{"message": {"content": "a secret"}}, {"message": {"content": "secret b"}}],
    },
    "openai_responses": {
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "a secret", "annotations": []}]}]
    },
    "anthropic": {
        "content": [
            {"type": "text", "text": "a secret", "citations": []},
            {"type": "tool_use", "input": {"k": "secret"}},
        ]
    },
    "google": {
        "candidates": [{"content": {"parts": [{"text": "a secret", "thoughtSignature": "c2ln"}]}, "safetyRatings": []}]
    },
    "cohere": {"message": {"content": [{"type": "text", "text": "a secret"}], "citations": []}},
}


@pytest.mark.parametrize("format", ANSWERS)
def test_an_answers_text_is_rewritten_in_place(format: str) -> None:
    original = dump(ANSWERS[format])
    got = texts.rewrite_response(format, original.encode(), lambda text: text.replace("secret", "xxx"))
    assert got.decode() == original.replace("a secret", "a xxx").replace("secret b", "xxx b")
    assert texts.response_text(format, got) == "a xxx"


DOCUMENTS: list[tuple[Any, str, Any]] = [
    ({"data": "secret a", "id": "d"}, "secret a", {"data": "SECRET A", "id": "d"}),
    ({"data": {"text": "secret"}}, '{"text":"secret"}', {"data": {"TEXT": "SECRET"}}),
    ({"data": 5}, "5", {"data": 5}),
    ({"data": None}, "", {"data": None}),
    ({}, "", {}),
    ("odd", "", "odd"),
]


@pytest.mark.parametrize(("document", "text", "upper"), DOCUMENTS)
def test_documents_of_cohere_are_texts_for_guards(document: Any, text: str, upper: Any) -> None:
    parts = [{"type": "document", "document": {"data": "first"}}, {"type": "document", "document": document}]
    body = dump({"messages": [{"role": "tool", "tool_call_id": "a", "content": parts}]}).encode()
    wanted = f"first\n{text}" if text else "first"
    assert texts.prompt_text("cohere", body) == wanted
    changed = json.loads(texts.rewrite_request("cohere", body, lambda role, text: text.upper()))
    assert [part["document"] for part in changed["messages"][0]["content"]] == [{"data": "FIRST"}, upper]
    replaced = texts.replace_request("cohere", body, ["x"])
    assert texts.prompt_text("cohere", replaced).rstrip() == "x"


def test_what_is_no_request_of_the_format_raises() -> None:
    for call in (texts.prompt_text, tools.tool_names, texts.response_text):
        with pytest.raises(DecodeError):
            call("openai", b"nope")


TOOLS: dict[str, list[Any]] = {
    "openai": [
        {"type": "function", "function": {"name": "a", "strict": True}},
        {"type": "function", "function": {"name": "b"}},
        {"type": "web_search"},
    ],
    "openai_responses": [
        {"type": "function", "name": "a", "strict": True},
        {"type": "function", "name": "b"},
        {"type": "web_search"},
    ],
    "anthropic": [
        {"name": "a", "input_schema": {}, "cache_control": {"type": "ephemeral"}},
        {"name": "b", "input_schema": {}},
    ],
    "google": [{"functionDeclarations": [{"name": "a"}, {"name": "b"}]}, {"googleSearch": {}}],
    "cohere": [{"type": "function", "function": {"name": "a"}}, {"type": "function", "function": {"name": "b"}}],
}


@pytest.mark.parametrize("format", TOOLS)
def test_tools_are_dropped_by_name_and_others_stay_as_written(format: str) -> None:
    body = dump({"model": "m", "x": 1.5, "tools": TOOLS[format]})
    assert tools.tool_names(format, body.encode()) == ["a", "b"]
    kept = tools.keep_tools(format, body.encode(), lambda name: name != "b").decode()
    wanted = json.loads(body)
    if format == "google":
        del wanted["tools"][0]["functionDeclarations"][1]
    else:
        del wanted["tools"][1]
    assert json.loads(kept) == wanted
    assert tools.keep_tools(format, body.encode(), lambda name: True) == body.encode()


@pytest.mark.parametrize("format", TOOLS)
def test_tools_are_added_and_replaced_in_the_clients_own_format(format: str) -> None:
    body = dump({"model": "m", "x": 1.5, "tools": TOOLS[format]}).encode()
    got = tools.put_tools(format, body, [c.Tool("b", "new"), c.Tool("z", "added")])
    listed = tools.tools_of(format, got)
    assert [(tool.name, tool.description) for tool in listed] == [("a", ""), ("b", "new"), ("z", "added")]
    assert b'"x":1.5' in got
    fresh = tools.put_tools(format, b'{"model":"m"}', [c.Tool("z")])
    assert tools.tool_names(format, fresh) == ["z"]


def test_an_injected_tool_without_parameters_gets_the_empty_schema() -> None:
    got = json.loads(tools.put_tools("openai", b'{"messages":[]}', [c.Tool("z")]))
    assert got["tools"] == [
        {"type": "function", "function": {"name": "z", "parameters": {"type": "object", "properties": {}}}}
    ]


def test_stripping_removes_what_only_makes_sense_with_tools() -> None:
    body = b'{"a":1,"tools":[1],"tool_choice":"auto","parallel_tool_calls":true}'
    assert tools.strip_tools(body) == b'{"a":1}'
    assert tools.strip_tools(body, leave_empty=True) == b'{"a":1,"tools":[]}'


def test_grafting_replaces_only_the_members_that_changed() -> None:
    message = b'{"role":"user","content":[{"type":"text","text":"q","x":1}]}'
    body = b'{"model":"m","seed":12345678901234567890,"messages":[' + message + b'],"max_tokens":5}'

    def lower(request: c.Request) -> None:
        request.max_tokens = 3

    assert tools.graft("openai", body, lower) == body.replace(b'"max_tokens":5', b'"max_tokens":3')


ODD = [
    {"seed": 1.5, "n": "2", "user": 5, "parallel_tool_calls": "no", "reasoning_effort": {}, "presence_penalty": "x"},
    {"response_format": {"type": "json_schema", "json_schema": 5}},
]


@pytest.mark.parametrize("odd", ODD)
def test_odd_optional_members_never_hide_the_texts_from_guards(odd: dict[str, Any]) -> None:
    parts = [{"type": "text", "text": "evil", "image_url": 5}]
    body = dump({"messages": [{"role": "user", "content": parts, "name": 5, "refusal": []}]} | odd)
    assert texts.prompt_text("openai", body.encode()) == "evil"


MODELS = [
    (b'{"model":"m"}', models.ModelMember(True, "m")),
    (b'{"modelId":"m"}', models.ModelMember(True, "m")),
    (b'{"model":null,"modelId":"m"}', models.ModelMember(True, "")),
    (b'{"model":""}', models.ModelMember(True, "")),
    (b"{}", models.ModelMember()),
]


@pytest.mark.parametrize(("body", "wanted"), MODELS)
def test_how_a_body_names_its_model(body: bytes, wanted: models.ModelMember) -> None:
    assert models.model_member(body) == wanted


@pytest.mark.parametrize("body", [b"not json", b'{"model":5}', b"[]", b"", b"[" * 5000])
def test_an_unreadable_model_is_a_problem_and_never_an_exception(body: bytes) -> None:
    assert models.model_member(body).problem
    assert models.read_model(body) == ""


def test_the_model_is_overridden_in_the_member_the_body_uses() -> None:
    assert models.override_model(b'{"modelId":"x","n":1.50}', "y") == b'{"modelId":"y","n":1.50}'
    assert models.override_model(b'{"n":1.50}', "y") == b'{"n":1.50,"model":"y"}'
    assert models.override_model(b'{"model":"a","modelId":"x"}', "y") == b'{"model":"y","modelId":"x"}'
    assert models.override_model(b"nope", "y") == b"nope"
    assert models.remove_model(b'{"model":"a","modelId":"x","z":1}') == b'{"z":1}'


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b'{"stream":true}', True),
        (b'{"stream":"yes"}', False),
        (b'{"stream":1}', False),
        (b'{"str\\u0065am":true}', True),
        (b"stream", False),
        (b"{}", False),
    ],
)
def test_only_the_boolean_true_asks_for_a_stream(body: bytes, wanted: bool) -> None:
    assert models.wants_stream(body) is wanted


def test_members_are_edited_without_touching_literals_order_or_escapes() -> None:
    body = b'{ "big" : 12345678901234567890, "f": 1.10, "s":"\\u00e9 a b", "m": {"x": [1.0, 2e3]} }'
    assert fjson.set_members(body, {"f": 2, "new": fjson.Raw(b"1.50")}) == (
        b'{"big":12345678901234567890,"f":2,"s":"\\u00e9 a b","m":{"x":[1.0,2e3]},"new":1.50}'
    )
    assert fjson.remove_members(body, ["zz"]) is body
    assert fjson.remove_members(body, ["m", "s"]) == b'{"big":12345678901234567890,"f":1.10}'
    assert bytes(fjson.read_member(body, "f") or b"") == b"1.10" and fjson.read_member(body, "none") is None


HALVES = [
    (b'{"a":"x\\ud83d y"}', "x\ufffd y"),
    (b'{"a":"\\uDE00"}', "\ufffd"),
    (b'{"a":"\\ud83d\\ud83d\\ude00\\ude00"}', "\ufffd\U0001f600\ufffd"),
    (b'{"a":"\\\\\\ud83d"}', "\\\ufffd"),
    (b'{"a":"\\\\ud83d"}', "\\ud83d"),
]


@pytest.mark.parametrize(("body", "wanted"), HALVES)
def test_half_a_surrogate_pair_is_read_as_the_replacement_character(body: bytes, wanted: str) -> None:
    assert fjson.tree(body) == {"a": wanted}
    assert fjson.read_string(body, "a") == wanted
    assert fjson.tree(fjson.set_members(body, {"b": 1})) == {"a": wanted, "b": 1}
    assert fjson.tree(fjson.compact(body)) == {"a": wanted}


def test_texts_of_nothing_but_halves_cost_little_time_and_are_refused() -> None:
    with pytest.raises(DecodeError):
        fjson.members(b'{"a":"' + b"\\ud800" * 100_000 + b'"}')


def test_the_last_of_equal_keys_counts() -> None:
    assert fjson.set_members(b'{"a":1,"a":2}', {"b": 3}) == b'{"a":2,"b":3}'


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"x"'])
def test_what_is_no_object_has_no_members(body: bytes) -> None:
    with pytest.raises(NotAnObject):
        fjson.set_members(body, {"a": 1})


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":' + b"[" * 100000, b'{"a":"\xff"} x', b'{"a":01}', b"{'a':1}"])
def test_malformed_json_is_a_decode_error(body: bytes) -> None:
    for call in (fjson.members, fjson.tree, fjson.compact):
        with pytest.raises(DecodeError):
            call(body)
