"""What AWS sends back: error bodies, counts in headers, binary event streams cut anywhere."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustgate.providers.aws_answers import FrameRelay, error_body, with_token_counts
from trustgate.providers.errors import StreamBroken


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One message of the event stream encoding (Amazon's `vnd.amazon.eventstream`)."""
    block = b"".join(
        struct.pack("!B", len(name)) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    total = 12 + len(block) + len(payload) + 4
    prelude = struct.pack("!II", total, len(block))
    message = prelude + struct.pack("!I", binascii.crc32(prelude)) + block + payload
    return message + struct.pack("!I", binascii.crc32(message))


def chunk(event: bytes) -> bytes:
    headers = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, json.dumps({"bytes": base64.b64encode(event).decode(), "p": "ab"}).encode())


THROTTLED = frame(
    {":exception-type": "throttlingException", ":message-type": "exception"}, b'{"message":"internal text"}'
)


class Kept:
    """An inner relay that keeps what it is fed."""

    def __init__(self) -> None:
        self.seen = b""
        self.done = False

    def feed(self, data: bytes) -> bytes:
        self.seen += data
        return data

    def end(self) -> bytes:
        return b"END"

    def fail(self) -> bytes:
        return b"FAIL"


def relay() -> Any:
    return FrameRelay(Kept())  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_frames_become_the_same_lines_however_they_are_cut(cuts: list[int]) -> None:
    data = chunk(b'{"a":1}') + chunk(b'{"b":\n2}')
    made, out, start = relay(), b"", 0
    for size in [*cuts, len(data)]:
        out += made.feed(data[start : start + size])
        start += size
    assert out == b'data: {"a":1}\n\ndata: {"b": 2}\n\n'
    assert made.end() == b"END"
    assert made.fail() == b"FAIL"


def test_events_that_are_no_chunks_are_left_out() -> None:
    assert relay().feed(frame({":event-type": "initial-response", ":message-type": "event"}, b"{}")) == b""


def test_an_exception_breaks_the_stream_after_what_came_before_it() -> None:
    made = relay()
    assert made.feed(chunk(b"{}") + THROTTLED) == b"data: {}\n\n"
    with pytest.raises(StreamBroken, match="throttlingException"):
        made.end()


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\n\r\n", chunk(b"{}")[:-1] + b"\x00", THROTTLED])
def test_bytes_that_are_no_events_break_the_stream(data: bytes) -> None:
    with pytest.raises(StreamBroken):
        relay().feed(data)


def test_a_chunk_that_holds_no_bytes_breaks_the_stream() -> None:
    with pytest.raises(StreamBroken):
        relay().feed(frame({":event-type": "chunk", ":message-type": "event"}, b'{"bytes":"*"}'))


def test_a_stream_that_ends_inside_a_message_is_broken() -> None:
    made = relay()
    made.feed(chunk(b"{}")[:-3])
    with pytest.raises(StreamBroken, match="inside a message"):
        made.end()


ERRORS = [
    (
        b'{"message":"Too many requests"}',
        ((b"x-amzn-errortype", b"ThrottlingException:http://internal.amazon.com/x"),),
        {"error": "ThrottlingException", "message": "Too many requests"},
    ),
    (
        b'{"__type":"com.amazon.coral#ValidationException","Message":"bad"}',
        (),
        {"error": "ValidationException", "message": "bad"},
    ),
    (b'{"message":"no code"}', (), {"message": "no code"}),
    (b"<html>", (), {"message": "<html>"}),
    (b"", (), {"message": "upstream status 503"}),
]


@pytest.mark.parametrize(("body", "headers", "expected"), ERRORS)
def test_an_error_is_told_by_its_code_and_message(
    body: bytes, headers: tuple[tuple[bytes, bytes], ...], expected: dict[str, str]
) -> None:
    assert json.loads(error_body(503, body, headers)) == expected


COUNTS = ((b"x-amzn-bedrock-input-token-count", b"7"), (b"x-amzn-bedrock-output-token-count", b"3"))


def test_token_counts_of_the_headers_are_spliced_in_unless_the_body_has_its_own() -> None:
    spliced = json.loads(with_token_counts(b'{"generation":"x","n":1.50}', COUNTS))
    assert spliced["amazon-bedrock-invocationMetrics"] == {"inputTokenCount": 7, "outputTokenCount": 3}
    own = b'{"amazon-bedrock-invocationMetrics":{"inputTokenCount":1}}'
    assert with_token_counts(own, COUNTS) is own
    for body in (b"<html>", b"[]"):
        assert with_token_counts(body, COUNTS) is body
    assert with_token_counts(b"{}", ((b"x-amzn-bedrock-input-token-count", b"x"),)) == b"{}"
