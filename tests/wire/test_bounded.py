"""Limits of an application that another server serves: what is refused, and what reaches it whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

from trustgate.wire.bounded import bounded
from trustgate.wire.server import ServerConfig

CONFIG = ServerConfig(max_head_bytes=200, max_body_bytes=10, read_timeout_s=5)
Message = dict[str, Any]


def part(body: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


LEFT: Message = {"type": "http.disconnect"}


class Peer:
    """Both ends of a request: what the client sends, and what the application and the client got."""

    def __init__(self, messages: Sequence[Message], headers: Sequence[tuple[bytes, bytes]], version: str) -> None:
        self._messages = list(messages)
        self.scope: Message = {
            "type": "http", "http_version": version, "method": "POST", "raw_path": b"/x", "query_string": b"",
            "headers": list(headers),
        }  # fmt: skip
        self.seen: list[Message] = []
        self.sent: list[Message] = []

    @property
    def unread(self) -> int:
        return len(self._messages)

    async def receive(self) -> Message:
        if not self._messages:
            await trio.sleep_forever()
        return self._messages.pop(0)

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def run(self) -> Peer:
        async def app(scope: Message, receive: Any, send: Any) -> None:
            self.seen += [await receive(), await receive()]
            await send({"type": "http.response.start", "status": 200, "headers": []})

        await bounded(app, CONFIG)(self.scope, self.receive, self.send)
        return self


async def asked(*messages: Message, headers: Sequence[tuple[bytes, bytes]] = (), version: str = "1.1") -> Peer:
    return await Peer(messages, headers, version).run()


async def test_a_body_arrives_whole_and_what_follows_it_after_it() -> None:
    peer = await asked(part(b"01234", more=True), part(b"56789"), LEFT)
    assert peer.seen == [part(b"0123456789"), LEFT]
    assert peer.sent[0]["status"] == 200


@pytest.mark.parametrize(
    ("messages", "headers", "status", "text"),
    [
        ([part(b"0" * 11)], [], 413, b"Request Entity Too Large"),
        ([part(b"0" * 6, more=True), part(b"0" * 6, more=True)], [], 413, b"Request Entity Too Large"),
        ([], [(b"content-length", b"11")], 413, b"Request Entity Too Large"),
        ([part(b"")], [(b"x", b"0" * 200)], 431, b"Request Header Fields Too Large"),
        ([part(b"0", more=True)], [], 408, b"Request Timeout"),
    ],
)
async def test_what_is_too_large_or_too_slow_is_refused(
    messages: list[Message],
    headers: list[tuple[bytes, bytes]],
    status: int,
    text: bytes,
    autojump_clock: trio.testing.MockClock,
) -> None:
    peer = await asked(*messages, headers=headers)
    start, end = peer.sent
    assert (start["status"], end["body"], peer.seen) == (status, text, [])
    fields = dict(start["headers"])
    assert fields[b"content-type"] == b"text/plain; charset=utf-8"
    assert (fields[b"content-length"], fields[b"connection"]) == (b"%d" % len(text), b"close")


@pytest.mark.parametrize(
    ("messages", "headers"),
    [
        ([part(b"0" * 10, more=True), part(b"0")], [(b"content-length", b"11")]),
        ([part(b"0" * 10, more=True), part(b"0", more=True), part(b"0" * 15, more=True), part(b"0")], []),
    ],
)
async def test_a_refused_client_may_end_a_body_up_to_twice_the_limit(
    messages: list[Message], headers: list[tuple[bytes, bytes]]
) -> None:
    peer = await asked(*messages, headers=headers, version="2")
    assert (peer.sent[0]["status"], peer.unread) == (413, 0)


async def test_a_refused_client_may_not_go_on_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    peer = await asked(*[part(b"0" * 10, more=True)] * 9, headers=[(b"content-length", b"99")])
    assert (peer.sent[0]["status"], peer.unread) == (413, 7)


async def test_http_2_has_no_connection_header() -> None:
    peer = await asked(part(b"0" * 11), version="2")
    assert b"connection" not in dict(peer.sent[0]["headers"])


async def test_a_request_whose_client_left_is_not_served_in_part() -> None:
    peer = await asked(part(b"{", more=True), LEFT)
    assert (peer.seen, peer.sent) == ([], [])
