"""Listening to upstreams on behalf of sessions: what is heard, what is not, and upstreams that misbehave."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.mcp.upstream_server import Faulty, event, serving
from tests.mcp.world import KEY, SLUG, World, api_key, registry, world
from tests.views import consumer
from trustgate.domain.entities import ToolkitEntry
from trustgate.mcp import attendance, ears, upstream
from trustgate.mcp.events import MAIN, key_of
from trustgate.mcp.hub import Attended
from trustgate.mcp.sessions import ClientSession, Record, Subscription

URI = "test://one"
BOTH = "application/json, text/event-stream"
UPDATED = "notifications/resources/updated"


class Client:
    """A session whose stream is read: `told` are the messages on it."""

    def __init__(self, at: World, session: str) -> None:
        self.at, self.session = at, session
        self.told: list[dict[str, Any]] = []
        self.news = trio.Event()

    async def ask(self, method: str, params: Any = None) -> Any:
        headers = [("Mcp-Session-Id", self.session)]
        return await self.at.rpc(method, params, headers=headers, Accept="application/json")

    async def subscribe(self, uri: str = URI) -> Any:
        return await self.ask("resources/subscribe", {"uri": uri})

    async def read(self) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", self.at.port)
        lines = [f"GET /{SLUG}/mcp HTTP/1.1", "Host: 127.0.0.1", f"X-AG-API-Key: {KEY}", f"Accept: {BOTH}"]
        lines.append(f"Mcp-Session-Id: {self.session}")
        await stream.send_all("\r\n".join(lines).encode() + b"\r\n\r\n")
        async with stream:
            async for part in stream:
                for line in part.splitlines():
                    if line.startswith(b"data: {"):
                        self.told.append(json.loads(line[6:]))
                self.news.set()
                self.news = trio.Event()

    async def until(self, count: int) -> list[str]:
        """The methods of the first messages, when there are so many."""
        while len(self.told) < count:
            await self.news.wait()
        return [message["method"] for message in self.told]


@asynccontextmanager
async def listening(faulty: Faulty, *entities: Any, reading: bool = True) -> AsyncIterator[Client]:
    """A session that listens to that upstream alone; its stream is read here, unless it is elsewhere."""
    with serving(faulty):
        async with world(*(entities or (registry("r-1", faulty.url),))) as one, trio.open_nursery() as nursery:
            body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
            _, headers, _ = await one.send(body, Accept=BOTH)
            client = Client(one, headers["mcp-session-id"])
            if reading:
                nursery.start_soon(client.read)
            with trio.fail_after(20):
                yield client
            nursery.cancel_scope.cancel()
            if faulty.says is not None:
                for _ in range(10):
                    faulty.says.put(b"")


def speaker(**features: Any) -> Faulty:
    """An upstream with subscriptions and a stream of its own."""
    faulty = Faulty(resources=[{"uri": URI, "name": "one"}], **features)
    faulty.capabilities["resources"] = {"subscribe": True}
    faulty.says = queue.Queue()
    return faulty


def says(faulty: Faulty, method: str, **params: Any) -> None:
    assert faulty.says is not None
    faulty.says.put(event({"jsonrpc": "2.0", "method": method, "params": params}))


async def until_listened(faulty: Faulty) -> None:
    while not faulty.listeners:  # noqa: ASYNC110 - in a thread
        await trio.sleep(0.01)


async def test_updates_of_the_resource_and_of_its_parts_are_told_as_they_came() -> None:
    faulty = speaker()
    async with listening(faulty) as client:
        assert await client.subscribe() == {}
        assert [message["params"] for message in faulty.asked("resources/subscribe")] == [{"uri": URI}]
        says(faulty, UPDATED, uri="test://other")
        says(faulty, UPDATED, uri=URI, title="One")
        assert await client.until(1) == [UPDATED]
        says(faulty, UPDATED, uri=URI + "/part")
        assert await client.until(2) == [UPDATED, UPDATED]
        assert [message["params"] for message in client.told] == [{"uri": URI, "title": "One"}, {"uri": URI + "/part"}]


async def test_many_notices_of_one_change_are_one() -> None:
    faulty = speaker()
    async with listening(faulty) as client:
        await client.subscribe()
        for _ in range(50):
            says(faulty, UPDATED, uri=URI)
            says(faulty, "notifications/tools/list_changed")
        says(faulty, "notifications/prompts/list_changed")
        await client.until(3)
        await trio.sleep(3 * ears.MERGE_S)
        methods = [message["method"] for message in client.told]
        assert len(methods) < 20
        assert set(methods) == {UPDATED, "notifications/tools/list_changed", "notifications/prompts/list_changed"}


async def test_an_upstream_that_says_too_much_is_cut_short() -> None:
    faulty = speaker()
    async with listening(faulty) as client:
        await until_listened(faulty)
        says(faulty, "notifications/message", level="info", data="x" * ears.MAX_BYTES)
        for number in range(5 * ears.MAX_LOGS_A_S):
            says(faulty, "notifications/message", level="info", data=number)
        says(faulty, "notifications/tools/list_changed")
        while not any(message["method"].endswith("list_changed") for message in client.told):
            await client.news.wait()
        logs = [message["params"]["data"] for message in client.told if message["method"] == "notifications/message"]
        assert logs[0] == 0
        assert len(logs) <= 3 * ears.MAX_LOGS_A_S


async def test_a_changed_list_is_asked_for_anew() -> None:
    faulty = speaker()
    async with listening(faulty) as client:
        await until_listened(faulty)
        assert await client.at.tools() == ["echo"]
        faulty.tools = [*faulty.tools, {"name": "new", "inputSchema": {"type": "object"}}]
        assert await client.at.tools() == ["echo"]
        says(faulty, "notifications/tools/list_changed")
        await client.until(1)
        assert await client.at.tools() == ["echo", "new"]


async def test_after_a_lost_session_resources_are_asked_about_anew_and_said_to_have_changed() -> None:
    faulty = speaker()
    async with listening(faulty) as client:
        await client.subscribe()
        faulty.fail("GET", "404")
        assert faulty.says is not None
        faulty.says.put(b"")  # the stream ends, and its session is not known any more
        methods = await client.until(4)
        assert len(faulty.asked("resources/subscribe")) == 2
        assert methods.count(UPDATED) >= 1
        assert {f"notifications/{kind}/list_changed" for kind in ("tools", "resources", "prompts")} < set(methods)
        says(faulty, UPDATED, uri=URI, title="later")
        while client.told[-1].get("params") != {"uri": URI, "title": "later"}:
            await client.news.wait()


@pytest.mark.parametrize("fault", ["500", "503", "not json", "hang up", "garbage stream"])
async def test_an_upstream_whose_stream_fails_is_listened_to_again(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ears, "RETRY_S", 0.01)
    monkeypatch.setattr(ears, "WITHOUT_S", 0.01)
    faulty = speaker().fail("GET", fault)
    async with listening(faulty) as client:
        await until_listened(faulty)
        says(faulty, "notifications/message", level="info", data="at last")
        assert await client.until(1) == ["notifications/message"]


async def test_an_upstream_that_tells_of_nothing_cannot_be_subscribed_to() -> None:
    deaf = speaker()
    deaf.says = None
    async with listening(deaf) as client:
        answer = await client.subscribe()
        assert (answer["code"], answer["message"]) == (
            -32603,
            "mcp upstream unreachable: its messages cannot be heard",
        )
    without = speaker()
    without.capabilities["resources"] = {}
    async with listening(without) as client:
        answer = await client.subscribe()
        assert answer["code"] == -32602
        assert answer["message"] == f"mcp: resource cannot be subscribed to: its server does not offer it: {URI}"
    assert without.asked("resources/subscribe") == []


async def test_what_the_upstream_answers_to_a_subscription_is_passed_on() -> None:
    faulty = speaker().fail("resources/subscribe", "rpc error")
    async with listening(faulty) as client:
        assert await client.subscribe() == {"code": -32050, "message": "no luck", "data": {"why": 1.0}}
        assert await client.subscribe() == {}


async def test_a_resource_that_the_toolkit_denies_is_not_there() -> None:
    faulty = speaker()
    with serving(faulty):
        entities = (
            registry("r-1", faulty.url),
            consumer(
                SLUG,
                type="MCP",
                registry_ids=("r-1",),
                auth_ids=("a-1",),
                toolkit=(ToolkitEntry("r-1", resource="test://two*"),),
            ),
            api_key(),
        )
        async with listening(faulty, *entities) as client:
            answer = await client.subscribe()
            assert answer == {"code": -32002, "message": f"mcp: resource not found: resource not found: {URI}"}
            assert await client.subscribe("test://two/x") == {}
            says(faulty, UPDATED, uri="test://two/x")
            assert await client.until(1) == [UPDATED]


async def test_a_session_that_ends_leaves_its_upstreams() -> None:
    faulty = speaker()
    async with listening(faulty) as client:
        await client.subscribe()
        assert len(client.at.services.attendances.ears) == 1
        status, _, _ = await client.at.send(method="DELETE", headers=[("Mcp-Session-Id", client.session)])
        assert status == 204
        while len(client.at.services.attendances) or not faulty.asked("resources/unsubscribe"):  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert len(client.at.services.attendances.ears) == 0


async def noticed(client: Client) -> list[str]:
    """The methods of what was put into the session's stream, which is read elsewhere."""
    entries = await client.at.services.hub.state.entries(key_of(client.session, MAIN))
    return [json.loads(entry[1:]).get("method", "") for _, entry in entries]


async def test_where_a_session_is_left_to_another_process_what_is_on_its_way_is_still_told() -> None:
    faulty = speaker()
    async with listening(faulty, reading=False) as client:
        await client.subscribe()
        await client.at.services.hub.tell(Attended(client.session, "another", [URI]))
        says(faulty, UPDATED, uri=URI)
        while UPDATED not in await noticed(client):  # noqa: ASYNC110
            await trio.sleep(0.01)
        while len(client.at.services.attendances) or not faulty.asked("resources/unsubscribe"):  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_what_the_other_process_does_not_hear_is_heard_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "HAND_OVER_S", 0.01)
    faulty = speaker()
    async with listening(faulty, reading=False) as client:
        await client.subscribe()
        await client.subscribe("test://two")
        await client.at.services.hub.tell(Attended(client.session, "another", ["test://two", "test://three"]))
        while not faulty.asked("resources/unsubscribe"):  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert [message["params"] for message in faulty.asked("resources/unsubscribe")] == [{"uri": "test://two"}]
        says(faulty, UPDATED, uri=URI)
        while UPDATED not in await noticed(client):  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_a_subscription_of_which_the_news_were_lost_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "SWEEP_S", 0.01)
    monkeypatch.setattr(attendance, "ALIGN_S", 0.01)
    faulty = speaker()
    async with listening(faulty) as client, trio.open_nursery() as nursery:
        await until_listened(faulty)
        nursery.start_soon(client.at.services.attendances.run)
        record = Record(gateway_id="", consumer_id="", auth_id="", issuer="", subject="", version="")
        kept = Subscription(registry_id="r-1", uri=URI)
        await client.at.services.sessions.subscribe(ClientSession(client.session, record), kept)
        while not faulty.asked("resources/subscribe"):  # noqa: ASYNC110
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_the_upstream_hears_of_the_end_of_a_subscription_before_it_hears_of_the_next() -> None:
    faulty = speaker()
    async with listening(faulty) as client:
        for number in range(1, 11):
            assert await client.subscribe() == {}
            says(faulty, UPDATED, uri=URI, number=number)
            while not client.told or client.told[-1]["params"] != {"uri": URI, "number": number}:
                await client.news.wait()
            assert await client.ask("resources/unsubscribe", {"uri": URI}) == {}
        while len(faulty.asked("resources/unsubscribe")) < len(faulty.asked("resources/subscribe")):  # noqa: ASYNC110
            await trio.sleep(0.01)
        asked = [message["method"] for message in faulty.seen if message["method"].endswith("subscribe")]
        assert asked == ["resources/subscribe", "resources/unsubscribe"] * (len(asked) // 2)


async def test_the_uri_of_a_subscription_is_bounded() -> None:
    faulty = speaker()
    async with listening(faulty) as client:
        assert await client.subscribe("test://" + "x" * (attendance.MAX_URI - 7)) == {}
        answer = await client.subscribe("test://" + "x" * (attendance.MAX_URI - 6))
        assert answer["code"] == -32602
        assert answer["message"] == "mcp: resource cannot be subscribed to: its URI is too long"


@pytest.mark.parametrize(
    ("named", "asked", "expected"),
    [
        ("a://b", "a://b", True),
        ("a://b/c", "a://b", True),
        ("a://b/c", "a://b/", True),
        ("a://b?c", "a://b", True),
        ("a://b#c", "a://b", True),
        ("a://bc", "a://b", False),
        ("a://b", "a://b/", False),
        ("a://c", "a://b", False),
    ],
)
def test_parts_of_a_resource(named: str, asked: str, expected: bool) -> None:
    assert ears.is_part(named, asked) is expected


async def test_an_upstream_that_names_too_many_parts_is_told_of_as_one_change() -> None:
    faulty = speaker()
    async with listening(faulty) as client:
        await client.subscribe()
        for number in range(20 * ears.MAX_MERGING):
            says(faulty, UPDATED, uri=f"{URI}/{number}")
        while {"uri": URI} not in [message["params"] for message in client.told]:
            await client.news.wait()


async def test_an_upstream_that_announces_nothing_to_say_has_one_session_for_all() -> None:
    silent = Faulty(resources=[{"uri": URI}], prompts=[{"name": "p"}])
    silent.capabilities |= {"tools": {"listChanged": False}, "resources": {"subscribe": False}}
    async with listening(silent) as client:
        await client.at.tools()
        await client.ask("tools/call", {"name": "echo"})
        await client.ask("resources/read", {"uri": URI})
        await client.ask("prompts/get", {"name": "p"})
        answer = await client.subscribe()
        assert answer["message"] == f"mcp: resource cannot be subscribed to: its server does not offer it: {URI}"
    assert len(silent.asked("initialize")) == 1
    assert not any(verb.startswith("GET") for verb in silent.verbs)


@pytest.mark.parametrize(
    "capabilities",
    [
        {"logging": {}},
        {"tools": {"listChanged": True}},
        {"prompts": {"listChanged": True}},
        {"resources": {"listChanged": True}},
        {"resources": {"subscribe": True}},
    ],
)
async def test_an_upstream_that_announces_something_to_say_is_listened_to(capabilities: dict[str, Any]) -> None:
    faulty = speaker()
    faulty.capabilities = {"tools": {}, "resources": {}} | capabilities
    async with listening(faulty):
        await until_listened(faulty)


async def test_how_much_an_upstream_may_ask_at_once_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "MAX_ANSWERING", 8)
    release = threading.Event()

    def wait(handler: Any, message: Any) -> None:
        release.wait(20)
        handler.reply(202, b"")

    faulty = speaker().fail("", *[wait] * 50)
    async with listening(faulty) as client:
        await until_listened(faulty)
        assert faulty.says is not None
        for number in range(50):
            faulty.says.put(event({"jsonrpc": "2.0", "id": number, "method": "ping"}))
        says(faulty, "notifications/tools/list_changed")
        assert await client.until(1) == ["notifications/tools/list_changed"]
        while len(answers := [message["id"] for message in faulty.seen if "result" in message]) < 8:  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert sorted(answers) == list(range(8))
        release.set()
