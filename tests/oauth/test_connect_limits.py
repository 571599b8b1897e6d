"""How often an API key may be tried at the connect form, by source and by consumer, and how often clients register."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import pathlib
from typing import Any, cast

import pytest

from tests.e2e.installation import SECRET, installed
from tests.oauth.test_choice import provider
from tests.oauth.test_connect import forwarded
from tests.oauth.world import Client, Tenant, Upstream
from trustgate.limits.ops import Charge, Limits, LimitsUnavailable, Window
from trustgate.oauth.connect import Connect
from trustgate.oauth.http import FORM, Request
from trustgate.oauth.issuers import Issuers
from trustgate.oauth.selfservice import ConnectLimit, SelfService


def test_attempts_beyond_the_bound_are_refused_before_anything_else(tmp_path: pathlib.Path) -> None:
    more = {
        "MCP_BASE_DOMAIN": "mcp.test",
        "MCP_CONNECT_RATE_LIMIT_SOURCE": "3",
        "MCP_CONNECT_RATE_LIMIT_CONSUMER": "2",
        "MCP_CONNECT_RATE_LIMIT_WINDOW": "10m",
        "MCP_CONNECT_TRUSTED_PROXY_CIDRS": "127.0.0.0/8",
    }
    with installed(tmp_path, "all", **more) as place, contextlib.closing(Upstream()) as upstream:
        tenant, client = Tenant(place), Client(place.mcp)
        auth, key = tenant.key()
        consumer = tenant.consumer("c", [tenant.registry("Notes", upstream.url, forwarded(upstream))], auth)

        def attempt(source: str, **body: Any) -> Any:
            headers = {"Host": f"{tenant.slug}.mcp.test", "X-Forwarded-For": source}
            return client.http.post(f"{place.mcp}/{consumer['slug']}/connect", headers=headers, **body)

        assert [attempt("192.0.2.1", json={}).status_code for _ in range(5)] == [415, 415, 415, 429, 429]
        refused = attempt("192.0.2.1", data={"api_key": key})
        assert (refused.status_code, refused.text) == (429, "Too Many Requests")
        assert 1 <= int(refused.headers["retry-after"]) <= 600
        assert "content-type" not in refused.headers and refused.headers["cache-control"] == "no-store"
        one, two, three = (attempt(f"192.0.2.{n}, 127.0.0.9", data={"api_key": key}) for n in (2, 3, 4))
        assert (one.status_code, two.status_code, three.status_code) == (303, 303, 429), "two for the consumer"
        assert one.headers["location"] != two.headers["location"]

        def register(source: str) -> Any:
            body = {"redirect_uris": ["https://app.example/cb"]}
            return client.http.post(f"{place.mcp}/oauth/register", json=body, headers={"X-Forwarded-For": source})

        provider(tenant, "idp")
        answers = [register("192.0.2.50") for _ in range(121)]
        assert {answer.status_code for answer in answers[:-1]} == {201}
        assert answers[-1].status_code == 429 and answers[-1].json()["error"] == "too_many_requests"
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert register("192.0.2.51").status_code == 201


class Unreachable:
    """Counters that are away; they remember what they were asked."""

    def __init__(self) -> None:
        self.asked: list[Window] = []

    async def run(self, operations: tuple[Charge, ...]) -> Any:
        self.asked += operations[0].windows
        raise LimitsUnavailable


@pytest.mark.parametrize(("enabled", "status"), [(True, 503), (False, 415)])
async def test_who_cannot_be_counted_is_refused(*, enabled: bool, status: int) -> None:
    limits, limit = Unreachable(), ConnectLimit(enabled=enabled, window_s=60.0)
    nobody: Any = None
    service = SelfService(cast(Issuers, nobody), cast(Connect, nobody), cast(Limits, limits), limit, SECRET.encode())
    request = Request(
        method="POST",
        path="/AbCd1234/connect",
        query_string=b"",
        headers={b"content-type": b"text/plain" if not enabled else FORM},
        body=b"",
        peer_ip="192.0.2.1",
        base_url="http://h",
    )
    reply = await service.submit(request, "AbCd1234")
    assert reply.status == status and (b"cache-control", b"no-store") in reply.headers
    named = hmac.new(SECRET.encode(), b"source\x00192.0.2.1", hashlib.sha256).hexdigest()
    assert [window.key for window in limits.asked] == [f"gt:mcp:connect:rl:v1:source:{named}"] * enabled
