"""Queries and forms as they come over the wire."""

from __future__ import annotations

import pytest

from trustgate.oauth.http import BadForm, Request


def request(query: bytes = b"", body: bytes = b"") -> Request:
    return Request(method="GET", path="/", query_string=query, headers={}, body=body, peer_ip="", base_url="http://h")


@pytest.mark.parametrize(
    ("sent", "fields"),
    [
        (b"", {}),
        (b"state=a+b%20c&x", {"state": "a b c", "x": ""}),
        (b"state=first&state=second", {"state": "first"}),
        (b"state=%C3%BC", {"state": "\u00fc"}),
        ("state=\u00fc\u20ac".encode(), {"state": "\u00fc\u20ac"}),  # unescaped, as some clients send it
        (b"state=%FF", {"state": "\ufffd"}),
        (b"state=%zz&a=%", {"state": "%zz", "a": "%"}),
    ],
)
def test_fields_of_a_query(sent: bytes, fields: dict[str, str]) -> None:
    assert request(sent).query == fields


@pytest.mark.parametrize(
    ("sent", "fields"),
    [
        (b"", {}),
        (b"a=1&a=2&b=", {"a": "1", "b": ""}),
        ("a=\u00fc".encode(), {"a": "\u00fc"}),
        (b"a=%C3%BC+x", {"a": "\u00fc x"}),
        (b"a=%zz", None),
        (b"a=%F", None),
        (b"a=%FF", None),
        (b"a=\xff", None),
        (b"&".join([b"a=1"] * 65), None),
    ],
)
def test_fields_of_a_form(sent: bytes, fields: dict[str, str] | None) -> None:
    if fields is None:
        with pytest.raises(BadForm):
            request(body=sent).form()
    else:
        assert request(body=sent).form() == fields
