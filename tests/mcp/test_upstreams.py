"""Upstream servers behind the endpoint: lists, calls, and every way in which a server can fail."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

from tests.mcp.upstream_server import Faulty, Handler, Json, serving
from tests.mcp.world import SLUG, World, api_key, registry, world
from tests.views import consumer, later
from trustgate.domain.entities import ToolkitEntry
from trustgate.mcp import upstream as client
from trustgate.mcp.jsonrpc import Message

DEAD = "http://127.0.0.1:1/mcp"
UNREACHABLE = {"code": -32603, "message": "mcp: upstream unavailable: no upstream MCP server reachable"}


@contextlib.contextmanager
def upstreams(*found: Faulty) -> Iterator[tuple[Faulty, ...]]:
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(serving(one)) for one in found)


def tool(name: str, **more: Any) -> Json:
    return {"name": name, "inputSchema": {"type": "object"}} | more


def text_of(result: Json) -> Json:
    return json.loads(result["content"][0]["text"])


# -- what goes through -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sse", [False, True])
async def test_every_page_of_every_upstream_is_listed_in_registry_order(sse: bool) -> None:
    one = Faulty([tool(f"t{n}", **{"x-new": n}) for n in range(5)], sse=sse, page_size=2)
    two = Faulty([tool("z")], sse=sse)
    with upstreams(one, two):
        async with world(registry("r-2", two.url), registry("r-1", one.url)) as at:
            listed = (await at.rpc("tools/list", {"cursor": "ignored"}))["tools"]
    assert listed == [tool("z"), *one.tools]
    assert len(one.asked("tools/list")) == 3


async def test_a_list_is_followed_to_its_end_and_a_circle_of_cursors_ends() -> None:
    long = Faulty([tool(f"t{n}") for n in range(101)], page_size=1)

    def circling(handler: Any, message: Json) -> None:
        listed = {"tools": [tool("c")], "nextCursor": "again"}
        handler.reply(200, json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": listed}).encode())

    circle = Faulty().fail("tools/list", *[circling] * 99)
    with upstreams(long, circle):
        entities = [registry("r-1", long.url), registry("r-2", circle.url)]
        async with world(*entities, discovery_timeout_s=120.0) as at:
            assert await at.tools() == [*(f"t{n}" for n in range(101)), "c"]
    assert len(circle.asked("tools/list")) == 2


@pytest.mark.parametrize("sse", [False, True])
async def test_a_call_reaches_the_upstream_by_its_original_name(sse: bool) -> None:
    one, two = Faulty([tool("x")], sse=sse), Faulty([tool("x")], sse=sse)
    with upstreams(one, two):
        async with world(registry("r-1", one.url, "One"), registry("r-2", two.url, "Two")) as at:
            assert await at.tools() == ["One_x", "Two_x"]
            _, _, body = await at.send(
                b'{"jsonrpc":"2.0","id":"c-1","method":"tools/call",'
                b'"params":{"name":"Two_x","arguments":{"n":1.50,"u":"\\u00e9"},"_meta":{"progressToken":1}}}'
            )
            bare = await at.rpc("tools/call", {"name": "One_x"})
    assert body.startswith(b'{"jsonrpc":"2.0","id":"c-1","result":{"content": [')
    assert b'"x-extra": 1.5}' in body  # the result's bytes are the upstream's own
    assert two.asked("tools/call")[0]["params"] == {"name": "x", "arguments": {"n": 1.5, "u": "é"}}
    assert text_of(bare) == {"name": "x", "arguments": {}}


async def test_headers_of_the_target_and_its_credential_are_sent_and_a_session_is_reused() -> None:
    faulty = Faulty()
    auth = {"mode": "static", "header": "X-Team", "value": "secret"}
    with upstreams(faulty):
        target = registry("r-1", faulty.url, headers={"X-Team": "overridden", "X-Other": "o"}, auth=auth)
        async with world(target) as at:
            for _ in range(3):
                await at.call("echo")
            assert len(at.services.links) == 1
    assert [message["method"] for message in faulty.seen] == [
        "initialize", "notifications/initialized", "tools/list", *["tools/call"] * 3,
    ]  # fmt: skip
    first, *later_ones = faulty.headers
    assert (first["x-team"], first["x-other"]) == ("secret", "o")
    assert "mcp-session-id" not in first
    assert {one["mcp-session-id"] for one in later_ones} == {"s-1"}
    assert {one["mcp-protocol-version"] for one in later_ones} == {"2025-11-25"}
    assert first["accept"] == "application/json, text/event-stream"
    assert not any("x-ag-api-key" in one for one in faulty.headers)


async def test_resources_templates_and_prompts_go_through() -> None:
    resources = [{"uri": "data://a", "name": "a", "x": 1}, {"uri": "data://b", "name": "b"}]
    templates = [{"uriTemplate": "data://{x}", "name": "t"}]
    one = Faulty(resources=resources, templates=templates, prompts=[{"name": "hi"}])
    without = Faulty()
    with upstreams(one, without):
        async with world(registry("r-0", without.url), registry("r-1", one.url)) as at:
            assert await at.rpc("resources/list") == {"resources": resources}
            assert await at.rpc("resources/templates/list") == {"resourceTemplates": templates}
            assert await at.rpc("prompts/list") == {"prompts": [{"name": "hi"}]}
            read = await at.rpc("resources/read", {"uri": "data://b"})
            got = await at.rpc("prompts/get", {"name": "hi", "arguments": {"who": "you"}})
            missing = await at.rpc("resources/read", {"uri": "data://nowhere"})
            unknown = await at.rpc("prompts/get", {"name": "nobody"})
    assert read == {"contents": [{"uri": "data://b", "text": "hello"}]}
    assert json.loads(got["messages"][0]["content"]["text"])["arguments"] == {"who": "you"}
    assert (
        missing == {"code": -32002, "message": "no 'data://nowhere'", "data": {"uri": "'data://nowhere'"}}
        or missing["code"] == -32002
    )
    assert unknown == {"code": -32602, "message": "mcp: prompt not found: resource not found: nobody"}
    assert not any(message["method"].startswith(("resources", "prompts")) for message in without.seen)


@pytest.mark.parametrize("params", [{}, {"arguments": None}, {"arguments": {}, "_meta": {"progressToken": 1}, "x": 1}])
async def test_without_arguments_an_upstream_is_sent_an_empty_object(params: dict[str, Any]) -> None:
    one = Faulty(prompts=[{"name": "hello"}])
    with upstreams(one):
        async with world(registry("r-1", one.url)) as at:
            await at.rpc("tools/call", {"name": "echo"} | params)
            await at.rpc("prompts/get", {"name": "hello"} | params)
    assert one.asked("tools/call")[0]["params"] == {"name": "echo", "arguments": {}}
    assert one.asked("prompts/get")[0]["params"] == {"name": "hello", "arguments": {}}


@pytest.mark.parametrize(
    ("entry", "templates"),
    [
        (ToolkitEntry("r-1", tool="*"), []),
        (ToolkitEntry("r-1", prompt="*"), []),
        (ToolkitEntry("r-1", resource="data://a"), [{"uriTemplate": "x"}, {"uriTemplate": "y"}]),
    ],
)
async def test_templates_are_listed_of_registries_that_have_a_resource_entry(
    entry: ToolkitEntry, templates: list[Any]
) -> None:
    one = Faulty(templates=[{"uriTemplate": "x"}, {"uriTemplate": "y"}])
    with upstreams(one):
        entity = consumer(SLUG, type="MCP", registry_ids=("r-1",), auth_ids=("a-1",), toolkit=(entry,))
        async with world(registry("r-1", one.url), entity, api_key()) as at:
            assert await at.rpc("resources/templates/list") == {"resourceTemplates": templates}


async def test_a_resource_that_the_toolkit_denies_looks_like_one_that_is_not_there() -> None:
    one = Faulty(resources=[{"uri": "data://a"}, {"uri": "data://b"}], templates=[{"uriTemplate": "x"}], prompts=[])
    toolkit = (ToolkitEntry("r-1", resource="data://a*"),)
    with upstreams(one):
        entity = consumer(SLUG, type="MCP", registry_ids=("r-1",), auth_ids=("a-1",), toolkit=toolkit)
        async with world(registry("r-1", one.url), entity, api_key()) as at:
            listed = await at.rpc("resources/list")
            denied = await at.rpc("resources/read", {"uri": "data://b"})
            tools = await at.tools()
            call = await at.call("echo")
    assert listed == {"resources": [{"uri": "data://a"}]}
    assert denied == {"code": -32002, "message": "mcp: resource not found: resource not found: data://b"}
    assert tools == []
    assert call == {"code": -32001, "message": 'mcp: tool "echo" is not permitted for this consumer'}
    assert one.asked("resources/read") == []


async def test_an_unknown_tool_is_not_found() -> None:
    with upstreams(Faulty()) as (one,):
        async with world(registry("r-1", one.url)) as at:
            assert await at.call("nope") == {
                "code": -32602,
                "message": "mcp: tool not found: resource not found: nope",
            }


# -- faults of a call ------------------------------------------------------------------------------------------------

# what the upstream does, code and message for the client, sessions opened, calls the upstream saw
CALL_FAULTS: list[tuple[str, int, str, int, int]] = [
    ("401", -32603, "mcp upstream unreachable: the server answered status 401", 1, 1),
    ("429", -32005, "rejected by transport", 1, 1),
    ("500", -32005, "rejected by transport", 1, 1),
    ("503", -32005, "rejected by transport", 1, 1),
    ("not json", -32603, "mcp upstream unreachable: the answer is not JSON-RPC", 1, 1),
    ("not an object", -32603, "mcp upstream unreachable: the answer is not JSON-RPC", 1, 1),
    ("empty", -32603, "mcp upstream unreachable: the answer is not JSON-RPC", 1, 1),
    ("bad utf-8", -32603, "mcp upstream unreachable: the answer is not JSON-RPC", 1, 1),
    ("no result", -32603, "mcp upstream unreachable: the answer has no result", 1, 1),
    ("wrong id", -32603, "mcp upstream unreachable: the answer is not the response to the request", 1, 1),
    ("half a stream", -32603, "mcp upstream unreachable: connection closed", 1, 1),
    ("garbage stream", -32603, "mcp upstream unreachable: the stream is not JSON-RPC", 1, 1),
    ("hang up", -32603, "mcp upstream unreachable: connection closed", 1, 1),
    ("rpc error", -32050, "no luck", 1, 1),
]


@pytest.mark.parametrize(("fault", "code", "message", "sessions", "calls"), CALL_FAULTS)
async def test_a_failed_tool_call_is_reported_and_never_repeated(
    fault: str, code: int, message: str, sessions: int, calls: int
) -> None:
    faulty = Faulty().fail("tools/call", fault)
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url)) as at:
            error = await at.call("echo")
            assert (error["code"], error["message"]) == (code, message)
            assert (faulty.sessions, len(faulty.asked("tools/call"))) == (sessions, calls)
            assert text_of(await at.call("echo", again=1))["arguments"] == {"again": 1}  # and the next call works


async def test_an_upstreams_own_error_is_passed_on_byte_for_byte() -> None:
    faulty = Faulty().fail("tools/call", "rpc error")
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url)) as at:
            _, _, body = await at.send({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "echo"}})
    assert body == b'{"jsonrpc":"2.0","id":9,"error":{"code":-32050,"message":"no luck","data":{"why":1.0}}}'


async def test_of_duplicate_answers_the_first_counts() -> None:
    faulty = Faulty().fail("tools/call", "duplicate")
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url)) as at:
            assert text_of(await at.call("echo", n=1))["arguments"] == {"n": 1}


async def test_a_call_to_a_session_that_the_upstream_forgot_runs_once_on_a_new_one() -> None:
    faulty = Faulty().fail("tools/call", "404")
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url)) as at:
            assert text_of(await at.call("echo", n=2))["arguments"] == {"n": 2}
            assert faulty.sessions == 2
            faulty.fail("tools/call", "404", "404")
            error = await at.call("echo")
    assert error["code"] == -32603
    assert error["message"].startswith('calling "tools/call": sending "tools/call": failed to connect (session ID: ')
    assert error["message"].endswith("session not found")


@pytest.mark.parametrize("fault", ["500", "hang up", "half a stream", "404", "not json"])
async def test_a_list_is_asked_for_once_more_on_a_new_session(fault: str) -> None:
    faulty = Faulty().fail("tools/list", fault)
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url)) as at:
            assert await at.tools() == ["echo"]
    assert faulty.sessions == 2


async def test_a_broken_stream_is_resumed_where_its_events_have_ids() -> None:
    faulty = Faulty().fail("tools/call", "resumable")
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url)) as at:
            assert text_of(await at.call("echo", n=3))["arguments"] == {"n": 3}
    assert faulty.verbs == ["GET e-1"]
    assert len(faulty.asked("tools/call")) == 1


async def test_requests_of_the_upstream_are_answered_on_the_side() -> None:
    faulty = Faulty().fail("tools/call", "asks back")
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url)) as at:
            assert "content" in await at.call("echo")
            with trio.fail_after(5):
                while len([one for one in faulty.seen if "method" not in one]) < 3:  # noqa: ASYNC110
                    await trio.sleep(0.005)
    answers = {one["id"]: one for one in faulty.seen if "method" not in one}
    assert answers["q-ping"]["result"] == {}
    assert answers["q-roots/list"]["result"] == {"roots": []}
    assert answers["q-sampling/createMessage"]["error"]["code"] == -32601


async def test_a_client_that_leaves_cancels_its_call_alone() -> None:
    """The connection to the upstream ends with the call; the session and other calls go on."""
    entered, leave = threading.Event(), threading.Event()

    def wait(handler: Handler, message: Json) -> None:
        entered.set()
        leave.wait(10)
        handler.answer(message)

    faulty = Faulty()
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url)) as at:
            await at.tools()
            faulty.fail("tools/call", wait)
            stream = await trio.open_tcp_stream("127.0.0.1", at.port)
            body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}'
            head = f"POST /{SLUG}/mcp HTTP/1.1\r\nHost: x\r\nX-AG-API-Key: ag_{'k' * 43}\r\nContent-Length: {len(body)}"
            await stream.send_all(head.encode() + b"\r\n\r\n" + body)
            await trio.to_thread.run_sync(entered.wait)
            await stream.aclose()
            with trio.fail_after(5):
                while not any(one.aborted for one in at.heard.exchanges):  # noqa: ASYNC110
                    await trio.sleep(0.005)
            assert "content" in await at.call("echo")
            leave.set()


# -- redirects -------------------------------------------------------------------------------------------------------


def redirect_to(url: str, code: int = 307) -> Any:
    return lambda handler, message: handler.reply(code, b"", Location=url)


async def test_a_redirect_within_the_origin_is_followed() -> None:
    faulty = Faulty().fail("tools/call", redirect_to("/elsewhere"), redirect_to("/back?x=1", 308))
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url)) as at:
            assert "content" in await at.call("echo")
    assert len(faulty.asked("tools/call")) == 3


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_credentials_never_follow_a_redirect_to_another_origin(code: int) -> None:
    thief = Faulty()
    auth = {"mode": "static", "header": "Authorization", "value": "Bearer secret"}
    with upstreams(thief, Faulty()) as (_, faulty):
        faulty.fail("tools/call", redirect_to(thief.url, code))
        async with world(registry("r-1", faulty.url, auth=auth)) as at:
            error = await at.call("echo")
    assert error == {"code": -32603, "message": "mcp upstream unreachable: the server redirects to another place"}
    assert thief.seen == []


async def test_redirects_in_a_circle_end() -> None:
    faulty = Faulty().fail("tools/call", *[redirect_to("/round")] * 20)
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url)) as at:
            error = await at.call("echo")
    assert error["message"] == "mcp upstream unreachable: too many redirects"


# -- one bad upstream among good ones --------------------------------------------------------------------------------


async def test_a_dead_upstream_hides_nothing_else_and_is_not_asked_again_for_ten_seconds() -> None:
    good, bad = Faulty([tool("good")]), Faulty([tool("bad")]).fail("initialize", *["500"] * 4)
    with upstreams(good, bad):
        async with world(registry("r-1", bad.url), registry("r-2", good.url), registry("r-3", DEAD)) as at:
            assert await at.tools() == ["good"]
            asked = len(bad.seen)
            assert await at.tools() == ["good"]
            assert text_of(await at.call("good"))["name"] == "good"
            assert len(bad.seen) == asked
            at.pass_time(11)
            bad.faults.clear()
            assert await at.tools() == ["bad", "good"]


async def test_a_slow_upstream_costs_no_more_than_its_deadline() -> None:
    good, slow = Faulty([tool("good")]), Faulty([tool("slow")])
    slow.gate = threading.Event()
    try:
        with upstreams(good, slow):
            async with world(registry("r-1", slow.url), registry("r-2", good.url), discovery_timeout_s=0.2) as at:
                with trio.fail_after(5):
                    assert await at.tools() == ["good"]
                    assert text_of(await at.call("good"))["name"] == "good"
    finally:
        slow.gate.set()


async def test_upstreams_are_asked_in_parallel() -> None:
    """All ten lists are under way before one is answered, eight at a time."""
    found = [Faulty([tool(f"t{n}")]) for n in range(10)]
    together = threading.Semaphore(0)
    entered = threading.Semaphore(0)

    def wait(handler: Handler, message: Json) -> None:
        entered.release()
        together.acquire(timeout=10)
        handler.answer(message)

    for one in found:
        one.fail("tools/list", wait)
    with upstreams(*found):
        async with world(*[registry(f"r-{n}", one.url) for n, one in enumerate(found)]) as at, trio.open_nursery() as n:
            listed: list[str] = []

            async def ask() -> None:
                listed.extend(await at.tools())

            n.start_soon(ask)
            for _ in range(8):
                assert await trio.to_thread.run_sync(lambda: entered.acquire(timeout=5))
            assert not entered.acquire(blocking=False)
            together.release(10)
    assert listed == [f"t{n}" for n in range(10)]


async def test_fail_mode_closed_fails_the_whole() -> None:
    entity = consumer(SLUG, type="MCP", registry_ids=("r-1", "r-2"), auth_ids=("a-1",), fail_mode="closed")
    good, bad = Faulty(), Faulty().fail("initialize", *["503"] * 9)
    with upstreams(good, bad):
        async with world(registry("r-1", good.url), registry("r-2", bad.url, "Bad one"), entity, api_key()) as at:
            expected = {
                "code": -32005,
                "message": 'mcp: upstream unavailable: registry "Bad one": rejected by transport',
            }
            assert await at.rpc("tools/list") == await at.call("echo") == expected


@pytest.mark.parametrize("method", ["tools/list", "resources/list", "resources/templates/list", "prompts/list"])
async def test_nothing_reachable_is_an_error_that_names_no_address(method: str) -> None:
    async with world(registry("r-1", DEAD)) as at:
        assert await at.rpc(method) == UNREACHABLE


# -- what is remembered ----------------------------------------------------------------------------------------------


async def test_lists_are_asked_for_once_by_everybody_and_again_after_five_minutes() -> None:
    faulty = Faulty()
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url)) as at:
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(at.tools)
            assert len(faulty.asked("tools/list")) == faulty.sessions == 1
            faulty.tools = [tool("new")]
            assert await at.tools() == ["echo"]
            at.pass_time(301)
            assert await at.tools() == ["new"]


async def test_an_edited_registry_is_asked_again_at_once() -> None:
    faulty = Faulty()
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url)) as at:
            await at.tools()
            entity = consumer(SLUG, type="MCP", registry_ids=("r-1",), auth_ids=("a-1",))
            faulty.tools = [tool("new")]
            at.put(registry("r-1", faulty.url, updated_at=later(9)), entity, api_key(), version=2)
            assert await at.tools() == ["new"]


async def test_a_client_that_leaves_takes_no_list_from_others() -> None:
    faulty = Faulty()
    faulty.gate = threading.Event()
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url)) as at, trio.open_nursery() as nursery:
            listed: list[str] = []

            async def stay() -> None:
                listed.extend(await at.tools())

            with trio.move_on_after(0.2):
                await at.tools()
            nursery.start_soon(stay)
            await trio.sleep(0.05)  # until it has asked, too; were it sooner, the test would only be easier
            faulty.gate.set()
    assert listed == ["echo"]
    assert len(faulty.asked("tools/list")) == 1


class Listener:
    """Hears everything, answers nothing."""

    wants_progress = False
    answers: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def notified(self, message: Message) -> None:
        self.heard.append(message.method)

    async def asked(self, message: Message) -> bytes:
        raise AssertionError(message)


async def test_notifications_in_front_of_an_answer_are_handed_on() -> None:
    faulty = Faulty(sse=True)
    listener = Listener()
    with upstreams(faulty):
        async with client.Pool() as pool, trio.open_nursery() as nursery:
            session = client.Session(pool, faulty.url, [], nursery)
            await session.open()
            await session.request("tools/call", b'{"name":"echo"}', listener)
            await session.close()
    assert listener.heard == ["notifications/message"]
    assert faulty.verbs == ["DELETE"]


async def test_idle_sessions_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    from trustgate.mcp import links

    monkeypatch.setattr(links, "IDLE_S", 0.0)
    monkeypatch.setattr(links, "SWEEP_S", 0.01)
    faulty = Faulty()
    with upstreams(faulty):
        async with world(registry("r-1", faulty.url)) as at:
            await at.tools()
            at.services.background.start_soon(at.services.links.run)
            with trio.fail_after(5):
                while "DELETE" not in faulty.verbs:  # noqa: ASYNC110
                    await trio.sleep(0.005)
            assert len(at.services.links) == 0
            assert "content" in await at.call("echo")


def sees(at: World) -> list[Any]:
    return [one.facts for one in at.heard.exchanges if one.facts is not None]
