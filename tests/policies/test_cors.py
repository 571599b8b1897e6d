"""Opt-in CORS of the traffic planes, and the policy of that name (spec 04 §15, 02 §1)."""

from __future__ import annotations

from typing import Any

import pytest

from trustgate.domain.entities import Policy
from trustgate.policies import registry
from trustgate.policies.cors import Cors, CorsSettings
from trustgate.policies.cors_policy import cors_of

from . import builders as b

ORIGIN = (b"origin", b"https://App.example")
PREFLIGHT = [ORIGIN, (b"access-control-request-method", b"POST")]

ANSWERS = [
    # settings, allowed origin on the answer (None: no header at all), credentials
    (CorsSettings(), None, False),
    (CorsSettings(origins=("https://other.example",)), None, False),
    (CorsSettings(origins=("https://app.example",)), "https://App.example", False),
    (CorsSettings(origins=("https://app.example",), credentials=True), "https://App.example", True),
    (CorsSettings(origins=("*",)), "*", False),
    (CorsSettings(origins=("*",), credentials=True), "*", False),
]


@pytest.mark.parametrize(("settings", "origin", "credentials"), ANSWERS)
def test_answers_are_marked_for_allowed_origins(settings: CorsSettings, origin: str | None, credentials: bool) -> None:
    headers = dict(Cors(settings).answer_headers([ORIGIN]))
    assert headers.get("Access-Control-Allow-Origin") == origin
    assert ("Access-Control-Allow-Credentials" in headers) == credentials
    assert (headers.get("Vary") == "Origin") == (origin is not None)
    assert Cors(settings).answer_headers([]) == []


def test_a_preflight_is_answered() -> None:
    cors = Cors(CorsSettings(origins=("https://app.example",)))
    outcome = cors.preflight(b"OPTIONS", [*PREFLIGHT, (b"access-control-request-headers", b"x-a, x-b")])
    assert outcome is not None
    status, headers, body = outcome.rendered()
    assert (status, body) == (204, b"")
    assert dict(headers) == {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": "https://App.example",
        "Access-Control-Expose-Headers": "X-AG-Trace-Id",
        "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
        "Access-Control-Allow-Headers": "x-a, x-b",
        "Access-Control-Max-Age": "600",
    }


NO_PREFLIGHTS = [
    (b"POST", PREFLIGHT),
    (b"OPTIONS", [ORIGIN]),
    (b"OPTIONS", [(b"access-control-request-method", b"POST")]),
    (b"OPTIONS", [(b"origin", b"https://evil.example"), PREFLIGHT[1]]),
]


@pytest.mark.parametrize(("method", "headers"), NO_PREFLIGHTS)
def test_everything_else_takes_the_ordinary_way(method: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    assert Cors(CorsSettings(origins=("https://app.example",))).preflight(method, headers) is None


SETTINGS = [
    ({"allow_origins": "https://app.example"}, None),
    ({"allow_origins": ["*"], "max_age": 0}, None),
    ({"allow_origins": ["http://localhost:3000", "chrome-extension://abcdef"], "allow_credentials": True}, None),
    ({}, "cors: allow_origins must not be empty"),
    (
        {"allow_origins": ["*"], "allow_credentials": True},
        "cors: allow_credentials cannot be combined with the origin *",
    ),
    *(
        (
            {"allow_origins": [origin]},
            f'cors: allow_origins must be * or origins such as https://app.example, got "{origin}"',
        )
        for origin in (
            "",
            "app.example",
            "https://",
            "https://app.example/",
            "https://u@a",
            "https://a:x",
            "https://a b",
        )
    ),
    ({"allow_origins": ["*"], "expose_headers": ["a b"]}, 'cors: expose_headers entries must be names, got "a b"'),
    ({"allow_origins": ["*"], "allow_methods": [""]}, 'cors: allow_methods entries must be names, got ""'),
    ({"allow_origins": ["*"], "allow_headers": ["a\r"]}, r'cors: allow_headers entries must be names, got "a\r"'),
    ({"allow_origins": ["*"], "max_age": -1}, "cors: max_age must be between 0 and 86400"),
    ({"allow_origins": ["*"], "max_age": 86401}, "cors: max_age must be between 0 and 86400"),
    ({"allow_origins": 5, "max_age": "x"}, 'invalid settings: field "max_age" must be a whole number'),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS)
def test_settings_of_the_policy(settings: dict[str, Any], message: str | None) -> None:
    assert registry.validate("cors", settings) == message


def test_the_policy_takes_no_part_in_a_chain() -> None:
    chain = b.chain(b.policy("cors", {"allow_origins": ["*"]}))
    assert chain.empty


def test_the_first_enabled_policy_decides() -> None:
    def origin(*policies: Policy) -> dict[str, str]:
        cors = cors_of(policies)
        return dict(cors.answer_headers([ORIGIN])) if cors is not None else {"none": ""}

    first = b.policy("cors", {"allow_origins": ["*"]}, priority=1)
    second = b.policy("cors", {"allow_origins": ["https://other.example"]}, priority=2)
    off = b.policy("cors", {"allow_origins": ["*"]}, enabled=False)
    broken = b.policy("cors", {"allow_origins": []})
    assert origin(second, first)["Access-Control-Allow-Origin"] == "*"
    assert origin(second) == {}
    assert origin(off) == {"none": ""}
    assert origin(broken) == {}
