"""Sessions on the wire: offered, resumed on another instance, ended, refused; and clients without one see none of it.

Two MCP processes share PostgreSQL and Redis; the upstream is an everything-server on the official TypeScript SDK.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib

import httpx
import pytest

from tests.e2e.installation import installed
from tests.mcp.sessions import BOTH, WAIT_S, Cluster, Setup, call, initialize, opened, request, run, streaming

# -- clients without a session ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["application/json", "*/*", ""])
def test_a_client_that_does_not_accept_streams_is_offered_nothing(embedded: Setup, accept: str) -> None:
    answer = httpx.post(embedded.urls[0], json=initialize("2025-06-18"), headers=embedded.headers(accept=accept))
    assert "mcp-session-id" not in answer.headers
    assert answer.json()["result"]["capabilities"] == {
        "tools": {"listChanged": False},
        "resources": {"subscribe": False, "listChanged": False},
        "prompts": {"listChanged": False},
    }
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("session", ["", "of-another-server"])
def test_reads_without_a_session_of_ours_are_not_allowed(embedded: Setup, method: str, session: str) -> None:
    answer = httpx.request(method, embedded.urls[0], headers=embedded.headers(session))
    assert (answer.status_code, answer.headers["allow"], answer.text) == (405, "POST", "Method Not Allowed")


def test_an_offered_session_need_not_be_used(embedded: Setup) -> None:
    opened(embedded)
    answer = httpx.post(embedded.urls[0], json=request("tools/list"), headers=embedded.headers())
    assert answer.json()["result"]["tools"]
    foreign = httpx.post(embedded.urls[0], json=request("tools/list"), headers=embedded.headers("of-another-server"))
    assert foreign.json()["result"]["tools"]
    assert answer.headers["content-type"] == "application/json"


def test_methods_of_sessions_do_not_exist_outside(embedded: Setup) -> None:
    for method in ("logging/setLevel", "completion/complete"):
        answer = httpx.post(embedded.urls[0], json=request(method), headers=embedded.headers()).json()
        assert answer["error"] == {"code": -32601, "message": f"mcp: method not found: {method}"}


def test_progress_is_streamed_to_a_client_that_asks_for_it_and_only_with_its_token(embedded: Setup) -> None:
    body = call("test_tool_with_progress", token="mine")
    plain = httpx.post(embedded.urls[0], json=body, headers=embedded.headers(accept="application/json"))
    assert plain.headers["content-type"] == "application/json"
    assert plain.json()["result"]["content"][0]["type"] == "text"

    async def scenario() -> None:
        async with httpx.AsyncClient() as client:
            asked = {"json": body, "headers": embedded.headers()}
            async with streaming(client, "POST", embedded.urls[0], **asked) as (response, found):
                assert response.headers["content-type"] == "text/event-stream"
                messages = [event async for event in found]
        assert [event.id for event in messages] == [""] * 4, "without a session there is nothing to resume"
        assert [event.message["params"] for event in messages[:3]] == [
            {"progressToken": "mine", "progress": at, "total": 100, "message": f"at {at}"} for at in (0, 50, 100)
        ]
        assert messages[3].message["id"] == 1
        assert messages[3].message["result"]["content"][0]["text"].isdigit(), "the upstream has a token of its own"

    run(scenario())


def test_a_client_that_accepts_only_streams_gets_streams(embedded: Setup) -> None:
    for body in (request("tools/list"), call("test_simple_text"), request("ping")):
        answer = httpx.post(embedded.urls[0], json=body, headers=embedded.headers(accept="text/event-stream"))
        assert answer.headers["content-type"] == "text/event-stream"
        (data,) = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        assert json.loads(data)["id"] == 1


# -- the life of a session -------------------------------------------------------------------------------------------


def test_a_session_is_ended_by_its_client(embedded: Setup) -> None:
    session = opened(embedded)
    headers = embedded.headers(session)
    assert httpx.post(embedded.urls[0], json=request("ping"), headers=headers).json()["result"] == {}
    assert httpx.delete(embedded.urls[0], headers=headers).status_code == 204
    gone = httpx.post(embedded.urls[0], json=request("ping"), headers=headers)
    assert (gone.status_code, gone.text) == (404, "mcp: session not found")
    assert httpx.delete(embedded.urls[0], headers=headers).status_code == 404
    assert httpx.get(embedded.urls[0], headers=headers).status_code == 404


def test_a_session_is_nobody_elses(embedded: Setup) -> None:
    session = opened(embedded)
    demo = embedded.demo
    other = demo.installation.call("POST", f"{demo.base}/auths", {"name": "other", "type": "api_key"})
    demo.installation.call("POST", f"{demo.base}/consumers/{demo.consumer_id}/auths/{other['id']}")
    stolen = embedded.headers(session) | {"X-AG-API-Key": other["api_key"]}
    for method in ("POST", "GET", "DELETE"):
        body = {"json": request("ping")} if method == "POST" else {}
        answer = httpx.request(method, embedded.urls[0], headers=stolen, **body)
        assert (answer.status_code, answer.text) == (404, "mcp: session not found"), method
    unknown = embedded.headers("tgs-" + "A" * 32)
    assert httpx.post(embedded.urls[0], json=request("ping"), headers=unknown).status_code == 404
    unauthenticated = httpx.get(embedded.urls[0], headers={"Mcp-Session-Id": session, "Accept": BOTH})
    assert unauthenticated.status_code == 401
    assert httpx.post(embedded.urls[0], json=request("ping"), headers=embedded.headers(session)).status_code == 200


def test_a_session_of_another_consumer_is_unknown(embedded: Setup) -> None:
    session = opened(embedded)
    demo = embedded.demo
    more = demo.installation.call(
        "POST", f"{demo.base}/consumers", {"name": "two", "type": "MCP", "registries": [{"id": embedded.registry}]}
    )
    auth = next(one for one in demo.installation.call("GET", f"{demo.base}/auths")["items"] if one["name"] == "key")
    demo.installation.call("POST", f"{demo.base}/consumers/{more['id']}/auths/{auth['id']}")
    url = embedded.urls[0].replace(demo.slug, more["slug"])
    assert httpx.post(url, json=request("ping"), headers=embedded.headers()).status_code == 200
    assert httpx.post(url, json=request("ping"), headers=embedded.headers(session)).status_code == 404


def test_a_session_expires_when_it_is_not_used(everything: str, tmp_path: pathlib.Path) -> None:
    with installed(tmp_path, "all", MCP_SESSION_TTL="1s") as running:
        setup = Setup(running, [running.mcp], everything)
        session = opened(setup)

        async def scenario() -> None:
            async with httpx.AsyncClient() as client:
                while True:
                    await asyncio.sleep(1.2)
                    answer = await client.post(setup.urls[0], json=request("ping"), headers=setup.headers(session))
                    if answer.status_code == 404:
                        return

        run(scenario())


def test_sessions_can_be_off(everything: str, tmp_path: pathlib.Path) -> None:
    with installed(tmp_path, "all", MCP_SESSIONS_ENABLED="false") as running:
        setup = Setup(running, [running.mcp], everything)
        answer = httpx.post(setup.urls[0], json=initialize(), headers=setup.headers())
        assert "mcp-session-id" not in answer.headers
        assert "logging" not in answer.json()["result"]["capabilities"]


def test_bad_input_to_a_session(embedded: Setup) -> None:
    session = opened(embedded)
    headers = embedded.headers(session)
    assert httpx.get(embedded.urls[0], headers=embedded.headers(session, accept="application/json")).status_code == 406
    bad = httpx.get(embedded.urls[0], headers=headers | {"Last-Event-ID": "rubbish"})
    assert (bad.status_code, bad.text) == (400, "mcp: unknown Last-Event-ID")
    level = httpx.post(embedded.urls[0], json=request("logging/setLevel", {"level": "loud"}), headers=headers).json()
    assert level["error"]["code"] == -32602
    for params in ({}, {"ref": {"type": "ref/prompt", "name": "x"}}, {"ref": 3, "argument": {}}):
        answer = httpx.post(embedded.urls[0], json=request("completion/complete", params), headers=headers).json()
        assert answer["error"]["code"] == -32602, params
    stray = {"jsonrpc": "2.0", "id": "nobody-1", "result": {}}
    assert httpx.post(embedded.urls[0], json=stray, headers=headers).status_code == 202
    assert httpx.post(embedded.urls[0], json=stray, headers=embedded.headers()).json()["error"]["code"] == -32600
    unknown = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "nothing"}}
    assert httpx.post(embedded.urls[0], json=unknown, headers=headers).status_code == 202


# -- calls -----------------------------------------------------------------------------------------------------------


def seen(setup: Setup) -> dict[str, int]:
    answer = httpx.post(setup.urls[0], json=call("seen"), headers=setup.headers()).json()
    return json.loads(answer["result"]["content"][0]["text"])


async def until_cancelled(setup: Setup, count: int) -> None:
    while seen(setup)["cancelled"] < count:  # noqa: ASYNC110 - another process counts
        await asyncio.sleep(0.05)


def test_a_client_cancels_its_call(embedded: Setup) -> None:
    before = seen(embedded)["cancelled"]
    session = opened(embedded)
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "long"}}

    async def scenario() -> None:
        async with httpx.AsyncClient() as client:
            body, headers = call("endless", token=7, id="long"), embedded.headers(session)
            async with streaming(client, "POST", embedded.urls[0], json=body, headers=headers) as (_, found):
                async for event in found:
                    if event.message is not None:
                        break
                assert (await client.post(embedded.urls[0], json=cancel, headers=headers)).status_code == 202
                rest = [event async for event in found]
            assert not any("result" in event.message or "error" in event.message for event in rest)
            await until_cancelled(embedded, before + 1)

    run(scenario())


def test_a_client_without_session_that_leaves_cancels_its_call(embedded: Setup) -> None:
    before = seen(embedded)["cancelled"]

    async def scenario() -> None:
        async with httpx.AsyncClient() as client:
            body = call("endless", token=7)
            async with streaming(client, "POST", embedded.urls[0], json=body, headers=embedded.headers()) as (_, found):
                await anext(found)
        await until_cancelled(embedded, before + 1)

    run(scenario())


def test_log_messages_come_at_the_level_that_was_asked_for(embedded: Setup) -> None:
    session = opened(embedded)
    headers = embedded.headers(session)
    for level, expected in (("info", 3), ("error", 0), ("debug", 3)):
        asked = httpx.post(embedded.urls[0], json=request("logging/setLevel", {"level": level}), headers=headers)
        assert asked.json()["result"] == {}
        answer = httpx.post(embedded.urls[0], json=call("test_tool_with_logging"), headers=headers)
        assert answer.text.count("notifications/message") == expected, level
    outside = httpx.post(embedded.urls[0], json=call("test_tool_with_logging"), headers=embedded.headers())
    assert outside.headers["content-type"] == "application/json"


def test_completion_reaches_the_upstream(embedded: Setup) -> None:
    headers = embedded.headers(opened(embedded))
    for ref in (
        {"type": "ref/prompt", "name": "test_prompt_with_arguments"},
        {"type": "ref/resource", "uri": "test://template/{id}/data"},
    ):
        params = {"ref": ref, "argument": {"name": "arg1", "value": "pa"}}
        answer = httpx.post(embedded.urls[0], json=request("completion/complete", params), headers=headers).json()
        assert answer["result"]["completion"]["values"] == ["pa-one", "pa-two"]
    missing = {"ref": {"type": "ref/resource", "uri": "test://none"}, "argument": {"name": "a", "value": ""}}
    answer = httpx.post(embedded.urls[0], json=request("completion/complete", missing), headers=headers).json()
    assert answer["error"]["code"] == -32002


def test_a_changed_surface_is_told_on_the_sessions_stream(embedded: Setup) -> None:
    session = opened(embedded)
    demo = embedded.demo

    async def scenario() -> None:
        async with httpx.AsyncClient(timeout=WAIT_S) as client:
            async with streaming(client, "GET", embedded.urls[0], headers=embedded.headers(session)) as (_, found):
                assert (await anext(found)).message is None
                path = f"{demo.base}/registries/{embedded.registry}"
                await asyncio.to_thread(demo.installation.call, "PUT", path, {"description": "changed"})
                told = [(await anext(found)).message["method"] for _ in range(3)]
            assert told == [f"notifications/{kind}/list_changed" for kind in ("tools", "resources", "prompts")]

    run(scenario())


def test_a_second_reader_of_a_sessions_stream_replaces_the_first(embedded: Setup) -> None:
    session = opened(embedded)
    headers = embedded.headers(session)

    async def scenario() -> None:
        async with httpx.AsyncClient(timeout=WAIT_S) as client, contextlib.AsyncExitStack() as streams:
            asked = {"headers": headers}
            _, first = await streams.enter_async_context(streaming(client, "GET", embedded.urls[0], **asked))
            await anext(first)
            _, second = await streams.enter_async_context(streaming(client, "GET", embedded.urls[0], **asked))
            await anext(second)
            assert [event async for event in first] == []

    run(scenario())


# -- browsers --------------------------------------------------------------------------------------------------------


def test_browsers_of_configured_origins_may_call(embedded: Setup) -> None:
    ask = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,mcp-session-id",
    }
    preflight = httpx.options(embedded.urls[0], headers=ask)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert preflight.headers["access-control-allow-headers"] == "authorization,mcp-session-id"
    for headers in (embedded.headers(), {}):
        answer = httpx.post(embedded.urls[0], json=initialize(), headers=headers | {"Origin": "https://app.example"})
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"WWW-Authenticate", "Mcp-Session-Id", "X-AG-Trace-Id"} <= set(exposed)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
    foreign = httpx.options(embedded.urls[0], headers=ask | {"Origin": "https://evil.example"})
    assert foreign.status_code == 401
    assert "access-control-allow-origin" not in foreign.headers
    metadata = httpx.get(
        embedded.urls[0].rsplit("/", 2)[0] + "/.well-known/oauth-protected-resource",
        headers={"Origin": "https://app.example"},
    )
    assert metadata.headers["access-control-allow-origin"] == "https://app.example"


# -- several instances -----------------------------------------------------------------------------------------------


def test_a_broken_stream_is_resumed_on_another_instance(cluster: tuple[Cluster, Setup]) -> None:
    _, setup = cluster
    session = opened(setup, 0)

    async def scenario() -> None:
        async with httpx.AsyncClient(timeout=WAIT_S) as client:
            body, headers = call("held", {"key": "resumed"}, token="t", id=5), setup.headers(session)
            async with streaming(client, "POST", setup.urls[0], json=body, headers=headers) as (_, found):
                prime, progress = await anext(found), await anext(found)
            assert prime.message is None and prime.id
            assert progress.message["params"]["progressToken"] == "t"
            resume = headers | {"Last-Event-ID": prime.id}
            async with streaming(client, "GET", setup.urls[1], headers=resume) as (_, found):
                again = await anext(found)
                assert (again.id, again.message) == (progress.id, progress.message)
                setup.release("resumed")
                answer = await anext(found)
                assert answer.message["id"] == 5
                assert answer.message["result"]["content"][0]["text"] == "held resumed"
                assert [event async for event in found] == []
            # Anybody who comes later still finds the end.
            async with streaming(client, "GET", setup.urls[0], headers=headers | {"Last-Event-ID": again.id}) as (_, f):
                assert [event.message["id"] async for event in f] == [5]

    run(scenario())


def test_an_answer_to_a_question_may_reach_another_instance(cluster: tuple[Cluster, Setup]) -> None:
    _, setup = cluster
    answer = httpx.post(setup.urls[0], json=initialize(sampling={}), headers=setup.headers())
    session = answer.headers["mcp-session-id"]

    async def scenario() -> None:
        async with httpx.AsyncClient(timeout=WAIT_S) as client:
            body, headers = call("test_sampling", {"prompt": "hello"}, id=9), setup.headers(session)
            async with streaming(client, "POST", setup.urls[0], json=body, headers=headers) as (_, found):
                question = (await anext(event async for event in found if event.message)).message
                assert question["method"] == "sampling/createMessage"
                result = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "hi"}}
                response = {"jsonrpc": "2.0", "id": question["id"], "result": result}
                told = await client.post(setup.urls[1], json=response, headers=headers)
                assert told.status_code == 202
                answer = (await anext(event async for event in found if event.message)).message
            assert answer["result"]["content"][0]["text"] == "LLM response: hi"

    run(scenario())


def test_a_call_is_cancelled_from_another_instance(cluster: tuple[Cluster, Setup]) -> None:
    _, setup = cluster
    before = seen(setup)["cancelled"]
    session = opened(setup, 0)
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 3}}

    async def scenario() -> None:
        async with httpx.AsyncClient(timeout=WAIT_S) as client:
            body, headers = call("endless", token=1, id=3), setup.headers(session)
            async with streaming(client, "POST", setup.urls[0], json=body, headers=headers) as (_, found):
                await anext(found)
                assert (await client.post(setup.urls[1], json=cancel, headers=headers)).status_code == 202
                async for _event in found:
                    pass
            await until_cancelled(setup, before + 1)

    run(scenario())


def test_a_session_ends_on_every_instance(cluster: tuple[Cluster, Setup]) -> None:
    _, setup = cluster
    session = opened(setup, 0)

    async def scenario() -> None:
        async with httpx.AsyncClient(timeout=WAIT_S) as client:
            headers = setup.headers(session)
            async with streaming(client, "GET", setup.urls[0], headers=headers) as (_, found):
                await anext(found)
                assert (await client.delete(setup.urls[1], headers=headers)).status_code == 204
                assert [event async for event in found] == []
            assert (await client.post(setup.urls[0], json=request("ping"), headers=headers)).status_code == 404

    run(scenario())


def test_no_session_is_lost_when_an_instance_is_killed(cluster: tuple[Cluster, Setup]) -> None:
    processes, setup = cluster
    victim = processes.start()
    url = f"{processes.endpoints[victim]}/{setup.demo.slug}/mcp"
    count = 100

    async def scenario() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=WAIT_S, limits=limits) as client, contextlib.AsyncExitStack() as streams:
            sessions: list[str] = []
            last: list[str] = []
            for number in range(count):
                answer = await client.post(url, json=initialize(), headers=setup.headers())
                sessions.append(answer.headers["mcp-session-id"])
                body = call("held", {"key": "never"}, token=number, id=number)
                headers = setup.headers(sessions[-1])
                _, found = await streams.enter_async_context(streaming(client, "POST", url, json=body, headers=headers))
                prime, progress = await anext(found), await anext(found)
                assert progress.message["params"]["progressToken"] == number
                last.append(prime.id)
            await asyncio.to_thread(processes.kill, victim)
            with contextlib.suppress(httpx.HTTPError):
                await streams.aclose()

            async def goes_on(number: int) -> None:
                headers = setup.headers(sessions[number])
                other = setup.urls[number % 2]
                listed = await client.post(other, json=request("tools/list"), headers=headers)
                assert listed.json()["result"]["tools"]
                resume = headers | {"Last-Event-ID": last[number]}
                async with streaming(client, "GET", other, headers=resume) as (_, found):
                    messages = [event.message async for event in found]
                assert messages[0]["params"]["progressToken"] == number
                assert messages[1]["id"] == number
                assert messages[1]["error"]["message"] == "the instance that served this request was lost"
                assert len(messages) == 2

            await asyncio.gather(*(goes_on(number) for number in range(count)))

    asyncio.run(asyncio.wait_for(scenario(), 100))


# -- workers of one machine ------------------------------------------------------------------------------------------


def test_workers_without_redis_share_sessions(everything: str, tmp_path: pathlib.Path) -> None:
    with installed(tmp_path, "all", TRUSTGATE_WORKERS="2") as running:
        setup = Setup(running, [running.mcp], everything)
        session = opened(setup)
        for _ in range(12):  # each connection meets the worker that the kernel chooses
            assert httpx.post(setup.urls[0], json=request("ping"), headers=setup.headers(session)).status_code == 200

        async def scenario() -> None:
            async with httpx.AsyncClient(timeout=WAIT_S) as client:
                body, headers = call("held", {"key": "workers"}, token="t", id=5), setup.headers(session)
                async with streaming(client, "POST", setup.urls[0], json=body, headers=headers) as (_, found):
                    prime, _ = await anext(found), await anext(found)
                setup.release("workers")
                for _ in range(6):
                    async with httpx.AsyncClient(timeout=WAIT_S) as other:
                        resume = headers | {"Last-Event-ID": prime.id}
                        async with streaming(other, "GET", setup.urls[0], headers=resume) as (_, found):
                            messages = [event.message async for event in found]
                    assert messages[-1]["result"]["content"][0]["text"] == "held workers"

        run(scenario())
