"""Spec 06 §10: what leaves of headers and bodies."""

from __future__ import annotations

import json

import pytest

from trustgate.telemetry.sanitize import CAP_BYTES, body_text, header_map


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("authorization", "Bearer abc", "Bearer [REDACTED]"),
        ("authorization", "basic abc", "Basic [REDACTED]"),
        ("authorization", "Digest abc", "[REDACTED]"),
        ("x-ag-api-key", "ag_1", "[REDACTED]"),
        ("x-acme-api-key", "1", "[REDACTED]"),
        ("cookie", "a=b", "[REDACTED]"),
        ("x-ag-gateway-slug", "acme", "acme"),
    ],
)
def test_headers(name: str, value: str, shown: str) -> None:
    (found,) = header_map([(name.encode(), value.encode())]).values()
    assert found == [shown]


def test_header_names_are_canonical_and_values_listed() -> None:
    assert header_map([(b"x-ag-a", b"1"), (b"X-AG-A", b"2")]) == {"X-Ag-A": ["1", "2"]}


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ('{"a":1,  "b":[ ]}', '{"a":1,  "b":[ ]}'),
        ('{"b":1,"token":"x"}', '{"b":1,"token":"[REDACTED]"}'),
        ('{"My_API_KEY":["x",{"y":"z"},5]}', '{"My_API_KEY":["[REDACTED]",{"y":"z"},5]}'),
        (
            '{"secret":{"inner":"kept","password":"x"},"max":1}',
            '{"max":1,"secret":{"inner":"kept","password":"[REDACTED]"}}',
        ),
        ('{"token":5}', '{"token":5}'),
        ('{"max_tokens":5}', '{"max_tokens":5}'),
        ("not json", "not json"),
    ],
)
def test_json_bodies(body: str, shown: str) -> None:
    assert body_text(body.encode(), "application/json; charset=utf-8") == shown


@pytest.mark.parametrize("content_type", ["", "application/problem+json", "application/", "; charset=utf-8", "a b/c"])
def test_json_without_a_content_type_that_can_be_read_is_json(content_type: str) -> None:
    assert body_text(b'{"token":"x"}', content_type) == '{"token":"[REDACTED]"}'


def test_other_content_types_are_verbatim_and_bounded() -> None:
    assert body_text(b'data: {"token":"x"}\n', "text/event-stream") == 'data: {"token":"x"}\n'
    assert body_text(b"x" * (CAP_BYTES + 5), "text/plain").endswith("x...[truncated]")


FORM = b"""--xyz\r
Content-Disposition: form-data; name="note"\r
\r
my secret\r
--xyz\r
Content-Disposition: form-data; name="upload"; filename="a.pdf"\r
Content-Type: application/pdf\r
\r
%PDF\r
--xyz--\r
"""


@pytest.mark.parametrize(
    ("body", "content_type", "shown"),
    [
        (
            FORM,
            "multipart/form-data; boundary=xyz",
            '{"note":"[REDACTED]","upload":{"_type":"file","filename":"a.pdf"}}',
        ),
        (b"nothing", "multipart/form-data; boundary=xyz", '{"_multipart":true}'),
        (b"nothing", "multipart/form-data", '{"_multipart":true}'),
    ],
)
def test_forms_tell_their_fields_and_files_only(body: bytes, content_type: str, shown: str) -> None:
    assert body_text(body, content_type) == shown


@pytest.mark.parametrize(
    "document",
    [
        {"messages": [{"role": "user", "content": "x" * 50_000} for _ in range(60)]},
        {"messages": [{"role": "user", "content": "y" * 3_000_000}]},
        {"tools": ["z" * 1_200_000], "model": "m"},
        [{"a": "x" * 10_000} for _ in range(300)],
    ],
)
def test_oversized_json_shrinks_and_stays_json(document: object) -> None:
    text = body_text(json.dumps(document).encode(), "")
    assert len(text.encode()) <= CAP_BYTES
    shrunk = json.loads(text)
    if isinstance(document, dict):
        assert shrunk["_nt_truncated"] is True


@pytest.mark.parametrize("member", ["messages", "contents"])
def test_of_many_turns_the_first_and_as_many_of_the_newest_as_fit_are_kept(member: str) -> None:
    turns = [{"n": n, "content": "x" * 10_000} for n in range(300)]
    kept = json.loads(body_text(json.dumps({"model": "m", member: turns}).encode(), ""))[member]
    assert (kept[0], kept[1:]) == (turns[0], turns[-len(kept) + 1 :])
    assert len(kept) == CAP_BYTES // len(json.dumps(turns[-1], separators=(",", ":")) + ","), "the cap is used"


def test_of_an_oversized_array_only_what_is_too_much_goes() -> None:
    rows = [{"a": "x" * 10_000} for _ in range(300)]
    text = body_text(json.dumps(rows).encode(), "")
    assert json.loads(text) == rows[: len(json.loads(text))]
    assert CAP_BYTES - 10_100 < len(text) <= CAP_BYTES


@pytest.mark.parametrize("levels", [300, 600, 900, 1500])
def test_a_body_of_any_depth_can_be_recorded(levels: int) -> None:
    body = b'{"x":' + b"[" * levels + b"]" * levels + b"}"
    assert body_text(body, "application/json") == body.decode()
