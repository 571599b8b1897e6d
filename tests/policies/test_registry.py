"""The registry: validation messages, catalog, protocols, secrets (spec 04 §10-11)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from trustgate.policies import registry
from trustgate.policies.plugin import Environment

HERE = Path(__file__).parent
CASES = [json.loads(line) for line in (HERE / "validation.jsonl").read_text().splitlines()]
CONFIGURED = Environment(trustguard_client_id="id", trustguard_client_secret="secret")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['slug']}-{str(case['message'])[-40:]}")
def test_a_policy_is_accepted_or_refused_with_the_recorded_message(case: dict[str, Any]) -> None:
    message = registry.validate(case["slug"], case["settings"], case["stages"], case["mode"], CONFIGURED)
    expected = case["message"]
    if isinstance(expected, dict):
        assert message is not None
        assert re.search(expected["regex"], message)
    else:
        assert message == expected


def test_the_catalog_is_the_documented_one() -> None:
    assert registry.catalog() == json.loads((HERE / "catalog.json").read_text())


def test_hidden_plugins_are_registered_but_not_in_the_catalog() -> None:
    shown = {item["slug"] for group in registry.catalog()["groups"] for item in group["items"]}
    assert len(registry.PLUGINS) == 16
    assert set(registry.PLUGINS) - shown == {"cors", "model_allowlist", "tool_allowlist"}


def test_trustguard_needs_the_credentials_of_the_process() -> None:
    settings = {"collector_id": "3f2b8c1e-0000-4000-8000-000000000001"}
    assert registry.validate("trustguard", settings, environment=Environment()) == (
        "trustguard: client credentials are not configured (set TRUSTGUARD_CLIENT_ID and TRUSTGUARD_CLIENT_SECRET)"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": "0x10", "window": "1m"}, None),
        ({"LIMIT": 3.9, "Window": "1m"}, None),
        ({"limit": True, "window": "1m"}, None),
        ({"limit": "", "window": "1m"}, "rate_limiter: limit must be positive"),
        ({"limit": None, "window": "1m"}, "rate_limiter: limit must be positive"),
        ({"limit": "1.5", "window": "1m"}, 'invalid settings: field "limit" must be a whole number'),
        ({"limit": [1], "window": "1m"}, 'invalid settings: field "limit" must be a whole number but received a list'),
        ({"limit": 1, "window": True}, 'rate_limiter: invalid window: time: missing unit in duration "1"'),
        ({"limit": 1, "window": "1m", "unknown": {}}, None),
    ],
)
def test_settings_are_decoded_leniently(settings: dict[str, Any], message: str | None) -> None:
    assert registry.validate("rate_limiter", settings) == message


def test_only_reject_response_can_be_honoured_on_mcp() -> None:
    windows = [{"duration": "1m", "max": 1}]
    settings = {
        "behavior_default": "inject_error_result",
        "rules": [{"tool": "x", "windows": windows, "behavior": "strip_tool_from_request"}],
    }
    assert registry.settings_refusal("per_tool_rate_limiter", settings, "LLM") is None
    assert registry.settings_refusal("per_tool_rate_limiter", settings, "MCP") == (
        'per_tool_rate_limiter: behavior_default "inject_error_result", rule "x" behavior "strip_tool_from_request"'
        " cannot be honoured on MCP, where a refused call is never sent and there is no request to rewrite;"
        " use reject_response or attach this policy to an LLM consumer"
    )


@pytest.mark.parametrize(
    ("slug", "expected"),
    [("rate_limiter", {"LLM", "MCP"}), ("token_rate_limiter", {"LLM"}), ("trustguard", {"LLM", "MCP"})],
)
def test_protocols(slug: str, expected: set[str]) -> None:
    assert registry.protocols(slug) == expected
    assert registry.protocols("nope") is None


def test_secret_members_are_named() -> None:
    assert registry.secret_paths("openai_moderation") == (("api_key",),)
    assert registry.secret_paths("semantic_cache") == (("embedding", "api_key"),)
    assert ("credentials", "secret_access_key") in registry.secret_paths("bedrock_guardrail")
    assert registry.secret_paths("rate_limiter") == ()


def test_groups_are_in_catalog_order() -> None:
    assert list(registry.groups()) == [
        "Traffic Control",
        "Quota",
        "Routing",
        "Prompt Management",
        "Tool Governance",
        "Guardrails",
    ]


NOT_A_NUMBER = 'invalid settings: field "aggregate.max" must be a number'
NUMBERS = [
    ("1e3", None),
    ("+5.", None),
    (".5e1", None),
    (1e300, None),
    ("inf", NOT_A_NUMBER),
    ("nan", NOT_A_NUMBER),
    ("1e999", NOT_A_NUMBER),
    (10**400, NOT_A_NUMBER),
    ("1_000", NOT_A_NUMBER),
    (" 5 ", NOT_A_NUMBER),
    ("0x10", NOT_A_NUMBER),
    ("\u0665", NOT_A_NUMBER),
]


@pytest.mark.parametrize("unit", ["tokens", "dollars"])
@pytest.mark.parametrize(("value", "message"), NUMBERS)
def test_numbers_are_finite_and_decimal(unit: str, value: Any, message: str | None) -> None:
    settings = {"unit": unit, "aggregate": {"max": value, "time_window": "1h"}}
    assert registry.validate("token_rate_limiter", settings) == message


@pytest.mark.parametrize("value", [1e300, 1 << 63, -1e300])
def test_whole_numbers_have_64_bits(value: Any) -> None:
    assert registry.validate("rate_limiter", {"limit": value, "window": "1m"}) == (
        'invalid settings: field "limit" must be a whole number but received a number'
    )


@pytest.mark.parametrize("digits", [19, 5000])
def test_a_window_of_more_than_64_bits_is_refused(digits: int) -> None:
    number = "9" * (digits + 1)
    settings = {"aggregate": {"max": 1, "time_window": number + "d"}}
    message = registry.validate("token_rate_limiter", settings)
    assert message is not None
    assert message.endswith(f'strconv.Atoi: parsing "{number}": value out of range')


ENDPOINTS = [
    ("https://cs.example:443/a%20b?x=%zz#f", None),
    ("http://[::1]:8080/a", None),
    ("HTTPS://u:p@cs.example", None),
    ("cs.example/analyze", "must be an absolute http(s) url"),
    ("//cs.example/analyze", "must be an absolute http(s) url"),
    ("https:cs.example", "must be an absolute http(s) url"),
    ("https://", "must be an absolute http(s) url"),
    ("://cs.example", 'is invalid: parse "://cs.example": missing protocol scheme'),
    ("cs.example:443/a", "must be an absolute http(s) url"),
    ("1x:443", 'is invalid: parse "1x:443": first path segment in URL cannot contain colon'),
    ("http://a b/", 'is invalid: parse "http://a b/": invalid character " " in host name'),
    ("http://a:b/", 'is invalid: parse "http://a:b/": invalid port ":b" after host'),
    ("http://[::1/", "is invalid: parse \"http://[::1/\": missing ']' in host"),
    ("http://a/%zz", 'is invalid: parse "http://a/%zz": invalid URL escape "%zz"'),
    ("http://a/#%z", 'is invalid: parse "http://a/": invalid URL escape "%z"'),
    ("http://a/\r\nX: y", 'is invalid: parse "http://a/\\r\\nX: y": net/url: invalid control character in URL'),
]


@pytest.mark.parametrize(("endpoint", "message"), ENDPOINTS)
def test_the_endpoint_of_content_safety_is_an_absolute_url(endpoint: str, message: str | None) -> None:
    settings = {"api_key": "k", "endpoint": endpoint, "category_severity": {"Hate": 2}}
    found = registry.validate("azure_content_safety", settings)
    assert found == (message and f"azure_content_safety: endpoint {message}")


EXPRESSIONS = [
    ("(", "missing closing ): `(`"),
    ("[a", "missing closing ]: `[a`"),
    ("a)", "unexpected ): `a)`"),
    ("*", "missing argument to repetition operator: `*`"),
    ("a**", "invalid nested repetition operator: `**`"),
    ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
    ("(a)\\1", "invalid escape sequence: `\\1`"),
    ("a{1001}", "invalid repeat count: `{1001}`"),
    ("[b-a]", "invalid character class range: `b-a`"),
    ("(?P<n", "invalid named capture: `(?P<n`"),
    ("\\", "trailing backslash at end of expression: ``"),
]


@pytest.mark.parametrize(("pattern", "reason"), EXPRESSIONS)
def test_what_is_wrong_with_an_expression(pattern: str, reason: str) -> None:
    settings = {"target": "request", "rules": [{"pattern": "fine"}, {"pattern": pattern}]}
    assert registry.validate("regex_replace", settings, ["pre_request"]) == (
        f"regex_replace: regex_replace: invalid regular expression: rule 1: error parsing regexp: {reason}"
    )


REFUSALS = [
    ("semantic_cache", {"ttl": "zz", "ttl_seconds": 5}, 'ttl must be a valid duration: time: invalid duration "zz"'),
    (
        "token_rate_limiter",
        {"cost_cap": {"enabled": True, "per_model_overrides": {'a"b': {"max_input_cost_per_1k_tokens": -1}}}},
        'cost_cap.per_model_overrides["a\\"b"] ceilings must be >= 0',
    ),
]


@pytest.mark.parametrize(("slug", "settings", "message"), REFUSALS)
def test_other_refusals(slug: str, settings: dict[str, Any], message: str) -> None:
    assert registry.validate(slug, settings) == f"{slug}: {message}"


WINDOWS = [
    ("1.s", None),
    ("+5s", None),
    ("0000000000000000000000005s", None),
    ("1." + "0" * 5000 + "s", None),
    ("-5s", "window must be at least 1s, got -5s"),
    ("0", "window must be at least 1s, got 0s"),
    ("999999us", "window must be at least 1s, got 999.999ms"),
    ("1h 30m", 'invalid window: time: unknown unit "h " in duration "1h 30m"'),
    ("1..5s", 'invalid window: time: missing unit in duration "1..5s"'),
    ("2562048h", 'invalid window: time: invalid duration "2562048h"'),
    ("9" * 5000 + "s", f'invalid window: time: invalid duration "{"9" * 5000}s"'),
    (".s", 'invalid window: time: invalid duration ".s"'),
    ('"\\', 'invalid window: time: invalid duration "\\"\\\\"'),
    ("5\n", 'invalid window: time: unknown unit "\\x0a" in duration "5\\x0a"'),
    ("5µ", 'invalid window: time: unknown unit "\\xc2\\xb5" in duration "5\\xc2\\xb5"'),
]


@pytest.mark.parametrize(("window", "message"), WINDOWS, ids=lambda value: str(value)[:40])
def test_durations_are_those_of_the_existing_trustgate(window: str, message: str | None) -> None:
    found = registry.validate("rate_limiter", {"limit": 1, "window": window})
    assert found == (message and f"rate_limiter: {message}")


def test_texts_are_quoted_with_escapes() -> None:
    settings = {"target": 'a"\\\a\v\n\x00\u200bé😀', "rules": [{"pattern": "a"}]}
    assert registry.validate("regex_replace", settings, ["pre_request"]) == (
        "regex_replace: regex_replace: target must be one of request, response:"
        r' got "a\"\\\a\v\n\x00\u200bé😀"'
    )
