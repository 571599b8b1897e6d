"""Settings of policies through the running Admin API: every recorded refusal on POST and on PUT, in every scope."""

from __future__ import annotations

import http.client
import json
import pathlib
import re
from typing import Any

import pytest

from tests.e2e.installation import Demo, Installation, admin_token

Json = dict[str, Any]
HERE = pathlib.Path(__file__).parent.parent / "policies"
CASES = [json.loads(line) for line in (HERE / "validation.jsonl").read_text().splitlines()]
ACCEPTED = {case["slug"]: case for case in reversed(CASES) if case["message"] is None}
REFUSED = [case for case in CASES if case["message"] is not None]
SCOPES = ["detached", "consumer", "global"]


def answer(installation: Installation, method: str, path: str, body: Json) -> tuple[int, Json]:
    connection = http.client.HTTPConnection(installation.admin.removeprefix("http://"), timeout=60)
    headers = {"Authorization": "Bearer " + admin_token(), "Content-Type": "application/json"}
    try:
        connection.request(method, path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def members(case: Json) -> Json:
    return {name: case[name] for name in ("slug", "settings", "stages", "mode")}


@pytest.fixture(scope="module")
def demo(installation: Installation) -> Demo:
    return Demo(installation).open()


@pytest.fixture(scope="module")
def stored(installation: Installation, demo: Demo) -> dict[tuple[str, str], str]:
    """A good policy of every plugin in every scope, by plugin and scope."""
    found: dict[tuple[str, str], str] = {}
    for slug, case in ACCEPTED.items():
        for scope in SCOPES:
            name = f"{slug} {scope}"
            made = installation.call("POST", f"{demo.base}/policies", {"name": name} | members(case))
            path = f"{demo.base}/policies/{made['id']}"
            if scope == "consumer":
                installation.call("POST", f"{demo.base}/consumers/{demo.consumer_id}/policies/{made['id']}")
            elif scope == "global":
                installation.call("POST", f"{path}/global")
            found[slug, scope] = path
    return found


def is_refused(case: Json, status: int, found: Json) -> bool:
    assert (status, found["error"]) == (422, "validation_failed")
    text = found["message"].removeprefix("validation failed\n")
    assert text != found["message"]
    if isinstance(case["message"], dict):
        return re.search(case["message"]["regex"], text) is not None
    return text == case["message"]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case['slug']}-{str(case['message'])[-40:]}")
def test_refused_settings_change_nothing(
    installation: Installation, demo: Demo, stored: dict[tuple[str, str], str], case: Json
) -> None:
    assert is_refused(case, *answer(installation, "POST", f"{demo.base}/policies", {"name": "new"} | members(case)))
    for scope in SCOPES:
        path = stored[case["slug"] if case["slug"] in ACCEPTED else "rate_limiter", scope]
        before = installation.call("GET", path)
        assert is_refused(case, *answer(installation, "PUT", path, members(case)))
        assert installation.call("GET", path) == before


SETTINGS = {"limit": 1, "window": "1m"}
NOTHING_PASSES = "rate_limiter: limit must be positive"
MERGED = [
    # a partial PUT of a good rate_limiter, the message (None: accepted)
    ({}, None),
    ({"settings": None, "stages": None, "mode": None, "slug": None}, None),
    ({"settings": {}}, f"validation failed\n{NOTHING_PASSES}"),
    ({"settings": {"window": "1m"}}, f"validation failed\n{NOTHING_PASSES}"),
    ({"slug": "regex_replace"}, "validation failed\nplugin: no effective stages"),
    ({"slug": "request_size_limiter"}, "validation failed\nrequest_size_limiter: allowed_payload_size must be > 0"),
    ({"slug": "token_rate_limiter", "settings": {"aggregate": {"max": 1, "time_window": "1m"}}}, None),
    ({"mode": ""}, None),
    ({"stages": ["pre_request"]}, None),
    ({"stages": []}, None),
    # several wrong members: request, priority, stages, plugin, its stages, its modes, its settings
    ({"mode": "x", "priority": -1, "settings": {}}, 'invalid mode "x": validation failed'),
    (
        {"priority": -1, "stages": ["x"], "settings": {}},
        "policy: invalid priority: validation failed: priority cannot be negative",
    ),
    ({"stages": ["pre_request", "x"], "slug": "nope"}, 'policy: invalid stage: validation failed: "x"'),
    ({"slug": "nope", "stages": ["pre_response"], "settings": {}}, "validation failed\nplugin: unknown plugin: nope"),
    (
        {"slug": "tool_injection", "stages": ["post_request"], "mode": "observe"},
        'validation failed\nplugin: stage not supported: "post_request"',
    ),
    (
        {"slug": "tool_injection", "mode": "observe", "settings": {}},
        'validation failed\nplugin: mode not supported: "observe"',
    ),
    (
        {"settings": {"limit": [], "window": {}}},
        'validation failed\ninvalid settings: field "limit" must be a whole number but received a list;'
        ' field "window" must be text but received an object',
    ),
]


@pytest.mark.parametrize(("change", "message"), MERGED)
def test_a_put_judges_the_merged_policy(
    installation: Installation, demo: Demo, change: Json, message: str | None
) -> None:
    good = {"name": f"merged {MERGED.index((change, message))}", "slug": "rate_limiter", "settings": SETTINGS}
    made = installation.call("POST", f"{demo.base}/policies", good)
    status, found = answer(installation, "PUT", f"{demo.base}/policies/{made['id']}", change)
    assert (status, found.get("message")) == ((200, None) if message is None else (422, message))


PROTOCOLS = {
    # plugins that serve MCP consumers too
    "rate_limiter",
    "per_tool_rate_limiter",
    "request_size_limiter",
    "trustguard",
}


def test_a_policy_of_the_other_plane_cannot_be_attached(
    installation: Installation, demo: Demo, stored: dict[tuple[str, str], str]
) -> None:
    agent = installation.call("POST", f"{demo.base}/consumers", {"name": "agent", "type": "MCP"})["id"]
    for slug in ACCEPTED:
        policy = stored[slug, "detached"].rpartition("/")[2]
        path = f"{demo.base}/consumers/{agent}/policies/{policy}"
        if slug == "per_tool_rate_limiter":
            continue  # its first settings are those that MCP refuses
        if slug in PROTOCOLS:
            installation.call("POST", path)
            continue
        message = f"plugin {slug} does not support consumer protocol MCP"
        assert answer(installation, "POST", path, {}) == (
            422,
            {
                "error": "validation_failed",
                "message": f"consumer: policy protocol mismatch: validation failed: {message}",
            },
        )
