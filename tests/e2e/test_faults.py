"""Every fault of an upstream: what the client sees, and how many attempts were made (spec 02 §8, §9)."""

from __future__ import annotations

import http.client
import json
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.installation import Demo, Installation, installed
from tests.e2e.upstream import TEXT, FaultyUpstream

BACKEND_ERROR = {"error": "backend_error"}
TERMINATED = "upstream stream terminated unexpectedly"


pytestmark = pytest.mark.usefixtures("nothing_received")


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[str]:
        return [line[6:] for line in self.body.decode().splitlines() if line.startswith("data: ")]

    @property
    def text(self) -> str:
        """What the stream's deltas spell."""
        found = [json.loads(event) for event in self.events if event != "[DONE]"]
        choices = [choice for event in found for choice in event.get("choices", [])]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


def ask(demo: Demo, body: bytes | None = None, path: str = "/v1/chat/completions", **members: Any) -> Answer:
    where = urlsplit(demo.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    payload = body if body is not None else json.dumps({"messages": [{"role": "user", "content": "Hi"}]} | members)
    headers = demo.headers | {"Content-Type": "application/json"}
    try:
        connection.request("POST", where.path + path, payload, headers)
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def single(installation: Installation, upstream: FaultyUpstream, name: str) -> Demo:
    demo = Demo(installation)
    demo.registry("only", upstream.url(name))
    return demo.open()


def pair(installation: Installation, upstream: FaultyUpstream, name: str, **consumer: Any) -> Demo:
    """A pool of the faulty upstream and then a good one."""
    demo = Demo(installation)
    demo.registry("faulty", upstream.url(name))
    demo.registry("good", upstream.url("ok"))
    return demo.open(**consumer)


# behaviour, status, body (None: relayed from the upstream as it is), attempts
BUFFERED = [
    ("drop", 502, BACKEND_ERROR, 3),
    ("reset", 502, BACKEND_ERROR, 3),
    ("half-head", 502, BACKEND_ERROR, 3),
    ("half-body", 502, BACKEND_ERROR, 3),
    ("bad-chunk", 502, BACKEND_ERROR, 3),
    ("408", 408, None, 3),
    ("429", 429, None, 3),
    ("429-now", 429, None, 3),
    ("429-later", 429, None, 3),
    ("500", 500, None, 3),
    ("502", 502, None, 3),
    ("503", 503, None, 3),
    ("529", 529, None, 3),
    ("400", 400, None, 1),
    ("401", 401, None, 1),
    ("404", 404, None, 1),
]


@pytest.mark.parametrize(("name", "status", "body", "attempts"), BUFFERED, ids=[row[0] for row in BUFFERED])
def test_a_failing_upstream_is_retried_and_its_last_answer_relayed(
    name: str, status: int, body: Any, attempts: int, installation: Installation, upstream: FaultyUpstream
) -> None:
    answer = ask(single(installation, upstream, name), model="m")
    assert answer.status == status
    assert answer.json == (body or {"error": {"message": f"status {name.split('-')[0]}", "type": "t"}})
    assert len(upstream.requests(name)) == attempts
    assert ("x-selected-provider" in answer.headers) is (body is None)


RETRYABLE = [row[0] for row in BUFFERED if row[3] > 1]


@pytest.mark.parametrize("name", RETRYABLE)
@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
def test_a_pool_goes_on_to_its_next_registry(
    name: str, stream: bool, installation: Installation, upstream: FaultyUpstream
) -> None:
    answer = ask(pair(installation, upstream, name), stream=stream)
    assert answer.status == 200
    text = answer.text if stream else answer.json["choices"][0]["message"]["content"]
    assert text == TEXT
    # A Retry-After beyond what we wait for ends the tries of that registry at once.
    assert len(upstream.requests(name)) == (1 if name == "429-later" else 3)
    assert len(upstream.requests("ok")) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
def test_a_request_that_names_a_model_stays_where_it_is(
    stream: bool, installation: Installation, upstream: FaultyUpstream
) -> None:
    answer = ask(pair(installation, upstream, "503"), model="m", stream=stream)
    assert (answer.status, len(upstream.requests("503")), upstream.requests("ok")) == (503, 3, [])


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
def test_a_named_model_may_fail_over_where_the_consumer_says_so(
    stream: bool, installation: Installation, upstream: FaultyUpstream
) -> None:
    demo = Demo(installation)
    first, second = demo.registry("faulty", upstream.url("503")), demo.registry("good", upstream.url("ok"))
    fallback = {"enabled": True, "triggers": ["http_5xx"], "budget": {"max_attempts": 0}, "chain": [second]}
    demo.open(fallback=fallback | {"pinned": "same_model"})
    answer = ask(demo, model="m", stream=stream)
    assert (answer.status, len(upstream.requests("503")), len(upstream.requests("ok"))) == (200, 3, 1)
    assert first


@pytest.mark.parametrize("trigger", [True, False])
def test_an_error_inside_a_success_fails_over_only_with_its_trigger(
    trigger: bool, installation: Installation, upstream: FaultyUpstream
) -> None:
    demo = Demo(installation)
    demo.registry("faulty", upstream.url("error-inside"))
    chained = demo.registry("good", upstream.url("ok"))
    triggers = ["provider_error"] if trigger else ["timeout"]
    demo.open(fallback={"enabled": True, "triggers": triggers, "budget": {"max_attempts": 0}, "chain": [chained]})
    answer = ask(demo)
    assert answer.status == 200
    assert ("error" in answer.json) is not trigger
    assert len(upstream.requests("error-inside")) == (3 if trigger else 1)


# behaviour, text the client got, whether the stream ends with an error event
MID_STREAM = [
    ("stream-cut", "Hello from ", True),
    ("stream-reset", "Hello from ", True),
    ("stream-no-done", "Hello from the provider", False),
    ("stream-huge", "", True),
]


@pytest.mark.parametrize(("name", "text", "broken"), MID_STREAM, ids=[row[0] for row in MID_STREAM])
def test_a_stream_that_breaks_says_so_and_is_never_a_success(
    name: str, text: str, broken: bool, installation: Installation, upstream: FaultyUpstream
) -> None:
    answer = ask(single(installation, upstream, name), model="m", stream=True)
    if not text:
        assert answer.status in (200, 502)
        assert answer.status == 502 or TERMINATED in answer.events[-1]
        return
    assert answer.status == 200
    errors = [event for event in answer.events if '"error"' in event]
    assert [TERMINATED in event for event in errors] == ([True] if broken else [])
    assert ("[DONE]" in answer.events) is not broken
    assert (
        "".join(json.loads(e)["choices"][0]["delta"].get("content") or "" for e in answer.events if '"delta"' in e)
        == text
    )
    assert len(upstream.requests(name)) == 1, "no retry once content was sent"


def test_a_stream_that_never_ends_is_ended(tmp_path: Path, upstream: FaultyUpstream) -> None:
    with installed(tmp_path, "run", STREAM_MAX_DURATION="1s") as running:
        answer = ask(single(running, upstream, "stream-endless"), model="m", stream=True)
    assert answer.status == 200
    assert len(answer.events) < 300, "ended long before the upstream did"
    assert TERMINATED in answer.events[-1]


@pytest.mark.parametrize("name", ["stream-role-cut", "stream-error-first"])
def test_before_the_first_content_another_upstream_serves(
    name: str, installation: Installation, upstream: FaultyUpstream
) -> None:
    answer = ask(pair(installation, upstream, name), stream=True)
    assert (answer.status, answer.text) == (200, TEXT)
    assert "[DONE]" in answer.events
    assert not [event for event in answer.events if '"error"' in event]
    assert len(upstream.requests("ok")) == 1


def test_an_error_that_begins_a_stream_is_told_when_no_other_upstream_serves(
    installation: Installation, upstream: FaultyUpstream
) -> None:
    answer = ask(single(installation, upstream, "stream-error-first"), model="m", stream=True)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
    assert answer.headers["x-selected-provider"] == "openai_compatible"
    assert [json.loads(event)["error"]["message"] for event in answer.events if event != "[DONE]"] == ["overloaded"]
    assert len(upstream.requests("stream-error-first")) == 3, "tried again, as nothing had been sent"


@pytest.mark.parametrize(("provider", "bytes_"), [("google", 65536), ("openai_compatible", 70_000)])
def test_of_googles_long_errors_the_beginning_is_relayed(
    provider: str, bytes_: int, installation: Installation, upstream: FaultyUpstream
) -> None:
    demo = Demo(installation)
    demo.registry("long", upstream.url("400-long"), provider=provider)
    answer = ask(demo.open(), model="m")
    assert (answer.status, len(answer.body)) == (400, bytes_)


def test_members_with_odd_names_are_told_in_a_header_that_is_one(
    installation: Installation, upstream: FaultyUpstream
) -> None:
    demo = Demo(installation)
    demo.registry("claude", upstream.url("ok"), provider="anthropic")
    odd: dict[str, Any] = {"a\r\nX-Evil: 1": 1, "b,c": 1, "\u00fc": 1}
    answer = ask(demo.open(), model="m", **odd)
    assert answer.headers["x-ag-untranslated"] == "a%0D%0AX-Evil: 1, b%2Cc, %C3%BC"
    answer = ask(demo, model="m", **{f"{'member' * 10}{number}": 1 for number in range(5000)})
    assert len(answer.headers["x-ag-untranslated"]) < 1100 and answer.headers["x-ag-untranslated"].endswith(", ...")


def test_an_empty_stream_ends_normally(installation: Installation, upstream: FaultyUpstream) -> None:
    answer = ask(single(installation, upstream, "stream-empty"), model="m", stream=True)
    assert (answer.status, len(upstream.requests("stream-empty"))) == (200, 1)


def test_a_malformed_event_is_passed_on_and_the_stream_goes_on(
    installation: Installation, upstream: FaultyUpstream
) -> None:
    answer = ask(single(installation, upstream, "stream-malformed"), model="m", stream=True)
    assert answer.status == 200
    assert b"data: {broken" in answer.body
    assert answer.events[-1] == "[DONE]"


def test_a_compressed_answer_is_read(installation: Installation, upstream: FaultyUpstream) -> None:
    answer = ask(single(installation, upstream, "gzip"), model="m")
    assert (answer.status, answer.json["choices"][0]["message"]["content"]) == (200, TEXT)


def test_a_wrong_content_type_is_relayed_as_json(installation: Installation, upstream: FaultyUpstream) -> None:
    answer = ask(single(installation, upstream, "html"), model="m")
    assert (answer.status, answer.body) == (200, b"<html>not json</html>")
    assert answer.headers["content-type"] == "application/json"


def leave(demo: Demo, upstream: FaultyUpstream, name: str, *, stream: bool) -> float:
    """Ask, wait until the upstream has the request (and the client the first bytes), leave; seconds until noticed."""
    where = urlsplit(demo.url)
    body = json.dumps({"model": "m", "stream": stream, "messages": []}).encode()
    fields = "".join(f"{key}: {value}\r\n" for key, value in demo.headers.items())
    head = f"POST {where.path}/v1/chat/completions HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((where.hostname or "", where.port or 0)) as client:
        client.sendall(head.encode() + body)
        if stream:
            assert client.recv(1)
        deadline = time.monotonic() + 10
        while not upstream.requests(name):
            assert time.monotonic() < deadline, "the upstream got nothing"
            time.sleep(0.005)
    left_at = time.monotonic()
    request = upstream.requests(name)[0]
    assert request.gone.wait(5), "the upstream was not told"
    return request.gone_at - left_at


@pytest.mark.parametrize(("name", "stream"), [("silent", False), ("stream-stall", True)], ids=["buffered", "streamed"])
def test_a_client_that_leaves_closes_the_upstream_at_once(
    name: str, stream: bool, installation: Installation, upstream: FaultyUpstream
) -> None:
    took_s = leave(single(installation, upstream, name), upstream, name, stream=stream)
    assert took_s < 1.0  # 100 ms is the aim; a busy machine may take longer to schedule three processes
    assert len(upstream.requests(name)) == 1, "no retry for nobody"


DEEP = b'{"messages":' + b"[" * 1000 + b"]" * 1000 + b"}"


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b"not json", True),
        (b"[1,2]", True),
        (b"", True),
        (b'{"a":12345678901234567890123,"messages":[]}', True),
        (b'{"messages":[],"messages":[1]}', True),
        (DEEP, True),
        (b'{"messages":"\xff\xfe"}', True),
    ],
    ids=["text", "array", "empty", "huge integer", "duplicate keys", "deep", "broken UTF-8"],
)
def test_odd_bodies_of_the_same_dialect_go_through_byte_for_byte(
    body: bytes, sent: bool, installation: Installation, upstream: FaultyUpstream
) -> None:
    answer = ask(single(installation, upstream, "ok"), body)
    assert answer.status == 200
    assert [request.body for request in upstream.requests("ok")] == [body]


@pytest.mark.parametrize("body", [b"not json", b"[1,2]", DEEP, b'{"messages":"\xff\xfe"}'])
def test_odd_bodies_that_need_translation_are_the_clients_mistake(
    body: bytes, installation: Installation, upstream: FaultyUpstream
) -> None:
    answer = ask(single(installation, upstream, "ok"), body, "/v1/messages")
    assert (answer.status, answer.json["error"], upstream.requests("ok")) == (400, "invalid_request", [])


def test_nothing_reaches_an_upstream_without_authentication_or_past_a_policy(
    installation: Installation, upstream: FaultyUpstream
) -> None:
    demo = single(installation, upstream, "ok")
    good, demo.key = demo.key, "ag_wrong"
    assert ask(demo, model="m").status == 401
    demo.key = good
    demo.policy("request_size_limiter", {"allowed_payload_size": 1, "size_unit": "bytes"})
    assert ask(demo, model="m").status == 413
    assert upstream.requests("ok") == []
