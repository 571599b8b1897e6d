"""The stream relay: invariance under cutting, agreement with buffered answers, framing, coalescing, errors."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustgate.formats import streams, translate
from trustgate.formats.errors import LineTooLong
from trustgate.formats.streams import StreamRelay

from . import samples
from .harness import accumulated

CLIENTS = ("openai", "openai_responses", "anthropic", "google", "cohere")
WIRES = tuple(samples.STREAMS)
PAIRS = list(itertools.product(CLIENTS, WIRES))


@pytest.fixture(autouse=True)
def _one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1700000000.5)


def relayed(client: str, wire: str, pieces: list[bytes]) -> bytes:
    relay = StreamRelay(client, wire)
    return b"".join(relay.feed(piece) for piece in pieces) + relay.end()


@given(st.sampled_from(PAIRS), st.booleans(), st.booleans(), st.lists(st.integers(0, 4000), max_size=12))
@settings(max_examples=300, deadline=None)
def test_however_the_upstream_bytes_are_cut_the_client_gets_the_same(
    pair: tuple[str, str], tools: bool, carriage_returns: bool, cuts: list[int]
) -> None:
    data = samples.STREAMS[pair[1]](tools)
    if carriage_returns:
        data = data.replace(b"\n", b"\r\n")
    whole = relayed(*pair, [data])
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert relayed(*pair, pieces) == whole
    assert relayed(*pair, [data[i : i + 1] for i in range(len(data))]) == whole


@pytest.mark.parametrize(("client", "wire"), PAIRS)
@pytest.mark.parametrize("tools", [False, True])
def test_streamed_and_buffered_answers_agree(client: str, wire: str, tools: bool) -> None:
    relay = StreamRelay(client, wire)
    got = accumulated((relay.feed(samples.STREAMS[wire](tools)) + relay.end()).decode())
    assert got["text"] == samples.TEXT
    if client != "cohere":  # the recordings' reader does not know Cohere's calls; the SDK tests do
        calls = [("f", samples.ARGUMENTS), ("g", samples.ARGUMENTS)] if tools else []
        assert [(c["name"], c["arguments"]) for c in got["tool_calls"]] == calls
    assert relay.text == samples.TEXT
    buffered = translate.observe_response(wire, samples.ANSWERS[wire](tools))
    assert relay.observed.finish_reason == buffered.finish_reason == ("tool_calls" if tools else "stop")
    assert relay.observed.usage == buffered.usage and buffered.usage is not None
    assert (relay.observed.id, relay.done) == ("c1", True)


def sent(data: bytes) -> list[Any]:
    lines = [line[5:].strip() for line in data.decode().splitlines() if line.startswith("data:")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_the_stream_ends_with_a_blank_line_after_done_and_nothing_follows() -> None:
    relay = StreamRelay("openai", "openai")
    assert relay.feed(b"data: [DONE]\n\ndata: late\n\n") == b"data: [DONE]\n\n"
    assert relay.feed(b"data: later\n\n") == b"" and relay.end() == b"" and relay.done


def test_a_clean_end_without_a_terminator_is_terminated_for_openai_clients() -> None:
    chunk = b'data: {"id":"s","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'
    assert relayed("openai", "openai", [chunk]) == chunk + b"data: [DONE]\n\n"


def test_a_plain_json_body_passes_line_by_line_without_additions() -> None:
    assert relayed("openai", "openai", [b'{"id":"x",\r\n"a":1}']) == b'{"id":"x",\n"a":1}\n'


def test_a_line_longer_than_two_mebibytes_is_refused_however_it_is_cut() -> None:
    line = b"data: " + b"x" * (streams.MAX_LINE + 1)
    for pieces in ([line + b"\n"], [line[:1000], line[1000:], b"\n"]):
        relay = StreamRelay("openai", "openai")
        with pytest.raises(LineTooLong):
            for piece in pieces:
                relay.feed(piece)


FAILURES = {
    "openai": ({"error": {"message": streams.FAILURE.message, "type": "upstream_error"}}, None),
    "anthropic": ({"type": "error"}, b"event: error\n"),
    "openai_responses": ({"type": "response.failed"}, b"event: response.failed\n"),
    "google": ({}, None),
    "cohere": ({"type": "message-end"}, b"event: message-end\n"),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("same", [True, False])
def test_a_broken_upstream_is_told_in_the_clients_own_dialect(client: str, same: bool) -> None:
    wire = client if same else ("anthropic" if client == "openai" else "openai")
    relay = StreamRelay(client, wire)
    data = samples.STREAMS[wire](True)
    relay.feed(data[: len(data) // 2])
    out = relay.fail()
    event = [e for e in sent(out) if "error" in e][-1]
    members, name = FAILURES[client]
    assert members.items() <= event.items()
    assert event["error"]["message"] == streams.FAILURE.message
    assert event["error"]["type"] == "upstream_error"
    assert out.startswith((b"\n", b"data:", b"event:"))
    assert name is None or name in out
    assert relay.feed(b"data: more\n\n") == b"" == relay.end()


def test_the_failure_of_an_openai_stream_is_one_exact_event() -> None:
    want = b'data: {"error":{"message":"upstream stream terminated unexpectedly","type":"upstream_error"}}\n\n'
    assert StreamRelay("openai", "openai").fail() == StreamRelay("openai", "anthropic").fail() == want


@pytest.mark.parametrize("client", CLIENTS)
def test_an_error_event_of_the_upstream_becomes_one_of_the_client(client: str) -> None:
    upstream = {
        "openai": b'data: {"error":{"message":"boom","type":"server_error"}}\n\n',
        "anthropic": b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"boom"}}\n\n',
        "google": b'data: {"error":{"code":503,"message":"boom","status":"UNAVAILABLE"}}\n\n',
        "openai_responses": b'data: {"type":"response.failed","response":{"error":{"code":"x","message":"boom"}}}\n\n',
    }
    for wire, data in upstream.items():
        relay = StreamRelay(client, wire)
        out = relay.feed(data) + relay.end()
        assert b'"boom"' in out
        assert relay.error is not None and relay.error.message == "boom"


def fragment(**delta: Any) -> bytes:
    return (
        b"data: "
        + samples.dump({"id": "s", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}).encode()
        + b"\n\n"
    )


def test_fragments_of_several_calls_are_merged_by_index_and_sorted() -> None:
    second = {"index": 1, "id": "b", "type": "custom", "custom": {"name": "g", "input": "x"}}
    more = {"index": 1, "custom": {"input": "y"}}
    first = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}
    rest = {"index": 0, "id": "", "function": {"name": "", "arguments": "}"}}
    out = relayed(
        "openai",
        "openai",
        [fragment(tool_calls=[second]), fragment(tool_calls=[first, more]), fragment(tool_calls=[rest])],
    )
    events = sent(out)
    assert len(events) == 2 and events[1] == "[DONE]"
    assert events[0]["choices"][0]["delta"]["tool_calls"] == [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"index": 1, "id": "b", "type": "custom", "custom": {"name": "g", "input": "xy"}},
    ]


def test_numbers_of_a_reduced_chunk_keep_their_literals() -> None:
    call = '{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}'
    choice = '{"index":0,"delta":{"content":"t","tool_calls":[' + call + "]}}"
    data = '{"id":12345678901234567890,"x":1.50,"choices":[' + choice + "]}"
    out = relayed("openai", "openai", [f"data: {data}\n\n".encode()])
    assert b'"id":12345678901234567890,"x":1.50' in out


def test_interleaved_calls_reach_an_anthropic_client_block_by_block() -> None:
    calls = [
        [{"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x"'}}],
        [{"index": 1, "id": "b", "function": {"name": "g", "arguments": '{"y"'}}],
        [{"index": 0, "function": {"arguments": ":1}"}}],
        [{"index": 1, "function": {"arguments": ":2}"}}],
    ]
    out = relayed("anthropic", "openai", [fragment(tool_calls=call) for call in calls])
    got = accumulated(out.decode())
    assert [(c["name"], c["arguments"]) for c in got["tool_calls"]] == [("f", {"x": 1}), ("g", {"y": 2})]
    kinds = [event["type"] for event in sent(out)]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 2
    assert kinds.count("message_start") == kinds.count("message_delta") == kinds.count("message_stop") == 1


def chunk_of(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "c1", "model": "m", "choices": [choice]}).encode() + b"\n\n"


ARGUMENTS = st.dictionaries(st.sampled_from("abc"), st.integers() | st.text("{}[]:, x", max_size=6), max_size=3)


@st.composite
def interleavings(draw: st.DrawFn) -> tuple[list[bytes], list[Any], str]:
    """Chunks whose calls' fragments and texts come in any order, the calls' arguments, and the text."""
    wanted = draw(st.lists(ARGUMENTS, min_size=1, max_size=3))
    queues: list[list[dict[str, Any]]] = []
    for index, value in enumerate(wanted):
        literal = json.dumps(value)
        cuts = sorted(draw(st.lists(st.integers(0, len(literal)), max_size=3)))
        pieces = [literal[a:b] for a, b in itertools.pairwise([0, *cuts, len(literal)])]
        first = draw(st.sampled_from([pieces[0], ""]))
        rest = pieces[1:] if first == pieces[0] else pieces
        head = {"index": index, "id": f"id{index}", "function": {"name": f"f{index}", "arguments": first}}
        queues.append([head, *({"index": index, "function": {"arguments": piece}} for piece in rest)])
    chunks, text = [chunk_of({"role": "assistant"})], ""
    while queues:
        if draw(st.booleans()):
            text += "t"
            chunks.append(chunk_of({"content": "t"}))
        queue = draw(st.sampled_from(queues))
        chunks.append(chunk_of({"tool_calls": [queue.pop(0)]}))
        if not queue:
            queues.remove(queue)
    return [*chunks, chunk_of({}, "tool_calls"), b"data: [DONE]\n\n"], wanted, text


@given(st.sampled_from(["anthropic", "openai_responses", "google", "openai"]), interleavings())
@settings(max_examples=400, deadline=None)
def test_however_calls_and_texts_are_interleaved_nothing_of_them_is_lost(
    client: str, stream: tuple[list[bytes], list[Any], str]
) -> None:
    chunks, wanted, text = stream
    got = accumulated(relayed(client, "mistral", chunks).decode())
    calls = {call["name"]: call["arguments"] or {} for call in got["tool_calls"]}
    assert calls == {f"f{index}": value for index, value in enumerate(wanted)}
    assert got["text"] == text and len(got["tool_calls"]) == len(wanted)


NO_ARGUMENTS = [
    {"type": "message_start", "message": {"id": "c1", "model": "m"}},
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    },
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
    {"type": "message_stop"},
]


@pytest.mark.parametrize("client", ["openai", "openai_responses", "google"])
def test_a_call_without_arguments_has_an_empty_object_as_in_a_buffered_answer(client: str) -> None:
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in NO_ARGUMENTS)
    got = accumulated(relayed(client, "anthropic", [data]).decode())
    assert [(call["name"], call["arguments"]) for call in got["tool_calls"]] == [("f", {})]


def test_anthropic_counts_of_start_and_end_are_merged() -> None:
    data = samples.sse(
        {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 9, "cache_read_input_tokens": 4}}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    )
    for client in ("anthropic", "openai"):
        relay = StreamRelay(client, "anthropic")
        relay.feed(data)
        usage = relay.observed.usage
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens, usage.total_tokens, usage.cached) == (9, 5, 14, 4)


@given(
    st.sampled_from(PAIRS),
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(
                [
                    b"data: ",
                    b"\n",
                    b"\n\n",
                    b"{}",
                    b"[]",
                    b"null",
                    b'{"choices":[{}]}',
                    b'{"choices":[{"delta":{"tool_calls":[{}]}}]}',
                    b'{"choices":[{"delta":{"tool_calls":[7]}}]}',
                    b'{"candidates":[{}]}',
                    b'{"type":"content_block_delta"}',
                    b'{"type":"content_block_start","content_block":{}}',
                    b'{"type":"message-end"}',
                    b"[DONE]",
                    b"\xff",
                    b"[" * 2000,
                    b'{"type":"response.completed"}',
                    b'{"generation":"x"}',
                    b'{"error":5}',
                    b'{"usage":{"prompt_tokens":1e400}}',
                ]
            ),
        ),
        max_size=12,
    ),
)
@settings(max_examples=400, deadline=None)
def test_no_upstream_bytes_make_the_relay_raise(pair: tuple[str, str], pieces: list[bytes]) -> None:
    relay = StreamRelay(*pair)
    for piece in pieces:
        relay.feed(piece)
    relay.end()
    assert isinstance(relay.text, str)


def test_gemini_signatures_reach_an_openai_client_and_return() -> None:
    out = relayed("openai", "google", [samples.STREAMS["google"](True)])
    deltas = [choice["delta"] for event in sent(out)[:-1] for choice in event["choices"]]
    calls = next(delta["tool_calls"] for delta in deltas if "tool_calls" in delta)
    assert calls[0]["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    body = {"model": "m", "messages": [{"role": "assistant", "content": "", "tool_calls": calls}]}
    there = json.loads(translate.translate_request("openai", "google", samples.dump(body).encode()).body)
    assert there["contents"][0]["parts"][0]["thoughtSignature"] == "c2ln"
    assert relayed("openai", "openai", [fragment(tool_calls=calls)]).count(b"c2ln") == 2


def test_calls_reach_a_responses_client_as_they_are_made() -> None:
    relay = StreamRelay("openai_responses", "openai")
    relay.feed(fragment(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x"'}}]))
    out = sent(relay.feed(fragment(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}])))
    assert [(e["type"], e["delta"]) for e in out] == [("response.function_call_arguments.delta", ":1}")]
