"""Messages of `provider_options` that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from trustgate.providers.registry import validate_options

WRONG_TYPE = (
    "openai: invalid provider_options: 1 error(s) decoding:\n\n"
    "* 'base_url' expected type 'string', got unconvertible type 'float64', value: '5'"
)
NUMBERS = [
    (-5, "-5"),
    (0.25, "0.25"),
    (0, "0"),
    (999_999, "999999"),
    (1_000_000, "1e+06"),
    (12345678.5, "1.23456785e+07"),
    (0.00001, "1e-05"),
    (-2.5e-7, "-2.5e-07"),
    (1e300, "1e+300"),
]
MESSAGES = [
    ("openai", {}, None),
    ("openai", {"api": "responses", "base_url": "https://h/v1"}, None),
    ("openai", {"api": ""}, None),
    ("openai", {"api": None, "unknown": 1}, None),
    ("openai", {"api": "x"}, 'openai: provider_options.api must be "completions" or "responses", got "x"'),
    ("openai", {"API": "x"}, 'openai: provider_options.api must be "completions" or "responses", got "x"'),
    ("openai", {"base_url": "h/v1"}, 'openai: base_url must be a valid http(s) URL, got "h/v1"'),
    ("openai", {"base_url": "ftp://h"}, 'openai: base_url must be a valid http(s) URL, got "ftp://h"'),
    ("openai", {"base_url": "http://"}, 'openai: base_url must be a valid http(s) URL, got "http://"'),
    ("openai", {"base_url": 5}, WRONG_TYPE),
    (
        "openai",
        {"base_url": [1], "api": True},
        "openai: invalid provider_options: 2 error(s) decoding:\n\n"
        "* 'api' expected type 'string', got unconvertible type 'bool', value: 'true'\n"
        "* 'base_url' expected type 'string', got unconvertible type '[]interface {}', value: '[1]'",
    ),
    ("openai_compatible", {}, "openai_compatible: base_url is required"),
    ("openai_compatible", {"base_url": " "}, "openai_compatible: base_url is required"),
    ("openai_compatible", {"base_url": "x"}, 'openai_compatible: base_url must be a valid http(s) URL, got "x"'),
    ("openai_compatible", {"Base_URL": "http://h", "headers": {"A": "b"}}, None),
    (
        "openai_compatible",
        {"base_url": "http://h", "headers": {"A": 1}},
        "openai_compatible: invalid provider_options: 1 error(s) decoding:\n\n"
        "* 'headers[A]' expected type 'string', got unconvertible type 'float64', value: '1'",
    ),
    (
        "openai_compatible",
        {"base_url": "http://h", "headers": "A"},
        "openai_compatible: invalid provider_options: 1 error(s) decoding:\n\n* 'headers' expected a map, got 'string'",
    ),
    ("vertex", {}, "vertex: provider_options.project is required"),
    *(("openai", {"base_url": given}, WRONG_TYPE.replace("'5'", f"'{shown}'")) for given, shown in NUMBERS),
    (
        "openai",
        {"base_url": [None, 1.5, "a"]},
        WRONG_TYPE.replace("float64", "[]interface {}").replace("'5'", "'[<nil> 1.5 a]'"),
    ),
    (
        "openai_compatible",
        {"base_url": "http://h", "headers": []},
        "openai_compatible: invalid provider_options: 1 error(s) decoding:\n\n* 'headers' expected a map, got 'slice'",
    ),
    ("vertex", {"project": "p", "location": " "}, "vertex: provider_options.location is required"),
    ("vertex", {"project": "p", "location": "l"}, None),
    ("anthropic", {"base_url": 5, "anything": []}, None),
    ("bedrock", {"api": "completions"}, None),
    ("bedrock", {"api": 5}, None),
    ("no-such-provider", {}, None),
]


@pytest.mark.parametrize(("provider", "options", "message"), MESSAGES)
def test_options_are_refused_with_the_message_of_the_table(
    provider: str, options: dict[str, Any], message: str | None
) -> None:
    assert validate_options(provider, options) == message


def test_absent_options_are_empty_options() -> None:
    assert validate_options("openai", None) is None
    assert validate_options("vertex", None) == "vertex: provider_options.project is required"
