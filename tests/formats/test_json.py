"""Members of a JSON body: read, and changed without touching the rest."""

from __future__ import annotations

import pytest

from trustgate.formats import json as fjson
from trustgate.formats.errors import DecodeError, NotAnObject


def test_members_are_edited_without_touching_literals_order_or_escapes() -> None:
    body = b'{ "big" : 12345678901234567890, "f": 1.10, "s":"\\u00e9 a b", "m": {"x": [1.0, 2e3]} }'
    assert fjson.set_members(body, {"f": 2, "new": fjson.Raw(b"1.50")}) == (
        b'{"big":12345678901234567890,"f":2,"s":"\\u00e9 a b","m":{"x":[1.0,2e3]},"new":1.50}'
    )
    assert fjson.remove_members(body, ["zz"]) is body
    assert fjson.remove_members(body, ["m", "s"]) == b'{"big":12345678901234567890,"f":1.10}'
    assert bytes(fjson.read_member(body, "f") or b"") == b"1.10" and fjson.read_member(body, "none") is None


HALVES = [
    (b'{"a":"x\\ud83d y"}', "x\ufffd y"),
    (b'{"a":"\\uDE00"}', "\ufffd"),
    (b'{"a":"\\ud83d\\ud83d\\ude00\\ude00"}', "\ufffd\U0001f600\ufffd"),
    (b'{"a":"\\\\\\ud83d"}', "\\\ufffd"),
    (b'{"a":"\\\\ud83d"}', "\\ud83d"),
]


@pytest.mark.parametrize(("body", "wanted"), HALVES)
def test_half_a_surrogate_pair_is_read_as_the_replacement_character(body: bytes, wanted: str) -> None:
    assert fjson.tree(body) == {"a": wanted}
    assert fjson.tree(fjson.set_members(body, {"b": 1})) == {"a": wanted, "b": 1}
    assert fjson.tree(fjson.compact(body)) == {"a": wanted}


def test_no_number_of_escapes_hides_a_text() -> None:
    for escapes in (b"\\ud800" * 100_000, b"\\\\" * 100_000 + b"\\ud800", b"\\ud83d\\ude00" * 100_000 + b"\\ude00"):
        assert set(fjson.members(b'{"a":"' + escapes + b'","b":1}')) == {"a", "b"}


BYTES = [
    (b'{"a":"x\xff"}', "x\ufffd"),
    (b'{"a":"\xc3"}', "\ufffd"),
    (b'{"a":"\xe9\\ud83d"}', "\ufffd\ufffd"),
    ('{"a":"é"}'.encode("latin-1"), "\ufffd"),
]


@pytest.mark.parametrize(("body", "wanted"), BYTES)
def test_bytes_that_are_no_utf8_are_read_as_the_replacement_character(body: bytes, wanted: str) -> None:
    assert fjson.tree(body) == {"a": wanted}


def test_the_last_of_equal_keys_counts() -> None:
    assert fjson.set_members(b'{"a":1,"a":2}', {"b": 3}) == b'{"a":2,"b":3}'


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"x"'])
def test_what_is_no_object_has_no_members(body: bytes) -> None:
    with pytest.raises(NotAnObject):
        fjson.set_members(body, {"a": 1})


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":' + b"[" * 100000, b'{"a":"\xff"} x', b'{"a":01}', b"{'a':1}"])
def test_malformed_json_is_a_decode_error(body: bytes) -> None:
    for call in (fjson.members, fjson.tree, fjson.compact):
        with pytest.raises(DecodeError):
            call(body)


def test_integers_of_any_length_are_read_and_their_digits_kept() -> None:
    huge = "1" * 5000
    body = f'{{"a":{huge},"b":[-{huge},{huge}.5,1e{"0" * 5000}],"c":"{huge} \\" {huge}","d":[{"1" * 4300}]}}'.encode()
    read = fjson.tree(body)
    assert read["c"] == f'{huge} " {huge}' and read["d"] == [int("1" * 4300)]
    written = fjson.encode(read).decode()
    assert written == body.decode().replace(f":{huge},", f":{huge}e0,").replace(f"[-{huge},", f"[-{huge}e0,")
    assert fjson.members(body).keys() == {"a", "b", "c", "d"}


def test_bytes_that_are_no_json_cost_time_in_proportion_to_their_size() -> None:
    for body in (
        b'{"a":' + b'"\\' * 2_000_000 + b"1" * 5000,
        b'{"a":"' + b"1" * 4_000_000,
        b'{"x":' + b"1" * 4300 + b"x" + b"1" * 4_000_000,
        b"[" + b"-" * 4_000_000 + b"1" * 5000,
    ):
        with pytest.raises(DecodeError):
            fjson.tree(body)
