"""The event-stream codec, sans-IO."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustgate.wire.sse import Event, EventParser, LineReader, LineTooLong, encode, encode_all

# name -> (stream, events)
STREAMS: dict[str, tuple[str, list[Event]]] = {
    "one line": ("data: a\n\n", [Event("a")]),
    "no space": ("data:a\n\n", [Event("a")]),
    "only the first space goes": ("data:  a\n\n", [Event(" a")]),
    "lines are joined": ("data: a\ndata\ndata: b\n\n", [Event("a\n\nb")]),
    "CRLF": ("data: a\r\ndata: b\r\n\r\n", [Event("a\nb")]),
    "CR": ("data: a\rdata: b\r\r", [Event("a\nb")]),
    "mixed ends": ("data: a\r\ndata: b\rdata: c\n\r\n", [Event("a\nb\nc")]),
    "comments": (": ping\n\ndata: a\n: more\n\n", [Event("a")]),
    "name, id and retry": ("event: e\nid: 7\nretry: 30\ndata: a\n\n", [Event("a", "e", "7", 30)]),
    "only the id lasts": ("event: e\nid: 7\ndata: a\n\ndata: b\n\n", [Event("a", "e", "7"), Event("b", "", "7")]),
    "an id with NUL is ignored": ("id: 1\0\ndata: a\n\n", [Event("a")]),
    "a bad retry is ignored": ("retry: 1s\ndata: a\n\n", [Event("a")]),
    "no data, no event": ("event: e\n\ndata: a\n\n", [Event("a")]),
    "empty data is an event": ("data\n\n", [Event("")]),
    "unknown fields": ("foo: bar\ndata: a\nDATA: b\n\n", [Event("a")]),
    "byte order mark": ("\ufeffdata: a\n\n", [Event("a")]),
    "unfinished": ("data: a\n\ndata: b\n", [Event("a")]),
    "unicode": ("data: žluť 🐎\n\n", [Event("žluť 🐎")]),
}


@pytest.mark.parametrize("case", STREAMS)
@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_streams_are_parsed_in_any_chunking(case: str, step: int) -> None:
    text, expected = STREAMS[case]
    data = text.encode()
    parser = EventParser()
    events: list[Event] = []
    for at in range(0, len(data), step):
        events += parser.feed(data[at : at + step])
    assert events == expected


TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\0"), max_size=40)
NAME = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n\0"), max_size=10)
EVENT = st.builds(Event, TEXT, NAME, NAME.filter(bool), st.none() | st.integers(0, 10**9))


@given(st.lists(EVENT, max_size=5), st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_what_is_encoded_is_parsed_back_in_any_chunking(events: list[Event], steps: list[int]) -> None:
    data = encode_all(events)
    parser = EventParser()
    parsed: list[Event] = []
    index = 0
    while data:
        step = steps[index % len(steps)]
        parsed += parser.feed(data[:step])
        data = data[step:]
        index += 1
    assert parsed == events


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_are_parsed_the_same_in_any_chunking(data: bytes, step: int) -> None:
    whole, pieces = EventParser(), EventParser()
    events: list[Event] = []
    for at in range(0, len(data), step):
        events += pieces.feed(data[at : at + step])
    assert events == whole.feed(data)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_lines_are_the_same_in_any_chunking(data: bytes, step: int) -> None:
    reader = LineReader()
    lines: list[bytes] = []
    for at in range(0, len(data), step):
        lines += reader.feed(data[at : at + step])
    last = reader.end()
    expected = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    if data.endswith(b"\n") or not data:
        expected.pop()
    assert lines + ([last] if last is not None else []) == expected


def test_a_lone_cr_is_part_of_a_line_for_the_relay() -> None:
    assert LineReader().feed(b"a\rb\r\nc\n") == [b"a\rb", b"c"]


@pytest.mark.parametrize("step", [1, 7, 100])
def test_lines_up_to_the_limit_pass_and_longer_ones_do_not(step: int) -> None:
    def read(data: bytes) -> list[bytes]:
        reader = LineReader(max_line_bytes=50)
        return [line for at in range(0, len(data), step) for line in reader.feed(data[at : at + step])]

    assert read(b"x" * 50 + b"\r\n") == [b"x" * 50]
    with pytest.raises(LineTooLong):
        read(b"x" * 51 + b"\n")


def test_an_endless_line_is_refused_before_its_end() -> None:
    reader = LineReader(max_line_bytes=1000)
    with pytest.raises(LineTooLong):
        for _ in range(100):
            reader.feed(b"x" * 100)


def test_an_endless_event_is_refused() -> None:
    parser = EventParser(max_event_bytes=1000)
    with pytest.raises(LineTooLong):
        for _ in range(100):
            parser.feed(b"data: " + b"x" * 100 + b"\n")


def test_the_unfinished_last_line_counts_for_the_relay() -> None:
    reader = LineReader()
    assert reader.feed(b"a\nb\r") == [b"a"]
    assert reader.end() == b"b"
    assert reader.end() is None


def test_events_are_written_with_every_data_line_prefixed() -> None:
    assert encode(Event("a\nb\r\nc", "e", "1", 5)) == b"event: e\nid: 1\nretry: 5\ndata: a\ndata: b\ndata: c\n\n"


@pytest.mark.parametrize("event", [Event("a", event="x\ny"), Event("a", id="1\r2"), Event("a", id="1\0")])
def test_names_and_ids_cannot_break_out_of_their_line(event: Event) -> None:
    with pytest.raises(ValueError):
        encode(event)
