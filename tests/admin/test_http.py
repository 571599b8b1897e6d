"""The HTTP side of the admin plane, on a real port: envelope, limits, failures, additions to the contract."""

from __future__ import annotations

import gzip
import http.client
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import structlog

from tests.admin.catalog import plugin_catalog, services, settings
from tests.admin.memory import MemoryControl
from tests.admin.serving import Client, console_token, running
from trustgate.actors.control import StoreUnavailable
from trustgate.admin.errors import UpstreamUnavailable
from trustgate.admin.openapi import document
from trustgate.admin.services import ConnectionTest, CORSSettings
from trustgate.domain.entities import Registry

SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-site",
}
MISSING = "11111111-1111-4111-8111-111111111111"


class Plane:
    """The plane's parts that a test may look at or change."""

    def __init__(self) -> None:
        self.control = MemoryControl(plugin_catalog())
        self.traces: dict[str, dict[str, Any]] = {}
        self.ready: Mapping[str, str] = {"database": "ok"}
        self.probed: list[ConnectionTest] = []
        self.listed: list[Registry] = []
        self.unreachable = ""
        self.models = [{"slug": f"m{i}"} for i in range(5)]
        self.narrowed: list[Registry | None] = []
        self.scopes: list[tuple[str | None, str | None]] = []
        self.lines: list[dict[str, Any]] = []

    async def trace(self, trace_id: str) -> dict[str, Any] | None:
        return self.traces.get(trace_id)

    async def readiness(self) -> Mapping[str, str]:
        return self.ready

    async def probe(self, test: ConnectionTest) -> dict[str, Any]:
        self.probed.append(test)
        return {"ok": True, "stage": "authentication", "status_code": 200, "latency_ms": 1}

    async def tools(self, registry: Registry) -> Sequence[dict[str, Any]]:
        self.listed.append(registry)
        if self.unreachable:
            raise ExceptionGroup("of a nursery", [UpstreamUnavailable(self.unreachable)])
        return [{"name": "search", "annotations": {"x": 1}}]

    async def list_models(self, provider: str | None, registry: Registry | None) -> Sequence[dict[str, Any]]:
        self.narrowed.append(registry)
        return self.models

    async def connections(self, scope: str | None, tenant: str | None) -> Sequence[dict[str, Any]]:
        self.scopes.append((scope, tenant))
        return [{"scope": scope or "all"}]

    def record(self, **line: Any) -> None:
        self.lines.append(line)

    def services(self, **changes: Any) -> Any:
        return services(
            playground_trace=self.trace,
            readiness=self.readiness,
            probe=self.probe,
            registry_tools=self.tools,
            models_catalog=self.list_models,
            config_sync_connections=self.connections,
            access_log=self,
            **changes,
        )


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Plane, int]]:
    plane = Plane()
    with running(plane.control, plane.services()) as port:
        yield plane, port


@pytest.fixture
def plane(served: tuple[Plane, int]) -> Plane:
    return served[0]


@pytest.fixture
def client(served: tuple[Plane, int]) -> Client:
    return Client(served[1])


@pytest.fixture
def gateway(client: Client) -> Iterator[str]:
    created = client.gateway("gw-of-a-test")
    yield created
    client("DELETE", f"/v1/gateways/{created}")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/nope", 404),
        ("DELETE", "/healthz", 405),
        ("GET", f"/v1/gateways/{MISSING}", 404),
        ("GET", "/docs", 301),
    ],
)
def test_every_answer_has_the_envelope(client: Client, method: str, path: str, status: int) -> None:
    answer = client(method, path)
    assert answer.status == status
    assert {name: answer.headers.get(name) for name in SECURITY} == SECURITY
    assert len(answer.headers["x-request-id"]) == 36
    assert not {"date", "server"} & answer.headers.keys()


@pytest.mark.parametrize("path", ["/%6Eope", "/v1/gateways/x/y/z/w/v/u", "//healthz", "/healthz//"])
def test_unknown_paths_are_named_as_they_were_sent(client: Client, path: str) -> None:
    answer = client("GET", path)
    assert (answer.status, answer.body.decode()) == (404, f"Cannot GET {path}")


def test_a_percent_encoded_fixed_part_is_not_decoded(client: Client) -> None:
    assert client("GET", "/health%7A").status == 404


def test_head_has_the_length_of_get_and_no_body(client: Client, gateway: str) -> None:
    got, headed = client("GET", f"/v1/gateways/{gateway}"), client("HEAD", f"/v1/gateways/{gateway}")
    assert headed.body == b""
    assert headed.headers["content-length"] == got.headers["content-length"] == str(len(got.body))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_413_as_text(client: Client, chunked: bool) -> None:
    data = b'{"slug":"' + b"a" * (8 * 1024 * 1024) + b'"}'
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
    headers = {"Authorization": f"Bearer {client.token}", "Content-Type": "application/json"}
    try:
        body: Any = iter([data]) if chunked else data
        connection.request("POST", "/v1/gateways", body, headers, encode_chunked=chunked)
        response = connection.getresponse()
        assert (response.status, response.read()) == (413, b"Request Entity Too Large")
        assert response.headers["Content-Type"].startswith("text/plain")
    finally:
        connection.close()


@pytest.mark.parametrize("token", ["", "wrong", "right"])
def test_a_declared_length_above_the_limit_is_refused_before_the_body_is_sent_whoever_asks(
    client: Client, token: str
) -> None:
    authorization = f"Authorization: Bearer {client.token if token == 'right' else token}\r\n"
    head = f"POST /v1/gateways HTTP/1.1\r\nHost: x\r\n{authorization}Content-Length: 99999999\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as stream:
        stream.sendall(head.encode())
        answer = b""
        while piece := stream.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_caller_without_a_token_reads_its_answer_though_its_body_is_long(client: Client) -> None:
    answer = Client(client.port, "")("POST", "/v1/gateways", raw=b" " * 7_000_000)
    assert answer.status == 401


def test_the_connection_ends_when_the_client_asked_for_it(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as stream:
        stream.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := stream.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200")


def test_a_client_that_leaves_leaves_no_socket_behind(client: Client) -> None:
    def sockets() -> int:
        links = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if is_link(name)]
        return sum(link.startswith("socket:") for link in links)

    def is_link(name: str) -> bool:
        return os.path.lexists(f"/proc/self/fd/{name}")  # the listing's own descriptor is gone again

    before = sockets()
    for _ in range(50):
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=10)
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
        connection.close()
    deadline = time.monotonic() + 5
    while sockets() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sockets() <= before


def test_a_connection_serves_many_requests(client: Client) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=10)
    try:
        for _ in range(20):
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
            connection.request("POST", "/v1/gateways", b"{}", {"Content-Type": "application/json"})
            refused = connection.getresponse()
            assert (refused.status, refused.read()[:8]) == (401, b'{"error"')
    finally:
        connection.close()


def test_a_body_that_does_not_come_is_408() -> None:
    with running(MemoryControl(plugin_catalog()), services(settings=settings(body_timeout_s=0.2))) as port:
        authorization = f"Authorization: Bearer {console_token()}\r\n"
        head = f"POST /v1/gateways HTTP/1.1\r\nHost: x\r\n{authorization}Content-Length: 9\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=10) as stream:
            stream.sendall(head.encode())
            assert stream.recv(65536).startswith(b"HTTP/1.1 408")


def test_a_compressed_body_may_not_inflate_beyond_the_limit(client: Client) -> None:
    bomb = gzip.compress(b'{"slug":"' + b"a" * (9 * 1024 * 1024) + b'"}')
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert client("POST", "/v1/gateways", raw=bomb, headers=headers).status == 413


def test_a_compressed_body_is_read(client: Client) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = client("POST", "/v1/gateways", raw=gzip.compress(b'{"slug":"_"}'), headers=headers)
    assert answer.json["message"] == "slug must be a lowercase DNS label: validation failed"


@pytest.mark.parametrize("size", [33_000, 60_000])
def test_a_large_head_is_431_as_text(client: Client, size: int) -> None:
    answer = client("GET", "/healthz", headers={"X-Large": "a" * size})
    assert (answer.status, answer.body) == (431, b"Request Header Fields Too Large")


def test_a_head_of_thirty_kilobytes_is_accepted(client: Client) -> None:
    assert client("GET", "/healthz", headers={"X-Large": "a" * 30_000}).status == 200


def test_markup_and_separators_are_escaped_in_json(client: Client, gateway: str) -> None:
    answer = client("POST", f"/v1/gateways/{gateway}/roles", {"name": "<a & b>\u2028\u2029"})
    assert b'"name":"\\u003ca \\u0026 b\\u003e\\u2028\\u2029"' in answer.body
    assert answer.json["name"] == "<a & b>\u2028\u2029"


def test_writes_say_whether_every_data_plane_has_them(plane: Plane, client: Client, gateway: str) -> None:
    path = f"/v1/gateways/{gateway}/roles"
    assert client("POST", path, {"name": "one"}).headers["x-ag-config-applied"] == "true"
    plane.control.all_applied = False
    try:
        assert client("POST", path, {"name": "two"}).headers["x-ag-config-applied"] == "false"
    finally:
        plane.control.all_applied = True
    assert "x-ag-config-applied" not in client("GET", path).headers


def test_the_reason_and_the_caller_of_a_change_are_kept(plane: Plane, client: Client, gateway: str) -> None:
    token = console_token(tenant_id="t-1", user_id="u-1", user_email="a@b.c")
    headers = {"X-AG-Change-Reason": "ticket 7 – é".encode(), "X-Request-Id": "r-1"}
    Client(client.port, token)("POST", f"/v1/gateways/{gateway}/roles", {"name": "one"}, headers=headers)
    meta = plane.control.commands[-1].meta
    assert (meta.actor, meta.actor_email, meta.tenant) == ("u-1", "a@b.c", "t-1")
    assert (meta.reason, meta.request_id) == ("ticket 7 – é", "r-1")


def test_if_match_refuses_a_write_against_another_version(client: Client, gateway: str) -> None:
    path = f"/v1/gateways/{gateway}"
    seen = client("GET", path).headers["etag"]
    changed = client("PUT", path, {"status": "paused"}, headers={"If-Match": seen})
    assert changed.status == 200
    assert changed.headers["etag"] != seen
    refused = client("PUT", path, {"status": "late"}, headers={"If-Match": seen})
    assert (refused.status, refused.json["error"]) == (412, "version_mismatch")
    assert client("DELETE", path, headers={"If-Match": seen}).status == 412
    assert client("POST", f"{path}/roles", {"name": "x"}, headers={"If-Match": f'"0", {seen}'}).status == 412
    assert client("GET", path).json["status"] == "paused"
    current = changed.headers["etag"]
    assert client("POST", f"{path}/roles", {"name": "x"}, headers={"If-Match": f"W/{current}"}).status == 201
    assert client("PUT", path, {}, headers={"If-Match": "*"}).status == 200


def test_the_version_of_reads_and_writes_is_that_of_the_gateway(client: Client, gateway: str) -> None:
    created = client("POST", f"/v1/gateways/{gateway}/consumers", {"name": "one"})
    consumer = f"/v1/gateways/{gateway}/consumers/{created.json['id']}"
    assert client("GET", consumer).headers["etag"] == created.headers["etag"]
    assert client("GET", f"/v1/gateways/{gateway}").headers["etag"] == created.headers["etag"]


def test_an_unavailable_store_is_503(plane: Plane, client: Client, gateway: str) -> None:
    plane.control.failure = StoreUnavailable("down")
    try:
        answer = client("GET", f"/v1/gateways/{gateway}/consumers")
    finally:
        plane.control.failure = None
    assert answer.status == 503
    assert answer.json == {"error": "store_unavailable", "message": "the configuration store is unavailable, try again"}


def test_an_unforeseen_failure_is_500_and_is_logged_without_its_contents(
    plane: Plane, client: Client, gateway: str
) -> None:
    with structlog.testing.capture_logs() as logs:
        plane.control.failure = RuntimeError("a secret of the body")
        try:
            answer = client(
                "POST", f"/v1/gateways/{gateway}/roles", {"name": "private"}, headers={"X-Request-Id": "r-500"}
            )
        finally:
            plane.control.failure = None
    assert (answer.status, answer.json) == (500, {"error": "Internal server error"})
    assert answer.headers["x-request-id"] == "r-500"
    (entry,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert entry["request_id"] == "r-500"
    assert entry["error"] == "RuntimeError"
    assert "tests/admin/memory.py" in entry["caller"]
    assert entry["stack"].splitlines()[-1] == entry["caller"]
    written = json.dumps(logs)
    assert not any(secret in written for secret in ("a secret of the body", "private", client.token))


def test_each_request_is_a_line_of_the_access_log(plane: Plane, client: Client) -> None:
    plane.lines.clear()
    client("GET", "/nope", headers={"X-Request-Id": "r-2"})
    (line,) = plane.lines
    assert (line["status"], line["method"], line["path"], line["request_id"]) == (404, "GET", "/nope", "r-2")
    assert (line["ip"], line["bytes_out"]) == ("127.0.0.1", len("Cannot GET /nope"))


def test_readiness_names_what_is_unavailable(plane: Plane, client: Client) -> None:
    assert client("GET", "/readyz").json["dependencies"] == {"database": "ok"}
    plane.ready = {"database": "ok", "redis": "unavailable"}
    try:
        answer = client("GET", "/readyz")
    finally:
        plane.ready = {"database": "ok"}
    assert (answer.status, answer.json["status"]) == (503, "not_ready")


def test_the_reference_is_one_page_without_outside_assets(client: Client) -> None:
    page = Client(client.port, "")("GET", "/docs/index.html")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert b"/v1/gateways/{gateway_id}/consumers" in page.body
    assert b"http://" not in page.body
    assert b"https://" not in page.body
    assert b"<script" not in page.body
    described = Client(client.port, "")("GET", "/docs/doc.json").json
    assert described == json.loads(json.dumps(document()))


def test_a_trace_is_shown_to_its_tenant_and_to_the_platform_only(plane: Plane, client: Client) -> None:
    plane.traces["x"] = {"trace_id": "x", "tenant_id": "t-1"}
    path = "/v1/playground/traces/x"
    assert client("GET", path).json["trace_id"] == "x"
    assert Client(client.port, console_token(tenant_id="t-1"))("GET", path).status == 200
    assert Client(client.port, console_token(tenant_id="t-2"))("GET", path).status == 404


def test_connections_are_asked_for_by_scope_and_tenant(plane: Plane, client: Client) -> None:
    plane.scopes.clear()
    client("GET", "/v1/config-sync/connections?scope=s")
    Client(client.port, console_token(tenant_id="t-1"))("GET", "/v1/config-sync/connections?scope=")
    assert plane.scopes == [("s", None), (None, "t-1")]


def test_the_model_catalog_may_be_paged(client: Client) -> None:
    assert client("GET", "/v1/models-catalog").json.keys() == {"items"}
    page = client("GET", "/v1/models-catalog?page=2&size=2").json
    assert page == {"items": [{"slug": "m2"}, {"slug": "m3"}], "page": 2, "size": 2, "total": 5}
    assert client("GET", "/v1/models-catalog?size=0").status == 422


def aws_registry(client: Client, gateway: str) -> str:
    auth = {
        "type": "aws",
        "aws": {"region": "eu-west-1", "access_key_id": "AKIAEXAMPLE", "secret_access_key": "plain-secret-key"},
    }
    created = client("POST", f"/v1/gateways/{gateway}/registries", {"name": "b", "provider": "bedrock", "auth": auth})
    assert created.json["auth"]["aws"]["secret_access_key"] == "***-key"
    return created.json["id"]


def test_the_model_catalog_never_uses_another_tenants_account(plane: Plane, client: Client, gateway: str) -> None:
    registry = aws_registry(client, gateway)
    path = f"/v1/models-catalog?provider=bedrock&gateway_id={gateway}&registry_id={registry}"
    plane.narrowed.clear()
    client("GET", path)
    Client(client.port, console_token(tenant_id="t-1"))("GET", path)
    Client(client.port, console_token(tenant_id="t-2"))("GET", path)
    client("GET", path.replace(registry, "x"))
    platform, owner, stranger, malformed = plane.narrowed
    for registered in (platform, owner):
        assert registered is not None
        assert registered.llm_target is not None
        assert registered.llm_target.auth is not None
        assert registered.llm_target.auth["aws"]["secret_access_key"] == "plain-secret-key"
    assert stranger is None
    assert malformed is None


def test_a_connection_test_of_a_stored_registry_uses_its_secret_and_shows_nothing_of_it(
    plane: Plane, client: Client, gateway: str
) -> None:
    registry = aws_registry(client, gateway)
    answer = client("POST", f"/v1/gateways/{gateway}/registries/test-connection", {"registry_id": registry})
    assert answer.json == {
        "ok": True, "stage": "authentication", "provider": "bedrock", "status_code": 200, "latency_ms": 1
    }  # fmt: skip
    assert plane.probed[-1].auth["aws"]["secret_access_key"] == "plain-secret-key"


def test_a_stored_secret_that_is_gone_is_an_internal_error(plane: Plane, client: Client, gateway: str) -> None:
    registry = aws_registry(client, gateway)
    plane.control.vault.clear()
    answer = client("POST", f"/v1/gateways/{gateway}/registries/test-connection", {"registry_id": registry})
    assert (answer.status, answer.json) == (500, {"error": "internal_error"})


def test_tools_are_listed_with_the_registrys_credentials(plane: Plane, client: Client, gateway: str) -> None:
    target = {"url": "https://mcp.example/x", "auth": {"mode": "static", "header": "X-Key", "value": "plain-value-1"}}
    body = {"name": "m", "type": "MCP", "mcp_target": target}
    created = client("POST", f"/v1/gateways/{gateway}/registries", body).json
    assert created["mcp_target"]["auth"]["value"] == "***ue-1"
    path = f"/v1/gateways/{gateway}/registries/{created['id']}/tools"
    assert client("GET", path).json == {"tools": [{"name": "search", "annotations": {"x": 1}}]}
    listed = plane.listed[-1].mcp_target
    assert listed is not None
    assert listed.auth["value"] == "plain-value-1"
    plane.unreachable = "connection refused"
    try:
        answer = client("GET", path)
    finally:
        plane.unreachable = ""
    assert (answer.status, answer.json) == (502, {"error": "mcp: upstream unavailable: connection refused"})


def test_a_key_is_shown_when_it_is_made_and_never_again(client: Client, gateway: str) -> None:
    auths = f"/v1/gateways/{gateway}/auths"
    created = client("POST", auths, {"name": "k", "type": "api_key"}).json
    assert created["api_key"].startswith("ag_")
    assert len(created["api_key"]) == 46
    path = f"{auths}/{created['id']}"
    assert "api_key" not in client("GET", path).json
    assert "api_key" not in client("PUT", path, {"name": "k2"}).json
    rotated = client("POST", f"{path}/rotate").json
    assert rotated["api_key"] != created["api_key"]
    assert rotated["key_suffix"] == rotated["api_key"][-4:]
    assert "api_key" not in client("GET", path).json


def test_an_auth_that_becomes_an_api_key_gets_one(client: Client, gateway: str) -> None:
    auths = f"/v1/gateways/{gateway}/auths"
    oidc = {"oidc": {"issuer": "https://i.example", "audiences": ["a"], "jwks_url": "https://i.example/jwks"}}
    created = client("POST", auths, {"name": "o", "type": "oidc", "config": oidc}).json
    changed = client("PUT", f"{auths}/{created['id']}", {"type": "api_key", "config": {}}).json
    assert changed["api_key"][:8] == changed["key_prefix"]
    assert changed["config"] == {}


def test_wildcards_of_sql_are_plain_text_in_searches(client: Client, gateway: str) -> None:
    roles = f"/v1/gateways/{gateway}/roles"
    client("POST", roles, {"name": "a_b"})
    client("POST", roles, {"name": "axb"})
    client("POST", roles, {"name": "100%"})
    assert [role["name"] for role in client("GET", f"{roles}?search=a_b").json["items"]] == ["a_b"]
    assert [role["name"] for role in client("GET", f"{roles}?search=%25").json["items"]] == ["100%"]


def test_gateways_and_registries_can_be_searched_and_sorted_like_the_others(client: Client, gateway: str) -> None:
    other = client.gateway("gw-of-another")
    try:
        listed = client("GET", "/v1/gateways?search=gw-of-&sort=slug&order=asc").json["items"]
        assert [item["slug"] for item in listed] == ["gw-of-a-test", "gw-of-another"]
        assert client("GET", "/v1/gateways?search=gw-of-&slug=another").json["total"] == 1
        assert client("GET", "/v1/gateways?sort=status").json["error"] == "invalid_sort"
    finally:
        client("DELETE", f"/v1/gateways/{other}")


def test_the_nil_gateway_is_like_any_that_does_not_exist(client: Client, gateway: str) -> None:
    client("POST", f"/v1/gateways/{gateway}/roles", {"name": "one"})
    nil = "00000000-0000-0000-0000-000000000000"
    assert client("GET", f"/v1/gateways/{nil}/roles").json["items"] == []


def test_grouping_is_bounded(plane: Plane, client: Client, gateway: str) -> None:
    state = plane.control.gateways[gateway]
    first = client("POST", f"/v1/gateways/{gateway}/registries",
                   {"name": "m", "type": "MCP", "mcp_target": {"url": "https://mcp.example/x"}}).json["id"]  # fmt: skip
    stored = plane.control.gateways[gateway].registries[first]
    state = plane.control.gateways[gateway]
    state.registries.update({str(i): stored for i in range(200)})
    try:
        answer = client("GET", f"/v1/gateways/{gateway}/registries?view=grouped&type=LLM")
    finally:
        for i in range(200):
            del state.registries[str(i)]
    assert (answer.status, answer.json["error"]) == (422, "result_too_large")
    assert answer.json["message"] == (
        "grouped registry view supports at most 200 registries; gateway has 201: result set too large"
    )


@pytest.mark.parametrize(
    ("cors", "origin", "expected"),
    [
        (CORSSettings(), "https://a.example", "*"),
        (CORSSettings(allow_credentials=True), "https://a.example", "*"),
        (CORSSettings(allow_origins=("https://a.example",)), "HTTPS://A.example", "HTTPS://A.example"),
        (CORSSettings(allow_origins=("https://a.example",)), "https://b.example", None),
        (CORSSettings(allow_origins=("https://a.example",), allow_credentials=True), "https://a.example",
         "https://a.example"),
    ],
)  # fmt: skip
def test_origins_are_admitted_by_the_settings(cors: CORSSettings, origin: str, expected: str | None) -> None:
    with running(MemoryControl(plugin_catalog()), services(settings=settings(cors=cors))) as port:
        answer = Client(port)("GET", "/healthz", headers={"Origin": origin})
        preflight = Client(port)(
            "OPTIONS", "/v1/gateways", headers={"Origin": origin, "Access-Control-Request-Method": "PUT"}
        )
    assert answer.headers.get("access-control-allow-origin") == expected
    credentials = answer.headers.get("access-control-allow-credentials")
    assert credentials == ("true" if cors.allow_credentials and expected == origin else None)
    assert ("access-control-allow-methods" in preflight.headers) == (expected is not None)
    assert preflight.status == (405 if expected is None else 204)


def test_the_server_library_does_not_log_requests(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        client("GET", "/healthz")
    assert not caplog.records
