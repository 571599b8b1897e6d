"""The endpoint's outside: routes, authentication, envelopes, headers (on the wire, real server, real upstream)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from tests.mcp.upstream_server import Faulty, serving
from tests.mcp.world import KEY, SLUG, api_key, registry, world
from tests.views import auth, consumer, later
from trustgate.mcp.locate import AllowedHosts, BaseUrls

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
DEAD = "http://127.0.0.1:1/mcp"
SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-site",
}


def request(method: str, rest: str = "") -> bytes:
    return f'{{"jsonrpc":"2.0","id":1,"method":"{method}"{rest}}}'.encode()


DEEP = "[" * 100_000 + "]" * 100_000
PARSE, INVALID, METHOD, PARAMS = -32700, -32600, -32601, -32602

# body, id that comes back, code, message (code 0: the result `{}`)
ENVELOPES: list[tuple[bytes, str, int, str]] = [
    (b"", "null", PARSE, "parse error"),
    (b"{broken", "null", PARSE, "parse error"),
    (b'"text"', "null", PARSE, "parse error"),
    (b"null", "null", PARSE, "parse error"),
    (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', "null", PARSE, "parse error"),
    (request("ping", f',"params":{DEEP}'), "null", PARSE, "parse error"),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","x":"\xff\xfe"}', "null", PARSE, "parse error"),
    (b'{"jsonrpc":"1.0","id":4,"method":"ping"}', "4", INVALID, "invalid request"),
    (b'{"id":4,"method":"ping"}', "4", INVALID, "invalid request"),
    (b'{"jsonrpc":"2.0","id":"x","method":""}', '"x"', INVALID, "invalid request"),
    (b'{"jsonrpc":"2.0","id":"x","method":7}', '"x"', INVALID, "invalid request"),
    (b'{"jsonrpc":"2.0","id":"x"}', '"x"', INVALID, "invalid request"),
    (b'{"jsonrpc":"2.0","method":""}', "null", INVALID, "invalid request"),
    (request("ping"), "1", 0, ""),
    (b'{"jsonrpc":"2.0","id": 1.500e3 ,"method":"ping"}', "1.500e3", 0, ""),
    (rb'{"jsonrpc":"2.0","id":"\u00e9\/","method":"ping"}', r'"\u00e9\/"', 0, ""),
    (request("logging/setLevel"), "1", METHOD, "mcp: method not found: logging/setLevel"),
    (request("tools/call"), "1", PARAMS, "tools/call requires params.name"),
    (request("tools/call", ',"params":[]'), "1", PARAMS, "tools/call requires params.name"),
    (request("tools/call", ',"params":{"name":3}'), "1", PARAMS, "tools/call requires params.name"),
    (request("resources/read", ',"params":{}'), "1", PARAMS, "resources/read requires params.uri"),
    (request("prompts/get", ',"params":{"name":""}'), "1", PARAMS, "prompts/get requires params.name"),
    (
        request("prompts/get", ',"params":{"name":"p","arguments":{"a":1}}'),
        "1",
        PARAMS,
        "prompts/get requires params.arguments to be an object of strings",
    ),
]


async def test_every_envelope_is_answered_by_the_table() -> None:
    async with world(registry("r-1", DEAD)) as at:
        for body, id_, code, message in ENVELOPES:
            outcome = f'"error":{{"code":{code},"message":"{message}"}}' if code else '"result":{}'
            status, headers, answer = await at.send(body)
            assert (status, answer.decode()) == (200, f'{{"jsonrpc":"2.0","id":{id_},{outcome}}}'), body[:80]
            assert headers["content-type"] == "application/json"


NOTIFICATIONS = [b'{"jsonrpc":"2.0","method":"tools/call"}', b'{"jsonrpc":"2.0","id":null,"method":"ping"}']


@pytest.mark.parametrize("body", NOTIFICATIONS)
async def test_notifications_are_accepted_and_not_executed(body: bytes) -> None:
    with serving(Faulty()) as upstream:
        async with world(registry("r-1", upstream.url)) as at:
            status, headers, answer = await at.send(body)
    assert (status, answer, upstream.seen) == (202, b"Accepted", [])
    assert "content-type" not in headers


# method, path, with key, status, body, Allow
ROUTES: list[tuple[str, str, bool, int, bytes, str | None]] = [
    ("POST", f"/{SLUG}/mcp", True, 200, b'{"jsonrpc":"2.0","id":1,"result":{}}', None),
    ("POST", f"/{SLUG}/mcp/", True, 200, b'{"jsonrpc":"2.0","id":1,"result":{}}', None),
    ("POST", f"/some/where/{SLUG}/mcp", True, 200, b'{"jsonrpc":"2.0","id":1,"result":{}}', None),
    ("POST", f"/{SLUG}/MCP", True, 404, b"no virtual MCP configured for this path", None),
    ("POST", f"/{SLUG.lower()}/mcp", True, 404, b"no virtual MCP configured for this path", None),
    ("POST", "/mcp", True, 404, b"no virtual MCP configured for this path", None),
    ("POST", "/", True, 404, b"no virtual MCP configured for this path", None),
    ("POST", f"/{SLUG}/mcp", False, 401, b"unauthenticated", None),
    ("POST", "/unknown1/mcp", False, 401, b"unauthenticated", None),
    ("GET", f"/{SLUG}/mcp", False, 405, b"Method Not Allowed", "POST"),
    ("DELETE", f"/{SLUG}/mcp", False, 405, b"Method Not Allowed", "POST"),
    ("HEAD", f"/{SLUG}/mcp", False, 405, b"", "POST"),
    ("PUT", f"/{SLUG}/mcp", False, 401, b"unauthenticated", None),
    ("PUT", f"/{SLUG}/mcp", True, 405, b"Method Not Allowed", "GET, HEAD, POST, DELETE"),
    ("PATCH", f"/{SLUG}/mcp", True, 405, b"Method Not Allowed", "GET, HEAD, POST, DELETE"),
]


async def test_routes_and_methods_are_answered_by_the_table() -> None:
    async with world(registry("r-1", DEAD)) as at:
        for method, path, keyed, expected, body, allow in ROUTES:
            status, headers, answer = await at.send(PING, method=method, path=path, key=KEY if keyed else "")
            assert (status, answer, headers.get("allow")) == (expected, body, allow), (method, path)
            assert SECURITY.items() <= headers.items()
            assert headers["x-request-id"]


async def test_plain_errors_are_text_and_a_caller_who_is_known_has_a_trace() -> None:
    async with world(registry("r-1", DEAD)) as at:
        _, refused, _ = await at.send(PING, key="ag_wrong")
        _, missing, _ = await at.send(PING, path="/unknown1/mcp")
        _, given, _ = await at.send(PING, **{"X-Request-Id": "mine-1"})
        _, secure, _ = await at.send(PING, **{"X-Forwarded-Proto": "https"})
    assert refused["content-type"] == missing["content-type"] == "text/plain; charset=utf-8"
    assert "x-ag-trace-id" not in refused
    assert missing["x-ag-trace-id"]
    assert given["x-request-id"] == "mine-1" != given["x-ag-trace-id"]
    assert "strict-transport-security" not in given
    assert secure["strict-transport-security"] == "max-age=31536000; includeSubDomains"


FORWARDED = {"X-Forwarded-Proto": "https, http", "X-Forwarded-Host": "mcp.example:8443, inner"}


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/x1/mcp", {}, "http://127.0.0.1/.well-known/oauth-protected-resource/x1/mcp"),
        ("/", {}, "http://127.0.0.1/.well-known/oauth-protected-resource"),
        ("/x1/mcp/", FORWARDED, "https://mcp.example:8443/.well-known/oauth-protected-resource/x1/mcp"),
        ("/x1/mcp", {"X-Forwarded-Ssl": "on"}, "https://127.0.0.1/.well-known/oauth-protected-resource/x1/mcp"),
        ("/x1/mcp", {"X-Url-Scheme": "gopher"}, "http://127.0.0.1/.well-known/oauth-protected-resource/x1/mcp"),
        ('/x"1/mcp', {}, "http://127.0.0.1/.well-known/oauth-protected-resource/x%221/mcp"),
    ],
)  # fmt: skip
async def test_an_unknown_path_is_challenged_with_where_to_log_in(
    path: str, headers: dict[str, str], expected: str
) -> None:
    async with world(registry("r-1", DEAD)) as at:
        status, answer, _ = await at.send(PING, path=path, key="", **headers)
    assert (status, answer["www-authenticate"]) == (401, f'Bearer resource_metadata="{expected}"')


async def test_a_consumer_with_keys_alone_answers_a_bare_401() -> None:
    async with world(registry("r-1", DEAD)) as at:
        status, headers, _ = await at.send(PING, key="ag_wrong")
    assert (status, "www-authenticate" in headers) == (401, False)


@pytest.mark.parametrize(
    ("base_urls", "expected"),
    [
        (BaseUrls(public="https://mcp.example/"), "https://mcp.example"),
        (BaseUrls(trusted=(ip_network("10.0.0.0/8"),)), "http://127.0.0.1"),
        (BaseUrls(trusted=(ip_network("127.0.0.0/8"),)), "https://spoofed.example"),
    ],
)
async def test_forwarding_headers_are_believed_as_the_operator_says(base_urls: BaseUrls, expected: str) -> None:
    spoofed = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "spoofed.example"}
    async with world(registry("r-1", DEAD), base_urls=base_urls) as at:
        _, headers, _ = await at.send(PING, path="/x1/mcp", key="", **spoofed)
    assert headers["www-authenticate"].startswith(f'Bearer resource_metadata="{expected}/.well-known')


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "Gateway.example:8082"}, 401),
        ({"Host": "acme.mcp.example"}, 401),
        ({"Host": "mcp.example"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "evil.example", "X-Forwarded-Host": "gateway.example"}, 403),
        ({"Host": "gateway.example", "X-Forwarded-Host": "evil.example"}, 403),
        ({"Host": "gateway.example", "Origin": "http://evil.example"}, 403),
        ({"Host": "gateway.example", "Origin": "https://gateway.example:3000"}, 401),
        ({"Host": "gateway.example", "Origin": "null"}, 403),
        ({"Host": "[::1]:8082"}, 401),
    ],
)
async def test_where_hosts_are_named_others_are_refused_before_anything_else(
    headers: dict[str, str], status: int
) -> None:
    allowed = AllowedHosts(("gateway.example", "*.mcp.example", "[::1]"))
    async with world(registry("r-1", "http://up"), allowed_hosts=allowed) as one:
        answered, fields, body = await one.send(key="", **headers)
    assert (answered, body) == (status, b"host not allowed" if status == 403 else b"unauthenticated")
    assert fields["x-content-type-options"] == "nosniff"


async def test_consumers_of_other_types_and_inactive_ones_are_not_there() -> None:
    entities = (
        registry("r-1", DEAD),
        api_key(),
        consumer("LlmLlm12", auth_ids=("a-1",)),
        consumer("OffOff12", type="MCP", active=False, auth_ids=("a-1",)),
    )
    async with world() as at:
        at.put(*entities)
        llm = await at.send(PING, path="/LlmLlm12/mcp")
        off = await at.send(PING, path="/OffOff12/mcp")
    assert (llm[0], llm[2]) == (404, b"consumer is not an MCP consumer")
    assert (off[0], off[2]) == (404, b"no virtual MCP configured for this path")


async def test_a_custom_domain_belongs_to_its_gateway() -> None:
    async with world(registry("r-1", DEAD), domain="tools.acme.example") as at:
        own = await at.send(PING, Host="tools.acme.example:8082")
        shared = await at.send(PING)
        other = await at.send(PING, Host="other.example")
    assert (own[0], shared[0], other[0]) == (200, 404, 404)


async def test_a_key_of_another_consumer_and_a_disabled_one_are_refused() -> None:
    other = "ag_" + "o" * 43
    entities = (
        registry("r-1", DEAD),
        consumer(SLUG, type="MCP", registry_ids=("r-1",), auth_ids=("a-1", "a-3")),
        api_key(),
        api_key("a-2", other),
        api_key("a-3", "ag_off", enabled=False),
    )
    async with world() as at:
        at.put(*entities)
        assert [(await at.send(PING, key=key))[0] for key in (KEY, other, "ag_off")] == [200, 401, 401]


async def test_a_key_serves_within_its_time_and_networks_only() -> None:
    past, future = (datetime.now(UTC) + timedelta(hours=hours) for hours in (-1, 1))
    bounds: dict[str, dict[str, Any]] = {
        "ag_late": {"expires_at": past},
        "ag_early": {"expires_at": future},
        "ag_here": {"allowed_cidrs": ("127.0.0.0/8",)},
        "ag_away": {"allowed_cidrs": ("10.0.0.0/8",)},
    }
    async with world() as at:
        at.put(
            registry("r-1", DEAD),
            consumer(SLUG, type="MCP", registry_ids=("r-1",), auth_ids=tuple(bounds)),
            *(api_key(key, key, **more) for key, more in bounds.items()),
        )
        assert [(await at.send(PING, key=key))[0] for key in bounds] == [401, 200, 200, 401]


async def test_what_the_log_knows_already_is_found_at_once() -> None:
    """A miss is believed only after catching up: scripts need no sleep."""

    async def catch_up(at: Any) -> None:
        at.put(registry("r-1", DEAD), consumer(SLUG, type="MCP", registry_ids=("r-1",), auth_ids=("a-1",)), api_key())

    async with world(catch_up=catch_up) as at:
        assert (await at.send(PING))[0] == 200


async def test_bodies_beyond_8_mib_are_refused_and_at_the_limit_are_not() -> None:
    filler = b'{"jsonrpc":"2.0","id":1,"method":"ping","x":"' + b"x" * (8 * 1024 * 1024 - 47) + b'"}'
    assert len(filler) == 8 * 1024 * 1024
    async with world(registry("r-1", DEAD)) as at:
        assert (await at.send(filler))[0] == 200
        status, _, body = await at.send(filler + b" ")
    assert (status, body) == (413, b"Request Entity Too Large")


class Page:
    """A route that is not JSON-RPC."""

    def wants(self, method: str, path: str) -> bool:
        return path == "/page"

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/html"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 203, "headers": headers})
        await send({"type": "http.response.body", "body": b"hi"})


async def test_pages_of_the_plane_carry_its_headers_and_are_observed() -> None:
    async with world(registry("r-1", DEAD), pages=Page()) as at:
        status, headers, body = await at.send(method="GET", path="/page", key="")
        seen = at.heard.exchanges[-1]
    assert (status, body, headers["content-type"]) == (203, b"hi", "text/html")
    assert SECURITY.items() <= headers.items()
    assert (seen.path, seen.reply and seen.reply.status, seen.facts) == ("/page", 203, None)


async def test_probes_carry_no_other_headers() -> None:
    async with world(registry("r-1", DEAD)) as at:
        status, headers, body = await at.send(method="GET", path="/readyz", key="")
    answer = json.loads(body)
    assert (status, answer["status"], answer["version"]) == (200, "ready", "1.2.3")
    assert not SECURITY.keys() & headers.keys()
    assert (at.heard.probes, at.heard.exchanges) == ([("GET", "/readyz", 200)], [])


@pytest.mark.parametrize("path", ["/health", "/healthz/", "/HEALTHZ", "/Readyz/"])
async def test_probes_are_found_in_any_case_and_with_a_slash_at_the_end(path: str) -> None:
    async with world(registry("r-1", DEAD)) as at:
        status, headers, _ = await at.send(method="GET", path=path, key="")
        posted, _, _ = await at.send(method="POST", path=path, key="")
    assert (status, headers["content-type"], posted) == (200, "application/json", 401)
    assert at.heard.probes == [("GET", path.lower().rstrip("/"), 200)]


@pytest.mark.parametrize(
    ("dependencies", "status"),
    [
        ({"database": "ok", "redis": "ok"}, 200),
        ({"database": "unavailable", "redis": "ok"}, 200),
        ({"database": "ok", "redis": "unavailable"}, 503),
        ({"snapshot": "unavailable"}, 503),
    ],
)
async def test_the_plane_is_ready_with_what_it_cannot_do_without(dependencies: dict[str, str], status: int) -> None:
    async with world(registry("r-1", DEAD)) as at:
        at.services.readiness.dependencies = dependencies
        got, _, body = await at.send(method="GET", path="/readyz", key="")
    answer = json.loads(body)
    assert (got, answer["dependencies"]) == (status, dependencies)
    assert answer["status"] == ("ready" if status == 200 else "not_ready")


@pytest.mark.parametrize(
    ("requested", "answered"),
    [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("1999-01-01", "2025-06-18"),
        (None, "2025-06-18"),
        (7, "2025-06-18"),
    ],
)
async def test_initialize_agrees_on_a_version_and_contacts_nobody(requested: Any, answered: str) -> None:
    with serving(Faulty()) as upstream:
        async with world(registry("r-1", upstream.url)) as at:
            result = await at.rpc("initialize", None if requested is None else {"protocolVersion": requested})
    assert result == {
        "protocolVersion": answered,
        "capabilities": {
            "tools": {"listChanged": False},
            "resources": {"subscribe": False, "listChanged": False},
            "prompts": {"listChanged": False},
        },
        "serverInfo": {"name": "trustgate", "version": result["serverInfo"]["version"]},
    }
    assert upstream.seen == []


async def test_the_version_names_the_surface() -> None:
    async def version(*entities: Any) -> str:
        async with world(*entities) as at:
            return (await at.rpc("initialize"))["serverInfo"]["version"]

    plain = await version(registry("r-1", DEAD))
    assert await version(registry("r-1", DEAD)) == plain
    assert await version(registry("r-1", DEAD, updated_at=later(1.5))) != plain
    only_llm = (consumer(SLUG, type="MCP", auth_ids=("a-1",)), api_key())
    assert await version(*only_llm) == "1.0+e3b0c44298fc"


async def test_no_registries_is_an_invalid_request() -> None:
    async with world(consumer(SLUG, type="MCP", auth_ids=("a-1",)), api_key()) as at:
        for method, params in (("tools/list", None), ("tools/call", {"name": "x"}), ("resources/read", {"uri": "x:y"})):
            assert await at.rpc(method, params) == {
                "code": -32600,
                "message": "mcp: no MCP registries attached to consumer: validation failed",
            }


async def test_an_unused_auth_type_does_not_disturb() -> None:
    entities = (registry("r-1", DEAD), api_key(), auth("a-2", "mtls", config={"mtls": {"ca_cert": ""}}))
    async with world(*entities, consumer(SLUG, type="MCP", registry_ids=("r-1",), auth_ids=("a-1", "a-2"))) as at:
        assert (await at.send(PING))[0] == 200
