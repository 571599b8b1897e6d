"""What upstreams say outside of calls reaches the sessions that listen, and resources can be subscribed to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.installation import installed
from tests.e2e.test_many_processes import database_settings, redis_settings
from tests.mcp.sessions import WAIT_S, Cluster, Event, Setup, call, initialize, opened, request, run, streaming
from tests.services import run_redis

WATCHED = "test://watched-resource"
UPDATED = "notifications/resources/updated"


def subscription(uri: str = WATCHED, *, over: bool = False) -> dict[str, Any]:
    return request("resources/unsubscribe" if over else "resources/subscribe", {"uri": uri})


async def result(client: httpx.AsyncClient, url: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
    answer = await client.post(url, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == "application/json":
        found = answer.json()
    else:
        found = Event(answer.text.strip().split("\n\n")[-1].splitlines()).message
    return found["result"] if "result" in found else found["error"]


async def told(found: AsyncIterator[Event], method: str) -> Any:
    """The params of the next notification of that method."""
    async for event in found:
        if event.message is not None and event.message["method"] == method:
            return event.message.get("params")
    raise AssertionError("the stream has ended")


async def until_subscribed(setup: Setup, count: int) -> None:
    while await asyncio.to_thread(setup.touch) != count:  # noqa: ASYNC110 - another process counts
        await asyncio.sleep(0.05)


@contextlib.contextmanager
def paused(redis: str) -> Iterator[None]:
    """That server answers nobody meanwhile."""
    parts = urlsplit(redis)
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as connection:
        connection.sendall(b"INFO server\r\n")
        answer = connection.recv(65536).decode()
    process = int(answer.partition("process_id:")[2].split()[0])
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def test_sessions_alone_are_offered_subscriptions(embedded: Setup) -> None:
    inside = httpx.post(embedded.urls[0], json=initialize(), headers=embedded.headers())
    assert inside.json()["result"]["capabilities"]["resources"] == {"subscribe": True, "listChanged": True}
    outside = embedded.headers(accept="application/json")
    greeting = httpx.post(embedded.urls[0], json=initialize(), headers=outside).json()["result"]
    assert greeting["capabilities"]["resources"] == {"subscribe": False, "listChanged": False}
    for over in (False, True):
        body = subscription(over=over)
        answer = httpx.post(embedded.urls[0], json=body, headers=embedded.headers()).json()
        assert answer["error"] == {"code": -32601, "message": f"mcp: method not found: {body['method']}"}


def test_a_subscribed_resource_that_changes_is_told_until_it_is_unsubscribed(embedded: Setup) -> None:
    headers = embedded.headers(opened(embedded))

    async def scenario() -> None:
        async with (
            httpx.AsyncClient(timeout=WAIT_S) as client,
            streaming(client, "GET", embedded.urls[0], headers=headers) as (_, found),
        ):
            for _ in range(2):  # again is as well
                assert await result(client, embedded.urls[0], subscription(), headers) == {}
            assert embedded.touch() == 1
            assert await told(found, UPDATED) == {"uri": WATCHED}
            for _ in range(2):
                assert await result(client, embedded.urls[0], subscription(over=True), headers) == {}
            await until_subscribed(embedded, 0)

    run(scenario())


def test_what_an_upstream_says_outside_of_calls_is_told_on_the_sessions_stream(embedded: Setup) -> None:
    headers = embedded.headers(opened(embedded))

    async def scenario() -> None:
        async with (
            httpx.AsyncClient(timeout=WAIT_S) as client,
            streaming(client, "GET", embedded.urls[0], headers=headers) as (_, found),
        ):
            assert (await anext(found)).message is None
            await result(client, embedded.urls[0], call("say", {"what": "log"}), headers)
            assert await told(found, "notifications/message") == {"level": "warning", "data": "aside"}
            await result(client, embedded.urls[0], call("say", {"what": "tools"}), headers)
            await told(found, "notifications/tools/list_changed")
            # Nobody asked about resources; of log messages only the severe ones are wanted from now on.
            await result(client, embedded.urls[0], call("say", {"what": "updated"}), headers)
            await result(client, embedded.urls[0], request("logging/setLevel", {"level": "error"}), headers)
            await result(client, embedded.urls[0], call("say", {"what": "log"}), headers)
            await result(client, embedded.urls[0], call("say", {"what": "tools"}), headers)
            event = await anext(found)
            assert event.message["method"] == "notifications/tools/list_changed"

    run(scenario())


def test_what_is_said_on_one_callers_upstream_session_is_not_told_to_another_caller(embedded: Setup) -> None:
    demo = embedded.demo
    other = demo.installation.call("POST", f"{demo.base}/auths", {"name": "second", "type": "api_key"})
    demo.installation.call("POST", f"{demo.base}/consumers/{demo.consumer_id}/auths/{other['id']}")
    others = embedded.headers() | {"X-AG-API-Key": other["api_key"]}
    mine = embedded.headers(opened(embedded))

    async def scenario() -> None:
        async with httpx.AsyncClient(timeout=WAIT_S) as client:
            greeting = await client.post(embedded.urls[0], json=initialize(), headers=others)
            theirs = others | {"Mcp-Session-Id": greeting.headers["mcp-session-id"]}
            async with (
                streaming(client, "GET", embedded.urls[0], headers=mine) as (_, found),
                streaming(client, "GET", embedded.urls[0], headers=theirs) as (_, elsewhere),
            ):
                await anext(found)
                await anext(elsewhere)
                await result(client, embedded.urls[0], call("say", {"what": "log"}), mine)
                await told(found, "notifications/message")
                await result(client, embedded.urls[0], call("say", {"what": "tools"}), theirs)
                event = await anext(elsewhere)
                assert event.message["method"] == "notifications/tools/list_changed"

    run(scenario())


def test_subscriptions_that_cannot_be(embedded: Setup) -> None:
    headers = embedded.headers(opened(embedded))

    def refused(body: dict[str, Any]) -> dict[str, Any]:
        return httpx.post(embedded.urls[0], json=body, headers=headers).json()["error"]

    for method in ("resources/subscribe", "resources/unsubscribe"):
        for params in ({}, {"uri": ""}, {"uri": 3}, [], None):
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            assert refused(body) == {"code": -32602, "message": f"{method} requires params.uri"}, params
    for number in range(100):
        body = subscription(f"test://{number}")
        assert httpx.post(embedded.urls[0], json=body, headers=headers).json()["result"] == {}
    assert refused(subscription("test://100")) == {"code": -32004, "message": "mcp: too many subscriptions"}
    httpx.post(embedded.urls[0], json=subscription("test://7", over=True), headers=headers)
    assert httpx.post(embedded.urls[0], json=subscription("test://100"), headers=headers).json()["result"] == {}
    assert httpx.delete(embedded.urls[0], headers=headers).status_code == 204


def test_a_subscription_made_on_another_instance_is_heard_and_outlives_the_one_that_hears(
    cluster: tuple[Cluster, Setup],
) -> None:
    processes, setup = cluster
    victim = processes.start()
    url = f"{processes.endpoints[victim]}/{setup.demo.slug}/mcp"
    headers = setup.headers(opened(setup, 0))

    async def scenario() -> None:
        async with httpx.AsyncClient(timeout=WAIT_S) as client:
            async with streaming(client, "GET", url, headers=headers) as (_, found):
                begun = await anext(found)
                assert await result(client, setup.urls[1], subscription(), headers) == {}
                await asyncio.to_thread(setup.touch)  # where it was made it is heard, until it is where it is read
                assert await told(found, UPDATED) == {"uri": WATCHED}
                await until_subscribed(setup, 1)
                await asyncio.to_thread(processes.kill, victim)
            resume = headers | {"Last-Event-ID": begun.id}
            async with streaming(client, "GET", setup.urls[0], headers=resume) as (_, found):
                assert await told(found, UPDATED) == {"uri": WATCHED}
                # What may have changed meanwhile is told; then what does.
                await until_subscribed(setup, 1)
                for _ in range(3):
                    await asyncio.to_thread(setup.touch)
                    assert await told(found, UPDATED) == {"uri": WATCHED}
                assert await result(client, setup.urls[1], subscription(over=True), headers) == {}

    run(scenario())


def test_what_is_said_on_the_upstream_session_of_another_instance_is_heard(cluster: tuple[Cluster, Setup]) -> None:
    _, setup = cluster
    headers = setup.headers(opened(setup, 0))

    async def scenario() -> None:
        async with (
            httpx.AsyncClient(timeout=WAIT_S) as client,
            streaming(client, "GET", setup.urls[0], headers=headers) as (_, found),
        ):
            assert (await anext(found)).message is None
            await result(client, setup.urls[1], call("say", {"what": "log"}), headers)
            assert await told(found, "notifications/message") == {"level": "warning", "data": "aside"}

    run(scenario())


def test_a_session_without_redis_says_so_and_goes_on_afterwards(
    everything: str, postgres_database: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with run_redis() as redis:
        more = database_settings(postgres_database) | redis_settings(redis)
        with installed(tmp_path_factory.mktemp("without-redis"), "all", **more) as running:
            setup = Setup(running, [running.mcp], everything)
            headers = setup.headers(opened(setup))
            url = setup.urls[0]
            assert httpx.post(url, json=subscription(), headers=headers).json()["result"] == {}
            with paused(redis):
                for method in ("GET", "DELETE"):
                    answer = httpx.request(method, url, headers=headers, timeout=WAIT_S)
                    assert (answer.status_code, answer.text) == (503, "mcp: sessions are unavailable"), method
                for body in (subscription("test://static-text"), request("logging/setLevel", {"level": "info"})):
                    answer = httpx.post(url, json=body, headers=headers, timeout=WAIT_S).json()
                    assert answer["error"] == {"code": -32603, "message": "mcp: sessions are unavailable"}
                answer = httpx.post(url, json=call("test_simple_text"), headers=headers, timeout=WAIT_S)
                assert answer.json()["result"]["content"], "what needs no session is served"
                greeting = httpx.post(url, json=initialize(), headers=setup.headers(), timeout=WAIT_S)
                assert greeting.status_code == 200
                assert "mcp-session-id" not in greeting.headers
            assert httpx.post(url, json=subscription(over=True), headers=headers).json()["result"] == {}
            assert httpx.delete(url, headers=headers).status_code == 204
