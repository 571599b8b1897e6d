"""Streams that are held back until they have been judged: what leaves, when, and in which words (spec 04 §14.15)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trustgate.formats.canonical import StreamEvent, ToolDelta, Usage
from trustgate.formats.codecs import CODECS
from trustgate.policies.holdback import MAX_HELD_BYTES, HoldBack, Judge, Said
from trustgate.policies.model import Outcome
from trustgate.policies.reassembly import Reassembled, reassemble

DIALECTS = ("openai", "anthropic", "openai_responses", "google", "cohere")
WINDOW, HOLD_BACK, SECRET = 20, 8, "SECRET"
BLOCKED = Outcome(kind="reject", status=403, message="no", type="blocked")


def encoded(dialect: str, events: list[StreamEvent]) -> bytes:
    encoder = CODECS[dialect].stream_encoder()
    first = encoder.encode(StreamEvent(id="r1", model="m", role="assistant"))
    last = [StreamEvent(finish_reason="stop"), StreamEvent(usage=Usage(3, 4, 7)), StreamEvent(done=True)]
    return first + b"".join(encoder.encode(event) for event in events + last) + encoder.end()


def said_in(dialect: str, stream: bytes) -> Reassembled:
    return reassemble(dialect, stream)


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """The data in chunks of these sizes, over and over."""
    at, number = 0, 0
    while at < len(data):
        size = sizes[number % len(sizes)]
        yield data[at : at + size]
        at, number = at + size, number + 1


def flow(gate: HoldBack, chunks: Iterator[bytes]) -> list[bytes]:
    """What left after each chunk, and at the end."""

    async def pump() -> list[bytes]:
        return [await gate.feed(chunk) for chunk in chunks] + [await gate.end()]

    return trio.run(pump)


def gate_of(dialect: str, judge: Judge, window: int = WINDOW, hold_back: int = HOLD_BACK) -> HoldBack:
    return HoldBack(dialect, judge, window, hold_back)


async def passing(said: list[Said]) -> Outcome | None:
    return None


async def blocking(said: list[Said]) -> Outcome | None:
    return BLOCKED if any(SECRET in answer.text + answer.reasoning for answer in said) else None


async def masking(said: list[Said]) -> Outcome | None:
    for answer in said:
        if SECRET in answer.text:
            answer.replace(answer.text.replace(SECRET, "[X]"))
    return None


PIECES = st.lists(
    st.one_of(
        st.sampled_from(["a", "bc", "S", "SEC", "RET", "\n\n", "data: x", "é😀", "long words of an answer "]),
        st.text(max_size=8),
    ),
    max_size=30,
)
CHUNKS = st.lists(st.integers(1, 200), min_size=1, max_size=5)
STREAMS = st.tuples(st.sampled_from(DIALECTS), PIECES, PIECES, CHUNKS)


def answer_events(pieces: list[str], thoughts: list[str] = []) -> list[StreamEvent]:  # noqa: B006
    return [StreamEvent(reasoning=piece) for piece in thoughts if piece] + [
        StreamEvent(text=piece) for piece in pieces if piece
    ]


@given(STREAMS)
@settings(max_examples=300, deadline=None)
def test_what_passes_leaves_byte_for_byte_however_it_was_cut(
    stream: tuple[str, list[str], list[str], list[int]],
) -> None:
    dialect, pieces, thoughts, sizes = stream
    data = encoded(dialect, answer_events(pieces, thoughts))
    assert b"".join(flow(gate_of(dialect, passing), cut(data, sizes))) == data


@given(STREAMS, st.data())
@settings(max_examples=300, deadline=None)
def test_no_part_of_a_blocked_phrase_leaves_however_it_was_cut(
    stream: tuple[str, list[str], list[str], list[int]], data: Any
) -> None:
    dialect, pieces, thoughts, sizes = stream
    split = data.draw(st.lists(st.integers(1, 5), max_size=3))
    parts = [part for part in cut_text(SECRET, split) if part]
    at = data.draw(st.integers(0, len(pieces)))
    pieces = pieces[:at] + parts + pieces[at:]
    said = "".join(pieces)
    gate = gate_of(dialect, blocking)
    out = b"".join(flow(gate, cut(encoded(dialect, answer_events(pieces, thoughts)), sizes)))
    assert gate.outcome is BLOCKED
    left = said_in(dialect, out).text
    assert said.startswith(left)
    assert len(left) <= said.index(SECRET)


def cut_text(text: str, at: list[int]) -> list[str]:
    marks = sorted({0, *at, len(text)})
    return [text[start:end] for start, end in pairwise(marks)]


@given(
    STREAMS, st.lists(st.tuples(st.integers(0, 30), st.lists(st.integers(1, 5), max_size=3)), min_size=1, max_size=3)
)
@settings(max_examples=300, deadline=None)
def test_masked_phrases_are_replaced_wherever_events_and_windows_cut_them(
    stream: tuple[str, list[str], list[str], list[int]], secrets: list[tuple[int, list[int]]]
) -> None:
    dialect, pieces, thoughts, sizes = stream
    assume(SECRET not in "".join(thoughts))  # what is thought is judged, but only what is said is masked
    for at, split in secrets:
        pieces = pieces[:at] + cut_text(SECRET, split) + pieces[at:]
    said = "".join(pieces)
    data = encoded(dialect, answer_events(pieces, thoughts))
    out = b"".join(flow(gate_of(dialect, masking), cut(data, sizes)))
    assert said_in(dialect, out).text == said.replace(SECRET, "[X]")
    assert SECRET.encode() not in out or SECRET in "".join(thoughts), "nor where texts are told once more"
    assert said_in(dialect, out).finish_reason == said_in(dialect, data).finish_reason
    assert out.count(b"\n\n") == data.count(b"\n\n")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_text_flows_while_the_rest_is_held(dialect: str) -> None:
    data = encoded(dialect, answer_events([f"word {number} " for number in range(50)]))
    events = [event + b"\n\n" for event in data.split(b"\n\n")[:-1]]
    seen: list[int] = []

    async def judge(said: list[Said]) -> Outcome | None:
        seen.append(sum(len(answer.text) for answer in said))
        return None

    gate = gate_of(dialect, judge)
    left, behind = b"", 0
    for event, out in zip(events, flow(gate, iter(events)), strict=False):
        left += out
        behind = max(
            behind,
            len(said_in(dialect, data[: data.index(event) + len(event)]).text) - len(said_in(dialect, left).text),
        )
    assert behind <= WINDOW + 16  # and two events, which are never cut
    assert 1 < len(seen) <= 50
    assert max(seen) <= WINDOW + 16


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_tool_call_is_judged_when_all_of_it_is_there(dialect: str) -> None:
    arguments = '{"query":"' + "x" * 60 + '"}'
    calls = [ToolDelta(0, "c1", "search")] + [ToolDelta(0, arguments=arguments[at : at + 7]) for at in range(0, 72, 7)]
    data = encoded(dialect, [StreamEvent(text="so")] + [StreamEvent(tool_calls=[delta]) for delta in calls])
    seen: list[tuple[str, str]] = []

    async def judge(said: list[Said]) -> Outcome | None:
        seen.extend((call.name, call.arguments) for answer in said for call in answer.calls)
        return None

    assert b"".join(flow(gate_of(dialect, judge), cut(data, [50]))) == data
    assert set(seen) == {("search", arguments)}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_blocked_tool_call_does_not_leave(dialect: str) -> None:
    delta = ToolDelta(0, "c1", "delete", '{"all":true}')
    data = encoded(dialect, [StreamEvent(text="well"), StreamEvent(tool_calls=[delta])])

    async def judge(said: list[Said]) -> Outcome | None:
        return BLOCKED if any(call.name == "delete" for answer in said for call in answer.calls) else None

    out = b"".join(flow(gate_of(dialect, judge), cut(data, [33])))
    assert b"delete" not in out
    assert said_in(dialect, out).calls == []


def test_reasoning_is_held_back_like_text() -> None:
    data = encoded("anthropic", [StreamEvent(reasoning="I know the SEC"), StreamEvent(reasoning="RET of it all")])
    gate = gate_of("anthropic", blocking)
    assert b"SEC" not in b"".join(flow(gate, cut(data, [10])))
    assert gate.outcome is BLOCKED


def chunk(index: int, text: str) -> bytes:
    return b"data: " + msgspec.json.encode({"choices": [{"index": index, "delta": {"content": text}}]}) + b"\n\n"


def test_choices_of_one_stream_are_judged_apart() -> None:
    data = b"".join(chunk(number % 2, letter) for number, letter in enumerate("S-E-C-R-E-T-" * 3)) + b"data: [DONE]\n\n"
    gate = gate_of("openai", blocking)
    assert b'"S"' not in b"".join(flow(gate, cut(data, [64])))
    assert gate.outcome is BLOCKED
    seen: list[list[str]] = []

    async def judge(said: list[Said]) -> Outcome | None:
        seen.append([answer.text for answer in said])
        return None

    assert b"".join(flow(gate_of("openai", judge), cut(data, [64]))) == data
    assert seen[0] == ["SECRETSECRETSECRET", "-" * 18] or seen[0][1] == "-" * len(seen[0][1])


ODD = [
    b": comment\n\n",
    b"data: {not json}\n\n",
    b"data: [1,2]\n\n",
    b"\n\n\n\n",
    b"event: ping\ndata: {}\n\n",
    b'data: {"choices":[{"delta":null},null,{"delta":{"content":5}}]}\n\n',
    b'data: {"choices":[{"index":"x","delta":{"content":[{"type":"text","text":"t"},"u"]}}]}\n\n',
    b'data: {"type":"content_block_delta","delta":7}\n\n',
    b'data: {"type":"response.completed","response":{"output":[{"content":[7]}]}}\n\n',
    b'data: {"type":7}\n\n',
    b'data: {"candidates":[{"content":{"parts":[{"text":null},{"functionCall":3}]}}]}\n\n',
    b"id: 3\nretry: 5\n\n",
    b"data: no end",
]


@pytest.mark.parametrize("dialect", [*DIALECTS, "unknown"])
@given(st.lists(st.sampled_from([*ODD, chunk(0, "text of an answer")]), max_size=12), CHUNKS)
@settings(max_examples=60, deadline=None)
def test_odd_events_pass_as_they_came(dialect: str, events: list[bytes], sizes: list[int]) -> None:
    data = b"".join(events)
    assert b"".join(flow(gate_of(dialect, passing), cut(data, sizes))) == data


def test_an_event_of_several_data_lines_is_read_as_one() -> None:
    data = b'data: {"choices":[{"index":0,\ndata: "delta":{"content":"SECRET"}}]}\n\n'
    gate = gate_of("openai", blocking)
    assert b"".join(flow(gate, iter([data]))) == b""
    masked = b"".join(flow(gate_of("openai", masking), iter([data])))
    assert masked == b'data: {"choices":[{"index":0,"delta":{"content":"[X]"}}]}\n\n'


def test_members_that_nobody_knows_survive_masking() -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":"SECRET"},"logprobs":null}],"x":{"y":1.50}}\n\n'
    out = b"".join(flow(gate_of("openai", masking), iter([event])))
    assert out == event.replace(b"SECRET", b"[X]")


def test_whole_texts_of_the_responses_api_that_were_not_streamed_are_judged() -> None:
    event = {
        "type": "response.completed",
        "response": {"output": [{"type": "message", "content": [{"type": "output_text", "text": "the SECRET"}]}]},
    }
    data = b"event: response.completed\ndata: " + msgspec.json.encode(event) + b"\n\n"
    gate = gate_of("openai_responses", blocking)
    assert b"".join(flow(gate, iter([data]))) == b""
    assert gate.outcome is BLOCKED


@pytest.mark.parametrize("levels", [401, 1500, 100_000])
def test_an_event_that_is_too_deep_to_be_read_ends_the_stream(levels: int) -> None:
    arguments = b"[" * levels + b"]" * levels
    event = (
        b'data: {"candidates":[{"content":{"parts":[{"functionCall":{"name":"delete","args":%b}}]}}]}\n\n' % arguments
    )
    gate = gate_of("google", passing)
    assert b"".join(flow(gate, iter([event]))) == b""
    assert gate.outcome is not None and gate.outcome.message == "the answer is nested too deeply"


def test_what_is_held_is_bounded() -> None:
    """Events that say little and weigh much, and an event that does not end."""
    picture = b'data: {"candidates":[{"content":{"parts":[{"text":"a"},{"inlineData":{"data":"' + b"A" * 300_000
    picture += b'"}}]}}]}\n\n'
    asked = 0

    async def judge(said: list[Said]) -> Outcome | None:
        nonlocal asked
        asked += 1
        return None

    gate = gate_of("google", judge, 1000, 500)
    out = flow(gate, iter([picture] * 20))
    assert b"".join(out) == picture * 20
    held = 0
    for piece in out[:-1]:
        held += len(picture) - len(piece)
        assert held <= MAX_HELD_BYTES + len(picture)
    assert asked >= 4
    endless = b"data: x\n" * (MAX_HELD_BYTES // 8 + 1)
    out = flow(gate_of("openai", passing), iter([endless, b"data: y\n"]))
    assert out[0] == endless


async def test_whoever_leaves_while_a_window_is_judged_cancels_the_judge() -> None:
    cancelled = trio.Event()

    async def judge(said: list[Said]) -> Outcome | None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    with trio.CancelScope() as scope:
        scope.cancel()
        await gate_of("openai", judge).feed(chunk(0, "x" * 50))
    assert scope.cancelled_caught and cancelled.is_set()
