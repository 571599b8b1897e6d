"""Parsing rules of environment variables, as tables."""

import pytest

from trustgate.settings import ConfigurationError, Settings
from trustgate.settings.values import format_duration, parse_bool, parse_csv, parse_duration, parse_int

BOOLS = [
    ("1", True),
    ("true", True),
    ("YES", True),
    (" on ", True),
    ("0", False),
    ("False", False),
    ("no", False),
    ("OFF", False),
    ("2", None),
    ("t", None),
    ("", None),
]

INTS = [("0", 0), ("8081", 8081), ("-1", -1), ("+5", 5), ("0x10", None), ("1_000", None), ("1.5", None), (" 1", None)]

DURATIONS = [
    ("250ms", 0.25),
    ("1h30m", 5400.0),
    ("1.5h", 5400.0),
    ("90s", 90.0),
    ("1h2m3.5s", 3723.5),
    ("100us", 0.0001),
    ("5ns", 5e-9),
    ("+2s", 2.0),
    ("0s", None),
    ("-5s", None),
    ("30", None),
    ("5 s", None),
    ("5d", None),
    ("s", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "value"), BOOLS)
def test_booleans_are_read_from_the_four_word_pairs(text: str, value: bool | None) -> None:
    assert parse_bool(text) is value


@pytest.mark.parametrize(("text", "value"), INTS)
def test_integers_are_base_ten(text: str, value: int | None) -> None:
    assert parse_int(text) == value


@pytest.mark.parametrize(("text", "value"), DURATIONS)
def test_durations_are_numbers_with_units_and_positive(text: str, value: float | None) -> None:
    assert parse_duration(text) == value


@pytest.mark.parametrize("text", ["250ms", "1h30m", "2m", "1h", "1m30s", "0.5ms"])
def test_a_duration_is_shown_as_it_is_written(text: str) -> None:
    seconds = parse_duration(text)
    assert seconds is not None
    assert format_duration(seconds) == text


def test_lists_are_split_trimmed_and_without_empty_items() -> None:
    assert parse_csv(" a, ,b,,c ") == ("a", "b", "c")


FALLBACKS = [
    ("SERVER_PROXY_PORT", "eighty", "invalid integer environment variable, falling back to default"),
    ("TELEMETRY_ENABLED", "maybe", "invalid bool environment variable, falling back to default"),
    ("SERVER_READ_TIMEOUT", "0s", "invalid duration environment variable, falling back to default"),
]


@pytest.mark.parametrize(("key", "text", "message"), FALLBACKS)
def test_an_unreadable_value_falls_back_to_the_default_with_a_warning(key: str, text: str, message: str) -> None:
    settings = Settings.load({key: text})
    assert [(w.message, w.key, w.value) for w in settings.warnings] == [(message, key, text)]
    defaults = Settings.load({})
    assert (settings.server, settings.telemetry) == (defaults.server, defaults.telemetry)


@pytest.mark.parametrize("text", ["0", "0s", "0ms"])
def test_a_delay_that_may_be_absent_can_be_zero(text: str) -> None:
    settings = Settings.load({"SERVER_DRAIN_DELAY": text, "PROVIDER_RETRY_BASE_DELAY": text})
    assert (settings.server.drain_delay_s, settings.upstream.retry_base_delay_s) == (0.0, 0.0)
    assert settings.warnings == ()


def test_line_breaks_and_tabs_in_a_warned_value_are_flattened() -> None:
    (warning,) = Settings.load({"DB_PORT": "1\n2\t3"}).warnings
    assert warning.value == "1 2 3"


STRICT = [
    ("MCP_CONNECT_RATE_LIMIT_ENABLED", "yes", "must be true or false"),
    ("MCP_CONNECT_RATE_LIMIT_SOURCE", "0", "must be a positive integer"),
    ("MCP_CONNECT_RATE_LIMIT_CONSUMER", "many", "must be a positive integer"),
    ("MCP_CONNECT_RATE_LIMIT_WINDOW", "60", "must be a positive duration"),
    ("MCP_CONNECT_TRUSTED_PROXY_CIDRS", "10.0.0.0/8,nonsense", "must contain valid CIDR prefixes"),
    ("MCP_CONNECT_TRUSTED_PROXY_CIDRS", "10.0.0.1", "must contain valid CIDR prefixes"),
    ("MCP_CONNECT_TRUSTED_PROXY_CIDRS", "0.0.0.0/0", "must not trust all addresses"),
    ("MCP_CONNECT_TRUSTED_PROXY_CIDRS", "::/0", "must not trust all addresses"),
]


@pytest.mark.parametrize(("key", "text", "rule"), STRICT)
def test_the_connect_limiter_variables_are_strict(key: str, text: str, rule: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Settings.load({key: text})
    assert str(refusal.value) == f"invalid configuration: {key} {rule}"


def test_strict_variables_are_read_when_they_are_valid() -> None:
    connect = Settings.load(
        {
            "MCP_CONNECT_RATE_LIMIT_ENABLED": "False",
            "MCP_CONNECT_RATE_LIMIT_SOURCE": "3",
            "MCP_CONNECT_RATE_LIMIT_WINDOW": "10s",
            "MCP_CONNECT_TRUSTED_PROXY_CIDRS": "10.0.0.0/8, fd00::/8",
        }
    ).mcp_connect
    assert (connect.enabled, connect.per_source, connect.window_s) == (False, 3, 10.0)
    assert connect.trusted_proxies == ("10.0.0.0/8", "fd00::/8")


def test_malformed_trusted_peers_are_skipped_with_a_warning() -> None:
    settings = Settings.load({"TRUST_XFCC_FROM": "10.1.2.3, what, 192.168.0.0/16"})
    assert settings.server.trust_xfcc_from == ("10.1.2.3/32", "192.168.0.0/16")
    assert [(w.key, w.value) for w in settings.warnings] == [("TRUST_XFCC_FROM", "what")]


@pytest.mark.parametrize(("text", "seconds"), [("2500", 2.5), ("3s", 3.0), ("x", 10.0)])
def test_the_otlp_timeout_is_milliseconds_or_a_duration(text: str, seconds: float) -> None:
    assert Settings.load({"OTEL_EXPORTER_OTLP_TIMEOUT": text}).otlp.timeout_s == seconds
