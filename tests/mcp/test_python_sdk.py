"""The official Python SDK as a client that has a session: everything that a session carries, to a running gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import mcp_types as types
import pytest
import trio
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from mcp import ClientSession
from tests.mcp.sessions import WAIT_S, Setup

WATCHED = "test://watched-resource"


class Heard:
    """What the client is told and asked, with conditions to wait for."""

    def __init__(self) -> None:
        self.logs: list[Any] = []
        self.progress: list[tuple[float, float | None, str | None]] = []
        self.notices: list[str] = []
        self.news = trio.Event()

    def _wake(self) -> None:
        self.news.set()
        self.news = trio.Event()

    async def log(self, params: Any) -> None:
        self.logs.append(params.data)
        self._wake()

    async def progressed(self, progress: float, total: float | None, message: str | None) -> None:
        self.progress.append((progress, total, message))
        self._wake()

    async def message(self, message: Any) -> None:
        if isinstance(message, types.ServerNotification):
            self.notices.append(message.method)
            self._wake()

    async def sample(self, context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        said = params.messages[0].content
        text = said.text if isinstance(said, types.TextContent) else ""
        return types.CreateMessageResult(
            role="assistant", content=types.TextContent(type="text", text=text.upper()), model="m"
        )

    async def elicit(self, context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"username": "ada", "email": "ada@example.com"})


@asynccontextmanager
async def connected(setup: Setup, heard: Heard, **more: Any) -> AsyncIterator[ClientSession]:
    with trio.fail_after(WAIT_S):
        async with (
            httpx2.AsyncClient(headers={"X-AG-API-Key": setup.demo.key}, timeout=WAIT_S) as http_client,
            streamable_http_client(setup.urls[0], http_client=http_client) as streams,
            ClientSession(
                *streams[:2],
                sampling_callback=heard.sample,
                elicitation_callback=heard.elicit,
                logging_callback=heard.log,
                message_handler=heard.message,
                **more,
            ) as session,
        ):
            await session.initialize()
            yield session


def text_of(result: Any) -> str:
    return result.content[0].text


async def test_progress_logs_sampling_and_elicitation_reach_the_client(embedded: Setup) -> None:
    heard = Heard()
    async with connected(embedded, heard) as session:
        await session.call_tool("test_tool_with_progress", {}, progress_callback=heard.progressed)
        assert heard.progress == [(0, 100, "at 0"), (50, 100, "at 50"), (100, 100, "at 100")]
        await session.call_tool("test_tool_with_logging", {})
        assert heard.logs == ["Tool execution started", "Tool processing data", "Tool execution completed"]
        assert text_of(await session.call_tool("test_sampling", {"prompt": "hi"})) == "LLM response: HI"
        answer = text_of(await session.call_tool("test_elicitation", {"message": "who?"}))
        assert answer == 'action=accept, content={"username":"ada","email":"ada@example.com"}'


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_log_level_completion_and_subscriptions(embedded: Setup) -> None:
    heard = Heard()
    async with connected(embedded, heard) as session:
        await session.set_logging_level("error")
        await session.call_tool("test_tool_with_logging", {})
        assert heard.logs == []
        reference = types.PromptReference(type="ref/prompt", name="test_prompt_with_arguments")
        completed = await session.complete(reference, {"name": "arg1", "value": "x"})
        assert completed.completion.values == ["x-one", "x-two"]
        await session.subscribe_resource(WATCHED)
        while "notifications/resources/updated" not in heard.notices:
            await trio.to_thread.run_sync(embedded.touch)
            with trio.move_on_after(0.5):
                await heard.news.wait()
        await session.unsubscribe_resource(WATCHED)


async def test_calls_side_by_side_are_answered_each_with_its_own(embedded: Setup) -> None:
    heard = Heard()
    answers: dict[str, str] = {}
    async with connected(embedded, heard) as session, trio.open_nursery() as nursery:

        async def ask(prompt: str) -> None:
            answers[prompt] = text_of(await session.call_tool("test_sampling", {"prompt": prompt}))

        for number in range(20):
            nursery.start_soon(ask, f"p{number}")
    assert answers == {f"p{number}": f"LLM response: P{number}" for number in range(20)}


async def test_a_call_that_the_client_gives_up_is_cancelled_at_the_upstream(embedded: Setup) -> None:
    heard = Heard()
    async with connected(embedded, heard) as session:
        before = json.loads(text_of(await session.call_tool("seen", {})))
        with pytest.raises(MCPError):
            await session.call_tool("endless", {}, read_timeout_seconds=0.5, progress_callback=heard.progressed)
        assert heard.progress
        while json.loads(text_of(await session.call_tool("seen", {})))["cancelled"] == before["cancelled"]:  # noqa: ASYNC110
            await trio.sleep(0.05)


async def test_a_client_that_ends_its_session_leaves_nothing_running(embedded: Setup) -> None:
    heard = Heard()
    async with connected(embedded, heard) as session:
        before = json.loads(text_of(await session.call_tool("seen", {})))
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                await session.call_tool("endless", {}, progress_callback=heard.progressed)

            nursery.start_soon(call)
            while not heard.progress:
                await heard.news.wait()
            nursery.cancel_scope.cancel()
    async with connected(embedded, Heard()) as session:
        while json.loads(text_of(await session.call_tool("seen", {})))["cancelled"] == before["cancelled"]:  # noqa: ASYNC110
            await trio.sleep(0.05)
