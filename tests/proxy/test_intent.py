"""Spec 02 §7.1: the forms of a model reference and their refusals; bodies that cannot be read."""

from __future__ import annotations

import pytest

from trustgate.proxy.call import named
from trustgate.proxy.errors import Refusal
from trustgate.proxy.exchange import Exchange
from trustgate.proxy.intent import NONE, Intent, peek, read_intent

PREFIX = "routing: invalid model reference: validation failed: "


def intent(body: bytes, path_model: str = "") -> Intent:
    return read_intent(peek(body), path_model)


@pytest.mark.parametrize(
    ("reference", "kind", "detail"),
    [
        ("auto", "auto", ""),
        (" AUTO ", "auto", ""),
        ("pool:fast", "pool", "fast"),
        ("POOL:Fast", "pool", "Fast"),
        ("@openai/gpt-4o", "provider", "openai gpt-4o"),
        ("@OpenAI/ a/b/c ", "provider", "openai a/b/c"),
        ("gpt-4o", "model", "gpt-4o"),
        ("vendor/model", "model", "vendor/model"),
        ("ft:gpt-4o:acme::x", "model", "ft:gpt-4o:acme::x"),
        ("  ", "none", ""),
        ("", "none", ""),
    ],
)
def test_reference_forms(reference: str, kind: str, detail: str) -> None:
    found = intent(b'{"model":"%s"}' % reference.encode())
    text = {"pool": found.alias, "provider": f"{found.provider} {found.model}", "model": found.model}
    assert (found.kind, text.get(found.kind, "")) == (kind, detail)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"modelId":null}', "modelId is not a supported request field, use the model field"),
        (b'{"model":"a","modelId":"b"}', "modelId is not a supported request field, use the model field"),
        (b'{"model":"pool:"}', '"pool:" has an empty pool alias'),
        (b'{"model":"pool:a/b"}', "pool alias \"a/b\" must not contain '/'"),
        (b'{"model":"@openai"}', '"@openai" must use the @provider/model syntax'),
        (b'{"model":"@/m"}', '"@/m" must use the @provider/model syntax'),
        (b'{"model":"@open ai/m"}', '"@open ai/m" has an invalid provider'),
        (b'{"model":"@openai/ "}', '"@openai/" has an empty model'),
    ],
)
def test_refused_references(body: bytes, message: str) -> None:
    with pytest.raises(Refusal) as refused:
        intent(body)
    assert (refused.value.status, refused.value.code, refused.value.message) == (400, "invalid_model", PREFIX + message)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b'"model"',
        b"null",
        b'{"model":5}',
        b'{"model":null}',
        b'{"Model":"gpt-4o"}',
        b'{"model":"\xff"}',
        b'{"model":"a"',
        b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_bodies_without_a_readable_model_have_no_intent(body: bytes) -> None:
    assert intent(body) == NONE


def test_of_duplicate_members_the_last_counts() -> None:
    assert intent(b'{"model":"a","model":"b"}').model == "b"


def test_a_model_in_the_path_beats_the_body() -> None:
    assert intent(b'{"model":"b"}', "@google/gemini").provider == "google"
    assert intent(b"garbage", "gemini").model == "gemini"


def test_escapes_in_the_model_are_decoded() -> None:
    assert intent(b'{"model":"caf\\u00e9"}').model == "café"


@pytest.mark.parametrize(
    ("body", "known"),
    [
        (b'{"model":"gpt-4o"}', "gpt-4o"),
        (b'{"model":"a","model":"bb"}', "bb"),
        (b'{"model":" gpt-4o "}', ""),
        (b'{"model":"caf\\u00e9"}', ""),
        (b'{"model":"@openai/gpt-4o"}', ""),
        (b'{"model":"auto"}', ""),
        (b"{}", ""),
        (b"garbage", ""),
    ],
)
def test_a_bodys_model_is_known_only_where_it_was_read_as_it_stands(body: bytes, known: str) -> None:
    exchange = Exchange("POST", "/c/v1/chat/completions", b"", [], body, "")
    exchange.peeked = peek(body)
    exchange.intent = read_intent(exchange.peeked, "")
    assert named(exchange) == known
    exchange.body = b'{"model":"a policy has been here"}'
    assert named(exchange) == ""
