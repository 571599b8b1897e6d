"""The strict grammar of requests, sans-IO and over a socket: a smuggling corpus, and random input."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.peers import echo, serving
from trustgate.wire import request_head
from trustgate.wire.chunked import ChunkedDecoder
from trustgate.wire.request_head import Refused, RequestHead, check_incomplete

HOST = b"Host: h\r\n"

# name -> (request, status). None of these may reach the application, and none of the input may be echoed.
REFUSED: dict[str, tuple[bytes, int]] = {
    "CL and TE": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "TE and CL": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two different CL": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    "two equal CL": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
    "a list as CL": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1, 1\r\n\r\na", 400),
    "negative CL": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", 400),
    "signed CL": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\na", 400),
    "hexadecimal CL": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 0x1\r\n\r\na", 400),
    "CL with underscore": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1_0\r\n\r\n0123456789", 400),
    "CL in foreign digits": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: \xd9\xa1\r\n\r\na", 400),
    "empty CL": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length:\r\n\r\n", 400),
    "huge CL": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
    "TE identity": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: identity\r\n\r\n", 501),
    "TE list": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "TE chunked twice": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501),
    "TE xchunked": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "TE quoted": (b"POST / HTTP/1.1\r\n" + HOST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', 501),
    "two TE": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        400,
    ),
    "TE with vertical tab": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "TE in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "space before the colon": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "tab before the colon": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length\t: 1\r\n\r\na", 400),
    "obs-fold": (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n", 400),
    "folded TE": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "leading space in the first header": (b"GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400),
    "bare LF everywhere": (b"GET / HTTP/1.1\nHost: h\n\n", 400),
    "one bare LF": (b"GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n", 400),
    "bare CR in a value": (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\rY: b\r\n\r\n", 400),
    "NUL in a value": (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", 400),
    "control byte in a value": (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x01b\r\n\r\n", 400),
    "DEL in a value": (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x7fb\r\n\r\n", 400),
    "NUL in a name": (b"GET / HTTP/1.1\r\nHost: h\r\nX\0: a\r\n\r\n", 400),
    "non-ASCII name": (b"GET / HTTP/1.1\r\nHost: h\r\nX\xff: a\r\n\r\n", 400),
    "empty name": (b"GET / HTTP/1.1\r\nHost: h\r\n: a\r\n\r\n", 400),
    "no colon": (b"GET / HTTP/1.1\r\nHost: h\r\nX\r\n\r\n", 400),
    "two Host": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "unknown method": (b"FETCH / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "lower-case method": (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "tab as separator": (b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "space in the target": (b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "control byte in the target": (b"GET /a\x01 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "relative target": (b"GET a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "user info in an absolute target": (b"GET http://a@b/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "trailing space after the version": (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    "no version": (b"GET /\r\n" + HOST + b"\r\n", 400),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 400),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "lower-case protocol": (b"GET / http/1.1\r\n" + HOST + b"\r\n", 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "unknown expectation": (b"POST / HTTP/1.1\r\n" + HOST + b"Expect: magic\r\nContent-Length: 1\r\n\r\na", 417),
}


def parse(data: bytes) -> RequestHead:
    return request_head.parse(data, data.index(b"\r\n\r\n"))


CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
BROKEN_CHUNKS: dict[str, bytes] = {
    "not hexadecimal": b"g\r\n",
    "empty size": b"\r\n",
    "negative size": b"-1\r\n",
    "0x prefix": b"0x1\r\na\r\n0\r\n\r\n",
    "underscore": b"1_0\r\n",
    "size too long": b"0000000000000001\r\na\r\n0\r\n\r\n",
    "overflowing size": b"ffffffffffffffff\r\n",
    "leading space": b" 1\r\na\r\n0\r\n\r\n",
    "bare LF after the size": b"1\na\r\n0\r\n\r\n",
    "bare LF after the data": b"1\r\na\n0\r\n\r\n",
    "data longer than its size": b"1\r\nab\r\n0\r\n\r\n",
    "control byte in an extension": b"1;a\x00\r\na\r\n0\r\n\r\n",
    "bare CR in an extension": b"1;a\rb\r\na\r\n0\r\n\r\n",
    "trailer without a colon": b"0\r\nX\r\n\r\n",
    "folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
    "endless extension": b"1;" + b"a" * 5000,
    "endless trailers": b"0\r\n" + b"X: " + (b"y" * 1000 + b"\r\nX: ") * 100,
}


@pytest.mark.parametrize("case", REFUSED)
async def test_ambiguous_and_malformed_requests_are_refused(case: str) -> None:
    request, status = REFUSED[case]
    async with serving(echo) as at:
        answer = await at.exchange(request)
        assert at.server.requests == 0
    assert re.match(rb"HTTP/1\.1 %d [A-Za-z ]+\r\n" % status, answer), answer
    assert b"Content-Type: text/plain; charset=utf-8\r\n" in answer
    assert b"Connection: close\r\n" in answer
    assert answer.partition(b"\r\n\r\n")[2] in TEXTS


TEXTS = {
    b"Bad Request",
    b"Invalid http method",
    b"Missing Host header",
    b"Invalid Content-Length",
    b"HTTP Version Not Supported",
    b"Not Implemented",
    b"Expectation Failed",
}


@pytest.mark.parametrize("case", BROKEN_CHUNKS)
async def test_malformed_chunked_bodies_are_refused(case: str) -> None:
    async with serving(echo) as at:
        answer = await at.exchange(CHUNKED + BROKEN_CHUNKS[case])
        assert at.server.requests == 0
    assert answer.startswith(b"HTTP/1.1 400 "), answer


async def test_the_unknown_method_text_is_the_documented_one() -> None:
    async with serving(echo) as at:
        answer = await at.exchange(REFUSED["unknown method"][0])
    assert answer.endswith(b"\r\n\r\nInvalid http method")


async def test_nothing_after_a_refused_request_is_served() -> None:
    async with serving(echo) as at:
        answer = await at.exchange(REFUSED["two different CL"][0] + b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"smuggled" not in answer


ACCEPTED: dict[str, tuple[bytes, bytes]] = {
    "empty line before the request": (b"\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", b"/a"),
    "empty Host": (b"GET /a HTTP/1.1\r\nHost:\r\n\r\n", b"/a"),
    "no space after the colon": (b"GET /a HTTP/1.1\r\nHost:h\r\n\r\n", b"/a"),
    "latin-1 value": (b"GET /a HTTP/1.1\r\nHost: h\r\nX: \xe9\r\n\r\n", b"/a"),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", b"*"),
    "absolute form": (b"GET http://h/a?b HTTP/1.1\r\nHost: h\r\n\r\n", b"/a?b"),
    "absolute form without path": (b"GET http://h?b HTTP/1.1\r\nHost: h\r\n\r\n", b"/?b"),
    "HTTP/1.0 without Host": (b"GET /a HTTP/1.0\r\n\r\n", b"/a"),
}


@pytest.mark.parametrize("case", ACCEPTED)
async def test_unusual_but_valid_requests_are_served(case: str) -> None:
    request, target = ACCEPTED[case]
    async with serving(echo) as at:
        client = await at.connect()
        await client.send(request)
        assert (await client.answer())[1].split(b" ")[1] == target


def test_values_lose_only_surrounding_whitespace() -> None:
    head = parse(b"GET / HTTP/1.1\r\nHost: \t h \t\r\nX: a  b\r\n\r\n")
    assert head.headers == [(b"host", b"h"), (b"x", b"a  b")]


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_refused_with_a_fixed_text(data: bytes) -> None:
    for candidate in (data, b"GET / HTTP/1.1\r\n" + data, b"POST / HTTP/1.1\r\nHost: h\r\n" + data):
        try:
            check_incomplete(candidate, 0)
            head = parse(candidate + b"\r\n\r\n")
        except Refused as refusal:
            assert refusal.text.encode() in TEXTS
        else:
            assert isinstance(head, RequestHead)


TOKEN = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=12).map(str.encode)
VALUE = st.text("abc ,;=\t\"'()xyz\xe9", max_size=30).map(lambda text: text.encode("latin-1").strip(b" \t"))


@given(st.lists(st.tuples(TOKEN.map(lambda name: b"x-" + name.lower()), VALUE), max_size=8), st.binary(max_size=20))
def test_every_valid_head_is_read_back_exactly(headers: list[tuple[bytes, bytes]], rest: bytes) -> None:
    lines = b"".join(b"%b: %b\r\n" % field for field in headers)
    data = b"PUT /p HTTP/1.1\r\nhost: h\r\n" + lines + b"\r\n"
    head = parse(data + rest)
    assert head.headers == [(b"host", b"h"), *headers]


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=10), st.data())
def test_chunked_bodies_survive_any_splitting(parts: list[bytes], data: Any) -> None:
    coded = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\nREST"
    decoder = ChunkedDecoder(10_000)
    at = 0
    while at < len(coded) and not decoder.done:
        step = data.draw(st.integers(1, 40))
        decoder.feed(coded[at : at + step])
        at += step
    assert decoder.done
    assert decoder.body() == b"".join(parts)
    assert (decoder.rest + coded[at:]) == b"REST"


@given(st.binary(max_size=200))
def test_any_bytes_as_a_chunked_body_are_decoded_or_refused(data: bytes) -> None:
    decoder = ChunkedDecoder(1000)
    try:
        decoder.feed(data)
    except Refused as refusal:
        assert refusal.status in (400, 413)
    assert len(decoder.body()) <= 1000
