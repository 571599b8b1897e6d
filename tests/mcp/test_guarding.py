"""What becomes of a policy's outcome on the MCP plane; roles and consent at the gate; records of calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import msgspec
import pytest

from tests.mcp.test_upstreams import tool, upstreams
from tests.mcp.upstream_server import Faulty
from tests.mcp.world import KEY, SLUG, api_key, registry, world
from tests.views import consumer, role
from trustgate.app.mcp_observer import facts_of
from trustgate.domain.entities import MCPPolicies, ToolkitEntry
from trustgate.identity.mcp import Caller, CallRequest
from trustgate.identity.principal import Principal
from trustgate.mcp.services import Scope
from trustgate.oauth.credentials import ConsentRequired, CredentialError, InteractionRequired
from trustgate.policies.model import Outcome, PolicyRequest, PolicyResponse, Run
from trustgate.telemetry.event import build
from trustgate.telemetry.reference import schema

Json = dict[str, Any]


class Script:
    """A policy chain that does as told, and keeps what it was shown."""

    empty = False

    def __init__(self, before: Any = None, after: Any = None) -> None:
        self.has_pre_request, self.has_pre_response = True, True
        self._before, self._after = before, after
        self.shown: list[tuple[str, Any]] = []

    async def pre_request(self, request: PolicyRequest, run: Run) -> Outcome | None:
        self.shown.append((f"> {request.operation}", json.loads(request.body)))
        if isinstance(self._before, bytes):
            request.body = self._before
            return None
        return self._before

    async def pre_response(self, request: PolicyRequest, response: PolicyResponse, run: Run) -> Outcome | None:
        self.shown.append((f"< {request.operation}", json.loads(response.body)))
        if isinstance(self._after, bytes):
            response.body = self._after
            return None
        return self._after


def scripted(script: Script) -> Callable[..., Any]:
    return lambda consumer, gateway: script


TOO_MANY = Outcome(kind="reject", status=429, message="slow down", headers=[("Retry-After", "7")], body=b'{"a":1}')
GUARD_GONE = Outcome(kind="reject", status=503, type="trustguard_unavailable", message="gone")

# what `pre_request` does, what the client gets, logical status of the record
BEFORE: list[tuple[Outcome, Json, int]] = [
    (Outcome(kind="reject", status=403, message="no"), {"error": {"code": -32001, "message": "no"}}, 403),
    (Outcome(kind="reject", status=403), {"error": {"code": -32001, "message": "request blocked by policy"}}, 403),
    (TOO_MANY, {"error": {"code": -32004, "message": "slow down", "data": {"a": 1}}}, 429),
    (GUARD_GONE, {"error": {"code": -32005, "message": "gone"}}, 503),
    (Outcome(kind="reject", status=503, message="other"), {"error": {"code": -32001, "message": "other"}}, 503),
    (Outcome(kind="stop", status=0, body=b'{"own":1}'), {"result": {"own": 1}}, 200),
    (Outcome(kind="stop", status=201, body=b'{"own":1}'), {"result": {"own": 1}}, 200),
    (Outcome(kind="stop", status=200, body=b"not json"), {"result": "not json"}, 200),
    (
        Outcome(kind="stop", status=451, body=b'{"why":1}'),
        {"error": {"code": -32001, "message": "request blocked by policy", "data": {"why": 1}}},
        451,
    ),
]


@pytest.mark.parametrize(("outcome", "expected", "status"), BEFORE)
async def test_a_policy_that_ends_a_call_keeps_it_from_the_upstream(
    outcome: Outcome, expected: Json, status: int
) -> None:
    faulty = Faulty()
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url), chain=scripted(Script(before=outcome))) as at:
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"}}
            http, headers, body = await at.send(message)
            facts = at.heard.exchanges[-1].facts
    assert (http, json.loads(body)) == (200, {"jsonrpc": "2.0", "id": 1} | expected)
    assert headers.get("retry-after") == ("7" if outcome is TOO_MANY else None)
    assert facts is not None and facts.upstream_status == status
    assert faulty.seen == []


async def test_a_policy_that_breaks_stops_nothing() -> None:
    broken = Outcome(kind="error", status=502)
    with upstreams(Faulty()) as (faulty,):
        async with world(registry("r-1", faulty.url), chain=scripted(Script(broken, broken))) as at:
            assert "content" in await at.call("echo")
            assert await at.tools() == ["echo"]


# the rewritten body, the arguments the upstream gets
REWRITES: list[tuple[bytes, Any]] = [
    (b'{"name":"echo","arguments":{"x":"***"}}', {"x": "***"}),
    (b'{"name":"another","arguments":{"x":"***"}}', {"x": "***"}),
    (b'{"name":"echo"}', {"x": "secret"}),
    (b'{"name":"echo","arguments":null}', {}),
    (b"{broken", {"x": "secret"}),
]


@pytest.mark.parametrize(("body", "arguments"), REWRITES)
async def test_of_a_rewritten_request_the_arguments_count(body: bytes, arguments: Any) -> None:
    with upstreams(Faulty()) as (faulty,):
        async with world(registry("r-1", faulty.url), chain=scripted(Script(before=body))) as at:
            await at.call("echo", x="secret")
    assert faulty.asked("tools/call")[0]["params"] == {"name": "echo", "arguments": arguments}


async def test_an_answer_can_be_rewritten_or_blocked_and_a_list_only_blocked() -> None:
    rewriter = Script(after=b'{"content":[]}')
    blocker = Script(after=Outcome(kind="stop", status=403, body=b'{"x":1}'))
    with upstreams(Faulty()) as (faulty,):
        async with world(registry("r-1", faulty.url), chain=scripted(rewriter)) as at:
            assert await at.call("echo") == {"content": []}
            assert await at.tools() == ["echo"]  # lists are never redacted
        async with world(registry("r-1", faulty.url), chain=scripted(blocker)) as at:
            blocked = {"code": -32001, "message": "response blocked by policy", "data": {"x": 1}}
            assert await at.call("echo") == await at.rpc("tools/list") == blocked


async def test_policies_see_tools_resources_and_prompts() -> None:
    script = Script()
    faulty = Faulty(resources=[{"uri": "data://a"}], prompts=[{"name": "hi"}])
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url), chain=scripted(script)) as at:
            await at.call("echo", n=1)
            await at.rpc("resources/read", {"uri": "data://a"})
            await at.rpc("prompts/get", {"name": "hi"})
            for method in ("tools/list", "resources/list", "resources/templates/list", "prompts/list"):
                await at.rpc(method)
            await at.rpc("initialize")
            await at.rpc("ping")
    assert [step for step, _ in script.shown] == [
        "> tools/call", "< tools/call", "> resources/read", "< resources/read", "> prompts/get", "< prompts/get",
        "< tools/list", "< resources/list", "< resources/templates/list", "< prompts/list",
    ]  # fmt: skip
    assert script.shown[0][1] == {"name": "echo", "arguments": {"n": 1}}
    assert script.shown[2][1] == {"uri": "data://a"}
    assert script.shown[6][1] == {"tools": faulty.tools}


# -- roles -----------------------------------------------------------------------------------------------------------


def known_as(claims: Json) -> Callable[..., Any]:
    """Authentication that believes everybody to have these claims."""

    async def authenticate(request: CallRequest, scope: Scope | None) -> Caller:
        assert scope is not None
        principal = Principal(subject="u", method="jwt", auth_id="a-1", claims=claims)
        return Caller(principal=principal, auth_id="a-1", view=scope[0])

    return authenticate


def mapping(value: str, path: str = "groups") -> Json:
    return {"match": "any", "claims": [{"path": path, "op": "contains_any", "values": [value]}]}


async def test_callers_see_what_their_roles_grant() -> None:
    one, two = Faulty([tool("a"), tool("b")]), Faulty([tool("c")])
    named = MCPPolicies((ToolkitEntry("r-1", tool="b", expose_as="best"),), "open")
    with upstreams(one, two):
        entities = (
            registry("r-1", one.url),
            registry("r-2", two.url),
            role("ops", registry_ids=("r-1",), mcp_policies=named, oidc_mapping=mapping("ops")),
            role("dev", registry_ids=("r-2",), oidc_mapping=mapping("dev")),
            role("bare", oidc_mapping=mapping("bare")),
            consumer(SLUG, type="MCP", routing_mode="role_based", role_ids=("ops", "dev", "bare"), auth_ids=("a-1",)),
            api_key(),
        )
        seen: dict[str, Any] = {}
        for group in ("ops", "dev", "both", "bare", "none"):
            claims = {"groups": ["ops", "dev"] if group == "both" else [group]}
            async with world(*entities, authenticating=known_as(claims)) as at:
                status, _, body = await at.send({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
                names = [one["name"] for one in json.loads(body)["result"]["tools"]] if body.startswith(b"{") else body
                seen[group] = (status, names)
    refused = (403, b"mcp: no role grants MCP access for this identity")
    assert seen == {
        "ops": (200, ["best"]),
        "dev": (200, ["c"]),
        "both": (200, seen["both"][1]),
        "bare": refused,
        "none": refused,
    }
    assert sorted(seen["both"][1]) == ["best", "c"]


async def test_a_mapping_that_cannot_be_read_is_400_and_no_claims_are_403() -> None:
    entities = (
        role("odd", oidc_mapping={"match": "perhaps", "claims": []}),
        consumer(SLUG, type="MCP", routing_mode="role_based", role_ids=("odd",), auth_ids=("a-1",)),
        api_key(),
    )
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    async with world(*entities, authenticating=known_as({"groups": ["x"]})) as at:
        assert (await at.send(ping))[::2] == (400, b"oidc_mapping.match must be any or all")
    async with world(*entities, authenticating=known_as({})) as at:
        assert (await at.send(ping))[0] == 403


# -- credentials of users --------------------------------------------------------------------------------------------


class Wallet:
    """Credentials that fail as told for the registries named, and are headers for the others."""

    def __init__(self, **failures: Exception) -> None:
        self._failures = failures
        self.renewable = False
        self.tokens = ["t-1", "t-2"]

    async def headers_for(self, registry: Any, caller: Any, consumer: Any, base_url: str) -> list[tuple[bytes, bytes]]:
        failure = self._failures.get(registry.name)
        if failure is not None:
            raise failure
        return [(b"authorization", f"Bearer {self.tokens[0]}".encode())]

    async def refused(self, registry: Any, caller: Any) -> bool:
        if self.renewable:
            self.tokens.pop(0)
        return self.renewable


FORWARDED = {"mode": "forwarded", "provider": "acme"}
CONSENT = ConsentRequired("acme", "https://mcp.example/connect?ticket=t")
ASKED_FOR = {
    "code": -32003,
    "message": "user consent required: open https://mcp.example/connect?ticket=t to connect acme",
    "data": {"provider": "acme", "connect_url": "https://mcp.example/connect?ticket=t"},
}


async def test_a_missing_consent_hides_its_registry_and_answers_for_what_is_not_found() -> None:
    mine, theirs = Faulty([tool("open")]), Faulty([tool("private")])
    with upstreams(mine, theirs):
        entities = (registry("r-1", theirs.url, "private", auth=FORWARDED), registry("r-2", mine.url, "public"))
        async with world(*entities, credentials=Wallet(private=CONSENT)) as at:
            assert await at.tools() == ["open"]
            assert "content" in await at.call("open")
            assert await at.call("private") == ASKED_FOR
        async with world(entities[0], credentials=Wallet(private=CONSENT)) as at:
            assert await at.rpc("tools/list") == ASKED_FOR
    assert theirs.seen == []  # not a single request without a credential


async def test_a_credential_that_cannot_be_had_fails_as_its_row_says() -> None:
    closed = consumer(SLUG, type="MCP", registry_ids=("r-1",), auth_ids=("a-1",), fail_mode="closed")
    entities = (registry("r-1", "http://127.0.0.1:1/", "x", auth={"mode": "exchange"}), closed, api_key())
    no_user = CredentialError("sts: exchange requires an inbound user token", -32600)
    async with world(*entities, credentials=Wallet(x=no_user)) as at:
        assert await at.rpc("tools/list") == {
            "code": -32600,
            "message": 'mcp: upstream unavailable: registry "x": sts: exchange requires an inbound user token',
        }
    async with world(*entities, credentials=Wallet(x=InteractionRequired("come by"))) as at:
        status, headers, body = await at.send({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert (status, body) == (401, b"sts: interaction required: come by")
    assert headers["www-authenticate"].startswith("Bearer resource_metadata=")


async def test_a_refused_credential_is_renewed_once_in_mid_session() -> None:
    faulty = Faulty()
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url, auth=FORWARDED), credentials=(wallet := Wallet())) as at:
            await at.tools()
            faulty.fail("tools/call", "401")
            assert (await at.call("echo"))["code"] == -32603
            wallet.renewable = True
            faulty.fail("tools/call", "401")
            assert "content" in await at.call("echo")
    sent = [one["authorization"] for one, message in zip(faulty.headers, faulty.seen, strict=True)
            if message.get("method") == "tools/call"]  # fmt: skip
    assert sent == ["Bearer t-1", "Bearer t-1", "Bearer t-2"]


# -- records ---------------------------------------------------------------------------------------------------------


async def test_every_dispatched_call_has_a_record_with_its_meaning() -> None:
    faulty = Faulty(resources=[{"uri": "data://a"}], prompts=[{"name": "hi"}])
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url, "Up", code="acme/mcp")) as at:
            for method, params in [
                ("initialize", None), ("tools/list", None), ("tools/call", {"name": "echo"}),
                ("tools/call", {"name": "nope"}), ("resources/read", {"uri": "data://a"}),
                ("prompts/get", {"name": "hi"}), ("nope", None),
            ]:  # fmt: skip
                await at.rpc(method, params)
            await at.rpc("ping")
            await at.send(b"{broken")
            await at.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
            await at.send({"jsonrpc": "2.0", "id": 1, "method": "ping"}, key="ag_wrong")
            await at.send({"jsonrpc": "2.0", "id": 1, "method": "ping"}, path="/nobody12/mcp")
    kept = [one for one in at.heard.exchanges if one.facts is not None]
    records = [json.loads(msgspec.json.encode(build(facts_of(one, policies=True)))) for one in kept]
    for record in records:
        jsonschema.Draft202012Validator(schema()).validate(record)
        assert KEY not in json.dumps(record)
    assert [(one["mcp"]["method"], one["mcp"].get("operation"), one["status"]["code"]) for one in records] == [
        ("initialize", "initialize", 200),
        ("tools/list", "discovery", 200),
        ("tools/call", "tool", 200),
        ("tools/call", "tool", 404),
        ("resources/read", "resource", 200),
        ("prompts/get", "prompt", 200),
        ("nope", None, 502),
    ]
    called, unknown = records[2], records[3]
    assert called["kind"] == "mcp" and called["consumer"]["name"] == SLUG
    wanted = {"server_name": "Up", "registry_id": "r-1", "host": "127.0.0.1", "catalog_code": "acme/mcp",
              "transport": "streamable-http", "tool": "echo", "upstream_tool": "echo", "targets": 1}  # fmt: skip
    assert wanted.items() <= called["mcp"].items()
    assert (unknown["mcp"]["rpc_error_code"], unknown["response"]["status_code"]) == (-32602, 404)
    assert "server_name" not in unknown["mcp"]
    assert records[4]["mcp"]["resource_uri"] == "data://a"
    assert records[5]["mcp"]["prompt"] == "hi"


@pytest.mark.parametrize("alive", [0, 1])
async def test_a_record_counts_the_servers_that_were_asked_whether_they_answered_or_not(alive: int) -> None:
    faulty = Faulty()
    with upstreams(faulty):
        urls = [faulty.url] * alive + ["http://127.0.0.1:1/mcp"]
        async with world(*(registry(f"r-{n}", url, f"Up{n}") for n, url in enumerate(urls))) as at:
            await at.rpc("tools/list")
    (record,) = (build(facts_of(one, policies=True)) for one in at.heard.exchanges)
    assert record.mcp is not None
    assert (record.mcp.targets, record.status.code) == (len(urls), 200 if alive else 502)
