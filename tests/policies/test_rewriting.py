"""regex_replace, prompt_compression, prompt_template and the tool policies in every dialect (spec 04 §14.6-14.11)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trustgate.policies.model import Run
from trustgate.policies.prompt_compression import compress_json, normalize_whitespace, strip_ansi
from trustgate.policies.regex_replace import ReplaceRule, Substitution

from . import builders as b

REPLACEMENTS = [
    # pattern, replacement, text, result
    ("(a)(b)", "$2$1", "ab", "ba"),
    ("(a)", "${1}x", "a", "ax"),
    ("(a)", "$1x", "a", ""),
    ("(?P<n>a)", "<$n>", "a", "<a>"),
    ("(?P<n>a)", "<${n}>", "a", "<a>"),
    ("a", "$$", "a", "$"),
    ("a", "$", "a", "$"),
    ("a", "$ x", "a", "$ x"),
    ("a", "$nope", "a", ""),
    ("a", "$0$0", "a", "aa"),
    ("(a)|(b)", "[$1$2]", "ab", "[a][b]"),
    ("a*", "-", "baac", "-b-c-"),
    ("x*", "-", "é😀", "-é-😀-"),
    ("é+", "e", "caféé😀é", "cafe😀e"),
    ("x", "y", "nothing", "nothing"),
    (r"\bw\b", r"\1", "w", r"\1"),
    ("(?i)SECRET", "*", "Secret secret", "* *"),
]


@pytest.mark.parametrize(("pattern", "replacement", "text", "result"), REPLACEMENTS)
def test_replacement(pattern: str, replacement: str, text: str, result: str) -> None:
    assert Substitution(0, ReplaceRule(pattern=pattern, replacement=replacement)).apply(text) == result


def test_flags_of_a_rule() -> None:
    rule = ReplaceRule(pattern="^b", replacement="X", case_insensitive=True, multiline=True)
    assert Substitution(0, rule).apply("a\nB") == "a\nX"


def cohere_conversation(text: str) -> dict[str, Any]:
    """A Cohere v2 request whose texts are `text`; the rest says "cat"."""
    call = {"id": "t", "type": "function", "function": {"name": "cat", "arguments": '{"a":"cat"}'}}
    documents = [
        {"type": "document", "document": text},
        {"type": "document", "document": {"id": "cat", "data": text}},
        {"type": "document", "document": {"id": "cat", "data": {"title": text, "pages": 1}}},
    ]
    return {
        "model": "cat",
        "messages": [
            {"role": "system", "content": text},
            {"role": "user", "content": [{"type": "text", "text": text}, IMAGE]},
            {"role": "assistant", "tool_plan": "cat", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t", "content": documents},
        ],
    }


IMAGE = {"type": "image_url", "image_url": {"url": "cat"}}
TOOL_USE = {"type": "tool_use", "id": "t", "name": "cat", "input": {"a": "cat"}}
INLINE = {"inlineData": {"data": "cat"}}
EMPTY: dict[str, Any] = {"type": "object", "properties": {}}
REWRITES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "openai",
        {
            "model": "m",
            "seed": 12345678901234567890,
            "temperature": 0.10,
            "messages": [
                {"role": "system", "content": "cat", "name": "kept"},
                {"role": "user", "content": [{"type": "text", "text": "cat"}, IMAGE]},
            ],
        },
        {
            "model": "m",
            "seed": 12345678901234567890,
            "temperature": 0.10,
            "messages": [
                {"role": "system", "content": "dog", "name": "kept"},
                {"role": "user", "content": [{"type": "text", "text": "dog"}, IMAGE]},
            ],
        },
    ),
    (
        "anthropic",
        {
            "system": [{"type": "text", "text": "cat", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "assistant", "content": [TOOL_USE]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "cat"}]},
            ],
        },
        {
            "system": [{"type": "text", "text": "dog", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "assistant", "content": [TOOL_USE]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "dog"}]},
            ],
        },
    ),
    (
        "openai_responses",
        {"instructions": "cat", "input": [{"role": "user", "content": [{"type": "input_text", "text": "cat"}]}]},
        {"instructions": "dog", "input": [{"role": "user", "content": [{"type": "input_text", "text": "dog"}]}]},
    ),
    ("openai_responses", {"input": "cat"}, {"input": "dog"}),
    (
        "google",
        {"systemInstruction": {"parts": [{"text": "cat"}]}, "contents": [{"parts": [{"text": "cat"}, INLINE]}]},
        {"systemInstruction": {"parts": [{"text": "dog"}]}, "contents": [{"parts": [{"text": "dog"}, INLINE]}]},
    ),
    (
        "cohere",
        cohere_conversation("cat"),
        cohere_conversation("dog"),
    ),
    (
        "openai_responses",
        {"input": [{"type": "custom_tool_call_output", "call_id": "c", "output": "cat"}]},
        {"input": [{"type": "custom_tool_call_output", "call_id": "c", "output": "dog"}]},
    ),
]
CAT_TO_DOG = {"rules": [{"pattern": "cat", "replacement": "dog"}]}


@pytest.mark.parametrize(("dialect", "body", "expected"), REWRITES)
async def test_only_texts_are_rewritten(dialect: str, body: dict[str, Any], expected: dict[str, Any]) -> None:
    chain = b.chain(b.policy("regex_replace", {"target": "request", **CAT_TO_DOG}, stages=("pre_request",)))
    request = b.request(body, source_format=dialect)
    assert await chain.pre_request(request, Run()) is None
    assert request.body == msgspec.json.encode(expected)


ANSWERS = [
    ("openai", b.answer("cat"), b.answer("dog")),
    (
        "anthropic",
        {"content": [{"type": "thinking", "thinking": "cat"}, {"type": "text", "text": "cat"}], "usage": {"x": 1}},
        {"content": [{"type": "thinking", "thinking": "cat"}, {"type": "text", "text": "dog"}], "usage": {"x": 1}},
    ),
    (
        "openai_responses",
        {"output": [{"type": "message", "content": [{"type": "output_text", "text": "cat", "annotations": []}]}]},
        {"output": [{"type": "message", "content": [{"type": "output_text", "text": "dog", "annotations": []}]}]},
    ),
    (
        "google",
        {"candidates": [{"content": {"parts": [{"text": "cat"}]}, "finishReason": "STOP"}]},
        {"candidates": [{"content": {"parts": [{"text": "dog"}]}, "finishReason": "STOP"}]},
    ),
    (
        "cohere",
        {"id": "cat", "message": {"content": [{"type": "text", "text": "cat"}], "tool_plan": "cat"}},
        {"id": "cat", "message": {"content": [{"type": "text", "text": "dog"}], "tool_plan": "cat"}},
    ),
]


@pytest.mark.parametrize(("dialect", "answer", "expected"), ANSWERS)
async def test_only_the_text_of_an_answer_is_rewritten(dialect: str, answer: Any, expected: Any) -> None:
    chain = b.chain(b.policy("regex_replace", {"target": "response", **CAT_TO_DOG}, stages=("pre_response",)))
    response = b.response(answer, status=201)
    assert await chain.pre_response(b.request(source_format=dialect), response, Run()) is None
    assert (response.status, response.body) == (201, msgspec.json.encode(expected))


async def test_two_rewriters_of_answers_both_act() -> None:
    chain = b.chain(
        b.policy("regex_replace", {"target": "response", **CAT_TO_DOG}, stages=("pre_response",)),
        b.policy(
            "regex_replace",
            {"target": "response", "rules": [{"pattern": "dog", "replacement": "cow"}]},
            stages=("pre_response",),
        ),
    )
    response = b.response(b.answer("cat"))
    await chain.pre_response(b.request(), response, Run())
    assert msgspec.json.decode(response.body)["choices"][0]["message"]["content"] == "cow"


ANSI = [
    ("\x1b[1;31mred\x1b[0m", "red"),
    ("\x1b]0;title\x07x", "x"),
    ("\x1b]8;;url\x1b\\link", "link"),
    ("\x1b[?25lhid", "hid"),
    ("plain [0m", "plain [0m"),
]


@pytest.mark.parametrize(("text", "stripped"), ANSI)
def test_terminal_escapes_are_removed(text: str, stripped: str) -> None:
    assert strip_ansi(text) == stripped


JSON = [
    ('  {"a": 1.10, "b": [ 12345678901234567890 ]} ', '{"a":1.10,"b":[12345678901234567890]}'),
    ('{"a": 1', '{"a": 1'),
    ('x\n```json \n{ "a": 1 }\n  ```\ny', 'x\n```json\n{"a":1}\n```\ny'),
    ("```json\nnot json\n```", "```json\nnot json\n```"),
    ('```json\n{"a":1}\n```', '```json\n{"a":1}\n```'),
]


@pytest.mark.parametrize(("text", "compact"), JSON)
def test_json_is_compacted_without_touching_literals(text: str, compact: str) -> None:
    assert compress_json(text) == compact


WHITE_SPACE = [
    ("a \nb\t\n", 1, "a\nb\n"),
    ("a  \nb     \n", 1, "a  \nb  \n"),
    ("a\n\n\n\nb", 1, "a\n\nb"),
    ("a\n\n\n\nb", 2, "a\n\n\nb"),
    ("a\n  \n\t\nb", 1, "a\n\nb"),
]


@pytest.mark.parametrize(("text", "most", "normal"), WHITE_SPACE)
def test_white_space_is_normalised(text: str, most: int, normal: str) -> None:
    assert normalize_whitespace(text, most) == normal


PADDED = "x" + " " * 300 + "\ny"
STRUCTURES = [
    # change to an otherwise compressible body, decision
    ({}, "compressed"),
    ({"seed": 1}, "compressed"),
    ({"messages": [{"role": "user", "content": PADDED, "name": "n"}]}, "skipped_lossy_roundtrip"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": PADDED}]}]}, "compressed"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "skipped_lossy_roundtrip"),
    (
        {"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": PADDED}]},
        "skipped_lossy_roundtrip",
    ),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "compressed"),
    ({"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, "skipped_lossy_roundtrip"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "compressed"),
    ({"tool_choice": {"type": "function", "x": 1}}, "skipped_lossy_roundtrip"),
    ({"tools": 5}, "skipped_lossy_roundtrip"),
    ({"tools": True}, "skipped_lossy_roundtrip"),
    ({"messages": [{"role": "assistant", "content": PADDED, "tool_calls": 5}]}, "skipped_lossy_roundtrip"),
    ({"messages": [{"role": "user", "content": [{"type": ["text"], "text": PADDED}]}]}, "skipped_lossy_roundtrip"),
]


@pytest.mark.parametrize(("change", "decision"), STRUCTURES)
async def test_what_compression_touches(change: dict[str, Any], decision: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": PADDED}]} | change
    run = Run()
    request = b.request(body)
    await b.chain(b.policy("prompt_compression", {}, stages=("pre_request",))).pre_request(request, run)
    assert dict(run.headers)["X-Prompt-Compression"] == decision
    assert (len(request.body) < len(msgspec.json.encode(body))) == (decision == "compressed")


async def test_arguments_of_tool_calls_are_compacted() -> None:
    arguments = '{"a":  ' + " " * 300 + "1}"
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    request = b.request({"model": "m", "messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]})
    await b.chain(b.policy("prompt_compression", {}, stages=("pre_request",))).pre_request(request, Run())
    assert b'"arguments":"{\\"a\\":1}"' in request.body


INJECTED = [
    # dialect, body, where the prompt ends up
    ("openai_responses", {"input": "q"}, {"input": "q", "instructions": "T"}),
    ("openai_responses", {"input": "q", "instructions": "I"}, {"input": "q", "instructions": "I\n\nT"}),
    ("google", {"contents": []}, {"contents": [], "systemInstruction": {"parts": [{"text": "T"}]}}),
    (
        "google",
        {"contents": [], "system_instruction": {"parts": [{"text": "S"}]}},
        {"contents": [], "system_instruction": {"parts": [{"text": "S\n\nT"}]}},
    ),
    ("anthropic", {"messages": [], "system": "S"}, {"messages": [], "system": "S\n\nT"}),
    (
        "openai",
        {"messages": [{"role": "system", "content": [{"type": "text", "text": "S"}]}]},
        {
            "messages": [
                {"role": "system", "content": "T"},
                {"role": "system", "content": [{"type": "text", "text": "S"}]},
            ]
        },
    ),
    ("openai", {"messages": "odd"}, {"messages": "odd"}),
]


@pytest.mark.parametrize(("dialect", "body", "expected"), INJECTED)
async def test_a_prompt_is_injected_where_the_dialect_keeps_it(dialect: str, body: Any, expected: Any) -> None:
    chain = b.chain(b.policy("prompt_template", {"inject_templates": [{"id": "i", "content": "T"}]}))
    request = b.request(body, source_format=dialect)
    assert await chain.pre_request(request, Run()) is None
    assert msgspec.json.decode(request.body) == expected


@pytest.mark.parametrize("body", [b"", b"[]", b"{"])
async def test_a_body_that_is_no_object_is_a_bad_request(body: bytes) -> None:
    chain = b.chain(b.policy("prompt_template", {"inject_templates": [{"id": "i", "content": "T"}]}))
    outcome = await chain.pre_request(b.request(body), Run())
    assert outcome is not None
    assert outcome.status == 400
    assert msgspec.json.decode(outcome.body or b"")["error"] == "invalid_request"


async def test_verified_claims_only_when_asked_for() -> None:
    token = "e30.eyJvcmciOiJmb3JnZWQifQ.x"
    settings = {
        "context_variables": {"org": {"source": "jwt_claim", "name": "org"}},
        "inject_templates": [{"id": "i", "content": "{{org}}"}],
        "claims_source": "verified",
    }
    chain = b.chain(b.policy("prompt_template", settings))
    request = b.request(headers=[(b"authorization", b"Bearer " + token.encode())])
    refused = await chain.pre_request(request, Run())
    assert refused is not None
    assert await chain.pre_request(request, Run(notes={"verified_claims": {"org": "real"}})) is None
    assert msgspec.json.decode(request.body)["messages"][0]["content"] == "real"


TOOLS = [
    (
        "openai",
        [{"type": "function", "function": {"name": "a", "strict": True}}],
        {"type": "function", "function": {"name": "n", "description": "d", "parameters": EMPTY}},
    ),
    (
        "openai_responses",
        [{"type": "function", "name": "a"}, {"type": "web_search"}],
        {"type": "function", "name": "n", "description": "d", "parameters": EMPTY},
    ),
    (
        "anthropic",
        [{"name": "a", "input_schema": {}, "cache_control": {"type": "ephemeral"}}],
        {"name": "n", "description": "d", "input_schema": EMPTY},
    ),
    (
        "cohere",
        [{"type": "function", "function": {"name": "a"}}],
        {"type": "function", "function": {"name": "n", "description": "d", "parameters": EMPTY}},
    ),
]
INJECT = {"inject_tools": [{"function": {"name": "n", "description": "d"}}]}


@pytest.mark.parametrize(("dialect", "tools", "added"), TOOLS)
async def test_a_tool_is_injected_in_the_dialect(dialect: str, tools: list[Any], added: Any) -> None:
    request = b.request({"model": "m", "messages": [], "tools": tools}, source_format=dialect)
    await b.chain(b.policy("tool_injection", INJECT)).pre_request(request, Run())
    found = msgspec.json.decode(request.body)["tools"]
    assert added in found
    assert all(tool in found for tool in tools)


async def test_tools_of_gemini_are_one_list_of_declarations() -> None:
    body = {"contents": [], "tools": [{"functionDeclarations": [{"name": "a"}]}, {"googleSearch": {}}]}
    request = b.request(body, source_format="google")
    await b.chain(b.policy("tool_injection", INJECT)).pre_request(request, Run())
    assert msgspec.json.decode(request.body)["tools"] == [
        {"googleSearch": {}},
        {
            "functionDeclarations": [
                {"name": "a"},
                {"name": "n", "description": "d", "parameters": EMPTY},
            ]
        },
    ]


async def test_tools_are_injected_where_the_client_sent_none() -> None:
    request = b.request()
    await b.chain(b.policy("tool_injection", INJECT)).pre_request(request, Run())
    assert msgspec.json.decode(request.body)["tools"][0]["function"]["name"] == "n"


GLOBS = [
    ("a*", "a/b", True),
    ("a?c", "a/c", True),
    ("[a-c]x", "bx", True),
    ("[^a]x", "ax", False),
    ("[!a]x", "!x", True),
    ("a\\*", "a*", True),
    ("a\\*", "ab", False),
    ("search", "Search", False),
]


@pytest.mark.parametrize(("pattern", "tool", "kept"), GLOBS)
async def test_tool_patterns(pattern: str, tool: str, kept: bool) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in (tool, "other-one")]
    request = b.request({"model": "m", "messages": [], "tools": tools})
    chain = b.chain(b.policy("tool_allowlist", {"allow_tools": [pattern, "other-one"]}))
    await chain.pre_request(request, Run())
    names = [entry["function"]["name"] for entry in msgspec.json.decode(request.body)["tools"]]
    assert (tool in names) == kept


async def test_tools_of_cohere_clients_are_on_the_list_too() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("a", "b")]
    request = b.request({"model": "m", "messages": [], "tools": tools}, source_format="cohere")
    await b.chain(b.policy("tool_allowlist", {"allow_tools": ["a"]})).pre_request(request, Run())
    assert msgspec.json.decode(request.body)["tools"] == tools[:1]
