"""Calls of a session whose client has left run on for a while; how many do is bounded."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import trio

from tests.mcp.upstream_server import Faulty, event, serving
from tests.mcp.world import KEY, SLUG, World, registry, world
from trustgate.limits.bus import LocalBus
from trustgate.limits.shared import LocalState
from trustgate.mcp import hub
from trustgate.mcp.hub import Hub

BOTH = "application/json, text/event-stream"


def test_how_many_calls_run_on_is_bounded_by_session_and_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MAX_LEFT", 20)
    one = Hub(LocalState(lambda: 0.0), LocalBus())
    assert all(one.leave_running("a") for _ in range(16))
    assert not one.leave_running("a")
    assert [one.leave_running("b") for _ in range(5)] == [True] * 4 + [False]
    one.left_ended("a")
    assert one.leave_running("a")


async def begin_and_leave(at: World, session: str) -> None:
    """A call whose client goes after the first event of its stream."""
    params = {"name": "echo", "_meta": {"progressToken": 7}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    lines = [f"POST /{SLUG}/mcp HTTP/1.1", "Host: x", f"X-AG-API-Key: {KEY}", f"Accept: {BOTH}"]
    lines += [f"Mcp-Session-Id: {session}", f"Content-Length: {len(body)}"]
    stream = await trio.open_tcp_stream("127.0.0.1", at.port)
    async with stream:
        await stream.send_all("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        seen = b""
        while b"notifications/progress" not in seen:
            seen += await stream.receive_some()


@pytest.mark.parametrize("room", [0, 1])
async def test_a_call_that_may_not_run_on_is_cancelled_when_its_client_leaves(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "MAX_LEFT_OF_SESSION", room)
    release = threading.Event()

    def progress(handler: Any, message: Any) -> None:
        token = message["params"]["_meta"]["progressToken"]
        note = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}}
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(event(note))
        handler.close_connection = True
        release.wait(20)
        handler.wfile.write(event(handler.response(message)))

    faulty = Faulty().fail("tools/call", progress)
    with serving(faulty), trio.fail_after(20):
        async with world(registry("r-1", faulty.url)) as at:
            body = {"jsonrpc": "2.0", "id": 1, "method": "initialize"}
            _, headers, _ = await at.send(body, Accept=BOTH)
            await begin_and_leave(at, headers["mcp-session-id"])
            if room:
                release.set()
            while len(at.services.hub):  # noqa: ASYNC110
                await trio.sleep(0.01)
            while not room and not faulty.asked("notifications/cancelled"):  # noqa: ASYNC110
                await trio.sleep(0.01)
            assert bool(faulty.asked("notifications/cancelled")) is not bool(room)
            release.set()
