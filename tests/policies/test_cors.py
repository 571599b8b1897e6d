"""Opt-in CORS of the traffic planes (spec 04 §15, 02 §1)."""

from __future__ import annotations

import pytest

from trustgate.policies.cors import Cors, CorsSettings

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
