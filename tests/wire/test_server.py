"""What a client sees on the listener: framing, keep-alive, pipelining, header spelling, plain ASGI."""

from typing import Any

import pytest
import trio

from tests.wire.peers import echo, serving
from trustgate.wire.response_head import HeaderBlock


async def test_a_buffered_answer_has_exactly_the_headers_of_the_application_and_a_length() -> None:
    async with serving(echo) as at:
        client = await at.connect()
        await client.send(b"GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n")
        head, body = await client.answer()
    assert head == (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Ag-Trace-Id: t1\r\nContent-Length: 11\r\n\r\n")
    assert body == b"GET /a?b=c "


async def test_a_connection_serves_many_requests_and_pipelined_ones_are_answered_in_order() -> None:
    async with serving(echo) as at:
        client = await at.connect()
        await client.send(
            b"".join(b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx" % n for n in range(100))
        )
        for n in range(100):
            _, body = await client.answer()
            assert body == b"POST /%d x" % n
        assert at.server.statistics().accepted == 1


async def test_pipelined_requests_after_a_chunked_one_are_answered() -> None:
    async with serving(echo) as at:
        client = await at.connect()
        head = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(
            head + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\n" + b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n"
        )
        assert (await client.answer())[1] == b"POST /a abcde"
        assert (await client.answer())[1] == b"GET /b "


@pytest.mark.parametrize("step", [1, 7, 64])
async def test_a_request_may_arrive_in_pieces_of_any_size(step: int) -> None:
    request = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 300\r\n\r\n" + b"x" * 300
    async with serving(echo) as at:
        client = await at.connect()
        for index in range(0, len(request), step):
            await client.send(request[index : index + step])
        assert (await client.answer())[1] == b"POST /a " + b"x" * 300


async def test_expect_100_continue_is_answered_before_the_body() -> None:
    async with serving(echo) as at:
        client = await at.connect()
        await client.send(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hi")
        assert (await client.answer())[1] == b"POST /a hi"


async def test_head_gets_the_headers_of_get_and_no_body() -> None:
    async with serving(echo) as at:
        client = await at.connect()
        await client.send(b"HEAD /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b"\r\nContent-Length: 8\r\n" in await client.until(b"\r\n\r\n")
        assert (await client.answer())[1] == b"GET /b "


async def test_http_10_is_answered_as_11_and_closed() -> None:
    async with serving(echo) as at:
        answer = await at.exchange(b"GET /a HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\nGET /a ")


async def test_connection_close_is_honoured() -> None:
    async with serving(echo) as at:
        answer = await at.exchange(b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nGET /a ")


async def test_absolute_form_replaces_host() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await scope["extensions"]["trustgate"]["respond"](200, [], dict(scope["headers"])[b"host"] + scope["raw_path"])

    async with serving(app) as at:
        client = await at.connect()
        await client.send(b"GET http://other:81/p HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.answer())[1] == b"other:81/p"


def streaming(*parts: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    return app


async def test_a_streamed_answer_is_chunked_and_the_connection_stays() -> None:
    async with serving(streaming(b"abc", b"", b"0123456789")) as at:
        client = await at.connect()
        for _ in range(2):
            await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            assert await client.until(b"0\r\n\r\n") == b"3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n"


async def test_a_streamed_answer_to_http_10_ends_with_the_connection() -> None:
    async with serving(streaming(b"abc", b"def")) as at:
        assert await at.exchange(b"GET / HTTP/1.0\r\n\r\n") == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcdef"


async def test_a_streamed_answer_with_a_declared_length_is_not_chunked() -> None:
    async with serving(streaming(b"abc", b"def", headers=((b"content-length", b"6"),))) as at:
        client = await at.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.answer())[1] == b"abcdef"


@pytest.mark.parametrize("parts", [(b"abcdefg",), (b"abc",)], ids=["too long", "too short"])
async def test_a_body_that_breaks_its_declared_length_ends_the_connection(parts: tuple[bytes, ...]) -> None:
    async with serving(streaming(*parts, headers=((b"content-length", b"6"),))) as at:
        answer = await at.exchange(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert len(answer.partition(b"\r\n\r\n")[2]) < 6


async def test_the_head_of_a_stream_is_sent_before_its_first_event() -> None:
    go_on = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"x"})

    async with serving(app) as at:
        client = await at.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await client.until(b"\r\n\r\n")
        go_on.set()
        assert await client.until(b"0\r\n\r\n") == b"1\r\nx\r\n0\r\n\r\n"


async def test_plain_asgi_receives_the_whole_body_and_answers() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert message["more_body"] is False
        await send({"type": "http.response.start", "status": 201, "headers": [(b"X-Mixed-case", b"v")]})
        await send({"type": "http.response.body", "body": message["body"]})
        assert (await receive())["type"] == "http.disconnect"

    async with serving(app) as at:
        client = await at.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
        head, body = await client.answer()
    assert head == b"HTTP/1.1 201 Created\r\nX-Mixed-Case: v\r\nContent-Length: 3\r\n\r\n"
    assert body == b"abc"


async def test_a_crash_before_the_answer_is_a_500_and_the_server_lives_on() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/crash":
            raise ValueError("secret")
        await echo(scope, receive, send)

    async with serving(app) as at:
        answer = await at.exchange(b"GET /crash HTTP/1.1\r\nHost: h\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert answer.endswith(b'{"error":"Internal server error"}')
        assert b"200 OK" in await at.exchange(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")


async def test_a_crash_within_a_stream_never_looks_like_its_end() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        raise ValueError

    async with serving(app) as at:
        answer = await at.exchange(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert answer.endswith(b"3\r\nabc\r\n")
        assert (await at.exchange(b"GET / HTTP/1.0\r\n\r\n")).endswith(b"<reset>")


@pytest.mark.parametrize(
    "field", [(b"x", b"a\r\nInjected: 1"), (b"x", b"a\0"), (b"a b", b"c"), (b"a:b", b"c"), (b"", b"c")]
)
async def test_a_header_that_would_break_the_framing_is_not_sent(field: tuple[bytes, bytes]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await scope["extensions"]["trustgate"]["respond"](200, [field], b"")

    async with serving(app) as at:
        answer = await at.exchange(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"Injected" not in answer


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body_have_no_length(status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await scope["extensions"]["trustgate"]["respond"](status, [], b"ignored")

    async with serving(app) as at:
        answer = await at.exchange(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert answer.count(b"\r\n") == 3
    assert answer.endswith(b"\r\nConnection: close\r\n\r\n")


async def test_a_large_answer_arrives_whole_through_a_slow_reader() -> None:
    body = bytes(range(256)) * 40_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await scope["extensions"]["trustgate"]["respond"](200, [], body)

    async with serving(app) as at:
        client = await at.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        await client.until(b"\r\n\r\n")
        assert await client.to_the_end() == body


async def test_a_prepared_block_of_headers_goes_out_with_the_others() -> None:
    block = HeaderBlock.of([(b"x-frame-options", b"DENY"), (b"content-length", b"9")])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await scope["extensions"]["trustgate"]["respond"](200, [(b"a", b"b")], b"x", block)

    async with serving(app) as at:
        client = await at.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        head, _ = await client.answer()
    assert head == b"HTTP/1.1 200 OK\r\nA: b\r\nX-Frame-Options: DENY\r\nContent-Length: 1\r\n\r\n"
